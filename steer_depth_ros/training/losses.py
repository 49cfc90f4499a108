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
Training examples and losses of the kernel mixture and of the network of the paper.

An objective is a model with its loss: `example(item, flip)` prepares one data set item; calling
the objective with a list of examples returns the loss and rows of errors.
"""
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from steer_depth_ros.completion.learned import constants, kernel_inputs, KernelModel
from steer_depth_ros.completion.mixture import mixture_inputs, MixtureModel
from steer_depth_ros.completion.occlusion import remove_occluded
from steer_depth_ros.errors import ConfigError, DatasetError
from steer_depth_ros.network import kernel_net, mixture_net, reference

OPTIONS = {kernel_net.ARCHITECTURE: ('channels', 'features', 'neighbors'),
           mixture_net.ARCHITECTURE: ('channels',), reference.ARCHITECTURE: ('depth_range',)}


def mixture_example(item, flip, device='cpu'):
    """
    Make (inputs, truth) of one data set item; truth (H, W) is log(median / depth) or NaN.

    Samples that the completer would drop as occluded are dropped here too.
    """
    image, truth, uv, sparse = _arrays(item)
    uv, sparse, has_parallax = remove_occluded(uv, sparse, image.shape[:2])
    if flip:
        image, truth, uv = _flipped(image, truth, uv)
    inputs = mixture_inputs(np.ascontiguousarray(image), uv, sparse, has_parallax)
    target = torch.from_numpy(np.log(inputs.median / truth).astype(np.float32))[None]
    return inputs.to(device), target.to(device)


def frame_loss(estimate, expected, kernel, inputs, truth):
    """
    Return the loss of one frame and the errors that it consists of.

    Errors are relative to those of the first estimate, so that easy and hard, near and far frames
    have equal weight. The expected error is the scale of a Laplace distribution.
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
        first = errors(inputs.first)
    final, before = errors(estimate), errors(kernel)
    relative = [f / (r + 1e-4) for f, r in zip(final[:3], first[:3])]
    relative_before = [f / (r + 1e-4) for f, r in zip(before[:3], first[:3])]
    log_scale = expected[seen].clamp(-9, 2)
    likelihood = (log_scale + final[3].detach() * (-log_scale).exp()).mean()
    loss = (sum(relative) + 0.5 * sum(relative_before)) / 4.5 + 0.05 * likelihood
    return loss, {'log': relative[0].item(), 'mae': relative[1].item(), 'rmse': relative[2].item(),
                  'kernel_mae': relative_before[1].item(), 'likelihood': likelihood.item()}


class MixtureObjective(nn.Module):
    """
    The kernel mixture with its loss, in one forward call for DistributedDataParallel.

    options: arguments of the network. amp: bfloat16 convolutions.
    """

    architecture = mixture_net.ARCHITECTURE
    example = staticmethod(mixture_example)

    def __init__(self, options, amp=False):
        super().__init__()
        self.model, self.amp = mixture_net.MixtureNet(**options), amp
        self.config = self.model.config

    def predictor(self, device):
        """Return the model as the completer runs it."""
        return MixtureModel(self.model, device)

    def forward(self, frames):
        """Return the mean loss of frames of any size, and a row of errors per frame."""
        features = self._features([inputs.maps for inputs, _ in frames])
        losses, rows = [], []
        for (inputs, truth), found in zip(frames, features):
            result = self.model(inputs, found)
            loss, row = frame_loss(*result, inputs, truth)
            losses.append(loss)
            rows.append(row)
        return torch.stack(losses).mean(), rows

    def _features(self, maps):
        """Run the trunk on all maps (1, C, h, w), batched by size."""
        found = {}
        for size in dict.fromkeys(m.shape for m in maps):
            alike = [i for i, m in enumerate(maps) if m.shape == size]
            with torch.autocast(maps[0].device.type, torch.bfloat16, enabled=self.amp):
                features = self.model.trunk(torch.cat([maps[i] for i in alike]))
            found.update(zip(alike, features.float().split(1)))
        return [found[i] for i in range(len(maps))]


def kernel_example(item, flip, device='cpu'):
    """
    Make (inputs, truth) of one data set item, in half precision where that is exact enough.

    truth (1, H, W) is log(median / depth) minus the first pass, or NaN.
    """
    image, truth, uv, sparse = _arrays(item)
    uv, sparse, has_parallax = remove_occluded(uv, sparse, image.shape[:2])
    inputs = kernel_inputs(np.ascontiguousarray(image), uv, sparse, has_parallax)
    target = torch.from_numpy(np.log(inputs.median.numpy() / truth).astype(np.float32))[None]
    target = (target - inputs.first[:, 0]).half()
    inputs = replace(inputs, **{name: getattr(inputs, name).half() for name in
                                ('lab', 'coarse', 'bandwidth', 'distance')})
    if flip:
        inputs, target = inputs.mirrored(), target.flip(-1)
    return inputs.to(device), target.to(device)


class KernelObjective(nn.Module):
    """
    The learned kernels with their loss, in one forward call for DistributedDataParallel.

    options: arguments of the network. amp: bfloat16 convolutions.
    """

    architecture = kernel_net.ARCHITECTURE
    example = staticmethod(kernel_example)

    def __init__(self, options, amp=False):
        super().__init__()
        self.model, self.amp = kernel_net.KernelNet(constants(), **options), amp
        self.config = self.model.config

    @staticmethod
    def collate(frames):
        """Join frames of one size."""
        inputs, truth = zip(*frames)
        return [(kernel_net.stack(inputs), torch.cat(truth))]

    def predictor(self, device):
        """Return the model as the completer runs it."""
        return KernelModel(self.model, device)

    def forward(self, frames):
        """Return the mean loss of frames of one size, and their mean errors."""
        (inputs, truth), = frames
        first = inputs.first[:, 0]
        truth = truth.float() + first
        found = self.model(inputs, self.amp)
        with torch.no_grad():
            *unit, _, _ = _errors(found.tuned, truth)
        loss, row = 0., {}
        # In logarithms, so that what is a tenth better counts the same on easy and hard frames.
        for name, weight in (('refined', 1.), ('kernels', .25), ('surface', .25)):
            *errors, off, seen = _errors(getattr(found, name), truth)
            relative = [((e + 1e-4) / (u + 1e-4)).log() for e, u in zip(errors, unit)]
            loss = loss + weight * sum(relative) / len(relative)
            row |= {f'{name} {kind}': r.mean().exp().item()
                    for kind, r in zip(('log', 'mae', 'rmse'), relative)}
            if name == 'refined':
                likelihood = found.log_error + off.detach() * (-found.log_error).exp()
                likelihood = torch.where(seen, likelihood, 0.).sum((1, 2)) / seen.sum((1, 2))
                loss = loss + .03 * likelihood
        return loss.mean(), [{'mae': row['refined mae'], 'rmse': row['refined rmse'],
                              'likelihood': likelihood.mean().item(), **row}]


def _errors(estimate, truth):
    """Return mean error in log depth, and mean and root mean square of depth, (B,) each."""
    seen = truth.isfinite()
    target = torch.where(seen, truth, estimate.detach())
    count = seen.sum((1, 2))
    off = (estimate - target).abs()
    metric = (-estimate).exp() - (-target).exp()  # in medians
    return (off.sum((1, 2)) / count, metric.abs().sum((1, 2)) / count,
            (metric.square().sum((1, 2)) / count + 1e-12).sqrt(), off, seen)


@dataclass
class ReferenceInputs:
    """One frame: image float32 (3, H, W) in [0, 1], uv (N, 2) whole pixels, depth (N,) meters."""

    image: torch.Tensor
    uv: torch.Tensor
    depth: torch.Tensor

    def to(self, device):
        """Return the same frame on `device`."""
        return ReferenceInputs(*(t.to(device) for t in (self.image, self.uv, self.depth)))


def reference_example(item, flip, device='cpu'):
    """Make (inputs, truth) of one data set item; truth (H, W) is in meters, NaN where unknown."""
    image, truth, uv, sparse = _arrays(item)
    if flip:
        image, truth, uv = _flipped(image, truth, uv)
    image, uv, sparse = reference.checked_frame(image, uv, sparse)
    inputs = ReferenceInputs(torch.from_numpy(image).permute(2, 0, 1).float() / 255,
                             torch.from_numpy(uv), torch.from_numpy(sparse))
    truth = torch.from_numpy(np.ascontiguousarray(truth, np.float32))
    return inputs.to(device), truth.to(device)


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
        """Return the model as the completer runs it."""
        return reference.ReferenceModel(self.model, device)

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
              for kind in (KernelObjective, MixtureObjective, ReferenceObjective)}


def _whole(value, least, most):
    return type(value) is int and least <= value <= most


def _increasing(value):
    return (isinstance(value, (list, tuple)) and len(value) == 2
            and all(isinstance(v, (int, float)) for v in value) and 0 <= value[0] < value[1])


VALUES: dict = {  # option: (check, description for errors)
    'channels': (lambda value: isinstance(value, (list, tuple)) and len(value) == 4
                 and all(_whole(v, 1, 4096) for v in value), 'four whole numbers'),
    (kernel_net.ARCHITECTURE, 'channels'): (
        lambda value: isinstance(value, (list, tuple)) and 2 <= len(value) <= 8
        and all(_whole(v, 1, 4096) for v in value), 'two to eight whole numbers'),
    'features': (lambda value: _whole(value, 1, 64), 'a whole number'),
    'neighbors': (lambda value: _whole(value, 4, 64), 'a whole number from 4 to 64'),
    'depth_range': (lambda value: value is None or _increasing(value),
                    'two increasing numbers in meters, or null')}


def make_objective(model, amp=False):
    """
    Return the objective for `model` of the configuration.

    model: mapping with `architecture` (a key of OBJECTIVES) and the arguments of the network.
    Raise ConfigError naming what does not exist.
    """
    options = dict(model)
    name = options.pop('architecture', mixture_net.ARCHITECTURE)
    if name not in OBJECTIVES:
        raise ConfigError(f'model: architecture {name!r} is not one of {", ".join(OBJECTIVES)}')
    known = OPTIONS[name]
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f'model: {name} has no {key!r}, only {", ".join(known)}')
        accepts, wanted = VALUES.get((name, key)) or VALUES[key]
        if not accepts(value):
            raise ConfigError(f'model: {key} must be {wanted}, not {value!r}')
    return OBJECTIVES[name](options, amp)
