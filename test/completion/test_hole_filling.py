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
"""Large holes are filled from all their sides; what is no such hole stays as it is."""
import numpy as np
import pytest
import torch

from steer_depth_ros import DepthCompleter
from steer_depth_ros.completion import pipeline, second_order_tv
from steer_depth_ros.completion.occlusion import Samples

HEIGHT, WIDTH = 120, 160
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def grid(step=2):
    v, u = np.mgrid[0:HEIGHT:step, 0:WIDTH:step]
    return np.column_stack([u.ravel(), v.ravel()]).astype(np.float32)


def outside(uv, left, top, right, bottom):
    inside = (uv[:, 0] > left) & (uv[:, 0] < right) & (uv[:, 1] > top) & (uv[:, 1] < bottom)
    return uv[~inside]


def slope(uv):
    """Return depth of a plane in space: inverse depth is linear in the pixel."""
    return (1 / (0.2 + 0.002 * uv[..., 0] + 0.003 * uv[..., 1])).astype(np.float32)


def added(uv, depth, image=GREY):
    """Return positions and depth of the samples that were added."""
    problem = pipeline.problem_of(image, Samples(uv, depth))
    frame, count = problem.frame, len(uv)
    assert np.array_equal(np.unique(frame.uv[:count], axis=0), np.unique(uv, axis=0))
    assert torch.equal(problem.inverse[:count], frame.inverse)
    depth = (frame.median / problem.inverse[count:]).numpy()
    assert len(frame.uv) == len(problem.inverse) and problem.inverse.isfinite().all()
    return frame.uv[count:].numpy(), depth


def test_a_hole_in_a_plane_is_filled_on_the_plane():
    uv = outside(grid(), 40, 30, 110, 90)
    at, depth = added(uv, slope(uv))
    assert len(at) > 30
    assert ((at > (40, 30)) & (at < (110, 90))).all()
    np.testing.assert_allclose(depth, slope(at), rtol=5e-3)


@pytest.mark.parametrize('uv', [
    grid(), grid(8), np.random.default_rng(1).uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (900, 2)),
    np.column_stack([np.tile(np.arange(WIDTH), 8), np.repeat(np.arange(4, HEIGHT, 16), WIDTH)])],
    ids=['dense', 'coarse', 'random', 'scan lines'])
def test_samples_without_large_holes_stay_as_they_are(uv):
    uv = uv.astype(np.float32)
    assert len(added(uv, slope(uv))[0]) == 0


@pytest.mark.parametrize('box', [(-1, -1, WIDTH, 70), (90, -1, WIDTH, HEIGHT)])
def test_nothing_is_added_where_samples_lie_on_one_side_only(box):
    uv = outside(grid(), *box)
    assert len(added(uv, slope(uv))[0]) == 0


@pytest.mark.parametrize('count', [1, 3, 24, 30])
def test_few_samples(count):
    uv = grid()[:: len(grid()) // count][:count]
    added(uv, slope(uv))


def two_surfaces():
    """Show a red thing before a blue wall, with nothing measured for 60 pixels between."""
    uv = outside(grid(), 50, 29, 110, HEIGHT - 29)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, :95], image[:, 95:] = (200, 40, 40), (40, 40, 200)
    truth = np.where(np.arange(WIDTH) < 95, 1.0, 2.0) * np.ones((HEIGHT, 1))
    return image, uv, truth.astype(np.float32)


@pytest.mark.parametrize('preset', ['steering', 'fast', 'learned'])
def test_color_decides_across_a_hole(preset, monkeypatch):
    image, uv, truth = two_surfaces()
    depth = truth[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    hole = np.s_[40:80, 60:105]

    def error():
        return np.abs(DepthCompleter(preset, 'cpu').complete(image, uv, depth).depth - truth)[hole]

    filled = error().mean()
    monkeypatch.setattr(pipeline, 'find_holes', lambda frame: ())
    assert filled < 0.75 * error().mean()  # what follows fills, too, but not as well


@pytest.mark.parametrize('half', [False, True])
def test_refinement_and_tuning_see_the_measured_samples_alone(half, monkeypatch):
    uv = outside(grid(), 40, 30, 110, 90)
    problem = pipeline.problem_of(GREY, Samples(uv, slope(uv)), half)
    count = problem.frame.count
    assert len(problem.inverse) > count == len(problem.log_residual)
    assert problem.frame.queries.max() < count
    seen, step = [], second_order_tv.surface_step
    monkeypatch.setattr(second_order_tv, 'surface_step',
                        lambda *args: seen.append(len(args[3])) or step(*args))
    pipeline.complete(GREY, uv, slope(uv), half)
    assert seen == [count, count]


def test_what_was_added_does_not_count_as_measured():
    uv = outside(grid(), 40, 30, 110, 90)
    completed = DepthCompleter('steering', 'cpu').complete(GREY, uv, slope(uv))
    confidence = completed.confidence
    assert confidence[60, 75] < 0.7 * confidence[60, 20]
    assert np.isfinite(completed.depth).all()
