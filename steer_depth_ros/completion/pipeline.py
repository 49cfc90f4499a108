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
from dataclasses import dataclass, replace

import numpy as np
import torch

from steer_depth_ros.completion import kernels, second_order_tv
from steer_depth_ros.completion.background import run_in_background
from steer_depth_ros.completion.confidence import confidence_of, expected_error
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.hole_filling import fill_large_holes
from steer_depth_ros.completion.kernels import Guide, LogScales, regress
from steer_depth_ros.completion.normalize import normalize, NormalizedFrame, smooth_lab
from steer_depth_ros.completion.occlusion import bleed_through_mask, remove_occluded, Samples
from steer_depth_ros.completion.resample import upsample
from steer_depth_ros.completion.sample_fit import fit_to_samples
from steer_depth_ros.completion.tuning import find_neighbors, LeaveOneOut, tune
from steer_depth_ros.completion.valid_region import valid_mask


def complete(image, uv, depth, half=False, drop_hidden=True, reach=None, config=CONFIG):
    """
    Complete one frame without weights.

    image: uint8 (H, W, 3) RGB. uv: float32 (N, 2) inside the image. depth: float32 (N,) meters,
    N > 0. half: at half of the resolution. drop_hidden: leave out occluded samples. reach: see
    `valid_mask`. Return depth (meters, NaN outside the valid region) and confidence, (H, W).
    """
    size = image.shape[:2]
    lab = run_in_background(smooth_lab, image, config)
    samples = remove_occluded(uv, depth, size, config) if drop_hidden else Samples(uv, depth)
    valid = run_in_background(valid_mask, samples.uv, size, reach, config)
    frame = normalize(image, *samples, half, config, lab)
    problem = describe(frame)
    problem = remove_bleed_through(refine_guide(problem, tune(problem.left_out)))
    inverse, _ = problem.regress([tune(problem.left_out)])
    inverse = second_order_tv.refine(problem.measured, inverse[0], problem.distance)
    error = expected_error(problem.measured, problem.log_residual, problem.distance)
    return limit_to(valid, *at_full_size(frame, inverse, error, samples, size))


def complete_with(estimate, image, uv, depth, drop_hidden=True, reach=None):
    """
    Complete one frame with a model; arguments and result as of `complete`.

    estimate: takes image and *Samples, and returns depth and expected relative error (H, W), None
    where it states none; then the fit of kernels to the samples says what to expect.
    """
    size = image.shape[:2]
    samples = remove_occluded(uv, depth, size) if drop_hidden else Samples(uv, depth)
    valid = run_in_background(valid_mask, samples.uv, size, reach)
    dense, error = estimate(image, *samples)
    if error is None:
        frame = normalize(image, *samples)
        _, log_residual = kernels.coarse_guide(frame)
        error = expected_error(frame, log_residual, kernels.sample_distance(frame))
    return limit_to(valid, dense, error)


@dataclass(frozen=True)
class KernelProblem:
    """
    What kernel regression of a frame needs.

    measured: the frame with its M samples. filled: with those inside large holes, N; the measured
    ones come first. kernels: (1, N, 3), see `structure_tensor_kernels`. log_residual: (M,), of the
    coarse estimate. distance: (H, W) pixels to the measured samples. bandwidth: (H, W).
    """

    measured: NormalizedFrame
    filled: NormalizedFrame
    kernels: torch.Tensor
    guide: Guide
    log_residual: np.ndarray
    distance: np.ndarray
    bandwidth: np.ndarray
    left_out: LeaveOneOut

    def regress(self, settings, scale=1):
        """Return inverse depth and sums of weights for several LogScales, (S, H, W) each."""
        return regress(self.filled, self.kernels, self.guide, self.bandwidth, settings, scale)


def describe(frame, queries=None) -> KernelProblem:
    """
    Fill large holes, and find kernels and a first guide.

    queries: how many samples the kernels are tuned on; None: those of the config.
    """
    filled, count = fill_large_holes(frame), frame.uv.shape[1]
    neighbors = run_in_background(find_neighbors, frame, queries)
    measured_distance = run_in_background(kernels.sample_distance, frame)
    steering = kernels.structure_tensor_kernels(filled)
    guide, log_residual = kernels.coarse_guide(filled)
    left_out = LeaveOneOut(frame, steering[:, :count], neighbors.result())
    distance = measured_distance.result()
    to_any = distance if filled is frame else kernels.sample_distance(filled)
    return KernelProblem(frame, filled, steering, guide, log_residual[:count], distance,
                         kernels.bandwidth_at(filled, to_any), left_out)


def refine_guide(problem: KernelProblem, settings: LogScales) -> KernelProblem:
    """
    Complete at half of the size, and let the result be the guide's depth.

    It follows edges better than the coarse estimate, so that samples of the wrong surface drop
    out the second time (Takeda et al. steer iteratively, too).
    """
    inverse, _ = problem.regress([settings], scale=2)
    frame = problem.filled
    return replace(
        problem, guide=problem.guide.with_depth(upsample(inverse[0], frame.size), frame.config),
        left_out=problem.left_out.with_guide(problem.left_out.predict(settings)))


def remove_bleed_through(problem: KernelProblem) -> KernelProblem:
    """Leave out samples of the background at the rims of objects, where the sensor sees them."""
    frame, filled = problem.measured, problem.filled
    if not frame.has_parallax:
        return problem
    keep = ~bleed_through_mask(problem.guide, frame)
    if keep.all():
        return problem
    added = np.ones(filled.uv.shape[1] - len(keep), bool)
    keep_filled = np.concatenate([keep, added])
    frame, filled = frame.choose(keep), filled.choose(keep_filled)
    guide = problem.guide._replace(at_samples=problem.guide.at_samples[keep_filled])
    return replace(
        problem, measured=frame, filled=filled, kernels=problem.kernels[:, keep_filled],
        guide=guide, log_residual=problem.log_residual[keep],
        left_out=problem.left_out.without(~keep), distance=kernels.sample_distance(frame),
        bandwidth=kernels.bandwidth_at(filled, kernels.sample_distance(filled)))


def at_full_size(frame, inverse, error, samples, size):
    """Return depth in meters and error at the `size` of the image."""
    depth = frame.median / inverse
    if not frame.half:
        return depth, error
    depth = 1 / upsample(1 / depth, size)  # inverse depth is linear on planes
    return fit_to_samples(depth, samples.uv, samples.depth, frame.config), upsample(error, size)


def limit_to(valid, depth, error):
    """Return depth and confidence where both `valid` (of a bool map) and the estimate say so."""
    known = (depth > 0) & (depth < np.inf) & valid.result()
    return (np.where(known, depth, np.float32(np.nan)),
            np.where(known, confidence_of(error), np.float32(0)))
