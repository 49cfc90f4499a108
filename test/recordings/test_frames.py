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
import io
import json
import os
from pathlib import Path
import struct

import cv2
import numpy as np
import pytest
from sample_recordings import CAMERA, CAMERA_FROM_LIDAR, cloud_frames, SIZE, wall, write_folder

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.recordings.cloud_files import read_cloud
from steer_depth_ros.recordings.frame_folder import (
    find_frames,
    read_depth,
    read_frames,
    read_image,
)

DATA = Path(os.environ.get('STEER_DEPTH_DATA',
                           Path(__file__).resolve().parents[3] / 'shared' / 'data'))


@pytest.fixture
def folder(tmp_path):
    for recorded in cloud_frames(3):
        write_folder(tmp_path / recorded.name, recorded)
    return tmp_path


def test_reads_back_what_was_written(folder):
    frames = list(read_frames(folder))
    assert [f.name for f in frames] == ['000000', '000001', '000002']
    for recorded, original in zip(frames, cloud_frames(3), strict=True):
        np.testing.assert_array_equal(recorded.frame.image, original.frame.image)
        np.testing.assert_array_equal(recorded.frame.points, original.frame.points)
        np.testing.assert_allclose(recorded.truth, original.truth, atol=1 / 256)
        assert recorded.frame.camera == CAMERA
        np.testing.assert_array_equal(recorded.frame.camera_from_points, CAMERA_FROM_LIDAR)


def test_stamps_are_10_hz_apart_unless_given(folder):
    stamps = [f.frame.stamp_ns for f in read_frames(folder)]
    assert np.diff(stamps).tolist() == [100_000_000] * 2
    write_folder(folder / '000001', next(cloud_frames(1)), stamp_ns=12_345)
    assert list(read_frames(folder))[1].frame.stamp_ns == 12_345


def test_a_single_frame_folder_is_one_frame(folder):
    assert find_frames(folder / '000001') == [folder / '000001']


def test_depth_image_frame(folder, tmp_path):
    one = folder / '000000'
    (one / 'lidar.bin').unlink()
    values = np.zeros(SIZE, np.uint16)
    values[10, 20] = 2500
    cv2.imwrite(str(one / 'depth.png'), values)
    meta = json.loads((one / 'meta.json').read_text())
    (one / 'meta.json').write_text(json.dumps({**meta, 'depth_scale': 1000}))
    recorded = next(read_frames(one))
    assert recorded.frame.points is None
    np.testing.assert_array_equal(recorded.frame.sparse.uv, [[20, 10]])
    np.testing.assert_allclose(recorded.frame.sparse.depth, [2.5])
    assert np.isnan(recorded.depth_image).sum() == values.size - 1


def test_depth_files_in_metres(tmp_path):
    depth = np.array([[1.5, 0.0], [np.nan, 3.0]], np.float32)
    np.save(tmp_path / 'd.npy', depth)
    cv2.imwrite(str(tmp_path / 'd.tiff'), depth)
    for name in ('d.npy', 'd.tiff'):
        found = read_depth(tmp_path / name, scale=1000)
        np.testing.assert_array_equal(found, np.where(depth > 0, depth, np.nan))


def test_cloud_from_npy(tmp_path):
    np.save(tmp_path / 'c.npy', wall().astype(np.float64))
    found = read_cloud(tmp_path / 'c.npy')
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wall())


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(header):
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header


@pytest.mark.parametrize('content', [
    npz(points=np.zeros((4, 3))), b'', npy(b"{'descr': '<f4', 'fortran_order': False, "
                                           b"'shape': (1000000000, 1000)}"),
    npy(b"{'descr': 'O', 'fortran_order': False, 'shape': (4, 3)}"), npy(b'(' * 900),
    npy(b"{'descr': '<U4', 'fortran_order': False, 'shape': (0, 3)}"), npy(b'\xff{')])
def test_files_that_are_not_arrays_are_named(tmp_path, content):
    (tmp_path / 'c.npy').write_bytes(content)
    with pytest.raises(DatasetError, match='c.npy is no array file'):
        read_cloud(tmp_path / 'c.npy')


def test_the_orientation_tag_of_a_photograph_is_ignored(tmp_path):
    data = cv2.imencode('.jpg', np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    tag = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    (tmp_path / 'a.jpg').write_bytes(data[:2] + b'\xff\xe1' + struct.pack('>H', len(tag) + 2)
                                     + tag + data[2:])
    assert cv2.imread(str(tmp_path / 'a.jpg')).shape == (6, 4, 3)
    assert read_image(tmp_path / 'a.jpg').shape == (4, 6, 3)


@pytest.mark.parametrize('name, content, words', [
    ('meta.json', None, 'meta.json: No such file'),
    ('meta.json', b'{"fx": ', 'meta.json is not valid JSON'),
    ('meta.json', b'{}', 'meta.json: lacks the calibration: fx, fy, cx, cy'),
    ('meta.json', b'[1]', 'meta.json holds no JSON object'),
    ('meta.json', b'[' * 100_000, 'meta.json is not valid JSON'),
    ('rgb.png', b'', 'rgb.png cannot be decoded'),
    ('rgb.png', b'\x89PNG\r\n', 'rgb.png cannot be decoded'),
    ('lidar.bin', b'12345', 'lidar.bin is damaged'),
    ('lidar.bin', None, 'has no depth.png or lidar.bin'),
])
def test_damaged_files_are_named(folder, name, content, words):
    path = folder / '000001' / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    frames = read_frames(folder)
    next(frames)
    with pytest.raises(DatasetError, match=words):
        next(frames)


@pytest.mark.parametrize('meta, words', [
    ({'width': 99}, 'calibration of an image of 99 x 48 pixels, but the image has 64 x 48'),
    ({'T_cam_lidar': None}, 'lacks T_cam_lidar'),
    ({'distortion': [0.1] * 5, 'distortion_model': 'magic'}, 'unknown distortion model "magic"'),
    ({'gt': None}, 'lacks depth_scale'),
    ({'gt': 5}, 'lacks depth_scale'),
    ({'depth_scale': 'meters', 'gt': None}, 'the scale must be numbers'),
    ({'fx': 'wide'}, 'fx must be numbers'),
    ({'cy': [1, 2]}, 'cy must be one number'),
    ({'fx': 10 ** 400}, 'fx must be numbers'),
    ({'width': float('inf')}, 'width must be from 0'),
    ({'distortion': {'k1': 1}}, 'distortion must be numbers'),
    ({'T_cam_lidar': [[1, 2], 3]}, 'T_cam_lidar must be numbers'),
    ({'stamp_ns': -5}, 'stamp_ns must be from 0'),
])
def test_wrong_calibration_is_explained(folder, meta, words):
    write_folder(folder / '000000', next(cloud_frames(1)), **meta)
    with pytest.raises(DatasetError, match=words):
        next(read_frames(folder))


def test_a_folder_without_frames_is_refused(tmp_path):
    with pytest.raises(DatasetError, match='holds no frames'):
        find_frames(tmp_path)
    with pytest.raises(DatasetError, match='is not a folder'):
        find_frames(tmp_path / 'missing')


@pytest.mark.skipif(not DATA.is_dir(), reason='no recorded frames here; set STEER_DEPTH_DATA')
@pytest.mark.parametrize('name', ['lidarseq_kittiraw_a', 'rgbd_tabletop_000000',
                                  'lidar_pjlab_1', 'kittidc_postech_5'])
def test_real_frames_have_samples_in_the_image(name):
    recorded = next(read_frames(DATA / name))
    samples = recorded.frame.sparse_depth()
    assert len(samples) > 10_000
    assert samples.depth.min() > 0.1
