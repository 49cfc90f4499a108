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
"""
Surfaces that bend little: the solver of second-order total variation, also on a GPU.

The torch code is the specification and can be differentiated; csrc/ does the same on the CPU where
no gradient is asked for.
"""
from functools import lru_cache
import math

import torch
import torch.nn.functional as F

from steer_depth_ros.ops import native

# Second differences along x, along y and across, at the middle pixel (across: at its upper left).
STENCILS = (((0, 0, 0), (1, -2, 1), (0, 0, 0)),
            ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
            ((0, 0, 0), (0, 1, -1), (0, -1, 1)))


@lru_cache
def _stencils(device, dtype):
    with torch.inference_mode(False):
        return torch.tensor(STENCILS, device=device, dtype=dtype)[:, None]


def curvatures(surface):
    """Return second differences (B, 3, h, w) of maps (B, h, w); 0 is assumed beyond the border."""
    return F.conv2d(surface[:, None], _stencils(surface.device, surface.dtype), padding=1)


def transposed(curvature):
    """Apply the transpose of `curvatures` to (B, 3, h, w); return (B, h, w)."""
    stencils = _stencils(curvature.device, curvature.dtype)
    return F.conv_transpose2d(curvature, stencils, padding=1)[:, 0]


def edge_weights(lab, edge):
    """
    Return how much of the smoothness the image leaves, (B, 3, h, w); 0 beyond the border.

    lab: (B, 3, h, w) CIELab. edge: difference of color that lowers it to 1 / e.
    """
    batch, _, height, width = lab.shape
    x = F.pad((lab[..., 1:] - lab[..., :-1]).abs().sum(1), (0, 1))
    y = F.pad((lab[..., 1:, :] - lab[..., :-1, :]).abs().sum(1), (0, 0, 0, 1))
    edges = lab.new_full((batch, 3, height, width), math.inf)
    edges[:, 0, :, 1:-1] = torch.maximum(x[..., 1:-1], x[..., :-2])
    edges[:, 1, 1:-1] = torch.maximum(y[:, 1:-1], y[:, :-2])
    edges[:, 2, :-1, :-1] = torch.maximum(torch.maximum(x[:, :-1, :-1], x[:, 1:, :-1]),
                                          torch.maximum(y[:, :-1, :-1], y[:, :-1, 1:]))
    return (edges * (-1 / edge)).exp()


def bending_weights(start, edges, constants):
    """
    Weigh curvatures (B, 3, h, w) so that their squares cost what their absolutes do at `start`.

    edges: of `edge_weights`. constants: with tv_floor, tv_flat and tv_smoothness of the config.
    """
    square = start.clamp(min=constants.tv_floor).square()[:, None]
    absolute = (curvatures(start).square() / square + constants.tv_flat ** 2).sqrt()
    return edges * constants.tv_smoothness / (absolute * square)


def solve_surface(start, curvature_weights, data_weight, rhs, steps):
    """
    Return maps (B, h, w) that `steps` of conjugate gradients lead to from `start`.

    They minimize the weighed squares of their curvatures and of their distance to the samples.
    curvature_weights: (B, 3, h, w), zero where a difference would leave the map. data_weight, rhs:
    (B, h, w), weights of the samples, and weight times residual at `start`. Differentiable with
    respect to all maps, by as many steps on the adjoint system: what these leave unsolved goes to
    `start`, so that gradients are those of the solution in the end and bounded before.
    """
    return _Solve.apply(start, curvature_weights, data_weight, rhs, steps)


def solve_in_torch(start, curvature_weights, data_weight, rhs, steps):
    """Do what `solve_surface` does, on any device."""
    residual = rhs - _bending_force(start, curvature_weights)
    return start + _conjugate_gradients(curvature_weights, data_weight, residual, steps)


class _Solve(torch.autograd.Function):

    @staticmethod
    def forward(context, start, curvature_weights, data_weight, rhs, steps):
        if start.device.type == 'cpu' and start.dtype == torch.float32 and native.cpu_name():
            solution = torch.stack([
                _native(*frame, steps)
                for frame in zip(start, curvature_weights, data_weight, rhs)])
        else:
            solution = solve_in_torch(start, curvature_weights, data_weight, rhs, steps)
        context.steps = steps
        context.save_for_backward(start, curvature_weights, data_weight, solution)
        return solution

    @staticmethod
    def backward(context, gradient):
        start, curvature_weights, data_weight, solution = context.saved_tensors
        adjoint = _conjugate_gradients(curvature_weights, data_weight, gradient, context.steps)
        return (gradient - _bending_force(adjoint, curvature_weights),
                -curvatures(adjoint) * curvatures(solution), adjoint * (start - solution), adjoint,
                None)


def _bending_force(surface, curvature_weights):
    return transposed(curvatures(surface) * curvature_weights)


def _conjugate_gradients(curvature_weights, data_weight, residual, steps):
    """Return (B, h, w) by which to change a surface with this residual."""
    stencils = _stencils(residual.device, residual.dtype)
    diagonal = F.conv_transpose2d(curvature_weights, stencils.square(), padding=1)[:, 0]
    preconditioner = 1 / (diagonal + data_weight + 1e-9)
    change = torch.zeros_like(residual)
    direction = preconditioner * residual
    power = _dot(residual, direction)
    for _ in range(steps):
        image = torch.addcmul(_bending_force(direction, curvature_weights), data_weight, direction)
        length = power / _dot(direction, image)
        change = torch.addcmul(change, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        scaled = preconditioner * residual
        power, before = _dot(residual, scaled), power
        direction = torch.addcmul(scaled, power / before, direction)
    return change


def _dot(a, b):
    """Return the products (B, 1, 1) of maps, never 0: at the solution nothing changes any more."""
    product = torch.bmm(a.reshape(len(a), 1, -1), b.reshape(len(b), -1, 1))
    return product.clamp(min=torch.finfo(a.dtype).tiny)


def _native(start, curvature_weights, data_weight, rhs, steps):
    solution = start.clone(memory_format=torch.contiguous_format)
    fields = [m.contiguous() for m in (curvature_weights, data_weight, rhs)]
    if native.load(native.cpu_name()).steer_second_order_tv(
            *(f.data_ptr() for f in fields), *start.shape, steps, torch.get_num_threads(),
            solution.data_ptr()):
        raise MemoryError(f'second-order TV: no memory for {tuple(start.shape)} pixels')
    return solution
