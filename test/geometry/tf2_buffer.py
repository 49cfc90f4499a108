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
"""The buffer of tf2 with the calls of ours, for tests where ROS 2 is installed."""
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time
import tf2_py

from steer_depth_ros.geometry.transforms import HISTORY_NS, matrix_from


class Tf2Buffer:
    """What tf2_ros.Buffer is made of; it knows frame names without a leading slash only."""

    def __init__(self):
        self._core = tf2_py.BufferCore(Duration(nanoseconds=HISTORY_NS))

    def set_pose(self, parent, child, stamp_ns, xyz, quaternion, static=False):
        message = TransformStamped(child_frame_id=child.lstrip('/'))
        message.header.frame_id = parent.lstrip('/')
        message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        moved, turned = message.transform.translation, message.transform.rotation
        moved.x, moved.y, moved.z = map(float, xyz)
        turned.x, turned.y, turned.z, turned.w = map(float, quaternion)
        add = self._core.set_transform_static if static else self._core.set_transform
        add(message, 'test')

    def lookup(self, target, source, stamp_ns=0):
        return _matrix(self._core.lookup_transform_core(
            target.lstrip('/'), source.lstrip('/'), Time(nanoseconds=stamp_ns)))

    def lookup_full(self, target, target_stamp, source, source_stamp, fixed):
        return _matrix(self._core.lookup_transform_full_core(
            target, Time(nanoseconds=target_stamp), source, Time(nanoseconds=source_stamp),
            fixed))


def _matrix(message):
    moved, turned = message.transform.translation, message.transform.rotation
    return matrix_from((moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))
