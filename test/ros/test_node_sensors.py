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
"""Sensors that are not set up as most are, over DDS: frames, units, several LiDARs, no topic."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from geometry_msgs.msg import TransformStamped  # noqa: E402
from node_rig import CAMERA, header, MS, plane, qos_of, Rig  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402
from tf_types import tf_message  # noqa: E402

from steer_depth_ros.geometry.camera import Camera  # noqa: E402
from steer_depth_ros.ros import messages  # noqa: E402

START = 1_900_000_000_000 * MS
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module', autouse=True)
def transforms(context):
    tf_message()  # before the first node, which finds the type where this one puts it


def publish_transforms(rig, *links):
    """Latch transforms of (parent, child, xyz) on /tf_static."""
    kind = tf_message()
    publisher = rig.node.create_publisher(kind, '/tf_static', LATCHED)
    message = kind()
    for parent, child, xyz in links:
        one = TransformStamped(header=header(START, parent), child_frame_id=child)
        one.transform.translation.x, one.transform.translation.y, one.transform.translation.z = xyz
        message.transforms.append(one)
    publisher.publish(message)
    return publisher


def feed(rig, *senders, frames=20, enough=1):
    """Call the senders with stamps until depth images come; give the last."""
    for i in range(frames):
        for send in senders:
            send(START + i * 100 * MS)
        if rig.spin_until(lambda: len(rig.outputs('depth/image')) >= enough, 0.5):
            break
    assert len(rig.outputs('depth/image')) >= enough, rig.said()
    return rig.outputs('depth/image')[-1]


def closed(rig):
    status, log = rig.close()
    assert status == 0 and 'Traceback' not in log, log
    return log


def test_a_depth_image_of_another_frame_and_unit_with_latched_calibrations():
    rig = Rig('preset:=fast', 'device:=cpu', 'depth_source:=depth_image', 'depth_unit_m:=0.0005',
              remaps=('sparse_depth:=sensor/image',))
    own = Camera(80, 60, 70.0, 70.0, 39.5, 29.5)
    depth = rig.node.create_publisher(Image, 'sensor/image', qos_of(True))
    infos = rig.node.create_publisher(CameraInfo, 'sensor/camera_info', LATCHED)
    infos.publish(messages.fill(CameraInfo(header=header(0, 'sensor')),
                                messages.camera_info_fields(own)))  # once, before all
    transforms = publish_transforms(rig, ('camera', 'sensor', (0.05, 0.0, 1.0)))

    def send_depth(stamp):
        counts = np.full((60, 80), 8000, np.uint16)  # of half a millimeter: 4 m
        counts[:20] = 65535
        depth.publish(messages.fill(Image(header=header(stamp, 'sensor')),
                                    messages.image_fields(counts, '16UC1')))

    rig.listen('depth/image')
    found = messages.depth_to_metres(feed(rig, send_depth, rig.send_image))
    assert np.nanmedian(found) == pytest.approx(5.0, rel=0.01)
    assert np.nanmax(found) < 6.0  # 65535 is no wall
    log = closed(rig)
    assert log.count('is not registered to the image') == 1
    assert transforms is not None


def test_two_lidars_and_a_calibration_from_a_file(tmp_path):
    file = tmp_path / 'ost.yaml'
    file.write_text(f"""
image_width: {CAMERA.width}
image_height: {CAMERA.height}
camera_name: front
camera_matrix: {{rows: 3, cols: 3, data: [{CAMERA.fx}, 0, {CAMERA.cx}, 0, {CAMERA.fy},
                                          {CAMERA.cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
""")
    rig = Rig('preset:=fast', 'device:=cpu', f'calibration_file:={file}',
              'points_topics:=[left/points, right/points]')
    sides = {side: rig.node.create_publisher(PointCloud2, f'{side}/points', qos_of(True))
             for side in ('left', 'right')}
    transforms = publish_transforms(rig, ('camera', 'left_lidar', (-0.5, 0.0, 0.0)),
                                    ('camera', 'right_lidar', (0.5, 0.0, 0.0)))
    wall = plane()

    def send_points(stamp):
        for side, sign in (('left', -1), ('right', 1)):
            points = wall[wall[:, 0] * sign > 0].copy()
            points[:, 0] -= sign * 0.5
            sides[side].publish(messages.fill(
                PointCloud2(header=header(stamp, f'{side}_lidar')),
                messages.cloud_fields(points)))

    rig.subscriptions.append(rig.node.create_subscription(
        Image, 'depth_completion/depth/image',
        lambda msg: rig.received.append(('depth/image', msg)), qos_of(True)))
    assert rig.spin_until(rig.image.get_subscription_count, 60.0), rig.said()
    # The first may come before the second LiDAR is received.
    found = messages.depth_to_metres(feed(rig, send_points, rig.send_image, enough=3))
    both = np.isfinite(found[:, :70]).mean(), np.isfinite(found[:, 90:]).mean()
    assert min(both) > 0.9 and np.nanmedian(found) == pytest.approx(5.0, rel=0.01)
    assert not rig.info.get_subscription_count()
    closed(rig)
    assert transforms is not None
