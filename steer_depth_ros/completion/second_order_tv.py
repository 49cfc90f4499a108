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
Refinement without weights: second-order total variation.

Kernel regression sees a pixel's nearest samples, each pixel for itself; a variational problem sees
the whole of a surface. In inverse depth z, where planes are linear, it minimizes

    sum over samples of |z - measured| + tv_smoothness * sum over pixels of edge * |curvature|

where curvature stands for second differences along x, along y and across, all relative to z, and
`edge` falls to 0 where the image changes (a piecewise planar prior, as in Ferstl et al., "Image
guided depth upsampling using anisotropic total generalized variation", ICCV 2013, without the
auxiliary field of that paper). It starts from the kernels' estimate and takes few steps of
iteratively reweighted least squares (ops/surface.py), each solved by conjugate gradients, at a
quarter and then at half of the resolution. The errors of both estimates have little in common, so
that their mean is better than either.
"""
from typing import Any

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.maps import to_scale
from steer_depth_ros.ops.surface import surface_step
from steer_depth_ros.ops.timing import stage


@stage('second_order_tv')
def log_correction(problem, inverse):
    """Return the logarithm (H, W) of the solution over inverse depth (H, W), where it starts."""
    frame, config = problem.frame, problem.frame.config
    measured, valid = problem.inverse[:frame.count], problem.measured_valid
    starts = {2: inverse if frame.half else maps.downsample2(inverse)}
    starts[4] = maps.downsample2(starts[2])
    correction: Any = None
    for shrink, steps in (4, config.tv_quarter_steps), (2, config.tv_half_steps):
        solution = starts[shrink]
        if correction is not None:
            solution = solution * maps.upsample(correction, solution.shape).exp()
        lab = problem.lab if shrink == 2 else maps.downsample2(problem.lab)
        uv = to_scale(frame.uv[:frame.count], shrink // 2 if frame.half else shrink)
        solution = surface_step(solution, lab, uv, measured, valid, steps, config)
        correction = (solution.clamp(*problem.limits) / starts[shrink]).log()
    return correction if frame.half else maps.upsample(correction, inverse.shape)


@stage('second_order_tv')
def mean(problem, inverse, correction):
    """Return inverse depth (H, W) of a KernelProblem, moved towards the solution."""
    frame, config = problem.frame, problem.frame.config
    # Near samples kernels at full resolution know better.
    share = config.tv_share if frame.half else (
        problem.distance * (config.tv_share / config.tv_ramp)).clamp_(max=config.tv_share)
    return (correction * share).exp_().mul_(inverse).clamp_(*problem.limits)
