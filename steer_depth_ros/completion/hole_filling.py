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
Filling of large holes: glass, dark or shiny things that a depth camera does not measure.

Inside a hole far wider than the spacing of the samples, all nearest neighbors of a pixel lie on
one side, and a fit through them leaves out what lies across. Such holes are filled from coarse to
fine: one sample a cell, of cells ever larger until none is empty, kernel regression with the color
as guide at the cells' resolution, and its estimates of the empty cells become further samples.
"""
import cv2
import numpy as np
import torch

from steer_depth_ros.completion.kernels import round_kernels
from steer_depth_ros.completion.resample import as_batch_tensor, to_scale
from steer_depth_ros.ops import kernel_regression
from steer_depth_ros.ops.timing import stage


@stage('hole_filling')
def fill_large_holes(frame):
    """
    Return the frame with further samples inside large holes that have samples on all sides.

    The measured samples come first; without such holes the very `frame` is returned.
    """
    uv, inverse = _fill(frame, smallest_cell(frame))
    if len(uv) == 0:
        return frame
    return frame.with_samples(torch.cat([frame.uv, as_batch_tensor(uv)], 1),
                              torch.cat([frame.inverse, as_batch_tensor(inverse)], 1))


def smallest_cell(frame):
    """Return the size in pixels of the cells that are filled last."""
    spacing = max(frame.row_spacing, frame.mean_spacing ** 2 / frame.row_spacing)
    return max(2, round(frame.config.hole_cell * spacing))


def _fill(frame, cell):
    """Return positions (M, 2) and inverse depth (M,) of the cells that are to be filled."""
    uv, inverse = frame.uv[0].numpy(), frame.inverse[0].numpy()
    nothing = np.empty((0, 2), np.float32), np.empty(0, np.float32)
    if len(uv) <= frame.neighbors:
        return nothing
    size = -(-frame.size[0] // cell), -(-frame.size[1] // cell)
    column, row = np.minimum((uv / cell).astype(int), (size[1] - 1, size[0] - 1)).T.clip(0)
    sample = np.full(size, -1)  # one of each cell, wherever in it
    sample[row, column] = np.arange(len(uv))
    row, column = np.nonzero(_enclosed(sample >= 0))
    center = (np.column_stack([column, row]).astype(np.float32) + np.float32(0.5)) * cell - 0.5
    one_sided = _one_sided(frame, center)
    if not one_sided.any():
        return nothing
    filled_uv, filled_inverse = _fill(frame, 2 * cell)
    chosen = sample[sample >= 0]
    coarse_uv = as_batch_tensor(np.concatenate([uv[chosen], filled_uv]))
    coarse_inverse = as_batch_tensor(np.concatenate([inverse[chosen], filled_inverse]))
    guide = cv2.resize(frame.lab, size[::-1], interpolation=cv2.INTER_AREA)
    guide *= np.float32(1 / frame.config.color_step)
    dense, _ = kernel_regression(
        to_scale(coarse_uv, cell), coarse_inverse, round_kernels(coarse_inverse), size,
        guide=as_batch_tensor(guide.transpose(2, 0, 1)),
        guide_at_samples=as_batch_tensor(frame.colors(coarse_uv)), neighbours=frame.neighbors,
        order=1, bandwidth=frame.config.bandwidth, ridge=frame.config.ridge)
    estimate = dense[0].numpy()[row, column].clip(*frame.range)
    last = np.float32(frame.size[::-1]) - 1
    return np.minimum(center, last)[one_sided], estimate[one_sided]


def _enclosed(occupied):
    """Return which empty cells have occupied ones above, below, left and right."""
    sides = (np.logical_or.accumulate(np.flip(occupied, flipped), axis)
             for axis, flipped in ((0, ()), (0, 0), (1, ()), (1, 1)))
    above, below, left, right = sides
    return ~occupied & above & np.flip(below, 0) & left & np.flip(right, 1)


def _one_sided(frame, center):
    """Return at which points (M, 2) all the nearest samples lie on one side."""
    if len(center) == 0:
        return np.zeros(0, bool)
    points = center * frame.distance_scale
    distance, near = frame.tree.query(points, frame.neighbors)
    offset = frame.tree.data[near] - points[:, None]
    return np.hypot(*offset.mean(1).T) > frame.config.hole_one_sided * distance.mean(1)
