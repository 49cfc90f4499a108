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
import cv2
import numpy as np
import pytest
from sample_recordings import CAMERA_FROM_LIDAR, cloud_frames, SIZE, write_folder

from steer_depth_ros.cli import main
from steer_depth_ros.errors import DatasetError
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import read_frame
from steer_depth_ros.recordings.image_files import read_depth, read_image, spread

METRES = np.array([[1.5, np.nan, 8.0], [2.25, 3.0, np.nan]])
MM = np.nan_to_num(METRES * 1000)


@pytest.mark.parametrize('kind', ['u2', '>u2', 'i2', 'i4', 'u4', 'i8', 'u8'])
def test_whole_numbers_of_any_type_are_millimeters_unless_stated(tmp_path, kind):
    np.save(tmp_path / 'd.npy', MM.astype(kind))
    np.testing.assert_allclose(read_depth(tmp_path / 'd.npy'), METRES)
    np.save(tmp_path / 'd.npy', np.nan_to_num(METRES * 256).astype(kind))
    np.testing.assert_allclose(read_depth(tmp_path / 'd.npy', 256), METRES)


@pytest.mark.parametrize('kind', ['f2', 'f4', 'f8', '>f8'])
def test_floats_are_metres_unless_stated(tmp_path, kind):
    np.save(tmp_path / 'd.npy', METRES.astype(kind))
    np.testing.assert_allclose(read_depth(tmp_path / 'd.npy', 1000), METRES)
    np.save(tmp_path / 'd.npy', (METRES * 1000).astype(kind))
    with pytest.raises(DatasetError, match='floats around .*, which are not meters; say how many'):
        read_depth(tmp_path / 'd.npy')
    np.testing.assert_allclose(read_depth(tmp_path / 'd.npy', floats=1000), METRES)


@pytest.mark.parametrize('ending', ['.png', '.PNG', '.tif', '.TIFF', '.pgm', '.npy', '.npz'])
def test_endings_of_depth(tmp_path, ending):
    values, path = MM.astype(np.uint16), tmp_path / f'd{ending}'
    if ending == '.npy':
        np.save(path, values)
    elif ending == '.npz':
        np.savez(path, depth=values)
    else:
        path.write_bytes(cv2.imencode(ending.lower(), values)[1].tobytes())
    np.testing.assert_allclose(read_depth(path), METRES)


@pytest.mark.parametrize('kind', ['u2', 'i2', 'i4', 'u4'])
def test_the_largest_count_is_no_measurement(tmp_path, kind):
    values = MM.astype(kind)
    values[0, 0] = np.iinfo(kind).max
    np.save(tmp_path / 'd.npy', values)
    found = read_depth(tmp_path / 'd.npy')
    assert np.isnan(found[0, 0]) and found[0, 2] == 8


def test_a_pfm_holds_metres(tmp_path):
    cv2.imwrite(str(tmp_path / 'd.pfm'), METRES.astype(np.float32))
    np.testing.assert_allclose(read_depth(tmp_path / 'd.pfm'), METRES)


@pytest.mark.parametrize('ending', ['.png', '.JPG', '.bmp', '.webp', '.TIFF', '.ppm'])
def test_endings_of_images(tmp_path, ending):
    image = np.full((20, 30, 3), (200, 90, 30), np.uint8)
    path = tmp_path / f'i{ending}'
    path.write_bytes(cv2.imencode(ending.lower(), image[:, :, ::-1])[1].tobytes())
    assert np.abs(read_image(path).astype(int) - image).max() < 10


@pytest.mark.parametrize('name, content, words', [
    ('d.exr', b'v/1\x01' + bytes(30), 'OpenEXR'), ('d.heic', b'ftypheic', 'unknown format; give'),
    ('d.dat', b'1234', 'unknown format'), ('d', b'', 'unknown format'),
    ('d.png', b'', 'cannot be decoded'), ('d.tif', b'II*\0', 'cannot be decoded: it is damaged')])
def test_unsupported_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words) as raised:
        read_depth(tmp_path / name)
    assert 'unknown format' not in words or 'damaged' not in str(raised.value)


def test_color_images_are_refused_as_depth(tmp_path):
    cv2.imwrite(str(tmp_path / 'c.png'), np.ones((4, 5, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'g.png'), np.full((4, 5), 200, np.uint8))
    with pytest.raises(DatasetError, match='is not a depth image'):
        read_depth(tmp_path / 'c.png')
    with pytest.raises(DatasetError, match='an 8-bit image'):
        read_depth(tmp_path / 'g.png')
    assert (read_depth(tmp_path / 'g.png', 100) == 2).all()


def test_a_coarser_truth_stays_where_it_was_measured():
    found = spread(np.array([[1, 2], [3, 4]], np.float32), (4, 6))
    assert np.isfinite(found).sum() == 4
    assert (found[1, 1], found[1, 4], found[3, 1], found[3, 4]) == (1, 2, 3, 4)


def coarse_folder(folder, ending='.png'):
    """Write a frame whose depth image is a quarter of its image, and nearer on the left."""
    write_folder(folder, next(cloud_frames(1)), depth_scale=1000)
    (folder / 'lidar.bin').unlink()
    depth = np.full((SIZE[0] // 4, SIZE[1] // 4), 2000, np.uint16)
    depth[:, 8:] = 5000
    if ending == '.npy':
        np.save(folder / 'depth.npy', depth)
    else:
        cv2.imwrite(str(folder / f'depth{ending}'), depth)
    return folder


@pytest.mark.parametrize('ending', ['.png', '.npy'])
def test_a_coarser_depth_image_lies_over_the_whole_image(tmp_path, ending):
    samples = read_frame(coarse_folder(tmp_path / 'f', ending)).frame.sparse
    assert len(samples) == SIZE[0] * SIZE[1] // 16
    assert samples.uv.min() == 1.5 and tuple(samples.uv.max(0)) == (SIZE[1] - 2.5, SIZE[0] - 2.5)
    near = samples.depth == 2
    assert samples.uv[near, 0].max() < SIZE[1] / 2 < samples.uv[~near, 0].min()


def test_a_coarser_depth_image_on_the_command_line(tmp_path):
    folder = coarse_folder(tmp_path / 'f')
    assert main(['complete', '--image', str(folder / 'rgb.png'), '--depth',
                 str(folder / 'depth.png'), '--out', str(tmp_path / 'o.npy'), '--preset',
                 'steering', '--device', 'cpu']) == 0
    dense = np.load(tmp_path / 'o.npy')
    assert dense.shape == SIZE
    np.testing.assert_allclose(np.nanmedian(dense[:, :20]), 2, atol=0.05)
    np.testing.assert_allclose(np.nanmedian(dense[:, -20:]), 5, atol=0.05)
    assert main(['frames-to-bag', str(folder), str(tmp_path / 'o.mcap')]) == 0


def test_a_frame_folder_with_files_of_other_formats(tmp_path):
    folder = write_folder(tmp_path / 'f', next(cloud_frames(1)))
    expected = read_frame(folder).frame.points
    (folder / 'lidar.bin').unlink()
    np.savetxt(folder / 'lidar.xyz', expected, '%.7f')
    (folder / 'rgb.png').rename(folder / 'IMAGE.PNG')
    np.testing.assert_allclose(read_frame(folder).frame.points, expected, atol=1e-5)
    (folder / 'lidar.xyz').rename(folder / 'lidar.e57')
    with pytest.raises(DatasetError, match='lidar.e57 is of an unknown format, give one of .png'):
        read_frame(folder)


def test_points_of_a_map_keep_their_precision_in_a_recording(tmp_path):
    from steer_depth_ros.recordings import bag
    from steer_depth_ros.ros import messages
    recorded = next(cloud_frames(1))
    points = recorded.frame.points + np.array([500_000.25, 5_400_000.5, 300.0])
    matrix = np.eye(4)
    matrix[:3, 3] = -points[0]
    recorded.frame.points = points
    recorded.frame.camera_from_points = CAMERA_FROM_LIDAR @ matrix
    frames_to_bag([recorded], tmp_path / 'a.mcap')
    with bag.BagReader(tmp_path / 'a.mcap') as recording:
        found = messages.cloud_to_xyz(recording.first('/lidar/points'))
    np.testing.assert_allclose(found, points, rtol=0, atol=1e-6)
