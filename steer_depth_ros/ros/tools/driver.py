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
Publish image, camera_info and cloud as a sensor driver does: `python -m ...tools.driver`.

With --check it also compares the pairs sent with those that the node's diagnostics report, and
exits with status 1 if too few arrived. Topics are relative: remap them with --ros-args -r.
"""
import argparse
import sys
import time
from typing import Dict, Optional

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.shutdown import shut_down

RELIABILITY = {'reliable': ReliabilityPolicy.RELIABLE,
               'best_effort': ReliabilityPolicy.BEST_EFFORT}
WARM_UP_S = 3.0  # for the node to find the publishers and choose its QoS
QUIET_S = 2.0  # until everything has arrived and been reported
PATIENCE_S = 90.0  # until a node on a busy machine has loaded its model


class Driver:
    """
    Publishers of one camera and one LiDAR, and the node's report of what arrived.

    image_qos, points_qos: 'reliable' or 'best_effort'; camera_info uses image_qos.
    latched: publish camera_info once, transient local, instead of with each image.
    size: width and height of the image (rgb8). points: of the cloud, 16 bytes each.
    """

    def __init__(self, node, image_qos: str, points_qos: str, queue: int, latched: bool,
                 size, points: int):
        self.node = node
        self.status: Dict[str, str] = {}
        width, height = size
        camera = Camera(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)
        noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        self._image = messages.fill(Image(), messages.image_fields(noise, 'rgb8'))
        self._info = messages.fill(CameraInfo(), messages.camera_info_fields(camera))
        self._points = messages.fill(PointCloud2(), messages.cloud_fields(_wall(camera, points)))
        for msg, frame in ((self._image, 'camera'), (self._info, 'camera'),
                           (self._points, 'lidar')):
            msg.header.frame_id = frame
        image, cloud = (QoSProfile(depth=queue, reliability=RELIABILITY[name])
                        for name in (image_qos, points_qos))
        self.publish_image = node.create_publisher(Image, 'image', image).publish
        self._cloud = node.create_publisher(PointCloud2, 'points', cloud)
        self._latched = latched
        info = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publish_info = node.create_publisher(
            CameraInfo, 'camera_info', info if latched else image).publish
        if latched:
            self._publish_info(self._info)

    def watch(self, completion_node: str) -> None:
        """Subscribe to a cheap output of the node and to its diagnostics."""
        self.node.create_subscription(
            Image, f'{completion_node}/debug/overlay', lambda raw: None,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT), raw=True)
        self.node.create_subscription(
            DiagnosticArray, '/diagnostics',
            lambda msg: self._on_diagnostics(msg, completion_node), 10)

    def publish(self) -> None:
        """Publish a pair with the current time, and its camera_info."""
        seconds, nanoseconds = divmod(time.time_ns(), 10 ** 9)
        for msg in (self._image, self._info, self._points):
            msg.header.stamp.sec, msg.header.stamp.nanosec = seconds, nanoseconds
        if not self._latched:
            self._publish_info(self._info)
        self._cloud.publish(self._points)
        self.publish_image(self._image)

    def play(self, seconds: float, rate: float) -> int:
        """Publish pairs at a rate; return their number."""
        began, count = time.monotonic(), max(1, round(seconds * rate))
        for index in range(count):
            self.spin(began + index / rate - time.monotonic())
            self.publish()
        return count

    def spin(self, seconds: float) -> None:
        """Spin for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)

    def subscribed(self) -> bool:
        """Wait for the node; return whether it came."""
        end = time.monotonic() + PATIENCE_S
        while not self._cloud.get_subscription_count() and time.monotonic() < end:
            self.spin(0.1)
        return self._cloud.get_subscription_count() > 0

    def pairs(self) -> Optional[int]:
        """Return the node's number of pairs once it is settled; None without diagnostics."""
        self.spin(QUIET_S)
        self.status.clear()
        self.spin(QUIET_S)
        return int(self.status['pairs']) if 'pairs' in self.status else None

    def _on_diagnostics(self, msg, completion_node):
        for status in msg.status:
            if completion_node.strip('/') in status.name:
                self.status = {pair.key: pair.value for pair in status.values}


def _wall(camera, count):
    """Return float32 (N, 4) points of a wall 10 m away, in the axes of the camera."""
    limits = (camera.width - 1, camera.height - 1)
    uv = np.random.default_rng(1).uniform((0, 0), limits, (count, 2))
    points = np.zeros((count, 4), np.float32)
    points[:, 0] = 10.0 * (uv[:, 0] - camera.cx) / camera.fx
    points[:, 1] = 10.0 * (uv[:, 1] - camera.cy) / camera.fy
    points[:, 2] = 10.0
    return points


def main(argv=None) -> int:
    """Publish; with --check return 1 for too few pairs, 2 if the node does not answer."""
    args = _arguments(rclpy.utilities.remove_ros_args(argv or sys.argv)[1:])
    rclpy.init(args=argv)
    node = rclpy.create_node('sensor_driver')
    try:
        driver = Driver(node, args.image_qos, args.points_qos or args.image_qos, args.queue,
                        args.latched_info, args.size, args.points)
        if args.check is None:
            driver.play(args.seconds, args.rate)
            return 0
        return _check(driver, args)
    except KeyboardInterrupt:
        return 130
    finally:
        shut_down(node)


def _check(driver, args):
    driver.watch(args.node)
    if not driver.subscribed():
        print(f'nobody subscribed to points within {PATIENCE_S:.0f} s; does the node run?',
              file=sys.stderr)
        return 2
    driver.play(WARM_UP_S, args.rate)
    before = driver.pairs()
    sent = driver.play(args.seconds, args.rate)
    after = driver.pairs()
    if before is None or after is None:
        print(f'{args.node} published no diagnostics', file=sys.stderr)
        return 2
    share = (after - before) / sent
    print(f'{after - before} of {sent} pairs arrived ({100 * share:.0f} %)', flush=True)
    return int(share < args.check)


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--image-qos', choices=RELIABILITY, default='reliable',
                        help='of image and camera_info (default reliable)')
    parser.add_argument('--points-qos', choices=RELIABILITY,
                        help='of the cloud (default: that of the image)')
    parser.add_argument('--queue', type=int, default=10, help='keep last (default 10)')
    parser.add_argument('--latched-info', action='store_true',
                        help='publish camera_info once, for those who come later, too')
    parser.add_argument('--size', type=_size, default=(1242, 375), metavar='WxH',
                        help='of the image, 3 bytes a pixel (default 1242x375)')
    parser.add_argument('--points', type=int, default=115_000,
                        help='of the cloud, 16 bytes each (default 115000)')
    parser.add_argument('--rate', type=float, default=10.0, help='pairs a second (default 10)')
    parser.add_argument('--seconds', type=float, default=10.0, help='(default 10)')
    parser.add_argument('--check', type=float, metavar='SHARE',
                        help='smallest share of pairs that must arrive in the node, e.g. 0.95')
    parser.add_argument('--node', default='depth_completion',
                        help='name of the node to check (default depth_completion)')
    return parser.parse_args(argv)


def _size(text):
    width, _, height = text.partition('x')
    return int(width), int(height)


if __name__ == '__main__':
    sys.exit(main())
