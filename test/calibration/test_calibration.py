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
"""Calibration on rendered drives: the true pose is known."""
import copy

import cv2
import numpy as np
import pytest

from steer_depth_ros.calibration import report
from steer_depth_ros.calibration.features import ABOVE, find_features, LEFT, RIGHT
from steer_depth_ros.calibration.guide import find_guided
from steer_depth_ros.calibration.motion import sensor_twist
from steer_depth_ros.calibration.objective import FrameFit, View
from steer_depth_ros.calibration.optimize import calibrate, corrected
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.transforms import matrix_from
from steer_depth_ros.synthetic.drive import CAMERA_FROM_LIDAR, drive_frames, scan, STEP_M
from steer_depth_ros.synthetic.renderer import render_scene

SIZE = 240, 720
CAMERA = Camera(320, 240, 300.0, 300.0, 159.5, 119.5)
NO_TURN = np.eye(3)


@pytest.fixture(scope='module')
def drive():
    """Three frames of a rendered street with a LiDAR above and behind the camera."""
    return [recorded.frame for recorded in drive_frames(3, seed=6, size=SIZE)]


def fits(frames, start):
    return [FrameFit(f.image, f.camera, f.points, start) for f in frames]


def turned(degrees, pose=CAMERA_FROM_LIDAR):
    return corrected(pose, np.array([*degrees, 0, 0, 0, 0], float))


def degrees_apart(one, other):
    return np.rad2deg(np.linalg.norm(cv2.Rodrigues(one[:3, :3] @ other[:3, :3].T)[0]))


def wall_with_a_post():
    """Return points of a wall 10 m away, and of a post 4 m away and 0.8 m wide before it."""
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, 0.5, 240), np.linspace(-.3, .3, 40)))
    depth = np.where((np.abs(x) < 0.1) & (y > -0.15), 4.0, 10.0)
    return np.stack([x * depth, y * depth, depth], 1)


def test_steps_are_found_where_the_near_side_ends():
    features = find_features(wall_with_a_post(), NO_TURN, CAMERA.bounds)
    for kind, side in ((RIGHT, 0.4), (LEFT, -0.4)):
        points = features.points[features.kind == kind]
        assert len(points) >= 25
        assert np.allclose(points[:, 2], 4.0)  # the near side counts
        assert np.abs(points[:, 0] - side).max() < 0.02
    above = features.points[features.kind == ABOVE]
    assert len(above) and np.abs(above[:, 1] + 0.6).max() < 0.1
    across = features.normal[features.kind == RIGHT]
    assert np.abs(np.sin(across)).max() < 0.2  # an upright edge has its normal along x


def test_a_slanted_plane_has_no_steps():
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-.5, .5, 240), np.linspace(0.02, .3, 40)))
    depth = 1.5 / y  # the ground: from row to row its depth grows by far more than a step
    ground = np.stack([x * depth, y * depth, depth], 1)
    assert not len(find_features(ground, NO_TURN, CAMERA.bounds))


def test_steps_of_the_echo_are_found_on_a_flat_wall():
    points = wall_with_a_post()
    points = points[points[:, 2] > 9]
    echo = (points[:, 0] > 3.0) * 50.0 + 10.0
    features = find_features(points, NO_TURN, CAMERA.bounds, echo)
    stronger = features.points[[k == 4 for k in features.kind]]
    assert len(stronger) >= 30
    assert np.abs(stronger[:, 0] - 3.0).max() < 0.1


def test_a_view_undoes_distortion_and_reduces_fine_images():
    camera = Camera(1600, 1200, 1500.0, 1500.0, 799.5, 599.5, 'plumb_bob', (-0.2, 0.05, 0, 0, 0))
    image = np.zeros((1200, 1600, 3), np.uint8)
    uv, _ = camera.project(np.array([[0.3, 0.2, 1.0]]))
    cv2.circle(image, tuple(int(round(c)) for c in uv[0]), 12, (255, 255, 255), -1)
    view = View(image, camera)
    u, v = view.place(np.array([0.3, 0.2, 1.0]))
    y, x = np.nonzero(view.image[..., 0] > 100)
    assert view.focal < 800
    assert np.hypot(x.mean() - u, y.mean() - v) < 0.7


def test_samples_know_their_side_of_a_step_by_color():
    points = wall_with_a_post()
    guided = find_guided(points, NO_TURN, CAMERA.bounds, np.ones(len(points), bool))
    place = guided.points[:, :2] / guided.points[:, 2:]
    edge = np.minimum(np.abs(np.abs(place[:, 0]) - 0.1), np.abs(place[:, 1] + 0.15))
    assert edge.max() < 0.05  # nothing far from the outline of the post
    assert np.allclose(guided.near.sum(1), 1, atol=1e-5)

    def gain(shift, contrast):
        post = (np.abs(place[:, 0] - shift) < 0.1) & (place[:, 1] > -0.15)
        color = np.where(post[:, None], contrast, 0.0).repeat(3, 1).astype(np.float32)
        return guided.gain(color[None])[0]

    assert np.abs(gain(0, 0.0)).max() < 1e-5  # no contrast, no evidence
    right = gain(0, 60.0)
    assert right.min() > -1e-5 and right.max() > 0.3
    assert right.sum() > 2 * max(gain(shift, 60.0).sum() for shift in (-0.02, 0.02))


def test_no_step_guides_nothing():
    points = wall_with_a_post()
    wall = points[points[:, 2] > 9]
    seen = np.ones(len(wall), bool)
    assert find_guided(wall, NO_TURN, CAMERA.bounds, seen) is None
    assert find_guided(wall[:40], NO_TURN, CAMERA.bounds, seen[:40]) is None


def test_color_alone_tells_the_rotation(drive):
    """The guide has its maximum near the truth, without any edge."""
    fit = fits(drive[:1], CAMERA_FROM_LIDAR)[0]
    alone = copy.copy(fit)
    alone.features = fit.features.take(np.zeros(0, int))
    alone._groups = []
    wrong = [(0, 0, 0), (0, 1, 0), (0, -1, 0), (1.5, 0, 0), (-1.5, 0, 0)]
    scores = alone.score(np.stack([turned(one) for one in wrong]), np.zeros(5))
    assert scores.argmax() == 0 and scores[0] > 0


def test_a_wrong_rotation_is_corrected_and_a_right_one_kept(drive):
    wrong = turned((0.7, -0.9, 0.5))
    estimate = calibrate(fits(drive, wrong), wrong)
    assert estimate.changed
    assert degrees_apart(estimate.pose, CAMERA_FROM_LIDAR) < 0.25
    assert (estimate.sigma[:3] < 0.3).all()
    right = calibrate(fits(drive, CAMERA_FROM_LIDAR), CAMERA_FROM_LIDAR)
    assert not right.changed
    assert right.pose is CAMERA_FROM_LIDAR


def test_the_score_is_best_near_the_truth(drive):
    fit = fits(drive[:1], CAMERA_FROM_LIDAR)[0]
    poses = np.stack([CAMERA_FROM_LIDAR, *(turned(w) for w in (
        (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 2, 0), (0, -2, 0)))])
    scores = fit.score(poses, np.zeros(len(poses)))
    assert scores.argmax() == 0
    each = fit.score(poses, np.zeros(len(poses)), each=True)
    assert np.allclose(each.sum(1), scores, rtol=1e-3, atol=0.5)
    assert set(fit.tiles()) <= set(range(18))


def test_an_image_without_edges_tells_nothing(drive):
    frame = drive[0]
    plain = FrameFit(np.full_like(frame.image, 90), frame.camera, frame.points,
                     CAMERA_FROM_LIDAR)
    estimate = calibrate([plain], CAMERA_FROM_LIDAR, pose=True)
    assert not estimate.observable.any()
    assert not estimate.changed
    assert 'nothing is observable' in report.describe(estimate)[-1]


def test_the_motion_of_the_sensor_is_found(drive):
    twist = sensor_twist(drive[0].points, drive[1].points, 0.1)
    assert twist is not None
    # The drive goes 0.5 m forward and 0.05 m to the right in 0.1 s; the LiDAR's y is left.
    assert np.abs(twist - [5.0, -0.5, 0, 0, 0, 0]).max() < 0.4
    assert sensor_twist(drive[0].points[:50], drive[1].points, 0.1) is None


def test_translation_is_corrected_with_rotation(drive):
    wrong = corrected(CAMERA_FROM_LIDAR, np.array([0.4, -0.5, 0.2, 0.05, -0.04, 0, 0]))
    estimate = calibrate(fits(drive, wrong), wrong, pose=True)
    assert estimate.observable[3] and estimate.changed
    assert np.abs(estimate.pose[:2, 3] - CAMERA_FROM_LIDAR[:2, 3]).max() < 0.03
    assert degrees_apart(estimate.pose, CAMERA_FROM_LIDAR) < 0.3


def test_a_late_cloud_is_told():
    late_s, made = 0.04, []
    for index in range(4):
        scene, then = (render_scene(6, SIZE, kind='street', moved=(at * STEP_M).tolist())
                       for at in (index, index + late_s / 0.1))
        made.append((scene, scan(then, np.random.default_rng(index))))
    twists = [sensor_twist(one[1], other[1], 0.1) for one, other in zip(made, made[1:])]
    late = [FrameFit(scene.image.numpy(), scene.camera, points, CAMERA_FROM_LIDAR, None, twist)
            for (scene, points), twist in zip(made, twists)]
    estimate = calibrate(late, CAMERA_FROM_LIDAR, time=True)
    assert estimate.observable[6]
    assert abs(estimate.correction[6] - late_s) < 0.012
    assert report.as_json(estimate, 0.1)['time_offset_s'] == 0.1 + estimate.correction[6]
    assert 'time_offset_s: 0.' in report.parameters(estimate, 0.1)


def test_the_pose_is_reported_in_every_form(drive):
    wrong = turned((0.0, 1.2, 0.0))
    estimate = calibrate(fits(drive, wrong), wrong, time=False)
    figures = report.as_json(estimate, 0.01)
    assert np.array_equal(np.reshape(figures['T_cam_lidar'], (4, 4)), estimate.pose)
    assert figures['time_offset_s'] == 0.01
    assert figures['observable'] == {'pitch': True, 'yaw': True, 'roll': True}
    assert figures['translation_sigma_m'] == [None] * 3
    text = report.parameters(estimate)
    assert 'source: parameters' in text and 'time_offset_s' not in text
    launch = report.launch_file(estimate, 'camera', 'lidar')
    compile(launch, 'static_transform.launch.py', 'exec')
    numbers = [float(part.strip(" ',")) for key in ('--x', '--y', '--z', '--qx', '--qy', '--qz',
                                                     '--qw')
               for part in [launch.split(f"'{key}',")[1].split(',')[0].split(']')[0]]]
    assert np.allclose(matrix_from(numbers[:3], numbers[3:]), estimate.pose, atol=1e-5)
