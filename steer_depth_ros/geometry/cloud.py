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
"""Convert dense depth to a colored point cloud in the layout of a PointCloud2."""
from typing import Optional

import cv2
import numpy as np

from steer_depth_ros.errors import ConfigError, FrameError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ops.flying_points import flying_points, row_bands

NO_COLOR = 0x00FFFFFF
INVISIBLE = np.uint32(0x00FFFFFF)  # clears alpha, with which rgb as a float would be NaN


def depth_to_cloud(depth: np.ndarray, camera: Camera, image: Optional[np.ndarray] = None,
                   confidence: Optional[np.ndarray] = None, stride: int = 1,
                   voxel_m: Optional[float] = None, min_confidence: float = 0.0,
                   edge_filter: bool = True, organized: bool = False) -> np.ndarray:
    """
    Convert a depth image to a point cloud in the camera's optical frame.

    depth: float32 (H, W) meters, NaN or 0 where unknown; same size as `camera`.
    image: uint8 (H, W, 3) RGB for the color; white if None. confidence: float32 (H, W);
    points below `min_confidence` are left out.
    stride: take every stride-th pixel of every stride-th row.
    voxel_m: keep one measured point (the first in row order) in each cube of this size.
    edge_filter: remove `flying_points`.
    organized: keep the image grid.

    Return float32 (N, 4), or (ceil(H / stride), ceil(W / stride), 4) with NaN x, y, z when
    organized. The columns are x, y, z in meters and the color, whose 32 bits are 0x00RRGGBB:
    PointCloud2 fields x, y, z, rgb of FLOAT32 at offsets 0, 4, 8, 12 with a point_step of 16.
    Copy the color as bytes; its value as a float is meaningless.
    Raise FrameError if sizes differ and ConfigError for contradictory options.
    """
    _check(depth, camera, image, confidence, stride, voxel_m, organized)
    keep = _kept(depth, camera, confidence, min_confidence, edge_filter)[::stride, ::stride]
    z = depth[::stride, ::stride]
    rays = camera.rays()[::stride, ::stride]
    image = None if image is None else image[::stride, ::stride]
    if organized:
        cloud = np.empty((*z.shape, 4), np.float32)
        for band in row_bands(z.shape):
            cloud[band] = _points(np.where(keep[band], z[band], np.float32(np.nan)), rays[band],
                                  None if image is None else image[band])
        return cloud
    points = np.empty((np.count_nonzero(keep), 4), np.float32)
    filled = 0
    for band in row_bands(z.shape):
        chosen = _points(z[band], rays[band], None if image is None else image[band])
        if not keep[band].all():
            chosen = _rows(chosen, keep[band])
        chosen = chosen.reshape(-1, 4)
        points[filled:filled + len(chosen)] = chosen
        filled += len(chosen)
    return points if voxel_m is None else _one_per_voxel(points, voxel_m)


def _check(depth, camera, image, confidence, stride, voxel_m, organized):
    size = (camera.height, camera.width)
    for name, array in (('depth', depth), ('image', image), ('confidence', confidence)):
        if array is not None and array.shape[:2] != size:
            raise FrameError(f'{name} has shape {array.shape}, the camera describes {size[1]} x '
                             f'{size[0]} pixels; scale the camera or the {name}')
    if stride < 1:
        raise ConfigError(f'the stride of the cloud is {stride}; it must be 1 or more')
    if voxel_m is not None and (organized or not voxel_m > 0):
        raise ConfigError(f'voxel_m is {voxel_m}; it must be positive, and an organized cloud '
                          'cannot have voxels: use stride instead')


def _kept(depth, camera, confidence, min_confidence, edge_filter):
    keep = (depth > 0) & (depth < np.inf)
    if camera.model != 'pinhole':
        keep &= np.isfinite(camera.rays()[..., 0])  # the lens may not cover the whole image
    if confidence is not None and min_confidence > 0:
        keep &= confidence >= min_confidence
    if edge_filter:
        keep &= ~flying_points(depth)
    return keep


def _points(z, rays, image):
    """Return the points of a band of rows, float32 (h, W, 4)."""
    z = np.ascontiguousarray(z, dtype=np.float32)
    return cv2.merge([z * rays[..., 0], z * rays[..., 1], z, _packed(image, z.shape)])


def _packed(image, shape):
    """Return colors as float32 (h, W) whose bits are 0x00RRGGBB."""
    if image is None:
        return np.full(shape, NO_COLOR, np.uint32).view(np.float32)
    packed = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGRA).view('<u4')[..., 0]
    packed &= INVISIBLE
    return packed.view(np.float32)


def _rows(points, keep):
    # Viewed as one 16-byte item per point, rows are copied as a whole instead of by floats.
    items = points.reshape(-1, 4).view(np.complex128)[:, 0]
    return items[keep.ravel()].view(np.float32)


def _one_per_voxel(points, voxel_m):
    cell = np.floor(points[:, :3] / np.float32(voxel_m)).astype(np.int64)
    cell -= cell.min(axis=0, initial=0)
    spans = cell.max(axis=0, initial=0) + 1
    key = (cell[:, 2] * spans[1] + cell[:, 1]) * spans[0] + cell[:, 0]
    return points[np.sort(np.unique(key, return_index=True)[1])]
