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
Play a recording over and over at a fixed rate and time the answers: `python -m ...soak_player`.

Every frame gets a new stamp, and playback does not wait for the node, which drops frames if it is
too slow. All outputs are subscribed to, so that the node makes all of them.
"""
import argparse
from itertools import cycle, islice
import json
from pathlib import Path
import sys
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy

from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import OUTPUTS, PICTURES
from steer_depth_ros.ros import process_tuning
from steer_depth_ros.ros.message_types import message_class
from steer_depth_ros.ros.shutdown import shut_down
from steer_depth_ros.ros.synchronizer import Synchronizer

QUEUE = 10
WARM_UP = 20  # frames, one at a time: the model loads and the memory pools fill
PATIENCE_S = 30.0
LAST_S = 2.0  # after the last frame; what is missing by then counts as dropped
MOST_FRAMES = 50  # frames of the recording kept in memory


class SoakPlayer:
    """
    Publishes frames and records when their depth arrives.

    frames: (image, depth, camera_info) as raw CDR, one message each. log: published and answered
    (stamp to seconds of the monotonic clock), and stamps whose depth was omitted.
    """

    def __init__(self, node, topics, kinds, frames):
        qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        self.node, self.frames = node, cycle(frames)
        self.publishers = [node.create_publisher(message_class(kind), topic, qos)
                           for topic, kind in zip(topics, kinds)]
        self.log: dict = {'published': {}, 'answered': {}, 'left_out': []}
        for name, (topic, kind) in (OUTPUTS | PICTURES).items():
            arrived = self._answer if name == 'depth' else lambda raw: None
            node.create_subscription(message_class(kind), topic, arrived, qos, raw=True)

    def warm_up(self):
        """Wait for the node and its answers to a few frames; return whether they came."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and len(self.log['answered']) < WARM_UP:
            if all(publisher.get_subscription_count() for publisher in self.publishers):
                stamp = self.publish()
                self._spin_until(time.monotonic() + 1.0, lambda s=stamp: s in self.log['answered'])
            else:
                self._spin_until(time.monotonic() + 0.1)
        arrived = len(self.log['answered']) >= WARM_UP
        self.log['published'].clear()
        self.log['answered'].clear()
        return arrived

    def play(self, seconds, rate, leave_out):
        """Publish at `rate`; omit the depth of every `leave_out`-th frame (0: never)."""
        self.log['began'] = began = time.monotonic()
        for index in range(max(1, round(seconds * rate))):
            self._spin_until(began + index / rate)
            self.publish(without_depth=leave_out and index % leave_out == leave_out - 1)
        self._spin_until(time.monotonic() + LAST_S)

    def publish(self, without_depth=False):
        """Publish the next frame with the current time; return its stamp in nanoseconds."""
        stamp = time.time_ns()
        image, depth, info = (restamped(raw, stamp) for raw in next(self.frames))
        publish_image, publish_depth, publish_info = (p.publish for p in self.publishers)
        publish_info(info)
        if without_depth:
            self.log['left_out'].append(stamp)
        else:
            publish_depth(depth)
        self.log['published'][stamp] = time.monotonic()
        publish_image(image)
        return stamp

    def _answer(self, raw):
        self.log['answered'][bag.cdr_stamp_ns(raw)] = time.monotonic()

    def _spin_until(self, end, done=lambda: False):
        while not done() and (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


def restamped(raw, stamp_ns):
    """Replace the stamp in the CDR of a message with a header."""
    order = 'little' if raw[1] & 1 else 'big'
    stamp = b''.join(part.to_bytes(4, order) for part in divmod(stamp_ns, 10 ** 9))
    return raw[:4] + stamp + raw[12:]


def read_pairs(recording, image, depth, info, slop_s):
    """Yield (image, depth, camera_info), as raw bytes, of each matched pair of a recording."""
    sync = Synchronizer(slop_s)
    add = {image: sync.add_image, depth: sync.add_depth}
    about = bytes(next(recording.messages(info)).raw)
    for record in recording.messages(image, depth):
        for pair in add[record.topic](bag.cdr_stamp_ns(record.raw), bytes(record.raw)):
            yield pair.image, pair.depth, about
    for pair in sync.flush():
        yield pair.image, pair.depth, about


def main(argv=None):
    """Play; return status 1 if the node does not answer."""
    args = _arguments(argv)
    process_tuning.prepare()
    topics = args.image, args.depth, args.camera_info
    with bag.BagReader(args.bag) as recording:
        frames = list(islice(read_pairs(recording, *topics, args.slop), MOST_FRAMES))
        kinds = [recording.topics[topic] for topic in topics]
    rclpy.init(args=None)
    node = rclpy.create_node('soak_player')
    try:
        player = SoakPlayer(node, topics, kinds, frames)
        if not player.warm_up():
            print('the node does not answer', file=sys.stderr)
            return 1
        player.play(args.seconds, args.rate, args.leave_out)
        Path(args.log).write_text(json.dumps(player.log))
    finally:
        shut_down(node)
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bag')
    for name in ('image', 'camera-info', 'depth', 'log'):
        parser.add_argument(f'--{name}', required=True)
    for name in ('seconds', 'rate', 'slop'):
        parser.add_argument(f'--{name}', type=float, required=True)
    parser.add_argument('--leave-out', type=int, default=0)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
