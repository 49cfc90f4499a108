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
"""Measurement errors: functions of (samples, scene, rng) that return Samples."""
import numpy as np

from steer_depth_ros.geometry.projection import pixel_of
from steer_depth_ros.geometry.projection import SparseDepth as Samples
from steer_depth_ros.synthetic.builder import rotation
from steer_depth_ros.synthetic.renderer import Scene


def drop_regions(samples: Samples, scene: Scene, rng, count: int = 3) -> Samples:
    """Drop the samples in a few random ellipses, as where surfaces return no echo."""
    h, w = scene.depth.shape
    keep = np.ones(len(samples), bool)
    for _ in range(count):
        center = rng.uniform(0, 1, 2) * (w, h)
        half = rng.uniform(0.03, 0.2, 2) * (w, h)
        keep &= (((samples.uv - center) / half) ** 2).sum(1) > 1
    return Samples(samples.uv[keep], samples.depth[keep])


def outliers(samples: Samples, scene: Scene, rng, fraction: float = 0.01) -> Samples:
    """Replace the depth of a fraction of the samples, between the 10th and 90th percentile."""
    depth = samples.depth.copy()
    wrong = rng.random(len(depth)) < fraction
    if len(depth):
        low, high = np.percentile(depth, (10, 90))
        depth[wrong] = rng.uniform(low, high, int(wrong.sum()))
    return Samples(samples.uv, depth)


def noise(samples: Samples, scene: Scene, rng, relative: float = 0.01) -> Samples:
    """Add Gaussian noise of `relative` times the depth."""
    factor = 1 + relative * rng.standard_normal(len(samples))
    return Samples(samples.uv, (samples.depth * factor.clip(0.5, 1.5)).astype(np.float32))


def to_pixels(samples: Samples, scene: Scene, rng) -> Samples:
    """Round to whole pixels and keep the nearest sample per pixel, as in a depth image."""
    camera = scene.camera
    row, column = pixel_of(samples.uv, (camera.height, camera.width))
    order = np.argsort(samples.depth, kind='stable')
    _, first = np.unique((row * camera.width + column)[order], return_index=True)
    keep = order[first]
    uv = np.stack([column[keep], row[keep]], 1).astype(np.float32)
    return Samples(uv, samples.depth[keep])


def calibration_error(samples: Samples, scene: Scene, rng, degrees: float = 0.2) -> Samples:
    """
    Move the samples as by a small error of the extrinsics, or of time during rotation.

    degrees: standard deviation of the angles; positions move by up to 0.5 % of the median depth.
    """
    camera, z = scene.camera, samples.depth.astype(np.float64)
    if not len(z):
        return samples
    points = np.stack([(samples.uv[:, 0] - camera.cx) / camera.fx * z,
                       (samples.uv[:, 1] - camera.cy) / camera.fy * z, z], 1)
    moved = points @ rotation(*np.deg2rad(rng.normal(0, degrees, 3))).T
    moved += rng.uniform(-0.005, 0.005, 3) * np.median(z)
    depth = np.maximum(moved[:, 2], 1e-3)
    uv = np.stack([moved[:, 0] / depth * camera.fx + camera.cx,
                   moved[:, 1] / depth * camera.fy + camera.cy], 1)
    keep = ((uv > -0.5) & (uv < (camera.width - 0.5, camera.height - 0.5))).all(1)
    return Samples(uv[keep].astype(np.float32), depth[keep].astype(np.float32))
