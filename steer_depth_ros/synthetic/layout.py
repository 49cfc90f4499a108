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
"""Camera and light of a scene."""
from dataclasses import dataclass
from typing import List

import numpy as np

from steer_depth_ros.synthetic.builder import Builder, rotation


@dataclass
class Light:
    """A lamp at `at`, or the sun in the direction `at` when `distant`; color is RGB strength."""

    at: np.ndarray
    color: np.ndarray
    distant: bool


@dataclass
class Layout:
    """
    A scene in world coordinates (z up, meters) and the pose of the camera.

    world_from_cam: (3, 3) rotation; hfov: horizontal field of view in radians; far: depth beyond
    which there is only sky; outdoor: sensors are mounted further from the camera.
    """

    builder: Builder
    eye: np.ndarray
    world_from_cam: np.ndarray
    hfov: float
    lights: List[Light]
    ambient: np.ndarray
    far: float
    outdoor: bool


def look(eye, target, roll=0.0):
    """Turn the camera at `eye` to `target`; return world_from_cam (3, 3)."""
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0) if abs(forward[2]) < 0.99 else (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    frame = np.stack([right, down, forward], 1)
    return frame @ rotation(yaw=roll)


def field_of_view(rng, low=45, high=100):
    """Draw a horizontal field of view, radians."""
    return np.deg2rad(rng.uniform(low, high))


def lamps(rng, low, high, n=(1, 3)):
    """Draw `n` = (minimum, maximum) lamps between the corners `low` and `high`."""
    lights = []
    for _ in range(int(rng.integers(n[0], n[1] + 1))):
        warm = 1 + rng.normal(0, 0.12) * np.array([1, 0, -1])
        lights.append(Light(rng.uniform(low, high), rng.uniform(0.4, 1.0) * warm, False))
    return lights


def ambient(rng, low=0.15, high=0.6):
    """Draw the ambient light, RGB (3,)."""
    return rng.uniform(low, high) * (1 + rng.normal(0, 0.06, 3))
