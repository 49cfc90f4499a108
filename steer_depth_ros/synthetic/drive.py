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
"""A short drive through a rendered street, with a LiDAR beside the camera and exact depth."""
from typing import Iterator

import numpy as np
import torch

from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.recordings.frame_folder import FIRST_STAMP_NS, PERIOD_NS, RecordedFrame
from steer_depth_ros.synthetic.builder import NORMAL
from steer_depth_ros.synthetic.renderer import render_scene

SIZE = 320, 960
KIND = 'street'
STEP_M = np.array([0.05, 0.0, 0.5])  # right, down, forward between two frames: 5 m/s
BEAMS = np.deg2rad(np.linspace(-24.8, 6.0, 64))
AZIMUTH_STEP = np.deg2rad(0.2)
RANGE_NOISE_M = 0.02
MAX_RANGE_M = 90.0
# Above and behind the camera; the LiDAR's x points forward, y left and z up.
CAMERA_FROM_LIDAR = np.array([[0.0, -1.0, 0.0, 0.1], [0.0, 0.0, -1.0, -0.45],
                              [1.0, 0.0, 0.0, -0.3], [0.0, 0.0, 0.0, 1.0]])


def drive_frames(count, seed=6, size=SIZE) -> Iterator[RecordedFrame]:
    """
    Render `count` frames, 10 Hz apart, of one street.

    size: (H, W) pixels. Each frame has a cloud in the frame of the LiDAR and the exact depth, NaN
    for the sky. The same seed and size give the same frames.
    """
    for index in range(count):
        scene = render_scene(seed, size, kind=KIND, moved=(index * STEP_M).tolist())
        rng = np.random.default_rng([seed, index])
        frame = Frame(image=scene.image.numpy(), camera=scene.camera,
                      stamp_ns=FIRST_STAMP_NS + index * PERIOD_NS, points=scan(scene, rng),
                      camera_from_points=CAMERA_FROM_LIDAR)
        depth = scene.depth.numpy()
        truth = np.where(np.isfinite(depth), depth, np.float32(np.nan))
        yield RecordedFrame(f'{index:06d}', frame, truth=truth)


def scan(scene, rng) -> np.ndarray:
    """
    Return the front half of a sweep of a spinning LiDAR; float32 (N, 3) meters in its frame.

    Black and glass surfaces return nothing.
    """
    azimuth = np.arange(-np.pi / 2, np.pi / 2, AZIMUTH_STEP)
    e, a = (grid.ravel() for grid in np.meshgrid(BEAMS, azimuth, indexing='ij'))
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], 1)
    turned = (rays @ CAMERA_FROM_LIDAR[:3, :3].T).astype(np.float32)
    origin = CAMERA_FROM_LIDAR[:3, 3].astype(np.float32)
    distance, echo = scene.trace(torch.from_numpy(origin), torch.from_numpy(turned))
    distance = distance.numpy()
    returned = (distance < MAX_RANGE_M) & (echo.numpy() == NORMAL)
    distance = distance[returned] + rng.normal(0, RANGE_NOISE_M, returned.sum())
    return (rays[returned] * distance[:, None]).astype(np.float32)
