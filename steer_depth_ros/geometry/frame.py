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
"""One synchronized measurement: an image, its camera and its sparse depth."""
from dataclasses import dataclass
from typing import Optional

import numpy as np

from steer_depth_ros.errors import FrameError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.projection import project_points, SparseDepth


@dataclass
class Frame:
    """
    An image with the sparse depth measured at the same time.

    image: uint8 (H, W, 3) RGB, same size as `camera`.
    camera: intrinsics of `image`.
    points: float32 (N, 3) meters in the sensor frame, with `camera_from_points`, or None.
    camera_from_points: float64 (4, 4), takes `points` into the camera's optical frame.
    sparse: samples already in image coordinates (a registered depth image), instead of `points`.
    shift: float64 (3,) meters from frame_id to the optical center of the image, for the second
    camera of a stereo pair, whose frame_id is that of the first; else None. It is included in
    camera_from_points.
    echo: float32 (N,), strength of the echoes of `points` (intensity), or None.
    stamp_ns, frame_id: of the image; outputs carry them unchanged.
    """

    image: np.ndarray
    camera: Camera
    stamp_ns: int = 0
    frame_id: str = 'camera_optical_frame'
    points: Optional[np.ndarray] = None
    camera_from_points: Optional[np.ndarray] = None
    sparse: Optional[SparseDepth] = None
    shift: Optional[np.ndarray] = None
    echo: Optional[np.ndarray] = None

    def sparse_depth(self) -> SparseDepth:
        """Project the points into the image, or return the given samples."""
        if self.sparse is not None:
            return self.sparse
        if self.points is None:
            raise FrameError('the frame has neither points nor a sparse depth image')
        return project_points(self.points, self.camera, self.camera_from_points)
