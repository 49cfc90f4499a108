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
"""The solver of second-order total variation: against the native one, and its gradients."""
import pytest
import torch

from steer_depth_ros.ops.surface import curvatures, solve_surface, transposed


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


@pytest.mark.parametrize('steps', [0, 1, 12])
def test_torch_and_native_code_agree(steps):
    maps = problem((2, 31, 40), torch.float32)
    expected = solve_surface(*(m.double() for m in maps), steps)
    assert torch.allclose(solve_surface(*maps, steps).double(), expected, atol=2e-5)


def test_many_steps_solve_the_normal_equations():
    start, weights, data_weight, rhs = problem((1, 6, 7))
    solution = solve_surface(start, weights, data_weight, rhs, 250)
    force = transposed(curvatures(solution) * weights) + data_weight * (solution - start)
    assert torch.allclose(force, rhs, atol=1e-8)
    again = solve_surface(solution, weights, data_weight, rhs - data_weight * (solution - start),
                          250)
    assert torch.allclose(again, solution, atol=1e-8)  # nothing is divided by zero there


def test_gradients_are_those_of_the_solution():
    maps = [m.requires_grad_() for m in problem((1, 4, 5))]
    assert torch.autograd.gradcheck(lambda *maps: solve_surface(*maps, 50), maps, atol=1e-6,
                                    fast_mode=True)


@pytest.mark.parametrize('steps', [5, 40])
def test_gradients_of_few_steps_are_bounded(steps):
    """Those of the steps themselves, taken one by one, grow without bound."""
    maps = [m.requires_grad_() for m in problem((1, 40, 40))]
    solve_surface(*maps, steps).mean().backward()
    at_start = maps[0].grad
    assert at_start.sum() == pytest.approx(1, abs=0.2)  # a surface that is lifted stays lifted
    assert all(m.grad.isfinite().all() and m.grad.abs().max() < 1 for m in maps)
