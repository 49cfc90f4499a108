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
A node under test whose every output is checked against what was sent.

Each cloud is a wall at a depth of its own and each image has a color of its own, so that an
output tells which messages it was made of.
"""
from collections import Counter, deque
import os
from pathlib import Path
import tempfile
import time
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from node_rig import header, MS, Rig
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf_types import tf_message

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros import messages

CAMERA = Camera(96, 64, 80.0, 80.0, 47.5, 31.5)
POINTS = 600
PERIOD_NS = 100 * MS
SLOP_NS = 50 * MS
START_NS = 1_700_000_000_000 * MS
TOLERANCE = 1e-3  # relative; depths of two walls differ by 2 % or more
KEPT = 3000  # images and clouds that are remembered; outputs come within a few periods
PROCESSING_S = 0.05  # what the node takes for a pair, with some to spare
BUSY_S = 3.0  # how long other work of the machine may keep the node waiting
PATIENCE = 20  # frames without an answer that count as a hang
PARAMETERS = ('preset:=steering', 'device:=cpu', 'cloud_edge_filter:=false')
KINDS = {bool: (ParameterType.PARAMETER_BOOL, 'bool_value'),
         int: (ParameterType.PARAMETER_INTEGER, 'integer_value'),
         float: (ParameterType.PARAMETER_DOUBLE, 'double_value'),
         str: (ParameterType.PARAMETER_STRING, 'string_value')}


class Recovery(NamedTuple):
    """
    Which healthy pair after the fault was answered first (from 1), and when.

    paused_ms: for how long at most this process, which has nothing to wait for, did not run.
    """

    frames: int
    milliseconds: float
    paused_ms: float


class FaultRig(Rig):
    """
    Sends pairs and checks what comes.

    now: stamp of the latest pair. lag_ns: how much older the cloud is than its image.
    pairs: stamps of the healthy pairs that were sent. answered: stamps of the depth that came.
    came: how many messages came. wrong: a sentence for each of them that is wrong.
    """

    program = (str(Path(__file__).with_name('hooked_node.py')),)

    def __init__(self, *parameters):
        self.order = Path(tempfile.mkdtemp()) / 'order'
        os.environ['FAULT_ORDER'] = str(self.order)
        try:
            self.tf_kind = tf_message()
        except ImportError:
            self.tf_kind = None
        source = 'tf' if self.tf_kind else 'parameters'
        super().__init__(*PARAMETERS, f'extrinsics.source:={source}', *parameters)
        self.now, self.lag_ns, self.serial, self.lidar_z = START_NS, 0, 0, 0.0
        self.cameras, self.scales = [CAMERA], {1.0}
        self.pairs, self.answered, self.wrong, self.came = set(), set(), [], 0
        self.status, self.paused_s = {}, 0.0
        self._images, self._clouds = {}, deque(maxlen=KEPT)
        self._uv = np.random.default_rng(1).uniform((0, 0), (95, 63), (POINTS, 2))
        self._setter = self.node.create_client(SetParameters, 'depth_completion/set_parameters')
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_status, 10)
        if self.tf_kind:
            latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._tf = self.node.create_publisher(self.tf_kind, '/tf', 10)
            self._tf_static = self.node.create_publisher(self.tf_kind, '/tf_static', latched)
            self.send_static()

    def open(self):
        """Subscribe, and exchange pairs until the node has learnt the period of the sensors."""
        self.listen('depth/image', 'depth/camera_info', 'points')
        self._connect()

    def _connect(self):
        """Send pairs until both sides have discovered each other, and the node the period."""
        for _ in range(200):
            self.publish_info()  # as drivers do; one alone is lost before it is discovered
            if self.answers(self.pair(), 0.1):
                break
        else:
            raise AssertionError('the node does not answer at all')
        for _ in range(4):
            self.recover()

    def forget(self):
        """Count anew."""
        self.pairs.clear()
        self.answered.clear()
        self.wrong.clear()
        self.came = 0

    def restart(self):
        """Kill the node as the system would, and start it again."""
        self.process.kill()
        self.process.wait()
        self.process, self.status = self.start(), {}
        # Its subscriptions count as alive for a while, so only the new node's word tells.
        assert self.spin_until(lambda: 'rate in: image (Hz)' in self.status
                               and not self.status['message'].startswith(('idle', 'inactive')),
                               60.0), self.status
        self._connect()

    # Messages

    def depth_of(self, serial):
        return 2.0 * 1.02 ** (serial % 100)

    def grey_of(self, serial):
        return 20 + serial * 7 % 200

    def image_msg(self, stamp, serial, size=(64, 96)):
        pixels = np.full((*size, 3), self.grey_of(serial), np.uint8)
        return messages.fill(Image(header=header(stamp)), messages.image_fields(pixels, 'rgb8'))

    def wall(self, serial):
        """Points of the wall, float32 (N, 4), seen from the LiDAR."""
        depth = self.depth_of(serial)
        points = np.zeros((POINTS, 4), np.float32)
        points[:, :3] = depth * np.column_stack([(self._uv - (CAMERA.cx, CAMERA.cy)) / CAMERA.fx,
                                                 np.ones(POINTS)])
        points[:, 2] -= self.lidar_z
        return points

    def cloud_msg(self, stamp, points):
        return messages.fill(PointCloud2(header=header(stamp, 'lidar')),
                             messages.cloud_fields(points))

    def publish_info(self, camera=CAMERA, **changes):
        fields = {**messages.camera_info_fields(camera), **changes}
        self.info.publish(messages.fill(CameraInfo(header=header(0)), fields))

    # Sending; what is healthy is remembered, so that its output is known to be right

    def tick(self, periods=1):
        """Let the clock of the sensors go on; give a new serial number."""
        self.now += round(periods * PERIOD_NS)
        self.serial += 1
        return self.serial

    def send_healthy_image(self, stamp, serial):
        self._images.setdefault(stamp, []).append(self.grey_of(serial))
        while len(self._images) > KEPT:
            del self._images[next(iter(self._images))]
        self.image.publish(self.image_msg(stamp, serial))

    def send_healthy_cloud(self, stamp, serial, msg=None, tf=True):
        self._clouds.append((stamp, self.depth_of(serial)))
        if tf:
            self.send_tf(stamp)
        self.points.publish(msg or self.cloud_msg(stamp, self.wall(serial)))

    def send_pair(self, stamp=None, serial=None, wait=PROCESSING_S, **how):
        """
        Send a healthy pair at a stamp (default: now); give the stamp of its image.

        wait: seconds; no sensor sends its next message before an idle node answers.
        """
        stamp, serial = self.now if stamp is None else stamp, serial or self.serial
        self.pairs.add(stamp)
        self.send_healthy_cloud(stamp - self.lag_ns, serial, **how)
        self.send_healthy_image(stamp, serial)
        self.answers(stamp, wait)
        return stamp

    def pair(self, wait=PROCESSING_S):
        """Send the healthy pair that is due next."""
        self.tick()
        return self.send_pair(wait=wait)

    def send_tf(self, stamp, parent='base', child='lidar', **changes):
        """Send the pose of the LiDAR in the base."""
        if self.tf_kind:
            self._tf.publish(self._transform(stamp, parent, child, self.lidar_z, **changes))

    def send_static(self, parent='base', child='camera'):
        if self.tf_kind:
            self._tf_static.publish(self._transform(0, parent, child, 0.0))

    def _transform(self, stamp, parent, child, z, w=1.0):
        msg = TransformStamped(header=header(stamp, parent), child_frame_id=child)
        msg.transform.translation.z, msg.transform.rotation.w = z, w
        return self.tf_kind(transforms=[msg])

    # Orders and parameters

    def tell(self, order=None):
        """Let the model do something else (see hooked_node.py), or its work."""
        if order is None:
            self.order.unlink(missing_ok=True)
            return
        fresh = self.order.with_suffix('.new')
        fresh.write_text(order)
        fresh.replace(self.order)

    def set_async(self, **values):
        """Ask for new values of parameters; give the future."""
        request = SetParameters.Request(parameters=[
            Parameter(name=name, value=ParameterValue(
                type=KINDS[type(value)][0], **{KINDS[type(value)][1]: value}))
            for name, value in values.items()])
        return self._setter.call_async(request)

    def set(self, **values):
        """Set parameters; give the results."""
        assert self.spin_until(self._setter.service_is_ready, 10.0)
        future = self.set_async(**values)
        assert self.spin_until(future.done, 10.0)
        return future.result().results

    # Answers

    def spin_until(self, condition, timeout=15.0):
        """Spin, and judge whatever comes."""
        last = time.monotonic()

        def done():
            nonlocal last
            now = time.monotonic()
            self.paused_s, last = max(self.paused_s, now - last), now
            self._judge_all()
            return condition()

        return super().spin_until(done, timeout)

    def answers(self, stamp, timeout):
        """Wait for the depth of an image."""
        return self.spin_until(lambda: stamp in self.answered, timeout)

    def recover(self):
        """
        Send healthy pairs at the sensors' rate until one is answered; give the Recovery.

        After the second pair there is time for a machine that is busy otherwise: a third would
        replace it. AssertionError when none is answered for long, or the node has died.
        """
        begun, stamps, self.paused_s = time.monotonic(), [], 0.0
        for number in range(1, PATIENCE + 1):
            stamps.append(self.pair(wait=0))
            patience = BUSY_S if number == 2 else PERIOD_NS * 1e-9
            if self.spin_until(lambda: self.answered.intersection(stamps), patience):
                first = min(stamps.index(s) for s in self.answered.intersection(stamps))
                return Recovery(first + 1, 1e3 * (time.monotonic() - begun), 1e3 * self.paused_s)
            assert self.process.poll() is None, 'the node has died'
        raise AssertionError('the node does not answer any more')

    def drops(self):
        """Give what the node says to have dropped by cause, as of now."""
        self.spin_status()
        return Counter({key.removeprefix('drops: '): int(value)
                        for key, value in self.status.items() if key.startswith('drops: ')})

    def spin_status(self):
        """Wait for diagnostics that were made after this call."""
        asked = time.time_ns()
        assert self.spin_until(lambda: self.status.get('at', 0) > asked, 5.0), 'no diagnostics'

    def _on_status(self, msg):
        if not msg.status[0].name.startswith(self.namespace.strip('/') + '/'):
            return
        self.status = {item.key: item.value for item in msg.status[0].values}
        self.status['at'] = messages.stamp_ns(msg.header)
        self.status['message'], self.status['level'] = msg.status[0].message, msg.status[0].level

    def _judge_all(self):
        received, self.received = self.received, []
        for name, msg in received:
            fault = {'depth/image': self._judge_depth, 'points': self._judge_cloud,
                     'depth/camera_info': self._judge_info}[name](msg)
            self.came += 1
            if fault:
                self.wrong.append(f'{name} of {messages.stamp_ns(msg.header)}: {fault}')

    def _judge_depth(self, msg):
        stamp = messages.stamp_ns(msg.header)
        if stamp not in self._images:
            return 'no such image was sent'
        if msg.header.frame_id != 'camera':
            return f'frame {msg.header.frame_id}'
        if stamp in self.answered:
            return 'published twice'
        self.answered.add(stamp)
        depth = messages.depth_to_metres(msg)
        if depth.shape not in {(round(64 * s), round(96 * s)) for s in self.scales}:
            return f'shape {depth.shape}'
        return self._judge_values(stamp, depth[np.isfinite(depth)],
                                  0.6e-3 if msg.encoding == '16UC1' else 0.0)

    def _judge_cloud(self, msg):
        stamp = messages.stamp_ns(msg.header)
        xyz = messages.cloud_to_xyz(msg)
        rgb = np.frombuffer(msg.data, np.uint8).reshape(-1, 16)[:, 12:15]
        finite = np.isfinite(xyz).all(axis=1)
        if not any((rgb[finite] == gray).all() for gray in self._images.get(stamp, [])):
            return 'the color of another image'
        return self._judge_values(stamp, xyz[finite, 2])

    def _judge_values(self, stamp, values, absolute=0.0):
        walls = [depth for at, depth in self._clouds if abs(at - stamp) <= SLOP_NS]
        if not len(values):
            return 'no depth'
        if not any((np.abs(values - wall) <= TOLERANCE * wall + absolute).all() for wall in walls):
            return f'depths {values.min():.3f} to {values.max():.3f} m, sent were {walls}'
        return None

    def _judge_info(self, msg):
        camera = messages.camera_from_info(msg)
        if camera not in [c if s == 1.0 else c.scaled(round(c.width * s), round(c.height * s))
                          for c in self.cameras for s in self.scales]:
            return f'another camera: {camera}'
        return None
