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
"""Messages of sensors: whatever their fields and bytes are, arrays that fit or a MessageError."""
import struct
from types import SimpleNamespace
import zlib

import cv2
from fuzz_input import Input
import numpy as np

from steer_depth_ros.ros import messages

NAMES = ('x', 'y', 'z', 't', 'timestamp', 'intensity', 'offset_time', '')
ENCODINGS = (*messages.IMAGE_ENCODINGS, '16UC1', '32FC1', '64FC3', 'nv21', 'nv24', 'i420', 'odd')
COMPRESSED = ('16UC1; compressedDepth png', '32FC1; compressedDepth png', 'jpeg', '32FC1',
              '16UC1; compressedDepth rvl', 'compressedDepth', '')
MODELS = ('plumb_bob', 'rational_polynomial', 'equidistant', '', 'other')
PIXELS = np.random.default_rng(0).integers(0, 65536, (4, 6), dtype=np.uint16)
RGB = np.dstack([PIXELS >> 8] * 3).astype(np.uint8)


def point_cloud(data):
    """Read coordinates and times of a PointCloud2 with any layout."""
    given = Input(data)
    height, width, step, row, big, second, count = given.take('<IIIIBiB')
    fields = []
    for _ in range(count % 8):
        name, offset, datatype = given.take('<BIB')
        fields.append(SimpleNamespace(name=NAMES[name % len(NAMES)], offset=offset,
                                      datatype=datatype, count=1))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=second, nanosec=1))
    msg = SimpleNamespace(header=header, height=height, width=width, point_step=step,
                          row_step=row, is_bigendian=bool(big & 1), fields=fields,
                          data=given.rest())
    points = messages.cloud_to_xyz(msg)
    assert points.shape == (height * width, 3) and points.dtype in (np.float32, np.float64)
    times = messages.cloud_times(msg)
    assert times is None or times.shape == (height * width,)


def point_cloud_seeds():
    """Give a sweep of float32 with times in nanoseconds, and an organized one of float64."""
    points = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    flat = struct.pack('<IIIIBiB', 1, 6, 16, 96, 0, 5, 4)
    flat += b''.join(struct.pack('<BIB', i, 4 * i, 7 if i < 3 else 6) for i in range(4))
    grid = struct.pack('<IIIIBiB', 2, 2, 32, 70, 1, 1_700_000_000, 4)
    grid += b''.join(struct.pack('<BIB', i + (i == 3), 8 * i, 8) for i in range(4))
    return [flat + points.tobytes(), grid + points.astype('>f8').tobytes()[:140],
            struct.pack('<IIIIBiB', 0, 0, 12, 0, 0, 0, 3)]


def image(data):
    """Read an Image as a picture and as depth."""
    given = Input(data)
    encoding, height, width, step, big = given.take('<BIIIB')
    msg = SimpleNamespace(encoding=ENCODINGS[encoding % len(ENCODINGS)], height=height,
                          width=width, step=step, is_bigendian=big & 1, data=given.rest())
    if msg.encoding in messages.DEPTH_ENCODINGS and big & 2:
        _check_depth(messages.depth_to_metres(msg), (height, width))
        return
    pixels = messages.image_to_rgb(msg)
    assert pixels.shape[1:] == (width, 3) and pixels.dtype == np.uint8
    assert pixels.shape[0] == height or msg.encoding in ('nv21', 'nv24', 'i420')


def image_seeds():
    """Give one small image of each encoding, with rows that are padded."""
    seeds = []
    for index, name in enumerate(ENCODINGS):
        size, channels = {'32FC1': (4, 1), '16UC1': (2, 1), '64FC3': (8, 3)}.get(
            name, messages.IMAGE_ENCODINGS.get(name, (1, 1))[:2])
        step = 6 * size * channels + 2
        for big in (0, 3) if name in messages.DEPTH_ENCODINGS else (0,):
            content = np.arange(4 * step).astype(np.uint8).tobytes()
            seeds.append(struct.pack('<BIIIB', index, 4, 6, step, big) + content)
    for name, rows in (('nv21', 6), ('nv24', 12), ('i420', 6)):
        seeds.append(struct.pack('<BIIIB', ENCODINGS.index(name), 4, 6, 6, 0) + bytes(6 * rows))
    return seeds


def compressed_image(data):
    """Decode the picture of a CompressedImage; the first byte may make checksums fit."""
    data = _with_checksums(data[1:]) if data[:1] == b'\1' else data[1:]
    pixels = messages.compressed_to_rgb(SimpleNamespace(format='jpeg', data=data))
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


def compressed_image_seeds():
    """Give the formats that transports send: JPEG and PNG, in color and gray, 8 and 16 bit."""
    return [bytes([ending == '.png']) + cv2.imencode(ending, pixels)[1].tobytes()
            for ending in ('.jpg', '.png')
            for pixels in (RGB, RGB[..., 0], PIXELS if ending == '.png' else RGB)]


def compressed_depth(data):
    """Decode the depth of a CompressedImage of the compressedDepth transport."""
    first, data = data[0] if data else 0, data[1:]
    if first & 128:
        data = data[:12] + _with_checksums(data[12:])
    kind = COMPRESSED[first % 128 % len(COMPRESSED)]
    _check_depth(messages.compressed_depth_to_metres(
        SimpleNamespace(format=kind, data=data)), None)


def compressed_depth_seeds():
    """Give millimeters and inverse depth, and two pictures that are no depth."""
    png = cv2.imencode('.png', PIXELS)[1].tobytes()
    color = cv2.imencode('.png', RGB)[1].tobytes()
    header = struct.pack('<iff', 0, 1e4, -50.0)
    return [bytes([index + 128]) + header + body for index in range(len(COMPRESSED))
            for body in (png, color)]


def camera_info(data):
    """Build the camera of a CameraInfo and project a point with it."""
    given = Input(data)
    width, height, model, count, rectified = given.take('<IIBBB')
    x, y, roi_width, roi_height, bin_x, bin_y = given.take('<IIIIII')
    numbers = given.take('<21d')
    msg = SimpleNamespace(
        width=width, height=height, distortion_model=MODELS[model % len(MODELS)],
        k=numbers[:9], p=numbers[9:], d=given.take(f'<{count % 15}d'),
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=roi_width, height=roi_height),
        binning_x=bin_x, binning_y=bin_y)
    camera = messages.camera_from_info(msg, bool(rectified & 1),
                                       (640, 480) if rectified & 2 else None)
    uv, valid = camera.project(np.array([[0.1, -0.2, 1.0], [0.0, 0.0, -1.0]]))
    assert not valid[1] and np.isnan(uv[1]).all()
    left, right, top, bottom = camera.bounds
    assert left <= right and top <= bottom


def camera_info_seeds():
    """Give a calibration of each distortion model, with region of interest and binning."""
    k = (500.0, 0, 320, 0, 510, 240, 0, 0, 1)
    p = (450.0, 0, 310, 0, 0, 460, 230, 0, 0, 0, 1, 0)
    seeds = []
    for model, d in ((0, (-0.3, 0.1, 0.001, 0.001, 0.0)), (2, (-0.01, 0.04, -0.04, 0.01)),
                     (1, (0.16, -2.68, 0.0005, 0.0001, 1.62, 0.03, -2.5, 1.54)), (3, ()),
                     (1, (0.1,) * 4 + (0.01,) * 10)):
        for rectified, window in ((0, (0,) * 6), (1, (0,) * 6), (2, (10, 20, 200, 100, 2, 2))):
            seeds.append(struct.pack('<IIBBB6I21d', 640, 480, model, len(d), rectified, *window,
                                     *k, *p) + struct.pack(f'<{len(d)}d', *d))
    return seeds


def _with_checksums(data):
    """Make the checksum of each chunk of a PNG fit, or changes would never get any further."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at:at + 4], 'big')
        data[end:end + 4] = struct.pack('>I', zlib.crc32(data[at + 4:end]))
        at = end + 4
    return bytes(data)


def _check_depth(depth, shape):
    assert depth.dtype == np.float32 and depth.ndim == 2 and shape in (None, depth.shape)
    assert ((depth > 0) & (depth < np.inf) | np.isnan(depth)).all()
