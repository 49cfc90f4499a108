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
"""The renderer: exact geometry, the same frame for the same seed, and frames worth training on."""
import numpy as np
import pytest
import torch

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.synthetic.primitives import (
    BARS,
    BOX,
    ELLIPSOID,
    FRUSTUM,
    OPEN_TOP,
    PLANE,
    ROUNDED,
    Solid,
    Solids,
)
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.synthetic.renderer import camera_rays, render_scene
from steer_depth_ros.synthetic.scenes import KINDS

SIZE = (60, 80)
AHEAD = torch.tensor([[0.0], [0.0], [1.0]])
HERE = torch.zeros(3, 1)


def one(kind, center=(0, 0, 5.0), half=(1, 1, 1), rot=None, **shape):
    rot = np.eye(3) if rot is None else rot
    return Solids([Solid(kind, np.array(center), rot, np.array(half), 0, **shape)], 'cpu')


def first(solids, direction=(0, 0, 1)):
    t, _ = solids.cast(HERE, torch.tensor(direction, dtype=torch.float32)[:, None])
    return t.item()


def test_plane_depth_is_exact():
    camera = Camera(80, 60, 70.0, 72.0, 41.0, 28.5)
    rays = camera_rays(camera, 'cpu')
    # y = 1.5 m below the camera: the rectangle's local z is the camera's y.
    rot = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    ground = one(PLANE, (0, 1.5, 0), (1000, 1000, 1), rot)
    t, index = ground.cast_image(rays, [(0, 60, 0, 80)])
    v = torch.arange(60) - camera.cy
    expected = torch.where(v > 0, 1.5 * camera.fy / v, torch.inf)[:, None].expand(60, 80)
    near = expected < 100
    torch.testing.assert_close(t[near], expected[near], rtol=1e-5, atol=0)
    assert (index[near] == 0).all() and (t[v < 0] == torch.inf).all()


def test_sphere_depth_is_exact():
    rays = camera_rays(Camera(80, 60, 70.0, 70.0, 40.0, 30.0), 'cpu').flatten(1)
    ball = one(ELLIPSOID, (0.3, -0.2, 4.0))
    t, _ = ball.cast(HERE, rays)
    d, c = rays.double(), torch.tensor([0.3, -0.2, 4.0], dtype=torch.float64)[:, None]
    a, b = (d * d).sum(0), (d * c).sum(0)
    inside = b * b - a * ((c * c).sum() - 1)
    expected = ((b - inside.sqrt()) / a).float()
    clear = inside > 1e-3
    assert clear.sum() > 500
    torch.testing.assert_close(t[clear], expected[clear], rtol=1e-4, atol=0)
    assert (t[inside < -1e-3] == torch.inf).all()


@pytest.mark.parametrize('kind, expected', [
    (BOX, 3.0), (ELLIPSOID, 3.0), (FRUSTUM, 3.0), (ROUNDED, 3.0), (PLANE, 5.0)])
def test_front_face_along_the_axis(kind, expected):
    solids = one(kind, half=(1, 1, 2), taper=0.8)
    assert first(solids) == pytest.approx(expected, abs=1e-4)
    assert first(solids, (0.0, 1.0, 1.0)) == np.inf


def test_frustum_slope():
    # Radius 1 at z = 4, 0.5 at z = 6: the ray at x = 0.75 inside meets the slope at z = 5.
    t, _ = one(FRUSTUM, taper=0.5).cast(torch.tensor([[3.0], [0.0], [5.0]]),
                                        torch.tensor([[-1.0], [0.0], [0.0]]))
    assert t.item() == pytest.approx(2.25, abs=1e-5)


def test_an_open_vessel_shows_its_bottom():
    turned = np.diag([1.0, -1.0, -1.0])  # its top faces the camera
    assert first(one(FRUSTUM, rot=turned)) == pytest.approx(4.0, abs=1e-4)
    assert first(one(FRUSTUM, rot=turned, cut=OPEN_TOP)) == pytest.approx(6.0, abs=1e-4)


def test_bars_let_every_other_ray_through():
    x = torch.linspace(-0.49, 0.49, 500)
    rays = torch.stack([x / 5, torch.zeros(500), torch.ones(500)])
    t, _ = one(PLANE, cut=BARS, cut_scale=0.1, cut_level=0.4).cast(HERE, rays)
    assert (t < torch.inf).float().mean().item() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize('kind', [BOX, ELLIPSOID, FRUSTUM, ROUNDED])
def test_normals_follow_the_surface(kind):
    rng = np.random.default_rng(0)
    rot = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rot *= np.linalg.det(rot)
    solids = one(kind, half=(1.0, 0.7, 1.3), rot=rot, taper=0.6)
    rays = camera_rays(Camera(200, 200, 300.0, 300.0, 100.0, 100.0), 'cpu')
    depth, _ = solids.cast_image(rays, [(0, 200, 0, 200)])
    points = rays * depth
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    numeric = torch.linalg.cross(down, across, dim=0)
    numeric = numeric / numeric.norm(dim=0)
    inner = torch.isfinite(numeric).all(0)
    first_solid = torch.zeros(int(inner.sum()), dtype=torch.long)
    _, local = solids.normals(points[:, 1:-1, 1:-1][:, inner], first_solid)
    normal = solids.to_camera(local, first_solid)
    agreement = (normal * numeric[:, inner]).sum(0)
    assert inner.sum() > 3000 and agreement.median() > 0.999
    assert (agreement > 0.9).float().mean() > 0.9  # all but the creases


@pytest.mark.parametrize('kind', KINDS)
def test_cast_from_the_camera_equals_the_depth_map(kind):
    scene = render_scene(3, SIZE, kind=kind)
    rays = camera_rays(scene.camera, 'cpu').flatten(1).T
    depth = scene.depth.flatten()
    t = scene.cast(torch.zeros(3), rays)
    t = torch.where(t < scene.far, t, torch.inf)
    same = (t == depth) | ((t - depth).abs() < 1e-3 * depth)
    assert same.float().mean() > 0.999  # rounding decides at silhouettes


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_seed_gives_the_same_frame(kind):
    a, b = (render_scene(11, SIZE, kind=kind) for _ in range(2))
    assert torch.equal(a.image, b.image) and torch.equal(a.depth, b.depth)
    assert a.camera == b.camera
    assert not torch.equal(a.image, render_scene(12, SIZE, kind=kind).image)


@pytest.mark.parametrize('kind', KINDS)
def test_frames_are_worth_looking_at(kind):
    for seed in range(6):
        scene = render_scene([seed, 5], SIZE, kind=kind)
        depth = scene.depth
        assert scene.image.shape == (*SIZE, 3) and scene.image.dtype == torch.uint8
        assert depth.shape == SIZE and depth.dtype == torch.float32
        assert not depth.isnan().any() and (depth > 0).all()
        assert ((scene.solid < 0) == (depth == torch.inf)).all()
        assert scene.image.float().std() > 2


def test_cars_in_a_queue_have_windows_that_one_sees_through():
    shares = []
    for seed in range(6):
        scene = render_scene([seed, 9], (120, 240), kind='queue')
        through = scene.behind > scene.depth  # never None: some car is in view
        assert np.isin(scene.solid[through], list(scene.clear)).all()
        assert (scene.behind >= scene.depth).all()
        shares.append(through.float().mean().item())
        # Its picture shows what lies behind: it is not one color.
        assert scene.image[through].float().std(0).max() > 2
    assert min(shares) > 0.001 and 0.01 < np.mean(shares) < 0.2


def test_far_background_lies_right_above_the_roofs_of_a_queue():
    found = []
    for seed in range(6):
        depth = render_scene([seed, 9], (120, 240), kind='queue').depth
        roof = (depth[1:] < 25) & (depth[:-1] > 50)  # from one row to that above it
        found.append(roof.any(0).float().mean().item())
    assert np.mean(found) > 0.1


def test_scenes_depend_on_seed_and_index_alone():
    a, b, other = (ProceduralFrames(length, seed, SIZE).scene(7)
                   for length, seed in ((10, 4), (99, 4), (10, 5)))
    assert torch.equal(a.image, b.image) and torch.equal(a.depth, b.depth)
    assert not torch.equal(a.image, other.image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu_sees_the_same_geometry():
    a, b = render_scene(2, SIZE), render_scene(2, SIZE, 'cuda')
    close = (a.depth == b.depth.cpu()) | ((a.depth - b.depth.cpu()).abs() < 1e-3 * a.depth)
    assert close.float().mean() > 0.995
