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
"""From messages to frames and completions, without a node: transforms, sizes, accumulation."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError, FrameError, MessageError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import SparseDepth
from steer_depth_ros.geometry.transforms import matrix_from_rpy, TransformBuffer, TransformError
from steer_depth_ros.recordings.frame_folder import read_frame
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import compensate, Extrinsics, move, TfListener
from steer_depth_ros.ros.parameters import PARAMETERS
from steer_depth_ros.ros.pipeline import Cloud, Job, Pipeline
from steer_depth_ros.ros.save_frame import save_frame
from steer_depth_ros.ros.synchronizer import Pair
from steer_depth_ros.ros.tf_types import tf_message

CAMERA = Camera(80, 60, 60.0, 60.0, 39.5, 29.5)
SECOND = 10**9
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}
FROM_PARAMETERS = {'extrinsics.source': 'parameters'}


class Flat:
    """A completer that gives 5 m everywhere and notes what it was given."""

    def complete(self, image, uv, depth):
        self.image, self.uv, self.depth = image, uv, depth
        shape = image.shape[:2]
        confidence = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
        return SimpleNamespace(depth=np.full(shape, 5.0, np.float32), confidence=confidence)


def header(stamp_ns, frame_id):
    stamp = SimpleNamespace(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)
    return SimpleNamespace(stamp=stamp, frame_id=frame_id)


def info():
    no_roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(binning_x=0, binning_y=0, roi=no_roi,
                           **messages.camera_info_fields(CAMERA))


def image_msg(stamp_ns=SECOND, size=(60, 80)):
    return SimpleNamespace(header=header(stamp_ns, 'camera'), **messages.image_fields(
        np.zeros((*size, 3), np.uint8), 'rgb8'))


def cloud(points, stamp_ns=SECOND, frame='lidar'):
    columns = np.zeros((len(points), 4), np.float32)
    columns[:, :3] = points
    fields = messages.cloud_fields(columns)
    fields['fields'] = [SimpleNamespace(**f) for f in fields['fields']]
    return Cloud(SimpleNamespace(header=header(stamp_ns, frame), **fields), stamp_ns)


def job_of(depth, earlier=(), image=None, image_ns=SECOND):
    image = image or image_msg(image_ns)
    return Job(Pair(image_ns, image, depth.stamp_ns, depth), info(), list(earlier))


def pipeline(buffer=None, **values):
    values = {**DEFAULTS, **{key.replace('__', '.'): value for key, value in values.items()}}
    completer = Flat()
    return Pipeline(values, completer, Extrinsics(values, buffer)), completer


def test_extrinsics_from_parameters_reach_the_projection():
    run, _ = pipeline(extrinsics__source='parameters', extrinsics__xyz=[0.5, 0.0, 1.0])
    result = run.run(job_of(cloud([[-0.5, 0.0, 4.0]])), {'depth'})
    assert result.sparse.uv[0] == pytest.approx([39.5, 29.5])
    assert result.sparse.depth[0] == pytest.approx(5.0)
    assert set(result.stages) >= {'convert', 'project', 'complete'}


def test_a_quaternion_and_angles_agree():
    angles = {**DEFAULTS, **FROM_PARAMETERS, 'extrinsics.rpy': [0.0, 0.0, np.pi / 2]}
    half = np.sqrt(0.5)
    turned = {**DEFAULTS, **FROM_PARAMETERS, 'extrinsics.quaternion': [0.0, 0.0, half, half]}
    found = [Extrinsics(values, None).camera_from('c', 0, 'l', 0) for values in (angles, turned)]
    assert found[0] == pytest.approx(found[1])


def test_nothing_is_completed_for_the_overlay_alone():
    run, completer = pipeline(extrinsics__source='parameters')
    result = run.run(job_of(cloud([[0.0, 0.0, 4.0]])), {'overlay'})
    assert result.depth is None and not hasattr(completer, 'image') and len(result.sparse) == 1


def test_no_point_in_the_image_gives_no_depth():
    run, _ = pipeline(extrinsics__source='parameters')
    assert run.run(job_of(cloud([[0.0, 0.0, -4.0]])), {'depth'}).depth is None


def test_depth_range_scale_and_confidence():
    run, completer = pipeline(extrinsics__source='parameters', max_depth_m=6.0, image_scale=0.5,
                              min_confidence=0.5)
    result = run.run(job_of(cloud([[0.0, 0.0, 4.0], [0.0, 0.2, 8.0]])), {'depth'})
    assert completer.image.shape == (30, 40, 3) and completer.depth.tolist() == [4.0]
    assert result.frame.camera == CAMERA.scaled(40, 30)
    assert np.isnan(result.depth).mean() == pytest.approx(0.5, abs=0.01)


def test_an_image_of_another_size_than_its_camera_info():
    run, _ = pipeline(extrinsics__source='parameters')
    result = run.run(job_of(cloud([[0.0, 0.0, 4.0]]), image=image_msg(size=(120, 160))), {'depth'})
    assert result.frame.camera == CAMERA.scaled(160, 120)


def test_what_is_wrong_with_a_message_is_told_with_its_topic():
    values = {**DEFAULTS, **FROM_PARAMETERS}
    run = Pipeline(values, Flat(), Extrinsics(values, None),
                   {'image': '/cam/image', 'camera_info': '/cam/camera_info', 'depth': '/points'})
    square = job_of(cloud([[0.0, 0.0, 4.0]]), image=image_msg(size=(60, 60)))
    with pytest.raises(CalibrationError, match='^/cam/camera_info: .*80 x 60.*60 x 60'):
        run.run(square, {'depth'})
    unknown = image_msg()
    unknown.encoding = 'nv21'
    with pytest.raises(MessageError, match='^/cam/image: .*nv21'):
        run.run(job_of(cloud([[0.0, 0.0, 4.0]]), image=unknown), {'depth'})
    empty = cloud([[0.0, 0.0, 4.0]])
    empty.msg.fields = []
    with pytest.raises(MessageError, match='^/points: .*no field x'):
        run.run(job_of(empty), {'depth'})


def depth_image(shape):
    pixels = np.full(shape, np.nan, np.float32)
    pixels[0, 0] = 2.0
    return Cloud(SimpleNamespace(header=header(SECOND, 'camera'),
                                 **messages.depth_fields(pixels)), SECOND)


def test_a_depth_image_of_another_resolution_is_scaled_to_the_image():
    run, completer = pipeline(depth_source='depth_image')
    run.run(job_of(depth_image((30, 40))), {'depth'})
    assert completer.uv.tolist() == [[0.5, 0.5]]  # centre of the first 2 x 2 pixels
    with pytest.raises(MessageError, match='register'):
        run.run(job_of(depth_image((60, 60))), {'depth'})


def moving_buffer(speed=1.0):
    """Give a robot that drives along z of the camera, which looks ahead; LiDAR at the camera."""
    buffer = TransformBuffer()
    for step in range(31):
        pose = matrix_from_rpy((0.0, 0.0, speed * 0.1 * step), (0.0, 0.0, 0.0))
        buffer.set_transform('odom', 'camera', step * SECOND // 10, pose)
    buffer.set_transform('camera', 'lidar', 0, np.eye(4), static=True)
    return buffer


def test_clouds_are_accumulated_through_the_fixed_frame():
    run, completer = pipeline(moving_buffer(), extrinsics__source='tf', fixed_frame='odom')
    old = cloud([[0.0, 0.0, 6.0]], SECOND)
    new = cloud([[1.0, 0.0, 5.0]], 2 * SECOND)
    run.run(job_of(new, [old], image_ns=2 * SECOND), {'depth'})
    assert sorted(completer.depth.tolist()) == pytest.approx([5.0, 5.0], abs=1e-5)


def test_the_robot_moves_between_cloud_and_image():
    run, completer = pipeline(moving_buffer(), extrinsics__source='tf', fixed_frame='odom')
    run.run(job_of(cloud([[0.0, 0.0, 6.0]], SECOND), image_ns=SECOND + SECOND // 2), {'depth'})
    assert completer.depth.tolist() == pytest.approx([5.5], abs=1e-5)


def test_points_without_times_cannot_be_compensated():
    run, _ = pipeline(moving_buffer(), extrinsics__source='tf', fixed_frame='odom',
                      compensate_point_times=True)
    with pytest.raises(MessageError, match='time'):
        run.run(job_of(cloud([[0.0, 0.0, 6.0]])), {'depth'})


def test_each_point_moves_by_the_pose_at_its_own_time():
    times = np.linspace(0.0, 0.1, 200)
    points = np.zeros((200, 3), np.float32)
    moved = compensate(points, times, lambda t: matrix_from_rpy((10.0 * t, 0, 0), (0, 0, 0)))
    assert moved[:, 0] == pytest.approx(10.0 * times, abs=10 * 0.1 / 16)
    assert len(compensate(points[:0], times[:0], None)) == 0


def test_a_missing_frame_is_named_together_with_those_that_exist():
    run, _ = pipeline(moving_buffer(), extrinsics__source='tf', tf_timeout_s=0.01)
    with pytest.raises(TransformError, match='"radar" does not exist.*camera, lidar, odom'):
        run.run(job_of(cloud([[0.0, 0.0, 6.0]], frame='radar')), {'depth'})


def test_a_late_transform_is_waited_for():
    buffer, waits = moving_buffer(), []

    def asked_while_waiting():  # the transform comes with the third question
        waits.append(1)
        if len(waits) == 3:
            buffer.set_transform('odom', 'camera', 4 * SECOND, np.eye(4))
        return False

    values = {**DEFAULTS, 'extrinsics.source': 'tf', 'fixed_frame': 'odom', 'tf_timeout_s': 2.0}
    extrinsics = Extrinsics(values, buffer, asked_while_waiting)
    assert extrinsics.camera_from('camera', 4 * SECOND, 'lidar', 4 * SECOND) is not None
    assert len(waits) == 3


def test_a_transform_of_a_time_gone_by_is_given_up_for_a_newer_frame():
    buffer, waits = TransformBuffer(), []
    buffer.set_transform('camera', 'lidar', 100 * SECOND, np.eye(4))

    def asked_while_waiting():
        waits.append(1)
        return len(waits) == 3

    values = {**DEFAULTS, 'extrinsics.source': 'tf', 'tf_timeout_s': 2.0}
    extrinsics = Extrinsics(values, buffer, newer=asked_while_waiting)
    with pytest.raises(TransformError, match='100.000 s only'):
        extrinsics.camera_from('camera', 4 * SECOND, 'lidar', 4 * SECOND)
    assert len(waits) == 3
    extrinsics = Extrinsics({**values, 'tf_timeout_s': 0.01}, buffer, newer=pytest.fail)
    with pytest.raises(TransformError):  # what is to come is waited for
        extrinsics.camera_from('camera', 101 * SECOND, 'lidar', 101 * SECOND)


def test_a_fixed_frame_that_nobody_publishes_is_named_as_the_parameter():
    values = {**DEFAULTS, 'extrinsics.source': 'tf', 'fixed_frame': 'map', 'tf_timeout_s': 0.0}
    with pytest.raises(TransformError, match='the parameter fixed_frame asks for it'):
        Extrinsics(values, moving_buffer()).camera_from('camera', SECOND, 'lidar', SECOND)
    with pytest.raises(TransformError) as found:
        Extrinsics({**values, 'fixed_frame': 'odom'}, moving_buffer()).camera_from(
            'nose', SECOND, 'lidar', SECOND)
    assert 'fixed_frame' not in str(found.value)


def test_without_tf_auto_uses_parameters_and_tf_is_refused():
    assert Extrinsics(DEFAULTS, None).source == 'parameters'
    assert Extrinsics(DEFAULTS, TransformBuffer()).source == 'tf'
    with pytest.raises(TransformError, match='tf2_msgs'):
        Extrinsics({**DEFAULTS, 'extrinsics.source': 'tf'}, None)


def test_without_a_compiler_the_reason_is_told(tmp_path, monkeypatch):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    for name in ('tf2_msgs', 'tf2_msgs.msg'):  # not importable, whatever is installed
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr('shutil.which', lambda name: None)
    with pytest.raises(ImportError, match='tf2_msgs'):
        tf_message()
    assert not list(tmp_path.rglob('*.so'))


@pytest.mark.parametrize('depth, tolerance', [(2.345, 1e-6), (120.0, 2e-3)])
def test_a_saved_depth_image_comes_back(tmp_path, depth, tolerance):
    sparse = SparseDepth(np.array([[3.0, 4.0]], np.float32), np.array([depth], np.float32))
    frame = Frame(np.zeros((60, 80, 3), np.uint8), CAMERA, 5, sparse=sparse)
    again = read_frame(save_frame(frame, tmp_path)).frame
    assert again.sparse.uv.tolist() == [[3.0, 4.0]] and again.stamp_ns == 5
    assert again.sparse.depth[0] == pytest.approx(depth, abs=tolerance)


def test_a_frame_is_saved_without_the_points_out_of_range(tmp_path):
    points = np.array([[0, 0, 1], [0, 0, 5], [0, 0, 9]], np.float32)
    frame = Frame(np.zeros((60, 80, 3), np.uint8), CAMERA, points=points,
                  camera_from_points=np.eye(4))
    again = read_frame(save_frame(frame, tmp_path, 2.0, 8.0)).frame
    assert again.points.tolist() == [[0, 0, 5]]
    with pytest.raises(FrameError, match='save_dir'):
        save_frame(frame, '/proc/nowhere')


def test_a_relative_folder_lies_below_the_home_of_ros(tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path))
    frame = Frame(np.zeros((4, 6, 3), np.uint8), Camera(6, 4, 5.0, 5.0, 2.5, 1.5), 7, 'camera',
                  np.zeros((1, 3), np.float32), np.eye(4))
    assert save_frame(frame, 'saved') == tmp_path / 'saved' / '7'


def test_move():
    matrix = matrix_from_rpy((1.0, 2.0, 3.0), (0.0, 0.0, np.pi / 2))
    found = move(np.array([[1.0, 0.0, 0.0]], np.float32), matrix)
    assert found[0] == pytest.approx([1.0, 3.0, 3.0]) and found.dtype == np.float32


def transform_msg(parent, child, stamp_ns, w=1.0):
    vector = SimpleNamespace(x=1.0, y=0.0, z=0.0)
    rotation = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w)
    return SimpleNamespace(header=header(stamp_ns, parent), child_frame_id=child,
                           transform=SimpleNamespace(translation=vector, rotation=rotation))


def test_tf_messages_fill_the_buffer_and_bad_ones_are_told():
    warnings = []
    listener = TfListener.__new__(TfListener)
    listener._buffer = TransformBuffer()
    listener._logger = SimpleNamespace(warning=lambda text, **_: warnings.append(text))
    listener.on_tf_static(SimpleNamespace(transforms=[transform_msg('base', 'lidar', 0)]))
    listener.on_tf(SimpleNamespace(transforms=[transform_msg('odom', 'base', SECOND),
                                               transform_msg('odom', 'base', SECOND, w=0.0)]))
    found = listener._buffer.lookup('odom', 'lidar', SECOND)
    assert found[:3, 3] == pytest.approx([2.0, 0.0, 0.0])
    assert len(warnings) == 1 and 'ignored' in warnings[0]
    listener._buffer.clear()
    assert listener._buffer.lookup('base', 'lidar')[:3, 3] == pytest.approx([1.0, 0.0, 0.0])
