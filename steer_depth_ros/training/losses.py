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
Training examples and losses of the refinement and of the network of the paper.

An objective is a model with its loss: `example(item, flip)` prepares one data set item; calling
the objective with a list of examples returns the loss and rows of errors.
"""
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from steer_depth_ros.completion import maps, pipeline
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.occlusion import remove_occluded
from steer_depth_ros.completion.refinement import Refinement, refinement_inputs
from steer_depth_ros.errors import ConfigError, DatasetError
from steer_depth_ros.network import reference, refinement_net

OPTIONS = {refinement_net.ARCHITECTURE: ('channels', 'details'),
           reference.ARCHITECTURE: ('depth_range',)}
CROP = 160  # pixels of half the image's resolution


def refinement_example(item, flip):
    """
    Make (inputs, truth) of one data set item, in half precision where that is exact enough.

    truth (1, H, W) is log(median / depth) minus what the network starts from, or NaN.
    """
    image, truth, uv, sparse = _arrays(item)
    with torch.inference_mode():
        samples = remove_occluded(uv.astype(np.float32), sparse.astype(np.float32),
                                  image.shape[:2])
        frame = pipeline.prepare(samples, image.shape[:2], half=True)
        lab = pipeline.analyze(torch.from_numpy(np.ascontiguousarray(image)))
        problem, found = pipeline.estimates(lab.result(), frame)
        inputs = refinement_inputs(problem, found)
        if item.get('scanned'):
            truth = _beyond_rims(truth, frame.mean_spacing)
        start = maps.upsample(found.inverse, image.shape[:2]).log()
        target = torch.from_numpy(np.log(frame.median / truth).astype(np.float32)) - start
    inputs = inputs.of_maps(torch.Tensor.half)._replace(start=inputs.start.clone())
    target = target[None].half()
    if flip:
        inputs, target = inputs.mirrored(), target.flip(-1)
    return inputs, target


def _beyond_rims(truth, spacing):
    """
    Leave out (NaN) the background close to something nearer, as a LiDAR's own points would.

    There calibration and parallax decide what a sample says. spacing: that of samples at half of
    the resolution, pixels.
    """
    reach = max(1, round(spacing))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    nearest = cv2.erode(np.where(np.isnan(truth), np.inf, truth), window)
    return np.where(truth / (1 + 1.5 * CONFIG.occluder_margin) > nearest, np.nan, truth)


class RefinementObjective(nn.Module):
    """
    The refinement with its loss, in one forward call for DistributedDataParallel.

    options: arguments of the network. amp: bfloat16 convolutions.
    """

    architecture = refinement_net.ARCHITECTURE
    example = staticmethod(refinement_example)

    def __init__(self, options, amp=False):
        super().__init__()
        self.model, self.amp = refinement_net.RefinementNet(**options), amp
        self.config = self.model.config

    @staticmethod
    def collate(frames, rng):
        """Join random parts of frames, all as large as the smallest frame and CROP allow."""
        size = [min(CROP, *(inputs.start.shape[axis] for inputs, _ in frames))
                for axis in (-2, -1)]
        parts = []
        for inputs, truth in frames:
            row, column = (int(rng.integers(inputs.start.shape[axis] - n + 1))
                           for axis, n in zip((-2, -1), size))
            parts.append((inputs.of_maps(partial(_part, row=row, column=column, size=size)),
                          _part(truth, 2 * row, 2 * column, [2 * n for n in size])))
        inputs, truth = zip(*parts)
        height, width = (min(t.shape[axis] for t in truth) for axis in (-2, -1))
        return [(refinement_net.RefinementInputs(*map(torch.cat, zip(*inputs))),
                 torch.cat([t[:, :height, :width] for t in truth]))]

    def predictor(self, device):
        """Return what completes a frame with the network as it is."""
        return partial(pipeline.complete, half=True, device=device,
                       refine=Refinement(self.model, device))

    def forward(self, frames):
        """Return the mean loss of frames of one size, and their mean errors."""
        (inputs, truth), = frames
        with torch.autocast(truth.device.type, torch.bfloat16, enabled=self.amp):
            found, log_error = (each.float() for each in self.model(inputs))
        size = truth.shape[-2:]
        start = maps.upsample(inputs.start[:, 0].exp(), size).log()
        truth = truth.float() + start
        inverse, log_error = refinement_net.doubled(
            torch.stack([found.exp(), log_error], 1), size).unbind(1)
        found = inverse.log()
        seen = truth.isfinite()
        errors, unit = _errors(found, truth, seen), _errors(start, truth, seen)
        # In logarithms, so that what is a tenth better counts the same on easy and hard frames.
        relative = {name: ((errors[name] + 1e-3) / (unit[name] + 1e-3)).log() for name in errors}
        loss = sum(weight * relative[name] for name, weight in WEIGHTS.items()) / sum(
            WEIGHTS.values())
        off = torch.where(seen, found.detach() - truth, 0.).abs()
        likelihood = _mean(log_error + off * (-log_error).exp(), seen)
        loss = (loss + 0.03 * likelihood).mean()
        return loss, [{'likelihood': likelihood.mean().item(),
                       **{name: each.mean().exp().item() for name, each in relative.items()}}]


def _part(each, row, column, size):
    return each[..., row:row + size[0], column:column + size[1]]


WEIGHTS = {'log': 1.0, 'mae': 1.0, 'rmse': 1.0, 'steps': 0.5}  # of errors in the loss


def _mean(values, known):
    return torch.where(known, values, 0.).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


def _errors(estimate, truth, seen):
    """
    Return errors of log inverse depth (B, H, W) by name, (B,) each.

    log: mean in log depth; mae, rmse: mean and root mean square of depth, in medians; steps: mean
    of differences of neighbors, and of pixels four apart.
    """
    truth = torch.where(seen, truth, estimate.detach())
    off = estimate - truth
    metric = (-estimate).exp() - (-truth).exp()
    steps = sum(_mean((off[:, k:] - off[:, :-k]).abs(), seen[:, k:] & seen[:, :-k])
                + _mean((off[..., k:] - off[..., :-k]).abs(), seen[..., k:] & seen[..., :-k])
                for k in (1, 4))
    return {'log': _mean(off.abs(), seen), 'mae': _mean(metric.abs(), seen),
            'rmse': (_mean(metric.square(), seen) + 1e-10).sqrt(), 'steps': steps}


@dataclass
class ReferenceInputs:
    """One frame: image float32 (3, H, W) in [0, 1], uv (N, 2) whole pixels, depth (N,) meters."""

    image: torch.Tensor
    uv: torch.Tensor
    depth: torch.Tensor

    def to(self, device):
        """Return the same frame on `device`."""
        return ReferenceInputs(*(t.to(device) for t in (self.image, self.uv, self.depth)))


def reference_example(item, flip):
    """Make (inputs, truth) of one data set item; truth (H, W) is in meters, NaN where unknown."""
    image, truth, uv, sparse = _arrays(item)
    if flip:
        image, truth, uv = _flipped(image, truth, uv)
    image, uv, sparse = reference.checked_frame(image, uv, sparse)
    inputs = ReferenceInputs(torch.from_numpy(image).permute(2, 0, 1).float() / 255,
                             torch.from_numpy(uv), torch.from_numpy(sparse))
    return inputs, torch.from_numpy(np.ascontiguousarray(truth, np.float32))


class ReferenceObjective(nn.Module):
    """
    The network of the paper with its loss.

    options: depth_range, (low, high) meters or None, as in SteeringKernelNet. Raise ConfigError
    for amp, which this network does not support.
    """

    architecture = reference.ARCHITECTURE
    example = staticmethod(reference_example)

    def __init__(self, options, amp=False):
        super().__init__()
        if amp:
            raise ConfigError('amp is not supported by the reference network; set it to false')
        self.config = {'depth_range': options.get('depth_range', list(reference.DEPTH_RANGE))}
        self.model = reference.SteeringKernelNet(**self.config)

    def predictor(self, device):
        """Return what completes a frame with the network as it is."""
        return reference.ReferenceModel(self.model, device).estimate

    def forward(self, frames):
        """Return the loss of frames of one size, and the errors relative to those of D~."""
        sizes = {tuple(truth.shape) for _, truth in frames}
        if len(sizes) > 1:
            raise ConfigError('the reference network trains on frames of one size, got '
                              f'{sorted(sizes)}; use one data set')
        inputs, truth = [i for i, _ in frames], torch.stack([t for _, t in frames])
        # Padding lies at pixel 0 and is marked as invalid.
        uv = pad_sequence([i.uv for i in inputs], batch_first=True)
        depth = pad_sequence([i.depth for i in inputs], batch_first=True, padding_value=1.0)
        valid = pad_sequence([torch.ones_like(i.depth, dtype=torch.bool) for i in inputs],
                             batch_first=True)
        output = self.model.stages(torch.stack([i.image for i in inputs]), uv, depth, valid)
        return reference.reference_loss(output, truth), [_reference_errors(output, truth)]


def _reference_errors(output, truth):
    known = truth.isfinite() & (truth > 0)
    with torch.no_grad():
        before, after = ((estimate - truth)[known] for estimate in
                         (output.interpolated, output.depth))
    return {'mae': (after.abs().mean() / before.abs().mean()).item(),
            'rmse': (after.square().mean() / before.square().mean()).sqrt().item()}


def _arrays(item):
    """
    Return image, truth (NaN where unknown), uv and depth of the samples of a data set item.

    Raise DatasetError for an item without samples or without truth.
    """
    image, depth = np.asarray(item['image']), np.asarray(item['depth'])
    uv, sparse = np.asarray(item['uv']), np.asarray(item['sparse'])
    measured = np.isfinite(sparse) & (sparse > 0)
    truth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
    if not measured.any() or np.isnan(truth).all():
        raise DatasetError(f'{item["name"]} has no samples or no truth to learn from; take it out '
                           'of the data set')
    return image, truth, uv[measured], sparse[measured]


def _flipped(image, truth, uv):
    uv = np.stack([image.shape[1] - 1 - uv[:, 0], uv[:, 1]], 1)
    return image[:, ::-1], truth[:, ::-1], uv


OBJECTIVES = {kind.architecture: kind
              for kind in (RefinementObjective, ReferenceObjective)}


def _whole(value, least, most):
    return type(value) is int and least <= value <= most


def _increasing(value):
    return (isinstance(value, (list, tuple)) and len(value) == 2
            and all(isinstance(v, (int, float)) for v in value) and 0 <= value[0] < value[1])


VALUES: dict = {  # option: (check, description for errors)
    'channels': (lambda value: isinstance(value, (list, tuple)) and 2 <= len(value) <= 8
                 and all(_whole(v, 1, 4096) for v in value), 'two to eight whole numbers'),
    'details': (lambda value: _whole(value, 1, 256), 'a whole number'),
    'depth_range': (lambda value: value is None or _increasing(value),
                    'two increasing numbers in meters, or null')}


def make_objective(model, amp=False):
    """
    Return the objective for `model` of the configuration.

    model: mapping with `architecture` (a key of OBJECTIVES) and the arguments of the network.
    Raise ConfigError naming what does not exist.
    """
    options = dict(model)
    name = options.pop('architecture', refinement_net.ARCHITECTURE)
    if name not in OBJECTIVES:
        raise ConfigError(f'model: architecture {name!r} is not one of {", ".join(OBJECTIVES)}')
    known = OPTIONS[name]
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f'model: {name} has no {key!r}, only {", ".join(known)}')
        accepts, wanted = VALUES[key]
        if not accepts(value):
            raise ConfigError(f'model: {key} must be {wanted}, not {value!r}')
    return OBJECTIVES[name](options, amp)
