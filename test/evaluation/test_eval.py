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
"""`steer_depth eval` end to end on small data sets, and the protocols behind it."""
import json

import cv2
import numpy as np
import pytest
from release_checkpoint import KERNELNET, release_state, RESNET
from sample_datasets import write_frame, write_kitti_selection, write_nyu
import torch

from steer_depth_ros.cli import main
from steer_depth_ros.datasets.base import Example
from steer_depth_ros.datasets.held_out import example_from_frame
from steer_depth_ros.errors import DatasetError
from steer_depth_ros.evaluation.confidence_report import (
    BINS,
    ConfidenceReport,
    draw_reliability,
)
from steer_depth_ros.evaluation.evaluate import evaluate
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import sparse_from_depth_image
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import read_frames, RecordedFrame

CAMERA = Camera(80, 60, 70.0, 70.0, 39.5, 29.5)


def evaluated(tmp_path, *arguments):
    path = tmp_path / 'figures.json'
    assert main(['eval', *arguments, '--json', str(path)]) == 0
    return json.loads(path.read_text())['results']


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('release')
    torch.save(release_state(KERNELNET, 1), folder / 'k.pth',
               _use_new_zipfile_serialization=False)
    torch.save(release_state(RESNET, 2), folder / 'r.pth', _use_new_zipfile_serialization=False)
    return folder


def test_reference_on_nyu_from_the_releases_checkpoints(tmp_path, checkpoints, capsys):
    write_nyu(tmp_path, 1)
    result, = evaluated(
        tmp_path, '--dataset', 'nyu', '--data-dir', str(tmp_path), '--preset', 'reference',
        '--kernelnet', str(checkpoints / 'k.pth'), '--resnet', str(checkpoints / 'r.pth'),
        '--sheet', str(tmp_path / 'sheet.png'), '--device', 'cpu')
    assert result['pattern'] == 'random:500' and result['samples'] == 500
    assert result['frames'] == 1 and result['rmse'] > 0 and result['confidence'] == {}
    assert 0 < result['delta_1.02'] < result['delta_1.25^3'] <= 1
    assert result['per_frame'][0]['name'] == 'official/00000'
    table = capsys.readouterr().out
    assert 'd1.25^2' in table and f'{result["rmse"]:.3f}' in table
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape[1] == 1920


def test_reference_is_scored_where_no_sample_is_near_too(tmp_path, checkpoints):
    write_nyu(tmp_path, 1)
    result, = evaluated(
        tmp_path, '--dataset', 'nyu', '--data-dir', str(tmp_path), '--preset', 'reference',
        '--kernelnet', str(checkpoints / 'k.pth'), '--resnet', str(checkpoints / 'r.pth'),
        '--samples', '20', '--device', 'cpu')
    assert result['samples'] == 20 and result['coverage'] == 1


def test_sample_counts(tmp_path):
    write_nyu(tmp_path, 2)
    results = evaluated(tmp_path, '--dataset', 'nyu', '--data-dir', str(tmp_path), '--preset',
                        'steering', '--samples', '50,200', '--limit', '1', '--device', 'cpu')
    assert [(r['pattern'], r['samples'], r['frames']) for r in results] == [
        ('random:50', 50, 1), ('random:200', 200, 1)]


def test_converted_weights_give_the_same_figures(tmp_path, checkpoints):
    write_kitti_selection(tmp_path, 1)
    files = ['--kernelnet', str(checkpoints / 'k.pth'), '--resnet', str(checkpoints / 'r.pth')]
    common = ['--dataset', 'kitti', '--data-dir', str(tmp_path), '--preset', 'reference',
              '--device', 'cpu']
    assert main(['convert', *files, '--out', str(tmp_path / 'w.safetensors')]) == 0
    direct = evaluated(tmp_path, *common, *files)[0]
    converted = evaluated(tmp_path, *common, '--weights', str(tmp_path / 'w.safetensors'))[0]
    assert direct['per_frame'] == converted['per_frame']
    # KITTI is deeper than NYUv2: without the clamp other depths come out.
    free = evaluated(tmp_path, *common, *files, '--depth-range', 'none')[0]
    assert free['rmse'] < direct['rmse']


def test_kitti_table_is_in_kittis_units(tmp_path, capsys):
    write_kitti_selection(tmp_path)
    result, = evaluated(tmp_path, '--dataset', 'kitti', '--data-dir', str(tmp_path), '--preset',
                        'steering', '--device', 'cpu')
    assert result['pattern'] == 'sensor' and result['frames'] == 2
    table = capsys.readouterr().out
    assert 'iRMSE 1/km' in table and f'{1000 * result["rmse"]:.1f}' in table


def test_procedural_is_repeatable_and_compares_presets(tmp_path):
    arguments = ['--dataset', 'procedural', '--limit', '1', '--size', '80x60', '--device', 'cpu',
                 '--preset', 'steering', '--pattern', 'rows:8', '--pattern', 'lidar:16',
                 '--reliability', str(tmp_path / 'plot.png')]
    first, again = (evaluated(tmp_path, *arguments) for _ in range(2))
    assert [r['per_frame'] for r in first] == [r['per_frame'] for r in again]
    assert [(r['method'], r['pattern']) for r in first] == [('steering', 'rows:8'),
                                                            ('steering', 'lidar:16')]
    assert first[0]['confidence']['half_ratio'] > 0
    assert cv2.imread(str(tmp_path / 'plot.png')).shape == (480, 1280, 3)


def test_procedural_scenes_of_one_kind(tmp_path):
    arguments = ['--dataset', 'procedural', '--limit', '1', '--size', '120x60', '--device', 'cpu',
                 '--preset', 'fast', '--pattern', 'roof:1', '--seed', '3']
    queue, street = (evaluated(tmp_path, *arguments, '--kind', kind)[0]
                     for kind in ('queue', 'street'))
    assert queue['pattern'] == 'roof:1' and queue['samples'] != street['samples']


def test_folder_of_frames_names_what_it_leaves_out(tmp_path, capsys):
    wall = np.full((60, 80), 2.0)
    write_frame(tmp_path / 'set' / 'a', depth=wall)
    write_frame(tmp_path / 'set' / 'b', depth=wall)
    (tmp_path / 'set' / 'b' / 'depth.png').write_bytes(b'broken')
    result, = evaluated(tmp_path, '--dataset', 'frames', '--data-dir', str(tmp_path / 'set'),
                        '--preset', 'steering', '--device', 'cpu')
    assert result['frames'] == 1 and result['samples'] == 500 and result['rmse'] < 1e-3
    assert 'b/depth.png' in capsys.readouterr().err


def test_recording_is_scored_against_its_truth_topic(tmp_path):
    wall = np.full((60, 80), 2.0)
    for name in 'abc':
        write_frame(tmp_path / 'set' / name, depth=wall, gt=wall * 1.25)
    frames_to_bag(read_frames(tmp_path / 'set'), tmp_path / 'drive.mcap')
    result, = evaluated(tmp_path, '--dataset', 'bag', '--data-dir', str(tmp_path / 'drive.mcap'),
                        '--preset', 'steering', '--limit', '2', '--device', 'cpu')
    assert result['frames'] == 2 and result['samples'] == 60 * 80
    assert result['rel'] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize('arguments, message', [
    (['--dataset', 'nyu'], 'needs --data-dir'),
    (['--dataset', 'nyu', '--data-dir', 'nowhere'], 'nyudepth_hdf5_val.csv'),
    (['--dataset', 'frames', '--data-dir', 'nowhere'], 'nowhere'),
    (['--dataset', 'bag', '--data-dir', 'nowhere'], 'nowhere'),
    (['--dataset', 'procedural', '--samples', '0'], '--samples 0'),
    (['--dataset', 'procedural', '--samples', '5,x'], '--samples 5,x'),
    (['--dataset', 'procedural', '--pattern', 'spiral:3'], 'spiral'),
    (['--dataset', 'procedural', '--pattern', 'random:-5'],
     "'-5' is not a valid number for random"),
    (['--dataset', 'procedural', '--size', '640'], 'size 640:'),
    (['--dataset', 'procedural', '--size', '640x99999'], 'size 640x99999:'),
    (['--dataset', 'procedural', '--kind', 'alley'], 'room, corridor'),
    (['--dataset', 'kitti', '--data-dir', '.', '--kind', 'street'], '--kind is for'),
    (['--dataset', 'procedural', '--kind', 'street', '--robustness'], '--kind is for'),
    (['--dataset', 'procedural', '--seed', '-1'], '--seed must be at least 0'),
    (['--dataset', 'procedural', '--limit', '0'], '--limit'),
    (['--dataset', 'procedural', '--preset', 'reference'], 'steer_depth convert'),
    (['--dataset', 'procedural', '--preset', 'reference', '--kernelnet', 'k'], 'given together'),
    (['--dataset', 'procedural', '--kernelnet', 'k', '--resnet', 'r'], 'given together')])
def test_bad_input_is_one_sentence(arguments, message, capsys):
    assert main(['eval', '--limit', '1', '--preset', 'steering', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


def depth_camera_frame(truth=None):
    depth = np.full((60, 80), 3.0, np.float32)
    depth[:10] = np.nan
    frame = Frame(np.zeros((60, 80, 3), np.uint8), CAMERA, sparse=sparse_from_depth_image(depth))
    return RecordedFrame('room', frame, depth, truth)


def test_given_pixels_are_no_truth_without_separate_truth():
    example = example_from_frame(depth_camera_frame(), None, np.random.default_rng(0))
    u, v = example.uv.astype(int).T
    assert len(u) == 500 and np.isnan(example.truth[v, u]).all()
    assert np.isfinite(example.truth).sum() == 50 * 80 - 500
    with pytest.raises(DatasetError, match='room has nothing to compare with'):
        example_from_frame(depth_camera_frame(), 'sensor', np.random.default_rng(0))


def test_separate_truth_takes_all_measurements_but_a_copy_is_no_truth():
    truth = np.full((60, 80), 3.5, np.float32)
    example = example_from_frame(depth_camera_frame(truth), None, np.random.default_rng(0))
    assert len(example.uv) == 50 * 80 and np.array_equal(example.truth, truth)
    copy = depth_camera_frame()
    copy.truth = copy.depth_image.copy()
    assert len(example_from_frame(copy, None, np.random.default_rng(0)).uv) == 500


def test_bands_of_a_cloud_alternate():
    rng = np.random.default_rng(1)
    elevation, azimuth = np.radians(rng.uniform(-1, 1, (2, 4000)) * [[20], [25]])
    distance = 5 / (np.cos(elevation) * np.cos(azimuth))  # a wall across the view
    points = distance[:, None] * np.stack([
        np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation)], 1)
    camera_from_points = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    frame = Frame(np.zeros((60, 80, 3), np.uint8), CAMERA, points=points.astype(np.float32),
                  camera_from_points=camera_from_points)
    example = example_from_frame(RecordedFrame('wall', frame), None, rng)
    row, column = np.nonzero(np.isfinite(example.truth))
    assert len(row) > 300 and len(example.uv) > 300
    np.testing.assert_allclose(example.truth[row, column], 5, rtol=1e-4)

    def band(u, v):
        y, x = (v - CAMERA.cy) / CAMERA.fy, (u - CAMERA.cx) / CAMERA.fx
        return np.floor(np.degrees(np.arctan2(-y, np.hypot(1, x))) / 0.84)

    assert (band(*example.uv.T) % 2 == 0).mean() > 0.98  # but for rounding at a band's edge


def test_methods_see_the_same_examples_and_order_is_kept():
    image, truth = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 2.0, np.float32)
    example = Example('e', image, np.zeros((1, 2), np.float32), np.ones(1, np.float32), truth,
                      Camera(4, 4, 4.0, 4.0, 1.5, 1.5))
    results = evaluate({'b': lambda *_: (truth, None), 'a': lambda *_: (truth * 1.5, truth * 0)},
                       [('p', example), ('q', example), ('p', example)])
    assert [(r.method, r.pattern, len(r.frames)) for r in results] == [
        ('b', 'p', 2), ('b', 'q', 1), ('a', 'p', 2), ('a', 'q', 1)]
    assert results[0].figures()['mae'] == 0 and results[2].figures()['mae'] == 1
    with pytest.raises(DatasetError, match='no frame'):
        evaluate({}, [])


def test_confidence_figures_by_hand():
    truth = np.full((2, 4), 10.0)
    estimate = truth * (1 + np.array([[0.0, 0.01, 0.02, 0.03], [0.1, 0.2, 0.3, 0.4]]))
    confidence = np.array([[0.95, 0.92, 0.91, 0.9], [0.25, 0.22, 0.21, 0.2]])
    report = ConfidenceReport()
    assert report.figures() == {}
    report.add(estimate, confidence, truth)
    figures = report.figures()
    assert figures['rel_confident_half'] == pytest.approx(0.015)
    assert figures['rel_other_half'] == pytest.approx(0.25)
    assert figures['half_ratio'] == pytest.approx(0.06)
    rows = figures['reliability']
    assert len(rows) == BINS and sum(r['share'] for r in rows) == pytest.approx(1)
    assert rows[9]['hits'] == 1 and rows[2]['hits'] == 0 and rows[5]['hits'] is None
    assert rows[9]['confidence'] == pytest.approx(0.92)
    assert draw_reliability(figures, 'by hand').shape == (480, 640, 3)


def test_constant_confidence_tells_nothing():
    rng = np.random.default_rng(0)
    truth, report = np.full((100, 100), 5.0), ConfidenceReport()
    estimate = truth + np.linspace(0, 1, 100)[:, None]  # worse towards the bottom
    report.add(estimate + 0.01 * rng.random(truth.shape), np.full(truth.shape, 0.5), truth)
    assert report.figures()['half_ratio'] == pytest.approx(1, abs=0.05)
