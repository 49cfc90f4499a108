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

from steer_depth_ros.errors import CalibrationError, DatasetError
from steer_depth_ros.geometry.calibration_file import (
    calibration_from_meta,
    number_of,
    whole_of,
)
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
    try:
        return _read_frame(folder, meta, stamp_ns)
    except CalibrationError as error:
        raise DatasetError(f'{folder / "meta.json"}: {error}') from None


def _read_frame(folder, meta, stamp_ns):
    image = read_image(_need(folder, IMAGES))
    size = image.shape[:2]
    calibration = calibration_from_meta(meta)
    if meta.get('stamp_ns') is not None:
        stamp_ns = whole_of(meta, 'stamp_ns', most=LAST_STAMP_NS)
    frame = Frame(image=image, camera=_camera(calibration, size), stamp_ns=stamp_ns)
    recorded = RecordedFrame(folder.name, frame)
    if _first(folder, CLOUDS):
        columns = _own(meta, 'lidar').get('columns')
        frame.points, frame.echo = read_cloud_and_echo(_need(folder, CLOUDS), columns)
        if calibration.camera_from_points is None:
            raise CalibrationError('lacks T_cam_lidar, the 16 numbers (row-major) that take the '
                                   'cloud into the camera; add them from the calibration')
        frame.camera_from_points = calibration.camera_from_points
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
                      own and number_of(own, 'the scale'), other_sizes=True)


def _own(meta, name):
    """Return the entry of meta.json for one file."""
    entry = meta.get(name)
    return entry if isinstance(entry, dict) else {}


def _camera(calibration, size) -> Camera:
    height, width = size
    declared = calibration.width or width, calibration.height or height
    if declared != (width, height):
        raise CalibrationError(f'is the calibration of an image of {declared[0]} x {declared[1]} '
                               f'pixels, but the image has {width} x {height}')
    return Camera.from_calibration(width, height, calibration.k, calibration.d,
                                   calibration.distortion_model)


def _scale(meta, name, path):
    """Return the values per meter of an image: its own entry, or depth_scale."""
    scale = _own(meta, name).get('scale') or meta.get('depth_scale')
    scale = number_of(scale, 'the scale') if scale else 0.0
    if not 0 < scale < np.inf:
        raise DatasetError(f'meta.json beside {path} lacks depth_scale (meters = value / '
                           'depth_scale); add it')
    return scale


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
