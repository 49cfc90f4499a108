# Copyright 2026 The steer_depth_ros contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Training through the operator: seeded, resumable to the bit, on one process or many.

A run is a folder: config.yaml, log.jsonl (a line a report), checkpoint.pt (model, average,
optimiser, step), weights.safetensors (the averaged weights) and TensorBoard events. Which frames
a step sees depends on (seed, step) alone, so a run that was killed goes on as if it had not been.
"""
from dataclasses import asdict, dataclass, field, fields
import json
import math
import os
from pathlib import Path
import time

import numpy as np
import torch
from torch import nn
import torch.distributed as dist
import yaml

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.network.checkpoints import save_safetensors
from steer_depth_ros.network.steering_net import net_inputs, SteeringNet
from steer_depth_ros.visibility import visible

ARCHITECTURE = 'steering_net'


@dataclass
class TrainingConfig:
    """What a run is made of; a YAML file with these keys."""

    name: str = 'run'
    seed: int = 1
    steps: int = 4000
    batch: int = 4  # frames a step, over all processes
    learning_rate: float = 2e-3
    warmup: int = 100  # steps
    weight_decay: float = 1e-4
    clip: float = 1.0  # gradient norm
    average: float = 0.998  # decay of the averaged weights
    amp: bool = False  # bfloat16 convolutions; the operator stays in float32
    report: int = 50  # steps
    checkpoint: int = 100  # steps; what kill -9 loses at most
    workers: int = 0
    model: dict = field(default_factory=dict)  # arguments of SteeringNet
    data: list = field(default_factory=lambda: [{'dataset': 'rendered', 'frames': 1500}])

    @classmethod
    def read(cls, path):
        """Read a YAML file; ConfigError names a key that is unknown or of the wrong type."""
        try:
            given = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f'{path} cannot be read as YAML: {error}') from None
        known = {f.name: f for f in fields(cls)}
        for key in given:
            if key not in known:
                raise ConfigError(f'{path}: unknown key {key!r}; known are {", ".join(known)}')
        config = cls(**given)
        for name in ('steps', 'batch', 'report', 'checkpoint'):
            if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
                raise ConfigError(f'{path}: {name} must be a whole number of at least 1')
        return config


def example(item, flip, device='cpu'):
    """
    Make (inputs, truth) of one data set item; truth (H, W) is log(median / depth) or NaN.

    Samples that the completer would drop as hidden are dropped here too.
    """
    image, depth = np.asarray(item['image']), np.asarray(item['depth'])
    uv, sparse = np.asarray(item['uv']), np.asarray(item['sparse'])
    measured = np.isfinite(sparse) & (sparse > 0)
    uv, sparse = uv[measured], sparse[measured]
    keep = visible(uv, sparse, image.shape[:2])
    uv, sparse = uv[keep], sparse[keep]
    if flip:
        image, depth = image[:, ::-1], depth[:, ::-1]
        uv = np.stack([image.shape[1] - 1 - uv[:, 0], uv[:, 1]], 1)
    inputs = net_inputs(np.ascontiguousarray(image), uv, sparse)
    truth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
    target = torch.from_numpy(np.log(inputs.median / truth).astype(np.float32))[None]
    return inputs.to(device), target.to(device)


def frame_loss(estimate, expected, kernel, inputs, truth):
    """
    Return the loss of one frame and the errors that it is made of.

    Errors are relative to those of the rough first estimate, so that easy and hard frames, near
    and far ones, count alike. The expected error is that of a Laplace distribution.
    """
    seen = truth.isfinite()
    target = truth[seen]
    distance = (-target).exp()  # in medians

    def errors(log_inverse):
        found = log_inverse[seen]
        off = (found - target).abs()
        metric = (-found).exp() - distance
        return off.mean(), metric.abs().mean(), (metric.pow(2).mean() + 1e-12).sqrt(), off

    with torch.no_grad():
        first = errors(inputs.guide[:, 3] * 0.15)
    final, before = errors(estimate), errors(kernel)
    relative = [f / (r + 1e-4) for f, r in zip(final[:3], first[:3])]
    relative_before = [f / (r + 1e-4) for f, r in zip(before[:3], first[:3])]
    log_scale = expected[seen].clamp(-9, 2)
    likelihood = (log_scale + final[3].detach() * (-log_scale).exp()).mean()
    loss = (sum(relative) + 0.5 * sum(relative_before)) / 4.5 + 0.05 * likelihood
    return loss, {'log': relative[0].item(), 'mae': relative[1].item(), 'rmse': relative[2].item(),
                  'kernel_mae': relative_before[1].item(), 'likelihood': likelihood.item()}


class BatchLoss(nn.Module):
    """The model with its loss, so that DistributedDataParallel sees one forward call."""

    def __init__(self, model, amp=False):
        super().__init__()
        self.model, self.amp = model, amp

    def forward(self, frames):
        maps = torch.cat([inputs.maps for inputs, _ in frames])
        with torch.autocast(maps.device.type, torch.bfloat16, enabled=self.amp):
            features = self.model.trunk(maps)
        losses, rows = [], []
        for i, (inputs, truth) in enumerate(frames):
            result = self.model(inputs, features[i:i + 1].float())
            loss, row = frame_loss(*result, inputs, truth)
            losses.append(loss)
            rows.append(row)
        return torch.stack(losses).mean(), rows


class Average:
    """Exponential moving average of the weights, corrected for its start."""

    def __init__(self, model, decay):
        self.decay, self.steps = decay, 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def update(self, model):
        self.steps += 1
        keep = min(self.decay, self.steps / (self.steps + 10))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - keep)
            else:
                self.state[name].copy_(value)


def learning_rate(config, step):
    """Linear warm-up, then half a cosine down to 1 % of the rate."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1))) / 2)


def choose(config, step, length):
    """Return the data set indices and flips of one step; the same at every call."""
    rng = np.random.default_rng([config.seed, step])
    return rng.integers(length, size=config.batch), rng.random(config.batch) < 0.5


class Trainer:
    """One training run; `run()` works until `config.steps` or `until` seconds have passed."""

    def __init__(self, config, dataset, folder, device='cpu', pictures=None):
        self.config, self.dataset, self.folder = config, dataset, Path(folder)
        self.device = torch.device(device)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        if config.batch % self.world:
            raise ConfigError(f'batch {config.batch} must be a multiple of the {self.world} '
                              'processes')
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.model = SteeringNet(**config.model).to(self.device)
        self.average = Average(self.model, config.average)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate,
                                           weight_decay=config.weight_decay)
        self.step, self.rows, self.pictures = 0, [], pictures
        self.loss = BatchLoss(self.model, config.amp)
        if self.world > 1:
            self.loss = nn.parallel.DistributedDataParallel(self.loss)
        self._resume()

    @property
    def checkpoint(self):
        return self.folder / 'checkpoint.pt'

    def _resume(self):
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state['model_config'] != self.model.config:
            raise ConfigError(f'{self.checkpoint} was trained with model {state["model_config"]}, '
                              f'the configuration asks for {self.model.config}; choose another '
                              'folder')
        self.model.load_state_dict(state['model'])
        self.average.state, self.average.steps = state['average'], state['average_steps']
        self.optimiser.load_state_dict(state['optimiser'])
        self.step = state['step']

    def save(self):
        """Write the checkpoint and the averaged weights; readers never see half a file."""
        partial = self.checkpoint.with_suffix('.part')
        torch.save({'model': self.model.state_dict(), 'average': self.average.state,
                    'average_steps': self.average.steps, 'step': self.step,
                    'optimiser': self.optimiser.state_dict(),
                    'model_config': self.model.config}, partial)
        os.replace(partial, self.checkpoint)
        save_safetensors(self.folder / 'weights.safetensors', self.average.state, ARCHITECTURE,
                         {**self.model.config, 'training': asdict(self.config),
                          'step': self.step})

    def train_step(self):
        """One step of the optimiser; returns the loss and a row of errors a frame."""
        indices, flips = choose(self.config, self.step, len(self.dataset))
        mine = slice(self.rank, None, self.world)
        frames = [example(self.dataset[int(i)], bool(f), self.device)
                  for i, f in zip(indices[mine], flips[mine])]
        for group in self.optimiser.param_groups:
            group['lr'] = learning_rate(self.config, self.step)
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss, rows = self.loss(frames)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.average.update(self.model)
        self.step += 1
        return loss.item(), rows

    def run(self, seconds=None, progress=print):
        """Train; stop early (resumably) after `seconds`."""
        began, first = time.monotonic(), self.step
        self.rows = []
        while self.step < self.config.steps:
            loss, rows = self.train_step()
            self.rows += [{'loss': loss, **row} for row in rows]
            late = seconds is not None and time.monotonic() - began > seconds
            if self.rank == 0:
                if self.step % self.config.report == 0:
                    self._report(progress, (time.monotonic() - began) / (self.step - first))
                if self.step % self.config.checkpoint == 0 or late:
                    self.save()
            if late:
                return
        if self.rank == 0:
            self.save()

    def _report(self, progress, per_step):
        mean = {k: float(np.mean([r[k] for r in self.rows])) for k in self.rows[0]}
        self.rows = []
        mean.update(step=self.step, rate=learning_rate(self.config, self.step),
                    seconds_a_step=per_step)
        with open(self.folder / 'log.jsonl', 'a') as log:
            log.write(json.dumps(mean) + '\n')
        left = per_step * (self.config.steps - self.step) / 60
        progress(f"step {self.step}/{self.config.steps} loss {mean['loss']:.4f} "
                 f"mae {mean['mae']:.3f} rmse {mean['rmse']:.3f} of the rough estimate, "
                 f"{per_step:.2f} s a step, {left:.0f} min left")
