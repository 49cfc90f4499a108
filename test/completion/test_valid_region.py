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
"""Where depth is stated: between samples, and a little beyond."""
import numpy as np
import pytest

from steer_depth_ros.completion.valid_region import valid_mask


def test_the_sky_over_the_highest_line_is_not_filled():
    v, u = np.mgrid[150:300:10, 0:400:3]
    valid = valid_mask(np.stack([u.ravel(), v.ravel()], 1).astype(np.float32), (320, 400))
    assert valid[150:300].all()
    assert not valid[:100].any() and valid[130:150].all()


def test_a_hole_in_a_surface_is_filled():
    v, u = np.mgrid[0:320:4, 0:400:4]
    uv = np.stack([u.ravel(), v.ravel()], 1).astype(np.float32)
    hole = (np.abs(uv[:, 0] - 200) < 90) & (np.abs(uv[:, 1] - 160) < 90)
    assert valid_mask(uv[~hole], (320, 400)).all()


def test_reach_can_be_stated():
    uv = np.float32([[200, 160]])
    valid = valid_mask(uv, (320, 400), reach=40)
    assert valid[160, 230] and not valid[160, 260]
    assert valid.sum() == pytest.approx(np.pi * 40 ** 2, rel=0.3)
