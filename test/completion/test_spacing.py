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
"""How far samples are apart."""
import numpy as np
import pytest

from steer_depth_ros.completion.spacing import sample_spacing


def test_spacing_is_measured_alike_at_any_resolution():
    rng = np.random.default_rng(5)
    u, v = (a.ravel() for a in np.meshgrid(np.arange(2, 638, 5.0), np.arange(3, 478, 9.0)))
    uv = np.column_stack([u, v + rng.uniform(-1, 1, u.shape)])
    for scale in (0.3, 0.5, 1, 3):
        across, rows = sample_spacing(uv * scale, (round(480 * scale), round(640 * scale)))
        assert across / scale == pytest.approx(5, rel=0.05)
        assert rows / scale == pytest.approx(9, rel=0.1)
