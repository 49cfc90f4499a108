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
from types import SimpleNamespace

import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError, FrameError, MessageError
from steer_depth_ros.geometry.calibration_file import Calibration
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import SparseDepth
from steer_depth_ros.geometry.transforms import matrix_from_rpy, TransformBuffer, TransformError
from steer_depth_ros.recordings.frame_folder import read_frame
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import (
    calibrated_values,
    compensate,
    Extrinsics,
    move,
    TfListener,
)
from steer_depth_ros.ros.output_fields import output_fields
from steer_depth_ros.ros.parameters import PARAMETERS
from steer_depth_ros.ros.pipeline import Cloud, Job, NOTHING_INSIDE, Pipeline
from steer_depth_ros.ros.save_frame import save_frame
from steer_depth_ros.ros.synchronizer import Pair

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


def test_errors_about_a_message_name_its_topic():
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
    assert completer.uv.tolist() == [[0.5, 0.5]]  # center of the first 2 x 2 pixels
    with pytest.raises(MessageError, match='register'):
        run.run(job_of(depth_image((60, 60))), {'depth'})


AHEAD = 0.0, 0.0, 0.0, 1.0  # a quaternion that does not turn


def moving_buffer(speed=1.0):
    """Give a robot that drives along z of the camera, which looks ahead; LiDAR at the camera."""
    buffer = TransformBuffer()
    for step in range(31):
        buffer.set_pose('odom', 'camera', step * SECOND // 10, (0, 0, speed * 0.1 * step), AHEAD)
    buffer.set_pose('camera', 'lidar', 0, (0, 0, 0), AHEAD, static=True)
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
            buffer.set_pose('odom', 'camera', 4 * SECOND, (0, 0, 0), AHEAD)
        return False

    values = {**DEFAULTS, 'extrinsics.source': 'tf', 'fixed_frame': 'odom', 'tf_timeout_s': 2.0}
    extrinsics = Extrinsics(values, buffer, asked_while_waiting)
    assert extrinsics.camera_from('camera', 4 * SECOND, 'lidar', 4 * SECOND) is not None
    assert len(waits) == 3


def test_a_transform_of_a_time_gone_by_is_given_up_for_a_newer_frame():
    buffer, waits = TransformBuffer(), []
    buffer.set_pose('camera', 'lidar', 100 * SECOND, (0, 0, 0), AHEAD)

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
    with pytest.raises(TransformError, match='it is the parameter fixed_frame'):
        Extrinsics(values, moving_buffer()).camera_from('camera', SECOND, 'lidar', SECOND)
    with pytest.raises(TransformError) as found:
        Extrinsics({**values, 'fixed_frame': 'odom'}, moving_buffer()).camera_from(
            'nose', SECOND, 'lidar', SECOND)
    assert 'fixed_frame' not in str(found.value)


def test_without_tf_auto_uses_parameters_and_tf_is_refused():
    unknown = Extrinsics(DEFAULTS, None)
    assert unknown.source == 'parameters'
    assert Extrinsics(DEFAULTS, TransformBuffer()).source == 'tf'
    # Nobody has said where the LiDAR is: not at the camera.
    with pytest.raises(TransformError, match='pose of lidar in camera is not .* set extrinsics'):
        unknown.camera_from('camera', SECOND, 'lidar', SECOND)
    assert np.array_equal(unknown.camera_from('camera', SECOND, '/camera', SECOND), np.eye(4))
    for known in ({'extrinsics.source': 'parameters'}, {'extrinsics.xyz': [0.0, 0.0, 1.0]}):
        Extrinsics({**DEFAULTS, **known}, None).camera_from('camera', SECOND, 'lidar', SECOND)
    with pytest.raises(TransformError, match='tf2_msgs'):
        Extrinsics({**DEFAULTS, 'extrinsics.source': 'tf'}, None)


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


def test_points_are_moved_to_the_camera():
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


# As sensors and drivers really are

CENTRE = [39.5, 29.5]


def told_pipeline(buffer=None, topics=None, **values):
    """Give a pipeline, its completer and the list of what it tells."""
    values = {**DEFAULTS, **{key.replace('__', '.'): value for key, value in values.items()}}
    told, completer = [], Flat()
    return Pipeline(values, completer, Extrinsics(values, buffer), topics, told.append), (
        completer), told


def static(*links):
    buffer = TransformBuffer()
    for parent, child, xyz in links:
        buffer.set_pose(parent, child, 0, xyz, AHEAD, static=True)
    return buffer


def sensor_depth(size=(30, 40), frame='depth', meters=2.0, encoding='32FC1'):
    pixels = np.full(size, meters, np.float32)
    return Cloud(SimpleNamespace(header=header(SECOND, frame),
                                 **messages.depth_fields(pixels, encoding)), SECOND)


def sensor_info(camera, frame='depth'):
    no_roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(header=header(SECOND, frame), binning_x=0, binning_y=0, roi=no_roi,
                           **messages.camera_info_fields(camera))


def test_a_depth_image_in_another_frame_is_placed_through_its_own_camera():
    own = Camera(40, 30, 25.0, 25.0, 19.5, 14.5)  # a wider view than that of the image
    run, completer, told = told_pipeline(static(('camera', 'depth', (0.1, 0.0, 0.5))),
                                         depth_source='depth_image')
    job = job_of(sensor_depth())
    job.depth_info = sensor_info(own)
    for _ in range(2):
        run.run(job, {'depth'})
    assert np.allclose(completer.depth, 2.5)
    points, _ = own.unproject(np.array([[22.0, 14.0]]))
    expected, _ = CAMERA.project(points * 2.0 + [0.1, 0.0, 0.5])
    assert np.abs(completer.uv - expected).max(1).min() < 1e-3
    assert len(told) == 1 and 'not registered' in told[0]


def test_a_depth_image_that_cannot_be_placed_is_refused_with_the_remedy():
    run, _, _ = told_pipeline(static(), depth_source='depth_image', tf_timeout_s=0.0)
    with pytest.raises(MessageError, match='frame "depth".*"camera".*align_depth.*"identity"'):
        run.run(job_of(sensor_depth()), {'depth'})
    job = job_of(sensor_depth())
    job.depth_info = sensor_info(CAMERA)
    with pytest.raises(TransformError, match='depth -> camera.*"identity" if the depth'):
        run.run(job, {'depth'})


@pytest.mark.parametrize('values, frame, camera', [
    ({'extrinsics__source': 'identity'}, 'depth', Camera(40, 30, 25.0, 25.0, 19.5, 14.5)),
    ({}, '/camera', CAMERA.scaled(40, 30)), ({}, '', None), ({}, 'camera', None)])
def test_a_registered_depth_image_is_used_pixel_by_pixel(values, frame, camera):
    run, completer, told = told_pipeline(static(), depth_source='depth_image', **values)
    job = job_of(sensor_depth(frame=frame))
    job.depth_info = camera and sensor_info(camera, frame)
    run.run(job, {'depth'})
    assert completer.uv[0].tolist() == [0.5, 0.5] and len(completer.uv) == 1200 and not told


def test_a_depth_image_with_another_view_is_not_registered_though_it_names_the_frame():
    own = Camera(40, 40, 25.0, 25.0, 19.5, 19.5)  # another shape, too
    run, completer, told = told_pipeline(static(), depth_source='depth_image')
    job = job_of(sensor_depth((40, 40), 'camera'))
    job.depth_info = sensor_info(own, 'camera')
    run.run(job, {'depth'})
    rays, _ = own.unproject(np.array([[20.0, 20.0]]))
    assert np.abs(completer.uv - CAMERA.project(rays)[0]).max(1).min() < 1e-3
    assert len(told) == 1


def test_units_of_depth_by_parameter_and_floats_of_millimeters():
    run, completer, _ = told_pipeline(depth_source='depth_image', depth_unit_m=2e-4)
    run.run(job_of(sensor_depth(meters=2.0, encoding='16UC1', frame='camera')), {'depth'})
    assert completer.depth == pytest.approx(0.4)
    run, completer, told = told_pipeline(depth_source='depth_image')
    for _ in range(2):
        run.run(job_of(sensor_depth((60, 80), 'camera', 1500.0)), {'depth'})
    assert completer.depth == pytest.approx(1.5) and len(told) == 1 and 'millimeters' in told[0]
    run, completer, told = told_pipeline(depth_source='depth_image')
    run.run(job_of(sensor_depth(meters=150.25, frame='camera')), {'depth'})
    assert completer.depth == pytest.approx(150.25) and not told


SPREAD = np.random.default_rng(1).uniform((-6, -4, 3), (6, 4, 14), (400, 3))


@pytest.mark.parametrize('points, unit', [
    (SPREAD, 1.0), (SPREAD + [700.0, 0, 0], 1.0), (SPREAD * 1000, 1e-3),
    (np.rint(SPREAD * 50), 1e-3), (np.rint(SPREAD), 1.0), (SPREAD[:20] * 1000, 1.0)])
def test_millimeters_of_clouds_are_known_by_their_size_and_told_once(points, unit):
    run, _, told = told_pipeline(extrinsics__source='parameters', max_depth_m=1e5)
    for _ in range(2):
        frame = run.run(job_of(cloud(points)), set()).frame
    assert np.allclose(frame.points, points * unit, rtol=1e-5)
    assert len(told) == (unit != 1.0)
    run, _, told = told_pipeline(extrinsics__source='parameters', points_unit_m=0.1)
    assert np.allclose(run.run(job_of(cloud(points)), set()).frame.points, points * 0.1,
                       rtol=1e-5)


def double_cloud(points, frame):
    """Build a cloud of float64."""
    fields = [SimpleNamespace(name=name, offset=8 * i, datatype=8, count=1)
              for i, name in enumerate('xyz')]
    data = np.ascontiguousarray(points, np.float64).view(np.uint8).reshape(-1)
    msg = SimpleNamespace(header=header(SECOND, frame), height=1, width=len(points),
                          fields=fields, is_bigendian=False, point_step=24,
                          row_step=24 * len(points), data=data)
    return Cloud(msg, SECOND)


@pytest.mark.parametrize('accumulated', [False, True])
def test_clouds_in_the_coordinates_of_a_map_fall_where_they_are(accumulated):
    origin = np.array([500_000.25, 5_000_000.5, 300.125])
    buffer = static(('utm', 'camera', tuple(origin)))
    point = np.array([[0.4, 0.2, 4.0]])
    run, _, _ = told_pipeline(buffer)
    clouds = [double_cloud(point + origin, 'utm') for _ in range(2)]
    sparse = run.run(job_of(clouds[0], clouds[1:] if accumulated else ()), set()).sparse
    assert sparse.uv[0] == pytest.approx(CAMERA.project(point)[0][0], abs=1e-4)
    assert sparse.depth[0] == pytest.approx(4.0, abs=1e-6)


def test_points_with_times_of_no_sweep_are_left_out():
    columns = np.zeros((300, 4), np.float32)
    columns[:, 2] = np.linspace(4.0, 6.0, 300)
    fields = messages.cloud_fields(columns)
    names = ('x', 'y', 'z', 'time')
    fields['fields'] = [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1)
                        for i, n in enumerate(names)]
    times = np.linspace(0, 0.1, 300).astype(np.float32)
    times[:7] = np.nan, 3.6, np.inf, -np.inf, 1e30, 9.0, -9.0
    fields['data'] = np.column_stack([columns[:, :3], times]).astype(np.float32).reshape(
        -1).view(np.uint8)
    run, _ = pipeline(moving_buffer(), extrinsics__source='tf', fixed_frame='odom',
                      compensate_point_times=True)
    msg = SimpleNamespace(header=header(SECOND, 'lidar'), **fields)
    frame = run.run(job_of(Cloud(msg, SECOND)), set()).frame
    assert len(frame.points) == 293
    assert frame.points[-1, 2] == pytest.approx(6.0 + 0.1, abs=0.01)  # 0.1 s later, at 1 m/s


def test_several_lidars_each_in_its_own_frame():
    buffer = static(('camera', 'left', (-0.5, 0, 0)), ('camera', 'right', (0.5, 0, 0)))
    run, completer, _ = told_pipeline(buffer)
    run.run(job_of(cloud([[0.5, 0, 4]], frame='left'), [cloud([[-0.5, 0.2, 5]], frame='right')]),
            {'depth'})
    assert sorted(completer.depth.tolist()) == pytest.approx([4.0, 5.0])
    assert completer.uv[:, 0] == pytest.approx([39.5, 39.5])


def test_an_image_without_frame_takes_that_of_its_camera_info():
    run, _, _ = told_pipeline(static(('camera', 'lidar', (0, 0, 0))))
    job = job_of(cloud([[0, 0, 4]]))
    job.pair.image.header.frame_id = ''
    job.info = sensor_info(CAMERA, '/camera')
    result = run.run(job, {'depth'})
    assert result.frame.frame_id == '/camera' and result.sparse.depth.tolist() == [4.0]


def test_a_link_that_stands_for_an_optical_frame_is_known_by_where_the_points_fall():
    ahead = np.random.default_rng(2).uniform((3, -2, -1.5), (9, 2, -0.1), (500, 3))  # x forward
    run, _, told = told_pipeline(static(('camera', 'lidar', (0, 0, 0))))
    result = run.run(job_of(cloud(ahead)), {'depth'})
    assert result.depth is None and 'frame "camera"' in result.why
    assert 'x forward' in result.why and 'optical frame' in result.why
    few = np.concatenate([ahead, [[0.0, 0.0, 4.0]]])  # one on the ceiling
    for _ in range(2):
        run.run(job_of(cloud(few)), {'depth'})
    assert len(told) == 1 and '1 measured points' in told[0]
    away = run.run(job_of(cloud(-ahead)), {'depth'})
    assert away.depth is None and away.why == NOTHING_INSIDE
    assert run.run(job_of(cloud([[0, 0, 4.0]])), {'depth'}).why == ''


def rectified_info(tx=0.0):
    given = info()
    given.header = header(SECOND, 'camera')
    given.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    given.p = [50.0, 0.0, 40.0, 50.0 * tx, 0.0, 50.0, 30.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return given


@pytest.mark.parametrize('topic, rectified', [('/cam/image_rect', True), ('/cam/image', False)])
def test_a_rectified_image_is_known_by_its_topic(topic, rectified):
    run, _, told = told_pipeline(topics={'image': topic}, extrinsics__source='parameters')
    job = job_of(cloud([[0.0, 0.0, 4.0]]))
    job.info = rectified_info()
    camera = [run.run(job, set()).frame.camera for _ in range(2)][0]
    expected = Camera(80, 60, 50.0, 50.0, 40.0, 30.0)
    assert (camera == expected) == rectified and len(told) == rectified
    job.info = info()  # no distortion, P repeats K: nothing to say
    told.clear()
    assert run.run(job, set()).frame.camera == CAMERA and not told


def test_the_second_camera_of_a_stereo_pair():
    point = np.array([[0.3, -0.2, 4.0]])
    job = job_of(cloud(point))
    job.info = rectified_info(-0.12)
    run, _, told = told_pipeline(static(('camera', 'lidar', (0, 0, 0))), image_rectified=True)
    result = run.run(job, {'depth'})
    u, v, w = np.reshape(job.info.p, (3, 4)) @ [*point[0], 1.0]
    assert result.sparse.uv[0] == pytest.approx([u / w, v / w], abs=1e-4)
    assert len(told) == 1 and '0.120 m beside' in told[0]
    # What goes out lies where it came from.
    result.depth[:] = 4.0
    fields = output_fields('cloud', result, DEFAULTS)
    out = fields['data'].view(np.float32).reshape(-1, 4)[:, :3]
    assert np.abs(out - point).max(1).min() < 0.05
    assert output_fields('camera_info', result, DEFAULTS)['p'] == pytest.approx(job.info.p)
    # A driver that gives each camera its own frame has the baseline in TF already.
    run, _, told = told_pipeline(static(('camera', 'lidar', (0, 0, 0)),
                                        ('camera', 'first', (-0.12, 0, 0))), image_rectified=True)
    sparse = run.run(job, set()).sparse
    assert sparse.uv[0] == pytest.approx([50 * 0.3 / 4 + 40, 50 * -0.2 / 4 + 30], abs=1e-4)
    assert not told


def test_a_calibration_file_gives_camera_and_pose():
    matrix = matrix_from_rpy((0.1, 0.2, 0.3), (0.0, 0.0, 0.5))
    calibration = Calibration([50.0, 0, 40, 0, 50, 30, 0, 0, 1], camera_from_points=matrix)
    values = calibrated_values(DEFAULTS, calibration)
    run = Pipeline(values, Flat(), Extrinsics(values, None))
    job = job_of(cloud([[0.0, 0.0, 4.0]]))
    job.info = calibration
    result = run.run(job, {'depth'})
    assert result.frame.camera == Camera(80, 60, 50.0, 50.0, 40.0, 30.0)
    assert result.frame.camera_from_points == pytest.approx(matrix)
    assert result.frame.frame_id == 'camera'
    chosen = {**DEFAULTS, 'extrinsics.source': 'tf'}
    assert calibrated_values(chosen, calibration) is chosen
