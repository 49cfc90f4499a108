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
"""Transforms compose, interpolate, never extrapolate, and say what is missing."""
import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError
from steer_depth_ros.geometry.transforms import (
    inverse,
    matrix_from,
    matrix_from_rpy,
    quaternion_from,
    TransformBuffer,
    TransformError,
)

SECOND = 1_000_000_000


def moved(x, yaw=0.0):
    return matrix_from_rpy((x, 0, 0), (0, 0, yaw))


def put(buffer, parent, child, stamp_ns, matrix, static=False):
    buffer.set_pose(parent, child, stamp_ns, matrix[:3, 3], quaternion_from(matrix), static)


@pytest.fixture(params=['ours', 'tf2'])
def make_buffer(request):
    """Our buffer and that of tf2, for what both have to answer alike."""
    if request.param == 'ours':
        return TransformBuffer
    pytest.importorskip('tf2_py', reason='tf2_py is not installed (ros-$ROS_DISTRO-tf2-py)')
    from tf2_buffer import Tf2Buffer
    return Tf2Buffer


@pytest.fixture
def robot(make_buffer):
    return on_the_move(make_buffer())


@pytest.fixture
def buffer():
    return on_the_move(TransformBuffer())


def on_the_move(buffer):
    """Odometry of a robot that drives 1 m and turns 0.2 rad a second, camera and LiDAR on it."""
    for tenth in range(21):
        put(buffer, 'odom', 'base', 100 * SECOND + tenth * SECOND // 10,
                             moved(0.1 * tenth, 0.02 * tenth))
    put(buffer, 'base', '/camera', 0, moved(1.0), static=True)
    put(buffer, '/base', 'lidar', 0, moved(-1.0, np.pi / 2), static=True)
    return buffer


def test_takes_points_of_the_source_to_the_target(robot):
    matrix = robot.lookup('camera', 'lidar')
    assert np.allclose(matrix @ [5, 0, 0, 1], [-2, 5, 0, 1])
    assert np.allclose(robot.lookup('lidar', 'camera') @ matrix, np.eye(4))
    assert np.allclose(robot.lookup('lidar', '/lidar'), np.eye(4))
    assert np.allclose(robot.lookup('unheard', 'unheard'), np.eye(4))


def test_interpolates_between_stamps(robot):
    stamp = 100 * SECOND + 1_234_000_000
    assert np.allclose(robot.lookup('odom', 'base', stamp), moved(1.234, 0.2 * 1.234))
    assert np.allclose(robot.lookup('odom', 'base'), moved(2.0, 0.4))  # the latest


def test_turns_the_short_way(make_buffer):
    buffer = make_buffer()
    for stamp, yaw in ((0, 3.0), (100, -3.0)):
        put(buffer, 'a', 'b', stamp, moved(0, yaw))
    assert np.allclose(buffer.lookup('a', 'b', 50), moved(0, np.pi))


def test_latest_is_what_all_links_know(robot):
    for stamp in (100 * SECOND, 101 * SECOND):
        put(robot, 'base', 'arm', stamp, moved(0.0))
    assert np.allclose(robot.lookup('odom', 'arm'), moved(1.0, 0.2))


def test_two_stamps_through_a_fixed_frame(robot):
    early, late = 100 * SECOND, 101 * SECOND
    matrix = robot.lookup_full('base', late, 'base', early, 'odom')
    assert np.allclose(matrix, inverse(moved(1.0, 0.2)))


def test_stamps_out_of_order(make_buffer):
    buffer = make_buffer()
    for stamp in (30, 10, 20, 20):
        put(buffer, 'a', 'b', stamp, moved(stamp))
    assert np.allclose(buffer.lookup('a', 'b', 15), moved(15))


def test_never_extrapolates(buffer):
    end = 102 * SECOND
    assert np.allclose(buffer.lookup('odom', 'base', end + 9_000_000), moved(2.0, 0.4))
    for stamp in (end + 11_000_000, 100 * SECOND - 11_000_000):
        with pytest.raises(TransformError) as caught:
            buffer.lookup('odom', 'camera', stamp)
        for word in ('100.000', '102.000', f'{stamp / SECOND:.3f}', 'base', 'odom'):
            assert word in str(caught.value)


def test_names_the_missing_frame_and_those_that_exist(buffer):
    with pytest.raises(TransformError) as caught:
        buffer.lookup('camera', 'velodyne')
    for word in ('"velodyne" does not exist', 'base, camera, lidar, odom'):
        assert word in str(caught.value)
    with pytest.raises(TransformError, match='none'):
        TransformBuffer().lookup('a', 'b')
    assert issubclass(TransformError, CalibrationError)


def test_separate_trees(buffer):
    put(buffer, 'map', 'rig', 0, np.eye(4), static=True)
    with pytest.raises(TransformError, match='separate trees, below "map" and "odom"'):
        buffer.lookup('camera', 'rig')


def test_a_loop_is_refused_and_does_no_harm():
    buffer = TransformBuffer()
    put(buffer, 'a', 'b', 0, np.eye(4), static=True)
    put(buffer, 'b', 'c', 0, np.eye(4))
    with pytest.raises(TransformError, match='a in c would close a loop of the frames c, b, a'):
        put(buffer, 'c', 'a', 0, np.eye(4))
    assert buffer.lookup('a', 'c', 0) == pytest.approx(np.eye(4))


def test_a_loop_goes_to_the_one_who_keeps_publishing():
    buffer = TransformBuffer()
    put(buffer, 'b', 'a', 0, np.eye(4))  # wrong, and never renewed
    with pytest.raises(TransformError, match='loop'):
        put(buffer, 'a', 'b', 1, np.eye(4))
    put(buffer, 'a', 'b', 2, moved(2))
    assert buffer.lookup('a', 'b', 2)[0, 3] == moved(2)[0, 3]
    for tick in range(3, 9):  # both go on: the first stays
        with pytest.raises(TransformError, match='loop'):
            put(buffer, 'b', 'a', tick, np.eye(4))
        put(buffer, 'a', 'b', tick, moved(tick))


@pytest.mark.parametrize('jump', [5, 500])
def test_clear_keeps_what_has_arrived_after_the_jump(jump):
    buffer = TransformBuffer()
    for tick in (1000, 1001, 1001 - jump):
        put(buffer, 'odom', 'base', tick * SECOND, moved(tick))
    buffer.clear()
    assert buffer.lookup('odom', 'base', (1001 - jump) * SECOND)[0, 3] == moved(1001 - jump)[0, 3]
    with pytest.raises(TransformError):
        buffer.lookup('odom', 'base', 1001 * SECOND)


@pytest.mark.parametrize('wrong', [0, 5000 * SECOND])
def test_one_wrong_stamp_costs_one_transform_a_clock_that_jumped_back_two(wrong):
    buffer = TransformBuffer()
    for tick in [1000, 1001, wrong // SECOND, 1002, 1003]:
        put(buffer, 'odom', 'base', tick * SECOND, moved(tick))
    assert buffer.lookup('odom', 'base', 1003 * SECOND)[0, 3] == moved(1003)[0, 3]
    for tick in (500, 501):
        put(buffer, 'odom', 'base', tick * SECOND, moved(tick))
    for tick in (500, 501):
        assert buffer.lookup('odom', 'base', tick * SECOND)[0, 3] == moved(tick)[0, 3]


@pytest.mark.parametrize('ahead', [1, 5])
def test_nothing_is_interpolated_towards_a_pose_with_a_wrong_stamp(ahead):
    buffer = TransformBuffer()
    tenth = SECOND // 10
    for tick in range(20):
        put(buffer, 'odom', 'base', tick * tenth, moved(tick))
    put(buffer, 'odom', 'base', 19 * tenth + ahead * SECOND, moved(99))
    for tick in (20, 21):  # while the next pose is under way, and when it is put aside
        with pytest.raises(TransformError, match='not known between 1.900 s and'):
            buffer.lookup('odom', 'base', tick * tenth - tenth // 2)
        put(buffer, 'odom', 'base', tick * tenth, moved(tick))
    assert buffer.lookup('odom', 'base', 21 * tenth - tenth // 2)[0, 3] == moved(20.5)[0, 3]
    with pytest.raises(TransformError, match='2.100 s only'):
        buffer.lookup('odom', 'base', 19 * tenth + ahead * SECOND)


def test_interpolates_what_is_published_seldom(make_buffer):
    buffer = make_buffer()
    for second in (0, 2, 4):
        put(buffer, 'odom', 'base', second * SECOND, moved(second))
    assert buffer.lookup('odom', 'base', 3 * SECOND)[0, 3] == moved(3)[0, 3]


def test_history_is_bounded():
    buffer = TransformBuffer(history_ns=SECOND)
    for tick in range(1000):
        put(buffer, 'odom', 'base', tick * SECOND // 100, moved(tick))
    assert len(buffer._edges['base'].stamps) == 101
    put(buffer, 'odom', 'base', 0, moved(0))  # older than what is kept
    assert len(buffer._edges['base'].stamps) == 101
    with pytest.raises(TransformError, match='8.990'):
        buffer.lookup('odom', 'base', 2 * SECOND)


def test_clear_keeps_static_ones(buffer):
    put(buffer, 'odom', 'base', 10 * SECOND, moved(2.0))
    buffer.clear()
    assert np.allclose(buffer.lookup('camera', 'base'), moved(-1.0))
    put(buffer, 'odom', 'base', 5, moved(3.0))
    assert np.allclose(buffer.lookup('odom', 'base', 5), moved(3.0))
    with pytest.raises(TransformError, match='0.000 s only'):
        buffer.lookup('odom', 'base', 10 * SECOND)


def test_clear_keeps_the_latest_of_a_clock_that_has_not_jumped():
    buffer = TransformBuffer()
    for tick in (1000, 1001):
        put(buffer, 'odom', 'base', tick * SECOND, moved(tick))
    buffer.clear()
    assert buffer.lookup('odom', 'base', 1001 * SECOND)[0, 3] == moved(1001)[0, 3]
    with pytest.raises(TransformError):
        buffer.lookup('odom', 'base', 1000 * SECOND)
    put(buffer, 'odom', 'base', 1002 * SECOND, moved(1002))
    for tick in (1001, 1002):
        assert buffer.lookup('odom', 'base', tick * SECOND)[0, 3] == moved(tick)[0, 3]


def test_a_pose_put_aside_serves_its_own_time():
    buffer = TransformBuffer()
    for tick in (1000, 5000, 1001):  # a wrong stamp ahead of time
        put(buffer, 'odom', 'base', tick * SECOND, moved(tick))
    assert buffer.lookup('odom', 'base', 1001 * SECOND)[0, 3] == moved(1001)[0, 3]
    with pytest.raises(TransformError) as caught:
        buffer.lookup('odom', 'base', 1001 * SECOND - SECOND // 10)
    assert caught.value.past
    with pytest.raises(TransformError) as caught:
        buffer.lookup('odom', 'base', 5001 * SECOND)
    assert not caught.value.past


@pytest.mark.parametrize('parent, child, words', [('a', '/a', 'own parent'), ('/', 'a', 'empty')])
def test_frames_that_cannot_be_used(parent, child, words):
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match=words):
        put(buffer, parent, child, 0, np.eye(4))
    assert buffer.frames() == []


def test_quaternions_and_angles():
    quarter = matrix_from((1, 2, 3), (0, 0, np.sqrt(0.5), np.sqrt(0.5)))
    assert np.allclose(quarter @ [1, 0, 0, 1], [1, 3, 3, 1])
    assert np.allclose(quarter, matrix_from_rpy((1, 2, 3), (0, 0, np.pi / 2)))
    # Fixed axes: first roll about x, then yaw about z.
    assert np.allclose(matrix_from_rpy((0, 0, 0), (np.pi / 2, 0, np.pi / 2))[:3, :3]
                       @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(matrix_from_rpy((0, 0, 0), (0, np.pi / 2, 0))[:3, :3] @ [1, 0, 0],
                       [0, 0, -1])
    rng = np.random.default_rng(4)
    for q in [*rng.normal(size=(100, 4)), *np.eye(4)]:
        matrix = matrix_from(rng.normal(size=3), q)
        again = quaternion_from(matrix)
        assert np.isclose(abs(again @ q), np.linalg.norm(q)) and again[3] >= 0
        assert np.allclose(inverse(matrix) @ matrix, np.eye(4))
    for bad in ((0, 0, 0, 0), (np.nan, 0, 0, 1), (0, 0, 1)):
        with pytest.raises(TransformError, match='no pose'):
            matrix_from((0, 0, 0), bad)


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (0, 0, 0, np.nan), (1e200, 0, 0, 1e200)])
def test_quaternions_that_are_no_rotation(quaternion):
    buffer = TransformBuffer()
    for use in (matrix_from, lambda *pose: buffer.set_pose('a', 'b', 0, *pose)):
        with pytest.raises(TransformError, match='no pose'):
            use((0, 0, 0), quaternion)
    assert buffer.frames() == []


def test_a_quaternion_may_have_any_length():
    rng = np.random.default_rng(5)
    buffer = TransformBuffer()
    for stamp in range(20):
        xyz, quaternion = rng.normal(size=3), 3 * rng.normal(size=4)
        buffer.set_pose('a', 'b', stamp, xyz, quaternion)
        assert np.allclose(buffer.lookup('a', 'b', stamp), matrix_from(xyz, quaternion))
