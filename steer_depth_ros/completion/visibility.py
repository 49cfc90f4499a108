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
"""Which samples the camera really sees: background that shines through nearer objects goes."""
from typing import Tuple

import cv2
import numpy as np

from steer_depth_ros.completion.spacing import sample_spacing

STEP = 1.08  # ratio of depths from which on a sample counts as nearer than another
REACH = 1.0  # radius of the neighbourhood in units of the samples' spacing
WIDEST = (24.0, 40.0)  # pixels; parallax of a sensor rig seldom moves anything further
DENSE = 0.2  # samples a pixel, from which on they are a depth image with nothing behind it
SHARE = 0.7  # of the way in 1 / depth to the nearest neighbour, where the occluder begins
SECTORS = 16
WIDEST_GAP = 7  # empty sectors in a row; one more and the neighbours lie on one side
FEW_HIDDEN, SHARE_HIDDEN = 8, 0.004  # samples; fewer are hidden by chance


def visible(uv: np.ndarray, depth: np.ndarray, size: Tuple[int, int],
            step: float = STEP) -> np.ndarray:
    """
    Tell which samples are not hidden behind others: a LiDAR beside the camera sees past an edge.

    uv: float32 (N, 2) pixels. depth: float32 (N,) metres. size: (H, W) of the image.
    step: how many times nearer an occluder must be. Return bool (N,), false for hidden samples.

    A sample is hidden when samples of a clearly nearer surface surround it within about one
    spacing of the samples. Slanted ground and the far side of a depth edge have nearer
    samples on one side only, and stay.

    Limits: what shines through the outermost spacing of an object stays, as nothing surrounds it
    there; so does what lies behind objects hit by a single row, and what is less than `step`
    times further away than the occluder. Truly seen background goes where it shows through gaps
    narrower than the spacing of the samples (foliage, fences). Where more than a fifth of the
    pixels has a sample (a depth image) all samples stay.
    """
    count = len(depth)
    keep = np.ones(count, bool)
    height, width = size
    if count < 8 or count >= DENSE * height * width:
        return keep
    spacing = np.array(sample_spacing(uv, size))
    cell = max(1, int(spacing.min() / 3.0))
    reach = np.maximum(np.minimum(REACH * spacing, WIDEST) / cell, 1.0)
    nearness = np.where(depth > 0, np.float32(1.0) / np.maximum(depth, 1e-6), np.float32(0.0))
    grid, at, stride = _grid(uv, nearness, size, cell, np.ceil(reach).astype(int))
    threshold = nearness * np.float32(step)
    candidates = _enclosed(grid, at, threshold, np.ceil(reach).astype(int))
    keep[candidates] = ~_surrounded(grid.ravel(), at[candidates], nearness[candidates],
                                    threshold[candidates], stride, reach)
    return keep


def without_hidden(uv: np.ndarray, depth: np.ndarray,
                   size: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray, bool]:
    """
    Leave out the samples that are not `visible`, whose arguments these are.

    Return uv and depth of the others, and whether so many were hidden that the sensor must be
    beside the camera and see past edges.
    """
    keep = visible(uv, depth, size)
    hidden = np.count_nonzero(~keep)
    return uv[keep], depth[keep], bool(hidden >= max(FEW_HIDDEN, SHARE_HIDDEN * len(keep)))


def _grid(uv, nearness, size, cell, margin):
    """Nearest sample of each cell as 1 / depth, 0 where none, with a margin all around."""
    width, height = size[1] // cell + 1, size[0] // cell + 1
    stride = width + 2 * margin[0]
    at = np.clip(np.rint(uv / cell).astype(np.int64), 0, (width - 1, height - 1))
    at = (at[:, 1] + margin[1]) * stride + at[:, 0] + margin[0]
    grid = np.zeros((height + 2 * margin[1], stride), np.float32)
    order = np.argsort(nearness)
    grid.ravel()[at[order]] = nearness[order]
    return grid, at, stride


def _enclosed(grid, at, threshold, reach):
    """Find the samples with nearer ones above, below, left and right: all that may be hidden."""
    columns, rows = 2 * reach + 1
    left = np.arange(len(at))
    for size, anchor in (((columns, reach[1] + 1), (reach[0], 0)),
                         ((columns, reach[1] + 1), (reach[0], reach[1])),
                         ((reach[0] + 1, rows), (0, reach[1])),
                         ((reach[0] + 1, rows), (reach[0], reach[1]))):
        box = np.ones((int(size[1]), int(size[0])), np.uint8)
        nearest = cv2.dilate(grid, box, anchor=(int(anchor[0]), int(anchor[1]))).ravel()
        left = left[nearest[at[left]] > threshold[left]]
    return left


def _surrounded(grid, at, nearness, threshold, stride, reach):
    """Tell whether the nearest surface around a sample has samples in all directions."""
    columns, rows = np.ceil(reach).astype(int)
    dv, du = (a.ravel() for a in np.mgrid[-rows:rows + 1, -columns:columns + 1])
    radius = np.hypot(du / reach[0], dv / reach[1])
    inside = (radius <= 1.0) & (radius > 0.0)
    dv, du = dv[inside], du[inside]
    angle = np.arctan2(dv / reach[1], du / reach[0])
    bits = np.left_shift(1, ((angle / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS)
    found = grid[at[:, None] + (dv * stride + du)[None]]
    nearest = np.max(found, axis=1, initial=0.0)
    # The occluder is the nearest surface: ground between it and the sample does not count.
    surface = np.maximum(threshold, nearness + SHARE * (nearest - nearness))
    sectors = np.bitwise_or.reduce(np.where(found > surface[:, None], bits, 0), axis=1, initial=0)
    return _NO_WIDE_GAP[sectors]


def _gap_table():
    """Tell for each set of occupied sectors whether no half of the circle is empty."""
    sets = np.arange(1 << SECTORS, dtype=np.int64)
    around = sets | (sets << SECTORS)
    wide = np.zeros(len(sets), bool)
    empty_run = (1 << (WIDEST_GAP + 1)) - 1
    for first in range(SECTORS):
        wide |= (around >> first) & empty_run == 0
    return ~wide


_NO_WIDE_GAP = _gap_table()
