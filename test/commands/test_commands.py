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
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sample_recordings import CAMERA, cloud_bag, cloud_frames, SIZE, write_bag, write_folder

from steer_depth_ros.cli import main
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import OUTPUTS

PRESET = ['--preset', 'steering', '--device', 'cpu']


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'frame', next(cloud_frames(1)))


def refused(capsys, *argv):
    """Run a command that must fail; return its one line on stderr."""
    assert main(list(map(str, argv))) == 2
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    return next(line for line in error.splitlines() if ': error: ' in line)


def test_a_reader_that_leaves_gets_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([sys.executable, '-m', 'steer_depth_ros.cli', 'presets'],
                               stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (ended.stderr, ended.returncode) == ('', 141)


def test_complete_from_points(folder, tmp_path, capsys):
    out, figures = tmp_path / 'dense.png', tmp_path / 'f.json'
    status = main(['complete', '--image', str(folder / 'rgb.png'), '--points',
                   str(folder / 'lidar.bin'), '--calibration', str(folder / 'meta.json'),
                   '--depth-scale', '256', '--out', str(out), '--preview',
                   str(tmp_path / 'p.png'), '--confidence', str(tmp_path / 'c.npy'),
                   '--json', str(figures), *PRESET])
    assert status == 0
    depth = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.shape == SIZE
    # The wall of the test frame is 4 m away.
    assert abs(np.median(depth[depth > 0]) / 256 - 4.0) < 0.05
    assert cv2.imread(str(tmp_path / 'p.png')).shape == (*SIZE, 3)
    confidence = np.load(tmp_path / 'c.npy')
    assert confidence.shape == SIZE and 0 <= confidence.min() and confidence.max() <= 1
    assert json.loads(figures.read_text())['samples'] > 100
    assert 'samples in' in capsys.readouterr().out


@pytest.mark.parametrize('ending', ['.npy', '.tiff'])
def test_complete_from_depth_in_metres(folder, tmp_path, ending):
    depth = np.zeros(SIZE, np.uint16)
    depth[::3, ::3] = 2500
    cv2.imwrite(str(tmp_path / 'd.png'), depth)
    out = tmp_path / f'dense{ending}'
    assert main(['complete', '--image', str(folder / 'rgb.png'), '--depth',
                 str(tmp_path / 'd.png'), '--out', str(out), *PRESET]) == 0
    dense = np.load(out) if ending == '.npy' else cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert dense.dtype == np.float32
    assert abs(np.nanmedian(dense) - 2.5) < 0.01


def test_complete_refuses_wrong_input(folder, tmp_path, capsys):
    image, out = folder / 'rgb.png', tmp_path / 'o.png'
    cv2.imwrite(str(tmp_path / 'empty.png'), np.zeros(SIZE, np.uint16))
    cv2.imwrite(str(tmp_path / 'small.png'), np.ones((5, 5), np.uint16))
    np.save(tmp_path / 'd.npy', np.ones(SIZE))

    def fails(*argv):
        return refused(capsys, 'complete', '--image', image, '--out', out, *argv)

    assert 'either --depth or --points' in fails()
    assert '--points needs --calibration' in fails('--points', folder / 'lidar.bin')
    assert 'no.png' in fails('--depth', tmp_path / 'no.png')
    assert 'has no depth within the image' in fails('--depth', tmp_path / 'empty.png')
    assert '5 x 5 pixels' in fails('--depth', tmp_path / 'small.png')
    assert 'must be positive' in fails('--depth', tmp_path / 'd.npy', '--depth-scale', 0)
    assert 'must be a picture' in fails('--depth', tmp_path / 'd.npy', '--preview', 'p.txt')
    assert 'must end in .png' in fails('--depth', tmp_path / 'd.npy', '--out', tmp_path / 'o.x')


def test_frames_to_bag_to_completed_bag(folder, tmp_path, capsys):
    source, target = tmp_path / 'in.db3', tmp_path / 'out.mcap'
    assert main(['frames-to-bag', str(folder), str(source)]) == 0
    assert main(['bag', str(source), str(target), '--json', str(tmp_path / 'f.json'),
                 *PRESET]) == 0
    assert json.loads((tmp_path / 'f.json').read_text()) == {
        'frames': 1, 'images': 1, 'dropped': {}}
    assert '1 frames completed of 1 images; dropped: none' in capsys.readouterr().out
    with bag.BagReader(target) as recording:
        depth = recording.first(OUTPUTS['depth'][0])
    assert (depth.width, depth.height) == (CAMERA.width, CAMERA.height)


def test_bag_refuses_wrong_input(tmp_path, capsys):
    good = cloud_bag(tmp_path / 'good.mcap')
    mixed = write_bag(tmp_path / 'mixed.mcap', camera_info={'width': 99})
    (tmp_path / 'short.mcap').write_bytes(good.read_bytes()[:5000])
    out = tmp_path / 'out.mcap'

    def fails(source, *argv):
        return refused(capsys, 'bag', source, out, *PRESET, *argv)

    assert 'there is no recording' in fails(tmp_path / 'missing.mcap')
    assert 'is truncated or damaged' in fails(tmp_path / 'short.mcap')
    assert '99 x 48 pixels' in fails(mixed)
    assert 'has no topic /other' in fails(good, '--image', '/other')
    assert 'takes NAME=VALUE' in fails(good, '--param', 'slop_s')
    assert 'slop_s must be a number' in fails(good, '--param', 'slop_s=far')
    assert not out.exists()


WRONG = {
    'missing calibration': ({'camera_info': None}, 'no topic for camera_info', 'record'),
    'no calibration': ({'camera_info': {'k': [0.0] * 9}}, '/camera/camera_info:', 'calibrate'),
    'unknown encoding': ({'image': {'encoding': 'h264'}}, '/camera/image: image encoding',
                         'use one of'),
    'unknown distortion model': ({'camera_info': {'distortion_model': 'magic', 'd': [0.1]}},
                                 '/camera/camera_info: unknown distortion', 'rectify'),
    'other shape': ({'camera_info': {'width': 128, 'height': 48}},
                    '/camera/camera_info: camera_info describes images of 128 x 48', 'publish')}


@pytest.mark.parametrize('command', ['bag', 'demo', 'eval'])
@pytest.mark.parametrize('fault', [*WRONG, 'empty', 'truncated'])
def test_a_recording_that_cannot_be_used_names_it_and_the_remedy(fault, command, tmp_path, capsys):
    if command == 'demo':
        pytest.importorskip('rclpy', reason='rclpy is not installed')
    source = tmp_path / 'drive.mcap'
    changes, words, remedy = WRONG.get(fault, ({}, 'drive.mcap is ', 'record'))
    write_bag(source, **changes)
    if fault == 'empty':
        with bag.BagWriter(source, overwrite=True) as writer:
            writer.add_topic('/camera/image', bag.IMAGE)
    elif fault == 'truncated':
        source.write_bytes(source.read_bytes()[:5000])
    argv = {'bag': ['bag', source, tmp_path / 'out.mcap', *PRESET],
            'demo': ['demo', '--bag', source, '--out', tmp_path / 'demo'],
            'eval': ['eval', '--dataset', 'bag', '--data-dir', source, *PRESET]}[command]
    line = refused(capsys, *argv)
    assert words in line and remedy in line


def test_frames_to_bag_refuses_wrong_input(folder, tmp_path, capsys):
    (folder / 'lidar.bin').write_bytes(b'123')
    assert 'lidar.bin is damaged' in refused(capsys, 'frames-to-bag', folder, tmp_path / 'o.mcap')
    (tmp_path / 'none').mkdir()
    assert 'holds no frames' in refused(capsys, 'frames-to-bag', tmp_path / 'none',
                                        tmp_path / 'o.mcap')


def test_demo_refuses_wrong_input(tmp_path, capsys):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    assert 'there is no recording' in refused(capsys, 'demo', '--bag', tmp_path / 'no.mcap')
    assert '--rate must be positive' in refused(capsys, 'demo', '--rate', 0)
