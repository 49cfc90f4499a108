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
What OpenCV does to images on the CPU, in torch on any device.

Maps are float32 (C, H, W); positions uv (N, 2) pixels, u = column. No shape depends on
the data, and nothing is read back from a GPU.
"""
import math

import torch
from torch import Tensor
import torch.nn.functional as F

FAR = 1e6  # squared pixels; no sample

# sRGB to XYZ of the white point D65, as OpenCV has it; rows are divided by the white.
_XYZ = ((0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
        (0.212671, 0.715160, 0.072169),
        (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754))


def lab(rgb: Tensor) -> Tensor:
    """Return CIELab (3, H, W) of sRGB (3, H, W) between 0 and 1."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    r, g, b = linear
    x, y, z = (kr * r + kg * g + kb * b for kr, kg, kb in _XYZ)
    fx, fy, fz = (torch.where(t > 0.008856, t.clamp(min=1e-9) ** (1 / 3), 7.787 * t + 16 / 116)
                  for t in (x, y, z))
    light = torch.where(y > 0.008856, 116 * fy - 16, 903.3 * y)
    return torch.stack([light, 500 * (fx - fy), 200 * (fy - fz)])


def blur(maps: Tensor, sigma: float, radius: int, parts: int = 0) -> Tensor:
    """
    Blur with a Gaussian of 2 * radius + 1 taps; borders are reflected.

    parts: round the taps to 1 / parts, as OpenCV does for images of bytes.
    """
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float32)
    taps = torch.exp(offsets * offsets * (-0.5 / sigma ** 2))
    taps = taps / taps.sum()
    if parts:
        taps = (taps * parts).round() / parts
    for axis in (1, 2):
        padded = reflect(maps, radius, axis)
        length = maps.shape[axis]
        maps = torch.stack([tap * padded.narrow(axis, k, length)
                            for k, tap in enumerate(taps.unbind())]).sum(0)
    return maps


def reflect(maps: Tensor, radius: int, axis: int) -> Tensor:
    """Pad along an axis by reflection without the edge, however often it takes."""
    length = maps.shape[axis]
    at = torch.arange(-radius, length + radius, device=maps.device)
    if length > 1:
        at = at.remainder(2 * length - 2)
        at = torch.minimum(at, 2 * length - 2 - at)
    else:
        at = torch.zeros_like(at)
    return maps.index_select(axis, at)


def sobel(plane: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return derivatives of (H, W) along rows and along columns, by 3 x 3 Sobel filters."""
    height, width = plane.shape
    padded = reflect(reflect(plane[None], 1, 1), 1, 2)[0]
    smooth_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (scale * (smooth_x[2:] - smooth_x[:-2]), scale * (smooth_y[:, 2:] - smooth_y[:, :-2]))


def downsample2(maps: Tensor) -> Tensor:
    """Average over 2 x 2 pixels; the last row and column count double."""
    height, width = maps.shape[1:]
    return F.avg_pool2d(F.pad(maps[None], (0, width % 2, 0, height % 2), mode='replicate'), 2)[0]


def upsample(maps: Tensor, size, factor: int = 2) -> Tensor:
    """Bring maps of 1 / factor of the resolution back to `size` (H, W), bilinear."""
    full = F.interpolate(maps[None], scale_factor=float(factor), mode='bilinear')[0]
    return full[:, :size[0], :size[1]].contiguous()


def resize(maps: Tensor, size) -> Tensor:
    """Bring maps to `size` (H, W), bilinear."""
    return F.interpolate(maps[None], size=tuple(size), mode='bilinear')[0]


def sample(maps: Tensor, uv: Tensor) -> Tensor:
    """Read maps at uv, bilinear, the nearest edge outside; return (N, C)."""
    height, width = maps.shape[1:]
    u = uv[:, 0] * (2 / max(width - 1, 1)) - 1
    v = uv[:, 1] * (2 / max(height - 1, 1)) - 1
    grid = torch.stack([u, v], -1)[None, None]
    read = F.grid_sample(maps[None], grid, mode='bilinear', padding_mode='border',
                         align_corners=True)
    return read[0, :, 0].T


def to_scale(uv: Tensor, factor: int) -> Tensor:
    """Move pixel coordinates to an image of 1 / factor of the size."""
    return (uv + 0.5) / factor - 0.5


def pixel_of(uv: Tensor, size) -> Tensor:
    """Return the number of the pixel of an image of `size` that holds each position, (N,)."""
    column = torch.floor(uv[:, 0] + 0.5).clamp(0, size[1] - 1).long()
    row = torch.floor(uv[:, 1] + 0.5).clamp(0, size[0] - 1).long()
    return row * size[1] + column


def last_at_pixels(uv: Tensor, size) -> Tensor:
    """Return (H, W) numbers of the last sample of each pixel, -1 where there is none."""
    number = torch.arange(len(uv), device=uv.device)
    none = number.new_full((size[0] * size[1],), -1)
    return none.scatter_reduce(0, pixel_of(uv, size), number, 'amax').reshape(size)


def distance(uv: Tensor, valid: Tensor, size) -> Tensor:
    """
    Return the distance (H, W) in pixels of every pixel to the nearest valid sample.

    At one pixel in a hundred it is that to another one near by.
    """
    height, width = size
    occupied = torch.zeros(height * width, dtype=torch.int32, device=uv.device).scatter_reduce(
        0, pixel_of(uv, size), valid.int(), 'amax').reshape(size) > 0
    column = torch.arange(width, device=uv.device).expand(size)
    far = 2 * (height + width)
    left = torch.where(occupied, column, -far).cummax(1).values
    right = torch.where(occupied, column, width + far).flip(1).cummin(1).values.flip(1)
    across = torch.minimum(column - left, right - column).float().square()
    # Within a column: the row that is nearest hands itself on over 2^k rows at a time.
    row = torch.arange(height, device=uv.device)[:, None]
    source = row.expand(size)
    best = across
    bits = max(height - 1, 1).bit_length()
    for step in [1 << k for k in reversed(range(bits))] + [2, 1]:
        for other in (row - step, row + step):
            other = other.clamp(0, height - 1)
            theirs = source.gather(0, other.expand(size))
            cost = across.gather(0, theirs) + (row - theirs).float().square()
            nearer = cost < best
            best, source = torch.where(nearer, cost, best), torch.where(nearer, theirs, source)
    return best.sqrt()


def median(values: Tensor) -> Tensor:
    """Return the median of (N,): of an even number the mean of the two in the middle."""
    ordered = values.sort().values
    count = len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def radius_of(sigma: float) -> int:
    """Return the radius that OpenCV gives a Gaussian of that sigma on float images."""
    return (round(sigma * 8 + 1) | 1) // 2


def taps_of_window(sigma: float) -> int:
    """Return the radius of a window of two sigma to either side."""
    return math.ceil(2 * sigma)
