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
Steering kernels and a refinement that are learned through the operator.

After Liu et al., "Learning Steering Kernels for Guided Depth Completion" (TIP 2021): a network
reads image and coarse depth and says what the kernels at the samples look like; kernel regression
interpolates with them; a refinement follows. Here the network corrects what the preset `steering`
finds without weights: kernels, guide features, bandwidth and ridge of the regression, where the
surface of second-order total variation may bend, and which of both estimates counts. With its last
layers at zero the result is that of `steering`. All inputs are free of metric scale.
"""
import copy
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steer_depth_ros.ops import kernel_regression
from steer_depth_ros.ops.pixels import add_at_pixels, pixel_index, read_bilinear
from steer_depth_ros.ops.surface import (
    bending_weights,
    data_term,
    edge_weights,
    solve_surface,
)

ARCHITECTURE = 'kernel_net'
MAPS = 22  # channels that `_maps` joins
NUMBERS = 8  # of the frame as a whole
FINE = 8  # channels of the layer at full resolution
LEVELS = (4, 40), (2, 15)  # of second-order TV: part of the image's size, steps
MARGIN = 0.1  # log depth by which a result may leave the range of the samples


class Constants(NamedTuple):
    """What the kernels start from; see completion/config.py."""

    color_step: float
    depth_step: float
    ridge: float
    tv_smoothness: float
    tv_flat: float
    tv_misfit: float
    tv_edge: float
    tv_floor: float
    tv_share: float
    tv_ramp: float


@dataclass
class KernelInputs:
    """
    B frames of one size, N samples at most; h, w are H, W divided by two, rounded up.

    image: uint8 (B, 3, H, W). lab: (B, 3, h, w), smoothed. first: (B, 1, H, W) log inverse depth
    of the first pass, relative to the median. coarse: (B, 1, h, w), that of round kernels.
    bandwidth: (B, H, W). distance: (B, 1, H, W) pixels to the nearest measured sample. uv:
    (B, N, 2). inverse: (B, N). kernels: (B, N, 3). valid: bool (B, N), those that exist;
    measured: those that were not filled in. numbers: (B, 10), aspect, mean spacing (pixels),
    smallest and largest inverse depth, and the logarithms of six scales that the tuning found.
    median: (B,) meters.
    """

    image: torch.Tensor
    lab: torch.Tensor
    first: torch.Tensor
    coarse: torch.Tensor
    bandwidth: torch.Tensor
    distance: torch.Tensor
    uv: torch.Tensor
    inverse: torch.Tensor
    kernels: torch.Tensor
    valid: torch.Tensor
    measured: torch.Tensor
    numbers: torch.Tensor
    median: torch.Tensor

    @property
    def size(self):
        """(H, W)."""
        return tuple(self.first.shape[-2:])

    def map(self, change):
        """Return the same frames with every tensor changed by a function."""
        return KernelInputs(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def to(self, device):
        """Return the same frames on `device`, all but bytes and marks as float32."""
        def moved(tensor):
            tensor = tensor.to(device, non_blocking=True)
            return tensor.float() if tensor.is_floating_point() else tensor
        return self.map(moved)

    def mirrored(self):
        """Return the frames mirrored left to right."""
        maps = {name: getattr(self, name).flip(-1) for name in
                ('image', 'lab', 'first', 'coarse', 'bandwidth', 'distance')}
        side = self.uv.new_tensor([-1., 1.])
        uv = self.uv * side + self.uv.new_tensor([self.size[1] - 1., 0.])
        return replace(self, uv=uv, kernels=self.kernels * self.kernels.new_tensor([1., -1., 1.]),
                       **maps)


def stack(frames):
    """Join frames of one size to a batch; samples are padded."""
    most = max(f.uv.shape[1] for f in frames)

    def joined(name):
        parts = [getattr(f, name) for f in frames]
        if name in ('uv', 'inverse', 'kernels', 'valid', 'measured'):
            fill = {'inverse': 1., 'kernels': 1.}.get(name, 0)
            parts = [F.pad(p, (0, 0) * (p.dim() - 2) + (0, most - p.shape[1]), value=fill)
                     for p in parts]
        return torch.cat(parts)

    return KernelInputs(**{f.name: joined(f.name) for f in fields(KernelInputs)})


class Estimates(NamedTuple):
    """Log inverse depth (B, H, W) of the stages, and the logarithm of the error to expect."""

    tuned: torch.Tensor
    kernels: torch.Tensor
    surface: torch.Tensor
    refined: torch.Tensor
    log_error: torch.Tensor


class Conv(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, inside, outside, stride=1):
        super().__init__(nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                         nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class KernelNet(nn.Module):
    """
    A U-Net at half resolution; its heads correct kernels, surface and their mean.

    channels: widths at 1/2, 1/4, ... of the resolution. features: learned guide features.
    neighbors: samples a pixel is computed from. constants: see Constants.
    """

    def __init__(self, constants, channels=(16, 24, 48, 72, 96), features=4, neighbors=24):
        super().__init__()
        self.config = {'constants': list(constants), 'channels': list(channels),
                       'features': features, 'neighbors': neighbors}
        self.constants = Constants(*constants)
        self.features, self.neighbors = features, neighbors
        c = channels
        self.numbers = nn.Sequential(nn.Linear(NUMBERS, 16), nn.ReLU(), nn.Linear(16, c[0]))
        self.stem = nn.Conv2d(MAPS, c[0], 3, 1, 1)
        self.down = nn.ModuleList(
            nn.Sequential(Conv(a, b, 2), Conv(b, b)) for a, b in zip(c, c[1:]))
        self.up = nn.ModuleList(
            Conv(b + a, a) for a, b in reversed(list(zip(c[:-1], c[1:]))))
        self.gains = nn.Linear(c[-1], 4)
        self.pixels = nn.Conv2d(c[0], features + 2, 1)
        self.samples = nn.Sequential(nn.Linear(c[0] + 2, 32), nn.ReLU(),
                                     nn.Linear(32, 3 + features))
        self.bending = nn.Conv2d(c[0], 4, 1)
        self.refine = nn.Sequential(nn.Conv2d(c[0] + 5, 16, 3, 1, 1), nn.ReLU(inplace=True),
                                    nn.Conv2d(16, FINE, 3, 1, 1))
        self.fine = nn.Conv2d(4, FINE, 1)
        self.last = nn.Conv2d(FINE, 6, 1)
        for layer in (self.gains, self.pixels, self.samples[-1], self.bending, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Weights depend on squared differences of features: from 0 no gradient leads away.
        nn.init.normal_(self.pixels.weight[:features], std=0.05)
        with torch.no_grad():
            self.last.bias[-1] = -4  # an error of about 2 %

    @classmethod
    def of(cls, config):
        """Build the network that a weights file describes."""
        return cls(*(config[name] for name in ('constants', 'channels', 'features', 'neighbors')))

    def fused(self):
        """Return the network with its batch norms inside the convolutions, to run only."""
        other = copy.deepcopy(self).eval()
        for module in other.modules():
            if isinstance(module, Conv):
                module[0] = fuse_conv_bn_eval(module[0], module[1])
                module[1] = nn.Identity()
        return other

    def forward(self, frames: KernelInputs, amp=False) -> Estimates:
        """Return the estimates of all stages; amp: the trunk computes in bfloat16."""
        maps, numbers = _maps(frames, self.constants)
        with torch.autocast(maps.device.type, torch.bfloat16, enabled=amp):
            x, gains = self.trunk(maps, numbers)
        x = x.float()
        tuned = self.tuned(frames)
        kernels = self.regress(frames, x, gains.float())
        surface = self.bend(frames, x, tuned)
        return self.join(frames, x, tuned, kernels, surface)

    def trunk(self, maps, numbers):
        """(B, MAPS, h, w) and (B, NUMBERS) to (B, C, h, w) and gains (B, 4)."""
        bias = self.numbers(numbers)[:, :, None, None]
        levels = [F.relu(self.stem(maps) + bias, inplace=True)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        gains = self.gains(x.mean((2, 3)))
        for up in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode='bilinear', align_corners=False)
            x = up(torch.cat([skip, x], 1))
        return x, gains.tanh()

    @torch.no_grad()
    def tuned(self, frames):
        """Return log inverse depth (B, H, W) of the kernels that the tuning found."""
        scale = self._guide_scale(frames)
        guide = torch.cat([_enlarge(frames.lab * scale[:, :3, None, None], frames.size),
                           frames.first * scale[:, 3:, None, None]], 1)
        colors = read_bilinear(frames.lab, _to_scale(frames.uv, 2))
        at_samples = torch.cat([colors * scale[:, None, :3],
                                frames.inverse.log()[..., None] * scale[:, None, 3:]], 2)
        log_scales = frames.numbers[:, 4:, None, None]
        ridge = self.constants.ridge * log_scales[:, 5].exp()
        return self._interpolate(frames, frames.kernels, guide, at_samples,
                                 frames.bandwidth * log_scales[:, 4].exp(),
                                 ridge.expand(-1, *frames.size))

    def regress(self, frames, x, gains):
        """Return log inverse depth (B, H, W) of the regression with learned kernels."""
        size, log_scales = frames.size, frames.numbers[:, 4:, None, None]
        scale = self._guide_scale(frames) * gains.exp()
        pixel = self.pixels(x)
        learned = pixel[:, :self.features]
        control = _enlarge(pixel[:, self.features:], size).tanh()
        bandwidth = frames.bandwidth * (control[:, 0] + log_scales[:, 4]).exp()
        ridge = self.constants.ridge * (3 * control[:, 1] + log_scales[:, 5]).exp()
        guide = torch.cat([
            _enlarge(torch.cat([frames.lab * scale[:, :3, None, None], learned], 1), size),
            frames.first * scale[:, 3:, None, None]], 1)

        half_uv = _to_scale(frames.uv, 2)
        log_inverse = frames.inverse.log()
        off = read_bilinear(frames.first, frames.uv)[..., 0] - log_inverse
        near = torch.cat([read_bilinear(x, half_uv), _compress(off, 20)[..., None],
                          _compress(off.abs(), 20)[..., None]], 2)
        correction = self.samples(near)
        kernels = torch.stack([
            frames.kernels[..., 0] * (0.7 * correction[..., 0].tanh()).exp(),
            frames.kernels[..., 1] + correction[..., 1],
            frames.kernels[..., 2] * correction[..., 2].tanh().exp()], 2)
        # What a sample adds to its features lowers its weight for all pixels around.
        at_samples = torch.cat([
            read_bilinear(frames.lab, half_uv) * scale[:, None, :3],
            read_bilinear(learned, half_uv) + correction[..., 3:],
            log_inverse[..., None] * scale[:, None, 3:]], 2)
        return self._interpolate(frames, kernels, guide, at_samples, bandwidth, ridge)

    def _guide_scale(self, frames):
        """Return factors (B, 4) on CIELab and on log inverse depth."""
        c = self.constants
        steps = frames.numbers.new_tensor([c.color_step] * 3 + [c.depth_step])
        return (-frames.numbers[:, 4:8]).exp() / steps

    def _interpolate(self, frames, kernels, guide, at_samples, bandwidth, ridge):
        dense = []
        for i, aspect in enumerate(frames.numbers[:, 0].tolist()):
            one = slice(i, i + 1)
            dense.append(kernel_regression(
                frames.uv[one], frames.inverse[one], kernels[one], frames.size, guide=guide[one],
                guide_at_samples=at_samples[one], bandwidth=bandwidth[one], ridge=ridge[one],
                valid=frames.valid[one] if len(frames.uv) > 1 else None,
                neighbours=self.neighbors, order=1, aspect=aspect)[0])
        low, high = frames.numbers[:, 2, None, None], frames.numbers[:, 3, None, None]
        return torch.cat(dense).clamp(low, high).log()

    def bend(self, frames, x, tuned):
        """Return log inverse depth (B, H, W) of the surface through all samples."""
        c, bending = self.constants, 5 * (self.bending(x) / 5).tanh()
        low, high = frames.numbers[:, 2, None, None], frames.numbers[:, 3, None, None]
        half = _shrink(tuned.exp()[:, None])[:, 0]
        starts = {2: half, 4: _shrink(half[:, None])[:, 0]}
        labs = {2: frames.lab, 4: _shrink(frames.lab)}
        correction = None
        for part, steps in LEVELS:
            start = starts[part]
            if correction is not None:
                start = start * _enlarge(correction[:, None], start.shape[-2:])[:, 0].exp()
            freedom = bending if part == 2 else _shrink(bending)
            with torch.no_grad():
                weights = bending_weights(start, edge_weights(labs[part], c.tv_edge),
                                          c.tv_smoothness, c.tv_flat, c.tv_floor)
            weights = freedom[:, :3].exp() * weights
            data_weight, rhs = (freedom[:, 3].exp() * each for each in data_term(
                start, _to_scale(frames.uv, part), frames.inverse, frames.measured, c.tv_misfit,
                c.tv_floor))
            solution = solve_surface(start, weights, data_weight, rhs, steps)
            solution = torch.maximum(torch.minimum(solution, high), low)
            correction = (solution / starts[part]).log()
        return tuned + _enlarge(correction[:, None], frames.size)[:, 0]

    def join(self, frames, x, tuned, kernels, surface):
        """Return the Estimates: how much of each counts, what is left, and what to expect."""
        c, size = self.constants, frames.size
        others = torch.stack([surface, kernels, frames.first[:, 0]], 1) - tuned[:, None]
        coarse = frames.coarse - _shrink(tuned[:, None])
        spacing = frames.numbers[:, 1, None, None, None]
        seen = torch.cat([_compress(torch.cat([_shrink(others), coarse], 1), 20),
                          _shrink((frames.distance / spacing).clamp(max=3))], 1)
        near = self.refine(torch.cat([x, seen], 1))
        fine = others / (others.abs() + 0.05)  # cheaper than a logarithm, at full resolution
        ramp = (frames.distance / c.tv_ramp).clamp(max=1)
        y = F.relu(_enlarge(near, size) + self.fine(torch.cat([fine, ramp], 1)), inplace=True)
        y = self.last(y)
        shares = torch.cat([y[:, :1].tanh() * 0.75 + c.tv_share * ramp, y[:, 1:3].tanh()], 1)
        mean = (tuned + (shares * others).sum(1)
                + _enlarge(coarse, size)[:, 0] * 0.75 * y[:, 3].tanh())
        low, high = frames.numbers[:, 2:4, None, None].log().unbind(1)
        inside = torch.maximum(torch.minimum(mean, high), low)
        return Estimates(tuned, kernels, surface, inside + MARGIN * y[:, 4].tanh(),
                         y[:, 5].clamp(-9, 2))


def _maps(frames, constants):
    """Return what the trunk reads: maps (B, MAPS, h, w) and numbers (B, NUMBERS)."""
    height, width = frames.size
    spacing = frames.numbers[:, 1, None, None, None]
    light = frames.image.float().mean(1, keepdim=True) / 255
    light = F.pixel_unshuffle(F.pad(light, (0, width % 2, 0, height % 2), mode='replicate'), 2)
    detail = ((light - light.mean(1, keepdim=True)) * 10).clamp(-2, 2)
    contrast = [((frames.lab - _around(frames.lab, k)) / 20).clamp(-2, 2) for k in (4, 16)]
    first = _shrink(frames.first)
    size = first.shape[-2:]
    along_x, along_y = (F.pad(first, sides, mode='replicate') for sides in
                        ((1, 1, 0, 0), (0, 0, 1, 1)))
    slope = torch.cat([along_x[..., 2:] - along_x[..., :-2],
                       along_y[..., 2:, :] - along_y[..., :-2, :]], 1)
    bend = (along_x[..., 2:] + along_x[..., :-2] + along_y[..., 2:, :] + along_y[..., :-2, :]
            - 4 * first)
    layers = torch.cat([first - _around(first, k) for k in (4, 16)], 1)

    uv = _to_scale(frames.uv, 2)
    pixel = pixel_index(uv, size)
    off = read_bilinear(frames.first, frames.uv)[..., 0] - frames.inverse.log()
    count, signed, absolute = (
        add_at_pixels(torch.where(frames.measured, values, 0.), pixel, size)[:, None]
        for values in (torch.ones_like(off), off, off.abs()))
    spread = _around(absolute, 8) / (_around(count, 8) + 1e-3)
    some = count.clamp(min=1)
    maps = torch.cat([
        detail, *contrast, _compress(slope * spacing / 4, 5), _compress(bend * spacing, 5),
        _compress(frames.coarse - first, 20), _compress(layers, 10), count.clamp(max=1),
        _compress(signed / some, 20), _compress(absolute / some, 20), _compress(spread, 20),
        _shrink((frames.distance / spacing).clamp(max=3)), torch.ones_like(count)], 1)
    aspect, mean_spacing = frames.numbers[:, :1], frames.numbers[:, 1:2]
    return maps, torch.cat([mean_spacing.log() - 2, (aspect - 1) / 2, frames.numbers[:, 4:]], 1)


def _compress(values, scale):
    """Bring differences of any size to one order of magnitude, small ones linearly."""
    return values.sign() * (values.abs() * scale).log1p() / 2


def _around(maps, k):
    """Return means over k x k pixels and more, (B, C, h, w)."""
    small = F.avg_pool2d(maps, k, ceil_mode=True, count_include_pad=False)
    return F.interpolate(small, size=maps.shape[-2:], mode='bilinear', align_corners=False)


def _shrink(maps):
    """Average (B, C, H, W) over 2 x 2 pixels; the last row and column count double."""
    height, width = maps.shape[-2:]
    if height % 2 or width % 2:
        maps = F.pad(maps, (0, width % 2, 0, height % 2), mode='replicate')
    return F.avg_pool2d(maps, 2)


def _enlarge(maps, size):
    """(B, C, h, w) to the double size (H, W), pixel centers at whole numbers."""
    return F.interpolate(maps, scale_factor=2, mode='bilinear',
                         align_corners=False)[..., :size[0], :size[1]]


def _to_scale(uv, factor):
    return (uv + 0.5) / factor - 0.5
