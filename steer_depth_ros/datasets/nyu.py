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
NYUv2 as packed by sparse-to-dense: h5 files listed in a csv, prepared as in the 2021 release.

An h5 file holds `rgb`, uint8 (3, 480, 640), and `depth`, float32 (480, 640) meters. The folder
holds nyudepth_hdf5_train.csv and nyudepth_hdf5_val.csv with one relative path per row.
"""
from pathlib import Path
from typing import List

import numpy as np
import torch
from torch.nn import functional

from steer_depth_ros.datasets.base import MeasuredFrame, MeasuredFrames
from steer_depth_ros.errors import ConfigError, DatasetError
from steer_depth_ros.geometry.camera import Camera

SPLITS = ('train', 'val')
SHORT_SIDE = 240
CROP = (228, 304)
# Intrinsics of the color camera at 640 x 480, published with the NYUv2 toolbox.
FX, FY, CX, CY = 518.857901, 519.469611, 325.582449, 253.736166
FULL_WIDTH = 640


class NyuFrames(MeasuredFrames):
    """
    NYUv2 at 228 x 304 with drawn samples; frames are described in `MeasuredFrames`.

    data_dir: the folder with the csv files. split: 'train' or 'val' (the 654 test frames).
    Raise DatasetError if the list, or a file when reading, is missing or corrupt.
    """

    def __init__(self, data_dir, split: str = 'val', pattern: str = 'random:500', seed: int = 0):
        super().__init__(pattern, seed)
        self.data_dir = Path(data_dir)
        if split not in SPLITS:
            raise ConfigError(f"NYUv2 has no split '{split}', only {' and '.join(SPLITS)}")
        self.paths = _listed(self.data_dir, f'nyudepth_hdf5_{split}.csv')

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> MeasuredFrame:
        """Read one frame, resize its short side to 240 and crop its center."""
        path = self.paths[index]
        image, depth = prepare(*read_h5(path))
        depth = np.where(depth > 0, depth, np.nan).astype(np.float32)
        return MeasuredFrame(f'{path.parent.name}/{path.stem}', image, depth, depth, camera())


def read_h5(path):
    """
    Read one file: uint8 (H, W, 3) RGB and float32 (H, W) meters.

    Raise DatasetError naming the file when it is missing, corrupt or of another layout.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError(f'reading {path} needs h5py: pip install h5py') from None
    if not Path(path).is_file():
        raise DatasetError(f'{path} is listed but missing; unpack the data set completely')
    try:
        with h5py.File(path, 'r') as file:
            image, depth = np.asarray(file['rgb']), np.asarray(file['depth'])
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).strip('\'"').splitlines()[0]
        raise DatasetError(f'{path} is corrupt or holds no rgb and depth ({reason}); unpack it '
                           'again') from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (3, *depth.shape):
        raise DatasetError(f'{path} holds rgb {image.dtype} {image.shape} and depth '
                           f'{depth.shape}; expected uint8 (3, H, W) and (H, W)')
    if min(depth.shape) < SHORT_SIDE:
        raise DatasetError(f'{path} holds images of {depth.shape[1]} x {depth.shape[0]} pixels; '
                           f'the short side must have {SHORT_SIDE}')
    return np.ascontiguousarray(image.transpose(1, 2, 0)), depth.astype(np.float32)


def prepare(image, depth):
    """
    Resize the short side to 240 and crop the center to 228 x 304, as the release does.

    image: uint8 (H, W, 3), resized with Pillow's bilinear filter, which averages when shrinking.
    depth: float32 (H, W), nearest pixel.
    """
    height, width = depth.shape
    scale = SHORT_SIDE / min(height, width)
    size = (round(height * scale), round(width * scale))
    image = functional.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], size,
                                   mode='bilinear', antialias=True)[0].permute(1, 2, 0)
    depth = functional.interpolate(torch.from_numpy(depth)[None, None], size,
                                   mode='nearest-exact')[0, 0]
    top, left = (size[0] - CROP[0]) // 2, (size[1] - CROP[1]) // 2
    window = np.s_[top:top + CROP[0], left:left + CROP[1]]
    return np.ascontiguousarray(image.numpy()[window]), np.ascontiguousarray(depth.numpy()[window])


def camera() -> Camera:
    """Return the intrinsics of a prepared frame, for point clouds; the network needs none."""
    scale = SHORT_SIDE * 4 / 3 / FULL_WIDTH
    left, top = (SHORT_SIDE * 4 // 3 - CROP[1]) / 2, (SHORT_SIDE - CROP[0]) / 2
    return Camera(CROP[1], CROP[0], FX * scale, FY * scale, (CX + 0.5) * scale - 0.5 - left,
                  (CY + 0.5) * scale - 0.5 - top)


def _listed(data_dir, name) -> List[Path]:
    path = data_dir / name
    try:
        rows = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'not a text file'
        raise DatasetError(f'cannot read {path} ({reason}); --data-dir must be the folder that '
                           'holds it') from None
    names = [row.split(',')[0].strip() for row in rows]
    names = [n for n in names if n.endswith('.h5')]
    if not names:
        raise DatasetError(f'{path} lists no .h5 file; expected one relative path per row')
    # In some archives the files are in a subfolder beside the lists.
    inner = data_dir / 'nyudepth_hdf5'
    root = data_dir if (data_dir / names[0]).exists() or not inner.is_dir() else inner
    return [root / n for n in names]
