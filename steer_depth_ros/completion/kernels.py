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
import math

import torch

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.maps import line, to_scale
from steer_depth_ros.ops import regression  # noqa: F401  (registers the operator)
from steer_depth_ros.ops.constants import number

# Settings are tensors (..., 6) of logarithms of factors on constants of the kernels; all 0 leaves
# these as they are. The first three are on color_step, for L, a and b of CIELab, the others on
# depth_step, bandwidth and ridge.


def structure_tensor_kernels(lab, uv, config):
    """
    Return (N, 3) elongation, rotation and scaling of the kernels at samples.

    lab: (3, h, w) CIELab of the image. uv: (N, 2) pixels of that map.
    """
    slopes = maps.sobel(lab[0], 0.01 / 16)
    products = slopes.new_empty(3, *lab.shape[1:])
    torch.mul(slopes[0], slopes, out=products[:2])
    torch.mul(slopes[1], slopes[1], out=products[2])
    a, b, c = maps.sample(maps.blur(products, config.structure_blur / 2), uv)
    mean = torch.lerp(a, c, 0.5)
    half, signs = a - mean, number(((1.0,), (-1.0,)), uv.device)
    slope = torch.addcmul(mean, torch.hypot(half, b), signs).clamp_(min=0).sqrt_()
    strong, weak = slope + config.structure_floor
    elongation = (strong / weak).clamp_(max=config.max_elongation)
    rotation = torch.atan2(b, half) / 2
    scaling = torch.addcmul(number(1e-4, uv.device), *slope) ** config.scaling_exponent
    return torch.stack([elongation, rotation, scaling.div_(maps.median(scaling))], 1)


def per_step(config, device):
    """Return factors (4,) on the features of the guide: color and log inverse depth."""
    return number((1 / config.color_step,) * 3 + (1 / config.depth_step,), device)


def interpolate(uv, values, size, kernels=None, valid=None, guide=None, at_samples=None, *,
                bandwidth, ridge, neighbours, order=1, aspect=1.0):
    """
    Call the operator without its checks, which read values back; see `ops.kernel_regression`.

    uv (N, 2), values (N,), kernels (N, 3; None: round) and valid (N,) serve all of the S problems
    of guide, at_samples, bandwidth and ridge. Return dense and mass, (S, H, W) each.
    """
    count = 1 if at_samples is None else len(at_samples)
    if kernels is None:
        kernels = number((1.0, 0.0, 1.0), uv.device).expand(len(uv), 3)
    bandwidth, ridge = (number(each, uv.device) if isinstance(each, float) else each
                        for each in (bandwidth, ridge))
    shared = [each if each is None else each.expand(count, *each.shape).contiguous()
              for each in (uv, values, kernels, valid)]
    own = [each if each is None else each.contiguous() for each in (guide, at_samples)]
    return torch.ops.steer_depth_ros.kernel_regression(
        *shared, *own, bandwidth.contiguous(), ridge.contiguous(), *size, 26, 34, neighbours, 1,
        order, 0, 0, float(aspect))


def interpolate_coarse(frame, values, order=1, valid=None):
    """
    Interpolate values with round kernels at a quarter of the size; return (H, W).

    values: of all samples of the frame or of the measured ones; valid: which of them count.
    """
    config, uv = frame.config, to_scale(frame.uv[:len(values)], 4)
    size = -(-frame.size[0] // 4), -(-frame.size[1] // 4)
    dense, _ = interpolate(uv, values, size, valid=valid, bandwidth=config.bandwidth,
                           ridge=config.ridge, neighbours=config.coarse_neighbors, order=order,
                           aspect=frame.aspect)
    return maps.upsample(dense[0], frame.size, 4)


def coarse_guide(frame, inverse, limits):
    """
    Return the logarithm of a first estimate (H, W) of inverse depth, at a quarter of the size.

    Return also by how much it misses the measured samples, (M,). inverse: (N,), of all samples.
    limits: smallest and largest inverse depth.
    """
    coarse = interpolate_coarse(frame, inverse).clamp(*limits).log()
    return coarse, maps.sample(coarse, frame.uv[:frame.count]) - frame.inverse.log()


def bandwidth_at(frame, distance):
    """Return the bandwidth at these distances (pixels) to the nearest sample."""
    config = frame.config
    least, most = config.bandwidth_at_sample, config.bandwidth_far
    slope = (1 - least) / (config.bandwidth_distance * frame.mean_spacing)
    return line(distance, config.bandwidth * slope, config.bandwidth * least).clamp_(
        max=config.bandwidth * most)


def regress(problem, settings, scale=1):
    """
    Return inverse depth inside the range of the samples, and the sums of weights: (S, H, W) each.

    problem: a KernelProblem. settings: (S, 6); one search for neighbors serves all. scale: 2 for
    half of the resolution.
    """
    frame, color, depth = problem.frame, problem.color, problem.log_depth
    uv, size, bandwidth = frame.uv, frame.size, problem.bandwidth
    if scale == 2:
        uv, size = to_scale(uv, 2), ((size[0] + 1) // 2, (size[1] + 1) // 2)
        color, depth, bandwidth = (maps.resize(each, size) for each in (color, depth, bandwidth))
    # What settings of 0 mean, and which way settings turn it.
    steps = (1 / frame.config.color_step,) * 3 + (1 / frame.config.depth_step,)
    constants = number(tuple(map(math.log, (*steps, 1.0, frame.config.ridge))), settings.device)
    signs = number((-1.0,) * 4 + (1.0,) * 2, settings.device)
    factors = torch.addcmul(constants, signs, settings).exp_()
    narrowing = factors[:, :4]
    features = color.new_empty(len(settings), 4, *size)
    torch.mul(color, narrowing[:, :3, None, None], out=features[:, :3])
    torch.mul(depth, narrowing[:, 3, None, None], out=features[:, 3])
    ridge = factors[:, 5]
    dense, mass = interpolate(
        uv, problem.inverse, size, problem.kernels, problem.valid, features,
        problem.at_samples * narrowing[:, None], bandwidth=bandwidth * factors[:, 4, None, None],
        ridge=ridge[0] if len(settings) == 1 else ridge[:, None, None].expand(-1, *size),
        neighbours=frame.neighbor_count, aspect=frame.aspect)
    return dense.clamp_(*problem.limits), mass
