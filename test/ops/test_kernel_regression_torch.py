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
"""The operator inside torch: graphs, checks of the registration, autocast, determinism."""
import pytest
from regression_cases import cast, run_native, scene
import torch

from steer_depth_ros.ops import kernel_regression

SIZE = (19, 33)
MODES = [dict(window=(6, 8)), dict(neighbours=16, sectors=4)]


def inputs(**more):
    """Return float32 tensors of a call that want gradients."""
    data = cast(scene(2, 70, SIZE, features=2, **more), torch.float32)
    return {k: v.requires_grad_() if k != 'uv' else v for k, v in data.items()}


def outputs_and_gradients(data, options):
    dense, mass = run_native(data, SIZE, **options)
    wanted = [v for v in data.values() if v.requires_grad]
    return [dense, mass, *torch.autograd.grad(dense.nan_to_num().sum() + mass.sum(), wanted)]


@pytest.mark.parametrize('options', MODES)
def test_results_are_the_same_bits_with_any_number_of_threads(options):
    data, before = inputs(), torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(outputs_and_gradients(data, options))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for first, other in zip(runs[0], run):
            assert torch.equal(first.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize('options', MODES)
def test_compiles_into_one_graph(options):
    data = inputs()

    def function(values, guide):
        dense, mass = kernel_regression(size=SIZE, **dict(data, values=values * 2, guide=guide),
                                        exact_at_samples=True, **options)
        return dense.nan_to_num() + mass

    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    arguments = data['values'], data['guide']
    expected, found = function(*arguments), compiled(*arguments)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found.sum(), arguments),
                    torch.autograd.grad(expected.sum(), arguments)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_registration(dtype):
    data = {k: v.detach().to(dtype) for k, v in inputs().items()}
    tensors = (data['uv'], data['values'].requires_grad_(), data['steering'].requires_grad_(),
               None, data['guide'].requires_grad_(), data['guide_at_samples'],
               torch.tensor(5., dtype=dtype), torch.full((2, *SIZE), .1, dtype=dtype))
    options = (*SIZE, 6, 8, 0, 1, 2, 0, 0, 1.)
    torch.library.opcheck(torch.ops.steer_depth_ros.kernel_regression, (*tensors, *options))
    if dtype == torch.float64:
        return  # the twin differentiates with torch.func, which the check cannot look into
    grads = torch.ones(2, 2, *SIZE).unbind()
    detached = [t if t is None else t.detach() for t in tensors]
    torch.library.opcheck(torch.ops.steer_depth_ros.kernel_regression_backward,
                          (*grads, *detached, *options),
                          test_utils=('test_schema', 'test_faketensor'))


def test_autocast_computes_in_float32():
    data = {k: v.detach() for k, v in inputs().items()}
    layer = torch.nn.Linear(70, 70)
    with torch.autocast('cpu', torch.bfloat16):
        values = layer(data['values'])
        assert values.dtype == torch.bfloat16
        dense, mass = kernel_regression(size=SIZE, **dict(data, values=values), order=1)
    assert dense.dtype == mass.dtype == torch.float32
    expected, _ = kernel_regression(size=SIZE, **dict(data, values=values.float()), order=1)
    assert torch.equal(dense, expected)
    dense.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_inputs_need_not_be_contiguous():
    data = {k: v.detach() for k, v in inputs().items()}
    strided = {k: v.transpose(0, 1).contiguous().transpose(0, 1) for k, v in data.items()}
    assert not strided['guide'].is_contiguous()
    for a, b in zip(run_native(strided, SIZE), run_native(data, SIZE)):
        assert torch.equal(a, b)
