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
iteratively reweighted least squares, each solved by conjugate gradients, at a quarter and then at
half of the resolution. The errors of both estimates have little in common, so that their mean is
better than either.
"""
from typing import NamedTuple

import cv2
import numpy as np
import torch

from steer_depth_ros.completion.resample import (
    downsample2,
    sample_bilinear,
    to_scale,
    upsample,
)
from steer_depth_ros.geometry.projection import pixel_of
from steer_depth_ros.ops import native
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
    measured = frame.inverse[0].numpy()
    starts = {2: inverse if frame.half else downsample2(inverse)}
    starts[4] = downsample2(starts[2])
    correction = None
    for shrink, reweightings, cg_steps in levels:
        solution = starts[shrink].copy()
        if correction is not None:
            solution *= np.exp(upsample(correction, solution.shape))
        lab = frame.lab if shrink == 2 else downsample2(frame.lab)
        edges = _edge_weights(lab, frame.config.tv_edge)
        uv = to_scale(frame.uv, shrink // 2 if frame.half else shrink)
        for _ in range(reweightings):
            solution = reweighted_step(solution, uv, measured, edges, cg_steps, frame.config)
        solution = np.clip(solution, *frame.range)
        correction = np.log(solution / starts[shrink])
    return correction if frame.half else upsample(correction, inverse.shape)


def reweighted_step(start, uv, measured, edges, cg_steps, config):
    """
    Return a better solution (h, w) than `start`, by one reweighting of the quadratic problem.

    measured: (N,) at uv (1, N, 2). edges: (3, h, w), the share of the smoothness that the image
    leaves along x, along y and across.
    """
    floor, misfit = np.float32(config.tv_floor), config.tv_misfit
    pixel = np.ravel_multi_index(pixel_of(uv[0].numpy(), start.shape), start.shape)
    scale = np.maximum(measured, floor)
    # Read at the sample, applied to the nearest pixel: on a slope the pixel's own misfit is wrong.
    residual = measured - sample_bilinear(start[..., None], uv)[:, 0]
    weight = 1 / (scale * np.hypot(residual, misfit * scale))
    data_weight, rhs = (np.bincount(pixel, values, start.size).astype(np.float32)
                        .reshape(start.shape) for values in (weight, weight * residual))
    return solve_cg(start, _curvature_weights(start, edges, config), data_weight, rhs, cg_steps)


def _edge_weights(lab, edge):
    """Return how much of the smoothness the image leaves, (3, h, w); 0 beyond the border."""
    height, width = lab.shape[:2]
    along_x, along_y = np.zeros((2, height, width), np.float32)  # to the next pixel
    along_x[:, :-1] = np.add.reduce(cv2.split(cv2.absdiff(lab[:, 1:], lab[:, :-1])))
    along_y[:-1] = np.add.reduce(cv2.split(cv2.absdiff(lab[1:], lab[:-1])))
    edges = np.full((3, height, width), np.inf, np.float32)
    np.maximum(along_x[:, 1:-1], along_x[:, :-2], out=edges[0, :, 1:-1])
    np.maximum(along_y[1:-1], along_y[:-2], out=edges[1, 1:-1])
    edges[2, :-1, :-1] = np.maximum(np.maximum(along_x[:-1, :-1], along_x[1:, :-1]),
                                    np.maximum(along_y[:-1, :-1], along_y[:-1, 1:]))
    edges *= np.float32(-1 / edge)
    return np.exp(edges, out=edges)


def _curvature_weights(start, edges, config):
    """Weigh curvatures (3, h, w) so that their squares cost what their absolutes do."""
    square = np.square(np.maximum(start, np.float32(config.tv_floor)))
    weights = curvatures(start)
    np.square(weights, out=weights)
    weights /= square
    weights += np.float32(config.tv_flat * config.tv_flat)
    np.sqrt(weights, out=weights)
    weights *= square
    return np.divide(edges * np.float32(config.tv_smoothness), weights, out=weights)


def curvatures(inverse):
    """Return second differences of a map (h, w): along x, along y and across, (3, h, w)."""
    result = np.zeros((3, *inverse.shape), np.float32)
    result[0, :, 1:-1] = inverse[:, :-2] - 2 * inverse[:, 1:-1] + inverse[:, 2:]
    result[1, 1:-1] = inverse[:-2] - 2 * inverse[1:-1] + inverse[2:]
    result[2, :-1, :-1] = (inverse[:-1, :-1] - inverse[:-1, 1:] - inverse[1:, :-1]
                           + inverse[1:, 1:])
    return result


def solve_cg(start, curvature_weights, data_weight, rhs, steps):
    """
    Return a map (h, w) that `steps` of conjugate gradients lead to from `start`.

    It minimizes the weighed squares of its curvatures and of its distance to the samples.
    curvature_weights: (3, h, w), zero where a difference would leave the map. data_weight, rhs:
    (h, w), weights of the samples, and weight times residual at `start`. All float32 and
    contiguous. MemoryError where memory does not last.
    """
    solution, name = start.copy(), native.cpu_name()
    if name is None:
        _solve_cg(solution, curvature_weights, data_weight, rhs, steps)
        return solution
    fields = (field.ctypes.data for field in (curvature_weights, data_weight, rhs))
    library = native.load(name)
    if library.steer_second_order_tv(*fields, *start.shape, steps, torch.get_num_threads(),
                                     solution.ctypes.data):
        raise MemoryError(f'second-order TV: no memory for {start.shape} pixels')
    return solution


def _solve_cg(solution, curvature_weights, data_weight, rhs, steps):
    """Do as csrc/second_order_tv/, where there was no compiler."""
    residual = rhs - _transposed(curvatures(solution) * curvature_weights)
    preconditioner = 1 / (_diagonal(curvature_weights) + data_weight + np.float32(1e-9))
    direction = preconditioner * residual
    power = np.vdot(residual, direction)
    for _ in range(steps):
        image = data_weight * direction + _transposed(curvatures(direction) * curvature_weights)
        work = np.vdot(direction, image)
        if not (power > 0 and work > 0):
            break
        solution += power / work * direction
        residual -= power / work * image
        direction *= np.vdot(residual, preconditioner * residual) / power
        direction += preconditioner * residual
        power = np.vdot(residual, preconditioner * residual)


def _transposed(curvature):
    """Apply the transpose of `curvatures` to (3, h, w); return (h, w)."""
    x, y, across = curvature
    result = -2 * (x + y) + across
    result[:, :-1] += x[:, 1:]
    result[:, 1:] += x[:, :-1] - across[:, :-1]
    result[:-1] += y[1:]
    result[1:] += y[:-1] - across[:-1]
    result[1:, 1:] += across[:-1, :-1]
    return result


def _diagonal(curvature_weights):
    """Return the diagonal (h, w) of curvatures, weighed, curvatures transposed."""
    x, y, across = curvature_weights
    diagonal = 4 * (x + y) + across
    diagonal[:, :-1] += x[:, 1:]
    diagonal[:, 1:] += x[:, :-1] + across[:, :-1]
    diagonal[:-1] += y[1:]
    diagonal[1:] += y[:-1] + across[:-1]
    diagonal[1:, 1:] += across[:-1, :-1]
    return diagonal
