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
"""Time of the node without the model: receive, convert, match, project, convert, publish."""
from collections import defaultdict
import time
from types import SimpleNamespace

import numpy as np

from steer_depth_ros.benchmarks import model
from steer_depth_ros.commands.options import need_rclpy, write_json
from steer_depth_ros.errors import ConfigError
from steer_depth_ros.geometry.camera import Camera

WIDTH, HEIGHT, POINTS = 1242, 375, 115_000
CAMERA = Camera(WIDTH, HEIGHT, 721.5, 721.5, 609.6, 172.9)
GOAL_MS = 25.0
PERIOD_NS = 100_000_000
WARM_UP = 3


def add_arguments(parser) -> None:
    """Add the options of `steer_depth bench node`."""
    parser.add_argument('--frames', type=int, default=40, help='frames to measure (default 40)')
    parser.add_argument('--json', help='write the figures to this file')


def run(args) -> int:
    """Measure and print the median of each stage; return 0 if the sum is within the goal."""
    stages = measure(args.frames)
    total = sum(stages.values())
    print(f'node without the model: {WIDTH} x {HEIGHT} image, {POINTS:,} points in; depth and '
          f'{WIDTH * HEIGHT:,} points out; median of {args.frames} frames')
    for name, milliseconds in stages.items():
        print(f'  {name:<22}{milliseconds:8.2f} ms')
    print(f'  {"total":<22}{total:8.2f} ms   (goal {GOAL_MS:.0f} ms)')
    linear = model.linear_of_a_lidar_frame()
    print(f'  {"of linear":<22}{total / linear:8.3f}      (Delaunay-linear interpolation of a '
          f'frame of that size, {linear:.0f} ms in this run)')
    write_json(args.json, {'stages_ms': stages, 'total_ms': total, 'goal_ms': GOAL_MS,
                           'of_linear': total / linear, 'linear_ms': linear,
                           'frames': args.frames})
    return 0 if total <= GOAL_MS else 1


def measure(frames: int) -> dict:
    """Return the median milliseconds of each stage; raise ConfigError without rclpy."""
    need_rclpy('bench node')
    import rclpy
    rclpy.init()
    bench = _Bench()
    laps = defaultdict(list)
    try:
        for index in range(frames + WARM_UP):
            for name, milliseconds in bench.frame(index * PERIOD_NS + PERIOD_NS).items():
                if index >= WARM_UP:
                    laps[name].append(milliseconds)
    finally:
        bench.close()
        rclpy.try_shutdown()
    return {name: float(np.median(values)) for name, values in laps.items()}


class _Bench:
    """The parts of the node with a model that takes no time, and subscribers to its outputs."""

    def __init__(self):
        from rclpy.lifecycle import LifecycleNode
        from rclpy.node import Node

        from steer_depth_ros.ros.extrinsics import Extrinsics
        from steer_depth_ros.ros.parameters import PARAMETERS
        from steer_depth_ros.ros.pipeline import Pipeline
        from steer_depth_ros.ros.publishers import Outputs, TOPICS
        from steer_depth_ros.ros.synchronizer import Synchronizer

        values = {name: parameter.default for name, parameter in PARAMETERS.items()}
        values['extrinsics.source'] = 'parameters'
        self._node, self._peer = LifecycleNode('bench'), Node('bench_peer')
        self._outputs = Outputs(self._node, values)
        self._node.trigger_configure()
        self._node.trigger_activate()
        self._wanted = {'depth', 'cloud'}
        for name in self._wanted:
            kind, topic = TOPICS[name]
            self._peer.create_subscription(
                kind, topic.replace('~', 'bench'), lambda msg: None, 5)
        end = time.monotonic() + 5.0
        while self._outputs.subscribed() != self._wanted and time.monotonic() < end:
            time.sleep(0.02)
        if self._outputs.subscribed() != self._wanted:
            raise ConfigError('the subscribers of the benchmark were not discovered; check '
                              'ROS_DOMAIN_ID and the network configuration')
        self._sync = Synchronizer(0.05)
        self._pipeline = Pipeline(values, _InstantCompleter(), Extrinsics(values, None))
        self._image, self._points = _image(), _points()

    def frame(self, stamp_ns):
        """Send one frame through all stages; return milliseconds by stage."""
        from rclpy.serialization import deserialize_message
        from sensor_msgs.msg import CameraInfo, Image, PointCloud2

        from steer_depth_ros.ros import messages
        from steer_depth_ros.ros.pipeline import Cloud, Job

        raw_image, raw_cloud = self._serialized(stamp_ns)
        info = messages.fill(CameraInfo(), messages.camera_info_fields(CAMERA))
        stages, clock = {}, time.perf_counter()

        def lap(name):
            nonlocal clock
            now = time.perf_counter()
            stages[name], clock = 1e3 * (now - clock), now

        image = deserialize_message(raw_image, Image)
        cloud = deserialize_message(raw_cloud, PointCloud2)
        lap('receive')
        self._sync.add_depth(stamp_ns, Cloud(cloud, stamp_ns))
        pair, = self._sync.add_image(stamp_ns, image)
        lap('match')
        result = self._pipeline.run(Job(pair, info), self._wanted)
        stages['convert in'] = result.stages['convert']
        stages['project'] = result.stages['project']
        clock = time.perf_counter()
        self._outputs.publish(result, {'depth'})
        lap('publish depth')
        self._outputs.publish(result, {'cloud'})
        lap('make and publish cloud')
        return stages

    def close(self):
        self._outputs.destroy()
        self._node.destroy_node()
        self._peer.destroy_node()

    def _serialized(self, stamp_ns):
        from rclpy.serialization import serialize_message
        from sensor_msgs.msg import Image, PointCloud2

        from steer_depth_ros.ros import messages

        image = messages.fill(Image(), messages.image_fields(self._image, 'bgr8'))
        cloud = messages.fill(PointCloud2(), messages.cloud_fields(self._points))
        for msg, frame_id in ((image, 'camera'), (cloud, 'lidar')):
            msg.header.frame_id = frame_id
            msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return serialize_message(image), serialize_message(cloud)


class _InstantCompleter:
    """A completer that takes no time: a road with posts, which have edges for the cloud filter."""

    def __init__(self):
        rows = np.linspace(80.0, 5.0, HEIGHT, dtype=np.float32)
        depth = 1.0 / np.linspace(1.0 / rows[0], 1.0 / rows[-1], HEIGHT, dtype=np.float32)
        depth = np.repeat(depth[:, None], WIDTH, 1)
        for left in range(0, WIDTH, 100):
            depth[80:300, left:left + 40] *= np.float32(0.6)
        self._completion = SimpleNamespace(
            depth=depth,
            confidence=np.full((HEIGHT, WIDTH), 0.9, np.float32))

    def complete(self, image, uv, depth):
        return self._completion


def _image():
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _points():
    """Return a full sweep as float32 (N, 4), in the axes of the camera."""
    rng = np.random.default_rng(1)
    azimuth = rng.uniform(-np.pi, np.pi, POINTS)
    elevation = np.deg2rad(rng.uniform(-24.0, 3.0, POINTS))
    distance = rng.uniform(3.0, 80.0, POINTS)
    points = np.zeros((POINTS, 4), np.float32)
    points[:, 0] = distance * np.cos(elevation) * np.sin(azimuth)
    points[:, 1] = -distance * np.sin(elevation)
    points[:, 2] = distance * np.cos(elevation) * np.cos(azimuth)
    return points
