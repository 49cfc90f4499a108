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
Completion without weights: steering kernels from the image structure.

Takeda, Farsiu, Milanfar, "Kernel regression for image processing and reconstruction", TIP 2007:
at each sample the structure tensor of the image gives elongation, rotation and scaling of its
kernel. Depth is interpolated as a local plane in INVERSE depth, exact on planes at any distance.
A first rough estimate joins the colour as a guide, so that a pixel takes its depth from samples
of its own surface.
"""
from dataclasses import dataclass
import math

import cv2
import numpy as np
import torch

from steer_depth_ros import leave_one_out
from steer_depth_ros.ops import kernel_regression
from steer_depth_ros.spacing import kernel_aspect, sample_spacing

COLOUR = 8.0  # CIELab difference that lowers a sample's weight to exp(-1/2)
COLOUR_BLUR = 2.0  # pixels; texture finer than that says nothing about depth
STEP = 0.15  # the same for the logarithm of depth
STRUCTURE_BLUR = 1.5  # pixels; the window of the structure tensor
REGULARISATION = 0.01  # lambda': elongation where the image is flat goes to 1
LARGEST_ELONGATION = 4.0
SCALING_EXPONENT = 0.2  # alpha
NEIGHBOURS, ROUGH_NEIGHBOURS = 24, 16
BANDWIDTH = 0.7  # local spacings
RIDGE = 0.01
# Share of the bandwidth on a sample and far from any, and where it is 1, in sample spacings.
NARROWEST, WIDEST, HALFWAY = 0.25, 1.2, 0.45
# Expected relative error: Laplace maximum likelihood on rendered scenes; the floor is that of
# a real sensor. Distances in sample spacings.
ERROR_FLOOR, ERROR_PER_SPREAD, ERROR_PER_SPACING = 0.004, 1.15, 0.0098


@dataclass
class Inputs:
    """
    A frame as the interpolation sees it, free of metric scale.

    lab: float32 (H, W, 3) CIELab, smoothed. uv: (1, N, 2). inverse: (1, N) median depth / depth.
    median: metres. aspect: of the operator. spacing: mean distance of samples in pixels, rows:
    that of scan lines.
    """

    lab: np.ndarray
    uv: torch.Tensor
    inverse: torch.Tensor
    median: float
    aspect: float
    spacing: float
    rows: float

    @property
    def size(self):
        return self.lab.shape[:2]


def prepare(image, uv, depth):
    """Normalise image uint8 (H, W, 3), uv float32 (N, 2) and depth float32 (N,)."""
    lab = cv2.cvtColor(image.astype(np.float32) * (1 / 255), cv2.COLOR_RGB2Lab)
    lab = cv2.GaussianBlur(lab, (0, 0), COLOUR_BLUR)
    median = float(np.median(depth))
    across, rows = sample_spacing(uv, image.shape[:2])
    return Inputs(lab, batch(uv), batch(median / depth), median, kernel_aspect(across, rows),
                  math.sqrt(across * rows), rows)


def at_samples(maps, uv):
    """Read maps (H, W, C) at uv (1, N, 2), bilinear; returns (N, C)."""
    height, width = maps.shape[:2]
    grid = uv[0, :, None].numpy()
    # cv2.remap takes no more than 32767 rows.
    parts = [cv2.remap(maps, np.ascontiguousarray(part[..., 0]),
                       np.ascontiguousarray(part[..., 1]), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)
             for part in np.array_split(grid, len(grid) // 30000 + 1)]
    return np.concatenate(parts).reshape(grid.shape[0], -1)


def image_steering(lab, uv):
    """Return (1, N, 3) elongation, rotation and scaling of the kernels at uv (1, N, 2)."""
    light = lab[..., 0] * 0.01
    dy = cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=1 / 8)
    dx = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=1 / 8)
    tensor = cv2.GaussianBlur(cv2.merge([dy * dy, dy * dx, dx * dx]), (0, 0), STRUCTURE_BLUR)
    a, b, c = at_samples(tensor, uv).T
    middle, half = (a + c) / 2, np.hypot((a - c) / 2, b)
    strong, weak = np.sqrt(middle + half), np.sqrt(np.maximum(middle - half, 0))
    elongation = np.minimum((strong + REGULARISATION) / (weak + REGULARISATION),
                            LARGEST_ELONGATION)
    rotation = np.arctan2(2 * b, a - c) / 2
    scaling = (strong * weak + 1e-4) ** SCALING_EXPONENT
    scaling /= np.median(scaling)
    return batch(np.stack([elongation, rotation, scaling], 1))


def rough(inputs, values, order):
    """Interpolate values (1, N) with round kernels at half resolution; returns (H, W)."""
    height, width = inputs.size
    half = ((height + 1) // 2, (width + 1) // 2)
    round_kernel = torch.tensor([1.0, 0.0, 1.0]).expand(1, values.shape[1], 3)
    dense, _ = kernel_regression((inputs.uv - 0.5) / 2, values, round_kernel, half,
                                 neighbours=ROUGH_NEIGHBOURS, order=order, bandwidth=BANDWIDTH,
                                 ridge=RIDGE, aspect=inputs.aspect)
    full = cv2.resize(dense[0].numpy(), (2 * half[1], 2 * half[0]))
    return np.ascontiguousarray(full[:height, :width])


def guides(inputs):
    """
    Return the guide (H, W, 4), its values at the samples (N, 4), and `off` (N,).

    Colour, and the logarithm of a first rough estimate, each in units of the change that lowers a
    weight to exp(-1/2). off: log depth by which the rough estimate misses a sample.
    """
    values = inputs.inverse[0].numpy()
    first = np.log(np.clip(rough(inputs, inputs.inverse, 1), values.min(), values.max()))
    guide = cv2.merge([*cv2.split(inputs.lab * (1 / COLOUR)), first * (1 / STEP)])
    at = at_samples(guide, inputs.uv)
    measured = np.log(values) / STEP
    off = (at[:, 3] - measured) * STEP
    at[:, 3] = measured
    return guide, at, off


def sample_distance(inputs):
    """Return the distance of every pixel to the nearest sample, (H, W) pixels."""
    near = np.clip(np.rint(inputs.uv[0].numpy()).astype(int), 0,
                   (inputs.size[1] - 1, inputs.size[0] - 1))
    empty = np.ones(inputs.size, np.uint8)
    empty[near[:, 1], near[:, 0]] = 0
    return cv2.distanceTransform(empty, cv2.DIST_L2, 3)


def bandwidths(inputs, distance):
    """Return the operator's bandwidth (H, W): narrow near a sample, which then counts most."""
    share = distance * (1 / (HALFWAY * inputs.spacing))
    return BANDWIDTH * np.clip(NARROWEST + (1 - NARROWEST) * share, NARROWEST, WIDEST)


def regress(inputs, kernels, guide, at, bandwidth, settings):
    """
    Return inverse depth (H, W) inside the range of the samples.

    guide (H, W, 4) and at (N, 4) as `guides` gives them. settings: (6,), see `leave_one_out`.
    """
    factors = settings.exp()
    scale = (1 / factors[:4]).numpy()
    dense, _ = kernel_regression(
        inputs.uv, inputs.inverse, kernels, inputs.size,
        guide=batch((guide * scale).transpose(2, 0, 1)), guide_at_samples=batch(at * scale),
        neighbours=NEIGHBOURS, order=1,
        bandwidth=batch(bandwidth * factors[leave_one_out.BANDWIDTH].item()),
        ridge=RIDGE * factors[leave_one_out.RIDGE].item(), aspect=inputs.aspect)
    low, high = inputs.inverse.min().item(), inputs.inverse.max().item()
    return np.clip(dense[0].numpy(), low, high)


def interpolate(inputs):
    """Return inverse depth (median / depth) and the expected relative error, both (H, W)."""
    guide, at, off = guides(inputs)
    distance = sample_distance(inputs)
    kernels = image_steering(inputs.lab, inputs.uv)
    settings = leave_one_out.tune(leave_one_out.LeaveOneOut(inputs, kernels))
    dense = regress(inputs, kernels, guide, at, bandwidths(inputs, distance), settings)
    return dense, expected_error(inputs, off, distance)


def expected_error(inputs, off, distance):
    """Return the relative error to expect, (H, W): bad fits around and far samples raise it."""
    spread = rough(inputs, batch(np.abs(off)), 0)
    return (ERROR_FLOOR + ERROR_PER_SPREAD * spread
            + ERROR_PER_SPACING / inputs.spacing * distance)


class SteeringModel:
    """The preset `steering` as the completer calls it; all of it runs on the CPU."""

    operator_device = torch.device('cpu')

    def estimate(self, image, uv, depth):
        """Return depth (metres) and expected relative error, float32 (H, W)."""
        inputs = prepare(image, uv, depth)
        inverse, error = interpolate(inputs)
        return inputs.median / inverse, error


def batch(array):
    """Make a float32 tensor with a leading dimension of 1."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
