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
Distance of every pixel to the nearest sample, exact; native on a GPU.

The torch code is the specification. csrc/distance/ does the same for float32 on CUDA devices.
"""
from typing import Optional

import torch
from torch import Tensor

from steer_depth_ros.ops import libraries, native
from steer_depth_ros.ops.pixels import pixel_index


def distance_to_samples(uv, valid, size):
    """
    Return the distance (H, W) in pixels of every pixel to the nearest one that holds a sample.

    uv: (N, 2) pixels, a float type; samples beyond the border count at its pixels. valid: bool
    (N,), False for samples that do not count, or None. size: (H, W). Where no sample counts, all
    are 2 (H + W). Nothing is read back from a GPU. No gradients. ValueError for a shape or a
    device that does not fit, TypeError for another type.
    """
    libraries.require_alike('uv', uv, uv=(uv, ('N', 2)), valid=(valid, uv.shape[:1]))
    return torch.ops.steer_depth_ros.distance_to_samples(uv, valid, *size)


@libraries.operator('distance_to_samples')
def _distance(uv: Tensor, valid: Optional[Tensor], height: int, width: int) -> Tensor:
    name, library = libraries.library_of(uv)
    if not hasattr(library, 'steer_distance'):  # those of the CPU leave it to OpenCV and torch
        return distance_in_torch(uv, valid, height, width)
    result = _nothing(uv, valid, height, width)
    uv, valid = uv.contiguous(), None if valid is None else valid.contiguous()
    libraries.call(library, name, 'steer_distance', native.problem(
        native.Distance, samples=len(uv), height=height, width=width, uv=uv, valid=valid,
        distance=result), uv.device, lambda p: library.steer_distance_workspace(p))
    return result


@torch.library.register_fake('steer_depth_ros::distance_to_samples')
def _nothing(uv, valid, height, width):
    return uv.new_empty(height, width)


def distance_in_torch(uv, valid, height, width):
    """Do what `distance_to_samples` does, on any device."""
    index = pixel_index(uv, (height, width))
    counts = torch.ones_like(index) if valid is None else valid.long()
    occupied = torch.zeros(height * width, dtype=torch.int64, device=uv.device).index_add(
        0, index, counts).reshape(height, width) > 0
    # Within a row, then over the rows; beyond `far` there is no sample.
    far = 2 * (height + width)
    at = torch.arange(width, device=uv.device).expand(height, width)
    left = torch.where(occupied, at, -far).cummax(1).values
    right = torch.where(occupied, at, width + far).flip(1).cummin(1).values.flip(1)
    across = torch.minimum(at - left, right - at).clamp(max=far).to(uv.dtype).square()
    best = across.clone()
    for step in range(1, height):
        torch.minimum(best[step:], across[:-step] + step ** 2, out=best[step:])
        torch.minimum(best[:-step], across[step:] + step ** 2, out=best[:-step])
    return best.sqrt()
