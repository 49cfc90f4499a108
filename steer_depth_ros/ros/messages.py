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
ROS messages to arrays and back, by message fields alone.

Nothing here imports rclpy: the same functions read messages of rclpy (`data` an array.array) and
of the rosbags package (`data` a uint8 ndarray). What goes out is a dict of plain fields.
"""
from array import array
import struct
import sys
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np

from steer_depth_ros.errors import CalibrationError, MessageError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.image_decode import decode_picture

# encoding: (bytes of a channel, channels, conversion to RGB, or None where it is RGB already)
IMAGE_ENCODINGS: Dict[str, Tuple[int, int, Optional[int]]] = {
    'rgb8': (1, 3, None),
    'bgr8': (1, 3, cv2.COLOR_BGR2RGB),
    '8UC3': (1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': (1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, 1, cv2.COLOR_GRAY2RGB),
    'mono16': (2, 1, cv2.COLOR_GRAY2RGB),
    # ROS names a mosaic by its first two rows, these constants by the second row's middle.
    'bayer_rggb8': (1, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, 1, cv2.COLOR_BayerGB2RGB),
    'bayer_rggb16': (2, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr16': (2, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg16': (2, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg16': (2, 1, cv2.COLOR_BayerGB2RGB),
}
DEPTH_ENCODINGS = {'16UC1': 'u2', 'mono16': 'u2', '32FC1': 'f4'}
POINT_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}
TIME_FIELDS = ('t', 'time', 'timestamp', 'time_stamp', 'offset_time', 'time_offset')
COMPRESSED_DEPTH_HEADER = 12  # bytes: int32 format, float32 a, float32 b
MM_LIMIT = 65535
SHAPE_TOLERANCE = 0.01  # relative difference of aspect ratio between an image and its calibration
CLOUD_FIELDS = [{'name': name, 'offset': 4 * i, 'datatype': 7, 'count': 1}
                for i, name in enumerate(('x', 'y', 'z', 'rgb'))]


def stamp_ns(header: Any) -> int:
    """Give the stamp of a std_msgs/Header in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def image_to_rgb(msg: Any) -> np.ndarray:
    """
    Convert a sensor_msgs/Image to uint8 (H, W, 3) RGB; of 16 bits the high byte stays.

    An rgb8 message is not copied: the result is a read-only view of it where its rows have no
    padding. Raise MessageError for an encoding or a size that cannot be used.
    """
    if msg.encoding not in IMAGE_ENCODINGS:
        raise MessageError(
            f'image encoding "{msg.encoding}" is not supported; use one of '
            f'{", ".join(sorted(IMAGE_ENCODINGS))}')
    size, channels, conversion = IMAGE_ENCODINGS[msg.encoding]
    pixels = _pixels(msg, f'u{size}', channels)
    if size == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if conversion is None:
        return np.ascontiguousarray(pixels)
    return cv2.cvtColor(np.ascontiguousarray(pixels), conversion)


def compressed_to_rgb(msg: Any) -> np.ndarray:
    """
    Decode a sensor_msgs/CompressedImage (JPEG or PNG) to uint8 (H, W, 3) RGB.

    Raise MessageError when the data are no picture.
    """
    # A camera's orientation tag must not turn the image away from its calibration.
    pixels = _decode(msg, 0, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def depth_to_metres(msg: Any) -> np.ndarray:
    """
    Convert a depth image (16UC1 millimetres or 32FC1 metres, REP 118) to float32 (H, W) metres.

    NaN wherever the sensor measured nothing: 0, negative, infinite or NaN.
    Raise MessageError for another encoding or a size that does not fit the data.
    """
    if msg.encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'depth image encoding "{msg.encoding}" is not supported; use 32FC1 (metres) or '
            '16UC1 (millimetres)')
    depth = _pixels(msg, DEPTH_ENCODINGS[msg.encoding], 1)
    scale = 1.0 if DEPTH_ENCODINGS[msg.encoding] == 'f4' else 1e-3
    return _metres(depth, scale)


def compressed_depth_to_metres(msg: Any) -> np.ndarray:
    """
    Decode a compressedDepth sensor_msgs/CompressedImage (PNG) to float32 (H, W) metres, NaN holes.

    Raise MessageError when it is no compressedDepth message, not PNG, or damaged.
    """
    encoding = msg.format.split(';')[0].strip()
    if 'compressedDepth' not in msg.format or encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'compressed depth of format "{msg.format}" is not supported; publish '
            '"16UC1; compressedDepth png" or "32FC1; compressedDepth png", or the raw image')
    if 'rvl' in msg.format.lower():
        raise MessageError('compressed depth uses RVL; set the format of its publisher to png')
    pixels = _decode(msg, COMPRESSED_DEPTH_HEADER, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise MessageError('compressed depth holds no single 16 bit channel; publish it as PNG')
    if DEPTH_ENCODINGS[encoding] == 'u2':
        return _metres(pixels, 1e-3)
    # 32FC1 is stored as inverse depth, v = a / z + b.
    a, b = struct.unpack_from('<ff', bytes(_bytes(msg)[4:COMPRESSED_DEPTH_HEADER]))
    with np.errstate(all='ignore'):
        depth = np.float32(a) / (pixels.astype(np.float32) - np.float32(b))
    depth[pixels == 0] = np.nan
    return _metres(depth, 1.0)


def cloud_to_xyz(msg: Any) -> np.ndarray:
    """
    Read x, y, z of a sensor_msgs/PointCloud2 as float32 (N, 3), N = height * width.

    Any layout, padding and byte order; invalid points stay in (as NaN or whatever the driver
    wrote), so that rows match those of `cloud_times`. Raise MessageError when x, y or z are
    missing, of another type than float32 / float64, or the sizes do not fit the data.
    """
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
    points = np.empty((msg.height, msg.width, 3), np.float32)
    with np.errstate(over='ignore', invalid='ignore'):  # what float32 cannot hold is invalid
        for axis, view in enumerate(views):
            points[:, :, axis] = view
    return points.reshape(-1, 3)


def cloud_times(msg: Any) -> Optional[np.ndarray]:
    """
    Read when each point was measured: float64 (N,) seconds from the cloud's stamp, or None.

    Understands nanoseconds as integers (Ouster, Livox, Autoware), seconds as floats (Velodyne)
    and absolute times in seconds or nanoseconds as float64 (Hesai, RoboSense, Livox).
    """
    _check_cloud(msg)
    field = next((f for f in msg.fields if f.name in TIME_FIELDS), None)
    if field is None or field.datatype not in POINT_TYPES:
        return None
    values = _field(msg, field).reshape(-1)
    if values.dtype.kind != 'f':
        return values * 1e-9
    seconds = values.astype(np.float64)
    middle = abs(float(np.median(seconds))) if len(seconds) else 0.0
    if middle > 1e17:
        return (seconds - stamp_ns(msg.header)) * 1e-9
    return seconds - stamp_ns(msg.header) * 1e-9 if middle > 1e8 else seconds


def camera_from_info(msg: Any, rectified: bool = False,
                     image_size: Optional[Tuple[int, int]] = None) -> Camera:
    """
    Build the camera of the images that a sensor_msgs/CameraInfo describes.

    rectified: the images are rectified (use P, no distortion) instead of raw (K and D).
    image_size: (width, height) of the image at hand; where it is not the size that calibration,
    region of interest and binning give, the intrinsics are scaled to it.
    Raise CalibrationError when the camera is uncalibrated, its distortion model unknown, or the
    image of another shape than the calibrated one.
    """
    camera = Camera.from_calibration(msg.width, msg.height, msg.k, msg.d, msg.distortion_model,
                                     p=msg.p, rectified=rectified)
    roi = msg.roi
    if roi.width and roi.height:
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    if msg.binning_x > 1 or msg.binning_y > 1:
        camera = camera.binned(msg.binning_x, msg.binning_y)
    if image_size and image_size != (camera.width, camera.height):
        _check_shape(image_size, camera)
        camera = camera.scaled(*image_size)
    return camera


def image_fields(pixels: np.ndarray, encoding: str) -> Dict[str, Any]:
    """Give the fields of a sensor_msgs/Image from an array (H, W) or (H, W, C)."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return {'height': height, 'width': width, 'encoding': encoding,
            'is_bigendian': int(sys.byteorder == 'big'), 'step': pixels.nbytes // height,
            'data': pixels.reshape(-1).view(np.uint8)}


def depth_fields(depth: np.ndarray, encoding: str = '32FC1') -> Dict[str, Any]:
    """
    Give the fields of a depth image from float32 (H, W) metres, NaN where unknown.

    32FC1 stays as it is. 16UC1 holds millimetres, 0 where unknown or beyond 65.535 m.
    """
    if encoding == '32FC1':
        return image_fields(depth.astype(np.float32, copy=False), encoding)
    if encoding != '16UC1':
        raise MessageError(f'depth encoding must be 32FC1 or 16UC1, not "{encoding}"')
    millimetres = depth * np.float32(1e3) + np.float32(0.5)
    with np.errstate(invalid='ignore'):
        valid = (millimetres >= 1) & (millimetres < MM_LIMIT + 1)
    return image_fields(np.where(valid, millimetres, 0).astype(np.uint16), encoding)


def confidence_fields(confidence: np.ndarray) -> Dict[str, Any]:
    """Give the fields of a 32FC1 image from float32 (H, W) in [0, 1]."""
    return image_fields(confidence.astype(np.float32, copy=False), '32FC1')


def cloud_fields(cloud: np.ndarray) -> Dict[str, Any]:
    """
    Give the fields of a sensor_msgs/PointCloud2 from float32 x, y, z and packed rgb.

    cloud: (H, W, 4) organised, NaN where there is no point, or (N, 4). The point fields are
    dicts of name, offset, datatype and count.
    """
    cloud = np.ascontiguousarray(cloud, dtype=np.float32)
    height, width = cloud.shape[:2] if cloud.ndim == 3 else (1, len(cloud))
    return {'height': height, 'width': width, 'fields': CLOUD_FIELDS,
            'is_bigendian': sys.byteorder == 'big', 'point_step': 16, 'row_step': 16 * width,
            'is_dense': cloud.ndim == 2, 'data': cloud.reshape(-1).view(np.uint8)}


def camera_info_fields(camera: Camera) -> Dict[str, Any]:
    """Give the fields of a sensor_msgs/CameraInfo; P repeats K, as for any image of one camera."""
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
    Set the fields of an rclpy message and return it; `data` costs a single copy.

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
    """Refuse what no change of size explains, but for a pixel of rounding."""
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


def _pixels(msg, kind, channels):
    """View the pixels of an Image as (H, W) or (H, W, C) without a copy."""
    dtype = np.dtype(_byte_order(msg) + kind)
    row = msg.width * channels * dtype.itemsize
    if msg.height == 0 or msg.width == 0:
        raise MessageError('image has no pixels: its height or width is 0')
    # More data than that contradicts the size as much as less: which of them is right?
    if msg.step < row or len(msg.data) != msg.step * msg.height:
        raise MessageError(
            f'image of {msg.width} x {msg.height} pixels in {msg.encoding} says step {msg.step} '
            f'and holds {len(msg.data)} bytes; it needs a step of at least {row} and '
            'height * step bytes')
    pixels = np.ndarray((msg.height, msg.width, channels), dtype, _bytes(msg), 0,
                        (msg.step, channels * dtype.itemsize, dtype.itemsize))
    return pixels if channels > 1 else pixels[:, :, 0]


def _metres(depth, scale):
    metres = depth.astype(np.float32)
    if scale != 1.0:
        metres *= np.float32(scale)
    with np.errstate(invalid='ignore'):
        metres[~((metres > 0) & (metres < np.inf))] = np.nan
    return metres


def _decode(msg, skip, flags):
    pixels = decode_picture(_bytes(msg)[skip:], flags)
    if pixels is None:
        raise MessageError(
            f'compressed image of format "{msg.format}" with {len(msg.data)} bytes could not be '
            'decoded; publish JPEG or PNG')
    return pixels


def _check_apart(fields):
    """Refuse coordinates that share bytes: at least one of their offsets is wrong."""
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
