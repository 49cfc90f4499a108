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
Every tuned constant of the completion, one an entry: its value, unit, effect and origin.

`steer_depth eval --dataset procedural --sensitivity` prints what half and one and a half times
each of them does to the error on rendered scenes; docs/constants.md holds the table.
"""
from dataclasses import dataclass, field

RECORDED = 'recorded scenes'  # the 30 scenes of the accuracy table, so its figures favor them
RENDERED = 'rendered scenes'
BOTH = 'recorded and rendered scenes'
EYE = 'by eye'  # or by a first reasonable guess
PAPER = 'Takeda et al. 2007'
NUMERICAL = 'numerical'  # keeps a quotient or an iteration sound
TIME = 'time'  # more is slower and hardly better


def _constant(value, unit, effect, chosen):
    return field(default=value, metadata={'unit': unit, 'effect': effect, 'chosen': chosen})


@dataclass(frozen=True)
class Config:
    """What a completion without weights is tuned by; `fields` of it carry unit and effect."""

    # Spacing of the samples
    line_band: float = _constant(
        0.4, 'mean spacings', 'height of a band of rows that holds one scan line', RECORDED)
    aspect_exponent: float = _constant(
        0.65, '-', 'kernels stretch across scan lines by this power of row over column spacing',
        EYE)

    # Occlusion
    occluder_margin: float = _constant(
        0.08, '-', 'an occluder is nearer by this share', RENDERED)
    occluder_reach: float = _constant(
        1.0, 'spacings', 'radius within which occluders surround a sample', RENDERED)
    occluder_share: float = _constant(
        0.7, '-', 'the occluder begins that far towards the nearest neighbor, in 1 / depth',
        EYE)
    dense_samples: float = _constant(
        0.2, 'samples / pixel', 'a depth image from here on: nothing is occluded', EYE)
    parallax_min_count: int = _constant(
        8, 'samples', 'the sensor has parallax if that many are occluded', EYE)
    parallax_min_share: float = _constant(
        0.004, '-', 'and that share of all', EYE)

    # Bleed-through at the rims of objects
    bleed_depth: float = _constant(
        0.05, 'log depth', 'samples farther behind the guide than this are rejected', BOTH)
    bleed_far: float = _constant(
        0.2, 'log depth', 'samples farther behind, or before, are counted', BOTH)
    bleed_min_share: float = _constant(
        0.005, '-', 'rejection needs that share of samples far behind', BOTH)
    bleed_one_sided: float = _constant(
        2.5, '-', 'and that many times those far before the guide', BOTH)

    # Hole filling
    hole_cell: float = _constant(
        3.0, 'spacings', 'size of the cells that are empty in a hole', EYE)
    hole_one_sided: float = _constant(
        0.5, '-', 'mean offset to the neighbors over their distance: they lie on one side', EYE)

    # Kernels from the structure tensor
    color_blur: float = _constant(
        2.0, 'pixels', 'texture finer than that says nothing about depth', RECORDED)
    structure_blur: float = _constant(1.5, 'pixels', 'window of the structure tensor', PAPER)
    structure_floor: float = _constant(
        0.01, '-', 'elongation goes to 1 where the image is flatter than this', PAPER)
    max_elongation: float = _constant(4.0, '-', 'elongation of kernels at most', EYE)
    scaling_exponent: float = _constant(
        0.2, '-', 'how much kernels shrink where the image has structure', PAPER)

    # Kernel regression; the first four are where the tuning starts
    color_step: float = _constant(
        8.0, 'CIELab', 'color difference that lowers a weight to exp(-1/2)', BOTH)
    depth_step: float = _constant(
        0.15, 'log depth', 'difference from the guide that lowers a weight to exp(-1/2)', BOTH)
    bandwidth: float = _constant(0.7, 'local spacings', 'width of the kernels', BOTH)
    ridge: float = _constant(0.01, '-', 'draws the local planes to flat ones', BOTH)
    neighbors: int = _constant(24, 'samples', 'a pixel is computed from', TIME)
    half_neighbors: int = _constant(16, 'samples', 'the same at half the resolution', TIME)
    coarse_neighbors: int = _constant(16, 'samples', 'the same of the coarse estimate', TIME)
    bandwidth_at_sample: float = _constant(
        0.25, '-', 'factor on the bandwidth on a sample, which then counts most', BOTH)
    bandwidth_far: float = _constant(1.2, '-', 'the same far from all samples', BOTH)
    bandwidth_distance: float = _constant(
        0.45, 'spacings', 'distance to a sample at which that factor is 1', BOTH)

    # Tuning by leave-one-out
    tuning_queries: int = _constant(600, 'samples', 'are predicted', TIME)
    tuning_steps: int = _constant(8, '-', 'of Adam', TIME)
    tuning_rate: float = _constant(0.25, 'log factor', 'a step is that long', BOTH)
    tuning_newest: float = _constant(
        0.3, '-', 'weight of the newest gradient in their mean', BOTH)
    tuning_newest_square: float = _constant(
        0.1, '-', 'and of its square in the mean of the squares', BOTH)
    tuning_averaged: int = _constant(
        4, '-', 'last steps whose mean is taken: one alone depends on the samples drawn', BOTH)
    tuning_prior: float = _constant(
        0.01, '-', 'holds scales that the samples say nothing about', BOTH)
    tuning_line_aspect: float = _constant(
        1.3, '-', 'from this aspect on the whole scan line of a sample is left out', EYE)
    tuning_max_error: float = _constant(
        1.0, 'log depth', 'outliers count no more than that', EYE)

    # Second-order total variation
    tv_smoothness: float = _constant(0.05, '-', 'weight of curvature', BOTH)
    tv_flat: float = _constant(
        1e-3, '-', 'curvature relative to inverse depth that counts as none', NUMERICAL)
    tv_misfit: float = _constant(
        0.01, '-', 'relative misfit from which on a sample pulls no stronger', BOTH)
    tv_edge: float = _constant(
        6.0, 'CIELab', 'color difference that lowers the smoothness to 1 / e', BOTH)
    tv_floor: float = _constant(
        0.05, 'medians', 'smallest inverse depth that differences are relative to', NUMERICAL)
    tv_quarter_steps: int = _constant(40, '-', 'of conjugate gradients at a quarter', TIME)
    tv_half_steps: int = _constant(15, '-', 'and at half of the resolution', TIME)
    tv_share: float = _constant(
        0.5, '-', "the result is that far from the kernels' estimate to the solution", BOTH)
    tv_ramp: float = _constant(
        4.0, 'pixels', 'at full size, that far from samples the share is whole', RECORDED)

    # Half resolution: pixels next to a sample are pulled to it
    pull_radius: float = _constant(0.1, 'spacings', 'sigma of the pull', RECORDED)
    pull_min_radius: float = _constant(0.5, 'pixels', 'that sigma at least', RECORDED)
    pull_prior: float = _constant(0.02, '-', 'weight of not being pulled', RECORDED)
    pull_max: float = _constant(
        0.2, '-', 'share of the depth that a sample pulls at most', EYE)

    # Valid region
    reach_height: float = _constant(
        0.1, 'image heights', 'depth is extrapolated that far beyond the samples', EYE)
    reach_lines: float = _constant(3.0, 'scan lines', 'or that far, where it is more', EYE)

    # Confidence: the error to expect, by maximum likelihood of a Laplace distribution
    error_floor: float = _constant(
        0.004, '-', "relative error at least, as a real sensor's", EYE)
    error_per_residual: float = _constant(
        1.15, '-', 'per residual of the coarse estimate at the samples around', RENDERED)
    error_per_distance: float = _constant(
        0.0098, '1 / spacing', 'per distance to the nearest sample', RENDERED)


CONFIG = Config()
