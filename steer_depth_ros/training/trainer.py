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
Training through the operator: seeded, resumable bit for bit, in one or several processes.

A run is a folder: config.yaml, log.jsonl (one line per report), checkpoint.pt (model, average,
optimizer, step), weights.safetensors (the averaged weights) and TensorBoard events. The frames of
a step depend only on (seed, step), so a killed and resumed run equals an uninterrupted one.

Several processes split every batch; DistributedDataParallel averages the gradients. Batch norm
statistics are computed over all processes on CUDA, and per process on the CPU.
"""
from dataclasses import asdict, dataclass, field, fields
from functools import partial
import math
import os
from pathlib import Path
import pickle
import time

import numpy as np
import torch
from torch import nn
import torch.distributed as dist
import yaml

from steer_depth_ros.errors import ConfigError, SteerDepthError, WeightsError
from steer_depth_ros.network.checkpoints import (
    load_into,
    load_safetensors,
    save_safetensors,
)
from steer_depth_ros.ops.constants import full_float32
from steer_depth_ros.training.data import load_steps, Prepared, StepExamples
from steer_depth_ros.training.log import PICTURES, TrainingLog
from steer_depth_ros.training.losses import make_objective


@dataclass
class TrainingConfig:
    """The configuration of a run, as a YAML file with these keys."""

    name: str = 'run'
    start: str = ''  # weights to begin with; '': those of the seed
    seed: int = 1
    steps: int = 4000
    batch: int = 4  # frames per step, over all processes
    learning_rate: float = 2e-3
    warmup: int = 100  # steps
    weight_decay: float = 1e-4
    clip: float = 1.0  # gradient norm
    average: float = 0.998  # decay of the averaged weights
    amp: bool = False  # bfloat16 convolutions; the operator stays in float32
    report: int = 50  # steps
    checkpoint: int = 100  # steps; what kill -9 loses at most
    workers: int = 0  # processes that prepare frames; 0: the training process itself
    new: int = 0  # frames of a step that no step had before, until none is left; 0: any
    cache: str = ''  # folder that keeps prepared examples; '': they are prepared each time
    model: dict = field(default_factory=dict)  # see losses.make_objective
    data: list = field(default_factory=lambda: [{'dataset': 'rendered', 'frames': 1500}])

    @classmethod
    def read(cls, path):
        """Read a YAML file; ConfigError names a key that is unknown or has a bad value."""
        try:
            given = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, 'strerror', None) or 'not a text file'
            raise ConfigError(f'cannot read {path} ({reason}); --config takes a YAML file like '
                              'those in config/train') from None
        except yaml.YAMLError as error:
            raise ConfigError(f'{path} is not valid YAML: '
                              f'{" ".join(str(error).split())}') from None
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise ConfigError(f'{path} must hold "key: value" lines')
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f'{path}: unknown key {key!r}; known keys are '
                                  f'{", ".join(known)}')
        return cls(**{key: _value(key, value, path) for key, value in given.items()})


WHOLE_NUMBERS = {'seed': 0, 'steps': 1, 'batch': 1, 'warmup': 0, 'report': 1, 'checkpoint': 1,
                 'workers': 0, 'new': 0}  # minimum
NUMBERS = {'learning_rate': 1.0, 'weight_decay': 1.0, 'clip': math.inf, 'average': 1.0}  # maximum
KINDS = {'name': (str, 'a text'), 'start': (str, 'a text'), 'cache': (str, 'a text'),
         'amp': (bool, 'true or false'), 'model': (dict, 'a mapping'), 'data': (list, 'a list')}


def _value(key, value, path):
    """Return a value of the configuration in its type; raise ConfigError if it is not valid."""
    if key in WHOLE_NUMBERS:
        minimum = WHOLE_NUMBERS[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(f'{path}: {key} must be a whole number of at least {minimum}, not '
                              f'{value!r}')
        return value
    if key in NUMBERS:
        try:
            number = float(value)  # YAML reads 2e-3 as a string
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= NUMBERS[key]:
            raise ConfigError(f'{path}: {key} must be a number from 0 to {NUMBERS[key]:g}, not '
                              f'{value!r}')
        return number
    kind, expected = KINDS[key]
    if not isinstance(value, kind):
        raise ConfigError(f'{path}: {key} must be {expected}, not {value!r}')
    if key == 'data' and not (value and all(isinstance(entry, dict) for entry in value)):
        raise ConfigError(f'{path}: data must list one mapping per data set, as in '
                          '"- {dataset: rendered, frames: 1500}"')
    return value


class WeightAverage:
    """Exponential moving average of the weights, with a shorter memory in the first steps."""

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
    """Return the rate of a step: linear warm-up, then half a cosine down to 1 % of the rate."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1))) / 2)


def choose(config, step, shares):
    """
    Return the data set indices and flips of a step, which depend only on (seed, step).

    shares: numbers of frames of the data sets. With config.new a step takes all frames from one
    of them: that many that were not used before, the others from those that were, so that frames
    can be made while the training runs.
    """
    rng = np.random.default_rng([config.seed, step])
    if not config.new:
        return rng.integers(sum(shares), size=config.batch), rng.random(config.batch) < 0.5
    order = np.random.default_rng(config.seed).choice(
        len(shares), config.steps, p=np.array(shares) / sum(shares))
    chosen = order[step]
    used = config.new * np.count_nonzero(order[:step] == chosen)
    new = np.arange(used, min(used + config.new, shares[chosen]))
    old = rng.integers(min(used, shares[chosen]) or len(new), size=config.batch - len(new))
    indices = sum(shares[:chosen]) + np.concatenate([new, old])
    return indices, rng.random(config.batch) < 0.5


# Keys that may differ when a run is resumed; all others affect what was trained so far. Another
# number of steps only moves the end of the schedule.
MAY_CHANGE = ('name', 'report', 'checkpoint', 'workers', 'cache', 'steps')


class Trainer:
    """
    One training run.

    config: TrainingConfig. dataset: items like those of RenderedFrames. folder: folder of the
    run; a run that it already holds is resumed. device: device of the model. say: function that
    shows a line to the user.
    Raise ConfigError if the folder holds another run, WeightsError if its checkpoint is damaged.
    """

    def __init__(self, config, dataset, folder, device='cpu', say=print):
        self.config, self.dataset, self.folder = config, dataset, Path(folder)
        self.device, self.say = torch.device(device), say
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        if config.batch % self.world:
            raise ConfigError(f'batch {config.batch} must be a multiple of the {self.world} '
                              'processes')
        self.step, self.rows, self.stopping = 0, [], False
        torch.manual_seed(config.seed)
        self.objective = make_objective(config.model, config.amp).to(self.device)
        self.loss = self._shared(self.objective)
        self.model = self.objective.model
        if config.start:
            load_into(self.model, load_safetensors(config.start)[0], config.start)
        self.average = WeightAverage(self.model, config.average)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate,
                                           weight_decay=config.weight_decay)
        self._open_folder()

    def _shared(self, objective):
        """Return the objective wrapped for several processes, or as it is for one."""
        if self.world == 1:
            return objective
        on_gpu = self.device.type == 'cuda'
        if on_gpu:  # SyncBatchNorm does not exist for the CPU
            objective.model = nn.SyncBatchNorm.convert_sync_batchnorm(objective.model)
        return nn.parallel.DistributedDataParallel(
            objective, device_ids=[self.device] if on_gpu else None)

    @property
    def checkpoint(self):
        return self.folder / 'checkpoint.pt'

    def _open_folder(self):
        """Start a run in the folder, or resume the one it holds."""
        path = self.folder / 'config.yaml'
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.checkpoint.exists():
                self._resume(path)
            elif self.rank == 0:
                path.write_text(yaml.safe_dump(asdict(self.config), sort_keys=False))
        except OSError as error:
            raise ConfigError(f'cannot write to {self.folder} ({error.strerror}); choose another '
                              'folder') from None

    def _resume(self, config_path):
        started = yaml.safe_load(config_path.read_text()) if config_path.exists() else {}
        for key, value in asdict(self.config).items():
            if key not in MAY_CHANGE and started.get(key, value) != value:
                raise ConfigError(f'{self.folder} holds a run with {key} {started[key]}, now '
                                  f'it is {value}; choose another folder')
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            same_model = state['model_config'] == self.objective.config
        except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError,
                ValueError, AttributeError, AssertionError):
            raise WeightsError(f'{self.checkpoint} is damaged; delete it to start over') from None
        if not same_model:
            raise ConfigError(f'{self.checkpoint} was trained with model {state["model_config"]}, '
                              f'the configuration asks for {self.objective.config}; choose '
                              'another folder')
        self.model.load_state_dict(state['model'])
        self.average.state, self.average.steps = state['average'], state['average_steps']
        self.optimizer.load_state_dict(state['optimiser'])
        self.step = state['step']

    def save(self):
        """Write the checkpoint and the averaged weights; each file is replaced atomically."""
        partial_file = self.checkpoint.with_suffix('.part')
        torch.save({'model': self.model.state_dict(), 'average': self.average.state,
                    'average_steps': self.average.steps, 'step': self.step,
                    'optimiser': self.optimizer.state_dict(),
                    'model_config': self.objective.config}, partial_file)
        os.replace(partial_file, self.checkpoint)
        save_safetensors(self.folder / 'weights.safetensors', self.average.state,
                         self.objective.architecture,
                         {**self.objective.config, 'training': asdict(self.config),
                          'step': self.step})

    def steps(self):
        """Return the examples of each remaining step: the part of the batch of this process."""
        shares = getattr(self.dataset, 'shares', [len(self.dataset)])
        chosen = partial(choose, self.config, shares=shares)
        part = slice(self.rank, None, self.world)
        make = Prepared(self.dataset, self.objective.example, self.config.cache)
        examples = StepExamples(self.dataset, chosen, part, make,
                                getattr(self.objective, 'collate', None))
        return load_steps(examples, range(self.step, self.config.steps), self.config.workers)

    def train_step(self, frames):
        """Take one step of the optimizer on `frames`; return the loss and rows of errors."""
        frames = [(inputs.to(self.device), truth.to(self.device)) for inputs, truth in frames]
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(self.config, self.step)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with full_float32(self.device):  # conjugate gradients need it
            loss, rows = self.loss(frames)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.average.update(self.model)
        self.step += 1
        return loss.item(), rows

    def stop(self):
        """Make `run` finish its step, save and return; safe in a signal handler."""
        self.stopping = True

    def run(self, seconds=None, progress=None):
        """
        Train to the last step, or until `seconds` have passed or `stop()` is called.

        progress: function for the report lines, default `say`. Return whether all steps are done;
        if not, the run can be resumed.
        """
        began, first = time.monotonic(), self.step
        log = self._log() if self.rank == 0 else None
        self.rows = []
        for frames in self.steps():
            if isinstance(frames, SteerDepthError):
                raise frames
            loss, rows = self.train_step(frames)
            self.rows += [{'loss': loss, **row} for row in rows]
            if log and self.step % self.config.report == 0:
                self._report(log, progress or self.say,
                             (time.monotonic() - began) / (self.step - first))
            late = seconds is not None and time.monotonic() - began > seconds
            if self._agreed(self.stopping or late):
                break
            if log and self.step % self.config.checkpoint == 0:
                self.save()
        if log:
            self.save()
            log.close()
        return self.step >= self.config.steps

    def _agreed(self, stop):
        """Return whether any process wants to stop, so that all stop at the same step."""
        if self.world == 1:
            return stop
        any_stop = torch.tensor(float(stop), device=self.device)
        dist.all_reduce(any_stop, dist.ReduceOp.MAX)
        return bool(any_stop)

    def _log(self):
        def items():
            frames = np.linspace(0, len(self.dataset) - 1, PICTURES).astype(int)
            return [self.dataset[int(i)] for i in frames]

        return TrainingLog(self.folder, self.step, items, self.say)

    def _report(self, log, progress, per_step):
        mean = {k: float(np.mean([r[k] for r in self.rows])) for k in self.rows[0]}
        self.rows = []
        mean.update(step=self.step, rate=learning_rate(self.config, self.step),
                    seconds_a_step=per_step)
        log.report(mean, lambda: self.objective.predictor(self.device))
        left = per_step * (self.config.steps - self.step) / 60
        progress(f"step {self.step}/{self.config.steps} loss {mean['loss']:.4f} "
                 f"mae {mean['mae']:.3f} rmse {mean['rmse']:.3f} relative to the first estimate, "
                 f"{per_step:.2f} s per step, {left:.0f} min left")
