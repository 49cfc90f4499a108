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
Second-order total variation: a step towards surfaces that bend little, on the CPU and on a GPU.

The torch code is the specification. csrc/second_order_tv/ does the same for float32.
"""
import math
from typing import Optional

import torch
from torch import Tensor
import torch.nn.functional as F

from steer_depth_ros.ops import libraries, native
from steer_depth_ros.ops.constants import number
from steer_depth_ros.ops.libraries import MOST, require_alike
from steer_depth_ros.ops.pixels import add_at_pixels, pixel_index, read_bilinear

ONE_THREAD = 250_000  # pixels; up to these one thread solves
# Second differences along x, along y and across, at the middle pixel (across: at its upper left).
STENCILS = (((0, 0, 0), (1, -2, 1), (0, 0, 0)),
            ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
            ((0, 0, 0), (0, 1, -1), (0, -1, 1)))


def surface_step(start, lab, uv, measured, valid, steps, constants):
    """
    Return a map (h, w) that bends less than `start` (h, w) and is nearer to the samples.

    It is one reweighting of the problem in `completion/second_order_tv.py`, and `steps` of
    conjugate gradients. lab: (3, h, w) CIELab. uv: (N, 2) pixels of the samples, measured: (N,).
    valid: bool (N,), False for samples that do not count, or None. constants: with tv_smoothness,
    tv_flat, tv_misfit, tv_edge and tv_floor of the config. All float32 on one device; nothing is
    read back from it. No gradients. ValueError for a shape or a device that does not fit,
    TypeError for another type; MemoryError.
    """
    count = len(measured)
    require_alike('start', start, lab=(lab, (3, *start.shape)), uv=(uv, (count, 2)),
                   measured=(measured, (count,)), valid=(valid, (count,)))
    return torch.ops.steer_depth_ros.surface_step(
        start, lab, uv, measured, valid, steps,
        *(float(getattr(constants, name)) for name in
          ('tv_smoothness', 'tv_flat', 'tv_misfit', 'tv_edge', 'tv_floor')))


@libraries.operator('surface_step')
def _surface_step(start: Tensor, lab: Tensor, uv: Tensor, measured: Tensor,
                  valid: Optional[Tensor], steps: int, smoothness: float, flat: float,
                  misfit: float, edge: float, floor: float) -> Tensor:
    name, library = libraries.library_of(start)
    if library is not None:
        return _native(name, library, start, steps, lab=lab, uv=uv, measured=measured,
                       valid=valid, samples=len(measured), smoothness=smoothness, flat=flat,
                       misfit=misfit, edge=edge, floor=floor)
    frame = start[None]
    data_weight, rhs = data_term(frame, uv[None], measured[None],
                                 None if valid is None else valid[None], misfit, floor)
    weights = bending_weights(frame, edge_weights(lab[None], edge), smoothness, flat, floor)
    return solve(frame, weights, data_weight, rhs, steps)[0]


@torch.library.register_fake('steer_depth_ros::surface_step')
def _(start, *_):
    return torch.empty_like(start, memory_format=torch.contiguous_format)


def _native(name, library, start, steps, **fields):
    """Call the library for a map (h, w); fields: others of native.Surface."""
    height, width = start.shape
    if (height + 4) * (width + 8) > MOST:
        raise ValueError(f'second-order TV: {width} x {height} pixels are too many; it counts to '
                         f'{MOST:,}')
    solution = torch.empty_like(start, memory_format=torch.contiguous_format)
    fields = {k: v.contiguous() if torch.is_tensor(v) else v for k, v in fields.items()}
    fields.update(start=start.contiguous(), solution=solution)
    # Its threads wait for each other a hundred times. Where others use the cores, each wait takes
    # a slice of the scheduler's time: on small maps that costs more than a second core gains.
    threads = torch.get_num_threads() if height * width > ONE_THREAD else 1
    problem = native.problem(native.Surface, height=height, width=width, steps=steps,
                             threads=threads, **fields)
    libraries.call(library, name, 'steer_surface', problem, start.device,
                   lambda p: library.steer_surface_workspace(p))
    return solution


def _stencils(like):
    return number(STENCILS, like.device, like.dtype)[:, None]


def curvatures(surface):
    """Return second differences (B, 3, h, w) of maps (B, h, w); 0 is assumed beyond the border."""
    return F.conv2d(surface[:, None], _stencils(surface), padding=1)


def transposed(curvature):
    """Apply the transpose of `curvatures` to (B, 3, h, w); return (B, h, w)."""
    stencils = _stencils(curvature)
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


def bending_weights(start, edges, smoothness, flat, floor):
    """
    Weigh curvatures (B, 3, h, w) so that their squares cost what their absolutes do at `start`.

    edges: of `edge_weights`. The rest: tv_smoothness, tv_flat and tv_floor of the config.
    """
    square = start.clamp(min=floor).square()[:, None]
    absolute = (curvatures(start).square() / square + flat ** 2).sqrt()
    return edges * smoothness / (absolute * square)


def data_term(start, uv, measured, valid, misfit, floor):
    """
    Return weights of the samples, and weight times residual at `start`, at their pixels (B, h, w).

    uv: (B, N, 2), measured: (B, N), valid: bool (B, N) or None. misfit, floor: tv_misfit and
    tv_floor of the config.
    """
    # Read at the sample, applied to the nearest pixel: on a slope the pixel's own misfit is wrong.
    residual = measured - read_bilinear(start[:, None], uv)[..., 0]
    scale = measured.clamp(min=floor)
    weight = 1 / (scale * torch.hypot(residual, misfit * scale))
    if valid is not None:
        weight, residual = (torch.where(valid, each, 0.) for each in (weight, residual))
    size = start.shape[1:]
    index = pixel_index(uv, size)
    return tuple(add_at_pixels(values, index, size) for values in (weight, weight * residual))


def _bending_force(surface, curvature_weights):
    return transposed(curvatures(surface) * curvature_weights)


def solve(start, curvature_weights, data_weight, rhs, steps):
    """
    Return maps (B, h, w) that `steps` of conjugate gradients lead to from `start`.

    They minimize the weighed squares of their curvatures and of their distance to the samples.
    curvature_weights: (B, 3, h, w), zero where a difference would leave the map. data_weight, rhs:
    (B, h, w), weights of the samples, and weight times residual at `start`.
    """
    stencils = _stencils(rhs)
    diagonal = F.conv_transpose2d(curvature_weights, stencils.square(), padding=1)[:, 0]
    preconditioner = 1 / (diagonal + data_weight + 1e-9)
    solution = start
    residual = rhs - _bending_force(start, curvature_weights)
    direction = preconditioner * residual
    power = _dot(residual, direction)
    for _ in range(steps):
        image = torch.addcmul(_bending_force(direction, curvature_weights), data_weight, direction)
        length = _ratio(power, _dot(direction, image))
        solution = torch.addcmul(solution, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        scaled = preconditioner * residual
        power, before = _dot(residual, scaled), power
        direction = torch.addcmul(scaled, _ratio(power, before), direction)
    return solution


def _dot(a, b):
    """Return the products (B, 1, 1) of maps."""
    return torch.bmm(a.reshape(len(a), 1, -1), b.reshape(len(b), -1, 1))


def _ratio(a, b):
    """Return a / b, 0 where b is none: at the solution nothing changes any more."""
    return torch.where(b > 0, a / b, 0.)
