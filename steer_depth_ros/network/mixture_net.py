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
Our own model: a network that mixes steering kernels, pixel by pixel.

The operator evaluates several kernels around those that leave-one-out cross-validation finds best
for the frame: colour counting more or less, steps of depth harder or softer, wider, and round; a
thin plate through the samples joins them. Where they agree nothing is left to learn; where they
differ the network weighs them by what it sees: how they differ, how well each predicts the samples
near by, how far samples are, how much weight they have, edges of the image. A result is never
outside the range of what is mixed, which is what carries over from rendered scenes to real
sensors. All inputs are free of metric scale.
"""
from dataclasses import dataclass
from typing import List

import cv2
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from steer_depth_ros.completion import steering, thin_plate

KERNELS = np.array([[0, 0, 0, 0, 0, 0],
                    [0.8, 0.8, 0.8, 0, 0.25, 0],
                    [-0.7, -0.7, -0.7, 0, 0, 0],
                    [0, 0, 0, -0.6, 0, 0],
                    [0, 0, 0, 0.7, 0, 0],
                    [0.9, 0.9, 0.9, 0.7, 0.45, 2.3]], np.float32)
ARCHITECTURE = 'mixture_net'
TESTED = len(KERNELS) + 2  # the guide's estimate, and the rough one before it, are mixed in, too
MIXED = TESTED + 1  # and a thin plate that starts from the tuned kernels
CHANNELS = MIXED - 1 + 4 + len(KERNELS) + 3 + 2 * TESTED + 6  # as mixture_inputs joins them
CELL = 8  # pixels; errors of samples are gathered in cells of that size
QUERIES = 1200
CONTRAST = 20.0  # CIELab; of the colours that the network sees
FINE = 16  # channels of the layer at full resolution


@dataclass
class MixtureInputs:
    """
    One frame: `maps` (1, CHANNELS, h, w) at half resolution, and what is mixed.

    estimates: (1, MIXED, H, W) log inverse depth, relative to `median` (metres).
    sampled: (1, H, W) bool, pixels with a sample.
    """

    maps: torch.Tensor
    estimates: torch.Tensor
    sampled: torch.Tensor
    median: float

    @property
    def first(self):
        """(1, H, W): the estimate that the model has to beat."""
        return self.estimates[:, 0]

    def to(self, device):
        """Return the same frame with its tensors on `device`."""
        return MixtureInputs(self.maps.to(device), self.estimates.to(device),
                             self.sampled.to(device), self.median)


def mixture_inputs(image, uv, depth, past_edges=False):
    """Prepare what `steering.prepare` takes for the network."""
    inputs = steering.prepare(image, uv, depth, past_edges)
    frame = steering.analyse(inputs, QUERIES)
    rough = frame.guide[3] * steering.STEP
    guesses: List[np.ndarray] = []  # by how much the guide misses the samples, first and then
    tuned = steering.tuned_guide(frame, guesses)
    settings = tuned + KERNELS
    dense, mass = steering.regress(frame, settings)
    plate = np.log(dense[0]) + thin_plate.change(frame.inputs, dense[0],
                                                  thin_plate.THOROUGH)
    plate = np.clip(plate, *np.log(inputs.range, dtype=np.float32))
    estimates = np.stack([*np.log(dense), frame.guide[3] * steering.STEP, rough, plate])
    maps = np.concatenate([
        _differences(estimates), _surroundings(inputs, estimates[0], frame.off, frame.distance),
        _half(np.log(mass + 1e-4) / 4), _contrast(inputs),
        _errors(inputs, frame.left_out, settings, guesses),
        _everywhere(inputs.size, [np.log(inputs.spacing) - 2, (inputs.aspect - 1) / 2,
                                  *tuned[2:].tolist()])], 2)
    return MixtureInputs(steering.batch(maps.transpose(2, 0, 1)), steering.batch(estimates),
                         torch.from_numpy(frame.distance == 0)[None], inputs.median)


def _half(maps):
    """Average maps (H, W) over 2 x 2 pixels and stack them, (h, w, C)."""
    height, width = maps[0].shape
    half = ((width + 1) // 2, (height + 1) // 2)
    return cv2.merge([cv2.resize(each, half, interpolation=cv2.INTER_AREA) for each in maps])


def _everywhere(size, numbers):
    shape = ((size[0] + 1) // 2, (size[1] + 1) // 2, len(numbers))
    return np.broadcast_to(np.array(numbers, np.float32), shape)


def _differences(estimates):
    """Return how each estimate differs from the first, compressed, (h, w, MIXED - 1)."""
    apart = _half([e - estimates[0] for e in estimates[1:]])
    return np.copysign(np.log1p(np.abs(apart) * 100) / 3, apart)


def _surroundings(inputs, dense, off, distance):
    """Return slope of depth, edges of the image, misfit and distance of samples, (h, w, 4)."""
    def slope(field):
        return np.hypot(cv2.Sobel(field, cv2.CV_32F, 1, 0, scale=1 / 8),
                        cv2.Sobel(field, cv2.CV_32F, 0, 1, scale=1 / 8))

    lightness = steering.enlarged(cv2.extractChannel(inputs.lab, 0), inputs.size)
    spread = steering.rough(inputs, steering.batch(np.abs(off)), 0, 4)
    return _half([np.log(slope(dense) * inputs.spacing + 1e-3) / 3 + 1,
                  np.log(slope(lightness / 100) + 1e-3) / 3 + 1.5,
                  np.log(np.maximum(spread, 0) + 1e-3) / 3 + 1.5,
                  np.minimum(distance / inputs.spacing, 3)])


def _contrast(inputs):
    """Return how colours differ from those around, (h, w, 3): nothing is known by its colour."""
    around = cv2.blur(inputs.lab, (2 * round(inputs.spacing / 2) + 3,) * 2)
    return np.clip((inputs.lab - around) / CONTRAST, -2, 2)


def _errors(inputs, left_out, settings, guesses):
    """Return how well each kernel predicts the samples, near by and on the whole."""
    height, width = inputs.size
    half = ((width + 1) // 2, (height + 1) // 2)
    if len(left_out.chosen) == 0:
        return np.zeros((half[1], half[0], 2 * TESTED), np.float32)
    off = np.stack([*(left_out.log_errors(each) for each in settings), *guesses[::-1]], 1)
    off = np.minimum(np.abs(off), 1)
    mean = off.mean(0)
    cells = (-(-height // CELL), -(-width // CELL))
    place = np.clip(inputs.uv[0].numpy()[left_out.chosen] / CELL, 0,
                    (cells[1] - 0.01, cells[0] - 0.01)).astype(int)
    total = np.zeros((*cells, TESTED + 1), np.float32)
    np.add.at(total, (place[:, 1], place[:, 0]), np.c_[off, np.ones(len(off), np.float32)])
    width_of_blur = max(2 * inputs.spacing / CELL, 1.0)
    total = np.dstack([cv2.GaussianBlur(part, (0, 0), width_of_blur)
                       for part in np.moveaxis(total, 2, 0)])
    prior = 0.05 * total[..., -1:].max()
    near = np.log((total[..., :-1] + prior * mean) / (total[..., -1:] + prior) + 1e-4)
    near = np.dstack([cv2.resize(part, half) for part in np.moveaxis(near, 2, 0)])
    whole = np.log(mean + 1e-4)
    return np.concatenate([
        2 * (near[..., 1:] - near[..., :1]), near[..., :1] / 2 + 1.5,
        _everywhere(inputs.size, [*(2 * (whole[1:] - whole[0])), whole[0] / 2 + 1.5])], 2)


def _block(inside, outside, stride=1):
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                         nn.GroupNorm(4, outside), nn.ReLU(inplace=True))


class MixtureNet(nn.Module):
    """
    A U-Net at half resolution that gives each kernel its weight, and the error to expect.

    channels: widths at 1/2, 1/4, 1/8 and 1/16 of the resolution; multiples of 4. A last layer
    weighs at full resolution, where kernels differ most: at the edges of things.
    """

    def __init__(self, channels=(16, 24, 32, 40)):
        super().__init__()
        self.config = {'channels': list(channels)}
        c = channels
        self.stem = nn.Sequential(_block(CHANNELS, c[0]), _block(c[0], c[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_block(c[i], c[i + 1], 2), _block(c[i + 1], c[i + 1])) for i in range(3))
        self.up = nn.ModuleList(_block(c[i + 1] + c[i], c[i]) for i in (2, 1, 0))
        self.wide = nn.Conv2d(c[0], FINE, 1)
        self.fine = nn.Conv2d(MIXED - 1, FINE, 1, bias=False)
        self.head = nn.Conv2d(FINE, MIXED + 1, 1)
        # It begins near the tuned kernels, and with an error of about 2 %.
        bias = torch.tensor([1.0] + [0.0] * (MIXED - 1) + [-4.0])
        self.head.weight, self.head.bias = (nn.Parameter(torch.zeros_like(self.head.weight)),
                                            nn.Parameter(bias))

    def trunk(self, maps):
        """(B, CHANNELS, h, w) to (B, C, h, w)."""
        levels = [self.stem(maps)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode='bilinear', align_corners=False)
            x = up(torch.cat([skip, x], 1))
        return x

    def forward(self, frame, features=None):
        """
        Return log inverse depth and log expected error, both (1, H, W), and the tuned kernels'.

        frame: MixtureInputs. features: trunk(frame.maps), where it was computed for a batch.
        """
        x = self.trunk(frame.maps) if features is None else features
        height, width = frame.estimates.shape[-2:]
        x = F.interpolate(self.wide(x), scale_factor=2, mode='bilinear',
                          align_corners=False)[..., :height, :width]
        apart = frame.estimates[:, 1:] - frame.estimates[:, :1]
        # As in the maps; without the logarithm, which would take longer than all the rest.
        x = F.relu(x + self.fine(apart / (apart.abs() + 0.05)), inplace=True)
        x = self.head(x)
        mixed = (x[:, :MIXED].softmax(1) * frame.estimates).sum(1)
        return mixed, x[:, MIXED], frame.first
