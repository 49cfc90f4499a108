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
What images are made of, by OpenCV on the CPU and by torch on any other device.

Maps are float32 (C, H, W) or (H, W), pixel centers at whole numbers; positions uv (N, 2) pixels,
u = column. No shape depends on the data, and nothing is read back from a GPU. Inside
`torch_on_cpu` the CPU, too, does what a GPU does.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Optional

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from steer_depth_ros.completion.background import finished, run_in_background
from steer_depth_ros.ops.constants import constant, number
from steer_depth_ros.ops.distance import distance_to_samples
from steer_depth_ros.ops.pixels import pixel_index

# sRGB to XYZ of the white point D65, as OpenCV has it; rows are divided by the white.
_XYZ = ((0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
        (0.212671, 0.715160, 0.072169),
        (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754))
# From the roots of XYZ to Lab.
_LAB, _LAB_OFFSET = ((0., 116., 0.), (500., -500., 0.), (0., 200., -200.)), ((-16.,), (0.,), (0.,))
_torch_on_cpu = ContextVar('torch_on_cpu', default=False)


@contextmanager
def torch_on_cpu():
    """Let torch do in the block what OpenCV does on the CPU."""
    before = _torch_on_cpu.set(True)
    try:
        yield
    finally:
        _torch_on_cpu.reset(before)


def by_opencv(maps: Tensor) -> bool:
    """Return whether OpenCV does what is asked of these maps."""
    return maps.device.type == 'cpu' and not _torch_on_cpu.get()


def meanwhile(function, data: Tensor, *args):
    """Return a Future of function(data, *args): in a second thread, unless a GPU takes orders."""
    if by_opencv(data):
        return run_in_background(function, data, *args)
    return finished(function(data, *args))


def smooth_lab(image: Tensor, sigma: float) -> Tensor:
    """Return CIELab (3, h, w) of an image uint8 (H, W, 3), smoothed and at half of its size."""
    if by_opencv(image):
        smooth = cv2.GaussianBlur(_halved(image.numpy()), (0, 0), sigma)
        found = cv2.cvtColor(smooth.astype(np.float32) * (1 / 255), cv2.COLOR_RGB2Lab)
        return torch.from_numpy(np.stack(cv2.split(found)))
    # Rounded as images of bytes are, and halves up.
    small = (downsample2(image.permute(2, 0, 1).float()) + 0.5).floor()
    smooth = (blur(small, sigma, round(3 * sigma), parts=256) + 0.5).floor()
    return lab(smooth / 255)


def lab(rgb: Tensor) -> Tensor:
    """Return CIELab (3, H, W) of sRGB (3, H, W) between 0 and 1, as OpenCV does."""
    linear = torch.where(rgb > 0.04045, line(rgb, 1 / 1.055, 0.055 / 1.055) ** 2.4, rgb / 12.92)
    xyz = number(_XYZ, rgb.device) @ linear.reshape(3, -1)
    root = torch.where(xyz > 0.008856, xyz ** (1 / 3), line(xyz, 7.787, 16 / 116))
    offset, to_lab = number(_LAB_OFFSET, rgb.device), number(_LAB, rgb.device)
    return torch.addmm(offset, to_lab, root).reshape(rgb.shape)


def blur(maps: Tensor, sigma: float, radius=None, parts: int = 0) -> Tensor:
    """
    Blur with a Gaussian of 2 * radius + 1 taps; borders are reflected.

    radius: None for that of OpenCV. parts: round the taps to 1 / parts, as OpenCV does for images
    of bytes.
    """
    radius = (round(sigma * 8 + 1) | 1) // 2 if radius is None else radius
    if by_opencv(maps) and not parts:
        return _each(maps, maps.shape[-2:], partial(
            cv2.GaussianBlur, ksize=(2 * radius + 1,) * 2, sigmaX=sigma))
    taps = _gaussian(sigma, radius, parts, maps.device)
    padded = _reflect(maps, radius).reshape(-1, 1, *(n + 2 * radius for n in maps.shape[-2:]))
    return F.conv2d(F.conv2d(padded, taps), taps.mT).reshape(maps.shape)


def sobel(plane: Tensor, scale: float) -> Tensor:
    """Return derivatives (2, H, W) of (H, W) along rows and along columns, 3 x 3 filters."""
    if by_opencv(plane):
        result = plane.new_empty(2, *plane.shape)
        for (dx, dy), target in zip(((0, 1), (1, 0)), result.numpy()):
            cv2.Sobel(plane.numpy(), cv2.CV_32F, dx, dy, target, scale=scale)
        return result
    across = tuple(tuple(scale * a * b for b in (1, 2, 1)) for a in (-1, 0, 1))
    taps = number((across, tuple(zip(*across))), plane.device)[:, None]
    return F.conv2d(_reflect(plane, 1)[None, None], taps)[0]


def downsample2(maps: Tensor) -> Tensor:
    """Average over 2 x 2 pixels; the last row and column count double."""
    height, width = maps.shape[-2:]
    if by_opencv(maps):
        return _each(maps, ((height + 1) // 2, (width + 1) // 2), _halved)
    planes = maps.reshape(1, -1, height, width)
    small = F.avg_pool2d(planes, 2, ceil_mode=True)  # counts what is there
    return small.reshape(*maps.shape[:-2], *small.shape[-2:])


def upsample(maps: Tensor, size, factor: int = 2) -> Tensor:
    """Bring maps of 1 / factor of the resolution back to `size` (H, W), bilinear."""
    large = [factor * n for n in maps.shape[-2:]]
    return (maps if factor == 1 else resize(maps, large))[..., :size[0], :size[1]]


def resize(maps: Tensor, size) -> Tensor:
    """Bring maps to `size` (H, W), bilinear."""
    if by_opencv(maps):
        return _each(maps, size, partial(cv2.resize, dsize=tuple(size[::-1])))
    planes = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(planes, size=tuple(size), mode='bilinear').reshape(
        *maps.shape[:-2], *size)


def area(maps: Tensor, size) -> Tensor:
    """Bring maps to a smaller `size` (H, W), averaging."""
    if by_opencv(maps):
        return _each(maps, size, partial(cv2.resize, dsize=tuple(size[::-1]),
                                         interpolation=cv2.INTER_AREA))
    return F.adaptive_avg_pool2d(maps, tuple(size))


def sample(maps: Tensor, uv: Tensor) -> Tensor:
    """Read maps at uv, bilinear, the nearest edge outside; return (C, N) or (N,)."""
    if by_opencv(maps):
        u, v = np.ascontiguousarray(uv.numpy().T)[..., None]
        return _each(maps, (len(u), 1), partial(_remap, u=u, v=v))[..., 0]
    height, width = maps.shape[-2:]
    scale = 2 / max(width - 1, 1), 2 / max(height - 1, 1)  # grid_sample wants -1 to 1
    grid = torch.addcmul(number(-1.0, uv.device), uv, number(scale, uv.device))
    read = F.grid_sample(maps.reshape(1, -1, height, width), grid[None, None],
                         mode='bilinear', padding_mode='border', align_corners=True)
    return read.reshape(*maps.shape[:-2], len(uv))


def to_scale(uv, factor):
    """Move pixel coordinates to an image of 1 / factor of the size."""
    if isinstance(uv, Tensor):
        return uv if factor == 1 else line(uv, 1 / factor, 0.5 / factor - 0.5)
    return (uv + 0.5) / factor - 0.5


def add_at(uv: Tensor, values: Tensor, size) -> Tensor:
    """Add values (C, N) up in the pixels of their positions, (C, H, W)."""
    total = values.new_zeros(len(values), size[0] * size[1])
    return total.index_add_(1, pixel_index(uv, size), values).reshape(-1, *size)


def distance(uv: Tensor, valid: Optional[Tensor], size) -> Tensor:
    """
    Return the distance (H, W) in pixels of every pixel to the nearest valid sample; None: of all.

    OpenCV goes in steps to one of eight neighbors, the operator is exact.
    """
    if by_opencv(uv):
        empty = np.ones(size, np.uint8)
        pixel = pixel_index(uv, size)
        empty.ravel()[(pixel if valid is None else pixel[valid]).numpy()] = 0
        return torch.from_numpy(cv2.distanceTransform(empty, cv2.DIST_L2, 3))
    return distance_to_samples(uv, valid, size)


def median(values: Tensor) -> Tensor:
    """Return the median of (N,): of an even number the mean of the two in the middle."""
    if by_opencv(values):
        return torch.from_numpy(np.median(values.numpy(), keepdims=True))[0]
    ordered = values.sort().values
    count = len(values)
    return torch.lerp(ordered[(count - 1) // 2], ordered[count // 2], 0.5)


def line(x, slope, offset):
    """Return slope * x + offset at once."""
    return torch.add(number(offset, x.device), x, alpha=slope)


def _each(maps, size, operation):
    """Return (C, *size) or `size`: of every plane what operation(plane, dst=...) writes."""
    if maps.dim() == 2:
        return _each(maps[None], size, operation)[0]
    result = maps.new_empty(len(maps), *size)
    for plane, target in zip(maps.numpy(), result.numpy()):
        operation(plane, dst=target)
    return result


def _halved(image, dst=None):
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), dst,
                      interpolation=cv2.INTER_AREA)


def _remap(plane, u, v, dst, most=30000):
    for k in range(0, len(u), most):  # cv2.remap takes no more than 32767 rows
        cv2.remap(plane, u[k:k + most], v[k:k + most], cv2.INTER_LINEAR, dst[k:k + most],
                  cv2.BORDER_REPLICATE)


@constant
def _gaussian(sigma, radius, parts, device):
    """Return taps (1, 1, 1, 2 * radius + 1)."""
    taps = np.exp(np.square(np.arange(-radius, radius + 1)) * (-0.5 / sigma ** 2))
    taps /= taps.sum()
    taps = np.round(taps * parts) / parts if parts else taps
    return torch.tensor(taps[None, None, None], dtype=torch.float32).to(device)


@constant
def _mirrored(length, radius, device):
    """Return where to read a row that is reflected without its edge, however often it takes."""
    period = max(2 * length - 2, 1)
    at = np.arange(-radius, length + radius) % period
    return torch.from_numpy(np.minimum(at, period - at) if length > 1 else 0 * at).to(device)


def _reflect(maps, radius):
    rows, columns = (_mirrored(n, radius, maps.device) for n in maps.shape[-2:])
    return maps[..., rows[:, None], columns]
