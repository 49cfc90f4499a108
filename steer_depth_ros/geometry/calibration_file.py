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
"""Calibrations in files: ROS and OpenCV YAML, Kalibr, KITTI, and the JSON of frame folders."""
from dataclasses import dataclass, field, replace
import json
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any, List, Optional

import numpy as np
import yaml

from steer_depth_ros.errors import CalibrationError

FORMATS = ('YAML of camera_calibration, OpenCV, Kalibr or `ros2 topic echo`, calib_cam_to_cam.txt '
           'or calib.txt of KITTI, a 3 x 3 camera matrix as text, or JSON with fx, fy, cx and cy')
KITTI_CAMERA = '2'  # the left color camera
KALIBR_MODELS = {'radtan': 'plumb_bob', 'equidistant': 'equidistant', 'none': ''}
NOT_RIGID = 0.01  # rotations in files are rounded; off from that by more, they are none
LARGEST_FILE = 2 ** 22  # bytes; a calibration has a few thousand


@dataclass(frozen=True)
class Calibration:
    """
    The calibration of one camera, with the fields of a sensor_msgs/CameraInfo.

    width, height: 0 if the file does not give them, see `of_size`. camera_from_points: float64
    (4, 4), takes LiDAR points into the camera frame; None if the file does not give it.
    camera: its name if the file holds several, else empty.
    """

    k: List[float]
    d: List[float] = field(default_factory=list)
    distortion_model: str = ''
    width: int = 0
    height: int = 0
    r: List[float] = field(default_factory=lambda: np.eye(3).ravel().tolist())
    p: List[float] = field(default_factory=list)
    camera_from_points: Optional[np.ndarray] = None
    camera: str = ''
    binning_x: int = 0
    binning_y: int = 0
    roi: Any = field(default_factory=lambda: SimpleNamespace(
        x_offset=0, y_offset=0, width=0, height=0, do_rectify=False))

    def __post_init__(self):
        if not self.p:
            fx, _, cx, _, fy, cy, *_ = self.k
            object.__setattr__(self, 'p', [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0])

    def of_size(self, width: int, height: int) -> 'Calibration':
        """Return the calibration with this image size if the file does not give one."""
        return self if self.width and self.height else replace(self, width=width, height=height)


def read_calibration(path, camera: Optional[str] = None) -> Calibration:
    """
    Read the calibration of a camera from a file of any supported format.

    camera: which one to read from a file with several: a KITTI number (default 2, the left color
    camera) or a Kalibr name (default cam0).
    Raise CalibrationError naming the file and what is missing.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CalibrationError(f'{path} is too large for a calibration; give {FORMATS}')
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise CalibrationError(f'cannot read {path}: {error.strerror}') from None
    except UnicodeDecodeError:
        raise CalibrationError(f'{path} is not a text file; give {FORMATS}') from None
    try:
        return _parse(path, text, camera)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from None
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError,
            IndexError, KeyError) as error:
        raise CalibrationError(f'{path} cannot be used ({type(error).__name__}: {error}); give '
                               f'{FORMATS}') from None


def calibration_from_meta(meta: dict) -> Calibration:
    """
    Read the calibration from the meta.json of a frame folder.

    fx, fy, cx, cy; optional width, height, distortion, distortion_model and T_cam_lidar.
    """
    missing = [key for key in ('fx', 'fy', 'cx', 'cy') if meta.get(key) is None]
    if missing:
        raise CalibrationError(f'lacks the calibration: {", ".join(missing)}; add the intrinsics '
                               'of the camera in pixels')
    fx, fy, cx, cy = (number_of(meta[key], key) for key in ('fx', 'fy', 'cx', 'cy'))
    d = _numbers(meta.get('distortion') or [], 'distortion')
    points = None
    if meta.get('T_cam_lidar'):
        values = _numbers(meta['T_cam_lidar'], 'T_cam_lidar')
        if values.size != 16 or not np.isfinite(values).all():
            raise CalibrationError('T_cam_lidar must be 16 finite numbers, row-major')
        points = _require_pose(values.reshape(4, 4), 'T_cam_lidar')
    return Calibration([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0], d.ravel().tolist(),
                       str(meta.get('distortion_model') or _model_of(d)) if d.size else '',
                       whole_of(meta, 'width'), whole_of(meta, 'height'),
                       camera_from_points=points)


def _parse(path, text, camera):
    start = text.lstrip()
    if start.startswith('{') or path.suffix.lower() == '.json':
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CalibrationError(f'is no valid JSON: {error}') from None
        return _from_mapping(data, camera)
    entries = _kitti_entries(text)
    if any(re.fullmatch(r'P\d|P_rect_\d\d', key) for key in entries):
        return _from_kitti(path, entries, camera or KITTI_CAMERA)
    if re.fullmatch(r'[\s\d.eE+,;\[\]-]+', text):
        return _from_matrix(text)
    try:  # OpenCV writes a directive and tags that are not valid YAML
        data = next((d for d in yaml.safe_load_all(re.sub(
            r'!!opencv-\S+', '', re.sub(r'\A%YAML.*\n(---\s*\n)?', '', text))) if d), None)
    except yaml.YAMLError as error:
        raise CalibrationError(f'is not valid YAML ({" ".join(str(error).split())}); give '
                               f'{FORMATS}') from None
    return _from_mapping(data, camera)


def _from_mapping(data, camera):
    if not isinstance(data, dict):
        raise CalibrationError(f'holds no JSON object with the calibration; give {FORMATS}')
    if any(isinstance(v, dict) and 'intrinsics' in v for v in data.values()):
        return _from_kalibr(data, camera)
    if 'fx' in data or not {str(key).lower() for key in data} & {
            'camera_matrix', 'k', 'projection_matrix'}:
        return calibration_from_meta(data)
    given = {str(key).lower(): value for key, value in data.items()}

    def array(*names):
        found: Any = next((given[n] for n in names if given.get(n) is not None), [])
        return _numbers(found['data'] if isinstance(found, dict) else found, names[0]).ravel()

    d = array('distortion_coefficients', 'd', 'dist_coeffs')
    k = array('camera_matrix', 'k')
    if k.size != 9:
        raise CalibrationError(f'camera_matrix has {k.size} numbers, not 9')
    p, r = array('projection_matrix', 'p'), array('rectification_matrix', 'r')
    if p.size not in (0, 12):
        raise CalibrationError(f'projection_matrix has {p.size} numbers, not 12')
    model = given.get('distortion_model')
    return Calibration(
        k.tolist(), d.tolist(), _model_of(d) if model is None else str(model),
        whole_of(given, 'image_width', 'width'), whole_of(given, 'image_height', 'height'),
        r.tolist() if r.size == 9 else np.eye(3).ravel().tolist(), p.tolist())


def _from_kalibr(data, camera):
    cameras = {name: v for name, v in data.items() if isinstance(v, dict) and 'intrinsics' in v}
    name = camera or min(cameras, key=str)
    name = name if name in cameras else f'cam{name}'
    if name not in cameras:
        raise CalibrationError(f'holds no camera {camera}, only {", ".join(map(str, cameras))}')
    chosen = cameras[name]
    model, lens = chosen.get('camera_model', 'pinhole'), chosen.get('distortion_model', 'none')
    if model != 'pinhole' or lens not in KALIBR_MODELS:
        raise CalibrationError(f'camera {name} has the model {model}-{lens}; calibrate it as '
                               'pinhole-radtan or pinhole-equi')
    fx, fy, cx, cy = _numbers(chosen['intrinsics'], 'intrinsics').tolist()
    width, height = chosen.get('resolution') or (0, 0)
    return Calibration([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
                       _numbers(chosen.get('distortion_coeffs') or [], 'distortion').tolist(),
                       KALIBR_MODELS[lens], int(width), int(height), camera=str(name))


def _kitti_entries(text):
    """Return the arrays of a KITTI file by name; skip entries that are not arrays."""
    found = {}
    for line in text.splitlines():
        name, colon, numbers = line.partition(':')
        try:
            values = np.array(numbers.split(), np.float64)
        except ValueError:
            continue
        if colon and values.size:
            found[name.strip()] = values
    return found


def _from_kitti(path, entries, camera):
    """Read KITTI: rectified images, with the LiDAR pose shifted to the chosen camera."""
    number = re.sub(r'\D', '', camera).lstrip('0') or '0'  # image_02, P2, 2
    p = next((entries[n] for n in (f'P_rect_0{number}', f'P{number}') if n in entries), None)
    if p is None or p.size != 12:
        cameras = sorted(n for n in entries if re.fullmatch(r'P\d|P_rect_\d\d', n))
        raise CalibrationError(f'holds no 3 x 4 matrix of camera {camera}, only '
                               f'{", ".join(cameras)}')
    p = p.reshape(3, 4)
    baseline = np.eye(4)
    if not np.linalg.det(p[:, :3]):
        raise CalibrationError(f'holds a 3 x 4 matrix of camera {number} that no camera has')
    baseline[:3, 3] = np.linalg.solve(p[:, :3], p[:, 3])
    size = entries.get(f'S_rect_0{number}', np.zeros(2))
    if size.size != 2:
        raise CalibrationError(f'S_rect_0{number} must be width and height')
    width, height = size
    return Calibration(p[:, :3].ravel().tolist(), width=int(width), height=int(height),
                       camera_from_points=_kitti_points(path, entries, baseline),
                       camera=f'{number} of KITTI')


def _kitti_points(path, entries, baseline):
    """Return the LiDAR pose, from the file itself or from calib_velo_to_cam.txt next to it."""
    rectification = np.eye(4)
    for name in ('R_rect_00', 'R0_rect', 'R_rect'):
        if entries.get(name, np.empty(0)).size == 9:
            rectification[:3, :3] = entries[name].reshape(3, 3)
            break
    lidar = np.eye(4)
    for name in ('Tr_velo_to_cam', 'Tr_velo_cam', 'Tr'):
        if entries.get(name, np.empty(0)).size == 12:
            lidar[:3] = entries[name].reshape(3, 4)
            return _require_pose(baseline @ rectification @ lidar, name)
    beside = path.with_name('calib_velo_to_cam.txt')
    if path.name != beside.name and beside.is_file():
        pose = _kitti_entries(beside.read_text())
        lidar[:3, :3], lidar[:3, 3] = pose['R'].reshape(3, 3), pose['T']
        return _require_pose(baseline @ rectification @ lidar, f'R, T of {beside.name}')
    return None


def _from_matrix(text):
    values = np.array(re.split(r'[\s,;\[\]]+', text.strip(' \n\t\r,;[]')), np.float64)
    shape = {9: (3, 3), 12: (3, 4), 16: (4, 4)}.get(values.size)
    if shape is None:
        raise CalibrationError(f'holds {values.size} numbers; a camera matrix has 3 x 3')
    k = values.reshape(shape)[:3, :3]
    if np.any(k[2] != (0, 0, 1)):
        raise CalibrationError('holds a camera matrix whose last row is not 0 0 1; write it row '
                               'by row')
    return Calibration(k.ravel().tolist())


def _require_pose(matrix, name):
    """Return a 4 x 4 matrix; CalibrationError where it is no rotation and translation."""
    rotation = matrix[:3, :3]
    if (np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6 or np.linalg.det(rotation) < 0
            or np.abs(rotation @ rotation.T - np.eye(3)).max() > NOT_RIGID):
        raise CalibrationError(f'{name} is no pose: 4 x 4, row by row, a rotation and a '
                               'translation in meters, and 0 0 0 1 below')
    return matrix


def _model_of(d):
    """Infer the model from the number of coefficients, as OpenCV does, if the file names none."""
    return '' if not np.size(d) else 'rational_polynomial' if np.size(d) > 5 else 'plumb_bob'


def _numbers(values, name):
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise CalibrationError(f'{name} must be numbers; correct the calibration') from None


def number_of(value, name) -> float:
    """Return a number of a file; CalibrationError if it is none."""
    number = _numbers(value, name)
    if number.ndim:
        raise CalibrationError(f'{name} must be one number; correct the calibration')
    return float(number)


def whole_of(data, *names, most=2 ** 31) -> int:
    """Return the entry of one of these names, from 0 to `most`; 0 if there is none."""
    name = next((n for n in names if data.get(n) is not None), None)
    if name is None:
        return 0
    number = number_of(data[name], name)
    if not 0 <= number <= most:
        raise CalibrationError(f'{name} must be from 0 to {most}; correct it')
    return data[name] if isinstance(data[name], int) else int(number)
