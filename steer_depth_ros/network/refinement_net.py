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
A network that refines what the preset `fast` finds, at half of the resolution.

It reads image, estimates and how well these fit the samples, and says for every pixel how much of
each estimate counts, what is to be added, and which error to expect: the refinement of Liu et al.,
"Learning Steering Kernels for Guided Depth Completion" (TIP 2021), on kernels that are tuned
instead of learned. All inputs are free of metric scale. With its last layer at zero the result is
the estimate that it starts from.
"""
import copy
from typing import NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

ARCHITECTURE = 'refinement_net'
ESTIMATES = 4  # that the result is mixed of, besides the one that it starts from
MAPS, DETAILS, NUMBERS = 29, 14, 10  # channels at a quarter, at half of the image; of the frame
MARGIN = 0.3  # log depth by which a result may leave the range of the samples


class RefinementInputs(NamedTuple):
    """
    B frames of one size, float tensors; h, w are half of the image's.

    lab: (B, 3, h, w) CIELab, smoothed. start: (B, 1, h, w) log inverse depth relative to the
    median. others: (B, ESTIMATES, h, w), other estimates minus `start`. distance: (B, 1, h, w)
    pixels to the nearest sample. samples: (B, 3, h, w), by pixel their number, and the sums of
    their log inverse depth minus `start` and of its size. left_out: (B, 2, h, w), by pixel the
    samples that were predicted without themselves, and the sum of the sizes of their errors.
    numbers: (B, 11), mean spacing in pixels, aspect, parallax (0 or 1), six settings of the
    kernels, smallest and largest inverse depth.
    """

    lab: Tensor
    start: Tensor
    others: Tensor
    distance: Tensor
    samples: Tensor
    left_out: Tensor
    numbers: Tensor

    def to(self, device):
        """Return the same frames on `device`, as float32."""
        return RefinementInputs(*(each.to(device, torch.float32) for each in self))

    def of_maps(self, change):
        """Return the same frames with every map changed by a function."""
        return RefinementInputs(*map(change, self[:-1]), self.numbers)

    def mirrored(self):
        """Return the frames mirrored left to right."""
        return self.of_maps(lambda each: each.flip(-1))


class Conv(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, inside, outside, stride=1):
        super().__init__(nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                         nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class RefinementNet(nn.Module):
    """
    A U-Net at a quarter of the image's resolution, and two layers at half of it.

    channels: widths at 1/4, 1/8, ... of the resolution. details: width at half of it.
    """

    def __init__(self, channels=(24, 32, 48, 64), details=16):
        super().__init__()
        self.config = {'channels': list(channels), 'details': details}
        c = channels
        self.numbers = nn.Sequential(nn.Linear(NUMBERS, 16), nn.ReLU(), nn.Linear(16, c[0]))
        self.stem = nn.Conv2d(MAPS, c[0], 3, 1, 1)
        self.down = nn.ModuleList(
            nn.Sequential(Conv(a, b, 2), Conv(b, b)) for a, b in zip(c, c[1:]))
        self.up = nn.ModuleList(
            Conv(b + a, a) for a, b in reversed(list(zip(c[:-1], c[1:]))))
        self.enlarge = nn.Conv2d(c[0], details, 1)
        self.details = nn.Conv2d(DETAILS, details, 3, 1, 1)
        self.join = nn.Conv2d(details, details, 3, 1, 1)
        self.last = nn.Conv2d(details, ESTIMATES + 2, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.bias[-1] = -4  # an error of about 2 %

    @classmethod
    def of(cls, config):
        """Build the network that a weights file describes."""
        return cls(config['channels'], config['details'])

    def fused(self):
        """Return the network with its batch norms inside the convolutions, to run only."""
        other = copy.deepcopy(self).eval()
        for module in other.modules():
            if isinstance(module, Conv):
                module[0] = fuse_conv_bn_eval(module[0], module[1])
                module[1] = nn.Identity()
        return other

    def forward(self, inputs: RefinementInputs):
        """Return log inverse depth and the logarithm of its expected error, (B, h, w) each."""
        start, others = inputs.start, inputs.others
        x = self.enlarge(self._trunk(*_maps(inputs)))
        x = F.relu(self.details(_details(inputs)) + doubled(x, start.shape[-2:]), inplace=True)
        x = self.last(F.relu(self.join(x), inplace=True))
        low, high = inputs.numbers[:, -2:, None, None].log().unbind(1)
        mixed = start[:, 0] + (x[:, :ESTIMATES].tanh() * others).sum(1)
        inside = torch.maximum(torch.minimum(mixed, high), low)
        return (inside + MARGIN * torch.tanh(x[:, ESTIMATES] * (0.03 / MARGIN)),
                x[:, -1].clamp(-9, 2))

    def _trunk(self, maps, numbers):
        levels = [F.relu(self.stem(maps) + self.numbers(numbers)[:, :, None, None], inplace=True)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode='bilinear', align_corners=False)
            x = up(torch.cat([skip, x], 1))
        return x


def _maps(inputs):
    """Return what the trunk reads, (B, MAPS, h / 2, w / 2), and (B, NUMBERS)."""
    numbers, spacing = inputs.numbers, _spacing(inputs)
    start, lab = _halved(inputs.start), _halved(inputs.lab)
    count, signed, absolute = (4 * _halved(inputs.samples)).split(1, 1)
    tested, error = (4 * _halved(inputs.left_out)).split(1, 1)
    some = count.clamp(min=1)
    x, y = _padded(start)
    bend = x[..., 2:] + x[..., :-2] + y[..., 2:, :] + y[..., :-2, :] - 4 * start
    maps = torch.cat([
        (lab - _around(lab, 2)) / 10, (lab - _around(lab, 8)) / 20, (lab - _around(lab, 32)) / 30,
        _compressed(_slopes(start) * spacing / 4, 5), _compressed(bend * spacing, 5),
        _compressed(start - _around(start, 4), 10), _compressed(start - _around(start, 16), 10),
        _compressed(_halved(inputs.others), 20), _magnitude(_halved(inputs.others.abs())),
        count.clamp(max=1), _compressed(signed / some, 20), _magnitude(absolute / some),
        _magnitude(_mean_around(absolute, count, 8)), _magnitude(_mean_around(error, tested, 16)),
        _magnitude(_mean_around(error, tested, 64)),
        _halved((inputs.distance / spacing).clamp(max=3))], 1)
    return maps, torch.cat([
        numbers[:, :1].log() - 2, (numbers[:, 1:2] - 1) / 2, numbers[:, 2:9],
        (numbers[:, 10:] / numbers[:, 9:10]).log() / 4], 1)


def _details(inputs):
    """Return what is read at half of the image's resolution, (B, DETAILS, h, w)."""
    lab, start = inputs.lab, inputs.start
    return torch.cat([
        (lab - _around(lab, 8)) / 20, _slopes(lab[:, :1]) / 20, _compressed(_slopes(start), 20),
        _compressed(inputs.others, 20), (inputs.distance / _spacing(inputs)).clamp(max=3),
        _compressed(inputs.samples[:, 1:2], 20), inputs.samples[:, :1].clamp(max=1)], 1)


def _spacing(inputs):
    return inputs.numbers[:, :1, None, None].clamp(min=1)


def _slopes(plane):
    """Return differences of the pixels beside and of those above and below, (B, 2, h, w)."""
    x, y = _padded(plane)
    return torch.cat([x[..., 2:] - x[..., :-2], y[..., 2:, :] - y[..., :-2, :]], 1)


def _padded(plane):
    """Repeat the first and last column, and the first and last row."""
    return (F.pad(plane, sides, mode='replicate') for sides in ((1, 1, 0, 0), (0, 0, 1, 1)))


def _compressed(values, scale):
    """Bring differences of any size to one order of magnitude, small ones linearly."""
    return values.sign() * (values.abs() * scale).log1p() / 2


def _magnitude(values):
    return (values * 20).log1p()


def _mean_around(total, count, k):
    return _around(total, k) / (_around(count, k) + 1e-3)


def _around(maps, k):
    """Return means over k x k pixels and more, (B, C, h, w)."""
    small = F.avg_pool2d(maps, k, ceil_mode=True, count_include_pad=False)
    return F.interpolate(small, size=maps.shape[-2:], mode='bilinear', align_corners=False)


def _halved(maps):
    """Average (B, C, h, w) over 2 x 2 pixels; the last row and column count double."""
    height, width = maps.shape[-2:]
    if height % 2 or width % 2:
        maps = F.pad(maps, (0, width % 2, 0, height % 2), mode='replicate')
    return F.avg_pool2d(maps, 2)


def doubled(maps, size):
    """(B, C, h, w) to the double size (H, W), pixel centers at whole numbers."""
    return F.interpolate(maps, scale_factor=2, mode='bilinear',
                         align_corners=False)[..., :size[0], :size[1]]
