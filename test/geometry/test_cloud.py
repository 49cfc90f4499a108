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
"""Clouds carry the right points and colors, and no points in mid-air."""

import cv2
import numpy as np
import pytest

from steer_depth_ros.errors import ConfigError, FrameError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.cloud import depth_to_cloud, flying_points
from steer_depth_ros.geometry.projection import project_points
from steer_depth_ros.ops import native

CAMERA = Camera(64, 48, 50.0, 52.0, 31.0, 23.0)
RAW = Camera(64, 48, 50.0, 52.0, 31.0, 23.0, 'plumb_bob', (-0.2, 0.03, 0.001, 0.0))


def plane(camera, slope_x=0.0, slope_y=0.0, distance=4.0):
    """Depth of a plane that passes `distance` meters before the camera."""
    rays = camera.rays()
    inverse = (1 - slope_x * rays[..., 0] - slope_y * rays[..., 1]) / distance
    return np.where(inverse > 0, 1 / np.maximum(inverse, 1e-3), np.nan).astype(np.float32)


def picture(shape, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def colors(cloud):
    packed = np.ascontiguousarray(cloud[..., 3]).view(np.uint32)
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1), packed


@pytest.mark.parametrize('camera', [CAMERA, RAW])
def test_points_project_back_to_their_pixels(camera):
    depth = plane(camera, 0.1, -0.2)
    cloud = depth_to_cloud(depth, camera)
    assert cloud.shape == (64 * 48, 4) and cloud.dtype == np.float32
    sparse = project_points(np.ascontiguousarray(cloud[:, :3]), camera)
    v, u = np.mgrid[0:48, 0:64]
    assert np.allclose(sparse.uv, np.stack([u, v], -1).reshape(-1, 2), atol=1e-3)
    assert np.allclose(sparse.depth, depth.ravel())


@pytest.mark.parametrize('stride', [1, 3])
def test_colors_are_bits(stride):
    image = picture((48, 64))
    depth = plane(CAMERA)
    depth[10:13] = np.nan
    rgb, packed = colors(depth_to_cloud(depth, CAMERA, image, stride=stride))
    known = np.isfinite(depth)[::stride, ::stride]
    assert np.array_equal(rgb, image[::stride, ::stride][known])
    assert (packed >> 24 == 0).all()  # with alpha set the number would be a NaN
    white, _ = colors(depth_to_cloud(depth, CAMERA))
    assert (white == 255).all()


def test_organized_keeps_the_grid():
    image, depth = picture((48, 64)), plane(CAMERA)
    depth[5, 7], depth[6, 9], depth[0, 0], depth[10, 10] = np.nan, 0.0, np.inf, -1.0
    cloud = depth_to_cloud(depth, CAMERA, image, organized=True, edge_filter=False)
    assert cloud.shape == (48, 64, 4)
    for v, u in ((5, 7), (6, 9), (0, 0), (10, 10)):
        assert np.isnan(cloud[v, u, :3]).all()
    assert np.isfinite(cloud[..., :3]).all(-1).sum() == 48 * 64 - 4
    assert np.array_equal(colors(cloud)[0], image)
    assert depth_to_cloud(depth, CAMERA, stride=5, organized=True).shape == (10, 13, 4)


def test_more_rows_than_one_band():
    camera = Camera(1000, 201, 500.0, 500.0, 500.0, 100.0)
    depth = plane(camera, 0.1)
    depth[::7, ::3] = np.nan
    image = picture((201, 1000))
    flat = depth_to_cloud(depth, camera, image, edge_filter=False)
    grid = depth_to_cloud(depth, camera, image, edge_filter=False, organized=True)
    assert flat.tobytes() == grid[np.isfinite(depth)].tobytes()


def test_confidence_and_voxels():
    depth = plane(CAMERA)
    confidence = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    half = depth_to_cloud(depth, CAMERA, confidence=confidence, min_confidence=0.5)
    assert len(half) == (confidence >= 0.5).sum()
    confidence[3, 3] = np.nan
    assert len(depth_to_cloud(depth, CAMERA, confidence=confidence, min_confidence=1e-9)) < 3072
    every = depth_to_cloud(depth, CAMERA)
    cubes = depth_to_cloud(depth, CAMERA, voxel_m=0.5)
    cells = np.floor(cubes[:, :3] / 0.5)
    assert len(np.unique(cells, axis=0)) == len(cubes)
    assert len(cubes) == len(np.unique(np.floor(every[:, :3] / 0.5), axis=0))
    assert {p.tobytes() for p in cubes} <= {p.tobytes() for p in every}


def test_nothing_known():
    nothing = np.full((48, 64), np.nan, np.float32)
    assert depth_to_cloud(nothing, CAMERA).shape == (0, 4)
    assert depth_to_cloud(nothing, CAMERA, voxel_m=0.1).shape == (0, 4)
    assert np.isnan(depth_to_cloud(nothing, CAMERA, organized=True)[..., :3]).all()


def test_a_fisheye_has_no_points_beside_its_view():
    camera = Camera(64, 64, 12.0, 12.0, 32.0, 32.0, 'equidistant', (0.01, 0.0, 0.0, 0.0))
    depth = np.full((64, 64), 2.0, np.float32)
    cloud = depth_to_cloud(depth, camera, edge_filter=False)
    assert 0 < len(cloud) < 64 * 64 and np.isfinite(cloud[:, :3]).all()


def test_smeared_edge_loses_its_middle_only():
    depth = np.full((40, 60), 8.0, np.float32)
    depth[8:32, 20:44] = 3.0
    sharp = depth.copy()
    assert not flying_points(sharp).any()
    smeared = cv2.blur(depth, (3, 3))
    flying = flying_points(smeared)
    mixed = (smeared > 3.01) & (smeared < 7.99)
    assert flying[mixed].mean() > 0.45
    assert not flying[~mixed].any()
    assert flying[20, 19:21].any() and flying[7:9, 30].any()
    single = sharp.copy()
    single[8:32, 19] = 5.0  # one mixed pixel
    assert flying_points(single)[9:31, 19].all()
    assert flying_points(single).sum() <= 24


@pytest.mark.parametrize('slopes', [(0.0, 0.0), (2.0, 0.0), (0.0, 2.5), (1.0, -1.5)])
def test_slanted_planes_do_not_fly(slopes):
    depth = plane(CAMERA, *slopes)
    depth[depth > 60] = np.nan
    assert not flying_points(depth).any()


def test_flying_points_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r'depth must have shape \(H, W\), got \(3, 4, 1\)'):
        flying_points(np.ones((3, 4, 1), np.float32))


def test_ground_up_to_the_horizon_does_not_fly():
    row = np.arange(375)[:, None] - 172.5
    depth = np.where(row > 2, 1.65 * 720 / np.maximum(row, 1), np.nan).repeat(300, 1)
    assert not flying_points(depth.astype(np.float32)).any()


def test_noise_and_holes_do_not_fly():
    rng = np.random.default_rng(0)
    depth = (4 + 0.02 * rng.normal(size=(100, 100))).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = np.nan
    assert not flying_points(depth).any()


@pytest.mark.skipif(native.cpu_name() is None, reason='needs the compiled library')
@pytest.mark.parametrize('size', [(1, 1), (3, 200), (90, 171)])
def test_the_compiled_search_finds_the_same(size, monkeypatch):
    rng = np.random.default_rng(size)
    depth = rng.choice([2.0, 2.05, 3.0, 9.0, np.nan, 0.0, np.inf], size).astype(np.float32)
    depth[size[0] // 3:] = cv2.blur(np.nan_to_num(depth, posinf=20.0), (4, 1))[size[0] // 3:]
    found = []
    for name in ('generic', native.cpu_name(), None):
        monkeypatch.setattr(native, 'cpu_name', lambda name=name: name)
        found.append(flying_points(depth))
    assert found[2].any() or size == (1, 1)
    for each in found[:2]:
        assert np.array_equal(each, found[2])


@pytest.mark.parametrize('change, error, words', [
    ({'depth': np.zeros((48, 63), np.float32)}, FrameError, 'depth has shape'),
    ({'image': np.zeros((24, 32, 3), np.uint8)}, FrameError, 'image has shape'),
    ({'confidence': np.zeros((24, 32), np.float32)}, FrameError, 'confidence has shape'),
    ({'stride': 0}, ConfigError, 'stride'), ({'voxel_m': 0.0}, ConfigError, 'voxel_m'),
    ({'voxel_m': 0.1, 'organized': True}, ConfigError, 'organized')])
def test_what_does_not_fit(change, error, words):
    with pytest.raises(error, match=words):
        depth_to_cloud(**{'depth': plane(CAMERA), 'camera': CAMERA, **change})

