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

from steer_depth_ros.completion import maps
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.kernels import bandwidth_at
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.pipeline import problem_of

HEIGHT, WIDTH = 96, 128
ZERO = torch.zeros(6)


def left_out_of(image, uv, depth):
    return problem_of(image, Samples(uv, depth)).left_out


def tune(left_out):
    return left_out.tune().settings


def error(left_out, settings=ZERO):
    """Return the mean absolute error of log depth, outliers held."""
    off = (left_out.at(settings).predicted.log() - left_out.target).abs()
    return off[left_out.known].clamp(max=CONFIG.tuning_max_error).mean()


def scattered(count=400, seed=0):
    """Return random pixels, in the order of frames: from top to bottom."""
    rng = np.random.default_rng(seed)
    pixels = np.unique(rng.integers(0, (HEIGHT, WIDTH), (count, 2)), axis=0)
    return pixels[:, ::-1].astype(np.float32)


def textured(seed=4):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def stepped(image, uv):
    """Depth that has a step wherever the image has one."""
    u, v = uv.astype(int).T
    return (2 + image[v, u, 0] / 60).astype(np.float32)


def test_a_sample_is_predicted_as_the_operator_does_without_it():
    image, uv = textured(), scattered()
    problem = problem_of(image, Samples(uv, stepped(image, uv)))
    left_out = problem.left_out
    _, predicted, guide = left_out.at(ZERO)
    queries = problem.frame.queries
    middle = np.abs(uv[queries] - (64, 48)).max(1).argsort()[:10]
    for query in middle:
        sample = queries[query]
        others = torch.arange(len(uv)) != sample
        distance = maps.distance(torch.from_numpy(uv), others, problem.frame.size)
        without = replace(problem, valid=others, log_depth=problem.log_depth.clone(),
                          bandwidth=bandwidth_at(problem.frame, distance))
        # The operator's first estimate is one of lower resolution; give it the one at the sample.
        u, v = uv[sample].astype(int)
        without.log_depth[v, u] = guide[query].log()
        dense, _ = without.regress(ZERO[None])
        assert dense[0, v, u].item() == pytest.approx(predicted[query].item(), rel=0.02)


def test_a_guide_that_knows_more_predicts_better():
    image, uv = textured(), scattered()
    left_out = left_out_of(image, uv, stepped(image, uv))
    assert error(left_out._replace(guide=left_out.target.exp())) < 0.7 * error(left_out)


def test_what_was_rejected_is_neither_predicted_nor_relied_on():
    image, uv = textured(), scattered()
    depth = stepped(image, uv)
    rejected = np.random.default_rng(1).random(len(uv)) < 0.2
    other = depth.copy()
    other[rejected] = np.median(depth)  # changes neither median nor range
    one, two = (left_out_of(image, uv, each)._replace(rejected=torch.from_numpy(rejected))
                for each in (depth, other))
    known = one.known
    assert 0 < known.sum() < len(known) and not rejected[one.neighbors.queries[known]].any()
    guide = one.target.exp()
    np.testing.assert_allclose(one._replace(guide=guide).at(ZERO).predicted[known],
                               two._replace(guide=guide).at(ZERO).predicted[known], rtol=1e-3)


def test_color_counts_where_it_tells_depth_and_not_where_it_does_not():
    image, uv = textured(), scattered()
    telling = tune(left_out_of(image, uv, stepped(image, uv)))
    plane = (4 + uv[:, 0] / 40).astype(np.float32)
    silent = tune(left_out_of(image, uv, plane))
    assert telling[:3].mean() < silent[:3].mean() - 0.2


def test_tuning_lowers_the_error_that_it_looks_at():
    image, uv = textured(), scattered()
    left_out = left_out_of(image, uv, stepped(image, uv))
    tuned = tune(left_out)
    assert error(left_out, tuned) < error(left_out)
    assert tuned.isfinite().all() and tuned.abs().max() < 2.5


def test_the_line_of_a_sample_is_left_out_of_scan_lines():
    v = np.linspace(4, HEIGHT - 5, 9)
    uv = np.stack([a.ravel() for a in np.meshgrid(np.arange(0, WIDTH, 2), v)], 1)
    uv = uv.astype(np.float32)
    rng = np.random.default_rng(0)
    by_line = {row: depth for row, depth in zip(np.unique(uv[:, 1]), rng.uniform(2, 9, 9))}
    depth = np.float32([by_line[row] for row in uv[:, 1]])
    left_out = left_out_of(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), uv, depth)
    assert left_out.known.sum() > 100
    # Each line has a depth of its own: with its neighbours there the error would be nearly 0.
    assert error(left_out) > 0.2


@pytest.mark.parametrize('count', [1, 10, CONFIG.neighbors])
def test_without_neighbors_enough_the_constants_stay(count):
    image, uv = textured(), scattered()[:count]
    assert torch.equal(tune(left_out_of(image, uv, stepped(image, uv))), ZERO)


def test_it_works_inside_inference_mode_and_repeats_itself():
    image, uv = textured(), scattered()
    with torch.inference_mode():
        one = tune(left_out_of(image, uv, stepped(image, uv)))
        two = tune(left_out_of(image, uv, stepped(image, uv)))
    assert torch.equal(one, two) and not torch.equal(one, ZERO)
