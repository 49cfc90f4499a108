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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.kernels import interpolate
from steer_depth_ros.completion.maps import to_scale
from steer_depth_ros.completion.normalize import last_at_pixels
from steer_depth_ros.ops.leave_one_out import nearest_samples
from steer_depth_ros.ops.timing import stage


class Hole(NamedTuple):
    """
    One level: `size` cells of `cell` pixels, those of the image.

    chosen: (n,) measured samples, one a cell. row, column: (m,) cells that are filled. uv: (m, 2)
    pixels, the samples that these become.
    """

    cell: int
    size: tuple
    chosen: Tensor
    row: Tensor
    column: Tensor
    uv: Tensor


@stage('hole_filling')
def find_holes(frame) -> tuple:
    """Return the Holes of a frame from fine to coarse; positions alone tell."""
    uv, holes, cell = frame.uv[:frame.count].numpy(), [], smallest_cell(frame)
    sample = last_at_pixels(uv / cell - 0.5, [-(-n // cell) for n in frame.size])
    while len(uv) > frame.neighbor_count:
        row, column = np.nonzero(_enclosed(sample >= 0))
        center = (np.column_stack([column, row]).astype(np.float32) + 0.5) * cell - 0.5
        one_sided = _one_sided(frame, torch.from_numpy(center)).numpy()
        if not one_sided.any():
            break
        last = np.float32(frame.size[::-1]) - 1
        arrays = (sample[sample >= 0], row[one_sided], column[one_sided],
                  np.minimum(center, last)[one_sided])
        holes.append(Hole(cell, sample.shape, *map(torch.from_numpy, arrays)))
        sample, cell = _coarser(sample), 2 * cell
    return tuple(holes)


def smallest_cell(frame):
    """Return the size in pixels of the cells that are filled last."""
    spacing = max(frame.row_spacing, frame.mean_spacing ** 2 / frame.row_spacing)
    return max(2, round(frame.config.hole_cell * spacing))


@stage('hole_filling')
def fill_holes(frame, lab):
    """
    Return inverse depth of all samples of the frame, (N,): the measured, then those in holes.

    lab: (3, h, w) CIELab of the image, which guides the filling.
    """
    config, uv, filled = frame.config, frame.uv[:0], frame.inverse[:0]
    for hole in reversed(frame.holes):
        uv = torch.cat([frame.uv[hole.chosen], uv])
        values = torch.cat([frame.inverse[hole.chosen], filled])
        guide = maps.area(lab, hole.size) / config.color_step
        colors = maps.sample(lab, to_scale(uv, frame.lab_scale)).T / config.color_step
        dense, _ = interpolate(
            to_scale(uv, hole.cell), values, hole.size, guide=guide[None],
            at_samples=colors[None], bandwidth=config.bandwidth, ridge=config.ridge,
            neighbours=frame.neighbor_count)
        uv, filled = hole.uv, dense[0, hole.row, hole.column].clamp(*torch.aminmax(frame.inverse))
    return torch.cat([frame.inverse, filled]) if frame.holes else frame.inverse


def _enclosed(occupied):
    """Return which empty cells have occupied ones above, below, left and right."""
    sides = (np.logical_or.accumulate(np.flip(occupied, flipped), axis)
             for axis, flipped in ((0, ()), (0, 0), (1, ()), (1, 1)))
    above, below, left, right = sides
    return ~occupied & above & np.flip(below, 0) & left & np.flip(right, 1)


def _coarser(sample):
    """Return the last sample of each cell of twice the size."""
    rows, columns = sample.shape
    even = np.pad(sample, ((0, rows % 2), (0, columns % 2)), constant_values=-1)
    return even.reshape(-(-rows // 2), 2, -1, 2).max((1, 3))


def _one_sided(frame, center):
    """Return at which points (M, 2) all the nearest samples lie on one side."""
    if len(center) == 0:
        return torch.zeros(0, dtype=torch.bool)
    near, distance = nearest_samples(frame.uv[:frame.count], center, frame.neighbor_count,
                                     frame.aspect)
    across, along = (frame.uv[near] - center).mean(0).T
    return (torch.hypot(across, along / frame.aspect)
            > frame.config.hole_one_sided * distance.mean(0))
