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
"""Settings chosen by leave-one-out: the predictions are the operator's, and they pay."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.kernels import LogScales, structure_tensor_kernels
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.completion.pipeline import describe
from steer_depth_ros.completion.tuning import find_neighbors, LeaveOneOut, tune

HEIGHT, WIDTH = 96, 128
ZERO = LogScales()


def left_out_of(image, uv, depth):
    frame = normalize(image, uv, depth)
    return LeaveOneOut(frame, structure_tensor_kernels(frame), find_neighbors(frame))


def scattered(count=400, seed=0):
    rng = np.random.default_rng(seed)
    uv = np.unique(rng.integers(0, (WIDTH, HEIGHT), (count, 2)), axis=0).astype(np.float32)
    return rng.permutation(uv)


def textured(seed=4):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def stepped(image, uv):
    """Depth that has a step wherever the image has one."""
    u, v = uv.astype(int).T
    return (2 + image[v, u, 0] / 60).astype(np.float32)


def test_a_sample_is_predicted_as_the_operator_does_without_it():
    image, uv = textured(), scattered()
    frame = normalize(image, uv, stepped(image, uv))
    kernels = structure_tensor_kernels(frame)
    left_out = LeaveOneOut(frame, kernels, find_neighbors(frame))
    predicted = left_out.predict(ZERO)
    middle = np.abs(uv[left_out.queries] - (64, 48)).max(1).argsort()[:10]
    for query in middle:
        sample = left_out.queries[query]
        others = np.arange(len(uv)) != sample
        problem = replace(describe(frame.choose(others)), kernels=kernels[:, others])
        # The operator's first estimate is one of lower resolution; give it the one at the sample.
        u, v = uv[sample].astype(int)
        problem.guide.depth[v, u] = left_out.guide_log_depth[query] / CONFIG.depth_step
        dense, _ = problem.regress([ZERO])
        assert dense[0, v, u] == pytest.approx(predicted[query], rel=0.02)


def test_the_gradient_is_that_of_the_loss():
    image, uv = textured(), scattered()
    noise = np.random.default_rng(0).uniform(0.9, 1.1, len(uv)).astype(np.float32)
    left_out = left_out_of(image, uv, stepped(image, uv) * noise)
    settings = LogScales(0.2, -0.3, 0.1, -0.2, 0.3, 0.4)
    loss, gradient = left_out.loss_and_gradient(settings)
    assert loss == pytest.approx(left_out.loss(settings))
    for name, derivative in zip(LogScales._fields, gradient, strict=True):
        more, less = (left_out.loss(settings._replace(**{name: getattr(settings, name) + step}))
                      for step in (0.002, -0.002))
        slope = (more - less) / 0.004
        assert derivative == pytest.approx(slope, rel=0.1, abs=5e-3)  # it has kinks


def test_a_guide_that_knows_more_predicts_better():
    image, uv = textured(), scattered()
    left_out = left_out_of(image, uv, stepped(image, uv))
    before = left_out.loss(ZERO)
    assert left_out.with_guide(np.exp(left_out.target)).loss(ZERO) < before - 0.3
    assert left_out.loss(ZERO) == before


def test_what_was_rejected_is_neither_predicted_nor_relied_on():
    image, uv = textured(), scattered()
    depth = stepped(image, uv)
    rejected = np.random.default_rng(1).random(len(uv)) < 0.2
    other = depth.copy()
    other[rejected] = np.median(depth)  # changes neither median nor range
    one, two = (left_out_of(image, uv, each).without(rejected) for each in (depth, other))
    assert 0 < len(one.queries) < len(uv) and not rejected[one.queries].any()
    guide = np.exp(one.target)
    np.testing.assert_allclose(one.with_guide(guide).predict(ZERO),
                               two.with_guide(guide).predict(ZERO), rtol=1e-3)


def test_color_counts_where_it_tells_depth_and_not_where_it_does_not():
    image, uv = textured(), scattered()
    telling = tune(left_out_of(image, uv, stepped(image, uv)))
    plane = (4 + uv[:, 0] / 40).astype(np.float32)
    silent = tune(left_out_of(image, uv, plane))
    assert np.mean(telling[:3]) < np.mean(silent[:3]) - 0.2


def test_tuning_lowers_the_error_that_it_looks_at():
    image, uv = textured(), scattered()
    left_out = left_out_of(image, uv, stepped(image, uv))
    tuned = tune(left_out)
    assert left_out.loss(tuned) < left_out.loss(ZERO)
    assert np.isfinite(tuned).all() and np.abs(tuned).max() < 2.5


def test_the_line_of_a_sample_is_left_out_of_scan_lines():
    v = np.linspace(4, HEIGHT - 5, 9)
    uv = np.stack([a.ravel() for a in np.meshgrid(np.arange(0, WIDTH, 2), v)], 1)
    uv = uv.astype(np.float32)
    rng = np.random.default_rng(0)
    by_line = {row: depth for row, depth in zip(np.unique(uv[:, 1]), rng.uniform(2, 9, 9))}
    depth = np.float32([by_line[row] for row in uv[:, 1]])
    left_out = left_out_of(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), uv, depth)
    assert len(left_out.queries) > 100
    # Each line has a depth of its own: with its neighbours there the error would be nearly 0.
    assert np.abs(left_out.log_errors(ZERO)).mean() > 0.2


@pytest.mark.parametrize('count', [1, 10, CONFIG.neighbors])
def test_without_neighbors_enough_the_constants_stay(count):
    image, uv = textured(), scattered()[:count]
    assert tune(left_out_of(image, uv, stepped(image, uv))) == ZERO


def test_it_works_inside_inference_mode_and_repeats_itself():
    image, uv = textured(), scattered()
    with torch.inference_mode():
        one = tune(left_out_of(image, uv, stepped(image, uv)))
        two = tune(left_out_of(image, uv, stepped(image, uv)))
    assert one == two != ZERO
