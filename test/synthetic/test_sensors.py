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
"""Simulated sensors: what they measure is in the scene, and their faults are those asked for."""
import numpy as np
import pytest
import torch

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.synthetic import modifiers, sensors
from steer_depth_ros.synthetic.builder import BLACK
from steer_depth_ros.synthetic.renderer import render_scene

SIZE = (96, 128)
SEEDS = range(8)


@pytest.fixture(scope='module')
def scene():
    return render_scene(21, SIZE, kind='room')


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def exact(scene, samples):
    """Give the depth that the camera sees at each sample's own, subpixel position."""
    camera = scene.camera
    rays = np.stack([(samples.uv[:, 0] - camera.cx) / camera.fx,
                     (samples.uv[:, 1] - camera.cy) / camera.fy, np.ones(len(samples))], 1)
    return scene.cast(torch.zeros(3), torch.from_numpy(rays.astype(np.float32))).numpy()


def test_random_samples_count_and_values(scene, rng):
    for n in (50, 500, 5000):
        samples = sensors.random_samples(scene, rng, n)
        assert samples.uv.shape == (n, 2) and samples.uv.dtype == np.float32
        assert len(np.unique(samples.uv, axis=0)) == n
        u, v = samples.uv.astype(int).T
        assert (samples.depth == scene.depth.numpy()[v, u]).all()
    assert len(sensors.random_samples(scene, rng, 10 ** 6)) == SIZE[0] * SIZE[1]


def test_rows_and_steps(scene, rng):
    samples = sensors.image_rows(scene, rng, 24, step=2)
    assert len(np.unique(samples.uv[:, 1])) == 24
    assert (samples.uv[:, 0] % 2 == 0).all() and len(samples) == 24 * SIZE[1] // 2


def test_a_scanner_at_the_camera_measures_what_the_camera_sees(scene, rng):
    samples = sensors.lidar_lines(scene, rng, 32, offset=np.zeros(3))
    agree = np.abs(exact(scene, samples) - samples.depth) < 1e-3 * samples.depth
    assert len(samples) > 300 and agree.mean() > 0.99
    assert (samples.uv % 1 != 0).any()  # subpixel


def test_baseline_yields_hidden_points():
    hidden = []
    for seed in SEEDS:
        scene = render_scene(seed, SIZE, kind='tabletop')
        median = float(scene.depth[torch.isfinite(scene.depth)].median())
        samples = sensors.lidar_lines(scene, np.random.default_rng(seed), 32,
                                      offset=np.array([0.06, -0.06, 0]) * median)
        seen = exact(scene, samples)
        hidden.append((samples.depth > seen * 1.03).mean())
        assert (samples.depth < seen * 0.97).mean() < 0.002  # never before what the camera sees
    assert np.mean(hidden) > 0.005


def test_beams_follow_lines_of_constant_elevation(scene, rng):
    samples = sensors.lidar_lines(scene, rng, 8, fov=(-0.3, 0.3), offset=np.zeros(3))
    camera = scene.camera
    x = (samples.uv[:, 0] - camera.cx) / camera.fx
    y = (samples.uv[:, 1] - camera.cy) / camera.fy
    elevation = np.sort(np.arctan2(-y, np.hypot(x, 1)))
    assert len(samples) > 100
    # Tilted by a few degrees, eight beams still leave most of the elevations free.
    assert (np.histogram(elevation, 60, (-0.4, 0.4))[0] == 0).mean() > 0.2


def test_fewer_beams_fewer_samples(scene):
    counts = [len(sensors.lidar_lines(scene, np.random.default_rng(1), b, (-0.3, 0.2), step=0.01))
              for b in (4, 16, 64)]
    assert counts[0] * 3 < counts[1] and counts[1] * 3 < counts[2]


def test_black_surfaces_give_no_echo(scene, rng):
    before = len(sensors.lidar_lines(scene, np.random.default_rng(1), 32))
    echo = scene.echo_of_solid
    try:
        scene.echo_of_solid = torch.full_like(echo, BLACK)
        after = len(sensors.lidar_lines(scene, np.random.default_rng(1), 32))
    finally:
        scene.echo_of_solid = echo
    assert after < 0.3 * before


def test_beams_pass_windows_where_asked():
    scene = render_scene([0, 9], (120, 240), kind='queue')
    pane = np.isin(scene.solid.numpy(), list(scene.clear))

    def beyond(through_glass):
        samples = sensors.lidar_lines(scene, np.random.default_rng(2), 60, (-0.3, 0.2),
                                      offset=np.zeros(3), through_glass=through_glass)
        u, v = np.rint(samples.uv).astype(int).T
        return (samples.depth > 1.02 * scene.depth.numpy()[v, u])[pane[v, u]]

    through, closed = beyond(True), beyond(False)
    assert through.sum() > 30 and through.mean() > 0.5
    assert closed.mean() < 0.1  # a pixel's own ray may miss what the beam beside it hits


def test_a_lidar_on_the_roof_measures_what_the_camera_does_not_see():
    scene = render_scene([0, 9], (120, 240), kind='queue')
    samples = sensors.roof_lidar(scene, np.random.default_rng(2))
    assert (samples.depth > 1.05 * exact(scene, samples)).mean() > 0.01


def test_beams_from_a_roof_lie_as_far_apart_as_asked(scene):
    fine, coarse = (len(sensors.roof_lidar(scene, np.random.default_rng(3), degrees))
                    for degrees in (0.5, 2.0))
    assert fine == pytest.approx(4 * coarse, rel=0.1)


def test_depth_camera_has_holes_at_silhouettes():
    shares = []
    for seed in SEEDS:
        scene = render_scene(seed, SIZE, kind='tabletop')
        samples = sensors.depth_camera(scene, np.random.default_rng(seed), stride=1)
        shares.append(len(samples) / scene.depth.numel())
        error = np.abs(samples.depth / exact(scene, samples) - 1)
        assert np.median(error) < 0.03
    assert 0.3 < np.mean(shares) < 0.98


def test_stereo_shadow_lies_beside_the_nearer_surface():
    disparity = np.full((1, 40), 2.0)
    disparity[:, 20:30] = 8.0
    covered = np.nonzero(sensors._stereo_shadow(disparity, 1)[0])[0]
    assert list(covered) == list(range(15, 20))
    other = np.nonzero(sensors._stereo_shadow(disparity, -1)[0])[0]
    assert list(other) == list(range(30, 35))


def test_semi_dense_never_measures_the_sky():
    scene = render_scene(2, SIZE, kind='street')
    samples = sensors.semi_dense(scene, np.random.default_rng(0))
    assert np.isfinite(samples.depth).all() and len(samples) > 100


def test_features_and_rosette(scene, rng):
    corners = sensors.image_features(scene, rng, 200)
    assert 0 < len(corners) <= 200
    np.testing.assert_allclose(corners.depth, exact(scene, corners), rtol=1e-5)
    assert len(sensors.rosette(scene, rng, 4000)) > 500


def test_outliers_share_and_range(scene, rng):
    clean = sensors.random_samples(scene, rng, 5000)
    low, high = np.percentile(clean.depth, (10, 90))
    dirty = modifiers.outliers(clean, scene, rng, 0.05)
    changed = dirty.depth != clean.depth
    assert 0.03 < changed.mean() < 0.07
    assert (dirty.depth[changed] >= low).all() and (dirty.depth[changed] <= high).all()
    assert (modifiers.outliers(clean, scene, rng, 0.0).depth == clean.depth).all()


def test_noise_is_relative(scene, rng):
    clean = sensors.random_samples(scene, rng, 5000)
    noisy = modifiers.noise(clean, scene, rng, 0.02)
    assert np.std(noisy.depth / clean.depth - 1) == pytest.approx(0.02, rel=0.1)


def test_holes_remove_whole_regions(scene, rng):
    clean = sensors.random_samples(scene, rng, 10 ** 5)
    left = modifiers.drop_regions(clean, scene, rng, 4)
    assert 0 < len(left) < len(clean)


def test_pixels_keep_the_nearest_of_each(scene, rng):
    uv = np.array([[3.2, 5.4], [2.9, 4.6], [7.0, 1.0]], np.float32)
    kept = modifiers.to_pixels(sensors.Samples(uv, np.array([2, 1, 4], np.float32)), scene, rng)
    assert {(*p, d) for p, d in zip(kept.uv.tolist(), kept.depth.tolist(), strict=True)} == {
        (3.0, 5.0, 1.0), (7.0, 1.0, 4.0)}


def test_calibration_error_moves_samples_a_little(scene, rng):
    clean = sensors.random_samples(scene, rng, 2000)
    moved = modifiers.calibration_error(clean, scene, rng, 0.3)
    assert len(moved) > 1800 and not np.array_equal(moved.uv[:100], clean.uv[:100])


def test_random_patterns_are_usable_and_repeat():
    names = set()
    for seed in range(40):
        scene = render_scene(seed % 4, (48, 64))
        samples, name, offset = sensors.random_pattern(scene, np.random.default_rng(seed))
        uv, depth = samples.uv, samples.depth
        again, _, _ = sensors.random_pattern(scene, np.random.default_rng(seed))
        assert np.array_equal(uv, again.uv) and np.array_equal(depth, again.depth)
        assert (offset is not None) == name.startswith(('lidar', 'roof', 'rosette'))
        assert uv.dtype == depth.dtype == np.float32 and uv.shape == (len(depth), 2)
        assert len(depth) >= sensors.MIN_SAMPLES
        assert np.isfinite(uv).all() and np.isfinite(depth).all() and (depth > 0).all()
        assert (uv > -0.5).all() and (uv < (63.5, 47.5)).all()
        names.add(name.split(':')[0].split('+')[0])
    assert len(names) >= 5


def test_a_lidar_does_not_see_behind_what_is_before_it(scene):
    assert sensors.seen_from(scene, np.zeros(3))[scene.depth.isfinite().numpy()].mean() > 0.99
    beside = sensors.seen_from(scene, np.array([1.0, 0, 0]))
    assert beside.shape == tuple(scene.depth.shape) and 0.2 < beside.mean() < 0.99


@pytest.mark.parametrize('name', ['random:50', 'rows:12', 'lidar:16+outliers:0.05', 'depth:2',
                                  'roof:1', 'semi:0.2', 'rosette', 'features:100', 'mixed',
                                  'lidar:8+noise:0.01+calibration:0.1+pixels+holes:2'])
def test_patterns_by_name(scene, name):
    pattern = sensors.pattern_by_name(name)
    a, b = pattern(scene, np.random.default_rng(1)), pattern(scene, np.random.default_rng(1))
    assert len(a) > 0 and np.array_equal(a.uv, b.uv) and np.array_equal(a.depth, b.depth)


@pytest.mark.parametrize('name', ['radar', 'random:many', 'lidar:64+rain', '', 'lidar+pixels:2',
                                  'random:-1', 'lidar:0', 'depth:0', 'rows:0', 'semi:2',
                                  'random:5+noise:nan', 'random:5+outliers:-1'])
def test_unknown_patterns_are_named(name):
    with pytest.raises(ConfigError, match='sampling pattern'):
        sensors.pattern_by_name(name)
