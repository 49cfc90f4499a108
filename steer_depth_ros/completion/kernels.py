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
Kernels and guide of an image, and the kernel regression that they serve.

Takeda, Farsiu, Milanfar, "Kernel regression for image processing and reconstruction", TIP 2007:
at each sample the structure tensor of the image gives elongation, rotation and scaling of its
kernel. Depth is interpolated as a local plane in INVERSE depth, exact on planes at any distance.
A coarse estimate joins the color as a guide, so that a pixel takes its depth from samples of its
own surface.
"""
from typing import NamedTuple, Sequence

import cv2
import numpy as np
import torch

from steer_depth_ros.completion.normalize import NormalizedFrame
from steer_depth_ros.completion.resample import (
    as_batch_tensor,
    one_per_pixel,
    sample_bilinear,
    to_scale,
    upsample,
)
from steer_depth_ros.geometry.projection import pixel_of
from steer_depth_ros.ops import kernel_regression
from steer_depth_ros.ops.timing import stage


class LogScales(NamedTuple):
    """Logarithms of factors on constants of the kernels; all 0 leaves these as they are."""

    lightness: float = 0.0  # these three on color_step, for L, a and b of CIELab
    red_green: float = 0.0
    yellow_blue: float = 0.0
    depth_step: float = 0.0
    bandwidth: float = 0.0
    ridge: float = 0.0

    def factors(self):
        """Return the factors, LogScales of float32."""
        return LogScales(*np.exp(np.array(self, np.float32)))

    @property
    def features(self):
        """Those of the guide's four features, (4, ...)."""
        return np.stack(self[:4])


class Guide(NamedTuple):
    """
    What tells surfaces apart: color and the logarithm of an estimate, in units of their steps.

    color: (3, H, W). depth: (H, W). at_samples: (N, 4).
    """

    color: np.ndarray
    depth: np.ndarray
    at_samples: np.ndarray

    def with_depth(self, inverse, config):
        """Return the guide with another estimate, inverse depth (H, W)."""
        return self._replace(depth=np.log(inverse) * np.float32(1 / config.depth_step))


@stage('kernels')
def structure_tensor_kernels(frame):
    """Return (1, N, 3) elongation, rotation and scaling of the kernels at the samples."""
    config = frame.config
    light = cv2.extractChannel(frame.lab, 0)
    dy = cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=0.01 / 16)
    dx = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=0.01 / 16)
    tensor = cv2.GaussianBlur(cv2.merge([dy * dy, dy * dx, dx * dx]), (0, 0),
                              config.structure_blur / 2)
    a, b, c = sample_bilinear(tensor, to_scale(frame.uv, frame.lab_scale)).T
    mean, deviation = (a + c) / 2, np.hypot((a - c) / 2, b)
    strong, weak = np.sqrt(mean + deviation), np.sqrt(np.maximum(mean - deviation, 0))
    elongation = np.minimum((strong + config.structure_floor) / (weak + config.structure_floor),
                            config.max_elongation)
    rotation = np.arctan2(2 * b, a - c) / 2
    scaling = (strong * weak + 1e-4) ** config.scaling_exponent
    scaling /= np.median(scaling)
    return as_batch_tensor(np.stack([elongation, rotation, scaling], 1))


def round_kernels(values):
    """Return (1, N, 3) kernels without direction for values (1, N)."""
    return torch.tensor([1.0, 0.0, 1.0]).expand(*values.shape, 3)


def interpolate_coarse(frame, values, order, shrink):
    """Interpolate values (1, N) with round kernels at 1 / shrink of the size; return (H, W)."""
    config = frame.config
    height, width = frame.size
    small = -(-height // shrink), -(-width // shrink)
    uv = to_scale(frame.uv, shrink)
    if frame.half and values.numel() > small[0] * small[1]:
        chosen = one_per_pixel(uv[0].numpy(), small)
        uv, values = uv[:, chosen], values[:, chosen]
    dense, _ = kernel_regression(uv, values, round_kernels(values), small,
                                 neighbours=config.coarse_neighbors, order=order,
                                 bandwidth=config.bandwidth, ridge=config.ridge,
                                 aspect=frame.aspect)
    return upsample(dense[0].numpy(), frame.size, shrink)


@stage('kernels')
def coarse_guide(frame):
    """
    Return the Guide of color and of a first estimate at a quarter of the size.

    Return also by how much that estimate misses the samples, (N,) log inverse depth.
    """
    config, measured = frame.config, np.log(frame.inverse[0].numpy())
    color = np.empty((3, *frame.size), np.float32)
    for plane, channel in zip(color, cv2.split(frame.lab * np.float32(1 / config.color_step))):
        plane[:] = upsample(channel, frame.size, frame.lab_scale)
    coarse = np.clip(interpolate_coarse(frame, frame.inverse, 1, 4), *frame.range)
    at_samples = np.column_stack([frame.colors(frame.uv), measured / config.depth_step])
    guide = Guide(color, np.empty(0), at_samples.astype(np.float32)).with_depth(coarse, config)
    return guide, sample_bilinear(np.log(coarse)[..., None], frame.uv)[:, 0] - measured


def sample_distance(frame):
    """Return the distance of every pixel to the nearest sample, (H, W) pixels."""
    empty = np.ones(frame.size, np.uint8)
    empty[pixel_of(frame.uv[0].numpy(), frame.size)] = 0
    return cv2.distanceTransform(empty, cv2.DIST_L2, 3)


def bandwidth_at(frame, distance):
    """Return the bandwidth at these distances (pixels) to the nearest sample."""
    config = frame.config
    share = distance * (1 / (config.bandwidth_distance * frame.mean_spacing))
    factor = config.bandwidth_at_sample + (1 - config.bandwidth_at_sample) * share
    return config.bandwidth * np.clip(factor, config.bandwidth_at_sample, config.bandwidth_far)


def regress(frame: NormalizedFrame, kernels, guide: Guide, bandwidth,
            settings: Sequence[LogScales], scale=1):
    """
    Return inverse depth inside the range of the samples, and the sums of weights: (S, H, W) each.

    kernels: (1, N, 3). bandwidth: (H, W). settings: S of them; one search for neighbors serves
    all. scale: 2 for half of the resolution.
    """
    uv, size, color, depth = frame.uv, frame.size, guide.color, guide.depth
    if scale == 2:
        uv, size = to_scale(uv, 2), ((size[0] + 1) // 2, (size[1] + 1) // 2)
        color = np.stack([cv2.resize(plane, size[::-1]) for plane in color])
        depth, bandwidth = (cv2.resize(plane, size[::-1]) for plane in (depth, bandwidth))
    count = len(settings)
    factors = LogScales(*np.array(settings, np.float32).T).factors()
    feature_scale = 1 / factors.features.T
    features = np.empty((count, 4, *size), np.float32)
    np.multiply(color, feature_scale[:, :3, None, None], out=features[:, :3])
    np.multiply(depth, feature_scale[:, 3, None, None], out=features[:, 3])
    ridge = torch.from_numpy(frame.config.ridge * factors.ridge[:, None, None])
    dense, mass = kernel_regression(
        uv.expand(count, -1, -1), frame.inverse.expand(count, -1), kernels.expand(count, -1, -1),
        size, guide=torch.from_numpy(features),
        guide_at_samples=torch.from_numpy(guide.at_samples * feature_scale[:, None]),
        bandwidth=torch.from_numpy(bandwidth * factors.bandwidth[:, None, None]),
        neighbours=frame.neighbors, order=1, aspect=frame.aspect,
        ridge=ridge.reshape(()) if count == 1 else ridge.expand(count, *size))
    return dense.clamp_(*frame.range).numpy(), mass.numpy()
