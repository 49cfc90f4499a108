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
"""A result of half the resolution takes the depth of the samples next to its pixels."""
import numpy as np
import torch

from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.sample_fit import fit_to_samples


def test_depth_is_pulled_to_the_samples_next_to_them_alone():
    uv = np.float32([[40, 30], [90, 60]])

    def fit(depth):
        given = normalize(Samples(uv, np.float32(depth)), (96, 128), half=True).given
        return fit_to_samples(torch.full((96, 128), 4.0), given, CONFIG).numpy()

    pulled = fit([4.3, 4.0])
    assert 4.1 < pulled[30, 40] == pulled.max() <= 4.3
    changed = np.argwhere(np.abs(pulled - 4) > 1e-3)
    assert len(changed) > 1 and np.abs(changed - (30, 40)).max() < 12
    other = fit([8.0, 4.0])  # of another surface
    assert 4.1 < other[30, 40] == other.max() <= 4 * (1 + CONFIG.pull_max) + 1e-5
