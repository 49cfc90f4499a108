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
Our own model: steering kernels and guide features learned through the operator.

It starts as the weights-free preset `steering` (its last layers are zero) and learns what to add:
the kernels' elongation, rotation and scaling and a reliability at every sample, guide features,
bandwidth and ridge at every pixel. All inputs are free of metric scale: inverse depth relative to
the median of the samples. A small head then corrects what smooth kernels leave and states the
error it expects.
"""
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from steer_depth_ros.completion import steering
from steer_depth_ros.ops import kernel_regression

ARCHITECTURE = 'steering_net'
MARGIN = 0.3  # how far, in log depth, results may leave the range of the samples


@dataclass
class NetInputs:
    """
    One frame: `maps` (1, 6, h, w) at half resolution, and what the operator takes.

    guide: (1, 4, H, W) and guide_at_samples (1, N, 4), colour and rough log inverse depth in the
    units of the preset `steering`. kernels: (1, N, 3) from the image structure. off: (1, N), how
    far a sample is from the rough estimate, in log depth. bandwidth: (1, H, W).
    """

    maps: torch.Tensor
    guide: torch.Tensor
    guide_at_samples: torch.Tensor
    kernels: torch.Tensor
    off: torch.Tensor
    bandwidth: torch.Tensor
    uv: torch.Tensor
    inverse: torch.Tensor
    aspect: float
    median: float

    @property
    def size(self):
        return tuple(self.guide.shape[-2:])

    @property
    def first(self):
        """(1, H, W): the estimate that the model has to beat."""
        return self.guide[:, 3] * steering.STEP

    def to(self, device):
        """Return the same frame with its tensors on `device`."""
        return NetInputs(**{name: value.to(device) if isinstance(value, torch.Tensor) else value
                            for name, value in vars(self).items()})


def net_inputs(image, uv, depth, past_edges=False):
    """Prepare what `steering.prepare` takes for the network."""
    frame = steering.prepare(image, uv, depth, past_edges)
    guide, guide_at_samples, off = steering.guides(frame)
    spread = steering.rough(frame, steering.batch(np.abs(off)), 0)
    distance = steering.sample_distance(frame)
    height, width = frame.size
    half = ((width + 1) // 2, (height + 1) // 2)
    small = cv2.resize(image, half, interpolation=cv2.INTER_AREA).astype(np.float32) / 255 - 0.45
    first = cv2.resize(guide[3], half, interpolation=cv2.INTER_AREA) * steering.STEP
    maps = np.concatenate([
        small, cv2.merge([first, np.log(cv2.resize(spread, half) + 1e-3) / 3 + 1.5,
                          cv2.resize(np.minimum(distance * (0.5 / frame.spacing), 2), half)])], 2)
    return NetInputs(
        steering.batch(maps.transpose(2, 0, 1)), steering.batch(guide),
        steering.batch(guide_at_samples), steering.image_steering(frame),
        steering.batch(off), steering.batch(steering.bandwidths(frame, distance)), frame.uv,
        frame.inverse, frame.aspect, frame.median)


def _block(inside, outside, stride=1):
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                         nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class SteeringNet(nn.Module):
    """
    A U-Net at half resolution with heads per pixel, per sample and after the operator.

    channels: widths at 1/2, 1/4, 1/8 and 1/16 of the resolution. features: learned guide
    features. neighbours: K of the operator.
    """

    def __init__(self, channels=(16, 24, 40, 56), features=6, neighbours=20):
        super().__init__()
        self.config = {'channels': list(channels), 'features': features,
                       'neighbours': neighbours}
        self.features, self.neighbours = features, neighbours
        c = channels
        self.stem = nn.Sequential(_block(6, c[0]), _block(c[0], c[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_block(c[i], c[i + 1], 2), _block(c[i + 1], c[i + 1])) for i in range(3))
        self.bottom = _block(c[3], c[3])
        self.up = nn.ModuleList(_block(c[i + 1] + c[i], c[i]) for i in (2, 1, 0))
        self.last = _block(c[0], c[0])
        self.pixel_head = nn.Conv2d(c[0], features + 2, 1)
        self.sample_head = nn.Sequential(nn.Linear(c[0] + 2, 32), nn.ReLU(), nn.Linear(32, 4))
        self.refine = nn.Sequential(nn.Conv2d(c[0] + 3, 24, 3, padding=1), nn.ReLU(),
                                    nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
                                    nn.Conv2d(24, 2, 3, padding=1))
        self.gain = nn.Parameter(torch.zeros(4))
        for layer in (self.sample_head[-1], self.refine[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.pixel_head.bias)
        nn.init.normal_(self.pixel_head.weight, std=0.02)
        # Weights depend on squared differences of features: from 0 no gradient leads away.
        nn.init.normal_(self.pixel_head.weight[:features], std=0.4)
        nn.init.constant_(self.sample_head[-1].bias[3:], -3)  # reliable
        nn.init.constant_(self.refine[-1].bias[1:], -4)  # an error of about 2 %

    def trunk(self, maps):
        """(B, 6, h, w) to (B, C, h, w)."""
        levels = [self.stem(maps)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.bottom(levels.pop())
        for up in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode='bilinear', align_corners=False)
            x = up(torch.cat([skip, x], 1))
        return self.last(x)

    def forward(self, frame, features=None):
        """
        Return log inverse depth and log expected error, both (1, H, W), and the interpolation.

        frame: NetInputs. features: trunk(frame.maps), where it was computed for a batch.
        """
        x = self.trunk(frame.maps) if features is None else features
        size = frame.size
        pixel = self.pixel_head(x)
        guide = torch.cat([frame.guide * self.gain.exp()[None, :, None, None],
                           _enlarge(pixel[:, :self.features], size)], 1)
        control = _enlarge(pixel[:, self.features:], size).tanh()
        bandwidth = frame.bandwidth * control[:, 0].exp()
        ridge = steering.RIDGE * (3 * control[:, 1]).exp()

        half_uv = (frame.uv - 0.5) / 2
        near = torch.cat([_sample(x, half_uv), frame.off[..., None] * 5,
                          frame.off.abs()[..., None] * 5], 2)
        deviation = self.sample_head(near)
        kernels = torch.stack([
            frame.kernels[..., 0] * (0.7 * deviation[..., 0].tanh()).exp(),
            frame.kernels[..., 1] + deviation[..., 1],
            frame.kernels[..., 2] * deviation[..., 2].tanh().exp()], 2)
        # A feature that is 0 at pixels lowers a sample's weight for all of them.
        doubt = F.softplus(deviation[..., 3:])
        at_samples = torch.cat([frame.guide_at_samples * self.gain.exp(),
                                _sample(pixel[:, :self.features], half_uv), doubt], 2)
        guide = torch.cat([guide, torch.zeros_like(guide[:, :1])], 1)

        dense, mass = kernel_regression(
            frame.uv, frame.inverse, kernels, size, guide=guide, guide_at_samples=at_samples,
            neighbours=self.neighbours, order=1, bandwidth=bandwidth, ridge=ridge,
            aspect=frame.aspect)
        low, high = frame.inverse.min(), frame.inverse.max()
        kernel = dense.clamp(low * (1 - MARGIN), high * (1 + MARGIN)).log()
        shrunk = F.interpolate(torch.stack([kernel - frame.first, (mass + 1e-6).log() * 0.2], 1),
                               size=x.shape[-2:], mode='area')
        refined = self.refine(torch.cat([x, shrunk, frame.maps[:, 4:5]], 1))
        refined = _enlarge(refined, size)
        return kernel + 0.1 * refined[:, 0], refined[:, 1], kernel


def _enlarge(maps, size):
    """(B, C, h, w) at half resolution to (B, C, H, W); pixel centres as cv2.resize has them."""
    return F.interpolate(maps, scale_factor=2, mode='bilinear',
                         align_corners=False)[..., :size[0], :size[1]]


def _sample(maps, uv):
    """Read maps (1, C, h, w) at uv (1, N, 2) pixels, bilinear; returns (1, N, C)."""
    scale = uv.new_tensor([2 / maps.shape[-1], 2 / maps.shape[-2]])
    grid = ((uv + 0.5) * scale - 1)[:, None]
    found = F.grid_sample(maps, grid, mode='bilinear', padding_mode='border', align_corners=False)
    return found[:, :, 0].transpose(1, 2)
