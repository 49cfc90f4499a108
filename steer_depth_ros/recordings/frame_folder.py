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
Read frame folders: an image, a cloud or a depth image, and the calibration.

A frame folder holds rgb or image (.png, .jpg, ...); lidar (.bin of 4, 5 or 6 float32 per point,
.npy, .pcd, ...) or depth (.png, .tiff, .npy, ...); meta.json; and gt (like depth) if the ground
truth is known. meta.json gives fx, fy, cx, cy and, where applicable, distortion (OpenCV's order)
with distortion_model, T_cam_lidar (16 numbers, row-major, LiDAR frame to optical frame),
depth_scale (meters = value / depth_scale for integers; floats are meters unless
"depth": {"scale": ...} says otherwise), "lidar": {"columns": N} of lidar.bin, and stamp_ns. A
depth image may have a lower resolution than its image.
"""
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Iterator, List, Optional

import numpy as np

from steer_depth_ros.errors import DatasetError, SteerDepthError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import sparse_from_depth_image
from steer_depth_ros.recordings.cloud_files import ENDINGS, read_cloud_and_echo
from steer_depth_ros.recordings.image_files import (
    DEPTHS,
    PICTURES,
    read_bytes,
    read_depth,
    read_image,
    spread,
)

IMAGES = ('rgb', 'image'), PICTURES
CLOUDS = ('lidar',), ENDINGS
DEPTH, TRUTH = (('depth',), DEPTHS), (('gt',), DEPTHS)
FLOATS = ('.npy', '.npz', '.exr', '.pfm', '.tif', '.tiff')  # formats that can hold meters
PERIOD_NS = 100_000_000
FIRST_STAMP_NS = 1_000_000_000  # a stamp of zero means "latest" to tf
LAST_STAMP_NS = 2 ** 31 * 1_000_000_000 - 1  # the seconds of a stamp have 32 bits


@dataclass
class RecordedFrame:
    """A frame, the name of its folder and the ground truth (H, W) meters, if known."""

    name: str
    frame: Frame
    depth_image: Optional[np.ndarray] = None  # float32 (H, W) meters, if the depth is an image
    truth: Optional[np.ndarray] = None


def find_frames(folder) -> List[Path]:
    """Return the frame folders: the folder itself, or those inside it, sorted by name."""
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
    """Yield the frames of a folder; without stamps in meta.json they are 0.1 s apart."""
    for index, path in enumerate(find_frames(folder)):
        yield read_frame(path, FIRST_STAMP_NS + index * PERIOD_NS)


def read_frame(folder, stamp_ns=FIRST_STAMP_NS) -> RecordedFrame:
    """
    Read one frame folder.

    stamp_ns: used if meta.json has none. Raise DatasetError naming the file that is missing
    or damaged.
    """
    folder = Path(folder)
    meta = _read_json(folder / 'meta.json')
    image = read_image(_need(folder, IMAGES))
    camera = camera_from_meta(meta, image.shape[:2], folder / 'meta.json')
    frame = Frame(image=image, camera=camera, stamp_ns=_whole(
        meta, 'stamp_ns', stamp_ns, folder / 'meta.json', LAST_STAMP_NS))
    recorded = RecordedFrame(folder.name, frame)
    size = image.shape[:2]
    if _first(folder, CLOUDS):
        columns = _own(meta, 'lidar').get('columns')
        frame.points, frame.echo = read_cloud_and_echo(_need(folder, CLOUDS), columns)
        frame.camera_from_points = _extrinsics(meta, folder / 'meta.json')
    else:
        depth = _read_depth(_need(folder, DEPTH, CLOUDS), meta, 'depth', size)
        recorded.depth_image = depth
        frame.sparse = sparse_from_depth_image(depth, size=size)
    if _first(folder, TRUTH):
        recorded.truth = spread(_read_depth(_need(folder, TRUTH), meta, 'gt', size), size)
    return recorded


def _read_depth(path, meta, name, size):
    whole = path.suffix.lower() not in FLOATS or _own(meta, name) or meta.get('depth_scale')
    own = _own(meta, name).get('scale')
    return read_depth(path, _scale(meta, name, path) if whole else None, size,
                      own and _number(own, 'the scale', path), other_sizes=True)


def _own(meta, name):
    """Return the entry of meta.json for one file."""
    entry = meta.get(name)
    return entry if isinstance(entry, dict) else {}


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
    # Without a name, the number of coefficients tells OpenCV's models apart.
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
    """Return the values per meter of an image: its own entry, or depth_scale."""
    scale = _own(meta, name).get('scale') or meta.get('depth_scale')
    scale = _number(scale, 'the scale', path) if scale else 0.0
    if not 0 < scale < np.inf:
        raise DatasetError(f'meta.json beside {path} lacks depth_scale (meters = value / '
                           'depth_scale); add it')
    return scale


def _numbers(values, name, path):
    """Return a value of a JSON file as a float64 array."""
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
    """Return an integer from 0 to `most`, or the default if there is none."""
    value = default if meta.get(name) is None else meta[name]
    if not 0 <= _number(value, name, path) <= most:
        raise DatasetError(f'{path}: {name} must be from 0 to {most}; correct it')
    return int(value)


def _first(folder, kind):
    """Return the first file with one of these names and endings (in any case)."""
    names, endings = kind
    there = {file.name.lower(): file for file in sorted(folder.iterdir(), reverse=True)}
    return next((there[name + ending] for name in names for ending in endings
                 if name + ending in there), None)


def _need(folder, *kinds):
    found = next((file for kind in kinds if (file := _first(folder, kind))), None)
    if found is None:
        names = [f'{names[0]}{endings[0]}' for names, endings in kinds]
        unread = sorted(f.name for f in folder.iterdir()
                        if f.stem.lower() in {n for names, _ in kinds for n in names})
        raise DatasetError(f'{folder} has no {" or ".join(names)}' + (
            f'; {", ".join(unread)} is of an unknown format, give one of '
            f'{", ".join(ending for _, endings in kinds for ending in endings)}'
            if unread else ''))
    return found


def _read_json(path):
    try:
        meta = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path} is not valid JSON: {error}') from None
    if not isinstance(meta, dict):
        raise DatasetError(f'{path} holds no JSON object with the calibration')
    return meta
