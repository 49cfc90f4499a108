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
"""The pose of the depth sensor in the camera: from TF, from parameters, or the identity."""
import time
from typing import Any, Callable, Dict, Optional

import numpy as np

from steer_depth_ros.geometry.calibration_file import Calibration
from steer_depth_ros.geometry.transforms import (
    matrix_from,
    matrix_from_rpy,
    quaternion_from,
    TransformBuffer,
    TransformError,
)
from steer_depth_ros.ros.messages import stamp_ns

POLL_S = 0.005
FAR_M = 1e4  # meters; at this distance from a map's origin float32 is coarser than a millimeter
BESIDE = 0.02  # relative, plus 2 mm: tolerance between a baseline in P and in the transforms
TIME_BINS = 16  # poses per sweep; motion between two of them is taken as linear
NO_TF = ('/tf cannot be received, because the message type tf2_msgs is not installed: set '
         'extrinsics.source to "parameters", extrinsics.xyz and extrinsics.rpy (or '
         'extrinsics.quaternion), or apt install ros-$ROS_DISTRO-tf2-msgs')


class TfListener:
    """
    Fill a TransformBuffer from /tf and /tf_static.

    Raise ImportError if tf2_msgs is not installed, as with ROS 2 from Python wheels.
    """

    def __init__(self, node, buffer: TransformBuffer):
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from tf2_msgs.msg import TFMessage
        self._node, self._buffer, self._logger = node, buffer, node.get_logger()
        self.last_arrival: Optional[float] = None  # time.monotonic() of the last moving transform
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, '/tf', self.on_tf, QoSProfile(depth=100)),
            node.create_subscription(TFMessage, '/tf_static', self.on_tf_static, latched)]

    def on_tf(self, msg) -> None:
        """Add moving transforms."""
        self.last_arrival = time.monotonic()
        self._take(msg, False)

    def on_tf_static(self, msg) -> None:
        """Add static transforms."""
        self._take(msg, True)

    def destroy(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take(self, msg, static):
        for transform in msg.transforms:
            try:
                add_transform(self._buffer, transform, static)
            except TransformError as error:
                self._logger.warning(f'ignored a transform: {error}', throttle_duration_sec=10.0)


def add_transform(buffer: TransformBuffer, transform: Any, static: bool) -> None:
    """Add a TransformStamped; raise TransformError if it is not a valid pose."""
    t, q = transform.transform.translation, transform.transform.rotation
    buffer.set_pose(transform.header.frame_id, transform.child_frame_id,
                    stamp_ns(transform.header), (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), static)


class Extrinsics:
    """
    Provides the matrix that takes points of the depth sensor into the camera.

    values: parameters of the node, see parameters.py. buffer: None without TF.
    stopping: polled while waiting for a transform; true ends the wait. newer: returns whether a
    newer frame is waiting; then there is no wait for a transform from before the buffer's start.
    """

    def __init__(self, values: Dict[str, Any], buffer: Optional[TransformBuffer],
                 stopping: Callable[[], bool] = lambda: False,
                 newer: Callable[[], bool] = lambda: False):
        self.source = _source(values, buffer)
        self._stopping, self._newer = stopping, newer
        self._buffer = buffer or TransformBuffer()
        self.configure(values)

    def configure(self, values: Dict[str, Any]) -> None:
        """Apply new parameter values; the source does not change."""
        self.values = values
        self._fixed_matrix = _matrix(values) if self.source == 'parameters' else np.eye(4)
        self._without_pose = (self.source, values['extrinsics.source']) == (
            'parameters', 'auto') and np.array_equal(self._fixed_matrix, np.eye(4))

    def camera_from(self, camera_frame: str, image_ns: int, depth_frame: str,
                    depth_ns: int) -> np.ndarray:
        """
        Return float64 (4, 4), from `depth_frame` at `depth_ns` to the camera at `image_ns`.

        Wait up to tf_timeout_s for a late transform, then raise TransformError, which lists the
        existing frames. Raise it, too, where TF cannot be received and no parameter was set.
        """
        fixed, end = self.values['fixed_frame'], None
        same = depth_frame.lstrip('/') == camera_frame.lstrip('/')
        if self.source != 'tf' or (same and not fixed):
            if not same and self._without_pose:
                raise TransformError(f'the pose of {depth_frame} in {camera_frame} is not known: '
                                     f'{NO_TF}')
            return self._fixed_matrix
        while True:
            try:
                if fixed:
                    return self._buffer.lookup_full(camera_frame, image_ns, depth_frame, depth_ns,
                                                    fixed)
                return self._buffer.lookup(camera_frame, depth_frame, depth_ns)
            except TransformError as error:
                end = end or time.monotonic() + self.values['tf_timeout_s']
                if (self._stopping() or time.monotonic() >= end
                        or (error.past and self._newer())):
                    raise _explained(error, fixed) from None
            time.sleep(POLL_S)

    def knows_frame_at(self, camera_frame: str, xyz: np.ndarray) -> bool:
        """Return whether TF has a frame at position xyz (meters) in the camera frame."""
        camera_frame = camera_frame.lstrip('/')
        for name in self._buffer.frames():
            try:
                found = self._buffer.lookup(camera_frame, name)[:3, 3]
            except TransformError:
                continue
            if np.linalg.norm(found - xyz) < 2e-3 + BESIDE * np.linalg.norm(xyz):
                return True
        return False


def calibrated_values(values: Dict[str, Any],
                      calibration: Optional[Calibration]) -> Dict[str, Any]:
    """Return the parameters with the LiDAR pose of a calibration file, if it has one."""
    matrix = calibration.camera_from_points if calibration else None
    if matrix is None or values['extrinsics.source'] != 'auto':
        return values
    return posed_values(values, matrix)


def posed_values(values: Dict[str, Any], matrix: np.ndarray) -> Dict[str, Any]:
    """Return the parameters with a pose of the LiDAR, (4, 4), instead of one from TF."""
    return {**values, 'extrinsics.source': 'parameters', 'extrinsics.rpy': [0.0] * 3,
            'extrinsics.xyz': matrix[:3, 3].tolist(),
            'extrinsics.quaternion': quaternion_from(matrix).tolist()}


def is_far(matrix: np.ndarray) -> bool:
    """Return whether a (4, 4) transform has a translation too large for float32."""
    return np.abs(matrix[:3, 3]).max() > FAR_M


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a (4, 4) transform to float32 or float64 (N, 3) points; return float32 (N, 3)."""
    if points.dtype == np.float64 or is_far(matrix):
        return (points @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
    matrix = matrix.astype(np.float32)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def compensate(points: np.ndarray, times: np.ndarray,
               matrix_at: Callable[[float], np.ndarray]) -> np.ndarray:
    """
    Transform each point with the sensor's pose at its own time.

    points: float32 (N, 3). times: float64 (N,) seconds, NaN for points to drop. matrix_at: returns
    the (4, 4) matrix at a time in seconds. Return float32 (M, 3).
    """
    known = np.isfinite(times)
    if not known.all():
        points, times = points[known], times[known]
    if not len(points):
        return points.astype(np.float32)
    edges = np.linspace(times.min(), times.max(), TIME_BINS + 1)
    bins = np.clip(np.searchsorted(edges, times, side='right') - 1, 0, TIME_BINS - 1)
    moved = np.empty(points.shape, np.float32)
    for index in np.unique(bins):
        chosen = bins == index
        moved[chosen] = move(points[chosen], matrix_at(0.5 * (edges[index] + edges[index + 1])))
    return moved


def _explained(error, fixed):
    """Add the parameter's name to the error if the missing frame is the fixed frame."""
    if fixed and f'frame "{fixed}" does not exist' in str(error):
        return TransformError(f'{error}; it is the parameter fixed_frame: leave that empty '
                              'for sensors that stand still')
    return error


def _source(values, buffer):
    source = values['extrinsics.source']
    if source == 'auto':
        if values['depth_source'] == 'depth_image':  # TF is for unregistered ones
            return 'identity' if buffer is None else 'tf'
        return 'parameters' if buffer is None else 'tf'
    if source == 'tf' and buffer is None:
        raise TransformError('extrinsics.source is "tf", but the message type tf2_msgs is not '
                             'available; install it or set extrinsics.source to "parameters"')
    return source


def _matrix(values):
    xyz, quaternion = values['extrinsics.xyz'], values['extrinsics.quaternion']
    if quaternion != [0.0, 0.0, 0.0, 1.0]:
        return matrix_from(xyz, quaternion)
    return matrix_from_rpy(xyz, values['extrinsics.rpy'])
