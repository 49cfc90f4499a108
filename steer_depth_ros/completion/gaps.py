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
Wide gaps between samples: glass, dark or shiny things that a depth camera does not measure.

Inside a gap far wider than the spacing of the samples, all nearest neighbours of a pixel lie on
one side, and a fit through them leaves out what lies across. Such gaps are bridged from coarse to
fine: one sample a cell, of cells ever wider until none is empty, kernel regression with the colour
as guide at the cells' resolution, and what it says of empty cells stands as further samples.
"""
import cv2
import numpy as np
import torch

from steer_depth_ros.completion import steering
from steer_depth_ros.ops import kernel_regression

CELL = 3.0  # sample spacings; with nine samples a cell on average none is empty by chance
ONE_SIDED = 0.5  # mean of the offsets to the neighbours over their mean distance
WIDEST = 1 / 6  # of the image; cells are not wider


def bridged(inputs):
    """
    Return inputs with further samples inside wide gaps that have samples on all sides.

    The measured samples come first; without such gaps the very `inputs` are returned.
    """
    spacing = max(inputs.rows, inputs.spacing ** 2 / inputs.rows)
    uv, inverse = _bridge(inputs, max(2, round(CELL * spacing)))
    if len(uv) == 0:
        return inputs
    return inputs.with_samples(torch.cat([inputs.uv, steering.batch(uv)], 1),
                               torch.cat([inputs.inverse, steering.batch(inverse)], 1))


def _bridge(inputs, cell):
    """Return positions (M, 2) and inverse depth (M,) of the cells that are to be filled."""
    uv, values = inputs.uv[0].numpy(), inputs.inverse[0].numpy()
    none = np.empty((0, 2), np.float32), np.empty(0, np.float32)
    if len(uv) <= inputs.neighbours or cell > WIDEST * max(inputs.size):
        return none
    size = -(-inputs.size[0] // cell), -(-inputs.size[1] // cell)
    column, row = np.minimum((uv / cell).astype(int), (size[1] - 1, size[0] - 1)).T.clip(0)
    sample = np.full(size, -1)  # one of each cell, wherever in it
    sample[row, column] = np.arange(len(uv))
    row, column = np.nonzero(_enclosed(sample >= 0))
    centre = (np.column_stack([column, row]).astype(np.float32) + np.float32(0.5)) * cell - 0.5
    lonely = _one_sided(inputs, centre)
    if not lonely.any():
        return none
    wide_uv, wide_values = _bridge(inputs, 2 * cell)
    chosen = sample[sample >= 0]
    wide_uv = steering.batch(np.concatenate([uv[chosen], wide_uv]))
    wide_values = steering.batch(np.concatenate([values[chosen], wide_values]))
    guide = cv2.resize(inputs.lab, size[::-1], interpolation=cv2.INTER_AREA)
    guide *= np.float32(1 / steering.COLOUR)
    dense, _ = kernel_regression(
        steering.shrunk(wide_uv, cell), wide_values, steering.round_kernels(wide_values), size,
        guide=steering.batch(guide.transpose(2, 0, 1)),
        guide_at_samples=steering.batch(inputs.colours(wide_uv)),
        neighbours=inputs.neighbours, order=1, bandwidth=steering.BANDWIDTH,
        ridge=steering.RIDGE)
    found = dense[0].numpy()[row, column].clip(values.min(), values.max())
    last = np.float32(inputs.size[::-1]) - 1
    return np.minimum(centre, last)[lonely], found[lonely]


def _enclosed(occupied):
    """Tell which empty cells have occupied ones above, below, left and right."""
    sides = (np.logical_or.accumulate(np.flip(occupied, flipped), axis)
             for axis, flipped in ((0, ()), (0, 0), (1, ()), (1, 1)))
    above, below, left, right = sides
    return ~occupied & above & np.flip(below, 0) & left & np.flip(right, 1)


def _one_sided(inputs, centre):
    """Tell at which points (M, 2) all the nearest samples lie on one side."""
    if len(centre) == 0:
        return np.zeros(0, bool)
    points = centre * inputs.metric
    distance, near = inputs.tree.query(points, inputs.neighbours)
    offset = inputs.tree.data[near] - points[:, None]
    return np.hypot(*offset.mean(1).T) > ONE_SIDED * distance.mean(1)
