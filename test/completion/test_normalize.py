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
"""The frame as it is completed: free of scale, thinned to its own resolution."""
import numpy as np

from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.completion.occlusion import Samples


def depth_image():
    v, u = np.mgrid[0:60, 0:80]
    uv = np.column_stack([u.ravel(), v.ravel()]).astype(np.float32)
    return uv, (1 / (0.2 + 0.002 * u + 0.003 * v)).astype(np.float32)


def test_half_resolution_keeps_one_sample_a_pixel_of_a_depth_image():
    image, (uv, depth) = np.full((60, 80, 3), 90, np.uint8), depth_image()
    dense = normalize(Samples(uv, depth.ravel()), (60, 80), half=True)
    assert dense.size == (30, 40) and dense.count == 30 * 40
    sparse = normalize(Samples(uv[::9], depth.ravel()[::9]), (60, 80), half=True)
    assert sparse.count == len(uv[::9])
    completed = DepthCompleter('fast', 'cpu').complete(image, uv, depth.ravel()).depth
    np.testing.assert_allclose(completed, depth, rtol=0.01)
