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
"""Kernels follow the structure of the image."""
import numpy as np
import pytest

from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.pipeline import problem_of


def test_structure_tensor_turns_kernels_along_the_edge():
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, 64:] = 255  # an upright edge: depth may change along u
    samples = Samples(np.float32([[20, 48], [64, 48]]), np.float32([1, 1]))
    kernels = problem_of(image, samples).kernels.numpy()
    sigma, theta, gamma = kernels[1]
    across = gamma * (sigma * np.sin(theta) ** 2 + np.cos(theta) ** 2 / sigma)  # C22, along u
    along = gamma * (sigma * np.cos(theta) ** 2 + np.sin(theta) ** 2 / sigma)
    assert across > 3 * along
    assert kernels[0, 0] == pytest.approx(1)  # flat: a round kernel
