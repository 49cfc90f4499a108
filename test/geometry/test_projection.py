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
"""Points become samples where the camera sees them, once a pixel, with their fractions."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from steer_depth_ros.errors import CalibrationError, FrameError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.projection import (
    in_depth_range,
    pixel_of,
    project_points,
    sparse_from_depth_image,
    SparseDepth,
)
from steer_depth_ros.ops import regression

CAMERA = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)
RAW = Camera(1392, 512, 984.2, 980.8, 690.0, 233.2, 'plumb_bob',
             (-0.3728755, 0.2037299, 0.002219027, 0.001383707, -0.07233722))
FISHEYE = Camera(848, 800, 286.2, 286.3, 416.9, 403.3, 'equidistant',
                 (-0.0076, 0.0422, -0.0397, 0.0067))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_keeps_fractions_of_pixels(dtype):
    sparse = project_points(np.array([[0.1234, -0.2, 2.0]], dtype), CAMERA)
    assert sparse.uv.dtype == sparse.depth.dtype == np.float32
    assert np.allclose(sparse.uv, [[320 + 250 * 0.1234, 190.0]]) and sparse.depth == [2.0]


def test_nearest_wins_within_a_pixel_and_order_stays():
    z = np.array([5.0, 3.0, 4.0, 9.0, 3.0])
    u = np.array([100.2, 100.4, 99.7, 101.0, 250.0])
    points = np.stack([(u - 320) / 500 * z, 0 * z, z], 1)
    sparse = project_points(points, CAMERA)
    assert np.allclose(sparse.uv[:, 0], [100.4, 101.0, 250.0])
    assert np.allclose(sparse.depth, [3, 9, 3])
    doubled = project_points(np.repeat(points, 3, axis=0), CAMERA)
    assert len(doubled) == 3  # equal depths count once


@pytest.mark.parametrize('camera', [CAMERA, RAW, FISHEYE])
def test_the_same_as_one_by_one(camera):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(4000, 3)) * [8, 3, 8]
    uv, valid = camera.project(points)
    valid &= points[:, 2] > 0.1
    with np.errstate(invalid='ignore'):
        valid &= ((uv > -0.5) & (uv < [camera.width - 0.5, camera.height - 0.5])).all(1)
    nearest = {}
    for (u, v), z in zip(uv[valid], points[valid, 2]):
        pixel = round(u), round(v)
        nearest[pixel] = min(z, nearest.get(pixel, np.inf))
    sparse = project_points(points, camera)
    assert len(sparse) == len(nearest) > 100
    for (u, v), z in zip(sparse.uv.astype(float), sparse.depth):
        assert np.isclose(z, nearest[round(u), round(v)])


def test_useless_returns_never_project():
    away = np.eye(4)
    away[:3, 3] = 0, 0, 4.0  # a return at the sensor's origin would be in full view
    points = np.array([[0, 0, 0], [1e-5, 0, 0], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf],
                       [np.inf, np.inf, np.inf], [0, 0, -9], [0.5, 0, 1]], np.float32)
    with np.errstate(all='raise'):
        sparse = project_points(points, CAMERA, away)
    assert sparse.depth.tolist() == [5.0]


def test_depth_limits():
    points = np.array([[0, 0, 0.05], [0.1, 0, 1], [20, 0, 100.0]])
    assert project_points(points, CAMERA).depth.tolist() == [1, 100]
    assert project_points(points, CAMERA, max_depth=50).depth.tolist() == [1]
    assert project_points(points, CAMERA, min_depth=0.01).depth.tolist() == pytest.approx(
        [0.05, 1, 100])


def test_extrinsics_take_points_to_the_camera():
    lidar_to_camera = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1]])
    sparse = project_points(np.array([[10.3, 2.0, 0.5]]), CAMERA, lidar_to_camera)
    assert np.allclose(sparse.uv, [[320 - 500 * 0.19, 240 - 500 * 0.07]], atol=1e-3)
    assert np.allclose(sparse.depth, 10.0)


def test_points_outside_the_lens_do_not_fold_into_the_image():
    x = np.linspace(RAW.max_radius, 5, 500)
    assert len(project_points(np.stack([x, 0 * x, 0 * x + 1], 1), RAW)) == 0


def test_empty():
    assert len(project_points(np.empty((0, 3), np.float32), RAW)) == 0
    assert len(sparse_from_depth_image(np.zeros((4, 5), np.float32))) == 0
    assert isinstance(project_points(np.full((3, 3), np.nan), CAMERA), SparseDepth)


def test_wrong_shapes():
    with pytest.raises(FrameError, match=r'\(N, 3\)'):
        project_points(np.zeros((4, 4), np.float32), CAMERA)
    with pytest.raises(CalibrationError, match='4 x 4'):
        project_points(np.zeros((4, 3)), CAMERA, np.eye(3))
    with pytest.raises(CalibrationError, match='4 x 4'):
        project_points(np.zeros((4, 3)), CAMERA, np.full((4, 4), np.nan))
    with pytest.raises(FrameError, match='two dimensions'):
        sparse_from_depth_image(np.zeros((4, 5, 1), np.float32))


def test_a_pixel_begins_half_before_its_centre():
    uv = np.array([[-0.5, 0.49], [0.5, 1.5], [2.5, 2.5], [3.5, -0.5]], np.float32)
    row, column = pixel_of(uv, (3, 4))
    assert row.tolist() == [0, 2, 2, 0] and column.tolist() == [0, 1, 3, 3]
    pixels = regression.pixel_of(torch.from_numpy(uv))
    assert pixels.tolist() == [[0, 0], [1, 2], [3, 3], [4, 0]]  # beyond the image: the caller's


def test_one_pixel_has_one_sample_also_on_the_lines_between_pixels():
    # u = 1.5 and u = 2.4 lie in pixel 2, u = 2.5 does not; halves do not go to even numbers.
    camera = Camera(8, 8, 1.0, 1.0, 0.0, 0.0)
    points = np.array([[1.5, 1, 1], [4.8, 2, 2], [2.5, 1, 1]], np.float32)
    assert project_points(points, camera).uv.tolist() == [[1.5, 1], [2.5, 1]]


def test_the_range_of_depth_includes_its_ends():
    depth = np.array([0, 0.5, 0.6, 8, 8.1, np.inf, np.nan, -1], np.float32)
    assert in_depth_range(depth, 0.5, 8).tolist() == [False, True, True, True] + 4 * [False]
    assert in_depth_range(depth).tolist() == [False] + 4 * [True] + 3 * [False]
    points = np.stack([np.zeros(3), np.zeros(3), [0.5, 8, 8.1]], 1).astype(np.float32)
    points[:, 0] = [0, 1, 2]
    assert project_points(points, CAMERA, None, 0.5, 8).depth.tolist() == [0.5, 8]


def test_depth_image():
    depth = np.array([[1, 0, np.nan, 4], [np.inf, -1, 7, 8], [9, 0, 0, 2]], np.float32)
    sparse = sparse_from_depth_image(depth)
    assert sparse.uv.tolist() == [[0, 0], [3, 0], [2, 1], [3, 1], [0, 2], [3, 2]]
    assert sparse.depth.tolist() == [1, 4, 7, 8, 9, 2]
    thin = sparse_from_depth_image(depth, stride=2)
    assert thin.uv.tolist() == [[0, 0], [0, 2]] and thin.depth.tolist() == [1, 9]


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([CAMERA, RAW, FISHEYE]),
       st.sampled_from([np.float32, np.float64]), st.integers(0, 400),
       st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e38, -1e-38]), max_size=6))
def test_samples_are_points_in_the_image_once_a_pixel(seed, camera, dtype, count, odd):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(count, 3)) * rng.choice([1, 5, 30], 3)).astype(dtype)
    for value in odd:
        if count:
            points[rng.integers(count), rng.integers(3)] = value
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation * np.linalg.det(rotation), rng.normal(size=3)
    sparse = project_points(points, camera, matrix, 0.5, 60.0)
    assert (sparse.depth >= 0.5).all() and (sparse.depth <= 60.0).all()
    assert (sparse.uv >= -0.5).all()
    assert (sparse.uv < [camera.width - 0.5, camera.height - 0.5]).all()
    pixels = pixel_of(sparse.uv, (camera.height, camera.width))
    assert len(np.unique(pixels, axis=1).T) == len(sparse)
    # The order of the points changes the order of the samples, and how their last bit is rounded.
    again = project_points(rng.permutation(points), camera, matrix, 0.5, 60.0)
    by_pixel = [each.uv[np.lexsort(pixel_of(each.uv, (camera.height, camera.width)))]
                for each in (again, sparse)]
    np.testing.assert_allclose(*by_pixel, rtol=0, atol=1e-3)
    # What a sample says is where one of the points is.
    with np.errstate(all='ignore'):
        moved = points.astype(float) @ matrix[:3, :3].T + matrix[:3, 3]
    rays, valid = camera.unproject(sparse.uv.astype(float))
    for ray, depth, known in zip(rays, sparse.depth, valid):
        with np.errstate(all='ignore'):
            apart = np.abs(moved - ray * depth).max(1)
        assert not known or np.nanmin(apart) < 1e-3 * max(1.0, depth * np.abs(ray).max())

