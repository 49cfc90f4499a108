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
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import steering
from steer_depth_ros.completion.leave_one_out import BANDWIDTH, COLOUR, LeaveOneOut, STEP, tune

HEIGHT, WIDTH = 96, 128
ZERO = np.zeros(6, np.float32)


def prepared(image, uv, depth):
    inputs = steering.prepare(image, uv, depth)
    return inputs, steering.image_steering(inputs)


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
    inputs, kernels = prepared(image, uv, stepped(image, uv))
    left_out = LeaveOneOut(inputs, kernels)
    predicted = left_out.predict(ZERO)
    middle = np.abs(uv[left_out.chosen] - (64, 48)).max(1).argsort()[:10]
    for query in middle:
        sample = left_out.chosen[query]
        others = np.arange(len(uv)) != sample
        frame, _ = prepared(image, uv[others], stepped(image, uv[others]))
        frame.median, frame.aspect, frame.spacing = inputs.median, inputs.aspect, inputs.spacing
        frame.inverse = inputs.inverse[:, others]
        analysis = steering.analyse(frame)
        analysis.kernels = kernels[:, others]
        # The operator's first estimate is one of lower resolution; give it the one at the sample.
        u, v = uv[sample].astype(int)
        analysis.guide[3, v, u] = left_out.guess[query] / steering.STEP
        dense, _ = steering.regress(analysis, ZERO[None])
        assert dense[0, v, u] == pytest.approx(predicted[query], rel=0.02)


def test_the_gradient_is_that_of_the_loss():
    image, uv = textured(), scattered()
    noise = np.random.default_rng(0).uniform(0.9, 1.1, len(uv)).astype(np.float32)
    left_out = LeaveOneOut(*prepared(image, uv, stepped(image, uv) * noise))
    settings = np.float32([0.2, -0.3, 0.1, -0.2, 0.3, 0.4])
    loss, gradient = left_out.loss_and_gradient(settings)
    assert loss == pytest.approx(left_out.loss(settings))
    for place, step in enumerate(0.002 * np.eye(6, dtype=np.float32)):
        slope = (left_out.loss(settings + step) - left_out.loss(settings - step)) / 0.004
        assert gradient[place] == pytest.approx(slope, rel=0.1, abs=5e-3)  # it has kinks


def test_a_guide_that_knows_more_predicts_better():
    image, uv = textured(), scattered()
    left_out = LeaveOneOut(*prepared(image, uv, stepped(image, uv)))
    before = left_out.loss(ZERO)
    left_out.guide_by(np.exp(left_out.truth))
    assert left_out.loss(ZERO) < before - 0.3


def test_colour_counts_where_it_tells_depth_and_not_where_it_does_not():
    image, uv = textured(), scattered()
    telling = tune(LeaveOneOut(*prepared(image, uv, stepped(image, uv))))
    plane = (4 + uv[:, 0] / 40).astype(np.float32)
    silent = tune(LeaveOneOut(*prepared(image, uv, plane)))
    assert telling[COLOUR].mean() < silent[COLOUR].mean() - 0.2


def test_tuning_lowers_the_error_that_it_looks_at():
    image, uv = textured(), scattered()
    left_out = LeaveOneOut(*prepared(image, uv, stepped(image, uv)))
    tuned = tune(left_out)
    assert left_out.loss(tuned) < left_out.loss(ZERO)
    assert np.abs(tuned).max() < 2.5 and np.isfinite(tuned[[STEP, BANDWIDTH]]).all()


def test_the_line_of_a_sample_is_left_out_of_scan_lines():
    v = np.linspace(4, HEIGHT - 5, 9)
    uv = np.stack([a.ravel() for a in np.meshgrid(np.arange(0, WIDTH, 2), v)], 1)
    uv = uv.astype(np.float32)
    rng = np.random.default_rng(0)
    by_line = {row: depth for row, depth in zip(np.unique(uv[:, 1]), rng.uniform(2, 9, 9))}
    depth = np.float32([by_line[row] for row in uv[:, 1]])
    left_out = LeaveOneOut(*prepared(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), uv, depth))
    assert len(left_out.chosen) > 100
    # Each line has a depth of its own: with its neighbours there the error would be nearly 0.
    assert np.abs(left_out.log_errors(ZERO)).mean() > 0.2


@pytest.mark.parametrize('count', [1, 10, 59])
def test_few_samples_leave_the_constants_alone(count):
    image, uv = textured(), scattered()[:count]
    assert not tune(LeaveOneOut(*prepared(image, uv, stepped(image, uv)))).any()


def test_it_works_inside_inference_mode_and_repeats_itself():
    image, uv = textured(), scattered()
    with torch.inference_mode():
        one = tune(LeaveOneOut(*prepared(image, uv, stepped(image, uv))))
        two = tune(LeaveOneOut(*prepared(image, uv, stepped(image, uv))))
    assert np.array_equal(one, two) and one.any()
