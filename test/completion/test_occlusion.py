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
"""Occluded samples go, everything that a camera can see stays."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from steer_depth_ros.completion.occlusion import occlusion_mask, remove_occluded
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.projection import project_points

CAMERA = Camera(1242, 375, 720.0, 720.0, 609.0, 172.0)
SIZE = (CAMERA.height, CAMERA.width)
DATA = Path(os.environ.get('STEER_DEPTH_DATA',
                           Path(__file__).resolve().parents[3] / 'shared' / 'data'))


def lidar_rays(pitch_deg=0.42, yaw_deg=0.17):
    """Directions (N, 3) of a 64-beam scanner in the optical frame."""
    elevation = np.deg2rad(np.arange(-24.8, 2.0, pitch_deg))[:, None]
    azimuth = np.deg2rad(np.arange(-42, 42, yaw_deg))[None]
    return np.stack(np.broadcast_arrays(np.cos(elevation) * np.sin(azimuth), -np.sin(elevation),
                                        np.cos(elevation) * np.cos(azimuth)), -1).reshape(-1, 3)


def distance(origin, rays, pole_z, wall_z, pole_half=0.2, ground=1.65):
    """Distance along each ray to a square pole, the ground or a wall, whichever comes first."""
    with np.errstate(divide='ignore'):
        hit = np.minimum((wall_z - origin[2]) / rays[:, 2],
                         np.where(rays[:, 1] > 0, (ground - origin[1]) / rays[:, 1], np.inf))
    if pole_z:
        pole = (pole_z - origin[2]) / rays[:, 2]
        at = origin + pole[:, None] * rays
        on = (np.abs(at[:, 0] - 0.5) < pole_half) & (at[:, 1] > -3) & (at[:, 1] < ground)
        hit = np.where(on, np.minimum(pole, hit), hit)
    return hit


def scan(lidar_at, pole_z=None, wall_z=25.0, **scanner):
    """Scan a scene; return sparse depth and which samples the camera at the origin sees."""
    rays = lidar_rays(**scanner)
    points = lidar_at + distance(lidar_at, rays, pole_z, wall_z)[:, None] * rays
    sparse = project_points(points.astype(np.float32), CAMERA)
    seen = CAMERA.unproject(sparse.uv)[0]
    truth = distance(np.zeros(3), seen, pole_z, wall_z)
    return sparse, sparse.depth < truth * 1.03


@pytest.mark.parametrize('pole_z', [4.0, 6.0])
@pytest.mark.parametrize('lidar_at', [(0.12, -0.08, -0.27), (-0.1, 0.0, 0.0), (0.15, -0.2, -0.3)])
def test_background_behind_a_pole(lidar_at, pole_z):
    sparse, seen = scan(np.array(lidar_at), pole_z)
    kept = ~occlusion_mask(sparse.uv, sparse.depth, SIZE)
    edge = np.abs(sparse.uv[:, 0] - (609 + 720 * 0.5 / pole_z))
    inside = edge < 720 * 0.2 / pole_z - 2.5  # the outermost spacing is a stated limit
    hidden = ~seen & inside
    assert hidden.sum() >= 10
    assert (~kept[hidden]).mean() > 0.9
    assert (~kept[~seen]).mean() > 0.75  # with the edges
    assert (~kept[seen]).mean() < 0.001
    uv, depth, has_parallax = remove_occluded(sparse.uv, sparse.depth, SIZE)
    assert np.array_equal(uv, sparse.uv[kept]) and np.array_equal(depth, sparse.depth[kept])
    assert pole_z > 5 or has_parallax  # a narrow pole hides few


@pytest.mark.parametrize('scanner', [{}, {'pitch_deg': 1.33, 'yaw_deg': 0.33},
                                     {'pitch_deg': 0.2, 'yaw_deg': 0.2}])
@pytest.mark.parametrize('wall_z', [12.0, 60.0])
def test_slanted_ground_before_a_wall_stays(scanner, wall_z):
    sparse, seen = scan(np.array([0.06, -0.08, -0.27]), wall_z=wall_z, **scanner)
    assert seen.all()
    assert not occlusion_mask(sparse.uv, sparse.depth, SIZE).any()
    assert not remove_occluded(sparse.uv, sparse.depth, SIZE)[2]


@pytest.mark.parametrize('count', [500, 5000])
def test_random_samples_at_a_depth_step_stay(count):
    rng = np.random.default_rng(3)
    uv = (rng.random((count, 2)) * [640, 480]).astype(np.float32)
    depth = np.where(np.hypot(uv[:, 0] - 320, uv[:, 1] - 240) < 120, 2.0, 4.0).astype(np.float32)
    depth[uv[:, 0] < 150] = 1.0
    assert occlusion_mask(uv, depth, (480, 640)).mean() < 0.005


def test_dense_image_stays():
    rng = np.random.default_rng(3)
    v, u = np.nonzero(rng.random((720, 1280)) < 0.9)
    depth = np.where((u // 40 + v // 40) % 2, 1.0, 3.0).astype(np.float32)
    uv = np.stack([u, v], 1).astype(np.float32)
    assert occlusion_mask(uv, depth, (720, 1280)).mean() < 0.001


@pytest.mark.parametrize('stride', [2, 3, 4])
def test_thinned_depth_image_stays(stride):
    v, u = (a.ravel() for a in np.mgrid[0:480:stride, 0:640:stride])
    depth = np.where((u // 40 + v // 40) % 2, 1.0, 3.0).astype(np.float32)
    uv = np.stack([u, v], 1).astype(np.float32)
    assert not occlusion_mask(uv, depth, (480, 640)).any()


@pytest.mark.parametrize('count', [0, 1, 7, 30])
def test_few_samples(count):
    uv = np.full((count, 2), 10, np.float32)
    occluded = occlusion_mask(uv, np.ones(count, np.float32), (20, 30))
    assert occluded.shape == (count,) and occluded.dtype == bool and not occluded.any()


def test_real_scan_loses_little_and_only_the_background():
    folder = DATA / 'lidar_kitti_000008'
    if not folder.is_dir():
        pytest.skip('no recorded frames; set STEER_DEPTH_DATA to their folder')
    meta = json.loads((folder / 'meta.json').read_text())
    points = np.fromfile(folder / 'lidar.bin', np.float32).reshape(-1, 4)[:, :3]
    camera = Camera(meta['width'], meta['height'], meta['fx'], meta['fy'], meta['cx'], meta['cy'])
    size = (camera.height, camera.width)
    sparse = project_points(points, camera, np.reshape(meta['T_cam_lidar'], (4, 4)))
    kept = ~occlusion_mask(sparse.uv, sparse.depth, size)
    assert 0.005 < (~kept).mean() < 0.05
    # Everything dropped has something nearer within a few pixels.
    near = np.full(size, 1e3, np.float32)
    column, row = np.rint(sparse.uv).astype(int).T
    near[np.clip(row, 0, size[0] - 1), np.clip(column, 0, size[1] - 1)] = sparse.depth
    near = cv2.erode(near, np.ones((31, 31), np.uint8))
    assert (near[row[~kept], column[~kept]] < sparse.depth[~kept] / 1.08).all()
