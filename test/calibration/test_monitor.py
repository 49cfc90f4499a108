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
"""The fit of cloud and image while the node runs, on a rendered drive."""
from dataclasses import replace

import numpy as np
import pytest

from steer_depth_ros.calibration.monitor import FitMonitor
from steer_depth_ros.calibration.optimize import corrected
from steer_depth_ros.geometry.projection import project_points
from steer_depth_ros.ros.diagnostics import judge_fit, WARN
from steer_depth_ros.synthetic.drive import CAMERA_FROM_LIDAR, drive_frames

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def drive():
    return [recorded.frame for recorded in drive_frames(3, seed=6, size=(240, 720))]


def seen(frames, degrees=(0, 0, 0), monitor=None, start=1):
    """Show frames to a monitor, one a second, with extrinsics that are off by a rotation."""
    monitor = FitMonitor() if monitor is None else monitor
    pose = corrected(CAMERA_FROM_LIDAR, np.array([*degrees, 0, 0, 0, 0], float))
    for index, frame in enumerate(frames):
        sparse = project_points(frame.points, frame.camera, pose)
        monitor.add(frame.image, frame.camera, sparse.uv, sparse.depth, (start + index) * SECOND)
    return monitor


def test_right_extrinsics_give_no_warning(drive):
    fit = seen(drive).fit()
    assert not fit.significant
    assert (np.abs(fit.degrees[:2]) < 0.3).all()
    assert not judge_fit(fit)
    assert 'over 2 s' in fit.describe()


@pytest.mark.parametrize('axis, degrees', [(1, 1.0), (1, -1.0), (0, 1.0)])
def test_a_degree_off_is_told_within_three_looks(drive, axis, degrees):
    wrong = degrees * np.eye(3)[axis]
    fit = seen(drive, wrong).fit()
    assert fit.significant
    assert abs(fit.degrees[axis] + degrees) < 0.4
    [(level, sentence)] = judge_fit(fit)
    assert level == WARN
    assert f'about {"xyz"[axis]}' in sentence and 'steer_depth calibrate' in sentence


@pytest.mark.parametrize('wrong', [(-0.45, 0.45, 0), (-0.7, 0.7, 0)])
def test_a_rotation_about_a_slanted_axis_is_told(drive, wrong):
    fit = seen(drive, wrong).fit()
    assert fit.significant
    size = float(fit.describe().split('off by ')[1].split(' deg')[0])
    assert abs(size - np.linalg.norm(wrong)) < 0.4
    assert ' and ' in fit.describe()


def test_a_robot_that_stands_has_seen_one_view(drive):
    once = seen(drive[:1]).fit()
    rng = np.random.default_rng(0)
    noisy = [replace(drive[0], image=np.clip(
        drive[0].image + rng.normal(0, 3, drive[0].image.shape), 0, 255).astype(np.uint8))
        for _ in range(4)]
    again = seen(noisy).fit()
    assert again.seconds == 0 and 'in one view' in again.describe()
    assert np.allclose(again.sigma, once.sigma, rtol=0.25)
    assert seen(drive).fit().sigma.sum() < 0.9 * once.sigma.sum()  # other views tell more


def test_nothing_is_said_where_nothing_can_be_seen(drive):
    frame = drive[0]
    monitor = FitMonitor()
    assert monitor.fit() is None
    sparse = project_points(frame.points, frame.camera, CAMERA_FROM_LIDAR)
    monitor.add(frame.image, frame.camera, sparse.uv[:50], sparse.depth[:50], SECOND)
    assert monitor.fit() is None  # too few samples
    monitor.add(np.full_like(frame.image, 80), frame.camera, sparse.uv, sparse.depth, SECOND)
    fit = monitor.fit()
    assert not fit.significant
    assert 'not observable' in fit.describe()


def test_what_is_older_than_a_minute_is_forgotten(drive):
    monitor = seen(drive, (0, 1.0, 0))
    assert monitor.fit().significant
    fit = seen(drive, monitor=monitor, start=100).fit()
    assert not fit.significant
    assert fit.seconds == 2.0


def test_it_starts_over_when_stamps_go_back(drive):
    monitor = seen(drive, (0, 1.0, 0), start=50)
    assert seen(drive[:1], monitor=monitor, start=1).fit().seconds == 0
