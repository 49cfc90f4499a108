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
"""Reading, shrinking and enlarging maps; pixel centers lie at whole numbers."""
import cv2
import numpy as np
import torch

from steer_depth_ros.geometry.projection import pixel_of


def as_batch_tensor(array):
    """Make a float32 tensor with a leading dimension of 1."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def sample_bilinear(maps, uv):
    """Read maps (H, W, C) at uv (1, N, 2), bilinear; return (N, C)."""
    grid = uv[0, :, None].numpy()
    # cv2.remap takes no more than 32767 rows.
    parts = [cv2.remap(maps, np.ascontiguousarray(part[..., 0]),
                       np.ascontiguousarray(part[..., 1]), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)
             for part in np.array_split(grid, len(grid) // 30000 + 1)]
    return np.concatenate(parts).reshape(grid.shape[0], -1)


def one_per_pixel(uv, size):
    """Choose of samples at uv (N, 2) one for each pixel of `size` (H, W); return indices."""
    sample = np.full(size, -1)
    sample[pixel_of(uv, size)] = np.arange(len(uv))
    return np.sort(sample[sample >= 0])


def to_scale(uv, factor):
    """Move pixel coordinates to an image of 1 / factor of the size."""
    return (uv + 0.5) / factor - 0.5


def downsample2(image):
    """Average an image (H, W, ...) over 2 x 2 pixels; the last row and column count double."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def upsample(small, size, factor=2):
    """Bring a map of 1 / factor of the resolution back to `size` (H, W)."""
    height, width = size
    full = cv2.resize(small, (factor * small.shape[1], factor * small.shape[0]))
    return np.ascontiguousarray(full[:height, :width])
