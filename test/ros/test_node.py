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
"""The real node in its own process, over DDS."""
import re
import signal
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from node_rig import (  # noqa: E402
    BASE,
    CAMERA,
    header,
    OUTPUTS,
    picture,
    plane,
    Rig,
    running,
)
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParameters  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from tf_types import tf_message  # noqa: E402

from steer_depth_ros.completion.completer import DepthCompleter  # noqa: E402
from steer_depth_ros.recordings.frame_folder import read_frame  # noqa: E402
from steer_depth_ros.ros import messages  # noqa: E402
from steer_depth_ros.ros.parameters import PARAMETERS  # noqa: E402

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
UNCONFIGURED, ACTIVE = 1, 3
pytestmark = pytest.mark.usefixtures('context')


@pytest.fixture(scope='module')
def shared_rig(tmp_path_factory):
    with running(*BASE, f'save_dir:={tmp_path_factory.mktemp("saved")}', 'cloud_rate_hz:=0',
                 'debug_rate_hz:=0') as rig:
        yield rig


def set_parameter(rig, name, value):
    kinds = {bool: (ParameterType.PARAMETER_BOOL, 'bool_value'),
             int: (ParameterType.PARAMETER_INTEGER, 'integer_value'),
             float: (ParameterType.PARAMETER_DOUBLE, 'double_value'),
             str: (ParameterType.PARAMETER_STRING, 'string_value'),
             list: (ParameterType.PARAMETER_DOUBLE_ARRAY, 'double_array_value')}
    kind, field = kinds[type(value)]
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
    request = SetParameters.Request(parameters=[parameter])
    return rig.call(SetParameters, 'set_parameters', request).results[0]


def change(rig, transition):
    request = ChangeState.Request()
    request.transition.id = transition
    return rig.call(ChangeState, 'change_state', request, 20.0).success


def state(rig):
    return rig.call(GetState, 'get_state').current_state.id


def test_every_output_of_a_pair_has_the_header_of_its_image(rig, stamps):
    rig.listen()
    assert rig.exchange(stamps[0])
    assert rig.spin_until(lambda: len({kind for kind, _ in rig.received}) == len(OUTPUTS), 5.0)
    for _, msg in rig.received:
        assert messages.stamp_ns(msg.header) == stamps[0] and msg.header.frame_id == 'camera'
    depth = messages.depth_to_metres(rig.outputs('depth/image')[0])
    assert depth.shape == (96, 160)
    assert np.nanmedian(depth) == pytest.approx(5.0, rel=0.02)
    assert messages.camera_from_info(rig.outputs('depth/camera_info')[0]) == CAMERA
    confidence = messages.depth_to_metres(rig.outputs('confidence/image')[0])
    assert np.nanmax(confidence) <= 1.0
    xyz = messages.cloud_to_xyz(rig.outputs('points')[0])
    assert len(xyz) > 1000 and np.median(xyz[:, 2]) == pytest.approx(5.0, rel=0.02)
    for name in ('debug/depth_color', 'debug/overlay'):
        assert messages.image_to_rgb(rig.outputs(name)[0]).shape == (96, 160, 3)


def test_one_output_per_pair_and_none_for_unmatched_messages(rig, stamps):
    rig.listen('depth/image')
    for stamp in stamps[:4]:
        assert rig.exchange(stamp)
    rig.send_image(stamps[4])
    rig.send_points(stamps[6])
    assert rig.exchange(stamps[8])
    rig.spin(0.3)
    assert rig.stamps() == [*stamps[:4], stamps[8]]


def test_a_jump_back_in_time_starts_over(rig, stamps):
    rig.listen('depth/image')
    for stamp in [*stamps[10:13], *stamps[:3]]:
        assert rig.exchange(stamp), 'no output after the jump'
    assert rig.stamps() == [*stamps[10:13], *stamps[:3]]


def test_encodings_and_a_bad_message_in_between(rig, stamps):
    rig.listen('depth/image')
    gray = np.ascontiguousarray(picture()[..., 0])
    kinds = [('bgr8', picture()), ('mono8', gray), ('bayer_rggb8', gray),
             ('mono16', gray.astype(np.uint16) << 8), ('nv21', gray), ('rgb8', picture())]
    for stamp, (encoding, pixels) in zip(stamps, kinds, strict=False):
        rig.send_points(stamp)
        rig.send_image(stamp, pixels, encoding)
        came = rig.spin_until(lambda stamp=stamp: stamp in rig.stamps(),
                              0.5 if encoding == 'nv21' else 5.0)
        assert came == (encoding != 'nv21'), encoding


def test_best_effort_subscriber_and_publisher(rig, stamps):
    rig.listen('depth/image', reliable=False)
    assert rig.exchange(stamps[0])
    peer = Rig(reliable_inputs=False, peer_of=rig)
    peer.listen('depth/image')
    assert peer.exchange(stamps[1])
    peer.deafen()
    peer.node.destroy_node()


def test_wrong_parameters_are_refused_with_a_sentence(rig, stamps):
    rig.listen('depth/image')
    for name, value, word in (('slop_s', -1.0, 'slop_s'), ('slop_s', 'wide', 'number'),
                              ('depth_encoding', '8UC1', '16UC1'), ('cloud_stride', 0, 'stride'),
                              ('preset', 'fast', 'unconfigured'), ('autostart', False, 'read'),
                              ('extrinsics.quaternion', [0.0] * 4, 'no rotation'),
                              ('extrinsics.xyz', [0.0], '3 numbers')):
        result = set_parameter(rig, name, value)
        assert not result.successful and word in result.reason, (name, result.reason)
    assert set_parameter(rig, 'slop_s', 1).successful
    assert set_parameter(rig, 'depth_encoding', '16UC1').successful
    assert rig.exchange(stamps[0])
    assert rig.outputs('depth/image')[-1].encoding == '16UC1'
    assert set_parameter(rig, 'depth_encoding', '32FC1').successful


def test_values_that_stay_the_same_are_accepted_at_any_time(rig):
    for name, value in (('preset', 'steering'), ('queue_size', 20), ('fixed_frame', '')):
        assert set_parameter(rig, name, value).successful


def test_extrinsics_are_tuned_while_it_runs(rig, stamps):
    rig.listen('depth/image')
    for stamp, z in zip(stamps, (0.0, 1.0, -1.0)):
        assert set_parameter(rig, 'extrinsics.xyz', [0.0, 0.0, z]).successful
        assert rig.exchange(stamp)
        depth = messages.depth_to_metres(rig.outputs('depth/image')[-1])
        assert np.nanmedian(depth) == pytest.approx(5.0 + z, rel=0.02)
    assert set_parameter(rig, 'extrinsics.xyz', [0.0, 0.0, 0.0]).successful
    assert set_parameter(rig, 'extrinsics.rpy', [0.0, 0.0, np.pi]).successful
    assert not set_parameter(rig, 'extrinsics.quaternion', [0.0, 0.0, 1.0, 0.0]).successful
    assert set_parameter(rig, 'extrinsics.rpy', [0.0, 0.0, 0.0]).successful


def test_every_parameter_is_described(rig):
    request = DescribeParameters.Request(names=list(PARAMETERS))
    found = rig.call(DescribeParameters, 'describe_parameters', request).descriptors
    assert len(found) == len(PARAMETERS) and all(d.description for d in found)


def test_save_frame_writes_all_that_reproduces_the_depth(rig, stamps):
    rig.listen('depth/image')
    assert rig.exchange(stamps[0])
    saved = rig.call(Trigger, 'save_frame')
    assert saved.success, saved.message
    folder, age = saved.message.splitlines()
    assert re.fullmatch(r'from \d+\.\d s ago', age)
    frame = read_frame(folder).frame
    assert frame.stamp_ns == stamps[0] and frame.camera == CAMERA
    assert np.array_equal(frame.image, picture())
    assert np.array_equal(frame.points, plane()[:, :3])
    sparse = frame.sparse_depth()
    again = DepthCompleter('steering', 'cpu').complete(frame.image, sparse.uv, sparse.depth)
    published = messages.depth_to_metres(rig.outputs('depth/image')[0])
    assert published == pytest.approx(again.depth, rel=1e-5, nan_ok=True)
    assert rig.call(Trigger, 'reset').success


def test_diagnostics_name_rates_latency_and_model(rig, stamps):
    rig.listen('depth/image')
    seen = []
    rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    for stamp in stamps[:10]:
        assert rig.exchange(stamp)
    del seen[:]
    assert rig.spin_until(lambda: seen, 3.0)
    status = seen[-1].status[0]
    keys = {item.key for item in status.values}
    stages = ('wait', 'convert', 'project', 'occlusion', 'operator', 'complete', 'publish')
    assert {'model', 'preset', 'device', 'backend', 'weights', 'rate out (Hz)',
            'rate in: image (Hz)', 'pairs', 'drops: busy',
            *(f'latency: {stage} p50 / p99 (ms)' for stage in stages)} <= keys
    assert 'lost' not in status.message and 'nobody' not in status.message, status.message


def test_without_subscribers_the_node_subscribes_to_nothing(rig, stamps):
    rig.listen('depth/image')
    assert rig.exchange(stamps[0]) and rig.image.get_subscription_count() == 1
    rig.deafen()
    assert rig.spin_until(lambda: rig.image.get_subscription_count() == 0, 5.0)


def test_a_transition_that_is_not_possible_is_refused(rig, stamps):
    assert not change(rig, CONFIGURE) and not change(rig, 77)
    assert state(rig) == ACTIVE


def test_lifecycle_ten_times_without_growth(rig, stamps):
    memory = []
    for i in range(10):
        assert change(rig, DEACTIVATE) and change(rig, CLEANUP)
        assert state(rig) == UNCONFIGURED
        assert change(rig, CONFIGURE) and change(rig, ACTIVATE)
        if i in (1, 9):
            rig.listen('depth/image')
            assert rig.exchange(stamps[i])
            rig.deafen()
            memory.append(rig.memory_mb())
    assert state(rig) == ACTIVE
    assert memory[1] - memory[0] < 20.0


def test_depth_image_and_compressed_image(stamps):
    rig = Rig('preset:=steering', 'device:=cpu', 'depth_source:=depth_image',
              'image_compressed:=true', 'image_scale:=0.5', 'cloud_organized:=true')
    rig.listen('depth/image', 'depth/camera_info', 'points')
    depth = np.full((96, 160), np.nan, np.float32)
    depth[::4, ::4] = 3.0
    data = cv2.imencode('.png', picture())[1]
    rig.sparse.publish(messages.fill(Image(header=header(stamps[0])),
                                     messages.depth_fields(depth, '16UC1')))
    rig.compressed.publish(messages.fill(
        CompressedImage(header=header(stamps[0]), format='png'), {'data': data}))
    assert rig.spin_until(lambda: len(rig.received) == 3, 5.0)
    dense = messages.depth_to_metres(rig.outputs('depth/image')[0])
    assert dense.shape == (48, 80) and np.nanmedian(dense) == pytest.approx(3.0, rel=0.01)
    camera = messages.camera_from_info(rig.outputs('depth/camera_info')[0])
    assert camera == CAMERA.scaled(80, 48)
    cloud = rig.outputs('points')[0]
    assert (cloud.height, cloud.width, cloud.is_dense) == (48, 80, False)
    assert rig.close()[0] == 0


def transform(parent, child, stamp_ns):
    msg = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    msg.transform.translation.x = 0.001
    return msg


def test_transforms_that_are_missing_and_late(stamps):
    try:
        kind = tf_message()
    except ImportError as error:
        pytest.skip(str(error))
    rig = Rig('preset:=steering', 'device:=cpu', 'extrinsics.source:=tf', 'tf_timeout_s:=2.0')
    moving = rig.node.create_publisher(kind, '/tf', 10)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = rig.node.create_publisher(kind, '/tf_static', latched)
    static.publish(kind(transforms=[transform('base', 'camera', 0)]))
    rig.listen('depth/image')
    assert not rig.exchange(stamps[0], timeout=2.5)
    moving.publish(kind(transforms=[transform('base', 'lidar', stamps[1])]))
    assert rig.exchange(stamps[1])
    rig.send(stamps[2])
    rig.spin(0.4)
    assert stamps[2] not in rig.stamps()
    rig.call(GetState, 'get_state', timeout=1.0)  # the node answers while a frame waits
    moving.publish(kind(transforms=[transform('base', 'lidar', stamps[2])]))
    assert rig.spin_until(lambda: stamps[2] in rig.stamps(), 3.0)
    status, log = rig.close()
    assert status == 0
    assert 'frame "lidar" does not exist' in log and 'existing frames: base, camera' in log


def test_the_old_name_of_a_parameter_is_refused_with_the_new_one():
    rig = Rig('preset:=steering', 'device:=cpu', 'cloud_organised:=true')
    words = 'cannot configure: the parameter cloud_organised is now called cloud_organized'
    assert rig.spin_until(lambda: words in rig.said(), 60.0), rig.said()
    rig.close()


def test_configure_fails_with_a_reason_and_can_be_repaired():
    rig = Rig('preset:=steering', 'extrinsics.xyz:=[0.0, 1.0]')
    assert rig.spin_until(lambda: state(rig) == UNCONFIGURED, 10.0)
    assert not change(rig, CONFIGURE)
    assert state(rig) == UNCONFIGURED
    assert 'cannot configure: extrinsics.xyz must be a list of 3 numbers' in rig.close()[1]


def test_two_interrupts_end_it_cleanly():
    rig = Rig(*BASE)
    rig.listen('depth/image')
    rig.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    status, log = rig.close()
    assert status == 0 and 'Traceback' not in log, log


@pytest.mark.parametrize('wrong, right, words', [
    ('slop_s:=-5.0', ('slop_s', 0.05), 'slop_s must be between 0 and 10, not -5.0'),
    ('slop_s:=99', ('slop_s', 0.05), 'slop_s must be between 0 and 10, not 99'),
    ('cloud_stride:=0', ('cloud_stride', 2), 'cloud_stride must be between 1 and 64, not 0'),
    ('preset:=3', ('preset', 'steering'), 'preset must be a text, not 3')],
    ids=['float', 'integer for a float', 'integer', 'type'])
def test_a_wrong_parameter_leaves_it_unconfigured_until_repaired(wrong, right, words):
    rig = Rig('preset:=steering', 'device:=cpu', wrong)
    assert rig.spin_until(lambda: f'cannot configure: {words}' in rig.said(), 60.0), rig.said()
    assert state(rig) == UNCONFIGURED
    assert set_parameter(rig, *right).successful and change(rig, CONFIGURE)
    status, log = rig.close()
    assert status == 0 and 'Traceback' not in log


def test_camera_info_is_found_beside_the_image(stamps):
    beside = Rig('preset:=steering', 'device:=cpu', 'extrinsics.source:=parameters',
                 'image_compressed:=true', remaps=['image:=front/image_raw'])
    for publisher in (beside.info, beside.compressed):
        beside.node.destroy_publisher(publisher)
    beside.info = beside.node.create_publisher(CameraInfo, 'front/camera_info', 10)
    beside.compressed = beside.node.create_publisher(
        CompressedImage, 'front/image_raw/compressed', 10)
    beside.listen('depth/image')
    beside.send_points(stamps[0])
    beside.compressed.publish(messages.fill(
        CompressedImage(header=header(stamps[0]), format='png'),
        {'data': cv2.imencode('.png', picture())[1]}))
    assert beside.spin_until(lambda: beside.stamps() == [stamps[0]], 10.0), beside.said()
    status, log = beside.close()
    assert status == 0 and f'inputs {beside.namespace}/front/image_raw/compressed, ' \
        f'{beside.namespace}/points, {beside.namespace}/front/camera_info' in log


def test_camera_info_stays_where_it_was_remapped_to(stamps):
    name = f'/robot{len(Rig.started) + 1}/camera_info'
    rig = Rig('preset:=steering', 'device:=cpu', 'extrinsics.source:=parameters',
              remaps=['image:=front/image_raw', f'camera_info:={name}'])
    rig.node.destroy_publisher(rig.image)
    rig.image = rig.node.create_publisher(Image, 'front/image_raw', 10)
    rig.listen('depth/image')
    assert rig.exchange(stamps[0])
    assert rig.close()[0] == 0


def test_without_tf2_msgs_the_node_says_once_what_to_do(tmp_path, monkeypatch):
    (tmp_path / 'tf2_msgs.py').write_text('raise ImportError("not here")\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    rig = Rig('preset:=steering', 'device:=cpu')
    rig.listen('depth/image')
    assert rig.said().count('tf2_msgs is not installed: set extrinsics.source') == 1
    rig.send(time.time_ns())
    assert rig.spin_until(lambda: 'the pose of lidar in camera is not known' in rig.said(), 10.0)
    rig.close()
    refused = Rig('preset:=steering', 'device:=cpu', 'extrinsics.source:=tf')
    assert refused.spin_until(lambda: 'extrinsics.source is "tf", but' in refused.said(), 60.0)
    refused.close()
