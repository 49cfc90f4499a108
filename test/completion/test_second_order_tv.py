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
"""Second-order TV: what it does to depth; test/ops/test_surface.py tests its steps."""
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import second_order_tv
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.pipeline import problem_of


def framed(image, uv, depth, half):
    """Return the KernelProblem of a frame of that size, or of one twice as large at half."""
    if half:
        image, uv = image.repeat(2, 0).repeat(2, 1), 2 * uv + np.float32(0.5)
    return problem_of(image, Samples(uv, depth), half)


def refine(problem, inverse):
    """Return what second-order TV makes of an array."""
    inverse = torch.from_numpy(inverse.astype(np.float32))
    correction = second_order_tv.log_correction(problem, inverse)
    return second_order_tv.mean(problem, inverse, correction).numpy()


def scene(half, step):
    """Two planes beside each other, with an edge of the image between; samples of them."""
    rng = np.random.default_rng(4)
    v, u = np.mgrid[0:96, 0:128]
    truth = (1 + 0.004 * u + 0.002 * v + np.where(u < 64, 0, step)).astype(np.float32)
    image = np.where((u < 64)[..., None], 40, 200).astype(np.uint8).repeat(3, 2)
    uv = rng.uniform((2, 2), (125, 93), (150, 2)).astype(np.float32).round()
    inverse = truth[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    return framed(image, uv, 1 / inverse, half), truth


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('step', [0.0, 1.0])
def test_bumps_go_and_steps_stay(half, step):
    problem, truth = scene(half, step)
    truth = truth * problem.frame.median
    smooth = cv2.GaussianBlur(
        np.random.default_rng(5).normal(size=truth.shape).astype(np.float32), (0, 0), 3)
    bumpy = truth * np.exp(0.02 * smooth / smooth.std())
    found = refine(problem, bumpy)
    before, after = np.abs(np.log([bumpy / truth, found / truth])).mean((1, 2))
    assert after < 0.75 * before
    edge = np.abs(np.log(found / truth))[:, 60:68]
    assert edge.mean() < 0.03  # the step is of 0.4


def test_a_good_estimate_stays():
    problem, truth = scene(half=True, step=1.0)
    truth = truth * problem.frame.median
    found = refine(problem, truth)
    assert np.abs(np.log(found / truth)).mean() < 0.002


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 7), (48, 1)])
@pytest.mark.parametrize('half', [False, True])
def test_small_images_and_a_single_sample(half, size):
    image = np.full((*size, 3), 90, np.uint8)
    problem = framed(image, np.zeros((1, 2), np.float32), np.float32([2.0]), half)
    found = refine(problem, np.ones(size))
    assert found.shape == size and (found == 1).all()


@pytest.mark.parametrize('depth', [1e-6, 1e9])
def test_absurd_samples_leave_the_result_finite_and_within_their_range(depth):
    problem, truth = scene(half=False, step=0.0)
    inverse = problem.inverse.clone()
    inverse[:5] = problem.frame.median / depth
    problem = replace(problem, inverse=inverse, limits=torch.aminmax(inverse))
    found = refine(problem, truth * problem.frame.median)
    assert np.isfinite(found).all()
    low, high = problem.limits
    assert found.min() >= low and found.max() <= high
