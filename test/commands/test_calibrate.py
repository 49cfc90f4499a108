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
"""`steer_depth calibrate`, and the overlay of `steer_depth bag`."""
import json
import shutil

import cv2
import numpy as np
import pytest
from sample_recordings import cloud_bag, cloud_frames, write_folder
import yaml

from steer_depth_ros.calibration.optimize import corrected
from steer_depth_ros.cli import main
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import read_frames
from steer_depth_ros.synthetic.drive import CAMERA_FROM_LIDAR, drive_frames


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Write a folder of three rendered frames whose extrinsics are one degree off."""
    folder = tmp_path_factory.mktemp('drive')
    wrong = corrected(CAMERA_FROM_LIDAR, np.array([0.3, -0.9, 0.2, 0, 0, 0, 0]))
    for recorded in drive_frames(3, seed=6, size=(240, 720)):
        camera, recorded.truth = recorded.frame.camera, np.nan_to_num(recorded.truth)
        write_folder(folder / recorded.name, recorded, T_cam_lidar=wrong.ravel().tolist(),
                     fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy, width=720, height=240)
    return folder


def refused(capsys, *argv):
    """Run a command that must fail; return its one line on stderr."""
    assert main(list(map(str, argv))) == 2
    return next(line for line in capsys.readouterr().err.splitlines() if ': error: ' in line)


def off(matrix):
    turn = np.reshape(matrix, (4, 4))[:3, :3] @ CAMERA_FROM_LIDAR[:3, :3].T
    return np.rad2deg(np.linalg.norm(cv2.Rodrigues(turn)[0]))


def test_a_folder_is_calibrated_and_all_forms_are_written(drive, tmp_path, capsys):
    out, figures = tmp_path / 'out', tmp_path / 'figures.json'
    assert main(['calibrate', str(drive), '--out', str(out), '--json', str(figures)]) == 0
    text = capsys.readouterr().out
    assert 'yaw' in text and 'corrected' in text
    found = json.loads(figures.read_text())
    assert off(found['T_cam_lidar']) < 0.3
    assert found['changed'] and all(found['observable'].values())
    assert len(found['rotation_sigma_deg']) == 3
    values = yaml.safe_load((out / 'parameters.yaml').read_text())['/**']['ros__parameters']
    assert values['extrinsics']['source'] == 'parameters'
    compile((out / 'static_transform.launch.py').read_text(), 'launch', 'exec')
    assert cv2.imread(str(out / 'before_after.png')).shape == (2 * (240 + 28), 720, 3)


def test_a_recording_is_calibrated_like_its_folder(drive, tmp_path):
    target, figures = tmp_path / 'drive.mcap', tmp_path / 'figures.json'
    frames_to_bag(read_frames(drive), target)
    assert main(['calibrate', str(target), '--out', str(tmp_path / 'out'), '--json',
                 str(figures)]) == 0
    assert off(json.loads(figures.read_text())['T_cam_lidar']) < 0.3
    launch = (tmp_path / 'out' / 'static_transform.launch.py').read_text()
    assert "'camera_optical_frame'" in launch and "'lidar'" in launch


def test_what_cannot_be_calibrated_is_refused_in_a_sentence(drive, tmp_path, capsys):
    bag = cloud_bag(tmp_path / 'wall.mcap')
    error = refused(capsys, 'calibrate', bag, '--out', tmp_path)
    assert 'edges of depth lie in the image' in error
    error = refused(capsys, 'calibrate', bag, '--points', '/nowhere', '--out', tmp_path)
    assert 'no topic /nowhere' in error
    error = refused(capsys, 'calibrate', bag, '--time', '--out', tmp_path)
    assert 'does not move' in error
    one = next(drive.iterdir())
    error = refused(capsys, 'calibrate', one, '--time', '--out', tmp_path)
    assert 'leave --time out' in error
    error = refused(capsys, 'calibrate', drive, '--frames', '0')
    assert '--frames must be 1 or more' in error
    turned = next(cloud_frames(1))
    backwards = np.diag([1.0, -1, -1, 1]) @ turned.frame.camera_from_points
    folder = write_folder(tmp_path / 'back', turned, T_cam_lidar=backwards.ravel().tolist())
    error = refused(capsys, 'calibrate', folder, '--out', tmp_path)
    assert 'no point of the cloud lies in the image' in error
    depth = tmp_path / 'depth'
    depth.mkdir()
    (depth / 'rgb.png').write_bytes((drive / one.name / 'rgb.png').read_bytes())
    meta = json.loads((one / 'meta.json').read_text())
    (depth / 'meta.json').write_text(json.dumps({**meta, 'depth_scale': 1000}))
    cv2.imwrite(str(depth / 'depth.png'), np.full((240, 720), 4000, np.uint16))
    assert 'no pose to calibrate' in refused(capsys, 'calibrate', depth, '--out', tmp_path)


def test_one_frame_is_calibrated_with_a_word_of_caution(drive, tmp_path, capsys):
    assert main(['calibrate', str(next(drive.iterdir())), '--out', str(tmp_path)]) == 0
    assert 'one frame only' in capsys.readouterr().out


def test_trials_measure_how_exact_it_is(drive, tmp_path, capsys):
    right, figures = tmp_path / 'right', tmp_path / 'figures.json'
    shutil.copytree(drive, right)
    for file in right.glob('*/meta.json'):
        file.write_text(json.dumps({**json.loads(file.read_text()),
                                    'T_cam_lidar': CAMERA_FROM_LIDAR.ravel().tolist()}))
    assert main(['calibrate', str(right), '--trials', '2', '--frames', '2', '--json',
                 str(figures)]) == 0
    assert '2 wrong rotations' in capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert found['trials'] == 2 and found['worse'] == 0.0
    assert found['median_after_deg'] < found['median_before_deg']
    assert set(found['monitor']) == {'right', 'wrong'}


def test_frames_of_one_view_are_told(drive, tmp_path, capsys):
    one = next(drive.iterdir())
    for name in 'ab':
        shutil.copytree(one, tmp_path / 'still' / name)
    assert main(['calibrate', str(tmp_path / 'still'), '--out', str(tmp_path / 'out')]) == 0
    assert 'does not move' in capsys.readouterr().out


def test_a_video_shows_edges_over_edges(tmp_path, capsys):
    bag, video = cloud_bag(tmp_path / 'in.mcap', 3), tmp_path / 'overlay.avi'
    assert main(['bag', str(bag), str(tmp_path / 'out.mcap'), '--overlay', str(video),
                 '--preset', 'fast', '--device', 'cpu']) == 0
    capture = cv2.VideoCapture(str(video))
    frames = [capture.read() for _ in range(4)]
    assert [good for good, _ in frames] == [True, True, True, False]
    assert frames[0][1].shape == (48, 64, 3)
    error = refused(capsys, 'bag', bag, tmp_path / 'o.mcap', '--overlay', tmp_path / 'v.txt')
    assert 'must end in .mp4 or .avi' in error
