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
"""A completion node in its own process, and a peer that talks to it over DDS."""
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from typing import ClassVar

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros import messages

CAMERA = Camera(160, 96, 120.0, 120.0, 79.5, 47.5)
MS = 1_000_000
BASE = 'preset:=steering', 'device:=cpu', 'extrinsics.source:=parameters'
OUTPUTS = {'depth/image': Image, 'depth/camera_info': CameraInfo, 'points': PointCloud2,
           'confidence/image': Image, 'debug/depth_color': Image, 'debug/overlay': Image}


def header(stamp_ns, frame_id='camera'):
    msg = Header(frame_id=frame_id)
    msg.stamp.sec, msg.stamp.nanosec = divmod(stamp_ns, 10**9)
    return msg


def picture(size=(96, 160)):
    return np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)


def plane(depth=5.0, count=1500):
    """Points of a wall in front of the camera, float32 (N, 4): x, y, z and an unused column."""
    uv = np.random.default_rng(1).uniform((0, 0), (159, 95), (count, 2))
    points = np.zeros((count, 4), np.float32)
    points[:, :3] = depth * np.column_stack([
        (uv[:, 0] - CAMERA.cx) / CAMERA.fx, (uv[:, 1] - CAMERA.cy) / CAMERA.fy, np.ones(count)])
    return points


class Rig:
    """Start the node with parameters; publish its inputs and keep what it sends."""

    started: ClassVar[list] = []
    program = '-m', 'steer_depth_ros.ros.node'

    def __init__(self, *parameters, reliable_inputs=True, peer_of=None, remaps=()):
        Rig.started.append(self)
        self.namespace = peer_of.namespace if peer_of else f'/robot{len(Rig.started)}'
        self.arguments = ['-r', f'__ns:={self.namespace}',
                          *(item for rule in remaps for item in ('-r', rule)),
                          *(item for p in parameters for item in ('-p', p))]
        self.log = tempfile.TemporaryFile('w+')  # a pipe that nobody reads would stop the node
        self.process = self.start() if peer_of is None else None
        self.node = Node('peer', namespace=self.namespace)
        self.received = []
        qos = qos_of(reliable_inputs)
        create = self.node.create_publisher
        self.image = create(Image, 'image', qos)
        self.compressed = create(CompressedImage, 'image/compressed', qos)
        self.points = create(PointCloud2, 'points', qos)
        self.sparse = create(Image, 'sparse_depth', qos)
        self.info = create(CameraInfo, 'camera_info', qos)
        self.subscriptions = []

    def start(self):
        """Start the process of the node."""
        return subprocess.Popen(
            [sys.executable, *self.program, '--ros-args', *self.arguments],
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1',
                 'PYTHONFAULTHANDLER': '1'},
            cwd=Path(__file__).parents[1], stdout=self.log, stderr=subprocess.STDOUT)

    def listen(self, *names, reliable=True):
        """Subscribe to outputs; wait until the node subscribes to its inputs in turn."""
        for name in names or OUTPUTS:
            self.subscriptions.append(self.node.create_subscription(
                OUTPUTS[name], f'depth_completion/{name}',
                lambda msg, name=name: self.received.append((name, msg)), qos_of(reliable)))
        subscribed = self.spin_until(self.info.get_subscription_count, 60.0)  # busy machines, too
        assert subscribed, self.said()
        self.spin_until(lambda: self.inputs() >= 3, 5.0)  # not in every test
        self.publish_info()
        self.spin(0.3)

    def inputs(self):
        """Count the inputs that the node has found; a message sent before would be lost."""
        return sum(publisher.get_subscription_count() > 0 for publisher in self.node.publishers
                   if publisher.topic_name.startswith(self.namespace + '/'))

    def deafen(self):
        for subscription in self.subscriptions:
            self.node.destroy_subscription(subscription)
        self.subscriptions = []

    def publish_info(self):
        self.info.publish(messages.fill(CameraInfo(header=header(0)),
                                        messages.camera_info_fields(CAMERA)))

    def send_image(self, stamp_ns, pixels=None, encoding='rgb8'):
        pixels = picture() if pixels is None else pixels
        self.image.publish(messages.fill(Image(header=header(stamp_ns)),
                                         messages.image_fields(pixels, encoding)))

    def send_points(self, stamp_ns, points=None):
        points = plane() if points is None else points
        self.points.publish(messages.fill(PointCloud2(header=header(stamp_ns, 'lidar')),
                                          messages.cloud_fields(points)))

    def send(self, stamp_ns):
        self.send_points(stamp_ns)
        self.send_image(stamp_ns)

    def outputs(self, name):
        return [msg for kind, msg in self.received if kind == name]

    def stamps(self, name='depth/image'):
        return [messages.stamp_ns(msg.header) for msg in self.outputs(name)]

    def exchange(self, stamp_ns, name='depth/image', timeout=5.0):
        """Send a pair and wait for its output."""
        self.send(stamp_ns)
        return self.spin_until(lambda: stamp_ns in self.stamps(name), timeout)

    def call(self, kind, name, request=None, timeout=10.0):
        """Call a service of the node."""
        client = self.node.create_client(kind, f'depth_completion/{name}')
        try:
            assert self.spin_until(client.service_is_ready, timeout), name
            future = client.call_async(request or kind.Request())
            assert self.spin_until(future.done, timeout), name
            return future.result()
        finally:
            self.node.destroy_client(client)

    def spin(self, seconds):
        self.spin_until(lambda: False, seconds)

    def spin_until(self, condition, timeout=15.0):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            rclpy.spin_once(self.node, timeout_sec=0.02)
        return condition()

    def memory_mb(self):
        pages = int(Path(f'/proc/{self.process.pid}/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 1e6

    def close(self):
        """End the node; give its exit status and all it wrote."""
        self.node.destroy_node()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(15)
        return self.process.returncode, self.said()

    def said(self):
        """Give what the node has written so far."""
        file = self.log.fileno()  # read apart from where the node writes
        return os.pread(file, os.fstat(file).st_size, 0).decode()


@contextmanager
def running(*parameters):
    """Run a node with these parameters and see that it ends well."""
    rig = Rig(*parameters)
    yield rig
    status, log = rig.close()
    assert status == 0 and 'Traceback' not in log, log


def qos_of(reliable):
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE if reliable
                      else ReliabilityPolicy.BEST_EFFORT)
