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
Convert ROS messages to arrays and back.

Nothing here imports rclpy: the functions read messages of rclpy (`data` is an array.array) and of
the rosbags package (`data` is a uint8 ndarray), and return dicts of plain fields to fill in.
The functions of ros/image_messages.py are available here, too.
"""
from array import array
import re
import sys
from typing import Any, Dict, Optional, Tuple

import numpy as np

from steer_depth_ros.errors import CalibrationError, MessageError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros.image_messages import (  # noqa: F401
    compressed_depth_to_metres,
    compressed_to_rgb,
    DEPTH_ENCODINGS,
    depth_to_metres,
    IMAGE_ENCODINGS,
    image_to_rgb,
    is_depth,
)

POINT_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}
# Point times above the first number are since 1970, in this unit (seconds).
ABSOLUTE = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0))
# Point times as floats that span at least the first number are in this unit (seconds).
RELATIVE = ((3e6, 1e-9), (3e3, 1e-6), (3.0, 1e-3), (-np.inf, 1.0))
SHORTEST_SWEEP = 5e-3  # seconds
PACKET = 1000  # points; fewer may be only part of a sweep
LONGEST_SWEEP = 1.0  # seconds from the median time
SAME_CLOCK = 10.0  # seconds between point times and the stamp of their cloud
ECHO_FIELDS = ('intensity', 'reflectivity', 'i')
TIME_FIELDS = ('t', 'time', 'timestamp', 'time_stamp', 'offset_time', 'time_offset')
MM_LIMIT = 65535
SHAPE_TOLERANCE = 0.01  # relative difference in aspect ratio between an image and its calibration
CLOUD_FIELDS = [{'name': name, 'offset': 4 * i, 'datatype': 7, 'count': 1}
                for i, name in enumerate(('x', 'y', 'z', 'rgb'))]


def stamp_ns(header: Any) -> int:
    """Return the stamp of a std_msgs/Header in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def cloud_to_xyz(msg: Any) -> np.ndarray:
    """
    Return x, y, z of a sensor_msgs/PointCloud2 as (N, 3), N = height * width.

    float32, or float64 if the message has it, as map coordinates need it.
    Reads any layout, padding and byte order, and Livox CustomMsg. Invalid points are kept (as NaN
    or as the driver wrote them), so that rows match those of `cloud_times`.
    Raise MessageError if x, y or z are missing or neither float32 nor float64, or if the sizes
    do not match the data.
    """
    if is_livox(msg):
        return np.array([(p.x, p.y, p.z) for p in msg.points], np.float32).reshape(-1, 3)
    _check_cloud(msg)
    fields = {field.name: field for field in msg.fields}
    missing = [name for name in 'xyz' if name not in fields]
    if missing:
        raise MessageError(
            f'point cloud has no field {", ".join(missing)}, only '
            f'{", ".join(fields) or "none"}; it must carry x, y and z')
    views = []
    for name in 'xyz':
        if fields[name].datatype not in (7, 8):
            raise MessageError(
                f'point cloud field {name} has datatype {fields[name].datatype}; x, y and z must '
                'be FLOAT32 (7) or FLOAT64 (8)')
        views.append(_field(msg, fields[name]))
    _check_apart([fields[name] for name in 'xyz'])
    double = any(fields[name].datatype == 8 for name in 'xyz')
    points = np.empty((msg.height, msg.width, 3), np.float64 if double else np.float32)
    for axis, view in enumerate(views):
        points[:, :, axis] = view
    return points.reshape(-1, 3)


def cloud_echo(msg: Any) -> Optional[np.ndarray]:
    """Read the strength of the echoes of a cloud that cloud_to_xyz reads: (N,), None without."""
    if is_livox(msg):
        return np.array([p.reflectivity for p in msg.points], np.float32)
    found = next((f for name in ECHO_FIELDS for f in msg.fields if f.name == name), None)
    return None if found is None else _field(msg, found).reshape(-1).astype(np.float32)


def cloud_times(msg: Any) -> Optional[np.ndarray]:
    """
    Return when each point was measured, float64 (N,) seconds from the cloud's stamp, or None.

    Reads integer nanoseconds (Ouster, Livox, Autoware), float seconds (Velodyne), absolute times
    in seconds or nanoseconds (Hesai, RoboSense, Livox), and other units if they alone give a
    plausible sweep. NaN for times outside the sweep of most points, such as 0 among absolute
    times.
    """
    if is_livox(msg):
        return _usable(np.array([p.offset_time for p in msg.points], np.float64) * 1e-9)
    _check_cloud(msg)
    field = next((f for f in msg.fields if f.name in TIME_FIELDS), None)
    if field is None or field.datatype not in POINT_TYPES:
        return None
    values = _field(msg, field).reshape(-1)
    told = values[np.isfinite(values) & (values != 0)]
    if not len(told):  # no times were recorded: use the cloud's stamp
        return np.zeros(len(values))
    stamp = stamp_ns(msg.header)
    unit, absolute = _unit(told, stamp * 1e-9)
    if not absolute:
        return _usable(values.astype(np.float64) * unit)
    if values.dtype.kind != 'f' and unit == 1e-9:  # does not fit a float
        seconds = (values.astype(np.int64) - stamp) * 1e-9
    else:
        seconds = values * unit - stamp * 1e-9
    return _usable(_of_clock(np.where(values == 0, np.nan, seconds)))


def is_livox(msg: Any) -> bool:
    """Return whether a message is a livox_ros_driver(2)/CustomMsg."""
    return hasattr(msg, 'points') and hasattr(msg, 'timebase')


def is_rectified_topic(name: str) -> bool:
    """Return whether a topic has a name that image_proc gives to rectified images."""
    return any(re.search(r'(^|_)rect(ified)?(_|$)', part) for part in name.split('/'))


def camera_from_info(msg: Any, rectified: bool = False,
                     image_size: Optional[Tuple[int, int]] = None) -> Camera:
    """
    Return the camera described by a sensor_msgs/CameraInfo.

    rectified: use P without distortion (rectified images) instead of K and D (raw images).
    image_size: (width, height) of the actual image; the intrinsics are scaled to it if the
    calibration, region of interest and binning give another. Required if the message has size 0.
    Raise CalibrationError if the camera is uncalibrated, its distortion model unknown, or the
    aspect ratio of the image differs from the calibrated one.
    """
    roi, binning = msg.roi, (max(msg.binning_x, 1), max(msg.binning_y, 1))
    width, height = msg.width, msg.height
    if not (width and height) and image_size:
        width, height = (roi.x_offset + roi.width or image_size[0] * binning[0],
                         roi.y_offset + roi.height or image_size[1] * binning[1])
    whole = Camera.from_calibration(width, height, msg.k, msg.d, msg.distortion_model,
                                    p=msg.p, rectified=rectified)
    camera = whole
    if roi.width and roi.height:
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    if binning != (1, 1):
        camera, whole = camera.binned(*binning), whole.binned(*binning)
    if not image_size or image_size == (camera.width, camera.height):
        return camera
    if image_size == (whole.width, whole.height):  # the region only marks what is of interest
        return whole
    _check_shape(image_size, camera)
    return camera.scaled(*image_size)


def stereo_shift(msg: Any) -> np.ndarray:
    """
    Return the offset, float64 (3,) meters, of points in frame_id to the rectified camera.

    From the fourth column of P, which is nonzero for the second camera of a stereo pair, whose
    frame_id is that of the first.
    """
    p = [float(n) for n in msg.p]
    if len(p) != 12 or not (np.isfinite(p).all() and p[0] and p[5]):
        return np.zeros(3)
    return np.array([p[3] / p[0], p[7] / p[5], 0.0])


def image_fields(pixels: np.ndarray, encoding: str) -> Dict[str, Any]:
    """Return the fields of a sensor_msgs/Image from an array (H, W) or (H, W, C)."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return {'height': height, 'width': width, 'encoding': encoding,
            'is_bigendian': int(sys.byteorder == 'big'), 'step': pixels.nbytes // height,
            'data': pixels.reshape(-1).view(np.uint8)}


def depth_fields(depth: np.ndarray, encoding: str = '32FC1') -> Dict[str, Any]:
    """
    Return the fields of a depth image from float32 (H, W) meters, NaN where unknown.

    32FC1 keeps the values. 16UC1 has millimeters, 0 where unknown or beyond 65.535 m.
    """
    if encoding == '32FC1':
        return image_fields(depth.astype(np.float32, copy=False), encoding)
    if encoding != '16UC1':
        raise MessageError(f'depth encoding must be 32FC1 or 16UC1, not "{encoding}"')
    millimeters = depth * np.float32(1e3) + np.float32(0.5)
    with np.errstate(invalid='ignore'):
        valid = (millimeters >= 1) & (millimeters < MM_LIMIT + 1)
    return image_fields(np.where(valid, millimeters, 0).astype(np.uint16), encoding)


def confidence_fields(confidence: np.ndarray) -> Dict[str, Any]:
    """Return the fields of a 32FC1 image from float32 (H, W) in [0, 1]."""
    return image_fields(confidence.astype(np.float32, copy=False), '32FC1')


def cloud_fields(cloud: np.ndarray) -> Dict[str, Any]:
    """
    Return the fields of a sensor_msgs/PointCloud2 from float32 x, y, z and packed rgb.

    cloud: (H, W, 4) organized, NaN where there is no point, or (N, 4). The point fields are
    dicts of name, offset, datatype and count.
    """
    cloud = np.ascontiguousarray(cloud, dtype=np.float32)
    height, width = cloud.shape[:2] if cloud.ndim == 3 else (1, len(cloud))
    return {'height': height, 'width': width, 'fields': CLOUD_FIELDS,
            'is_bigendian': sys.byteorder == 'big', 'point_step': 16, 'row_step': 16 * width,
            'is_dense': cloud.ndim == 2, 'data': cloud.reshape(-1).view(np.uint8)}


def camera_info_fields(camera: Camera) -> Dict[str, Any]:
    """Return the fields of a sensor_msgs/CameraInfo; P repeats K, as for a monocular camera."""
    flat = camera.model == 'pinhole'
    return {'height': camera.height, 'width': camera.width,
            'distortion_model': 'plumb_bob' if flat else camera.model,
            'd': [0.0] * 5 if flat else list(camera.distortion),
            'k': [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0],
            'r': [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            'p': [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0,
                  0.0, 0.0, 1.0, 0.0]}


def fill(msg: Any, fields: Dict[str, Any]) -> Any:
    """
    Set the fields of an rclpy message and return it; `data` is copied once.

    Assigning an ndarray or memoryview to `msg.data` would convert it byte by byte.
    """
    for name, value in fields.items():
        if name == 'data':
            data = array('B')
            data.frombytes(memoryview(value))
            msg.data = data
        elif name == 'fields':
            msg.fields = _point_fields(value)
        else:
            setattr(msg, name, value)
    return msg


def _point_fields(fields):
    from sensor_msgs.msg import PointField
    return [PointField(**field) for field in fields]


def _check_shape(size, camera):
    """Raise CalibrationError if the aspect ratios differ by more than a pixel of rounding."""
    width, height = size
    if abs(width * camera.height / camera.width - height) > max(1.0, SHAPE_TOLERANCE * height):
        raise CalibrationError(
            f'camera_info describes images of {camera.width} x {camera.height} pixels, but the '
            f'image has {width} x {height}, another shape; publish the camera_info of this image '
            '(with its region of interest if it is cropped)')


def _bytes(msg):
    return np.frombuffer(msg.data, np.uint8)


def _byte_order(msg):
    return '>' if msg.is_bigendian else '<'


def _unit(told, stamp_s):
    """Return the unit of point times in seconds, and whether they are absolute."""
    middle = float(np.abs(np.median(told)))
    for _, unit in ABSOLUTE if stamp_s > 2 * SAME_CLOCK else ():
        if abs(middle * unit - stamp_s) < SAME_CLOCK:
            return unit, True
    whole = told.dtype.kind != 'f'
    for least, unit in ABSOLUTE[:3 if whole else 4]:
        if middle > least:
            return unit, True
    spread = float(np.subtract(*np.percentile(told, (95, 5))))
    if not whole:
        return next(unit for least, unit in RELATIVE if spread >= least), False
    micro = spread * 1e-9 < SHORTEST_SWEEP < spread * 1e-6 <= LONGEST_SWEEP
    return (1e-6 if micro and len(told) > PACKET else 1e-9), False


def _of_clock(seconds):
    """Shift times of another clock so that they start at the stamp."""
    middle = np.nanmedian(seconds)
    if abs(middle) < SAME_CLOCK:
        return seconds
    return seconds - seconds[np.abs(seconds - middle) < LONGEST_SWEEP].min(initial=middle)


def _usable(seconds):
    """Replace times far from the median by NaN."""
    with np.errstate(invalid='ignore'):
        known = np.isfinite(seconds)
        if known.any():
            known &= np.abs(seconds - np.median(seconds[known])) <= LONGEST_SWEEP
    return np.where(known, seconds, np.nan)


def _check_apart(fields):
    """Raise MessageError if coordinates overlap: at least one offset is wrong then."""
    ends = sorted((f.offset, f.offset + np.dtype(POINT_TYPES[f.datatype]).itemsize, f.name)
                  for f in fields)
    for (_, end, name), (start, _, other) in zip(ends, ends[1:]):
        if start < end:
            raise MessageError(f'point cloud fields {name} and {other} overlap at offset {start}; '
                               'correct the offsets of its fields')


def _check_cloud(msg):
    row = msg.width * msg.point_step
    needed = msg.row_step * (msg.height - 1) + row if msg.height and msg.width else 0
    if (msg.height > 1 and msg.row_step < row) or len(msg.data) < needed:
        raise MessageError(
            f'point cloud of {msg.width} x {msg.height} points with point_step {msg.point_step} '
            f'and row_step {msg.row_step} needs {max(needed, row * msg.height)} bytes but holds '
            f'{len(msg.data)}')


def _field(msg, field):
    """View one field of a checked cloud as (height, width) without a copy."""
    dtype = np.dtype(_byte_order(msg) + POINT_TYPES[field.datatype])
    if field.offset + dtype.itemsize > msg.point_step:
        raise MessageError(
            f'point cloud field {field.name} at offset {field.offset} does not fit the '
            f'point_step of {msg.point_step} bytes')
    shape = (msg.height, msg.width)
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _bytes(msg), field.offset, (msg.row_step, msg.point_step))
