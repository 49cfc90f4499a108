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
Recorded frames in folders: an image, a cloud or a depth image, and the calibration.

A frame folder holds rgb.png (or image.png, image.jpg); lidar.bin (N x 4 float32: x, y, z,
intensity), lidar.npy (N, 3 or more columns) or depth.png; meta.json; and gt.png where the truth is
known. meta.json gives fx, fy, cx, cy, and where they apply distortion (OpenCV's order) with
distortion_model, T_cam_lidar (16 numbers, row-major, LiDAR frame to optical frame), depth_scale
(metres = value / depth_scale) and stamp_ns.
"""
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Iterator, List, Optional

import cv2
import numpy as np

from steer_depth_ros.errors import DatasetError, SteerDepthError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import (
    project_points,
    sparse_from_depth_image,
    SparseDepth,
)
from steer_depth_ros.image_decode import decode_picture

IMAGES = ('rgb.png', 'image.png', 'image.jpg', 'rgb.jpg')
CLOUDS = ('lidar.bin', 'lidar.npy')
TIFF = ('.tif', '.tiff')
PERIOD_NS = 100_000_000
FIRST_STAMP_NS = 1_000_000_000  # a stamp of zero means "latest" to tf
LAST_STAMP_NS = 2 ** 31 * 1_000_000_000 - 1  # a message's seconds have 32 bit


@dataclass
class RecordedFrame:
    """A frame, the name of its folder and, where known, the truth (H, W) metres, NaN unknown."""

    name: str
    frame: Frame
    depth_image: Optional[np.ndarray] = None  # float32 (H, W) metres, when it came as an image
    truth: Optional[np.ndarray] = None


def find_frames(folder) -> List[Path]:
    """Return the frame folders: the folder itself, or those inside it in the order of names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f'{folder} is not a folder of frames; give one that holds meta.json, '
                           'or folders that do')
    if (folder / 'meta.json').exists() or _first(folder, IMAGES):
        return [folder]
    found = sorted(p for p in folder.iterdir() if p.is_dir() and _first(p, IMAGES))
    if not found:
        raise DatasetError(f'{folder} holds no frames: expected rgb.png, lidar.bin or depth.png '
                           'and meta.json, in it or in its subfolders')
    return found


def read_frames(folder) -> Iterator[RecordedFrame]:
    """Read every frame of a folder in order; without stamps in meta.json they are 10 Hz apart."""
    for index, path in enumerate(find_frames(folder)):
        yield read_frame(path, FIRST_STAMP_NS + index * PERIOD_NS)


def read_frame(folder, stamp_ns=FIRST_STAMP_NS) -> RecordedFrame:
    """
    Read one frame folder.

    stamp_ns: used where meta.json has none. Raise DatasetError naming the file that is missing
    or damaged.
    """
    folder = Path(folder)
    meta = _read_json(folder / 'meta.json')
    image = read_image(_need(folder, IMAGES))
    camera = camera_from_meta(meta, image.shape[:2], folder / 'meta.json')
    frame = Frame(image=image, camera=camera, stamp_ns=_whole(
        meta, 'stamp_ns', stamp_ns, folder / 'meta.json', LAST_STAMP_NS))
    recorded = RecordedFrame(folder.name, frame)
    if _first(folder, CLOUDS):
        frame.points = read_cloud(_need(folder, CLOUDS))
        frame.camera_from_points = _extrinsics(meta, folder / 'meta.json')
    else:
        path = _need(folder, ('depth.png', *CLOUDS))
        depth = read_depth(path, _scale(meta, 'depth', path), image.shape[:2])
        recorded.depth_image = depth
        frame.sparse = sparse_from_depth_image(depth)
    if (folder / 'gt.png').exists():
        path = folder / 'gt.png'
        recorded.truth = read_depth(path, _scale(meta, 'gt', path), image.shape[:2])
    return recorded


def read_image(path) -> np.ndarray:
    """Read an 8 bit image as uint8 (H, W, 3) RGB."""
    image = _decode(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depth(path, scale, size=None) -> np.ndarray:
    """
    Read a depth image as float32 (H, W) metres, NaN where it holds no value.

    path: PNG of 16 bit, value / `scale` metres with 0 for unknown; .npy or .tiff hold metres.
    size: (H, W) it must have.
    """
    path = Path(path)
    if path.suffix == '.npy':
        depth = _load_npy(path).astype(np.float32)
    else:
        depth = _decode(path, cv2.IMREAD_UNCHANGED)
        if depth.dtype == np.uint16:
            depth = depth.astype(np.float32) / np.float32(scale)
    if depth.ndim != 2 or depth.dtype != np.float32:
        raise DatasetError(f'{path} is no depth image: it has {depth.dtype} values of shape '
                           f'{depth.shape}; expected one channel of 16 bit, or of floats')
    if size is not None and depth.shape != tuple(size):
        raise DatasetError(f'{path} has {depth.shape[1]} x {depth.shape[0]} pixels but its image '
                           f'has {size[1]} x {size[0]}; register the depth to the image first')
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def read_cloud(path) -> np.ndarray:
    """Read a cloud, float32 (N, 3) metres: .bin of N x 4 float32, or .npy of 3 columns or more."""
    path = Path(path)
    if path.suffix == '.npy':
        points = _load_npy(path)
    else:
        values = np.frombuffer(_read_bytes(path), np.uint8)
        if len(values) % 16:
            raise DatasetError(f'{path} is damaged: its {len(values)} bytes are no whole number '
                               'of points of 4 float32 (x, y, z, intensity)')
        points = values.view(np.float32).reshape(-1, 4)
    if points.ndim != 2 or points.shape[1] < 3:
        raise DatasetError(f'{path} holds an array of shape {points.shape}; '
                           'expected (N, 3) or more columns')
    return np.ascontiguousarray(points[:, :3], np.float32)


def read_calibrated_cloud(cloud, calibration, size) -> SparseDepth:
    """Project a cloud file into an image of `size` (H, W) with the calibration of a JSON file."""
    meta = _read_json(calibration)
    camera = camera_from_meta(meta, size, calibration)
    return project_points(read_cloud(cloud), camera, _extrinsics(meta, calibration))


def camera_from_meta(meta, size, path) -> Camera:
    """Build the camera from a calibration dict; `path` names its file in errors."""
    height, width = size
    declared = _whole(meta, 'width', width, path), _whole(meta, 'height', height, path)
    if declared != (width, height):
        raise DatasetError(f'{path} is the calibration of an image of {declared[0]} x '
                           f'{declared[1]} pixels, but the image has {width} x {height}')
    missing = [key for key in ('fx', 'fy', 'cx', 'cy') if meta.get(key) is None]
    if missing:
        raise DatasetError(f'{path} lacks the calibration: {", ".join(missing)}; add the '
                           'intrinsics of the camera in pixels')
    fx, fy, cx, cy = (_number(meta[key], key, path) for key in ('fx', 'fy', 'cx', 'cy'))
    distortion = _numbers(meta.get('distortion') or [], 'distortion', path).ravel()
    # Without a name the count tells OpenCV's models apart.
    default = 'rational_polynomial' if len(distortion) > 5 else 'plumb_bob'
    model = str(meta.get('distortion_model') or default) if len(distortion) else ''
    try:
        return Camera.from_calibration(width, height, [fx, 0, cx, 0, fy, cy, 0, 0, 1],
                                       distortion, model)
    except SteerDepthError as error:
        raise DatasetError(f'{path}: {error}') from None


def _extrinsics(meta, path):
    values = _numbers(meta.get('T_cam_lidar') or [], 'T_cam_lidar', path)
    if values.size != 16 or not np.isfinite(values).all():
        raise DatasetError(f'{path} lacks T_cam_lidar, the 16 numbers (row-major) that take the '
                           'cloud into the camera; add them from the calibration')
    return values.reshape(4, 4)


def _scale(meta, name, path):
    """Values a metre of an image: its own entry, or depth_scale."""
    own = meta.get(name)
    scale = (own.get('scale') if isinstance(own, dict) else None) or meta.get('depth_scale')
    scale = _number(scale, 'the scale', path) if scale else 0.0
    if not 0 < scale < np.inf:
        raise DatasetError(f'meta.json beside {path} lacks depth_scale (metres = value / '
                           'depth_scale); add it')
    return scale


def _numbers(values, name, path):
    """Read what JSON gave as float64."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f'{path}: {name} must be numbers; correct the calibration') from None


def _number(value, name, path):
    number = _numbers(value, name, path)
    if number.ndim:
        raise DatasetError(f'{path}: {name} must be one number; correct the calibration')
    return float(number)


def _whole(meta, name, default, path, most=2 ** 31):
    """Read a whole number from 0 to `most`, or the default where there is none."""
    value = default if meta.get(name) is None else meta[name]
    if not 0 <= _number(value, name, path) <= most:
        raise DatasetError(f'{path}: {name} must be from 0 to {most}; correct it')
    return int(value)


def _first(folder, names):
    return next((folder / name for name in names if (folder / name).exists()), None)


def _need(folder, names):
    found = _first(folder, names)
    if found is None:
        raise DatasetError(f'{folder} has no {" or ".join(names)}')
    return found


def _read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f'cannot read {path}: {error.strerror}') from None


def _read_json(path):
    try:
        meta = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path} is no valid JSON: {error}') from None
    if not isinstance(meta, dict):
        raise DatasetError(f'{path} holds no JSON object with the calibration')
    return meta


def _decode(path, flags):
    data = np.frombuffer(_read_bytes(path), np.uint8)
    # A camera's orientation tag must not turn the image away from its calibration.
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    decode = _decode_tiff if Path(path).suffix in TIFF else decode_picture
    image = decode(data, flags)
    if image is None:
        raise DatasetError(f'{path} cannot be decoded: it is damaged or no image')
    return image


def _decode_tiff(data, flags):
    try:
        return cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:
        return None


def _load_npy(path):
    _read_bytes(path)
    try:
        # Mapped, so that a header that promises too much allocates nothing.
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # whatever a damaged header leads to when numpy parses it
        reason = str(error) or type(error).__name__
        raise DatasetError(f'{path} is no array file: {reason}') from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
        raise DatasetError(f'{path} is no array file of numbers; write it with numpy.save')
    return array
