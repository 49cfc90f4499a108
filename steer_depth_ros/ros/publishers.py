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
"""The node's publishers; an output is made only if it has a subscriber and is due."""
from typing import Any, Dict, Set

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from steer_depth_ros.ros import messages
from steer_depth_ros.ros.output_fields import output_fields, RateGate
from steer_depth_ros.ros.pipeline import Result

TOPICS = {
    'depth': (Image, '~/depth/image'),
    'camera_info': (CameraInfo, '~/depth/camera_info'),
    'confidence': (Image, '~/confidence/image'),
    'cloud': (PointCloud2, '~/points'),
    'depth_color': (Image, '~/debug/depth_color'),
    'overlay': (Image, '~/debug/overlay'),
}


class Outputs:
    """
    The publishers of all outputs.

    values: parameters of the node, see parameters.py; may be replaced while it runs.
    """

    def __init__(self, node, values: Dict[str, Any]):
        self.values = values
        self._node = node
        # Reliable publishers serve reliable and best-effort subscribers.
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._publishers = {
            name: node.create_lifecycle_publisher(
                kind, topic, qos,
                qos_overriding_options=QoSOverridingOptions.with_default_policies())
            for name, (kind, topic) in TOPICS.items()}
        self._gates = {name: RateGate() for name in TOPICS}

    def subscribed(self) -> Set[str]:
        """Return the outputs with subscribers."""
        return {name for name, p in self._publishers.items() if p.get_subscription_count()}

    def wanted(self, stamp_ns: int) -> Set[str]:
        """Return the outputs to make for an image with this stamp."""
        rates = {'cloud': self.values['cloud_rate_hz'],
                 'depth_color': self.values['debug_rate_hz'],
                 'overlay': self.values['debug_rate_hz']}
        return {name for name in self.subscribed()
                if self._gates[name].due(stamp_ns, rates.get(name, 0.0))}

    def publish(self, result: Result, wanted: Set[str]) -> None:
        """Publish the wanted outputs, all with the header of the image."""
        for name in TOPICS:  # depth first, as others take longer
            if name in wanted:
                msg = TOPICS[name][0]()
                msg.header.stamp = result.header.stamp
                msg.header.frame_id = result.frame.frame_id
                messages.fill(msg, output_fields(name, result, self.values))
                self._publishers[name].publish(msg)
                self._gates[name].passed(result.frame.stamp_ns)

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
