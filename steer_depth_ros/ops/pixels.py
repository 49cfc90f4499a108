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
"""Samples and the pixels that hold them, in torch; pixel centers lie at whole numbers."""
import torch
import torch.nn.functional as F

from steer_depth_ros.ops.constants import number


def read_bilinear(maps, uv):
    """Read maps (B, C, h, w) at uv (B, N, 2), the nearest edge outside; return (B, N, C)."""
    scale = uv.new_tensor([2 / maps.shape[-1], 2 / maps.shape[-2]])
    grid = ((uv + 0.5) * scale - 1)[:, None]
    found = F.grid_sample(maps, grid, mode='bilinear', padding_mode='border', align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def pixel_index(uv, size):
    """Return the index of the pixel of a map of `size` (h, w) that holds uv (..., 2), int64."""
    first, last = (number(pixel, uv.device, torch.int64)
                   for pixel in ((0, 0), (size[1] - 1, size[0] - 1)))
    column, row = (uv + 0.5).floor_().long().clamp_(first, last).unbind(-1)
    return torch.add(column, row, alpha=size[1])


def add_at_pixels(values, index, size):
    """Add values (B, N) up at the pixels of that index (B, N); return (B, h, w)."""
    total = values.new_zeros(len(values), size[0] * size[1])
    return total.scatter_add(1, index, values).reshape(-1, *size)
