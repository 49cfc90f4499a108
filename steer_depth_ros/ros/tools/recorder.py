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
Record topics as they arrive, without decoding them.

`python -m steer_depth_ros.ros.tools.recorder`

Messages are recorded with their time of arrival. After SIGINT it ends once no more messages
arrive, or at the latest after a few seconds.
"""
import argparse
import signal
import sys
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from steer_depth_ros.errors import BagError
from steer_depth_ros.recordings.bag import BagWriter
from steer_depth_ros.ros.message_types import message_class

IDLE_S = 1.0  # silence after which a requested end takes effect
LONGEST_S = 5.0  # latest end after the request
QUEUE = 20


class Recorder:
    """Writes arriving messages; `count` is their number so far."""

    def __init__(self, node, writer):
        self.node, self.writer, self.count = node, writer, 0
        self._last = time.monotonic()
        self._ending = None  # time.monotonic() of the request to end

    def subscribe(self, topic, kind):
        """Record one topic of a message type such as 'sensor_msgs/msg/Image'."""
        def arrive(raw):
            self.writer.write(topic, time.time_ns(), bytes(raw))
            self.count += 1
            self._last = time.monotonic()

        self.writer.add_topic(topic, kind)
        qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(message_class(kind), topic, arrive, qos, raw=True)

    def end(self):
        """Request the end, from a signal handler."""
        self._ending = self._last = time.monotonic()

    def run(self):
        """Record until the end is requested and no more messages arrive."""
        while not self._over():
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def _over(self):
        now = time.monotonic()
        return self._ending is not None and (
            now - self._last > IDLE_S or now - self._ending > LONGEST_S)


def main(argv=None):
    """Record until interrupted; return status 1 if the recording cannot be written."""
    args = _arguments(argv)
    rclpy.init(args=None, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('recorder')
    try:
        with BagWriter(args.target, overwrite=True) as writer:
            recorder = Recorder(node, writer)
            for ending in (signal.SIGINT, signal.SIGTERM):
                signal.signal(ending, lambda *_: recorder.end())
            for entry in args.topics:
                recorder.subscribe(*entry.split('='))
            recorder.run()
        print(f'{recorder.count} messages in {args.target}')
    except BagError as error:
        print(f'recorder: error: {error}', file=sys.stderr)
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('target', help='.mcap, .db3, or a folder with sqlite3')
    parser.add_argument('topics', nargs='+', metavar='TOPIC=TYPE')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
