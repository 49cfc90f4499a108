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
from typing import NamedTuple

import numpy as np
import torch

from steer_depth_ros.completion.resample import downsample2, to_scale, upsample
from steer_depth_ros.ops.surface import surface_step
from steer_depth_ros.ops.timing import stage


class Level(NamedTuple):
    """A step of the solver at 1 / shrink of the image's size."""

    shrink: int
    reweightings: int
    cg_steps: int


@stage('second_order_tv')
def refine(frame, inverse, distance):
    """
    Return inverse depth (H, W), as NormalizedFrame has it, moved towards the solution.

    distance: (H, W) pixels to the nearest sample, where kernels at full resolution know better.
    """
    config, share = frame.config, np.float32(frame.config.tv_share)
    if not frame.half:
        share = share * np.minimum(distance / np.float32(config.tv_ramp), 1)
    levels = Level(4, 1, config.tv_quarter_steps), Level(2, 1, config.tv_half_steps)
    refined = inverse * np.exp(share * log_correction(frame, inverse, levels))
    return np.clip(refined, *frame.range)


def log_correction(frame, inverse, levels):
    """Return the logarithm (H, W) of the solution over inverse depth (H, W), where it starts."""
    starts = {2: inverse if frame.half else downsample2(inverse)}
    starts[4] = downsample2(starts[2])
    correction = None
    for shrink, reweightings, cg_steps in levels:
        solution = starts[shrink]
        if correction is not None:
            solution = solution * np.exp(upsample(correction, solution.shape))
        lab = torch.from_numpy(frame.lab if shrink == 2 else downsample2(frame.lab))
        uv = to_scale(frame.uv[0], shrink // 2 if frame.half else shrink)
        solution = torch.from_numpy(solution)
        for _ in range(reweightings):
            solution = surface_step(solution, lab.permute(2, 0, 1), uv, frame.inverse[0], None,
                                    cg_steps, frame.config)
        correction = np.log(np.clip(solution.numpy(), *frame.range) / starts[shrink])
    return correction if frame.half else upsample(correction, inverse.shape)
