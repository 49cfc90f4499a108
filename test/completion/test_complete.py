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
"""The presets without weights: what it must do on scenes whose answer is known."""
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import maps, pipeline
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.occlusion import Samples

HEIGHT, WIDTH = 96, 128


def plane(slope_u=0.0003, slope_v=0.0008):
    """Inverse depth that is linear over the image, as that of any plane in space is."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return 1 / (0.1 + slope_u * u + slope_v * v)


def scattered(count, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((count, 2)) * (WIDTH - 1, HEIGHT - 1)).astype(np.float32)


def scan_lines(lines=8, step=2.0):
    v = np.linspace(4, HEIGHT - 5, lines)
    u = np.arange(0, WIDTH - 1, step)
    return np.stack([a.ravel() for a in np.meshgrid(u, v)], 1).astype(np.float32)


def read(depth, uv):
    inverse = torch.from_numpy((1 / depth).astype(np.float32))
    return 1 / maps.sample(inverse, torch.from_numpy(uv)).numpy()


@pytest.fixture(scope='module')
def completer():
    return DepthCompleter('steering', device='cpu')


@pytest.mark.parametrize('uv', [scattered(300), scattered(40), scan_lines()])
def test_a_plane_is_exact_at_any_distance(completer, uv):
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    truth = plane()
    for meters in (1.0, 50.0):
        depth = completer.complete(image, uv, read(truth, uv) * meters).depth / meters
        inside = np.isfinite(depth)
        inside[:8] = inside[-8:] = inside[:, :8] = inside[:, -8:] = False
        assert inside.mean() > 0.6
        assert np.abs(depth / truth - 1)[inside].max() < 0.02


def test_results_scale_with_depth(completer):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    uv = scattered(200)
    depth = (read(plane(), uv) * rng.uniform(0.8, 1.2, 200)).astype(np.float32)
    one = completer.complete(image, uv, depth)
    seven = completer.complete(image, uv, depth * 7)
    off = np.abs(seven.depth / one.depth / 7 - 1)
    assert np.nanquantile(off, 0.99) < 2e-3 and np.nanmax(off) < 1e-2
    np.testing.assert_allclose(seven.confidence, one.confidence, atol=1e-3)


def test_depth_steps_follow_the_image(completer):
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[:, 61:] = 200
    truth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    truth[:, 61:] = 6.0
    uv = scattered(150, seed=5)
    depth = completer.complete(image, uv, truth[uv[:, 1].round().astype(int),
                                                uv[:, 0].round().astype(int)]).depth
    assert np.abs(depth - truth)[10:-10, 50:57].max() < 0.4
    assert np.abs(depth - truth)[10:-10, 65:72].max() < 0.4
    # The same step without a step of color is blurred: the image did the work.
    flat = completer.complete(np.full_like(image, 60), uv, read(truth, uv)).depth
    assert np.abs(flat - truth)[10:-10, 50:72].mean() > 2 * np.abs(depth - truth)[
        10:-10, 50:72].mean()


def test_results_stay_in_the_range_of_the_samples(completer):
    rng = np.random.default_rng(8)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    uv, depth = scattered(25, 9), rng.uniform(2, 4, 25).astype(np.float32)
    dense = completer.complete(image, uv, depth).depth
    assert np.nanmin(dense) >= depth.min() * 0.999 and np.nanmax(dense) <= depth.max() * 1.001


def test_fast_says_what_dense_samples_say():
    rng = np.random.default_rng(8)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    uv = np.unique(rng.integers(0, (WIDTH, HEIGHT), (2000, 2)), axis=0).astype(np.float32)
    depth = rng.uniform(2, 4, len(uv)).astype(np.float32)
    dense = DepthCompleter('fast', 'cpu', drop_hidden=False).complete(image, uv, depth).depth
    u, v = uv.astype(int).T
    assert np.abs(dense[v, u] / depth - 1).mean() < 0.1
    assert np.nanmin(dense) >= depth.min() and np.nanmax(dense) <= depth.max()


@pytest.mark.parametrize('half', [False, True])
def test_background_that_bleeds_through_the_rim_of_a_thing_is_left_out(half, monkeypatch):
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[:, 40:90] = 170
    truth = np.where(image[..., 0] > 100, 5.0, 20.0).astype(np.float32)
    uv = scan_lines(lines=30)
    depth = truth[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    rim = (uv[:, 0] >= 40) & (uv[:, 0] < 48)
    past = np.where(rim & (np.arange(len(uv)) % 2 == 0), np.float32(20.0), depth)  # past it

    def error(samples, has_parallax):
        monkeypatch.setattr(pipeline, 'remove_occluded',
                            lambda *frame: Samples(*frame[:2], has_parallax))
        found, _ = pipeline.complete(image, uv, samples, half, reach=np.inf)
        return np.abs(found - truth)[:, 40:90].mean()

    assert error(past, True) < 0.5 * error(past, False)
    assert error(depth, True) == error(depth, False)  # nothing bleeds through


def test_rejected_samples_leave_every_step():
    rng = np.random.default_rng(2)
    uv = scattered(500)
    depth = np.where(rng.random(500) < 0.05, 20, 5).astype(np.float32)
    problem = pipeline.problem_of(np.full((HEIGHT, WIDTH, 3), 90, np.uint8),
                                  Samples(uv, depth, True))
    problem = pipeline.refine_guide(problem, problem.left_out.at(torch.zeros(6)))
    kept = pipeline.remove_bleed_through(problem)
    assert 450 < kept.valid.sum() < 490
    assert kept.inverse[kept.valid].min() == kept.limits[0] > 0.9 > problem.limits[0]
    assert torch.equal(kept.left_out.rejected, ~kept.valid)
    assert (kept.distance >= problem.distance).all()
    expected = maps.distance(problem.frame.uv[kept.valid], None, (HEIGHT, WIDTH))
    assert torch.equal(kept.distance, expected)


def test_confidence_falls_away_from_samples_and_at_bad_fits(completer):
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    uv = scattered(200, 2)
    uv = uv[(uv[:, 0] < 50) | (uv[:, 0] > 90)]
    truth = plane()
    smooth = completer.complete(image, uv, read(truth, uv))
    assert smooth.confidence[48, 20] > smooth.confidence[48, 70]
    rng = np.random.default_rng(0)
    rough = completer.complete(image, uv, read(truth, uv) * rng.uniform(0.7, 1.4, len(uv)))
    assert np.nanmean(rough.confidence) < np.nanmean(smooth.confidence) - 0.1
