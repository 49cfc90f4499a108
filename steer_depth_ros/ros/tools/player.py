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
"""
Play a recording no faster than the node answers: `python -m ...tools.player`.

Messages are published as recorded, without decoding. After each message that completes a pair of
image and depth, the player waits for the node's answer, so that a slow machine delays playback
instead of losing frames. With a patience of 0 it does not wait, like real sensors.
"""
import argparse
import json
from pathlib import Path
import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from steer_depth_ros.errors import BagError
from steer_depth_ros.recordings import bag
from steer_depth_ros.ros.message_types import message_class
from steer_depth_ros.ros.shutdown import shut_down
from steer_depth_ros.ros.synchronizer import Synchronizer

QUEUE = 10
SETTLE_S = 0.5  # a subscriber is visible a little before its connection is ready


class Player:
    """Plays a recording to a node; `log` is the content of the JSON file."""

    def __init__(self, node, recording, args):
        self.node, self.recording, self.args = node, recording, args
        self.answered = set()
        self.log: dict = {'published_ns': {}, 'expected': [], 'unanswered': [],
                          'skipped_topics': []}
        self.publishers = {}
        for topic, kind in recording.topics.items():
            self._advertise(topic, kind)
        node.create_subscription(message_class(bag.CAMERA_INFO), args.answers, self._answer,
                                 QoSProfile(depth=QUEUE), raw=True)

    def wait_for_listeners(self):
        """Wait until inputs and output have subscribers; return whether they do."""
        inputs = [self.publishers[t] for t in (self.args.image, self.args.depth,
                                               self.args.camera_info)]
        deadline = time.monotonic() + self.args.discovery
        while time.monotonic() < deadline:
            missing = [p.topic_name for p in inputs if p.get_subscription_count() == 0]
            missing += [t for t in self.args.listeners if self.node.count_subscribers(t) == 0]
            if not missing and self.node.count_publishers(self.args.answers):
                self._spin(SETTLE_S)
                # First, as a driver would, so that the first image has it.
                self._publish(next(self.recording.messages(self.args.camera_info)))
                self._spin(SETTLE_S)
                return True
            self._spin(0.1)
        print(f'after {self.args.discovery:g} s nobody subscribes to '
              f'{", ".join(missing) or self.args.answers}', file=sys.stderr)
        return False

    def play(self):
        """Publish everything at the recorded rate or slower."""
        sync = Synchronizer(self.args.slop)
        add = {self.args.image: sync.add_image, self.args.depth: sync.add_depth}
        due, previous_ns = time.monotonic(), None
        for record in self.recording.messages(*self.publishers):
            due += (record.log_ns - (previous_ns or record.log_ns)) / 1e9 / self.args.rate
            previous_ns = record.log_ns
            due = max(due, time.monotonic())  # do not catch up after a slow answer
            self._spin(due - time.monotonic())
            self._publish(record)
            if record.topic in add:
                for pair in add[record.topic](bag.cdr_stamp_ns(record.raw), None):
                    self._wait_for(pair.image_ns)

    def _advertise(self, topic, kind):
        msgtype = message_class(kind)
        if msgtype is None:
            self.log['skipped_topics'].append(topic)
            return
        latched = (DurabilityPolicy.TRANSIENT_LOCAL if topic.endswith('/tf_static')
                   else DurabilityPolicy.VOLATILE)
        qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE, durability=latched)
        self.publishers[topic] = self.node.create_publisher(msgtype, topic, qos)

    def _publish(self, record):
        if record.topic == self.args.image:
            self.log['published_ns'][bag.cdr_stamp_ns(record.raw)] = time.time_ns()
        self.publishers[record.topic].publish(bytes(record.raw))

    def _answer(self, raw):
        self.answered.add(bag.cdr_stamp_ns(raw))

    def _wait_for(self, stamp_ns):
        self.log['expected'].append(stamp_ns)
        if self.args.patience == 0:
            return
        deadline = time.monotonic() + self.args.patience
        while stamp_ns not in self.answered:
            if time.monotonic() > deadline:
                self.log['unanswered'].append(stamp_ns)
                return
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def _spin(self, seconds):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


def main(argv=None):
    """Play; return status 1 without subscribers or if the recording cannot be read."""
    args = _arguments(argv)
    rclpy.init(args=None)
    node = rclpy.create_node('player')
    try:
        with bag.BagReader(args.bag) as recording:
            player = Player(node, recording, args)
            if not player.wait_for_listeners():
                return 1
            player.play()
        Path(args.log).write_text(json.dumps(player.log))
    except BagError as error:
        print(f'player: error: {error}', file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        shut_down(node)
    print(f'{len(player.log["expected"])} frames played')
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bag')
    for name in ('image', 'camera-info', 'depth', 'answers', 'log'):
        parser.add_argument(f'--{name}', required=True)
    parser.add_argument('--listeners', nargs='*', default=[], help='topics somebody must hear')
    parser.add_argument('--rate', type=float, default=1.0, help='speed, 1 is that of the bag')
    parser.add_argument('--slop', type=float, required=True, help='that of the node, seconds')
    parser.add_argument('--discovery', type=float, default=60.0, help='seconds')
    parser.add_argument('--patience', type=float, default=30.0,
                        help='seconds to wait for one answer')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
