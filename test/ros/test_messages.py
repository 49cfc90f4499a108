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
import sys
from types import SimpleNamespace

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError, MessageError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.stretch import Stretch

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
def test_image_encodings(encoding, pixels, expected, pad):
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
def test_any_depth_survives_a_round_trip(values, encoding):
    depth = np.array([values], np.float32)
    with np.errstate(all='ignore'):
        found = messages.depth_to_metres(as_msg(messages.depth_fields(depth, encoding)))
        known = (depth > 0) & (depth < np.inf)
    if encoding == '32FC1':
        assert np.array_equal(found, np.where(known, depth, np.nan), equal_nan=True)
    else:
        held = known & (depth > 0.000501) & (depth < 65.5344)
        assert np.abs(found - depth)[held].max(initial=0) < 0.00051
        assert np.isnan(found[~known]).all() and np.isnan(found[known & (depth > 65.536)]).all()


def test_big_endian_mono16():
    msg = image_msg(np.full((3, 4), 0x1234, np.uint16), 'mono16', bigendian=True)
    assert (messages.image_to_rgb(msg) == 0x12).all()


@pytest.mark.parametrize('kind, bigendian', [(np.uint8, False), (np.uint16, False),
                                             (np.uint16, True)])
@pytest.mark.parametrize('order, first_rows', [
    ('rggb', 'rg gb'), ('bggr', 'bg gr'), ('gbrg', 'gb rg'), ('grbg', 'gr bg')])
def test_bayer_mosaics_give_their_color(order, first_rows, kind, bigendian):
    bits = 8 * np.dtype(kind).itemsize
    color = {'r': 200, 'g': 100, 'b': 30}
    tile = np.array([[color[c] for c in row] for row in first_rows.split()]) << (bits - 8)
    mosaic = np.tile(tile, (6, 6)).astype(kind)
    found = messages.image_to_rgb(image_msg(mosaic, f'bayer_{order}{bits}', bigendian=bigendian))
    assert np.array_equal(found[4:-4, 4:-4], np.broadcast_to([200, 100, 30], (4, 4, 3)))


def test_rgb_without_padding_is_not_copied():
    msg = image_msg(RGB, 'rgb8')
    assert np.shares_memory(messages.image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize('change', [
    {'encoding': 'nv21'}, {'encoding': 'h264'}, {'encoding': '8FC1'},
    {'data': array('B', b'123')}, {'step': 3}, {'height': 0},
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
        assert np.isnan(found[1, 0])  # 65535 stands for nothing measured
        assert found[~np.isnan(found)] == pytest.approx([1.5, 0.001])
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
        with pytest.raises(MessageError, match='compressedDepth png'):
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
    assert found.dtype == kind and np.array_equal(found, points)


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


def test_depth_round_trip():
    depth = np.array([[np.nan, 0.5, 70.0], [2.0, 1e-4, 65.535]], np.float32)
    found = messages.depth_to_metres(as_msg(messages.depth_fields(depth, '32FC1')))
    assert np.array_equal(found, depth, equal_nan=True)
    fields = messages.depth_fields(depth, '16UC1')
    assert fields['data'].view(np.uint16).tolist() == [0, 500, 0, 2000, 0, 65535]
    with pytest.raises(MessageError, match='16UC1'):
        messages.depth_fields(depth, 'mono8')


@pytest.mark.parametrize('shape', [(4, 5, 4), (7, 4), (0, 4)])
def test_cloud_round_trip(shape):
    cloud = RNG.normal(size=shape).astype(np.float32)
    fields = messages.cloud_fields(cloud)
    msg = as_msg({**fields, 'fields': [SimpleNamespace(**f) for f in fields['fields']]})
    assert np.array_equal(messages.cloud_to_xyz(msg), cloud[..., :3].reshape(-1, 3))
    assert fields['is_dense'] == (len(shape) == 2)
    assert (msg.height, msg.width) == (shape[:2] if len(shape) == 3 else (1, shape[0]))


@pytest.mark.parametrize('camera', [
    Camera(64, 48, 50.0, 51.0, 31.0, 23.0),
    Camera(64, 48, 50.0, 51.0, 31.0, 23.0, 'equidistant', (0.1, 0.0, 0.0, 0.01))])
def test_camera_info_round_trip(camera):
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


# What sensors and drivers really send

SCENE = np.random.default_rng(4).integers(30, 220, (6, 10, 3), dtype=np.uint8).repeat(
    8, 0).repeat(8, 1)
GREY = cv2.cvtColor(SCENE, cv2.COLOR_RGB2GRAY)


def chroma():
    """Give Y, U, V of the scene, BT.601 with luma from 16 to 235, each of full size."""
    matrix = np.array([[.257, .504, .098], [-.148, -.291, .439], [.439, -.368, -.071]])
    yuv = SCENE @ matrix.T + [16, 128, 128]
    return [np.rint(yuv[..., i]).astype(np.uint8) for i in range(3)]


def yuv_layouts():
    """Give the bytes of the scene in each layout: name to (H, bytes a row) uint8."""
    y, u, v = chroma()
    half_u, half_v = u[:, ::2], v[:, ::2]
    quarter_u, quarter_v = u[::2, ::2], v[::2, ::2]

    def packed(*parts):
        return np.stack(parts, 2).reshape(len(y), -1)

    def pairs(a, b):
        return np.stack([a, b], -1)

    rows = {'uyvy': packed(half_u, y[:, ::2], half_v, y[:, 1::2]),
            'yuyv': packed(y[:, ::2], half_u, y[:, 1::2], half_v),
            'yvyu': packed(y[:, ::2], half_v, y[:, 1::2], half_u),
            'nv12': pairs(quarter_u, quarter_v), 'nv21': pairs(quarter_v, quarter_u),
            'nv16': pairs(half_u, half_v), 'nv61': pairs(half_v, half_u),
            'nv24': pairs(u, v), 'nv42': pairs(v, u),
            'i420': np.stack([quarter_u, quarter_v]), 'yv12': np.stack([quarter_v, quarter_u])}
    for same, name in (('yuv422', 'uyvy'), ('UYVY', 'uyvy'), ('yuv422_yuy2', 'yuyv')):
        rows[same] = rows[name]
    return {name: part if part.ndim == 2 else np.concatenate([y.ravel(), part.ravel()])
            for name, part in rows.items()}


@pytest.mark.parametrize('name', yuv_layouts())
def test_luma_and_chroma_in_every_layout_give_the_colors(name):
    data, height = yuv_layouts()[name], len(SCENE)
    step = SCENE.shape[1] if data.ndim == 1 else data.shape[1]
    msg = SimpleNamespace(height=height, width=SCENE.shape[1], encoding=name, is_bigendian=0,
                          step=step, data=array('B', data.tobytes()))
    found = messages.image_to_rgb(msg).astype(int)
    assert found.shape == SCENE.shape and np.abs(found - SCENE).mean() < 2
    if data.ndim == 1:  # a driver that counts the rows of chroma
        msg.height = data.size // step
        assert np.array_equal(messages.image_to_rgb(msg), found)
        msg.height, msg.step = height, data.size // height  # one that shares all bytes out
        assert np.array_equal(messages.image_to_rgb(msg), found)


@pytest.mark.parametrize('encoding, size', [('nv12', (5, 8)), ('yuv422', (4, 5)),
                                            ('nv16', (4, 5))])
def test_chroma_of_half_a_pixel_is_refused(encoding, size):
    count = round(size[0] * size[1] * (1.5 if encoding == 'nv12' else 2))
    msg = SimpleNamespace(height=size[0], width=size[1], encoding=encoding, is_bigendian=0,
                          step=0, data=array('B', bytes(count)))
    with pytest.raises(MessageError, match=encoding):
        messages.image_to_rgb(msg)


@pytest.mark.parametrize('bits', [10, 12, 14, 16])
@pytest.mark.parametrize('encoding', ['rgb16', 'bgr16', 'rgba16', 'bgra16', '16UC3', '16UC4',
                                      'mono16', '16UC1'])
def test_sensors_that_use_a_part_of_16_bit_are_as_bright_as_others(encoding, bits):
    color = SCENE if encoding.startswith('rgb') else SCENE[..., ::-1]
    pixels = np.dstack([color, GREY]) if encoding in ('rgba16', 'bgra16', '16UC4') else color
    expected = SCENE
    if encoding in ('mono16', '16UC1'):
        pixels, expected = GREY, np.dstack([GREY] * 3)
    msg = image_msg(pixels.astype(np.uint16) << (bits - 8), encoding, bigendian=bits == 12)
    assert np.array_equal(messages.image_to_rgb(msg), expected)


@pytest.mark.parametrize('encoding, scale', [
    ('32FC1', 1 / 255), ('32FC1', 1.0), ('32FC3', 1 / 255), ('32FC3', 1.0), ('64FC3', 1 / 255),
    ('8UC2', 1), ('8UC4', 1)])
def test_opencv_encodings_are_read_as_images(encoding, scale):
    gray = encoding[-1] in '12'
    pixels = GREY if gray else SCENE[..., ::-1]
    pixels = np.dstack([pixels, GREY]) if encoding[-1] in '24' else pixels
    if 'F' in encoding:
        pixels = (pixels * scale).astype(np.float32 if encoding.startswith('32') else np.float64)
    found = messages.image_to_rgb(image_msg(pixels, encoding)).astype(int)
    assert np.abs(found - (np.dstack([GREY] * 3) if gray else SCENE)).max() <= 1


def test_a_thermal_image_is_stretched_and_does_not_flicker():
    rng = np.random.default_rng(5)
    stretch = Stretch()
    counts = 7000 + 2 * GREY.astype(float)  # 14 bit, of which the scene spans 400

    def seen(values):
        noisy = np.rint(values + rng.normal(0, 3, values.shape)).astype(np.uint16)
        return messages.image_to_rgb(image_msg(noisy, '16UC1'), stretch)[..., 0].astype(float)

    first = seen(counts)
    assert first.max() - first.min() > 200
    assert np.corrcoef(first.ravel(), GREY.ravel())[0, 1] > 0.99
    for _ in range(20):
        assert abs(seen(counts).mean() - first.mean()) < 0.5
    hot = counts.copy()
    hot[:4, :8] = 16000  # something hot comes in
    for _ in range(5):
        assert np.abs(seen(hot)[8:] - first[8:]).mean() < 4
    moved = [seen(counts + 40).mean() for _ in range(60)]  # the sensor warms up
    assert np.abs(np.diff(moved)).max() < 10 and abs(moved[-1] - first.mean()) < 15
    # Behind a shutter all is new: nothing of the old window helps.
    assert 60 < seen(counts + 3000).mean() < 200


def test_names_of_any_case_and_cv_bridge_for_the_rest(monkeypatch):
    for name in ('RGB8', 'rgb', ' rgb8'):
        assert np.array_equal(messages.image_to_rgb(image_msg(RGB, name)), RGB)
    msg = image_msg(RGB, 'rgb101010')
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(MessageError, match='rgb101010.*use one of.*yuv422'):
        messages.image_to_rgb(msg)
    bridge = SimpleNamespace(imgmsg_to_cv2=lambda m, wanted: RGB if wanted == 'rgb8' else None)
    monkeypatch.setitem(sys.modules, 'cv_bridge', SimpleNamespace(CvBridge=lambda: bridge))
    assert np.array_equal(messages.image_to_rgb(msg), RGB)


def compressed(data, form):
    return SimpleNamespace(format=form, data=array('B', np.asarray(data).tobytes()))


@pytest.mark.parametrize('ending, exact', [('.png', 1), ('.webp', 20), ('.jpg', 20), ('.tif', 1),
                                           ('.bmp', 1), ('.jp2', 20)])
@pytest.mark.parametrize('gray', [False, True])
def test_compressed_images_of_every_codec(ending, exact, gray):
    pixels = GREY if gray else SCENE[..., ::-1]
    msg = compressed(cv2.imencode(ending, pixels)[1], ending[1:])
    found = messages.compressed_to_rgb(msg).astype(int)
    expected = np.dstack([GREY] * 3) if gray else SCENE
    assert np.abs(found - expected).mean() < exact
    assert np.abs(found.mean((0, 1)) - expected.mean((0, 1))).max() < 3


def test_a_mosaic_and_16_bit_in_a_png():
    mosaic = np.tile(np.array([[200, 100], [100, 30]], np.uint8), (8, 8))
    for pixels, form in ((mosaic, 'bayer_rggb8; png compressed '),
                         (mosaic.astype(np.uint16) << 8, 'bayer_rggb16; png compressed ')):
        found = messages.compressed_to_rgb(compressed(cv2.imencode('.png', pixels)[1], form))
        assert np.array_equal(found[4:-4, 4:-4], np.broadcast_to([200, 100, 30], (8, 8, 3)))
    converted = cv2.imencode('.png', SCENE[..., ::-1])[1]
    found = messages.compressed_to_rgb(compressed(converted, 'bayer_rggb8; png compressed bgr8'))
    assert np.array_equal(found, SCENE)
    thermal = cv2.imencode('.png', GREY.astype(np.uint16) + 7000)[1]
    found = messages.compressed_to_rgb(compressed(thermal, 'mono16; png compressed '))
    assert found.max() - found.min() > 200


DEPTH = np.array([[0, 1500, 1501, 65535], [0, 0, 1499, 2], [0, 0, 0, 0], [9000, 1, 65534, 7]],
                 np.uint16)
METRES = np.where((DEPTH == 0) | (DEPTH == 65535), np.nan, DEPTH * 1e-3)


def rvl(depth):
    """Encode as the format says, number by number and digit by digit."""
    numbers, flat, at, previous = [], depth.ravel().astype(int).tolist(), 0, 0
    while at < len(flat):
        for zero in (True, False):
            begin = at
            while at < len(flat) and (flat[at] == 0) == zero:
                at += 1
            numbers.append(at - begin)
        for value in flat[begin:at]:
            difference = value - previous
            previous = value
            numbers.append(2 * difference if difference >= 0 else -2 * difference - 1)
    digits = []
    for number in numbers:
        while True:
            digits.append(number & 7 | (8 if number > 7 else 0))
            number >>= 3
            if not number:
                break
    digits += [0] * (-len(digits) % 8)
    words = [sum(d << (28 - 4 * i) for i, d in enumerate(digits[first:first + 8]))
             for first in range(0, len(digits), 8)]
    return struct.pack(f'<ii{len(words)}I', depth.shape[1], depth.shape[0], *words)


def test_rvl_by_hand():
    # 2 x 2: one zero, two others: 5 (zigzag 10 = digits 2, 1), 4 (zigzag 1); one zero, none.
    data = struct.pack('<iffiiI', 0, 0, 0, 2, 2, 0x12a11100)
    msg = SimpleNamespace(format='16UC1; compressedDepth rvl', data=array('B', data))
    found = messages.compressed_depth_to_metres(msg)
    assert np.allclose(found, [[np.nan, 5e-3], [4e-3, np.nan]], equal_nan=True)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_depth_comes_out_of_rvl(height, width, share, seed):
    rng = np.random.default_rng(seed)
    depth = rng.integers(0, 65535, (height, width), np.uint16)
    depth[rng.random((height, width)) < share] = 0
    data = struct.pack('<iff', 0, 0, 0) + rvl(depth)
    msg = SimpleNamespace(format='16UC1; compressedDepth rvl', data=array('B', data))
    found = messages.compressed_depth_to_metres(msg)
    assert np.array_equal(np.nan_to_num(np.rint(found * 1e3)), depth)
    for end in range(0, len(data), 5):  # what ends early may not be read as less
        msg.data = array('B', data[:end])
        with pytest.raises(MessageError):
            messages.compressed_depth_to_metres(msg)


def test_inverse_depth_in_rvl():
    depth, a, b = np.array([[2.0, 10.0]]), 1e4, -50.0
    data = struct.pack('<iff', 0, a, b) + rvl(np.round(a / depth + b).astype(np.uint16))
    msg = SimpleNamespace(format='32FC1; compressedDepth rvl', data=array('B', data))
    assert messages.compressed_depth_to_metres(msg) == pytest.approx(depth, rel=1e-3)


@pytest.mark.parametrize('form', ['16UC1; png compressed ', 'mono16; png compressed ', 'png'])
def test_depth_in_a_plain_png(form):
    msg = compressed(cv2.imencode('.png', DEPTH)[1], form)
    found = messages.compressed_depth_to_metres(msg)
    assert np.allclose(found, METRES, equal_nan=True)
    assert np.allclose(messages.compressed_depth_to_metres(msg, 2e-4), METRES / 5, equal_nan=True)


@pytest.mark.parametrize('ending, pixels, words', [
    ('.jpg', DEPTH.astype(np.uint8), 'JPEG.*compressedDepth'),
    ('.png', DEPTH.astype(np.uint8), 'uint8.*16-bit'),
    ('.png', np.dstack([DEPTH] * 3), 'shape.*16-bit')])
def test_depth_that_lost_its_distances_is_refused(ending, pixels, words):
    msg = compressed(cv2.imencode(ending, pixels)[1], f'16UC1; {ending[1:]} compressed ')
    with pytest.raises(MessageError, match=words):
        messages.compressed_depth_to_metres(msg)


def test_units_and_types_of_depth():
    for unit in (1e-3, 2e-4, 1 / 256):
        found = messages.depth_to_metres(image_msg(DEPTH, '16UC1', 3), unit)
        assert np.allclose(found, METRES * unit * 1e3, equal_nan=True)
    meters = METRES.copy()
    meters[0, 0], meters[1, 0] = np.inf, -1.0
    for kind, encoding in ((np.float32, '32FC1'), (np.float64, '64FC1')):
        for bigendian in (False, True):
            msg = image_msg(meters.astype(kind), encoding, 8, bigendian)
            found = messages.depth_to_metres(msg, 2e-4)  # floats are meters
            assert np.allclose(found, METRES, equal_nan=True) and found.dtype == np.float32
    assert messages.is_depth(msg) and not messages.is_depth(image_msg(RGB, 'rgb8'))
    assert messages.is_depth(compressed([], '16UC1; png compressed '))
    assert not messages.is_depth(compressed([], 'rgb8; jpeg compressed bgr8'))


def test_a_step_of_zero_is_that_of_rows_without_padding():
    msg = image_msg(RGB, 'bgr8')
    msg.step = 0
    assert np.array_equal(messages.image_to_rgb(msg), RGB[..., ::-1])


def test_coordinates_of_a_map_keep_their_millimeters():
    points = np.array([[500_000.123, 5_000_000.456, 100.789]])
    found = messages.cloud_to_xyz(cloud_msg(xyz_columns(points, 'f8', 8), (1, 1), 24))
    assert found.dtype == np.float64 and np.array_equal(found, points)


SWEEP = np.linspace(0, 0.1, 2000)
NOW = 1_700_000_000.0


@pytest.mark.parametrize('name, code, kind, stored, seconds', [
    ('t', 6, 'u4', SWEEP * 1e9, SWEEP), ('t', 6, 'u4', SWEEP * 1e6, SWEEP),
    ('time', 7, 'f4', SWEEP, SWEEP), ('time', 7, 'f4', SWEEP - 0.1, SWEEP - 0.1),
    ('time', 7, 'f4', SWEEP * 1e3, SWEEP), ('time', 7, 'f4', SWEEP * 1e6, SWEEP),
    ('timestamp', 8, 'f8', SWEEP * 1e9, SWEEP), ('timestamp', 8, 'f8', NOW + SWEEP, SWEEP),
    ('timestamp', 8, 'f8', (NOW + SWEEP) * 1e3, SWEEP),
    ('timestamp', 8, 'f8', (NOW + SWEEP) * 1e6, SWEEP),
    ('timestamp', 8, 'f8', (NOW + SWEEP) * 1e9, SWEEP),
    ('timestamp', 8, 'f8', NOW - 90_000 + SWEEP, SWEEP),  # the clock of the sensor is not set
    ('timestamp', 8, 'f8', 0 * SWEEP, 0 * SWEEP),
    ('timestamp', 8, 'f8', np.nan * SWEEP, 0 * SWEEP), ('t', 6, 'u4', 0 * SWEEP, 0 * SWEEP)])
@pytest.mark.parametrize('invalid', [None, 0.0, np.nan])
def test_times_of_any_unit_with_invalid_ones(name, code, kind, stored, seconds, invalid):
    stored = np.array(stored)
    bad = np.arange(len(stored)) % 10 == 3
    if invalid is not None and (kind != 'u4' or invalid == 0):
        stored[bad] = invalid
    else:
        bad[:] = False
    columns = xyz_columns(np.zeros((len(stored), 3), np.float32))
    columns[name] = (12, code, kind, stored.astype(kind))
    msg = cloud_msg(columns, (1, len(stored)), 20)
    msg.header = header(int(NOW))
    found = messages.cloud_times(msg)
    assert found[~bad] == pytest.approx(seconds[~bad], abs=2e-6)
    assert (np.isnan(found[bad]) | (np.abs(found[bad]) <= 0.2)).all()


def test_times_since_boot_with_such_a_stamp_and_with_outliers():
    stored = ((4280.0 + SWEEP) * 1e9).astype(np.uint64)
    stored[:5] = 9e18
    columns = xyz_columns(np.zeros((len(stored), 3), np.float32))
    columns['timestamp'] = (12, 8, 'u8', stored)
    msg = cloud_msg(columns, (1, len(stored)), 20)
    msg.header = header(4280)
    msg.fields[-1].datatype = 6  # no PointField has 64 bit integers: two halves of one
    assert messages.cloud_times(msg) is not None
    columns['timestamp'] = (12, 8, 'f8', (4280.0 + SWEEP))
    msg = cloud_msg(columns, (1, len(stored)), 20)
    msg.header = header(4280)
    assert messages.cloud_times(msg) == pytest.approx(SWEEP, abs=1e-6)


def test_a_livox_custom_message():
    points = [SimpleNamespace(x=1.0, y=2.0, z=3.0, offset_time=0, reflectivity=1, tag=0, line=0),
              SimpleNamespace(x=4.0, y=5.0, z=6.0, offset_time=50_000_000, reflectivity=1, tag=0,
                              line=1)]
    msg = SimpleNamespace(header=header(), timebase=0, point_num=2, lidar_id=0, points=points)
    assert messages.cloud_to_xyz(msg).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert messages.cloud_times(msg) == pytest.approx([0.0, 0.05])


@pytest.mark.parametrize('topic, rectified', [
    ('/cam/image_rect', True), ('/cam/image_rect_color', True),
    ('/cam/image_rect/compressed', True), ('/left/rectified/image', True),
    ('/cam/image_raw', False), ('/correct/image', False), ('/rectangle/image', False)])
def test_rectified_images_are_known_by_their_topic(topic, rectified):
    assert messages.is_rectified_topic(topic) == rectified


def test_a_camera_info_without_size_takes_that_of_the_image():
    whole = messages.camera_from_info(info_msg(), image_size=(640, 480))
    assert messages.camera_from_info(info_msg(width=0, height=0), image_size=(640, 480)) == whole
    binned = info_msg(width=0, height=0, binning_x=2, binning_y=2)
    assert messages.camera_from_info(binned, image_size=(320, 240)) == whole.binned(2, 2)
    with pytest.raises(CalibrationError, match='0 x 0'):
        messages.camera_from_info(info_msg(width=0, height=0))


def test_a_region_of_interest_that_the_image_does_not_show():
    roi = SimpleNamespace(x_offset=100, y_offset=50, width=200, height=100)
    whole = messages.camera_from_info(info_msg())
    assert messages.camera_from_info(info_msg(roi=roi), image_size=(640, 480)) == whole
    half = messages.camera_from_info(info_msg(roi=roi, binning_x=2, binning_y=2),
                                     image_size=(320, 240))
    assert half == whole.binned(2, 2)
    cropped = messages.camera_from_info(info_msg(roi=roi), image_size=(100, 50))
    assert cropped == whole.cropped(100, 50, 200, 100).scaled(100, 50)


def test_the_second_camera_of_a_stereo_pair_stands_beside_the_first():
    p = np.array([450.0, 0, 310, -54.0, 0, 460, 230, 4.6, 0, 0, 1, 0])
    assert messages.stereo_shift(info_msg(p=p)) == pytest.approx([-0.12, 0.01, 0])
    point = np.array([0.3, -0.2, 4.0])
    moved = point + messages.stereo_shift(info_msg(p=p))
    camera = messages.camera_from_info(info_msg(p=p), rectified=True)
    expected = p.reshape(3, 4) @ [*point, 1]
    assert camera.project(moved[None])[0][0] == pytest.approx(expected[:2] / expected[2])
    assert not messages.stereo_shift(info_msg(p=np.zeros(12))).any()
