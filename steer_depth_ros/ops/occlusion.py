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
Samples that others occlude, for a camera that sees from another place than the sensor.

The torch code is the specification. csrc/occlusion/ does the same for float32 on the CPU.
"""
import math

import torch

from steer_depth_ros.ops import libraries, native

SECTORS = 16  # of the circle around a sample


def find_occluded(uv, depth, size, cell, reach, margin, share):
    """
    Return which samples a nearer surface surrounds, bool (N,).

    uv: (N, 2) pixels, a float type. depth: (N,) meters. size: (H, W) of the image. The nearest
    sample of every `cell` pixels counts. reach: (u, v) half axes of the ellipse around a sample
    in which others are looked for, in cells. margin: an occluder is nearer by this share. share:
    the occluding surface begins that far towards the nearest sample around, in 1 / depth; it has
    to lie on all sides, with no half of the circle free of it. ValueError for a shape or a device
    that does not fit, TypeError for another type.
    """
    libraries.require_alike('uv', uv, uv=(uv, ('N', 2)), depth=(depth, uv.shape[:1]))
    if cell != int(cell) or cell < 1 or not all(0 < r < math.inf for r in reach):
        raise ValueError('cell must be a whole number of pixels, 1 at least, and reach two '
                         f'positive numbers, got {cell} and {tuple(reach)}')
    cell = int(cell)
    rows, columns = size[0] // cell + 1, size[1] // cell + 1
    name, library = libraries.library_of(uv) if uv.device.type == 'cpu' else (None, None)
    if library is None:
        return _find_in_torch(uv, depth, rows, columns, cell, *reach, margin, share)
    uv, depth = uv.contiguous(), depth.contiguous()
    occluded = depth.new_empty(len(depth), dtype=torch.bool)
    libraries.call(library, name, 'steer_occlusion', native.problem(
        native.Occlusion, samples=len(uv), rows=rows, columns=columns,
        threads=torch.get_num_threads(), cell=cell, reach_u=reach[0], reach_v=reach[1],
        nearer=1 + margin, share=share, uv=uv, depth=depth, occluded=occluded), uv.device)
    return occluded


def _find_in_torch(uv, depth, rows, columns, cell, reach_u, reach_v, margin, share):
    nearness = torch.where(depth > 0, 1 / depth.clamp(min=1e-6), 0)
    reach = math.ceil(reach_u), math.ceil(reach_v)
    pitch = columns + 2 * reach[0]
    column, row = (uv / cell).round().long().unbind(1)
    at = (row.clamp(0, rows - 1) + reach[1]) * pitch + column.clamp(0, columns - 1) + reach[0]
    grid = uv.new_zeros((rows + 2 * reach[1]) * pitch).scatter_reduce(0, at, nearness, 'amax')
    around = [(dv * pitch + du, _sector(dv / reach_v, du / reach_u))
              for dv in range(-reach[1], reach[1] + 1) for du in range(-reach[0], reach[0] + 1)
              if 0 < math.hypot(du / reach_u, dv / reach_v) <= 1 + 1e-6]
    nearest = torch.zeros_like(nearness)
    for offset, _ in around:
        nearest = torch.maximum(nearest, grid[at + offset])
    # The occluder is the nearest surface: ground between it and the sample does not count.
    surface = torch.maximum(nearness * (1 + margin), nearness + share * (nearest - nearness))
    occupied = torch.zeros(SECTORS, len(nearness), dtype=torch.bool, device=uv.device)
    for offset, sector in around:
        occupied[sector] |= grid[at + offset] > surface
    occupied = torch.cat([occupied, occupied])
    half = SECTORS // 2
    return torch.stack([occupied[i:i + half].any(0) for i in range(SECTORS)]).all(0)


def _sector(y, x):
    """Return the sector of a direction, counted from left over above and right to below."""
    return math.floor((math.atan2(y, x) / (2 * math.pi) + 0.5) * SECTORS + 1e-9) % SECTORS
