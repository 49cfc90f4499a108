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
The completion of `pipeline.complete` in torch: on a GPU, or on the CPU to compare.

What follows from the positions of the samples alone (which are occluded, their spacing, where
there are holes, where depth is valid) is found on the CPU first. Then everything is uploaded, and
nothing is read back before depth and confidence: no step asks for a value on the device.
"""
from dataclasses import dataclass, replace
import math
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from steer_depth_ros.completion import hole_filling
from steer_depth_ros.completion import tensor_maps as maps
from steer_depth_ros.completion.background import run_in_background
from steer_depth_ros.completion.confidence import CLOSE
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.normalize import at_half, NormalizedFrame
from steer_depth_ros.completion.occlusion import remove_occluded, Samples
from steer_depth_ros.completion.resample import one_per_pixel, to_scale
from steer_depth_ros.completion.spacing import kernel_aspect, sample_spacing
from steer_depth_ros.completion.tensor_tuning import (
    bandwidth_at,
    find_neighbors,
    LeaveOneOut,
    tune,
)
from steer_depth_ros.completion.valid_region import valid_mask
from steer_depth_ros.ops import regression  # noqa: F401  (registers the operator)
from steer_depth_ros.ops.surface import surface_step
from steer_depth_ros.ops.timing import stage


def complete(image, uv, depth, device='cpu', half=False, drop_hidden=True, reach=None,
             config=CONFIG):
    """Complete one frame on `device`; arguments and result as of `pipeline.complete`."""
    plan = prepare(image.shape[:2], uv, depth, half, drop_hidden, config)
    valid = run_in_background(valid_mask, plan.samples.uv, image.shape[:2], reach, config)
    device = torch.device(device)
    # cuDNN would round the conjugate gradients' convolutions to TF32.
    with stage('on_device', device), torch.backends.cudnn.flags(enabled=False):
        dense, confidence = on_device(torch.from_numpy(image).to(device), plan.to(device))
    dense, confidence, valid = dense.cpu().numpy(), confidence.cpu().numpy(), valid.result()
    return (np.where(valid, dense, np.float32(np.nan)), np.where(valid, confidence, np.float32(0)))


class Hole(NamedTuple):
    """
    One level of `hole_filling`: cells of `cell` pixels, `size` of them.

    chosen: (n,) samples, one a cell. row, column: of the cells that are filled, (m,). uv: (m, 2)
    the samples that they become.
    """

    cell: int
    size: tuple
    chosen: Tensor
    row: Tensor
    column: Tensor
    uv: Tensor


@dataclass(frozen=True)
class Plan:
    """
    What is known of a frame before its image is looked at.

    samples: those that are not occluded. frame: a NormalizedFrame without colors. uv (N, 2),
    inverse (N,): its samples. holes: from fine to coarse. quarter: the samples, filled ones among
    them, that the coarse estimate uses; None: all. spacing: of the samples in the full image.
    """

    samples: Samples
    frame: NormalizedFrame
    uv: Tensor
    inverse: Tensor
    measured_uv: Tensor
    measured_depth: Tensor
    holes: tuple
    quarter: Optional[Tensor]
    quarter_measured: Optional[Tensor]
    spacing: float

    def to(self, device):
        """Return the same plan with its tensors on `device`."""
        def move(each):
            return each.to(device) if isinstance(each, Tensor) else each
        tensors = ('uv', 'inverse', 'measured_uv', 'measured_depth', 'quarter',
                   'quarter_measured')
        holes = tuple(hole._make(map(move, hole)) for hole in self.holes)
        return replace(self, holes=holes, **{n: move(getattr(self, n)) for n in tensors})


def prepare(size, uv, depth, half=False, drop_hidden=True, config=CONFIG) -> Plan:
    """Return the Plan for samples at uv (N, 2), depth (N,) meters, in an image of `size`."""
    samples = remove_occluded(uv, depth, size, config) if drop_hidden else Samples(uv, depth)
    full = samples.uv
    uv, depth, work_size = full, samples.depth, size
    if half:
        uv, depth, work_size = at_half(uv, depth, size, config)
    median = float(np.median(depth))
    across, rows = sample_spacing(uv, work_size, config)
    frame = NormalizedFrame(
        work_size, np.empty(0), tensor(uv)[None], tensor(median / depth)[None], median,
        kernel_aspect(across, rows, config), math.sqrt(across * rows), rows, half,
        samples.has_parallax, config)
    holes = tuple(_holes(frame, uv, hole_filling.smallest_cell(frame)))
    everything = np.concatenate([uv, *(hole.uv.numpy() for hole in holes[:1])])
    return Plan(samples, frame, tensor(uv), tensor(median / depth), tensor(full),
                tensor(samples.depth), holes, _quarter(frame, everything), _quarter(frame, uv),
                math.sqrt(math.prod(sample_spacing(full, size, config))))


def tensor(array):
    """Make a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _quarter(frame, uv):
    small = -(-frame.size[0] // 4), -(-frame.size[1] // 4)
    if not frame.half or len(uv) <= small[0] * small[1]:
        return None
    return torch.from_numpy(one_per_pixel(to_scale(uv, 4), small))


def _holes(frame, uv, cell):
    """Yield the levels of `hole_filling`, which depend on positions alone."""
    if len(uv) <= frame.neighbors:
        return
    size = -(-frame.size[0] // cell), -(-frame.size[1] // cell)
    column, row = np.minimum((uv / cell).astype(int), (size[1] - 1, size[0] - 1)).T.clip(0)
    sample = np.full(size, -1)
    sample[row, column] = np.arange(len(uv))
    row, column = np.nonzero(hole_filling._enclosed(sample >= 0))
    center = (np.column_stack([column, row]).astype(np.float32) + np.float32(0.5)) * cell - 0.5
    one_sided = hole_filling._one_sided(frame, center)
    if not one_sided.any():
        return
    last = np.float32(frame.size[::-1]) - 1
    chosen, row, column = map(torch.from_numpy, (
        sample[sample >= 0], row[one_sided], column[one_sided]))
    yield Hole(cell, size, chosen, row, column, tensor(np.minimum(center, last)[one_sided]))
    yield from _holes(frame, uv, 2 * cell)


@dataclass(frozen=True)
class Scene:
    """
    A frame on the device: see `pipeline.KernelProblem`, whose names these are.

    uv (N, 2), inverse (N,): samples, the measured ones first, `count` of them; valid: bool (N,).
    """

    plan: Plan
    count: int
    uv: Tensor
    inverse: Tensor
    valid: Tensor
    lab: Tensor
    kernels: Tensor
    color: Tensor
    guide_depth: Tensor
    at_samples: Tensor
    log_residual: Tensor
    distance: Tensor
    bandwidth: Tensor

    @property
    def range(self):
        """Smallest and largest inverse depth of the samples, tensors."""
        return (torch.where(self.valid, self.inverse, math.inf).min(),
                torch.where(self.valid, self.inverse, -math.inf).max())


def on_device(image: Tensor, plan: Plan):
    """Return depth, meters, and confidence (H, W) of image uint8 (H, W, 3), on its device."""
    frame, config = plan.frame, plan.frame.config
    lab = _lab(image, config)
    scene = describe(plan, lab)
    left_out = None
    settings = torch.zeros(6, device=image.device)
    if scene.count > frame.neighbors:
        left_out = LeaveOneOut(frame, plan.uv, plan.inverse, scene.at_samples[:scene.count, :3],
                               scene.kernels[:scene.count], find_neighbors(plan.uv, frame))
        settings = tune(left_out)
    scene = replace(scene, guide_depth=log_steps(
        maps.upsample(regress(scene, settings, 2)[None], frame.size)[0], config))
    if left_out is not None:
        left_out = left_out.with_guide(left_out.predict(settings))
    if frame.has_parallax:
        rejected = bleed_through(scene)
        if left_out is not None:
            left_out = left_out.without(rejected)
        scene = without(scene, rejected)
    if left_out is not None:
        settings = tune(left_out)
    inverse = refine(scene, regress(scene, settings))
    error = expected_error(scene)
    depth = frame.median / inverse
    if frame.half:
        size = image.shape[:2]
        depth = 1 / maps.upsample(1 / depth[None], size)[0]
        depth = fit_to_samples(depth, plan)
        error = maps.upsample(error[None], size)[0]
    known = (depth > 0) & (depth < math.inf)
    confidence = 1 - (-CLOSE / error.clamp(min=1e-6)).exp()
    return torch.where(known, depth, math.nan), torch.where(known, confidence, 0.0)


def _lab(image, config):
    # Rounded as images of bytes are, and halves up.
    small = (maps.downsample2(image.permute(2, 0, 1).float()) + 0.5).floor()
    sigma = config.color_blur / 2
    smooth = (maps.blur(small, sigma, round(3 * sigma), parts=256) + 0.5).floor()
    return maps.lab(smooth / 255)


def _operator(uv, inverse, kernels, size, valid=None, guide=None, at_samples=None, bandwidth=None,
              ridge=None, neighbours=16, order=1, aspect=1.0):
    """Call the operator without its checks, which read values back; return (H, W)."""
    if kernels is None:
        kernels = torch.tensor([1.0, 0.0, 1.0], device=uv.device).expand(len(uv), 3)
    batch = [each if each is None else each[None].contiguous()
             for each in (uv, inverse, kernels, valid, guide, at_samples)]
    bandwidth = bandwidth[None].contiguous() if bandwidth.dim() else bandwidth
    dense, _ = torch.ops.steer_depth_ros.kernel_regression(
        *batch, bandwidth, ridge, *size, 26, 34, neighbours, 1, order, 0, 0, float(aspect))
    return dense[0]


def number(value, like):
    """Return a 0-dimensional tensor."""
    return torch.full((), float(value), device=like.device)


def interpolate_coarse(scene, values, order, chosen, valid):
    """Interpolate values (N,) of the scene with round kernels at a quarter of the size."""
    frame, config = scene.plan.frame, scene.plan.frame.config
    small = -(-frame.size[0] // 4), -(-frame.size[1] // 4)
    uv = maps.to_scale(scene.uv[:len(values)], 4)
    if chosen is not None:
        uv, values, valid = uv[chosen], values[chosen], valid[chosen]
    dense = _operator(uv, values, None, small, valid, bandwidth=number(config.bandwidth, uv),
                      ridge=number(config.ridge, uv), neighbours=config.coarse_neighbors,
                      order=order, aspect=frame.aspect)
    return maps.upsample(dense[None], frame.size, 4)[0]


def describe(plan, lab) -> Scene:
    """Fill large holes, and find kernels and a first guide, as `pipeline.describe` does."""
    frame, config = plan.frame, plan.frame.config
    uv, inverse = fill_holes(plan, lab)
    valid = torch.ones(len(uv), dtype=torch.bool, device=uv.device)
    at_lab = maps.to_scale(uv, 2) if frame.lab_scale == 2 else uv
    colors = maps.sample(lab, at_lab) / config.color_step
    at_samples = torch.cat([colors, (inverse.log() / config.depth_step)[:, None]], 1)
    color = lab / config.color_step
    if frame.lab_scale == 2:
        color = maps.upsample(color, frame.size)
    count = len(plan.uv)
    distance = maps.distance(plan.uv, valid[:count], frame.size)
    to_any = distance if len(uv) == count else maps.distance(uv, valid, frame.size)
    steering = structure_tensor_kernels(lab, at_lab, config)
    scene = Scene(plan, count, uv, inverse, valid, lab, steering, color, color[0], at_samples,
                  inverse, distance, bandwidth_at(frame, to_any))
    coarse = interpolate_coarse(scene, inverse, 1, plan.quarter, valid).clamp(*scene.range)
    residual = maps.sample(coarse.log()[None], uv)[:count, 0] - plan.inverse.log()
    return replace(scene, guide_depth=log_steps(coarse, config), log_residual=residual)


def log_steps(inverse, config):
    """Return the guide's depth of an estimate of inverse depth."""
    return inverse.log() / config.depth_step


def fill_holes(plan, lab):
    """Return uv and inverse depth of the samples with those inside large holes."""
    frame, config = plan.frame, plan.frame.config
    filled_uv, filled = plan.uv[:0], plan.inverse[:0]
    limits = plan.inverse.min(), plan.inverse.max()
    for hole in reversed(plan.holes):
        uv = torch.cat([plan.uv[hole.chosen], filled_uv])
        values = torch.cat([plan.inverse[hole.chosen], filled])
        guide = _area(lab, hole.size) / config.color_step
        at_lab = maps.to_scale(uv, 2) if frame.lab_scale == 2 else uv
        dense = _operator(
            maps.to_scale(uv, hole.cell), values, None, hole.size, None, guide,
            maps.sample(lab, at_lab) / config.color_step, number(config.bandwidth, uv),
            number(config.ridge, uv), frame.neighbors)
        filled_uv, filled = hole.uv, dense[hole.row, hole.column].clamp(*limits)
    return torch.cat([plan.uv, filled_uv]), torch.cat([plan.inverse, filled])


def _area(planes, size):
    return torch.nn.functional.adaptive_avg_pool2d(planes[None], size)[0]


def structure_tensor_kernels(lab, at_lab, config):
    """Return (N, 3) elongation, rotation and scaling, as `kernels.structure_tensor_kernels`."""
    dy, dx = maps.sobel(lab[0], 0.01 / 16)
    sigma = config.structure_blur / 2
    tensors = maps.blur(torch.stack([dy * dy, dy * dx, dx * dx]), sigma, maps.radius_of(sigma))
    a, b, c = maps.sample(tensors, at_lab).unbind(1)
    mean, deviation = (a + c) / 2, torch.hypot((a - c) / 2, b)
    strong, weak = (mean + deviation).sqrt(), (mean - deviation).clamp(min=0).sqrt()
    elongation = ((strong + config.structure_floor) / (weak + config.structure_floor)).clamp(
        max=config.max_elongation)
    rotation = torch.atan2(2 * b, a - c) / 2
    scaling = (strong * weak + 1e-4) ** config.scaling_exponent
    return torch.stack([elongation, rotation, scaling / maps.median(scaling)], 1)


def regress(scene, settings, scale=1):
    """Return inverse depth (H, W) inside the range of the samples, as `kernels.regress`."""
    frame, factors = scene.plan.frame, settings.exp()
    uv, size, bandwidth = scene.uv, frame.size, scene.bandwidth
    features = torch.cat([scene.color, scene.guide_depth[None]])
    if scale == 2:
        uv, size = maps.to_scale(uv, 2), ((size[0] + 1) // 2, (size[1] + 1) // 2)
        features, bandwidth = maps.resize(features, size), maps.resize(bandwidth[None], size)[0]
    dense = _operator(
        uv, scene.inverse, scene.kernels, size, scene.valid, features / factors[:4, None, None],
        scene.at_samples / factors[:4], bandwidth * factors[4], frame.config.ridge * factors[5],
        frame.neighbors, aspect=frame.aspect)
    return dense.clamp(*scene.range)


def bleed_through(scene):
    """Return which samples are rejected, bool (N,); see `occlusion.bleed_through_mask`."""
    config, count = scene.plan.frame.config, scene.count
    depth = maps.sample(scene.guide_depth[None], scene.uv[:count])[:, 0]
    behind = depth * config.depth_step - scene.inverse[:count].log()
    far_behind = (behind > config.bleed_far).sum()
    far_before = (behind < -config.bleed_far).sum()
    least = torch.maximum(far_before * config.bleed_one_sided,
                          number(config.bleed_min_share * count, behind))
    return (behind > config.bleed_depth) & (far_behind > least)


def without(scene, rejected):
    """Return the scene without the `rejected` of its measured samples, bool."""
    frame, count = scene.plan.frame, scene.count
    valid = torch.cat([~rejected, scene.valid[count:]])
    distance = maps.distance(scene.uv[:count], valid[:count], frame.size)
    to_any = (distance if len(scene.uv) == count
              else maps.distance(scene.uv, valid, frame.size))
    return replace(scene, valid=valid, distance=distance, bandwidth=bandwidth_at(frame, to_any))


def expected_error(scene):
    """Return the relative error to expect, as `confidence.expected_error`."""
    frame, config = scene.plan.frame, scene.plan.frame.config
    spread = interpolate_coarse(scene, scene.log_residual.abs(), 0, scene.plan.quarter_measured,
                                scene.valid[:scene.count])
    return (config.error_floor + config.error_per_residual * spread
            + config.error_per_distance / frame.mean_spacing * scene.distance)


def fit_to_samples(depth, plan):
    """Return depth (H, W) pulled to the samples, as `sample_fit.fit_to_samples`."""
    config, measured = plan.frame.config, plan.measured_depth
    sigma = max(config.pull_radius * plan.spacing, config.pull_min_radius)
    residual = measured / maps.sample(depth[None], plan.measured_uv)[:, 0] - 1
    residual = residual.clamp(-config.pull_max, config.pull_max)
    last = maps.last_at_pixels(plan.measured_uv, depth.shape)
    there = last >= 0
    total = torch.where(there, residual[last.clamp(min=0)], 0.0)
    total, count = maps.blur(torch.stack([total, there.float()]), sigma,
                             maps.taps_of_window(sigma))
    depth = (total / (count + config.pull_prior) + 1) * depth
    return depth.clamp(measured.min(), measured.max())


# --- Second-order total variation, as `second_order_tv` has it ---


def refine(scene, inverse):
    """Return inverse depth (H, W) moved towards the solution."""
    frame, config = scene.plan.frame, scene.plan.frame.config
    share = config.tv_share
    if not frame.half:
        share = share * (scene.distance / config.tv_ramp).clamp(max=1)
    starts = {2: inverse if frame.half else maps.downsample2(inverse[None])[0]}
    starts[4] = maps.downsample2(starts[2][None])[0]
    correction = torch.zeros_like(maps.downsample2(starts[4][None])[0])
    for shrink, steps in ((4, config.tv_quarter_steps), (2, config.tv_half_steps)):
        solution = starts[shrink]
        solution = solution * maps.upsample(correction[None], solution.shape)[0].exp()
        lab = scene.lab if shrink == 2 else maps.downsample2(scene.lab)
        uv = maps.to_scale(scene.uv[:scene.count], shrink // 2 if frame.half else shrink)
        solution = surface_step(solution, lab, uv, scene.inverse[:scene.count],
                                scene.valid[:scene.count], steps, config)
        correction = (solution.clamp(*scene.range) / starts[shrink]).log()
    if not frame.half:
        correction = maps.upsample(correction[None], inverse.shape)[0]
    return (inverse * (share * correction).exp()).clamp(*scene.range)
