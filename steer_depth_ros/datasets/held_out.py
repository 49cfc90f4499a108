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
"""Recorded frames as examples with truth: either recorded truth or held-out measurements."""
from typing import Optional

import numpy as np

from steer_depth_ros.completion.occlusion import occlusion_mask
from steer_depth_ros.datasets.base import draw_samples, Example, MeasuredFrame, SENSOR
from steer_depth_ros.errors import DatasetError
from steer_depth_ros.geometry.projection import pixel_of, project_points, SparseDepth
from steer_depth_ros.recordings.frame_folder import RecordedFrame

BAND_DEG = 0.84  # two beams of a 64-beam sensor
DENSE = 0.2  # a depth image with at least this fraction of pixels is from a depth camera
FROM_DENSE, FROM_SPARSE = 'random:500', 0.5


def example_from_frame(recorded: RecordedFrame, pattern: Optional[str], rng) -> Example:
    """
    Split a recorded frame into samples and truth.

    pattern: which measurements are samples, 'sensor' for all of them. None chooses by frame: all
    measurements if there is separate truth. Otherwise the samples are 500 pixels of a depth
    camera, every other band of elevation of a cloud, or half of the samples of another sparse
    depth image, and the remaining measurements are the truth.
    Raise DatasetError if nothing is left to compare with.
    """
    if recorded.truth is not None and not _is_input(recorded):
        return _example(recorded, _drawn(recorded, pattern or SENSOR, rng), recorded.truth)
    if pattern is None and recorded.frame.points is not None:
        return _alternate_bands(recorded)
    samples = _default_draw(recorded, rng) if pattern is None else _drawn(recorded, pattern, rng)
    truth = _measured(recorded)
    truth[pixel_of(samples.uv, truth.shape)] = np.nan
    return _example(recorded, samples, truth)


def _example(recorded, samples, truth):
    frame = recorded.frame
    if not (np.isfinite(truth) & (truth > 0)).any():
        raise DatasetError(f'{recorded.name} has nothing to compare with: no truth, and every '
                           'measurement is a sample; choose a pattern that holds some out')
    return Example(recorded.name, frame.image, samples.uv, samples.depth, truth, frame.camera)


def _is_input(recorded):
    """Return whether the truth is only a copy of the measurements."""
    return recorded.depth_image is not None and np.array_equal(
        recorded.truth, recorded.depth_image, equal_nan=True)


def _drawn(recorded, pattern, rng):
    if pattern == SENSOR:
        return recorded.frame.sparse_depth()
    measured = _measured(recorded)
    return draw_samples(MeasuredFrame(recorded.name, recorded.frame.image, measured, measured,
                                      recorded.frame.camera), pattern, rng)


def _default_draw(recorded, rng):
    samples = recorded.frame.sparse_depth()
    height, width = recorded.frame.image.shape[:2]
    if len(samples) >= DENSE * height * width:
        return _drawn(recorded, FROM_DENSE, rng)
    given = rng.random(len(samples)) < FROM_SPARSE
    return SparseDepth(samples.uv[given], samples.depth[given])


def _measured(recorded):
    """Return the measurements as an image, float32 (H, W) meters, NaN where there is none."""
    return rasterize(recorded.frame.sparse_depth(), recorded.frame.image.shape[:2])


def rasterize(samples: SparseDepth, size) -> np.ndarray:
    """Return the samples at their nearest pixels, the smallest depth per pixel; NaN elsewhere."""
    image = np.full(size, np.nan, np.float32)
    order = np.argsort(-samples.depth)
    image[pixel_of(samples.uv[order], size)] = samples.depth[order]
    return image


def _alternate_bands(recorded):
    """Take every other band of elevation as samples, the visible points of the others as truth."""
    frame = recorded.frame
    x, y, z = frame.points[:, :3].T
    with np.errstate(invalid='ignore'):
        elevation = np.degrees(np.arctan2(z, np.hypot(x, y)))
        band = np.floor(elevation / BAND_DEG)
    given, held = (project_points(frame.points[band % 2 == part], frame.camera,
                                  frame.camera_from_points) for part in (0, 1))
    size = frame.image.shape[:2]
    seen = ~occlusion_mask(np.concatenate([held.uv, given.uv]),
                           np.concatenate([held.depth, given.depth]), size)[:len(held)]
    truth = rasterize(SparseDepth(held.uv[seen], held.depth[seen]), size)
    return _example(recorded, given, truth)
