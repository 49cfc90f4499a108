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

import numpy as np

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.normalize import tensor
from steer_depth_ros.completion.spacing import sample_spacing
from steer_depth_ros.ops.occlusion import find_occluded
from steer_depth_ros.ops.timing import stage


class Samples(NamedTuple):
    """uv (N, 2) pixels, depth (N,) meters; has_parallax: the sensor sees past edges."""

    uv: np.ndarray
    depth: np.ndarray
    has_parallax: bool = False


def occlusion_mask(uv: np.ndarray, depth: np.ndarray, size: Tuple[int, int],
                   config=CONFIG, spacing=None) -> np.ndarray:
    """
    Return which samples are occluded by others: a LiDAR beside the camera sees past an edge.

    uv: float32 (N, 2) pixels. depth: float32 (N,) meters. size: (H, W) of the image. spacing:
    the `sample_spacing` of uv where it is known. Return bool (N,), true for occluded samples.

    A sample is occluded when samples of a clearly nearer surface surround it within about one
    spacing of the samples. Slanted ground and the far side of a depth edge have nearer
    samples on one side only, and stay.

    Limits: samples of the background within the outermost spacing of an object stay, as nothing
    surrounds them there; so do those behind objects hit by a single row, and those less than
    `occluder_margin` farther away than the occluder. Truly seen background goes where it
    shows through gaps narrower than the spacing of the samples (foliage, fences). Where more than
    a fifth of the pixels has a sample (a depth image) all samples stay.
    """
    if len(depth) < 8 or len(depth) >= config.dense_samples * size[0] * size[1]:
        return np.zeros(len(depth), bool)
    spacing = spacing or sample_spacing(uv, size, config)
    cell = max(1, int(min(spacing) / 3.0))
    reach = [max(config.occluder_reach * each / cell, 1.0) for each in spacing]
    return find_occluded(tensor(uv), tensor(depth), size, cell, reach,
                         config.occluder_margin, config.occluder_share).numpy()


@stage('occlusion')
def remove_occluded(uv: np.ndarray, depth: np.ndarray, size: Tuple[int, int],
                    config=CONFIG, spacing=None) -> Samples:
    """
    Leave out the samples of the `occlusion_mask`, whose arguments these are.

    The sensor has parallax where too many are occluded for chance.
    """
    seen = ~occlusion_mask(uv, depth, size, config, spacing)
    count = len(seen) - np.count_nonzero(seen)
    return Samples(np.compress(seen, uv, 0), depth[seen],
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

