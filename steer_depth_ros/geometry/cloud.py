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
"""From dense depth to a coloured point cloud, laid out as a PointCloud2 wants it."""
from typing import Optional

import cv2
import numpy as np

from steer_depth_ros.errors import ConfigError, FrameError
from steer_depth_ros.geometry.camera import Camera

POINT_STEP = 16  # bytes: x, y, z, rgb, float32 each, rgb at offset 12
STEP = 0.05  # relative change of depth over an edge that counts as a step
BAND_PIXELS = 1 << 15
REACH = 2  # pixels over which a smeared edge still counts as one step
NO_COLOUR = 0x00FFFFFF
INVISIBLE = np.uint32(0x00FFFFFF)  # mask that clears alpha: with it set, rgb would be a NaN


def depth_to_cloud(depth: np.ndarray, camera: Camera, image: Optional[np.ndarray] = None,
                   confidence: Optional[np.ndarray] = None, stride: int = 1,
                   voxel_m: Optional[float] = None, min_confidence: float = 0.0,
                   edge_filter: bool = True, organised: bool = False) -> np.ndarray:
    """
    Turn a depth image into a cloud in the camera's optical frame.

    depth: float32 (H, W) metres, NaN or 0 where unknown; of the size that `camera` describes.
    image: uint8 (H, W, 3) RGB for the colour, white without. confidence: float32 (H, W);
    points below `min_confidence` are left out.
    stride: take every stride-th pixel of every stride-th row.
    voxel_m: keep one measured point (the first in row order) in each cube of this size.
    edge_filter: leave out `flying_points`.
    organised: keep the grid.

    Return float32 (N, 4), or (ceil(H / stride), ceil(W / stride), 4) with NaN x, y, z when
    organised. The columns are x, y, z in metres and the colour, whose 32 bits are 0x00RRGGBB:
    PointCloud2 fields x, y, z, rgb of FLOAT32 at offsets 0, 4, 8, 12 with a point_step of 16.
    Move it as bytes: as a number the colour means nothing.
    Raise FrameError when sizes differ and ConfigError for options that contradict.
    """
    _check(depth, camera, image, confidence, stride, voxel_m, organised)
    keep = _kept(depth, camera, confidence, min_confidence, edge_filter)[::stride, ::stride]
    z = depth[::stride, ::stride]
    rays = camera.rays()[::stride, ::stride]
    image = None if image is None else image[::stride, ::stride]
    if organised:
        cloud = np.empty((*z.shape, 4), np.float32)
        for band in _bands(z.shape):
            cloud[band] = _points(np.where(keep[band], z[band], np.float32(np.nan)), rays[band],
                                  None if image is None else image[band])
        return cloud
    points = np.empty((np.count_nonzero(keep), 4), np.float32)
    filled = 0
    for band in _bands(z.shape):
        chosen = _points(z[band], rays[band], None if image is None else image[band])
        if not keep[band].all():
            chosen = _rows(chosen, keep[band])
        chosen = chosen.reshape(-1, 4)
        points[filled:filled + len(chosen)] = chosen
        filled += len(chosen)
    return points if voxel_m is None else _one_per_voxel(points, voxel_m)


def flying_points(depth: np.ndarray) -> np.ndarray:
    """
    Find the pixels that hang in the air between foreground and background.

    depth: float32 (H, W) metres, NaN or 0 where unknown. Return bool (H, W), true for a pixel
    inside a step of depth, clearly off both its sides. The pixels on the two sides of a sharp
    step stay, and so does a slanted plane, which goes on at the same rate on both sides.
    """
    from steer_depth_ros.ops import native  # torch, which not all who import this module need

    # In inverse depth a plane is linear over the image.
    depth = np.asarray(depth, np.float32)
    with np.errstate(all='ignore'):
        inverse = np.where(depth > 0, np.float32(1.0) / depth, np.float32(np.nan))
    edge = 2 * REACH
    padded = cv2.copyMakeBorder(inverse, edge, edge, edge, edge, cv2.BORDER_CONSTANT,
                                value=float('nan'))
    name = native.cpu_name()
    if name is None:
        return _flying_points(padded, depth.shape)
    flying = np.empty(depth.shape, bool)
    native.load(name).steer_flying_points(padded.ctypes.data, *depth.shape, flying.ctypes.data)
    return flying


def _flying_points(padded, shape):
    """Do what csrc/flying_points.cpp does, where no compiler was at hand."""
    edge, flying = 2 * REACH, np.zeros(shape, bool)
    for band in _bands(shape):
        rows = padded[band.start:band.stop + 2 * edge]
        found = np.zeros(rows.shape, bool)
        at = _candidates(rows.ravel(), rows.shape[1])
        found.ravel()[at] = _inside_step(rows.ravel(), rows.shape[1], at)
        flying[band] = found[edge:-edge, edge:-edge]
    return flying


def _candidates(inverse, width):
    """Find where the slope ends within a few pixels, which it does not do on a plane."""
    border = 2 * REACH * (width + 1)
    inner = slice(border, len(inverse) - border)
    bend = np.zeros(len(inverse) - 2 * border, np.float32)
    for direction in (1, width):
        for reach in range(1, REACH + 1):
            near, far = reach * direction, 2 * reach * direction
            change = inverse[border + near:][:len(bend)] - inverse[border - near:][:len(bend)]
            change += change
            change -= inverse[border + far:][:len(bend)]
            change += inverse[border - far:][:len(bend)]
            np.fmax(bend, np.abs(change, out=change), out=bend)
    return np.flatnonzero(bend > np.float32(0.5 * STEP) * inverse[inner]) + border


def _inside_step(inverse, width, at):
    """Tell for the pixels `at` whether a step, flat on both sides, passes through them."""
    # What is unknown is NaN and compares false.
    found = np.zeros(len(at), bool)
    for direction in (1, width):  # a diagonal edge is a step along both
        for reach in range(1, REACH + 1):
            near, far = reach * direction, 2 * reach * direction
            one, other = inverse[at - near], inverse[at + near]
            step = np.abs(one - other)
            steep = np.flatnonzero(step > STEP * np.maximum(one, other))
            one, other, step, pixel = one[steep], other[steep], step[steep], at[steep]
            here = inverse[pixel]
            beyond_one, beyond_other = inverse[pixel - far], inverse[pixel + far]
            off = np.minimum(np.abs(here - one), np.abs(other - here))
            flat = np.abs(beyond_one - one) + np.abs(beyond_other - other) < 0.5 * step
            found[steep] |= ((one - here) * (here - other) > 0) & (off > 0.2 * step) & flat
    return found


def _check(depth, camera, image, confidence, stride, voxel_m, organised):
    size = (camera.height, camera.width)
    for name, array in (('depth', depth), ('image', image), ('confidence', confidence)):
        if array is not None and array.shape[:2] != size:
            raise FrameError(f'{name} has shape {array.shape}, the camera describes {size[1]} x '
                             f'{size[0]} pixels; scale the camera or the {name}')
    if stride < 1:
        raise ConfigError(f'the stride of the cloud is {stride}; it must be 1 or more')
    if voxel_m is not None and (organised or not voxel_m > 0):
        raise ConfigError(f'voxel_m is {voxel_m}; it must be positive, and an organised cloud '
                          'cannot have voxels: use stride instead')


def _kept(depth, camera, confidence, min_confidence, edge_filter):
    keep = (depth > 0) & (depth < np.inf)
    if camera.model != 'pinhole':
        keep &= np.isfinite(camera.rays()[..., 0])  # a lens may not fill its image
    if confidence is not None and min_confidence > 0:
        keep &= confidence >= min_confidence
    if edge_filter:
        keep &= ~flying_points(depth)
    return keep


def _bands(shape):
    """Bands of rows small enough that what is computed on the way stays in the cache."""
    rows = max(1, BAND_PIXELS // max(shape[1], 1))
    return [slice(first, first + rows) for first in range(0, shape[0], rows)]


def _points(z, rays, image):
    """Points of a band of rows, float32 (h, W, 4)."""
    z = np.ascontiguousarray(z, dtype=np.float32)
    return cv2.merge([z * rays[..., 0], z * rays[..., 1], z, _packed(image, z.shape)])


def _packed(image, shape):
    """Colours as float32 (h, W) whose bits are 0x00RRGGBB."""
    if image is None:
        return np.full(shape, NO_COLOUR, np.uint32).view(np.float32)
    packed = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGRA).view('<u4')[..., 0]
    packed &= INVISIBLE
    return packed.view(np.float32)


def _rows(points, keep):
    # As one 16-byte item a point, copying goes by whole items instead of by single floats.
    items = points.reshape(-1, 4).view(np.complex128)[:, 0]
    return items[keep.ravel()].view(np.float32)


def _one_per_voxel(points, voxel_m):
    cell = np.floor(points[:, :3] / np.float32(voxel_m)).astype(np.int64)
    cell -= cell.min(axis=0, initial=0)
    spans = cell.max(axis=0, initial=0) + 1
    key = (cell[:, 2] * spans[1] + cell[:, 1]) * spans[0] + cell[:, 0]
    return points[np.sort(np.unique(key, return_index=True)[1])]
