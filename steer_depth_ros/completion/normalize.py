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
"""A frame free of metric scale, at the resolution at which it is completed."""
from dataclasses import dataclass, replace
import math
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from steer_depth_ros.completion.config import CONFIG, Config
from steer_depth_ros.completion.maps import to_scale
from steer_depth_ros.completion.spacing import kernel_aspect, sample_spacing
from steer_depth_ros.geometry.projection import pixel_of
from steer_depth_ros.ops.timing import stage


class Given(NamedTuple):
    """Samples in the image as it came: uv (N, 2) pixels, depth (N,) meters, typical spacing."""

    uv: Tensor
    depth: Tensor
    spacing: float


@dataclass(frozen=True)
class NormalizedFrame:
    """
    What is known of a frame before its image is looked at: positions, and depth of the samples.

    image_size: (H, W) of the image. size: (H, W) of the maps that are computed. uv: (N, 2) pixels
    of `size`, the M measured samples first, then those that fill holes. inverse: (M,) inverse
    depth relative to the median. median: meters. aspect: the operator's. mean_spacing: mean
    distance of samples in pixels, row_spacing: that of scan lines. half: `size` is half of the
    image's. has_parallax: the sensor sees past edges. config: the constants of its completion.
    given: the samples at the size of the image. holes: see `hole_filling`, fine to coarse.
    queries: the samples that the kernels are tuned on, int64 (Q,).
    """

    image_size: Tuple[int, int]
    size: Tuple[int, int]
    uv: Tensor
    inverse: Tensor
    median: float
    aspect: float
    mean_spacing: float
    row_spacing: float
    half: bool
    has_parallax: bool
    config: Config
    given: Given
    holes: tuple = ()
    queries: Optional[Tensor] = None

    @property
    def count(self):
        """How many samples were measured."""
        return len(self.inverse)

    @property
    def neighbor_count(self):
        """How many samples a pixel is computed from."""
        return self.config.half_neighbors if self.half else self.config.neighbors

    @property
    def lab_scale(self):
        """How much smaller than `size` the image's CIELab is."""
        return 1 if self.half else 2

    def to(self, device):
        """Return the same frame on `device`; itself where that is the CPU."""
        if torch.device(device).type == 'cpu':
            return self
        return replace(self, **{name: _moved(getattr(self, name), device) for name in (
            'uv', 'inverse', 'given', 'holes', 'queries')})


def _moved(value, device):
    """Return a tensor, or tuples of such, on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if not isinstance(value, tuple):
        return value
    parts = [_moved(each, device) for each in value]
    return value._make(parts) if hasattr(value, '_make') else tuple(parts)


@stage('normalize')
def normalize(samples, size, half=False, config=CONFIG, spacing=None) -> NormalizedFrame:
    """
    Return the frame of Samples in an image of `size` (H, W), without holes and neighbors.

    half: at half of the image's resolution, where a depth image keeps one sample a pixel.
    spacing: the `sample_spacing` of the samples in the image where it is known.
    """
    order = top_to_bottom(samples.uv, samples.depth, size)
    uv, depth, work_size = samples.uv[order], samples.depth[order], size
    across, rows = spacing or sample_spacing(uv, size, config)
    given = Given(tensor(uv), tensor(depth), math.sqrt(across * rows))
    if half:
        dense = len(uv) > config.dense_samples * size[0] * size[1]
        uv, work_size = to_scale(uv, 2), ((size[0] + 1) // 2, (size[1] + 1) // 2)
        if dense:
            chosen = one_per_pixel(uv, work_size)
            uv, depth = np.take(uv, chosen, 0), depth[chosen]
        across, rows = sample_spacing(uv, work_size, config)
    median = float(np.median(depth))
    return NormalizedFrame(
        size, work_size, tensor(uv), tensor(median / depth), median,
        kernel_aspect(across, rows, config), math.sqrt(across * rows), rows, half,
        samples.has_parallax, config, given)


def top_to_bottom(uv, depth, size):
    """
    Return what sorts samples by row, column and nearness, so that their order does not matter.

    Where one of several in a cell counts, it is then the lowest in the image, as a rule the
    nearest. Positions are told apart to 1 / 65535 of `size` (H, W); of samples at the same one,
    which would be neighbors of each other alone, the nearest is kept.
    """
    u, v = uv.T
    if np.all((v[1:] > v[:-1]) | ((v[1:] == v[:-1]) & (u[1:] > u[:-1]))):
        return slice(None)  # as of a depth image
    far, column, row = ((values * np.float32(65535)).astype(np.uint16) for values in (
        depth.min() / depth, (u + 0.5) / size[1], (v + 0.5) / size[0]))
    order = np.argsort(far, kind='stable')  # by radix: ten times as fast as of numbers
    for key in column, row:
        order = order[np.argsort(key[order], kind='stable')]
    place = (row.astype(np.uint32) << 16 | column)[order]
    return order[np.append(place[1:] != place[:-1], True)]


def one_per_pixel(uv, size):
    """Choose of samples at uv (N, 2) one for each pixel of `size` (H, W); return indices."""
    sample = last_at_pixels(uv, size)
    return np.sort(sample[sample >= 0])


def last_at_pixels(uv, size):
    """Return the last one of samples at uv (N, 2) in each pixel of `size`, (H, W), or -1."""
    sample, (row, column) = np.full(size, -1), pixel_of(uv, size)
    sample.ravel()[row * size[1] + column] = np.arange(len(uv))
    return sample


def tensor(array):
    """Make a float32 tensor."""
    return torch.from_numpy(np.require(array, np.float32, ['C', 'W']))
