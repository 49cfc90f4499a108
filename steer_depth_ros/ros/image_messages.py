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
"""Convert image messages to RGB and depth image messages to meters; see ros/messages.py."""
import re
import struct
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np

from steer_depth_ros.errors import MessageError
from steer_depth_ros.image_decode import decode_picture, JPEG, PNG
from steer_depth_ros.ros.rvl import decode_rvl
from steer_depth_ros.ros.stretch import Stretch

# encoding: (bytes per channel, channels, conversion to RGB or None)
IMAGE_ENCODINGS: Dict[str, Tuple[int, int, Optional[int]]] = {
    'rgb8': (1, 3, None),
    'bgr8': (1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': (1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    'rgb16': (2, 3, None),
    'bgr16': (2, 3, cv2.COLOR_BGR2RGB),
    'rgba16': (2, 4, cv2.COLOR_RGBA2RGB),
    'bgra16': (2, 4, cv2.COLOR_BGRA2RGB),
    'mono16': (2, 1, cv2.COLOR_GRAY2RGB),
    # ROS names a Bayer pattern by its first 2 x 2 pixels, OpenCV by (1, 1) and (1, 2).
    'bayer_rggb8': (1, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, 1, cv2.COLOR_BayerGB2RGB),
    'bayer_rggb16': (2, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr16': (2, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg16': (2, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg16': (2, 1, cv2.COLOR_BayerGB2RGB),
    'yuv422': (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    'yvyu': (1, 2, cv2.COLOR_YUV2RGB_YVYU),
    '8UC1': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': (1, 3, cv2.COLOR_BGR2RGB),
    '8UC4': (1, 4, cv2.COLOR_BGRA2RGB),
}
# Luma plane, then chroma: (rows of bytes per image row, conversion, or None for `_chroma`).
PLANAR: Dict[str, Tuple[float, Optional[int]]] = {
    'nv12': (1.5, cv2.COLOR_YUV2RGB_NV12),
    'nv21': (1.5, cv2.COLOR_YUV2RGB_NV21),
    'i420': (1.5, cv2.COLOR_YUV2RGB_I420),
    'yv12': (1.5, cv2.COLOR_YUV2RGB_YV12),
    'nv16': (2, None), 'nv61': (2, None), 'nv24': (3, None), 'nv42': (3, None),
}
SAME = {'uyvy': 'yuv422', 'yuv422_uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2', 'yuy2': 'yuv422_yuy2',
        'yuv422_yuyv': 'yuv422_yuy2', 'yuyv422': 'yuv422_yuy2', 'yuv420': 'i420',
        'yuv420p': 'i420', 'yu12': 'i420', 'iyuv': 'i420', 'rgb': 'rgb8', 'rgb24': 'rgb8',
        'bgr': 'bgr8', 'bgr24': 'bgr8', 'rgba': 'rgba8', 'bgra': 'bgra8', 'mono': 'mono8',
        'gray': 'mono8', 'grey': 'mono8', 'gray8': 'mono8', 'grey8': 'mono8', 'y8': 'mono8',
        'y16': 'mono16', 'gray16': 'mono16', 'grey16': 'mono16', 'z16': '16UC1'}
KINDS = {'u': 'u', 's': 'i', 'f': 'f'}
# Meaning of OpenCV encodings such as 8UC3, by channels; with two, the first is luma.
BY_CHANNELS = {1: cv2.COLOR_GRAY2RGB, 2: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB,
               4: cv2.COLOR_BGRA2RGB}
FROM_YUV = np.array([[1.164, 0.0, 1.596], [1.164, -0.392, -0.813],
                     [1.164, 2.017, 0.0]])  # BT.601, luma from 16 to 235
YUV_BLACK = np.array([16.0, 128.0, 128.0])

DEPTH_ENCODINGS = {'16UC1': 'u2', 'mono16': 'u2', '32FC1': 'f4', '64FC1': 'f8', '16SC1': 'i2',
                   '32SC1': 'i4'}
DEPTH_UNIT_M = 1e-3  # of integers, as in REP 118
NO_DEPTH = 65535  # some drivers write this in 16 bits for "too far" or "unknown", besides 0
COMPRESSED_DEPTH_HEADER = 12  # bytes: int32 format, float32 a, float32 b


def image_to_rgb(msg: Any, stretch: Optional[Stretch] = None) -> np.ndarray:
    """
    Convert a sensor_msgs/Image to uint8 (H, W, 3) RGB.

    An rgb8 message without row padding is not copied: the result is a read-only view.
    stretch: that of the image's stream, for more than 8 bits per channel.
    Raise MessageError for an unsupported encoding or an inconsistent size.
    """
    encoding = _known(msg.encoding)
    if encoding in PLANAR:
        return _from_planes(msg, encoding)
    kind, channels, conversion = _layout(encoding)
    if conversion is None and kind is None:
        return _by_cv_bridge(msg)
    pixels = _pixels(msg, kind, channels)
    return _to_rgb(pixels, conversion, stretch, encoding)


def compressed_to_rgb(msg: Any, stretch: Optional[Stretch] = None) -> np.ndarray:
    """
    Decode a sensor_msgs/CompressedImage (JPEG, PNG, WebP, ...) to uint8 (H, W, 3) RGB.

    Raise MessageError if the data cannot be decoded.
    """
    data, mosaic = _bytes(msg), msg.format.split(';')[0].strip()
    # Ignore orientation tags: the calibration is for the image as sent.
    if bytes(data[:2]) == JPEG and not mosaic.startswith('bayer'):
        pixels = _decode(msg, 0, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    pixels = _decode(msg, 0, cv2.IMREAD_UNCHANGED)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    conversion = BY_CHANNELS[channels]
    if channels == 1 and mosaic in IMAGE_ENCODINGS:
        conversion = IMAGE_ENCODINGS[mosaic][2] or conversion
    return _to_rgb(pixels, conversion, stretch, mosaic)


def is_depth(msg: Any) -> bool:
    """Return whether an Image or CompressedImage holds depth, judged by encoding or format."""
    if hasattr(msg, 'encoding'):
        return _known(msg.encoding) in DEPTH_ENCODINGS and msg.encoding != 'mono16'
    encoding = msg.format.split(';')[0].strip()
    return 'compressedDepth' in msg.format or encoding in ('16UC1', '32FC1')


def depth_to_metres(msg: Any, unit_m: float = DEPTH_UNIT_M) -> np.ndarray:
    """
    Convert a depth image (16UC1 in units of `unit_m`, 32FC1 meters) to float32 (H, W) meters.

    NaN where the sensor measured nothing: 0, 65535 (16 bits), negative, infinite or NaN.
    Raise MessageError for another encoding or a size that does not match the data.
    """
    encoding = _known(msg.encoding)
    if encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'depth image encoding "{msg.encoding}" is not supported; use 32FC1 (meters) or '
            '16UC1 (millimeters, or what depth_unit_m says)')
    return _metres(_pixels(msg, DEPTH_ENCODINGS[encoding], 1), unit_m)


def compressed_depth_to_metres(msg: Any, unit_m: float = DEPTH_UNIT_M) -> np.ndarray:
    """
    Decode a depth image in a CompressedImage to float32 (H, W) meters, NaN where unknown.

    Supported are the transport compressedDepth (PNG or RVL) and lossless data of `compressed`:
    16-bit PNG or TIFF in units of `unit_m`, and TIFF of float32 meters.
    Raise MessageError for anything else, such as JPEG, and for damaged data.
    """
    if 'compressedDepth' not in msg.format:
        return _metres(_plain_depth(msg), unit_m)
    encoding = msg.format.split(';')[0].strip()
    data = _bytes(msg)
    start = 0 if bytes(data[:8]) == PNG else COMPRESSED_DEPTH_HEADER
    if 'rvl' in msg.format.lower():
        pixels = decode_rvl(data[COMPRESSED_DEPTH_HEADER:])
        if pixels is None:
            raise _undecoded(msg)
    else:
        pixels = _decode(msg, start, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint16, np.float32):
        raise MessageError('compressed depth is not a single 16-bit channel; publish it as PNG')
    if encoding != '32FC1' or start == 0 or pixels.dtype == np.float32:
        return _metres(pixels, unit_m)
    # 32FC1 is stored as inverse depth, v = a / z + b.
    a, b = struct.unpack_from('<ff', bytes(data[4:COMPRESSED_DEPTH_HEADER]))
    with np.errstate(all='ignore'):
        depth = np.float32(a) / (pixels.astype(np.float32) - np.float32(b))
    depth[pixels == 0] = np.nan
    return _metres(depth, unit_m)


def _known(encoding):
    """Return the canonical name of an encoding, for other cases and synonyms."""
    if encoding in IMAGE_ENCODINGS or encoding in DEPTH_ENCODINGS:
        return encoding
    lower = encoding.strip().lower()
    if re.fullmatch(r'\d+[usf]c\d*', lower):
        return lower.upper() if lower[-1] != 'c' else f'{lower.upper()}1'
    return SAME.get(lower, lower)


def _layout(encoding):
    """Return (dtype, channels, conversion to RGB); the dtype is None for an unknown encoding."""
    if encoding in IMAGE_ENCODINGS:
        size, channels, conversion = IMAGE_ENCODINGS[encoding]
        return f'u{size}', channels, conversion
    found = re.fullmatch(r'(8|16|32|64)([USF])C([1-4])', encoding)
    if not found or found[2] == 'F' and found[1] == '8':
        return None, 0, None
    channels = int(found[3])
    return f'{KINDS[found[2].lower()]}{int(found[1]) // 8}', channels, BY_CHANNELS[channels]


def _to_rgb(pixels, conversion, stretch, encoding):
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 2 and conversion == cv2.COLOR_GRAY2RGB:
        pixels, channels = pixels[:, :, 0], 1
    if pixels.dtype != np.uint8:
        gray = channels == 1 and conversion == cv2.COLOR_GRAY2RGB
        pixels = (stretch or Stretch()).to_8_bit(pixels, not gray)
    if conversion is None:
        return np.ascontiguousarray(pixels)
    try:
        return cv2.cvtColor(np.ascontiguousarray(pixels), conversion)
    except cv2.error:
        raise MessageError(f'an image of {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be '
                           f'{encoding}, whose color belongs to several pixels') from None


def _from_planes(msg, encoding):
    """Convert planar YUV; some drivers include the chroma rows in the height."""
    rows, conversion = PLANAR[encoding]
    data, width = _bytes(msg), msg.width
    for height in (msg.height, msg.height / rows):
        for step in (msg.step, width):
            whole = height * rows
            if (2 * width > step >= width > 0 and height > 0 and height == int(height)
                    and whole == int(whole) and len(data) == step * whole):
                return _planes(data, int(height), width, step, encoding)
    raise MessageError(
        f'image of {width} x {msg.height} pixels in {msg.encoding} says step {msg.step} and holds '
        f'{len(data)} bytes; it needs {rows} rows of bytes for each row of pixels')


def _planes(data, height, width, step, encoding):
    rows, conversion = PLANAR[encoding]
    even = rows == 3 or width % 2 == 0 and (rows == 2 or height % 2 == 0)
    if not even or encoding in ('i420', 'yv12') and step != width:
        raise MessageError(f'an image of {width} x {height} pixels with {step} bytes a row cannot '
                           f'be {encoding}; let the driver publish bgr8')
    if conversion is not None:
        planes = data.reshape(-1, step)[:, :width]
        return cv2.cvtColor(np.ascontiguousarray(planes), conversion)
    luma = data[:step * height].reshape(height, step)[:, :width]
    chroma = data[step * height:].reshape(height, -1)[:, :2 * width if rows == 3 else width]
    chroma = chroma.reshape(height, -1, 2)[:, :, ::-1 if encoding in ('nv61', 'nv42') else 1]
    if rows == 2:
        chroma = np.repeat(chroma, 2, 1)
    yuv = np.dstack([luma, chroma])
    return cv2.transform(yuv, np.column_stack([FROM_YUV, -FROM_YUV @ YUV_BLACK]))


def _by_cv_bridge(msg):
    """Convert other encodings with cv_bridge, if it is installed."""
    why = f'image encoding "{msg.encoding}" is not supported'
    try:
        from cv_bridge import CvBridge
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, 'rgb8'))
    except ImportError:
        pass
    except Exception as error:  # its binaries raise various errors for unknown encodings
        why += f', nor by cv_bridge ({error})'
    raise MessageError(f'{why}; use one of {", ".join(sorted({**IMAGE_ENCODINGS, **PLANAR}))}')


def _bytes(msg):
    return np.frombuffer(msg.data, np.uint8)


def _pixels(msg, kind, channels):
    """View the pixels of an Image as (H, W) or (H, W, C) without a copy."""
    dtype = np.dtype(('>' if msg.is_bigendian else '<') + kind)
    row = msg.width * channels * dtype.itemsize
    step = msg.step or row  # some drivers leave it 0
    if msg.height == 0 or msg.width == 0:
        raise MessageError('image has no pixels: its height or width is 0')
    # More data than expected is refused, too: either the size or the data is wrong.
    if step < row or len(msg.data) != step * msg.height:
        raise MessageError(
            f'image of {msg.width} x {msg.height} pixels in {msg.encoding} says step {msg.step} '
            f'and holds {len(msg.data)} bytes; it needs a step of at least {row} and '
            'height * step bytes')
    pixels = np.ndarray((msg.height, msg.width, channels), dtype, _bytes(msg), 0,
                        (step, channels * dtype.itemsize, dtype.itemsize))
    return pixels if channels > 1 else pixels[:, :, 0]


def _metres(depth, unit_m):
    """Convert depth values: integers in units of `unit_m`, floats in meters."""
    with np.errstate(over='ignore'):
        meters = depth.astype(np.float32)
    if depth.dtype.kind != 'f':
        meters *= np.float32(unit_m)
    with np.errstate(invalid='ignore'):
        unknown = ~((meters > 0) & (meters < np.inf))
    if depth.dtype.kind == 'u':
        unknown |= depth == NO_DEPTH
    meters[unknown] = np.nan
    return meters


def _plain_depth(msg):
    if bytes(_bytes(msg)[:2]) == JPEG:
        raise MessageError(
            f'depth of format "{msg.format}" is JPEG, which has 8 bits and blurs depth; '
            'publish it with compressedDepth, as 16-bit PNG, or raw')
    pixels = _decode(msg, 0, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint16, np.float32):
        raise MessageError(
            f'depth of format "{msg.format}" holds {pixels.dtype} of shape {pixels.shape}; '
            'publish one 16-bit channel as PNG, compressedDepth png, or the raw image')
    return pixels


def _decode(msg, skip, flags):
    pixels = decode_picture(_bytes(msg)[skip:], flags)
    if pixels is None:
        raise _undecoded(msg)
    return pixels


def _undecoded(msg):
    return MessageError(
        f'compressed image of format "{msg.format}" with {len(msg.data)} bytes could not be '
        'decoded; publish JPEG, PNG or WebP, or compressedDepth png or rvl for depth')
