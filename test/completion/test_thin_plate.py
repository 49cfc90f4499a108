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
"""The plate: its solver against a dense solution, and what it does to depth."""
import subprocess
import sys

import cv2
import numpy as np
import pytest

from steer_depth_ros.completion import steering, thin_plate
from steer_depth_ros.ops import native

COMPILED = {'generic', native.cpu_name()} if native.cpu_name() else set()
SIZES = [(1, 1), (1, 5), (2, 2), (3, 3), (4, 19), (13, 8)]


def springs(size, seed):
    """Random stiffness (zero where a difference would leave the map), held and pull."""
    rng = np.random.default_rng(seed)
    stiffness = rng.uniform(0.2, 2, (3, *size)).astype(np.float32)
    stiffness[0, :, [0, -1]] = stiffness[1, [0, -1]] = 0
    stiffness[2, -1] = stiffness[2, :, -1] = 0
    held = rng.uniform(0.5, 1, size).astype(np.float32)
    return stiffness, held, rng.normal(size=size).astype(np.float32)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('variant', [None, *sorted(COMPILED)])
def test_enough_steps_solve_the_linear_system(variant, size, monkeypatch):
    monkeypatch.setattr(native, 'cpu_name', lambda: variant)
    stiffness, held, pull = springs(size, seed=1)
    start = np.random.default_rng(2).normal(size=size).astype(np.float32)
    # Each unit map gives a column of the second differences, as a matrix.
    units = np.eye(start.size, dtype=np.float32).reshape(-1, *size)
    matrix = np.stack([thin_plate.curvatures(unit).ravel() for unit in units], 1)
    weighed = matrix.astype(float).T * stiffness.ravel()
    change = np.linalg.solve(weighed @ matrix + np.diag(held.ravel()),
                             pull.ravel() - weighed @ matrix @ start.ravel())
    plate = start.copy()
    thin_plate.bend(plate, stiffness, held, pull, 3 * plate.size)
    assert plate - start == pytest.approx(change.reshape(size), abs=2e-4)


@pytest.mark.skipif(not COMPILED, reason='needs the compiled library')
def test_native_code_takes_the_steps_of_its_twin(monkeypatch):
    stiffness, held, pull = springs((37, 50), seed=3)
    found = []
    for name in (*sorted(COMPILED), None):
        monkeypatch.setattr(native, 'cpu_name', lambda name=name: name)
        plate = np.ones((37, 50), np.float32)
        thin_plate.bend(plate, stiffness, held, pull, 7)
        found.append(plate)
    for plate in found[:-1]:
        assert plate == pytest.approx(found[-1], abs=1e-5)
    assert np.abs(found[-1] - 1).max() > 0.1


def scene(half, step):
    """Two planes beside each other, with an edge of the image between; samples of them."""
    rng = np.random.default_rng(4)
    v, u = np.mgrid[0:96, 0:128]
    truth = (1 + 0.004 * u + 0.002 * v + np.where(u < 64, 0, step)).astype(np.float32)
    image = np.where((u < 64)[..., None], 40, 200).astype(np.uint8).repeat(3, 2)
    uv = rng.uniform((2, 2), (125, 93), (150, 2)).astype(np.float32).round()
    inverse = truth[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    return steering.prepare(image, uv, 1 / inverse, half=half), truth


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('step', [0.0, 1.0])
def test_bumps_go_and_steps_stay(half, step):
    inputs, truth = scene(half, step)
    truth = truth * inputs.median
    smooth = cv2.GaussianBlur(
        np.random.default_rng(5).normal(size=truth.shape).astype(np.float32), (0, 0), 3)
    bumpy = truth * np.exp(0.02 * smooth / smooth.std())
    distance = steering.sample_distance(inputs)
    found = thin_plate.refined(inputs, bumpy, distance)
    before, after = np.abs(np.log([bumpy / truth, found / truth])).mean((1, 2))
    assert after < 0.75 * before
    edge = np.abs(np.log(found / truth))[:, 60:68]
    assert edge.mean() < 0.03  # the step is of 0.4


def test_a_good_estimate_stays():
    inputs, truth = scene(half=True, step=1.0)
    truth = truth * inputs.median
    found = thin_plate.refined(inputs, truth, steering.sample_distance(inputs))
    assert np.abs(np.log(found / truth)).mean() < 0.002


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 7), (48, 1)])
@pytest.mark.parametrize('half', [False, True])
def test_small_images_and_a_single_sample(half, size):
    image = np.full((*size, 3), 90, np.uint8)
    inputs = steering.prepare(image, np.zeros((1, 2), np.float32), np.array([2.0], np.float32),
                              half=half)
    found = thin_plate.refined(inputs, np.ones(size, np.float32), np.ones(size, np.float32))
    assert found.shape == size and (found == 1).all()


@pytest.mark.parametrize('depth', [1e-6, 1e9])
def test_absurd_samples_leave_the_result_finite_and_within_their_range(depth):
    inputs, truth = scene(half=False, step=0.0)
    inverse = inputs.inverse.clone()
    inverse[0, :5] = inputs.median / depth
    inputs = inputs.with_samples(inputs.uv, inverse)
    found = thin_plate.refined(inputs, truth * inputs.median, steering.sample_distance(inputs))
    assert np.isfinite(found).all()
    assert found.min() >= inputs.range[0] and found.max() <= inputs.range[1]


WITHOUT_MEMORY = """
import resource
import numpy as np
from steer_depth_ros.completion import thin_plate
size = (1500, 1500)
springs = np.ones((3, *size), np.float32)
plate, held, pull = np.ones((3, *size), np.float32)
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 4 * plate.nbytes,) * 2)
try:
    thin_plate.bend(plate, springs, held, pull, 1)
except MemoryError as error:
    print(error, (plate == 1).all())
"""


@pytest.mark.skipif(not COMPILED, reason='needs the compiled library')
@pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc and a limit of memory')
def test_without_memory_python_is_told():
    done = subprocess.run([sys.executable, '-c', WITHOUT_MEMORY], capture_output=True, text=True)
    assert done.stdout.split('\n')[0] == 'thin plate: no memory for (1500, 1500) pixels True', done
