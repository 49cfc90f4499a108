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
from functools import cached_property
import math
from typing import Tuple

import cv2
import numpy as np
from scipy.spatial import cKDTree
import torch

from steer_depth_ros.completion.config import CONFIG, Config
from steer_depth_ros.completion.resample import (
    as_batch_tensor,
    downsample2,
    one_per_pixel,
    sample_bilinear,
    to_scale,
)
from steer_depth_ros.completion.spacing import kernel_aspect, sample_spacing
from steer_depth_ros.ops.timing import stage


@dataclass(frozen=True)
class NormalizedFrame:
    """
    Samples in inverse depth relative to their median, and the colors of the image.

    size: (H, W) of the maps that are computed. lab: float32 (h, w, 3), the image in CIELab,
    smoothed and at half of its resolution. uv: (1, N, 2) pixels of `size`. inverse: (1, N)
    median / depth. median: meters. aspect: the operator's. mean_spacing: mean distance of samples
    in pixels, row_spacing: that of scan lines. half: `size` is half of the image's.
    has_parallax: the sensor sees past edges. config: the constants of its completion.
    """

    size: Tuple[int, int]
    lab: np.ndarray
    uv: torch.Tensor
    inverse: torch.Tensor
    median: float
    aspect: float
    mean_spacing: float
    row_spacing: float
    half: bool
    has_parallax: bool
    config: Config

    @property
    def range(self):
        """Smallest and largest inverse depth of the samples."""
        return self.inverse.min().item(), self.inverse.max().item()

    @property
    def neighbors(self):
        """How many samples a pixel is computed from."""
        return self.config.half_neighbors if self.half else self.config.neighbors

    @property
    def lab_scale(self):
        """How much smaller than `size` the map `lab` is."""
        return 1 if self.half else 2

    def colors(self, uv):
        """Return CIELab at uv (1, N, 2), in units of the config's color_step, (N, 3)."""
        return sample_bilinear(self.lab, to_scale(uv, self.lab_scale)) * (
            1 / self.config.color_step)

    def with_samples(self, uv, inverse):
        """Return the same frame with other samples."""
        return replace(self, uv=uv, inverse=inverse)

    def choose(self, indices):
        """Return the same frame with some of the samples."""
        return self.with_samples(self.uv[:, indices], self.inverse[:, indices])

    @property
    def distance_scale(self):
        """Factors on (u, v), after which the operator measures distances."""
        return np.array([1, 1 / self.aspect], np.float32)

    @cached_property
    def tree(self):
        """The samples, so scaled, to look up neighbors."""
        return cKDTree(self.uv[0].numpy() * self.distance_scale, balanced_tree=False,
                       compact_nodes=False)


def smooth_lab(image, config=CONFIG):
    """Return an image uint8 (H, W, 3) in CIELab, smoothed and at half of its resolution."""
    smooth = cv2.GaussianBlur(downsample2(image), (0, 0), config.color_blur / 2)
    return cv2.cvtColor(smooth.astype(np.float32) * (1 / 255), cv2.COLOR_RGB2Lab)


def at_half(uv, depth, size, config=CONFIG):
    """Return uv, depth and size at half of the resolution; of a depth image one sample a pixel."""
    dense = len(uv) > config.dense_samples * size[0] * size[1]
    uv, size = to_scale(uv, 2), ((size[0] + 1) // 2, (size[1] + 1) // 2)
    if dense:
        chosen = one_per_pixel(uv, size)
        uv, depth = uv[chosen], depth[chosen]
    return uv, depth, size


@stage('normalize')
def normalize(image, uv, depth, has_parallax=False, half=False, config=CONFIG, lab=None):
    """
    Return the NormalizedFrame of image uint8 (H, W, 3), uv float32 (N, 2) and depth (N,) meters.

    half: at half of the image's resolution, where a depth image keeps one sample a pixel. lab: a
    Future of `smooth_lab`, where that is under way.
    """
    size = image.shape[:2]
    if half:
        uv, depth, size = at_half(uv, depth, size, config)
    colors = smooth_lab(image, config) if lab is None else lab.result()
    median = float(np.median(depth))
    across, rows = sample_spacing(uv, size, config)
    return NormalizedFrame(
        size, colors, as_batch_tensor(uv), as_batch_tensor(median / depth), median,
        kernel_aspect(across, rows, config), math.sqrt(across * rows), rows, half, has_parallax,
        config)
