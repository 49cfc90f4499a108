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
"""Small frames whose depth follows the image: steps of color are steps of depth."""
import numpy as np


def frame(height=50, width=71, count=200, seed=0):
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 255, (height // 10 + 1, width // 10 + 1, 3)),
                    np.ones((10, 10, 1))).astype(np.uint8)[:height, :width]
    uv = (rng.random((count, 2)) * (width - 1, height - 1)).astype(np.float32)
    u, v = uv.astype(int).T
    return np.ascontiguousarray(image), uv, (2 + image[v, u, 0] / 50).astype(np.float32)
