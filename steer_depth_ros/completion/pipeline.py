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
"""The algorithm: from an image and sparse samples to dense depth and its confidence."""
from contextlib import nullcontext
from dataclasses import dataclass, replace
import math
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from steer_depth_ros.completion import kernels, maps, second_order_tv
from steer_depth_ros.completion.background import run_in_background
from steer_depth_ros.completion.confidence import confidence_of, expected_error
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.hole_filling import fill_holes, find_holes
from steer_depth_ros.completion.normalize import normalize, NormalizedFrame
from steer_depth_ros.completion.occlusion import bleed_through_mask, remove_occluded, Samples
from steer_depth_ros.completion.sample_fit import fit_to_samples
from steer_depth_ros.completion.spacing import sample_spacing
from steer_depth_ros.completion.tuning import choose_queries, find_neighbors, left_out_of
from steer_depth_ros.completion.valid_region import valid_mask
from steer_depth_ros.ops.constants import full_float32
from steer_depth_ros.ops.leave_one_out import LeaveOneOut, Tuned
from steer_depth_ros.ops.timing import stage


def complete(image, uv, depth, half=False, drop_hidden=True, reach=None, config=CONFIG,
             device='cpu', refine=None):
    """
    Complete one frame.

    image: uint8 (H, W, 3) RGB. uv: float32 (N, 2) inside the image. depth: float32 (N,) meters,
    N > 0. half: at half of the resolution. drop_hidden: leave out occluded samples. reach: see
    `valid_mask`. refine: a Refinement, which needs half of the resolution; None: without weights.
    Return depth (meters, NaN outside the valid region) and confidence, (H, W).
    """
    size, device = image.shape[:2], torch.device(device)
    with full_float32(device, cudnn=False):
        lab = analyze(torch.from_numpy(image).to(device), config)
        spacing = sample_spacing(uv, size, config)
        samples = (remove_occluded(uv, depth, size, config, spacing) if drop_hidden
                   else Samples(uv, depth))
        valid = run_in_background(valid_mask, samples.uv, size, reach, config, spacing)
        frame = prepare(samples, size, half, config, spacing=spacing)
        with stage('on_device', device) if device.type != 'cpu' else nullcontext():
            return limit_to(valid, *estimate(lab.result(), frame.to(device), refine))


def estimate(lab, frame, refine=None):
    """
    Return depth (meters) and expected error, (H, W) of the image, on the device of its `lab`.

    No step asks for a value on the device, and no shape depends on one.
    """
    problem, found = estimates(lab, frame)
    if refine is not None:
        return at_full_size(frame, *refine(problem, found))
    return at_full_size(frame, found.inverse, expected_error(
        frame, problem.log_residual, problem.distance, problem.measured_valid))


class Estimates(NamedTuple):
    """
    What is found on the way: maps (h, w).

    coarse: logarithm of inverse depth by round kernels. tuned: the settings of the last pass.
    kernels: inverse depth of the last pass. correction: logarithm of what second-order TV makes of
    it, over itself. inverse: the mean of both, the result.
    """

    coarse: Tensor
    tuned: Tuned
    kernels: Tensor
    correction: Tensor
    inverse: Tensor


def estimates(lab, frame):
    """Return the KernelProblem of the last pass, and the Estimates of a NormalizedFrame."""
    problem = describe(lab, frame)
    coarse = problem.log_depth
    problem, tuned = second_pass(problem, problem.left_out.tune())
    inverse, _ = problem.regress(tuned.settings[None])
    correction = second_order_tv.log_correction(problem, inverse[0])
    return problem, Estimates(coarse, tuned, inverse[0], correction,
                              second_order_tv.mean(problem, inverse[0], correction))


def complete_with(estimate, image, uv, depth, reach=None):
    """
    Complete one frame with a network that does all by itself; see `complete`.

    estimate: takes image, uv and depth, and returns depth, float32 (H, W), and None. How well
    kernels fit the samples says which error to expect.
    """
    samples, size = Samples(uv, depth), image.shape[:2]
    valid = run_in_background(valid_mask, uv, size, reach)
    dense, _ = estimate(image, uv, depth)
    frame = normalize(samples, size)
    _, log_residual = kernels.coarse_guide(frame, frame.inverse, torch.aminmax(frame.inverse))
    error = expected_error(frame, log_residual, maps.distance(frame.uv, None, size))
    return limit_to(valid, torch.from_numpy(dense), error)


def problem_of(image, samples, half=False, config=CONFIG):
    """Return the KernelProblem of an image uint8 (H, W, 3) and its Samples, on the CPU."""
    lab = analyze(torch.from_numpy(np.ascontiguousarray(image)), config)
    return describe(lab.result(), prepare(samples, image.shape[:2], half, config))


def analyze(image, config=CONFIG):
    """Return a Future of the smoothed CIELab of an image uint8 (H, W, 3), see `smooth_lab`."""
    return maps.meanwhile(maps.smooth_lab, image, config.color_blur / 2)


def prepare(samples, size, half=False, config=CONFIG, spacing=None) -> NormalizedFrame:
    """
    Find what follows from the positions of samples in an image of `size` alone.

    spacing: the `sample_spacing` of the samples in the image where it is known.
    """
    frame = normalize(samples, size, half, config, spacing)
    holes = find_holes(frame)
    uv = torch.cat([frame.uv, *(hole.uv for hole in holes[:1])])
    return replace(frame, uv=uv, holes=holes, queries=choose_queries(frame))


@dataclass(frozen=True)
class KernelProblem:
    """
    What kernel regression of a frame needs; its first M samples were measured, N fill holes, too.

    lab: (3, h, w) CIELab of the image, smoothed. inverse: (N,). valid: bool (N,), which samples
    were not rejected, None for all. limits: smallest and largest inverse depth. kernels: (N, 3),
    see `structure_tensor_kernels`. What tells surfaces apart: color (3, H, W) CIELab, log_depth
    (H, W) of an estimate of inverse depth, at_samples: (N, 4), and per_step (4,), which gives them
    their weights. log_residual: (M,), of the coarse estimate. distance: (H, W) pixels to the
    measured samples. bandwidth: (H, W).
    """

    frame: NormalizedFrame
    lab: Tensor
    inverse: Tensor
    valid: Optional[Tensor]
    limits: tuple
    kernels: Tensor
    color: Tensor
    log_depth: Tensor
    at_samples: Tensor
    log_residual: Tensor
    distance: Tensor
    bandwidth: Tensor
    left_out: LeaveOneOut

    @property
    def measured_valid(self):
        """Return `valid` of the measured samples."""
        return self.valid if self.valid is None else self.valid[:self.frame.count]

    @property
    def per_step(self):
        """Factors on the features of the guide, after which kernels weigh them, (4,)."""
        return kernels.per_step(self.frame.config, self.lab.device)

    def regress(self, settings, scale=1):
        """Return inverse depth and sums of weights for settings (S, 6), (S, H, W) each."""
        return kernels.regress(self, settings, scale)


@stage('kernels')
def describe(lab, frame) -> KernelProblem:
    """Fill large holes, and find kernels and a first guide; lab: (3, h, w)."""
    count = frame.count
    neighbors = maps.meanwhile(find_neighbors, frame.uv[:count], frame)
    distances = maps.meanwhile(_distances, frame.uv, count, frame.size)
    inverse = fill_holes(frame, lab)
    at_lab = maps.to_scale(frame.uv, frame.lab_scale)
    steering = kernels.structure_tensor_kernels(lab, at_lab, frame.config)
    limits = torch.aminmax(inverse)
    log_depth, log_residual = kernels.coarse_guide(frame, inverse, limits)
    color, colors = maps.upsample(lab, frame.size, frame.lab_scale), maps.sample(lab, at_lab)
    left_out = left_out_of(frame, colors.T, steering, neighbors.result())
    distance, to_any = distances.result()
    return KernelProblem(
        frame, lab, inverse, None, limits, steering, color, log_depth,
        torch.stack([*colors, inverse.log()], 1), log_residual, distance,
        kernels.bandwidth_at(frame, to_any), left_out)


def _distances(uv, count, size, valid=None):
    """Return the distance (H, W) to the nearest measured sample, and to one of any kind."""
    measured = maps.distance(uv[:count], valid if valid is None else valid[:count], size)
    return measured, measured if len(uv) == count else maps.distance(uv, valid, size)


def second_pass(problem: KernelProblem, tuned):
    """Return the problem guided by a first pass, which was Tuned, and what it is Tuned to then."""
    problem = remove_bleed_through(refine_guide(problem, tuned))
    return problem, problem.left_out.tune()


def refine_guide(problem: KernelProblem, tuned) -> KernelProblem:
    """
    Complete at half of the size with what was Tuned, and let the result be the guide's depth.

    It follows edges better than the coarse estimate, so that samples of the wrong surface drop
    out the second time (Takeda et al. steer iteratively, too).
    """
    inverse, _ = problem.regress(tuned.settings[None], scale=2)
    return replace(
        problem, log_depth=maps.upsample(inverse[0], problem.frame.size).log(),
        left_out=problem.left_out._replace(guide=tuned.predicted))


@stage('kernels')
def remove_bleed_through(problem: KernelProblem) -> KernelProblem:
    """Leave out samples of the background at the rims of objects, where the sensor sees them."""
    frame, inverse = problem.frame, problem.inverse
    if not frame.has_parallax:
        return problem
    rejected = bleed_through_mask(problem)
    if maps.by_opencv(rejected) and not rejected.any():  # a GPU is not asked
        return problem
    added = torch.ones(len(inverse) - frame.count, dtype=torch.bool, device=inverse.device)
    valid = torch.cat([~rejected, added])
    distance, to_any = _distances(frame.uv, frame.count, frame.size, valid)
    limits = (torch.where(valid, inverse, math.inf).min(),
              torch.where(valid, inverse, -math.inf).max())
    return replace(
        problem, valid=valid, limits=limits, distance=distance,
        bandwidth=kernels.bandwidth_at(frame, to_any),
        left_out=problem.left_out._replace(rejected=rejected))


def at_full_size(frame, inverse, error):
    """Return depth in meters and error at the size of the image."""
    if not frame.half:
        return frame.median / inverse, error
    depth = frame.median / maps.upsample(inverse, frame.image_size)  # linear on planes
    return (fit_to_samples(depth, frame.given, frame.config),
            maps.upsample(error, frame.image_size))


def limit_to(valid, depth, error):
    """Return depth and confidence where both `valid` (a Future) and the estimate say so."""
    valid = torch.from_numpy(valid.result()).to(depth.device)
    known = valid & (depth > 0) & (depth < math.inf)
    return (torch.where(known, depth, np.nan).cpu().numpy(),
            torch.where(known, confidence_of(error), 0.0).cpu().numpy())
