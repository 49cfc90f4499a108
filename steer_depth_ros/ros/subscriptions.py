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
"""The node's subscriptions, from topics to matched jobs."""
import sys
import time
from typing import Any, Callable, Dict, Optional

from rclpy import get_rmw_implementation_identifier
from rclpy.expand_topic_name import expand_topic_name
from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from steer_depth_ros.ros import distro
from steer_depth_ros.ros.diagnostics import RateMeter
from steer_depth_ros.ros.input_qos import InputQos
from steer_depth_ros.ros.matching import Matcher
from steer_depth_ros.ros.message_types import message_class
from steer_depth_ros.ros.messages import stamp_ns
from steer_depth_ros.ros.pipeline import Job
from steer_depth_ros.ros.remedies import against_loss

DEPTH_INFO = 'depth_info'  # CameraInfo of a depth image; a registered one needs none
TRANSPORTS = ('/compressed', '/compressedDepth')
LIVOX = {f'livox_ros_driver{version}/msg/CustomMsg' for version in ('', '2')}


class Inputs:
    """
    Subscribes to the inputs and matches their messages.

    values: parameters of the node, see parameters.py. on_job: called with each matched Job in the
    executor's thread; must return at once. calibration: from a file, instead of camera_info.
    topics: full topic by input name. rates: RateMeter by input name.
    """

    def __init__(self, node, values: Dict[str, Any], on_job: Callable[[Job], None],
                 on_jump: Callable[[], None], calibration: Any = None):
        self._node, self._on_job = node, on_job
        self._subscriptions: Dict[str, Any] = {}
        self._inputs = self._wanted_topics(values)
        self.rates = {name: RateMeter() for name in self._inputs if name != DEPTH_INFO}
        self.topics = {name: topic for name, (_, topic, _) in self._inputs.items()}
        self._qos = {name: InputQos(node, topic, kind, keeps=name in ('camera_info', DEPTH_INFO))
                     for name, (kind, topic, _) in self._inputs.items()}
        self.matcher = Matcher(
            values, 'points' if values['depth_source'] == 'points' else 'sparse depth', on_jump)
        self.sync = self.matcher.sync
        self.matcher.info = calibration

    @property
    def info(self) -> Any:
        """Return the latest camera_info, None before the first one."""
        return self.matcher.info

    def describe(self) -> str:
        """List the topics."""
        return ', '.join(self.topics.values())

    def configure(self, values: Dict[str, Any]) -> None:
        """Apply new parameter values; a new offset drops waiting messages."""
        self.matcher.configure(values)

    @property
    def running(self) -> bool:
        """Return whether the subscriptions exist."""
        return bool(self._subscriptions)

    def start(self) -> None:
        """Subscribe."""
        for rate in self.rates.values():
            rate.clear()
        for name in self._inputs:
            self._follow_type(name)
            self._qos[name].changed()
            self._subscribe(name)

    def follow_publishers(self) -> None:
        """Subscribe again to inputs whose publishers now offer another QoS or type."""
        for name in self._inputs:
            if self._follow_type(name) | self._qos[name].changed():
                self._node.destroy_subscription(self._subscriptions[name])
                self._subscribe(name)

    def stop(self) -> None:
        """Unsubscribe and drop waiting messages."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions = {}
        self.reset()

    def reset(self) -> None:
        """Drop all waiting messages after a jump in time."""
        self.matcher.reset()

    def publishers(self, name: str) -> int:
        """Count the publishers of an input."""
        return self._node.count_publishers(self.topics[name])

    def obstacle(self, name: str) -> Optional[str]:
        """Return why no publisher of an input can be received, None if unknown."""
        return self._qos[name].obstacle()

    def remedy(self, name: str) -> str:
        """Return what to do if messages of an input are lost."""
        return against_loss(get_rmw_implementation_identifier(), self._qos[name].reliable)

    def _subscribe(self, name):
        kind, topic, callback = self._inputs[name]
        self._subscriptions[name] = self._node.create_subscription(
            kind, topic, callback, self._qos[name].profile(),
            event_callbacks=distro.no_default_events(),
            qos_overriding_options=QoSOverridingOptions(
                (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)))

    def _follow_type(self, name):
        """Switch to the Livox message type if it is published and installed; return whether."""
        kind, topic, callback = self._inputs[name]
        if not issubclass(kind, PointCloud2):
            return False
        types = {p.topic_type for p in self._node.get_publishers_info_by_topic(topic)}
        found = message_class(types.pop()) if len(types) == 1 and types <= LIVOX else None
        if found is None:
            return False
        self._inputs[name] = found, topic, callback
        self._qos[name] = InputQos(self._node, topic, found)
        return True

    def _wanted_topics(self, values):
        def below(base, transport):  # as in image_transport: below the remapped base topic
            topic = self._node.resolve_topic_name(base)
            return topic if topic.endswith(TRANSPORTS) else f'{topic}/{transport}'

        image_topic, sparse_topic = map(self._node.resolve_topic_name, ('image', 'sparse_depth'))
        wanted = {}
        if values['image_compressed'] or image_topic.endswith(TRANSPORTS):
            wanted['image'] = CompressedImage, below('image', 'compressed'), self._on_image
        else:
            wanted['image'] = Image, image_topic, self._on_image
        lidars = [self._node.resolve_topic_name(t) for t in values['points_topics'] if t]
        if values['depth_source'] == 'points':
            first, *others = lidars or [self._node.resolve_topic_name('points')]
            wanted['depth'] = PointCloud2, first, self._on_depth
            for number, topic in enumerate(others, 2):
                wanted[f'points_{number}'] = PointCloud2, topic, self._on_other(
                    f'points_{number}')
        elif values['depth_compressed'] or sparse_topic.endswith(TRANSPORTS):
            wanted['depth'] = (CompressedImage, below('sparse_depth', 'compressedDepth'),
                               self._on_depth)
        else:
            wanted['depth'] = Image, sparse_topic, self._on_depth
        info = self._info_topic()
        if not values['calibration_file']:
            wanted['camera_info'] = CameraInfo, info, self._on_info
        if values['depth_source'] == 'depth_image':
            beside = f'{_without_transport(sparse_topic).rpartition("/")[0]}/camera_info'
            if beside != info or values['calibration_file']:
                wanted[DEPTH_INFO] = CameraInfo, beside, self._on_depth_info
        return wanted

    def _info_topic(self):
        """Return the topic of camera_info: next to the image, unless remapped."""
        topic = self._node.resolve_topic_name('camera_info')
        plain = expand_topic_name('camera_info', self._node.get_name(),
                                  self._node.get_namespace())
        # A remap to the default name counts, too.
        asked = any(argument.endswith(f'camera_info:={topic}') for argument in sys.argv)
        image = _without_transport(self._node.resolve_topic_name('image'))
        return topic if topic != plain or asked else f'{image.rpartition("/")[0]}/camera_info'

    def _on_info(self, msg):
        self.rates['camera_info'].tick(stamp_ns(msg.header))
        self.matcher.info = msg

    def _on_depth_info(self, msg):
        self.matcher.depth_info = msg

    def _on_other(self, name):
        def take(msg):
            stamp = stamp_ns(msg.header)
            self.rates[name].tick(stamp)
            self.matcher.add_other(name, stamp, msg)
        return take

    def _on_image(self, msg):
        stamp = stamp_ns(msg.header)
        self.rates['image'].tick(stamp)
        self._give(self.matcher.add_image(stamp, msg, time.time_ns()))

    def _on_depth(self, msg):
        stamp = stamp_ns(msg.header)
        self.rates['depth'].tick(stamp)
        self._give(self.matcher.add_depth(stamp, msg, time.time_ns()))

    def _give(self, jobs):
        for job in jobs:
            self._on_job(job)


def _without_transport(topic):
    """Return the base topic of a topic that was remapped including its transport."""
    return topic.rpartition('/')[0] if topic.endswith(TRANSPORTS) else topic
