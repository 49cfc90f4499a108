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
"""Second-order total variation: torch against native code and a dense solution; gradients."""
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from regression_cases import available, backend, CPU_VARIANTS, needs_gpu, ON_HOST
import torch

from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.ops import libraries, surface
from steer_depth_ros.ops.surface import curvatures, solve, surface_step, transposed

BACKENDS = [*(pytest.param(name, marks=pytest.mark.skipif(
    not available(name), reason='not built, or not for this machine')) for name in CPU_VARIANTS),
    *ON_HOST]
SIZES = [(1, 1), (1, 9), (2, 2), (9, 1), (3, 3), (26, 37)]


def frame(size=(26, 37), count=150, seed=0):
    """Return start, lab, uv, measured and valid of a random step, float32."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:size[0], :size[1]]
    start = 1 + 0.02 * u + 0.03 * v + 0.1 * rng.random(size)
    lab = np.cumsum(rng.normal(0, 2, (3, *size)), 2)
    uv = rng.random((count, 2)) * (size[1] + 2, size[0] + 2) - 1.5  # some beside the map
    arrays = start, lab, uv, 1 + 3 * rng.random(count)
    return [torch.tensor(each, dtype=torch.float32) for each in arrays] + [
        torch.tensor(rng.random(count) > 0.2)]


def specified(inputs, steps=12):
    """Run the specification in float64."""
    with mock.patch.object(libraries, 'library_of', lambda _: (None, None)):
        return surface_step(*(x.double() if torch.is_tensor(x) and x.dtype == torch.float32
                              else x for x in inputs), steps, CONFIG)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', BACKENDS)
def test_a_step_is_that_of_the_specification(name, size):
    inputs = frame(size)
    expected = specified(inputs)
    before = [each.clone() for each in inputs]
    with backend(name):
        found = surface_step(*inputs, 12, CONFIG)
    assert (found - expected).abs().max() < 1e-4
    assert (expected - inputs[0]).abs().max() > 0.1
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize('name', ['native', *ON_HOST])
def test_samples_that_are_rejected_might_as_well_not_be_there(name):
    start, lab, uv, measured, valid = frame()
    uv[~valid] = torch.nan
    with backend(name):
        found = surface_step(start, lab, uv, measured, valid, 8, CONFIG)
        without = surface_step(start, lab, uv[valid], measured[valid], None, 8, CONFIG)
        none = surface_step(start, lab, uv, measured, torch.zeros_like(valid), 8, CONFIG)
        empty = surface_step(start, lab, uv[:0], measured[:0], valid[:0], 8, CONFIG)
    assert torch.equal(found, without) and torch.equal(none, empty)
    assert (found - none).abs().max() > 0.1
    assert (empty - specified((start, lab, uv[:0], measured[:0], None), 8)).abs().max() < 1e-4


@pytest.mark.parametrize('name', ['native', *ON_HOST])
def test_many_samples_in_one_pixel(name):
    start, lab, uv, measured, _ = frame(count=3000)
    uv[:2500] = uv[:2500] * 0.01 + 9
    measured[:1000] *= torch.logspace(-3, 3, 1000)  # weights of many orders of magnitude
    expected = specified((start, lab, uv, measured, None))
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    with backend(name):
        found = surface_step(start, lab, uv, measured, None, 12, CONFIG)
        shuffled = surface_step(start, lab, uv[order], measured[order], None, 12, CONFIG)
    assert ((found - expected).abs() / expected.abs().clamp(min=1)).max() < 1e-4
    if name in ON_HOST:  # threads of a GPU add them up in any order
        assert torch.equal(found, shuffled)


@pytest.mark.parametrize('size', [(40, 33), (97, 60), (3, 5)])
def test_any_number_of_threads_gives_the_same_bits(size, monkeypatch):
    monkeypatch.setattr(surface, 'ONE_THREAD', 0)
    inputs, results, before = frame(size, 500), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(surface_step(*inputs, 3, CONFIG))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, results[0]) for each in results)


def test_on_the_meta_device_it_has_a_shape():
    found = surface_step(*(each.to('meta') for each in frame()), 3, CONFIG)
    assert found.is_meta and found.shape == (26, 37)


def test_inputs_that_do_not_fit_are_named():
    start, lab, uv, measured, valid = frame()
    with pytest.raises(ValueError, match=r'lab must have shape \(3, 26, 37\), got \(3, 26, 36\)'):
        surface_step(start, lab[..., 1:], uv, measured, valid, 3, CONFIG)
    with pytest.raises(ValueError, match='valid must have shape'):
        surface_step(start, lab, uv, measured, valid[1:], 3, CONFIG)
    with pytest.raises(ValueError, match='uv is on meta, but start on cpu'):
        surface_step(start, lab, uv.to('meta'), measured, valid, 3, CONFIG)
    with pytest.raises(TypeError, match='measured must be torch.float32, got torch.float64'):
        surface_step(start, lab, uv, measured.double(), valid, 3, CONFIG)
    with pytest.raises(TypeError, match='valid must be torch.bool'):
        surface_step(start, lab, uv, measured, valid.int(), 3, CONFIG)
    if libraries.library_of(start)[1] is not None:
        huge = start[:1, :1].expand(50_000, 50_000)
        with pytest.raises(ValueError, match='50000 x 50000 pixels are too many'):
            surface_step(huge, huge.expand(3, -1, -1), uv, measured, valid, 3, CONFIG)


@needs_gpu
def test_a_gpu_takes_the_same_step_on_streams_and_in_graphs():
    inputs = frame((200, 300), 5000)
    expected = specified(inputs)
    on_gpu = [each.cuda() for each in inputs]
    found = surface_step(*on_gpu, 12, CONFIG)
    assert found.is_cuda and (found.cpu() - expected).abs().max() < 1e-3
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()) as stream:
        again = surface_step(*on_gpu, 12, CONFIG)
    torch.cuda.synchronize()
    assert torch.equal(again, found), stream
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = surface_step(*on_gpu, 12, CONFIG)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, found)


# --- The linear system ---


def problem(size=(2, 9, 11), dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    start, noise = torch.rand(2, *size, generator=g, dtype=dtype)
    weights = torch.rand(size[0], 3, *size[1:], generator=g, dtype=dtype)
    weights[:, 0, :, [0, -1]] = 0
    weights[:, 1, [0, -1]] = 0
    weights[:, 2, -1] = 0
    weights[:, 2, :, -1] = 0
    data_weight = (torch.rand(size, generator=g) < 0.3).to(dtype) + 1e-3
    return start, weights, data_weight, data_weight * (noise - 0.5)


def test_curvatures_of_planes_are_nothing_and_the_transpose_is_one():
    v, u = torch.meshgrid(torch.arange(6.), torch.arange(7.), indexing='ij')
    inside = curvatures((0.3 * u - 0.2 * v + 1)[None])[0, :, 1:-1, 1:-1]
    assert inside.abs().max() < 1e-6
    surface, other = torch.rand(2, 1, 6, 7)[0], torch.rand(1, 3, 6, 7)
    assert torch.allclose((curvatures(surface) * other).sum(),
                          (surface * transposed(other)).sum(), atol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (2, 2), (3, 3), (4, 19), (13, 8)])
def test_enough_steps_solve_the_linear_system(size):
    maps = problem((1, *size))
    maps[2].add_(0.5)
    start, weights, data_weight, rhs = (m[0] for m in maps)
    # Each unit map gives a column of the second differences, as a matrix.
    units = torch.eye(start.numel(), dtype=torch.float64).reshape(-1, *size)
    matrix = curvatures(units).flatten(1).T
    weighed = matrix.T * weights.flatten()
    change = torch.linalg.solve(weighed @ matrix + data_weight.flatten().diag(),
                                rhs.flatten() - weighed @ matrix @ start.flatten())
    found = solve(*maps, 3 * start.numel())
    assert ((found[0] - start) - change.reshape(size)).abs().max() < 1e-6


def test_many_steps_solve_the_normal_equations():
    start, weights, data_weight, rhs = problem((1, 6, 7))
    solution = solve(start, weights, data_weight, rhs, 250)
    force = transposed(curvatures(solution) * weights) + data_weight * (solution - start)
    assert torch.allclose(force, rhs, atol=1e-8)
    again = solve(solution, weights, data_weight, rhs - data_weight * (solution - start), 250)
    assert torch.allclose(again, solution, atol=1e-8)  # nothing is divided by zero there


WITHOUT_MEMORY = """
import resource
import torch
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.ops.surface import surface_step
start, lab = torch.ones(1500, 1500), torch.ones(3, 1500, 1500)
samples = torch.ones(2, 2), torch.ones(2), None
surface_step(start[:9, :9], lab[..., :9, :9], *samples, 1, CONFIG)
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * start.numel() * 4,) * 2)
try:
    surface_step(start, lab, *samples, 1, CONFIG)
except MemoryError as error:
    print(error, bool((start == 1).all()))
"""


@pytest.mark.skipif(sys.platform != 'linux' or not available('generic'),
                    reason='needs /proc, a limit of memory and the compiled library')
def test_without_memory_python_is_told():
    done = subprocess.run([sys.executable, '-c', WITHOUT_MEMORY], capture_output=True, text=True)
    assert done.stdout == 'steer_surface ran out of memory True\n', done
