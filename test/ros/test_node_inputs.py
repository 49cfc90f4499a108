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
"""What the real node takes over DDS: encodings, layouts, calibrations, transforms, QoS."""
import re
import struct

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from node_rig import BASE, CAMERA, header, MS, picture, plane, Rig, running  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import (  # noqa: E402
    CameraInfo,
    CompressedImage,
    Image,
    PointCloud2,
    PointField,
    RegionOfInterest,
)
from std_srvs.srv import Trigger  # noqa: E402
from tf_types import tf_message  # noqa: E402

from steer_depth_ros.geometry.camera import Camera  # noqa: E402
from steer_depth_ros.ros import messages  # noqa: E402

KINDS = {'f4': PointField.FLOAT32, 'f8': PointField.FLOAT64, 'u2': PointField.UINT16,
         'u4': PointField.UINT32}
WALL_M = 5.0
pytestmark = pytest.mark.usefixtures('context')


@pytest.fixture(scope='module')
def shared_rig(tmp_path_factory):
    with running(*BASE, f'save_dir:={tmp_path_factory.mktemp("saved")}') as rig:
        yield rig


@pytest.fixture
def rig(rig):
    rig.listen('depth/image', 'depth/camera_info')
    return rig


def set_parameters(rig, **values):
    request = SetParameters.Request(parameters=[
        Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
    for result in rig.call(SetParameters, 'set_parameters', request).results:
        assert result.successful, result.reason


def completes(rig, stamp, depth=WALL_M):
    """Tell whether the depth of this stamp comes, as a wall at this distance."""
    assert rig.spin_until(lambda: stamp in rig.stamps(), 10.0), 'nothing came'
    found = messages.depth_to_metres(rig.outputs('depth/image')[-1])
    assert np.nanmedian(found) == pytest.approx(depth, rel=0.01)
    return found


def cloud(stamp_ns, columns, shape=(1, 1500), step=None, row_padding=0, order='<'):
    """Lay out columns (name to kind and values) as a PointCloud2 with padding and byte order."""
    offsets, end = [], 4  # four bytes of something else first
    for kind, _ in columns.values():
        offsets.append(end)
        end += int(kind[1])
    step = step or end
    points = np.zeros(shape, np.dtype({
        'names': list(columns), 'formats': [order + kind for kind, _ in columns.values()],
        'offsets': offsets, 'itemsize': step}))
    for name, (_, values) in columns.items():
        points[name] = np.asarray(values).reshape(shape)
    rows = np.zeros((shape[0], shape[1] * step + row_padding), np.uint8)
    rows[:, :shape[1] * step] = points.view(np.uint8).reshape(shape[0], -1)
    msg = PointCloud2(header=header(stamp_ns, 'lidar'), height=shape[0], width=shape[1],
                      point_step=step, row_step=rows.shape[1], is_bigendian=order == '>')
    msg.fields = [PointField(name=name, offset=offset, datatype=KINDS[kind], count=1)
                  for (name, (kind, _)), offset in zip(columns.items(), offsets)]
    return messages.fill(msg, {'data': rows.reshape(-1)})


def coordinates(kind='f4', depth=WALL_M):
    return {name: (kind, plane(depth)[:, axis]) for axis, name in enumerate('xyz')}


@pytest.mark.parametrize('encoding, pixel_bytes', [
    ('rgba8', 4), ('bgra8', 4), ('8UC3', 3), ('8UC1', 1), ('bayer_bggr8', 1), ('bayer_gbrg8', 1),
    ('bayer_grbg8', 1), ('bayer_rggb16', 2)])
def test_encodings_of_images_with_padded_rows(rig, stamps, encoding, pixel_bytes):
    pixels = np.resize(picture(), (96, 160, pixel_bytes))
    rows = np.zeros((96, 160 * pixel_bytes + 12), np.uint8)
    rows[:, :160 * pixel_bytes] = pixels.reshape(96, -1)
    rig.send_points(stamps[0])
    rig.image.publish(messages.fill(
        Image(header=header(stamps[0]), height=96, width=160, encoding=encoding,
              step=rows.shape[1]), {'data': rows.reshape(-1)}))
    completes(rig, stamps[0])


@pytest.mark.parametrize('layout', [
    {'columns': coordinates('f8')},
    {'columns': {'ring': ('u2', np.zeros(1500)), **coordinates(), 'i': ('f4', np.ones(1500))}},
    {'columns': coordinates(), 'shape': (30, 50), 'step': 48, 'row_padding': 20},
    {'columns': coordinates(), 'order': '>'},
], ids=['float64', 'other fields', 'organized with padding', 'big endian'])
def test_layouts_of_clouds(rig, stamps, layout):
    rig.points.publish(cloud(stamps[0], **layout))
    rig.send_image(stamps[0])
    completes(rig, stamps[0])


def with_info(rig, **fields):
    info = messages.fill(CameraInfo(header=header(0)), messages.camera_info_fields(CAMERA))
    for name, value in fields.items():
        setattr(info, name, value)
    rig.info.publish(info)
    rig.spin(0.1)


@pytest.mark.parametrize('fields, size, expected', [
    ({'binning_x': 2, 'binning_y': 2}, (48, 80), CAMERA.binned(2, 2)),
    ({'roi': RegionOfInterest(x_offset=20, y_offset=10, width=120, height=80)}, (80, 120),
     CAMERA.cropped(20, 10, 120, 80)),
    ({}, (192, 320), CAMERA.scaled(320, 192)),
    ({'distortion_model': 'rational_polynomial', 'd': [0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0]},
     (96, 160), Camera(160, 96, 120.0, 120.0, 79.5, 47.5, 'rational_polynomial',
                       (0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0))),
    ({'distortion_model': 'equidistant', 'd': [0.01, 0.0, 0.0, 0.0]}, (96, 160),
     Camera(160, 96, 120.0, 120.0, 79.5, 47.5, 'equidistant', (0.01, 0.0, 0.0, 0.0))),
], ids=['binning', 'region of interest', 'larger image', 'rational', 'fisheye'])
def test_calibrations(rig, stamps, fields, size, expected):
    with_info(rig, **fields)
    rig.send_points(stamps[0])
    rig.send_image(stamps[0], picture(size))
    assert completes(rig, stamps[0]).shape == size
    assert rig.spin_until(lambda: rig.outputs('depth/camera_info'), 5.0)
    assert messages.camera_from_info(rig.outputs('depth/camera_info')[-1]) == expected


def test_an_image_of_another_shape_than_its_calibration_is_refused(rig, stamps):
    rig.send_points(stamps[0])
    rig.send_image(stamps[0], picture((96, 96)))
    rig.spin(0.5)
    assert not rig.stamps()
    assert rig.exchange(stamps[1])


def saved_points(rig):
    saved = rig.call(Trigger, 'save_frame')
    assert saved.success, saved.message
    return np.load(f'{saved.message.splitlines()[0]}/lidar.npy')


def test_clouds_before_the_image_are_used_together(rig, stamps):
    set_parameters(rig, accumulate_s=0.25)
    try:
        for stamp in stamps[:3]:
            rig.send_points(stamp)
            rig.spin(0.1)
        rig.send_image(stamps[2])
        completes(rig, stamps[2])
        assert len(saved_points(rig)) == 3 * len(plane())
    finally:
        set_parameters(rig, accumulate_s=0.0)


def pose(parent, child, stamp_ns, z=0.0):
    msg = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    msg.transform.translation.z = z
    return msg


def test_points_move_with_the_robot_each_by_its_own_time(stamps, tmp_path):
    try:
        kind = tf_message()
    except ImportError as error:
        pytest.skip(str(error))
    rig = Rig('preset:=steering', 'device:=cpu', 'fixed_frame:=odom', 'tf_timeout_s:=1.0',
              'compensate_point_times:=true', f'save_dir:={tmp_path}')
    moving = rig.node.create_publisher(kind, '/tf', 100)
    rig.listen('depth/image')
    # 10 m/s along the camera's axis; the image is taken 0.04 s after the stamp of the cloud.
    moving.publish(kind(transforms=[
        pose('odom', 'camera', stamps[0] + i * 10 * MS, z=0.1 * i) for i in range(-2, 8)]))
    moving.publish(kind(transforms=[pose('camera', 'lidar', stamps[0] + i * 10 * MS)
                                    for i in range(-2, 8)]))
    rig.spin(0.3)
    nanoseconds = np.linspace(0, 40 * MS, 1500)
    for stamp in stamps[:2]:  # a later pair settles that nothing nearer comes
        rig.points.publish(cloud(stamp, {**coordinates(), 't': ('u4', nanoseconds)}))
        rig.send_image(stamp + 40 * MS)
    completes(rig, stamps[0] + 40 * MS, WALL_M - 0.2)
    z = saved_points(rig)[:, 2]
    assert z == pytest.approx(WALL_M - 10 * (0.04 - nanoseconds * 1e-9), abs=0.02)
    assert rig.close()[0] == 0


def test_depth_images_raw_and_compressed(stamps):
    rig = Rig('preset:=steering', 'device:=cpu', 'depth_source:=depth_image')
    rig.listen('depth/image')
    depth = np.full((96, 160), np.nan, np.float32)
    depth[::4, ::4] = 3.0
    for stamp, encoding in zip(stamps, ('32FC1', '16UC1')):
        rig.sparse.publish(messages.fill(Image(header=header(stamp)),
                                         messages.depth_fields(depth, encoding)))
        rig.send_image(stamp)
        completes(rig, stamp, 3.0)
    assert rig.close()[0] == 0
    rig = Rig('preset:=steering', 'device:=cpu', 'depth_source:=depth_image',
              'depth_compressed:=true')
    compressed = rig.node.create_publisher(CompressedImage, 'sparse_depth/compressedDepth', 5)
    rig.listen('depth/image')
    png = cv2.imencode('.png', np.nan_to_num(depth * 1000).astype(np.uint16))[1].tobytes()
    compressed.publish(messages.fill(
        CompressedImage(header=header(stamps[3]), format='16UC1; compressedDepth png'),
        {'data': struct.pack('<iff', 0, 0.0, 0.0) + png}))
    rig.send_image(stamps[3])
    completes(rig, stamps[3], 3.0)
    assert rig.close()[0] == 0


def test_simulated_time_that_stands_still_and_jumps_back(stamps):
    rig = Rig(*BASE, 'use_sim_time:=true')
    clock = rig.node.create_publisher(Clock, '/clock', 10)
    seen = []
    rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    rig.listen('depth/image')  # although there is no time yet
    assert rig.exchange(stamps[5])
    for stamp in (stamps[5], stamps[0]):
        clock.publish(Clock(clock=header(stamp).stamp))
        rig.spin(0.3)
    assert rig.exchange(stamps[0])
    del seen[:]
    assert rig.spin_until(lambda: seen, 5.0)
    values = {one.key: one.value for one in seen[-1].status[0].values}
    assert int(values['drops: resets']) >= 1
    assert rig.close()[0] == 0


def test_streams_that_never_match_are_reported_with_the_remedy(rig, stamps):
    set_parameters(rig, slop_s=0.02)
    seen = []
    subscription = rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    try:
        for stamp in stamps:
            rig.send_points(stamp + 63 * MS)
            rig.send_image(stamp)
            rig.spin(0.02)
        assert not rig.stamps()
        told = re.compile(r'image and points are 3\d ms apart.* slop is 20 ms.*time_offset_s')
        assert rig.spin_until(lambda: any(told.search(m.status[0].message) for m in seen)), [
            m.status[0].message for m in seen]
        set_parameters(rig, time_offset_s=0.037)
        for stamp in stamps[:3]:
            rig.send_points(stamp + 10**10 + 63 * MS)
            rig.send_image(stamp + 10**10 + 100 * MS)
        # Sent at once, so on a busy machine a later one may take an earlier one's place.
        paired = {stamp + 10**10 + 100 * MS for stamp in stamps[:3]}
        assert rig.spin_until(lambda: paired & {*rig.stamps()}, 10.0), 'nothing came'
    finally:
        rig.node.destroy_subscription(subscription)
        set_parameters(rig, time_offset_s=0.0, slop_s=0.05)


def test_lost_messages_are_reported_and_not_taken_for_an_offset(stamps):
    rig, seen = Rig(*BASE), []  # without the hints of other tests, which stay for a while
    rig.node.create_subscription(
        DiagnosticArray, '/diagnostics',
        lambda msg: seen.extend(status.message for status in msg.status
                                if status.name.startswith(rig.namespace[1:] + '/')), 10)
    rig.listen('depth/image')
    for index in range(80):  # of three messages of either one is missing, never the same
        stamp = stamps[0] + index * 100 * MS
        if index % 3 != 0:
            rig.send_points(stamp)
        if index % 3 != 1:
            rig.send_image(stamp)
        rig.spin(0.05)
    assert rig.spin_until(lambda: any('% of' in text and 'get lost; ' in text
                                      for text in seen)), seen
    assert not any('time_offset_s' in text or 'no images arrived' in text for text in seen), seen
    assert rig.close()[0] == 0


def test_qos_can_be_overridden_by_parameter():
    topic = f'/robot{len(Rig.started) + 1}/{{}}'
    cloud_topic, points = topic.format('depth_completion/points'), topic.format('points')
    rig = Rig(*BASE, f'qos_overrides.{cloud_topic}.publisher.reliability:=best_effort',
              f'qos_overrides.{points}.subscription.reliability:=reliable')
    rig.listen('depth/image')
    published, = rig.node.get_publishers_info_by_topic(cloud_topic)
    taken, = rig.node.get_subscriptions_info_by_topic(points)
    other, = rig.node.get_publishers_info_by_topic(topic.format('depth_completion/depth/image'))
    assert published.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert taken.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert other.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert rig.close()[0] == 0
