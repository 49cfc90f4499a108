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
"""Second-order TV: its solver against a dense solution, and what it does to depth."""
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import second_order_tv
from steer_depth_ros.completion.kernels import sample_distance
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.ops import native

COMPILED = {'generic', native.cpu_name()} if native.cpu_name() else set()
SIZES = [(1, 1), (1, 5), (2, 2), (3, 3), (4, 19), (13, 8)]


def weights(size, seed):
    """Random weights of curvature (zero where it would leave the map), of data, and rhs."""
    rng = np.random.default_rng(seed)
    curvature = rng.uniform(0.2, 2, (3, *size)).astype(np.float32)
    curvature[0, :, [0, -1]] = curvature[1, [0, -1]] = 0
    curvature[2, -1] = curvature[2, :, -1] = 0
    data = rng.uniform(0.5, 1, size).astype(np.float32)
    return curvature, data, rng.normal(size=size).astype(np.float32)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('variant', [None, *sorted(COMPILED)])
def test_enough_steps_solve_the_linear_system(variant, size, monkeypatch):
    monkeypatch.setattr(native, 'cpu_name', lambda: variant)
    curvature, data, rhs = weights(size, seed=1)
    start = np.random.default_rng(2).normal(size=size).astype(np.float32)
    # Each unit map gives a column of the second differences, as a matrix.
    units = np.eye(start.size, dtype=np.float32).reshape(-1, *size)
    matrix = np.stack([second_order_tv.curvatures(unit).ravel() for unit in units], 1)
    weighed = matrix.astype(float).T * curvature.ravel()
    change = np.linalg.solve(weighed @ matrix + np.diag(data.ravel()),
                             rhs.ravel() - weighed @ matrix @ start.ravel())
    before = start.copy()
    solution = second_order_tv.solve_cg(start, curvature, data, rhs, 3 * start.size)
    assert solution - start == pytest.approx(change.reshape(size), abs=2e-4)
    assert (start == before).all()


@pytest.mark.skipif(not COMPILED, reason='needs the compiled library')
def test_native_code_takes_the_steps_of_its_specification(monkeypatch):
    start, found = np.ones((37, 50), np.float32), []
    for name in (*sorted(COMPILED), None):
        monkeypatch.setattr(native, 'cpu_name', lambda name=name: name)
        found.append(second_order_tv.solve_cg(start, *weights((37, 50), seed=3), 7))
    for solution in found[:-1]:
        assert solution == pytest.approx(found[-1], abs=1e-5)
    assert np.abs(found[-1] - 1).max() > 0.1


def framed(image, uv, depth, half):
    """Return the frame of the image's size, which is `half` of a larger image's or whole."""
    if half:
        image, uv = image.repeat(2, 0).repeat(2, 1), 2 * uv + np.float32(0.5)
    return normalize(image, uv, depth, half=half)


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
    frame, truth = scene(half, step)
    truth = truth * frame.median
    smooth = cv2.GaussianBlur(
        np.random.default_rng(5).normal(size=truth.shape).astype(np.float32), (0, 0), 3)
    bumpy = truth * np.exp(0.02 * smooth / smooth.std())
    distance = sample_distance(frame)
    found = second_order_tv.refine(frame, bumpy, distance)
    before, after = np.abs(np.log([bumpy / truth, found / truth])).mean((1, 2))
    assert after < 0.75 * before
    edge = np.abs(np.log(found / truth))[:, 60:68]
    assert edge.mean() < 0.03  # the step is of 0.4


def test_a_good_estimate_stays():
    frame, truth = scene(half=True, step=1.0)
    truth = truth * frame.median
    found = second_order_tv.refine(frame, truth, sample_distance(frame))
    assert np.abs(np.log(found / truth)).mean() < 0.002


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 7), (48, 1)])
@pytest.mark.parametrize('half', [False, True])
def test_small_images_and_a_single_sample(half, size):
    image = np.full((*size, 3), 90, np.uint8)
    frame = framed(image, np.zeros((1, 2), np.float32), np.float32([2.0]), half)
    found = second_order_tv.refine(frame, np.ones(size, np.float32), np.ones(size, np.float32))
    assert found.shape == size and (found == 1).all()


@pytest.mark.parametrize('depth', [1e-6, 1e9])
def test_absurd_samples_leave_the_result_finite_and_within_their_range(depth):
    frame, truth = scene(half=False, step=0.0)
    inverse = frame.inverse.clone()
    inverse[0, :5] = frame.median / depth
    frame = frame.with_samples(frame.uv, inverse)
    found = second_order_tv.refine(frame, truth * frame.median, sample_distance(frame))
    assert np.isfinite(found).all()
    assert found.min() >= frame.range[0] and found.max() <= frame.range[1]


@pytest.mark.skipif(not COMPILED, reason='needs the compiled library')
@pytest.mark.parametrize('size', [(40, 33), (97, 60), (3, 5)])
def test_any_number_of_threads_gives_the_same_bits(size):
    rng = np.random.default_rng(7)
    weights = rng.random((3, *size), np.float32)
    weights[0, :, [0, -1]] = weights[1, [0, -1]] = weights[2, -1] = weights[2, :, -1] = 0
    data = (rng.random(size) < 0.2).astype(np.float32)
    start, rhs = rng.random(size, np.float32), data * rng.random(size, np.float32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(second_order_tv.solve_cg(start, weights, data, rhs, 3))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(each, results[0]) for each in results)
    expected = start.copy()
    second_order_tv._solve_cg(expected, weights, data, rhs, 3)
    assert np.abs(results[0] - expected).max() < 1e-3 * np.abs(expected - start).max() + 1e-5


WITHOUT_MEMORY = """
import resource
import numpy as np
from steer_depth_ros.completion import second_order_tv
size = (1500, 1500)
curvature = np.ones((3, *size), np.float32)
start, data, rhs = np.ones((3, *size), np.float32)
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * start.nbytes,) * 2)
try:
    second_order_tv.solve_cg(start, curvature, data, rhs, 1)
except MemoryError as error:
    print(error, (start == 1).all())
"""


@pytest.mark.skipif(not COMPILED, reason='needs the compiled library')
@pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc and a limit of memory')
def test_without_memory_python_is_told():
    done = subprocess.run([sys.executable, '-c', WITHOUT_MEMORY], capture_output=True, text=True)
    assert done.stdout.split('\n')[0] == (
        'second-order TV: no memory for (1500, 1500) pixels True'), done
