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
import struct

import numpy as np
import pytest

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.recordings.cloud_files import read_cloud

UTM = np.array([500_123.25, 5_400_456.5, 312.125])


def scan(count=4000):
    """Points as a spinning LiDAR gives them: rings, all around, and what is nearer below."""
    rng = np.random.default_rng(0)
    azimuth = np.linspace(0, 2 * np.pi, count)
    ring = np.arange(count) % 32
    elevation = np.radians(ring - 25.0)
    distance = np.minimum(20 + 10 * np.sin(3 * azimuth), 1.8 / np.maximum(-elevation, 0.02))
    xyz = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth),
                    distance * np.sin(elevation)], 1).astype(np.float32)
    return xyz, rng.random(count, np.float32), ring.astype(np.float32), np.linspace(
        0, 0.1, count, dtype=np.float32)


@pytest.mark.parametrize('count', [4000, 3840, 3601])
@pytest.mark.parametrize('columns', [4, 5, 6])
def test_the_number_of_floats_per_point_is_inferred_from_the_values(tmp_path, columns, count):
    xyz, *others = scan(count)
    np.column_stack([xyz, *others])[:, :columns].astype('<f4').tofile(tmp_path / 'a.pcd.bin')
    np.testing.assert_array_equal(read_cloud(tmp_path / 'a.pcd.bin'), xyz)


def test_an_ambiguous_point_size_is_refused_and_can_be_given(tmp_path):
    xyz, *_ = scan()
    xyz.tofile(tmp_path / 'three.bin')
    with pytest.raises(DatasetError, match='cannot be told.*--point-columns'):
        read_cloud(tmp_path / 'three.bin')
    np.testing.assert_array_equal(read_cloud(tmp_path / 'three.bin', 3), xyz)
    eight = np.column_stack([xyz, *scan()[1:], np.zeros((len(xyz), 2))]).astype('<f4')
    eight.tofile(tmp_path / 'eight.bin')
    with pytest.raises(DatasetError, match='cannot be told'):
        read_cloud(tmp_path / 'eight.bin')
    np.testing.assert_array_equal(read_cloud(tmp_path / 'eight.bin', 8), xyz)
    with pytest.raises(DatasetError, match='is damaged: its .* not a whole number of points of 7'):
        read_cloud(tmp_path / 'three.bin', 7)


def pcd(fields, data, body, points, extra=''):
    names, kinds, sizes, counts = zip(*fields)
    head = (f'# .PCD v0.7 - Point Cloud Data file format\n{extra}VERSION 0.7\n'
            f'FIELDS {" ".join(names)}\nSIZE {" ".join(map(str, sizes))}\n'
            f'TYPE {" ".join(kinds)}\nCOUNT {" ".join(map(str, counts))}\nWIDTH {points}\n'
            f'HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {data}\n')
    return head.encode() + body


XYZI = [('x', 'F', 4, 1), ('y', 'F', 4, 1), ('z', 'F', 4, 1), ('_', 'U', 1, 4),
        ('intensity', 'F', 4, 1)]


def rows_with_padding(xyz):
    rows = np.zeros(len(xyz), np.dtype([('p', '<f4', 3), ('pad', 'u1', 4), ('i', '<f4')]))
    rows['p'] = xyz
    return rows


@pytest.mark.parametrize('extra', ['', '# x\n', '# 0123456789ab\n'])
def test_pcd_binary_whatever_its_size(tmp_path, extra):
    xyz = scan()[0]
    (tmp_path / 'a.PCD').write_bytes(pcd(XYZI, 'binary', rows_with_padding(xyz).tobytes(),
                                         len(xyz), extra))
    np.testing.assert_array_equal(read_cloud(tmp_path / 'a.PCD'), xyz)


def test_pcd_ascii_with_invalid_points(tmp_path):
    fields = [('intensity', 'F', 4, 1), ('x', 'F', 4, 1), ('y', 'F', 4, 1), ('z', 'F', 4, 1)]
    (tmp_path / 'a.pcd').write_bytes(pcd(fields, 'ascii', b'9 1 2 3\n8 nan nan nan\n7 4 5 6\n', 3))
    np.testing.assert_array_equal(read_cloud(tmp_path / 'a.pcd'),
                                  [[1, 2, 3], [np.nan] * 3, [4, 5, 6]])


def test_pcd_compressed_with_literals_and_overlapping_copies(tmp_path):
    fields = [('x', 'F', 4, 1), ('y', 'F', 4, 1), ('z', 'F', 4, 1)]
    xyz = np.array([[1.5, 7, -2]] * 40 + [[9, 8, 7]], np.float32)
    plain = xyz.T.tobytes()
    packed, at = b'', 0
    for _ in range(3):  # one value as it is, 39 as a copy of what is just being made
        packed += bytes([3]) + plain[at:at + 4] + bytes([7 << 5, 156 - 9, 3])
        packed += bytes([3]) + plain[at + 160:at + 164]
        at += 164
    body = struct.pack('<II', len(packed), len(plain)) + packed
    (tmp_path / 'a.pcd').write_bytes(pcd(fields, 'binary_compressed', body, len(xyz)))
    np.testing.assert_array_equal(read_cloud(tmp_path / 'a.pcd'), xyz)


@pytest.mark.parametrize('ending, text', [
    ('.xyz', '1 2 3\n4 5 6\n'), ('.XYZ', '1.0\t2\t3 255 0 0\n\n4 5 6 1 1 1\n'),
    ('.csv', 'x,y,z,i\n1,2,3,9\n4,5,6,9\n'), ('.csv', '"i";"z";"y";"x"\n0;3;2;1\n0;6;5;4\n'),
    ('.txt', '# made by hand\n// x y z\n1 2 3\n4 5 6\n'), ('.pts', '2\n1 2 3 0\n4 5 6 0\n'),
    ('.asc', '1, 2, 3,\n4, 5, 6,\n')])
def test_text_with_any_separator(tmp_path, ending, text):
    (tmp_path / f'a{ending}').write_text(text)
    found = read_cloud(tmp_path / f'a{ending}')
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6]])


def test_arrays_of_any_type(tmp_path):
    xyz = np.arange(12).reshape(4, 3)
    fields = np.zeros(4, [('intensity', 'f4'), ('x', 'f8'), ('y', 'f8'), ('z', 'f8')])
    for axis, name in enumerate('xyz'):
        fields[name] = xyz[:, axis]
    for name, array in (('i.npy', xyz), ('f.npy', fields), ('b.npy', xyz.astype('>f8')),
                        ('h.npy', xyz.astype(np.float16))):
        np.save(tmp_path / name, array)
        np.testing.assert_array_equal(read_cloud(tmp_path / name), xyz)
    np.savez(tmp_path / 'z.npz', points=xyz)
    np.testing.assert_array_equal(read_cloud(tmp_path / 'z.npz'), xyz)


def test_coordinates_of_a_map_keep_their_precision(tmp_path):
    points = UTM + np.array([[0.001, 0, 0], [0, 0.002, 0.003]])
    np.save(tmp_path / 'a.npy', points)
    np.savetxt(tmp_path / 'a.xyz', points, '%.4f')
    for name in ('a.npy', 'a.xyz'):
        found = read_cloud(tmp_path / name)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, points, rtol=0, atol=1e-4)


def test_ply_of_all_kinds(tmp_path):
    plyfile = pytest.importorskip('plyfile', reason='pip install plyfile')
    xyz = scan(300)[0]
    vertex = np.zeros(len(xyz), [('red', 'u1'), ('x', 'f4'), ('y', 'f4'), ('z', 'f4')])
    for axis, name in enumerate('xyz'):
        vertex[name] = xyz[:, axis]
    element = plyfile.PlyElement.describe(vertex, 'vertex')
    for name, options in (('l.ply', {'byte_order': '<'}), ('b.PLY', {'byte_order': '>'}),
                          ('t.ply', {'text': True})):
        plyfile.PlyData([element], **options).write(str(tmp_path / name))
        np.testing.assert_allclose(read_cloud(tmp_path / name), xyz, rtol=1e-5)


def test_las(tmp_path):
    laspy = pytest.importorskip('laspy', reason='pip install laspy')
    las = laspy.create(point_format=3, file_version='1.2')
    las.header.offsets, las.header.scales = UTM, [0.001] * 3
    points = UTM + scan(300)[0]
    las.x, las.y, las.z = points.T
    las.write(str(tmp_path / 'a.las'))
    np.testing.assert_allclose(read_cloud(tmp_path / 'a.las'), points, rtol=0, atol=1e-3)


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    (tmp_path / 'a.ply').write_bytes(b'ply\n')
    monkeypatch.setitem(__import__('sys').modules, 'plyfile', None)
    with pytest.raises(DatasetError, match=r'needs the package plyfile: pip install "steer_depth'):
        read_cloud(tmp_path / 'a.ply')


@pytest.mark.parametrize('name, content, words', [
    ('a.e57', b'ASTM-E57', r'unknown format; give \.bin, \.npy'), ('cloud', b'', 'unknown format'),
    ('a.pcd', b'ply\n', 'damaged, or no pcd as its name says: its header has no line DATA'),
    ('a.pcd', pcd(XYZI, 'binary', b'1234', 9), 'damaged'),
    ('a.pcd', pcd(XYZI[1:], 'binary', bytes(16), 1), 'no field x'),
    ('a.xyz', b'one two three four\nfive six seven\n', 'damaged'), ('a.xyz', b'', 'no point'),
    ('a.xyz', b'\x00\xff\xfe\x81', 'damaged'), ('a.npy', b'abc', 'no array file')])
def test_unsupported_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words) as raised:
        read_cloud(tmp_path / name)
    assert 'unknown format' not in words or 'damaged' not in str(raised.value)
