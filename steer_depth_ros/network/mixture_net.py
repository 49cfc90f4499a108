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
A network that mixes kernels, pixel by pixel.

Where several estimates agree nothing is left to learn; where they differ the network weighs them
by what it sees: how they differ, how well each predicts the samples near by, how far samples are,
how much weight they have, edges of the image. A result is never outside the range of what is
mixed, which is what carries over from rendered scenes to real sensors. `completion/mixture.py`
prepares what it takes; all of it is free of metric scale.
"""
from dataclasses import dataclass

import torch
from torch import nn
import torch.nn.functional as F

ARCHITECTURE = 'mixture_net'
KERNELS = 6  # settings of the kernels that are mixed
TESTED = KERNELS + 2  # the guide's estimate, and the coarse one before it, are mixed in, too
MIXED = TESTED + 1  # and the solution of second-order TV that starts from the tuned kernels
CHANNELS = MIXED - 1 + 4 + KERNELS + 3 + 2 * TESTED + 6  # as completion/mixture.py joins them
FINE = 16  # channels of the layer at full resolution


@dataclass
class MixtureInputs:
    """
    One frame: `maps` (1, CHANNELS, h, w) at half resolution, and what is mixed.

    estimates: (1, MIXED, H, W) log inverse depth, relative to `median` (meters).
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

    def forward(self, inputs, features=None):
        """
        Return log inverse depth and log expected error, both (1, H, W), and the tuned kernels'.

        inputs: MixtureInputs. features: trunk(inputs.maps), where it was computed for a batch.
        """
        x = self.trunk(inputs.maps) if features is None else features
        height, width = inputs.estimates.shape[-2:]
        x = F.interpolate(self.wide(x), scale_factor=2, mode='bilinear',
                          align_corners=False)[..., :height, :width]
        apart = inputs.estimates[:, 1:] - inputs.estimates[:, :1]
        # As in the maps; without the logarithm, which would take longer than all the rest.
        x = F.relu(x + self.fine(apart / (apart.abs() + 0.05)), inplace=True)
        x = self.head(x)
        mixed = (x[:, :MIXED].softmax(1) * inputs.estimates).sum(1)
        return mixed, x[:, MIXED], inputs.first

    @classmethod
    def of(cls, config):
        """Build the network that a weights file describes."""
        return cls(config['channels'])
