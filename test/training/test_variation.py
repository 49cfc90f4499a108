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
"""Variations of rendered frames: planes stay plane, samples stay on their surface."""
import numpy as np

from steer_depth_ros.training.variation import vary


def varied(seed):
    v, u = np.mgrid[:40, :60].astype(np.float32)
    depth = 1 / (0.1 + 0.004 * u + 0.002 * v)
    depth[:4] = np.inf
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    sparse = depth[10:40:6, ::7].ravel()
    return (image, depth, sparse), vary(image, depth, sparse, np.random.default_rng(seed))


def test_planes_stay_plane_and_samples_on_them():
    changed = 0
    for seed in range(30):
        (_, depth, _), (_, other, sparse) = varied(seed)
        assert np.array_equal(np.isinf(other), np.isinf(depth))
        inverse = 1 / other[4:]
        assert np.abs(np.diff(inverse, 2, axis=1)).max() < 1e-6 and (inverse > 0).all()
        np.testing.assert_allclose(sparse, other[10:40:6, ::7].ravel(), rtol=1e-6)
        changed += not np.array_equal(other, depth)
    assert 8 < changed < 28


def test_colors_change_but_not_their_kind_and_the_seed_decides():
    changed = 0
    for seed in range(30):
        (image, _, _), (other, _, _) = varied(seed)
        assert other.dtype == np.uint8 and other.shape == image.shape
        assert np.array_equal(other, varied(seed)[1][0])
        changed += not np.array_equal(other, image)
    assert 12 < changed < 30
