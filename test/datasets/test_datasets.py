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
"""Datasets made on the spot in the layouts of NYUv2 and KITTI, and what happens to broken ones."""
import h5py
import numpy as np
import pytest
from sample_datasets import (
    kitti_frame,
    write,
    write_kitti_raw,
    write_kitti_selection,
    write_nyu,
)
import torch

from steer_depth_ros.datasets import kitti, nyu
from steer_depth_ros.datasets.base import draw_samples, MeasuredFrame
from steer_depth_ros.errors import ConfigError, DatasetError
from steer_depth_ros.geometry.camera import Camera


def test_nyu_frame_has_the_releases_size_and_samples(tmp_path):
    frames = nyu.NyuFrames(write_nyu(tmp_path))
    frame = frames[1]
    assert len(frames) == 3 and frame['name'] == 'official/00001'
    assert frame['image'].shape == (228, 304, 3) and frame['image'].dtype == torch.uint8
    assert frame['depth'].shape == (228, 304) and frame['depth'].dtype == torch.float32
    assert frame['uv'].shape == (500, 2) and frame['sparse'].shape == (500,)
    u, v = frame['uv'].long().T
    assert torch.equal(frame['depth'][v, u], frame['sparse'])
    # The samples spread over the whole frame, and are the same whenever they are drawn.
    assert u.min() < 10 and u.max() > 293 and v.min() < 10 and v.max() > 217
    assert torch.equal(frames[1]['uv'], frame['uv'])
    assert not torch.equal(frames[2]['uv'], frame['uv'])
    frames.epoch = 1
    assert not torch.equal(frames[1]['uv'], frame['uv'])


def test_nyu_resize_and_crop_by_hand():
    columns = np.arange(640, dtype=np.float32)
    depth = np.tile(columns, (480, 1))
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 320:] = 200
    small, shallow = nyu.prepare(image, depth)
    # Nearest takes the second of two pixels, as Pillow does; the crop starts 8 columns in.
    np.testing.assert_array_equal(shallow[0], 2 * (np.arange(304) + 8) + 1)
    # Pillow's bilinear at half size weighs 1, 3, 3, 1.
    np.testing.assert_array_equal(small[0, 150:154, 0], [0, 25, 175, 200])


def test_nyu_matches_pillow():
    pillow = pytest.importorskip('PIL.Image', reason='Pillow is the reference of the resize')
    image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    small, _ = nyu.prepare(image, np.ones((480, 640), np.float32))
    expected = np.asarray(pillow.fromarray(image).resize((320, 240), pillow.BILINEAR))
    np.testing.assert_allclose(small.astype(int), expected[6:234, 8:312].astype(int), atol=1)


def test_nyu_zero_is_unknown_and_never_sampled(tmp_path):
    write_nyu(tmp_path, 1)
    with h5py.File(tmp_path / 'val' / 'official' / '00000.h5', 'a') as file:
        file['depth'][:, 320:] = 0
    frame = nyu.NyuFrames(tmp_path)[0]
    assert torch.isnan(frame['depth'][:, 152:]).all() and frame['uv'][:, 0].max() < 152


def test_nyu_camera_looks_along_the_centre():
    camera = nyu.camera()
    assert camera.fx == pytest.approx(518.857901 / 2)
    # A point on the optical axis keeps its place through resize and crop.
    assert camera.cx == pytest.approx((325.582449 + 0.5) / 2 - 0.5 - 8)
    assert camera.cy == pytest.approx((253.736166 + 0.5) / 2 - 0.5 - 6)


def test_nyu_faults_name_the_file(tmp_path):
    with pytest.raises(DatasetError, match='nyudepth_hdf5_val.csv'):
        nyu.NyuFrames(tmp_path)
    with pytest.raises(ConfigError, match="'test'"):
        nyu.NyuFrames(tmp_path, 'test')
    (tmp_path / 'nyudepth_hdf5_val.csv').write_text('path\n')
    with pytest.raises(DatasetError, match='nyudepth_hdf5_val.csv lists no'):
        nyu.NyuFrames(tmp_path)
    frames = nyu.NyuFrames(write_nyu(tmp_path))
    paths = frames.paths
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    with h5py.File(paths[2], 'w') as file:
        file['rgb'] = np.zeros((3, 480, 640), np.uint8)
    for i, path in enumerate(paths):
        with pytest.raises(DatasetError, match=path.name):
            frames[i]
    with h5py.File(paths[2], 'a') as file:
        file['depth'] = np.zeros((480, 600), np.float32)
    with pytest.raises(DatasetError, match='expected uint8'):
        frames[2]
    with pytest.raises(IndexError):
        frames[3]


def test_kitti_selection(tmp_path):
    frames = kitti.KittiFrames(write_kitti_selection(tmp_path / kitti.SELECTION).parent)
    assert len(frames) == len(kitti.KittiFrames(tmp_path / kitti.SELECTION)) == 2
    frame, (image, sparse, truth) = frames[0], kitti_frame(0)
    np.testing.assert_array_equal(frame['image'].numpy(), image[..., ::-1])
    expected = np.where(truth > 0, truth / 256, np.nan).astype(np.float32)
    np.testing.assert_array_equal(frame['depth'].numpy(), expected)
    v, u = np.nonzero(sparse)
    np.testing.assert_array_equal(frame['uv'].numpy(), np.stack([u, v], 1))
    np.testing.assert_array_equal(frame['sparse'].numpy(), (sparse[v, u] / 256).astype('f'))
    camera = frames.read(0).camera
    assert [camera.fx, camera.fy, camera.cx, camera.cy] == [721.5, 720.5, 30.5, 20.5]


def test_kitti_raw_layout(tmp_path):
    frames = kitti.KittiFrames(write_kitti_raw(tmp_path), 'train', 'random:50')
    assert [f.camera for f in frames.files] == ['image_02', 'image_03']
    assert frames[0]['name'] == '2011_09_26_drive_0001_sync/image_02/0000000005'
    cameras = [frames.read(index).camera for index in (0, 1)]
    assert [(c.fx, c.fy, c.cx, c.cy) for c in cameras] == [(700, 701, 31, 21), (710, 711, 32, 22)]
    # Samples come from what the sensor measured, not from the truth.
    u, v = frames[0]['uv'].long().T
    assert len(u) == 50 and (kitti_frame(7)[1][v, u] > 0).all()


def test_kitti_faults_name_the_file(tmp_path):
    with pytest.raises(DatasetError, match='nowhere'):
        kitti.KittiFrames(tmp_path / 'nowhere')
    with pytest.raises(DatasetError, match='val_selection_cropped'):
        kitti.KittiFrames(tmp_path)
    frames = kitti.KittiFrames(write_kitti_selection(tmp_path))
    files = frames.files[0]
    good = files.truth.read_bytes()
    files.truth.write_bytes(good[:100])
    with pytest.raises(DatasetError, match=files.truth.name):
        frames[0]
    write(files.truth, np.ones((10, 10), np.uint16))
    with pytest.raises(DatasetError, match=files.truth.name):
        frames[0]
    files.truth.unlink()
    with pytest.raises(DatasetError, match=files.truth.name):
        frames[0]
    files.truth.write_bytes(good)
    files.intrinsics.write_text('1 2 3')
    with pytest.raises(DatasetError, match=files.intrinsics.name):
        frames[0]
    files.intrinsics.unlink()
    with pytest.raises(DatasetError, match=files.intrinsics.name):
        frames[0]


@pytest.fixture
def measured():
    v, u = np.mgrid[:60, :80]
    depth = (2 + u / 40).astype(np.float32)
    depth[:20] = np.nan
    image = np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return MeasuredFrame('wall', image, depth, depth, Camera(80, 60, 70, 70, 39.5, 29.5))


@pytest.mark.parametrize('pattern', ['sensor', 'random:100', 'rows:10', 'features:50', 'depth:2',
                                     'semi:0.5', 'random:100+holes:2+noise:0.001'])
def test_patterns_draw_what_was_measured(pattern, measured):
    samples = draw_samples(measured, pattern, np.random.default_rng(0))
    assert len(samples) > 5
    assert samples.uv.dtype == np.float32 and samples.depth.dtype == np.float32
    expected = 2 + samples.uv[:, 0] / 40
    np.testing.assert_allclose(samples.depth, expected, rtol=0.05)
    assert samples.uv[:, 1].min() >= 19.5


def test_patterns_that_need_a_rendered_scene_say_so(measured):
    with pytest.raises(ConfigError, match='only rendered scenes'):
        draw_samples(measured, 'lidar:16', np.random.default_rng(0))


def test_frame_without_depth_is_named(measured):
    measured.measured = np.full_like(measured.measured, np.nan)
    with pytest.raises(DatasetError, match='wall'):
        draw_samples(measured, 'random:5', np.random.default_rng(0))
