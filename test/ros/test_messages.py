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
"""Messages to arrays and back, with stand-ins that have the fields alone."""
from array import array
import struct
from types import SimpleNamespace

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError, MessageError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros import messages

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)


def image_msg(pixels, encoding, pad=0, bigendian=False):
    """Build an Image with `pad` bytes after each row."""
    if bigendian:
        pixels = pixels.astype(pixels.dtype.newbyteorder('>'))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    return SimpleNamespace(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                           is_bigendian=int(bigendian), step=rows.shape[1],
                           data=array('B', rows.tobytes()))


def header(seconds=0):
    return SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=500))


def cloud_msg(columns, shape, step, row_pad=0, bigendian=False):
    """Build a PointCloud2; columns: name -> (offset, datatype code, numpy type, values)."""
    height, width = shape
    data = np.zeros((height, width * step + row_pad), np.uint8)
    for offset, _, kind, values in columns.values() if width else ():
        dtype = np.dtype(kind).newbyteorder('>' if bigendian else '<')
        view = np.ndarray(shape, dtype, data, offset, (data.shape[1], step))
        view[...] = np.asarray(values).reshape(shape)
    fields = [SimpleNamespace(name=name, offset=c[0], datatype=c[1], count=1)
              for name, c in columns.items()]
    return SimpleNamespace(header=header(), height=height, width=width, fields=fields,
                           is_bigendian=bigendian, point_step=step, row_step=data.shape[1],
                           data=data.reshape(-1))


def xyz_columns(points, kind='f4', code=7, first=0):
    size = np.dtype(kind).itemsize
    return {name: (first + size * i, code, kind, points[:, i]) for i, name in enumerate('xyz')}


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('encoding, pixels, expected', [
    ('rgb8', RGB, RGB),
    ('bgr8', RGB[..., ::-1], RGB),
    ('8UC3', RGB[..., ::-1], RGB),
    ('rgba8', np.dstack([RGB, RGB[..., :1]]), RGB),
    ('bgra8', np.dstack([RGB[..., ::-1], RGB[..., :1]]), RGB),
    ('mono8', RGB[..., 0], np.repeat(RGB[..., :1], 3, 2)),
    ('mono16', RGB[..., 0].astype(np.uint16) * 257, np.repeat(RGB[..., :1], 3, 2)),
])
def test_encodings(encoding, pixels, expected, pad):
    found = messages.image_to_rgb(image_msg(np.ascontiguousarray(pixels), encoding, pad))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


@settings(deadline=None)
@given(st.sampled_from(['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16']), st.integers(1, 9),
       st.integers(1, 9), st.integers(0, 7), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_layout_of_an_image(encoding, height, width, pad, bigendian, seed):
    size, channels, _ = messages.IMAGE_ENCODINGS[encoding]
    stored = np.random.default_rng(seed).integers(0, 256 ** size, (height, width, channels))
    pixels = stored.astype(f'u{size}')
    found = messages.image_to_rgb(image_msg(pixels.squeeze(2) if channels == 1 else pixels,
                                            encoding, pad, bigendian and size > 1))
    expected = stored // 256 if size == 2 else stored
    expected = np.repeat(expected, 3, 2) if channels == 1 else expected[..., :3]
    assert np.array_equal(found, expected[..., ::-1] if encoding.startswith('bgr') else expected)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.sampled_from(['32FC1', '16UC1']))
def test_any_depth_goes_out_and_comes_in_again(values, encoding):
    depth = np.array([values], np.float32)
    with np.errstate(all='ignore'):
        found = messages.depth_to_metres(as_msg(messages.depth_fields(depth, encoding)))
        known = (depth > 0) & (depth < np.inf)
    if encoding == '32FC1':
        assert np.array_equal(found, np.where(known, depth, np.nan), equal_nan=True)
    else:
        held = known & (depth > 0.000501) & (depth < 65.535)
        assert np.abs(found - depth)[held].max(initial=0) < 0.00051
        assert np.isnan(found[~known]).all() and np.isnan(found[known & (depth > 65.536)]).all()


def test_big_endian_mono16():
    msg = image_msg(np.full((3, 4), 0x1234, np.uint16), 'mono16', bigendian=True)
    assert (messages.image_to_rgb(msg) == 0x12).all()


@pytest.mark.parametrize('kind, bigendian', [(np.uint8, False), (np.uint16, False),
                                             (np.uint16, True)])
@pytest.mark.parametrize('order, first_rows', [
    ('rggb', 'rg gb'), ('bggr', 'bg gr'), ('gbrg', 'gb rg'), ('grbg', 'gr bg')])
def test_bayer_mosaics_give_their_colour(order, first_rows, kind, bigendian):
    bits = 8 * np.dtype(kind).itemsize
    colour = {'r': 200, 'g': 100, 'b': 30}
    tile = np.array([[colour[c] for c in row] for row in first_rows.split()]) << (bits - 8)
    mosaic = np.tile(tile, (6, 6)).astype(kind)
    found = messages.image_to_rgb(image_msg(mosaic, f'bayer_{order}{bits}', bigendian=bigendian))
    assert np.array_equal(found[4:-4, 4:-4], np.broadcast_to([200, 100, 30], (4, 4, 3)))


def test_rgb_without_padding_is_not_copied():
    msg = image_msg(RGB, 'rgb8')
    assert np.shares_memory(messages.image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize('change', [
    {'encoding': 'nv21'}, {'data': array('B', b'123')}, {'step': 3}, {'height': 0},
    {'data': array('B', bytes(RGB.nbytes + 1))}])
def test_images_that_cannot_be_used(change):
    msg = image_msg(RGB, 'rgb8')
    vars(msg).update(change)
    with pytest.raises(MessageError):
        messages.image_to_rgb(msg)


def test_compressed_image():
    data = cv2.imencode('.png', RGB[..., ::-1])[1]
    msg = SimpleNamespace(format='rgb8; png compressed bgr8', data=array('B', data.tobytes()))
    assert np.array_equal(messages.compressed_to_rgb(msg), RGB)
    for broken in (b'', b'not a picture'):
        with pytest.raises(MessageError, match='decoded'):
            messages.compressed_to_rgb(SimpleNamespace(format='jpeg', data=array('B', broken)))


def test_depth_images():
    raw = np.array([[0, 1500], [65535, 1]], np.uint16)
    for msg in (image_msg(raw, '16UC1', pad=2), image_msg(raw, '16UC1', bigendian=True)):
        found = messages.depth_to_metres(msg)
        assert np.isnan(found[0, 0])
        assert found[~np.isnan(found)] == pytest.approx([1.5, 65.535, 0.001])
    raw = np.array([[1.5, np.nan, np.inf], [0.0, -1.0, -np.inf]], np.float32)
    found = messages.depth_to_metres(image_msg(raw, '32FC1'))
    assert found[0, 0] == 1.5 and np.isnan(found).sum() == 5
    with pytest.raises(MessageError, match='32FC1'):
        messages.depth_to_metres(image_msg(RGB, 'rgb8'))


def compressed_depth(kind, a, b, pixels):
    data = struct.pack('<iff', 0, a, b) + cv2.imencode('.png', pixels)[1].tobytes()
    return SimpleNamespace(format=f'{kind}; compressedDepth png', data=array('B', data))


def test_compressed_depth():
    pixels = np.array([[0, 1500]], np.uint16)
    found = messages.compressed_depth_to_metres(compressed_depth('16UC1', 0, 0, pixels))
    assert np.isnan(found[0, 0]) and found[0, 1] == pytest.approx(1.5)
    depth, a, b = np.array([[2.0, 10.0]]), 1e4, -50.0
    quantised = np.round(a / depth + b).astype(np.uint16)
    found = messages.compressed_depth_to_metres(compressed_depth('32FC1', a, b, quantised))
    assert found == pytest.approx(depth, rel=1e-3)
    for kind in ('16UC1; compressedDepth rvl', '16UC1; jpeg', ''):
        with pytest.raises(MessageError, match='png'):
            messages.compressed_depth_to_metres(SimpleNamespace(format=kind, data=array('B')))


@given(st.integers(1, 4), st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans(),
       st.sampled_from([0, 1, 12]))
def test_any_layout_of_a_cloud(height, width, row_pad, double, bigendian, first):
    points = RNG.normal(size=(height * width, 3)).astype(np.float32)
    kind, code = ('f8', 8) if double else ('f4', 7)
    columns = xyz_columns(points, kind, code, first)
    columns['ring'] = (first + 3 * np.dtype(kind).itemsize, 4, 'u2', np.zeros(len(points)))
    step = first + 3 * np.dtype(kind).itemsize + 5
    msg = cloud_msg(columns, (height, width), step, row_pad, bigendian)
    found = messages.cloud_to_xyz(msg)
    assert found.dtype == np.float32 and np.array_equal(found, points)


def test_fields_in_any_order():
    points = RNG.normal(size=(5, 3)).astype(np.float32)
    columns = {'intensity': (0, 7, 'f4', points[:, 0]), 'z': (4, 7, 'f4', points[:, 2]),
               'x': (12, 7, 'f4', points[:, 0]), 'y': (20, 7, 'f4', points[:, 1])}
    assert np.array_equal(messages.cloud_to_xyz(cloud_msg(columns, (1, 5), 24)), points)


@pytest.mark.parametrize('change, word', [
    ({'fields': []}, 'no field'), ({'data': np.zeros(10, np.uint8)}, 'bytes'),
    ({'point_step': 8, 'row_step': 40}, 'point_step')])
def test_clouds_that_cannot_be_used(change, word):
    msg = cloud_msg(xyz_columns(np.zeros((5, 3), np.float32)), (1, 5), 16)
    vars(msg).update(change)
    with pytest.raises(MessageError, match=word):
        messages.cloud_to_xyz(msg)


@pytest.mark.parametrize('offsets', [(0, 2, 8), (0, 4, 4), (4, 0, 5)])
def test_coordinates_that_share_bytes_are_refused(offsets):
    columns = {name: (offset, 7, 'f4', np.zeros(5))
               for name, offset in zip('xyz', offsets, strict=True)}
    with pytest.raises(MessageError, match='overlap at offset'):
        messages.cloud_to_xyz(cloud_msg(columns, (1, 5), 16))


def test_a_cloud_of_billions_of_points_without_a_byte_costs_nothing():
    msg = cloud_msg(xyz_columns(np.zeros((1, 3), np.float32)), (1, 1), 12)
    vars(msg).update(width=2**32 - 1, height=2**32 - 1, point_step=0, row_step=0)
    with pytest.raises(MessageError, match='point_step'):
        messages.cloud_to_xyz(msg)


def test_integer_coordinates_are_refused():
    columns = xyz_columns(np.zeros((2, 3), np.float32), 'i4', 5)
    with pytest.raises(MessageError, match='FLOAT32'):
        messages.cloud_to_xyz(cloud_msg(columns, (1, 2), 12))


@pytest.mark.parametrize('name, code, kind, stored', [
    ('t', 6, 'u4', [0, 50_000_000]), ('time', 7, 'f4', [0.0, 0.05]),
    ('timestamp', 8, 'f8', [1_700_000_000.0, 1_700_000_000.05]),
    ('timestamp', 8, 'f8', [1_700_000_000e9, 1_700_000_000.05e9])])
def test_times_of_points(name, code, kind, stored):
    columns = xyz_columns(np.zeros((2, 3), np.float32))
    columns[name] = (12, code, kind, np.array(stored))
    msg = cloud_msg(columns, (1, 2), 20)
    msg.header = header(1_700_000_000)
    assert messages.cloud_times(msg) == pytest.approx([0.0, 0.05], abs=2e-6)


def test_a_cloud_without_times():
    msg = cloud_msg(xyz_columns(np.zeros((2, 3), np.float32)), (1, 2), 12)
    assert messages.cloud_times(msg) is None


def info_msg(**changes):
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=640, height=480, distortion_model='plumb_bob',
                           d=array('d', [0.1, 0, 0, 0, 0]),
                           k=np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1]),
                           p=np.array([450.0, 0, 310, 0, 0, 460, 230, 0, 0, 0, 1, 0]),
                           binning_x=0, binning_y=0, roi=roi)
    vars(info).update(changes)
    return info


def test_camera_raw_rectified_and_scaled():
    raw = messages.camera_from_info(info_msg())
    assert (raw.fx, raw.fy, raw.cx, raw.cy, raw.model) == (500, 510, 320, 240, 'plumb_bob')
    rectified = messages.camera_from_info(info_msg(), rectified=True)
    assert (rectified.fx, rectified.cx, rectified.model) == (450, 310, 'pinhole')
    assert messages.camera_from_info(info_msg(), image_size=(320, 240)) == raw.scaled(320, 240)


@pytest.mark.parametrize('size, fits', [
    ((320, 240), True), ((213, 160), True), ((7, 5), True), ((480, 640), False),
    ((640, 400), False), ((1920, 1080), False)])
def test_an_image_of_another_shape_than_its_calibration_is_refused(size, fits):
    if fits:
        assert messages.camera_from_info(info_msg(), image_size=size).width == size[0]
        return
    with pytest.raises(CalibrationError, match='640 x 480 pixels, but the image has'):
        messages.camera_from_info(info_msg(), image_size=size)


def test_region_of_interest_and_binning():
    roi = SimpleNamespace(x_offset=100, y_offset=50, width=200, height=100)
    camera = messages.camera_from_info(info_msg(roi=roi, binning_x=2, binning_y=2))
    assert (camera.width, camera.height, camera.fx) == (100, 50, 250)
    assert camera.cx == pytest.approx((320 - 100 + 0.5) / 2 - 0.5)


def test_an_uncalibrated_camera_is_named():
    with pytest.raises(CalibrationError, match='uncalibrated'):
        messages.camera_from_info(info_msg(k=np.zeros(9)))


def as_msg(fields):
    return SimpleNamespace(header=header(), **fields)


def test_depth_out_and_in_again():
    depth = np.array([[np.nan, 0.5, 70.0], [2.0, 1e-4, 65.535]], np.float32)
    found = messages.depth_to_metres(as_msg(messages.depth_fields(depth, '32FC1')))
    assert np.array_equal(found, depth, equal_nan=True)
    fields = messages.depth_fields(depth, '16UC1')
    assert fields['data'].view(np.uint16).tolist() == [0, 500, 0, 2000, 0, 65535]
    with pytest.raises(MessageError, match='16UC1'):
        messages.depth_fields(depth, 'mono8')


@pytest.mark.parametrize('shape', [(4, 5, 4), (7, 4), (0, 4)])
def test_cloud_out_and_in_again(shape):
    cloud = RNG.normal(size=shape).astype(np.float32)
    fields = messages.cloud_fields(cloud)
    msg = as_msg({**fields, 'fields': [SimpleNamespace(**f) for f in fields['fields']]})
    assert np.array_equal(messages.cloud_to_xyz(msg), cloud[..., :3].reshape(-1, 3))
    assert fields['is_dense'] == (len(shape) == 2)
    assert (msg.height, msg.width) == (shape[:2] if len(shape) == 3 else (1, shape[0]))


@pytest.mark.parametrize('camera', [
    Camera(64, 48, 50.0, 51.0, 31.0, 23.0),
    Camera(64, 48, 50.0, 51.0, 31.0, 23.0, 'equidistant', (0.1, 0.0, 0.0, 0.01))])
def test_camera_info_out_and_in_again(camera):
    fields = messages.camera_info_fields(camera)
    no_roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    assert messages.camera_from_info(
        SimpleNamespace(binning_x=0, binning_y=0, roi=no_roi, **fields)) == camera


def test_fill_copies_bytes_fast_and_keeps_lists():
    msg = SimpleNamespace(data=array('B'))
    messages.fill(msg, messages.image_fields(RGB, 'rgb8'))
    assert isinstance(msg.data, array) and msg.data.tobytes() == RGB.tobytes()
    assert (msg.height, msg.width, msg.step, msg.encoding) == (6, 8, 24, 'rgb8')


def test_pixels_that_are_not_contiguous():
    assert messages.image_fields(RGB[:, ::2], 'rgb8')['data'].tobytes() == RGB[:, ::2].tobytes()
