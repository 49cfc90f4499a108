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
"""Samples that the camera does not see: occluded by nearer ones, or bleeding through a rim."""
from typing import NamedTuple, Tuple

import cv2
import numpy as np

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.spacing import sample_spacing
from steer_depth_ros.ops.timing import stage

SECTORS = 16  # of the circle around a sample
MAX_EMPTY_SECTORS = SECTORS // 2 - 1  # in a row; one more and the occluders lie on one side


class Samples(NamedTuple):
    """uv (N, 2) pixels, depth (N,) meters; has_parallax: the sensor sees past edges."""

    uv: np.ndarray
    depth: np.ndarray
    has_parallax: bool = False


def occlusion_mask(uv: np.ndarray, depth: np.ndarray, size: Tuple[int, int],
                   config=CONFIG) -> np.ndarray:
    """
    Return which samples are occluded by others: a LiDAR beside the camera sees past an edge.

    uv: float32 (N, 2) pixels. depth: float32 (N,) meters. size: (H, W) of the image.
    Return bool (N,), true for occluded samples.

    A sample is occluded when samples of a clearly nearer surface surround it within about one
    spacing of the samples. Slanted ground and the far side of a depth edge have nearer
    samples on one side only, and stay.

    Limits: samples of the background within the outermost spacing of an object stay, as nothing
    surrounds them there; so do those behind objects hit by a single row, and those less than
    `occluder_margin` farther away than the occluder. Truly seen background goes where it
    shows through gaps narrower than the spacing of the samples (foliage, fences). Where more than
    a fifth of the pixels has a sample (a depth image) all samples stay.
    """
    count = len(depth)
    occluded = np.zeros(count, bool)
    height, width = size
    if count < 8 or count >= config.dense_samples * height * width:
        return occluded
    spacing = np.array(sample_spacing(uv, size, config))
    cell = max(1, int(spacing.min() / 3.0))
    reach = np.maximum(config.occluder_reach * spacing / cell, 1.0)
    nearness = np.where(depth > 0, np.float32(1.0) / np.maximum(depth, 1e-6), np.float32(0.0))
    grid, at, stride = _grid(uv, nearness, size, cell, np.ceil(reach).astype(int))
    threshold = nearness * np.float32(1 + config.occluder_margin)
    candidates = _enclosed(grid, at, threshold, np.ceil(reach).astype(int))
    occluded[candidates] = _surrounded(
        grid.ravel(), at[candidates], nearness[candidates], threshold[candidates], stride, reach,
        config.occluder_share)
    return occluded


@stage('occlusion')
def remove_occluded(uv: np.ndarray, depth: np.ndarray, size: Tuple[int, int],
                    config=CONFIG) -> Samples:
    """
    Leave out the samples of the `occlusion_mask`, whose arguments these are.

    The sensor has parallax where too many are occluded for chance.
    """
    seen = ~occlusion_mask(uv, depth, size, config)
    count = np.count_nonzero(~seen)
    return Samples(uv[seen], depth[seen],
                   bool(count >= max(config.parallax_min_count,
                                     config.parallax_min_share * len(seen))))


@stage('occlusion')
def bleed_through_mask(problem):
    """
    Return which measured samples lie behind the surface that the guide sees: bool (M,).

    Where nothing surrounds a sample of the background, at the rim of an object, `occlusion_mask`
    cannot tell. The depth of the guide, smoothed over the samples around, misses some on
    both sides of an edge: where many lie far behind it and few in front, all that are behind
    it are taken for bleeding through; otherwise none.
    """
    frame, config = problem.frame, problem.frame.config
    behind = maps.sample(problem.log_depth, frame.uv[:frame.count]) - frame.inverse.log()
    far_behind = (behind > config.bleed_far).sum()
    far_before = (behind < -config.bleed_far).sum()
    least = (far_before * config.bleed_one_sided).clamp(min=config.bleed_min_share * frame.count)
    return (behind > config.bleed_depth) & (far_behind > least)


def _grid(uv, nearness, size, cell, margin):
    """Return the nearest sample of each cell as 1 / depth, 0 where none, with a margin."""
    width, height = size[1] // cell + 1, size[0] // cell + 1
    stride = width + 2 * margin[0]
    at = np.clip(np.rint(uv / cell).astype(np.int64), 0, (width - 1, height - 1))
    at = (at[:, 1] + margin[1]) * stride + at[:, 0] + margin[0]
    grid = np.zeros((height + 2 * margin[1], stride), np.float32)
    order = np.argsort(nearness)
    grid.ravel()[at[order]] = nearness[order]
    return grid, at, stride


def _enclosed(grid, at, threshold, reach):
    """Find the samples with nearer ones above, below, left and right: all that may be occluded."""
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


def _surrounded(grid, at, nearness, threshold, stride, reach, share):
    """Return whether the nearest surface around a sample has samples in all directions."""
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
    surface = np.maximum(threshold, nearness + share * (nearest - nearness))
    sectors = np.bitwise_or.reduce(np.where(found > surface[:, None], bits, 0), axis=1, initial=0)
    return _NO_WIDE_GAP[sectors]


def _gap_table():
    """Return for each set of occupied sectors whether no half of the circle is empty."""
    sets = np.arange(1 << SECTORS, dtype=np.int64)
    around = sets | (sets << SECTORS)
    wide = np.zeros(len(sets), bool)
    empty_run = (1 << (MAX_EMPTY_SECTORS + 1)) - 1
    for first in range(SECTORS):
        wide |= (around >> first) & empty_run == 0
    return ~wide


_NO_WIDE_GAP = _gap_table()
