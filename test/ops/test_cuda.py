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
"""The operator on a GPU: against the twin, on streams, in graphs; and that nvcc compiles it."""
import shutil
import subprocess

import numpy as np
import pytest
from regression_cases import (
    backend,
    cast,
    CUDA_SOURCES,
    needs_gpu,
    ON_HOST,
    run_native,
    run_twin,
    scene,
)
import torch

from steer_depth_ros.ops import kernel_regression

SIZE = (41, 57)
MODES = [dict(window=(9, 13)), dict(window=(9, 13), border='mirror', profile='tanh'),
         dict(neighbours=16), dict(neighbours=32, sectors=4, aspect=2.),
         dict(neighbours=32, sectors=8)]


@pytest.mark.skipif(shutil.which('nvcc') is None, reason='needs nvcc')
@pytest.mark.parametrize('source', CUDA_SOURCES, ids=lambda path: path.parent.name)
def test_nvcc_compiles_without_warnings(tmp_path, source):
    # Without optimising in ptxas, which gives no warnings of the source.
    subprocess.run(['nvcc', '-std=c++17', '-arch=sm_80', '-Xptxas', '-O0', '-Werror',
                    'all-warnings', '-Xcompiler', '-Wall,-Wextra,-Werror', '-c', source,
                    '-o', tmp_path / 'object.o'], check=True)


def on_gpu(data):
    return {k: v.cuda() if torch.is_tensor(v) else v for k, v in cast(data, torch.float32).items()}


def gradients(function, data, **options):
    names = [k for k in data if k not in ('uv', 'valid')]
    data = {k: v.clone().requires_grad_(k in names) for k, v in data.items()}
    dense, mass = function(data, SIZE, **options)
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(2, *dense.shape, generator=g).to(dense)
    loss = (dense.nan_to_num() * weights[0]).sum() + (mass * weights[1]).sum() / 10
    return dict(zip(names, torch.autograd.grad(loss, [data[k] for k in names])))


def run_on_gpu(data, size, **options):
    """Run the public function on tensors of the GPU."""
    dense, mass = run_native(data, size, **options)
    assert dense.is_cuda and mass.is_cuda
    return dense, mass


def problem(options):
    data = scene(2, 150, SIZE, features=9, padding=.1, margin=4.)
    data['bandwidth'] = torch.full((2, *SIZE), 1.5 if 'neighbours' in options else 4.).double()
    data['ridge'] = torch.full((2, *SIZE), .05).double()
    return data


@needs_gpu
@pytest.mark.parametrize('options', MODES)
@pytest.mark.parametrize('order', [0, 1, 2])
def test_values(options, order):
    data = problem(options)
    expected, expected_mass = run_twin(data, SIZE, order=order, **options)
    dense, mass = run_on_gpu(on_gpu(data), SIZE, order=order, **options)
    torch.testing.assert_close(dense.cpu().double(), expected, rtol=1e-3, atol=0.)
    torch.testing.assert_close(mass.cpu().double(), expected_mass, rtol=1e-3, atol=1e-30)


@needs_gpu
@pytest.mark.parametrize('options', MODES)
@pytest.mark.parametrize('order', [1, 2])
def test_gradients(options, order):
    data = problem(options)
    expected = gradients(run_twin, data, order=order, **options)
    found = gradients(run_on_gpu, on_gpu(data), order=order, **options)
    for name, e in expected.items():
        error = (found[name].cpu().double() - e).norm() / e.norm()
        assert error < 1e-3, (name, error.item())


@needs_gpu
@pytest.mark.parametrize('options', MODES)
def test_the_same_bits_twice(options):
    data = on_gpu(problem(options))
    runs = [gradients(run_on_gpu, data, **options) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(run[k], runs[0][k]) for k in run)


@needs_gpu
@pytest.mark.parametrize('options', MODES)
def test_streams_and_graphs(options):
    data = on_gpu(problem(options))
    expected, _ = run_on_gpu(data, SIZE, exact_at_samples=True, **options)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        dense, _ = run_on_gpu(data, SIZE, exact_at_samples=True, **options)
    stream.synchronize()
    assert torch.equal(dense.nan_to_num(), expected.nan_to_num())

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = kernel_regression(size=SIZE, exact_at_samples=True, **data, **options)
    data['values'] += 1
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(captured, expected + 1, rtol=1e-3, atol=1e-3, equal_nan=True)


@needs_gpu
@pytest.mark.parametrize('count', [0, 1, 5000])
@pytest.mark.parametrize('options', MODES)
def test_few_and_many_samples(options, count):
    data = scene(1, count, SIZE)
    expected, expected_mass = run_twin(data, SIZE, order=0, **options)
    dense, mass = run_on_gpu(on_gpu(data), SIZE, order=0, **options)
    torch.testing.assert_close(dense.cpu().double(), expected, rtol=1e-3, atol=0., equal_nan=True)
    torch.testing.assert_close(mass.cpu().double(), expected_mass, rtol=1e-3, atol=1e-30)


@needs_gpu
def test_inputs_on_another_device_are_named():
    data = on_gpu(scene(1, 10, SIZE))
    with pytest.raises(ValueError, match=r'\bsteering\b'):
        run_native(dict(data, steering=data['steering'].cpu()), SIZE)


@pytest.mark.parametrize('options', MODES)
@pytest.mark.parametrize('order', [0, 1, 2])
def test_warps_of_32_lanes_give_what_one_lane_gives(options, order):
    data = cast(problem(options), torch.float32)
    found = []
    for name in ON_HOST:
        with backend(name):
            found.append([run_native(data, SIZE, order=order, **options),
                          gradients(run_native, data, order=order, **options)])
    (values, slopes), (values_of_warps, slopes_of_warps) = found
    assert all(torch.equal(a, b) for a, b in zip(values, values_of_warps))
    for name, expected in slopes.items():  # lanes add up in another order
        error = (slopes_of_warps[name] - expected).norm() / expected.norm().clamp(min=1e-9)
        assert error < 1e-5, (name, error.item())


@pytest.mark.parametrize('count, border', [(2000, 'none'), (700, 'mirror'), (6000, 'mirror')])
@pytest.mark.parametrize('spread', [0., .1, .5])
def test_cells_of_many_samples_are_sorted_by_their_number(count, border, spread):
    """In one block, and in several; also where large cells lie beside small ones."""
    data = cast(scene(2, count, SIZE, padding=.1, seed=count), torch.float32)
    data['uv'][:, count // 3:] = data['uv'][:, count // 3:] * spread + 5
    found = []
    for name in ON_HOST:
        with backend(name):
            found.append(run_native(data, SIZE, window=(2, 2), order=0, border=border))
    with backend('native'):
        expected, expected_mass = run_native(data, SIZE, window=(2, 2), order=0, border=border)
    for dense, mass in found:
        assert torch.equal(dense.nan_to_num(), found[0][0].nan_to_num())
        assert torch.equal(mass, found[0][1])
    torch.testing.assert_close(found[0][1], expected_mass, rtol=1e-4, atol=1e-30)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-3, atol=0., equal_nan=True)


@pytest.mark.parametrize('name', ON_HOST)
def test_a_hundred_thousand_samples_in_one_cell_keep_their_order(name):
    g = torch.Generator().manual_seed(0)
    count = 100_000
    values = torch.rand(1, count, generator=g)
    data = {'uv': torch.full((1, count, 2), 3.), 'values': values,
            'steering': torch.tensor([1., 0., 1.]).expand(1, count, 3)}
    with backend(name):
        dense, mass = kernel_regression(size=(8, 8), window=(1, 1), order=0, **data)
    # All weights are 1 at that pixel, so only the order of the sum decides on its last bits.
    differences = np.cumsum(values[0].numpy() - values[0, 0].numpy(), dtype=np.float32)[-1]
    expected = differences * (np.float32(1) / np.float32(count)) + values[0, 0].numpy()
    assert mass[0, 3, 3] == count and dense[0, 3, 3].item() == expected
