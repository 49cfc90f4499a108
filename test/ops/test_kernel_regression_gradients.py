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
"""The operator's gradients: gradcheck of the twin, and the native ones against the twin's."""
import pytest
from regression_cases import (
    available,
    backend,
    BACKENDS,
    cast,
    CPU_VARIANTS,
    run_native,
    run_twin,
    scene,
)
import torch

from steer_depth_ros.ops import kernel_regression

SIZE = (23, 31)
GRADIENTS = ('values', 'steering', 'guide', 'guide_at_samples', 'bandwidth', 'ridge')
MODES = {
    'window': dict(window=(7, 9)),
    'mirror': dict(window=(7, 9), border='mirror'),
    'tanh': dict(window=(7, 9), profile='tanh'),
    'neighbours': dict(neighbours=16),
    'sectors': dict(neighbours=24, sectors=4, aspect=2.),
    'octants': dict(neighbours=32, sectors=8, profile='tanh'),
}
EXTENTS = {'number': (), 'per sample': (2, 90), 'per pixel': (2, *SIZE)}


@pytest.fixture(params=BACKENDS, autouse=True)
def each_backend(request):
    """Run every test on the CPU library, on the CUDA code built for the host, and on a GPU."""
    with backend(request.param):
        yield


def problem(mode, bandwidth='number', ridge='number'):
    """Return the tensors of a call whose fits are all sound, so that gradients are smooth."""
    data = scene(2, 90, SIZE, features=2, padding=0.1, seed=1, margin=2.)
    g = torch.Generator().manual_seed(2)
    smallest = 1.2 if 'neighbours' in MODES[mode] else 4.
    data['bandwidth'] = torch.rand(EXTENTS[bandwidth], generator=g).double() + smallest
    data['ridge'] = torch.rand(EXTENTS[ridge], generator=g).double() * .1 + .05
    return data


def gradients(function, data, names=GRADIENTS, **options):
    """Return d loss / d name of a fixed random loss of both outputs."""
    data = {k: v.clone().requires_grad_(k in names) for k, v in data.items()}
    dense, mass = function(data, SIZE, **options)
    g = torch.Generator().manual_seed(3)
    loss = ((dense.nan_to_num() * torch.randn(dense.shape, generator=g).to(dense)).sum()
            + (mass * torch.randn(dense.shape, generator=g).to(dense)).sum() / 10)
    return dict(zip(names, torch.autograd.grad(loss, [data[k] for k in names])))


def compare(data, names=GRADIENTS, **options):
    """Assert that native gradients are within 1e-3 of the twin's in float64, as vectors."""
    expected = gradients(run_twin, data, names, **options)
    found = gradients(run_native, cast(data, torch.float32), names, **options)
    for name in names:
        error = (found[name].double() - expected[name]).norm() / expected[name].norm()
        assert error < 1e-3, (name, error.item())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('order', [0, 1, 2])
def test_native_agrees_with_the_twin(mode, order):
    names = GRADIENTS if order else GRADIENTS[:-1]
    compare(problem(mode, ridge='per pixel'), names, order=order, **MODES[mode])


@pytest.mark.parametrize('mode', ['mirror', 'sectors'])
def test_float64_runs_the_twin(mode):
    data = problem(mode)
    expected = gradients(run_twin, data, order=1, **MODES[mode])
    found = gradients(lambda d, size, **more: kernel_regression(size=size, **d, **more), data,
                      order=1, **MODES[mode])
    for name in GRADIENTS:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize('extent', EXTENTS)
@pytest.mark.parametrize('mode', ['window', 'neighbours'])
def test_bandwidth_of_any_extent(mode, extent):
    compare(problem(mode, bandwidth=extent), ('values', 'bandwidth', 'ridge'), **MODES[mode])


@pytest.mark.parametrize('mode', ['window', 'sectors'])
def test_fits_that_fall_back_have_gradients(mode):
    # Samples on lines: quadrics and planes are ill-conditioned at many pixels.
    data = problem(mode)
    del data['ridge']
    data['uv'][..., 1] = (data['uv'][..., 1] / 8).round() * 8
    compare(data, ('values', 'steering'), **dict(MODES[mode], order=1))


@pytest.mark.parametrize('name', [n for n in CPU_VARIANTS if n != 'avx512'])
def test_other_instruction_sets(name, each_backend):
    if not available(name):
        pytest.skip(f'no {name} library, or a machine without it')
    with backend(name):
        compare(problem('mirror'), order=2, **MODES['mirror'])
        compare(problem('octants'), order=1, **MODES['octants'])


@pytest.mark.parametrize('mode', MODES)
def test_a_loss_at_one_pixel(mode):
    data = problem(mode)

    def at_one_pixel(function):
        def run(data, size, **options):
            return [t[1:, 11:12, 20:21] for t in function(data, size, **options)]
        return run

    expected = gradients(at_one_pixel(run_twin), data, order=1, **MODES[mode])
    found = gradients(at_one_pixel(run_native), cast(data, torch.float32), order=1, **MODES[mode])
    for name in GRADIENTS:
        assert (found[name] - expected[name]).norm() / expected[name].norm() < 1e-3, name


def test_weights_that_underflow():
    data = scene(1, 40, SIZE, seed=5)
    data['bandwidth'] = torch.tensor(.35).double()  # exponents down to -200 and beyond
    data['ridge'] = torch.tensor(.1).double()
    compare(data, ('values', 'steering', 'bandwidth'), order=1)


def test_empty_pixels_pass_no_gradient():
    data = scene(1, 3, SIZE)
    data['uv'] = data['uv'] * 0 + 4
    for options in (dict(window=(3, 3)), dict(neighbours=4)):
        values = data['values'].float().requires_grad_()
        steering = data['steering'].float().requires_grad_()
        dense, mass = run_native(dict(data, values=values, steering=steering), SIZE, **options)
        (dense.sum() + mass.sum()).backward()
        assert values.grad.isfinite().all() and steering.grad.isfinite().all()


@pytest.mark.parametrize('options', [dict(window=(3, 4)), dict(neighbours=6),
                                     dict(window=(3, 4), profile='tanh', border='mirror')])
@pytest.mark.parametrize('order', [0, 2])
def test_gradcheck(options, order):
    size = (3, 4)
    data = scene(1, 9, size, features=1, seed=1)
    data['bandwidth'] = torch.tensor(1.5 if 'neighbours' in options else 3.).double()
    data['ridge'] = torch.full((1, *size), .1).double()
    names = GRADIENTS if order else GRADIENTS[:-1]

    def function(*tensors):
        return run_twin(dict(data, **dict(zip(names, tensors))), size, order=order, **options)

    tensors = [data[k].clone().requires_grad_() for k in names]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
