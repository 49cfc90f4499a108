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
"""Read point clouds from files: .bin of KITTI and nuScenes, .npy, .pcd, text, .ply, .las."""
from pathlib import Path
import re
from typing import Callable, Dict, Optional, Tuple

import numpy as np

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.recordings.image_files import load_array, read_bytes

COLUMNS = (4, 5, 6)  # floats per point of a .bin: KITTI, nuScenes, and one more with a time
FAR_M = 1e4  # meters; beyond, float32 is coarser than a millimeter (map coordinates)
ENOUGH_POINTS = 200  # points needed to infer the number of columns
# Kolmogorov-Smirnov distance between columns of different quantities, and of the same one.
DIFFERENT, SAME = 0.12, 0.2
PCD_TYPES = {'F': 'f', 'I': 'i', 'U': 'u'}
ECHO = 'intensity'
EXTRA = 'pip install "steer_depth_ros[files]"'


def read_cloud(path, columns=None) -> np.ndarray:
    """
    Read a cloud as (N, 3) meters: float32, or float64 for map coordinates.

    columns: floats per point of a .bin; if None, 4, 5 or 6 is inferred from the values.
    Raise DatasetError naming the file.
    """
    return read_cloud_and_echo(path, columns)[0]


def read_cloud_and_echo(path, columns=None) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """
    Read a cloud as `read_cloud`, and the strength of its echoes.

    That is the fourth column of .bin, .npy and .npz, or the field `intensity`: float32 (N,); None
    where there is none.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise DatasetError(f'{path} is of an unknown format; give {", ".join(ENDINGS)}')
    try:
        points = _read_bin(path, columns) if ending == '.bin' else _READERS[ending](path)
    except DatasetError:
        raise
    except ImportError as error:
        raise DatasetError(f'{path} needs the package {error.name}: {EXTRA}') from None
    except Exception as error:  # a damaged file can cause any error in its reader
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DatasetError(f'{path} is damaged, or no {ending[1:]} as its name says: '
                           f'{reason}') from None
    if points.ndim != 2 or points.shape[1] < 3:
        raise DatasetError(f'{path} holds an array of shape {points.shape}; '
                           'expected (N, 3) or more columns')
    with np.errstate(all='ignore'):
        echo = points[:, 3].astype(np.float32) if points.shape[1] > 3 else None
        points = points[:, :3]
        far = points.dtype.itemsize > 4 and np.max(np.abs(points), initial=0.0,
                                                   where=np.isfinite(points)) > FAR_M
        return np.ascontiguousarray(points, np.float64 if far else np.float32), echo


def _read_npy(path):
    array = load_array(path)
    return _fields(array) if array.dtype.names else array


def _fields(array):
    """Stack the fields x, y and z, and intensity where there is one."""
    names = {name.lower(): name for name in array.dtype.names}
    missing = [axis for axis in 'xyz' if axis not in names]
    if missing:
        raise ValueError(f'it has no field {", ".join(missing)}, only {", ".join(names)}')
    return np.stack([np.asarray(array[names[name]]).ravel()
                     for name in (*'xyz', ECHO) if name in names], 1)


def _read_bin(path, columns):
    data = read_bytes(path)
    if columns is not None and not (isinstance(columns, int) and columns >= 3):
        raise DatasetError(f'{path}: a point has at least 3 floats, not {columns}')
    possible = [n for n in ([columns] if columns else COLUMNS) if len(data) % (4 * n) == 0]
    if not possible:
        raise DatasetError(
            f'{path} is damaged: its {len(data)} bytes are not a whole number of points of '
            f'{columns or " or ".join(map(str, COLUMNS))} float32 (x, y, z, intensity, ...)')
    values = np.frombuffer(data, '<f4')
    return values.reshape(-1, columns or _columns(path, values, possible))


def _columns(path, values, possible):
    """
    Return the number of floats per point.

    With the right number each column holds one quantity, and the fourth (intensity) is
    distributed differently from the coordinates; with a wrong one every column is a mixture.
    """
    if len(values) < COLUMNS[0] * ENOUGH_POINTS:  # too few to infer: assume KITTI if possible
        likely = possible
    else:
        likely = [n for n in possible if _fits(values.reshape(-1, n))]
    if len(likely) == 1 or (likely and len(values) < COLUMNS[0] * ENOUGH_POINTS):
        return likely[0]
    raise DatasetError(
        f'{path}: how many float32 make a point ({", ".join(map(str, possible))}) cannot be told '
        'from its values; say it with --point-columns, or "lidar": {"columns": N} in meta.json')


def _fits(rows):
    with np.errstate(all='ignore'):
        if not np.isfinite(rows[:, :3]).mean() > 0.5:
            return False
    apart = min(_distance(rows[:, 3], rows[:, axis]) for axis in range(3))
    # If a point were two rows, odd and even rows would differ.
    halves = max(_distance(rows[::2, axis], rows[1::2, axis]) for axis in range(4))
    return apart > DIFFERENT and halves < SAME


def _distance(one, other):
    """Return the Kolmogorov-Smirnov distance of two samples."""
    one, other = (np.sort(sample[np.isfinite(sample)]) for sample in (one, other))
    if not len(one) or not len(other):
        return 0.0
    both = np.concatenate([one, other])
    return float(np.abs(np.searchsorted(one, both, 'right') / len(one)
                        - np.searchsorted(other, both, 'right') / len(other)).max())


def _read_pcd(path):
    """Read PCD of PCL: ascii, binary and binary_compressed."""
    data = read_bytes(path)
    head = re.match(rb'(?s)(?:[^\n]*\n)*?DATA[ \t]+(\w+)[ \t]*\r?\n', data)
    if head is None:
        raise ValueError('its header has no line DATA')
    lines = head.group().decode('latin-1').splitlines()
    entries = {words[0]: words[1:] for words in map(str.split, lines)
               if words and not words[0].startswith('#')}
    names = entries.get('FIELDS') or entries['COLUMNS']
    counts = [int(count) for count in entries.get('COUNT', ['1'] * len(names))]
    kinds = [f'<{PCD_TYPES[kind]}{size}' for kind, size in zip(entries['TYPE'], entries['SIZE'])]
    if not len(names) == len(kinds) == len(counts):
        raise ValueError('its FIELDS, SIZE, TYPE and COUNT differ in number')
    number = int(entries['POINTS'][0]) if 'POINTS' in entries else (
        int(entries['WIDTH'][0]) * int(entries['HEIGHT'][0]))
    # Padding fields share one name.
    known = (*'xyz', ECHO)
    dtype = np.dtype([(name.lower() if name.lower() in known else f'{name} {i}', kind, count)
                      for i, (name, kind, count) in enumerate(zip(names, kinds, counts))
                      if count])
    body, form = data[head.end():], head.group(1)
    if form == b'ascii':
        at = np.cumsum([0, *counts])
        wanted = [int(at[[n.lower() for n in names].index(axis)]) for axis in 'xyz']
        rows = np.array(body.decode('latin-1').split(), 'U').reshape(number, int(at[-1]))
        return rows[:, wanted].astype(np.float64)
    if form == b'binary':
        return _fields(np.frombuffer(body, dtype, number))
    if form != b'binary_compressed':
        raise ValueError(f'its DATA {form.decode()} is unknown')
    packed, size = np.frombuffer(body, '<u4', 2)
    if size != number * dtype.itemsize:
        raise ValueError(f'its {size} bytes do not hold {number} points')
    plain = _unpack_lzf(body[8:8 + int(packed)], int(size))
    found, start = {}, 0  # one field after the other
    for name in dtype.names or ():
        field = dtype[name]
        found[name] = np.frombuffer(plain, field.base, number * (
            field.itemsize // field.base.itemsize), start)
        start += number * field.itemsize
    return np.stack([found[name] for name in known if name in found], 1)


def _unpack_lzf(data, size):
    """Decompress LZF, the compression of PCL."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) < size:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at:at + control + 1]
            at += control + 1
            continue
        left = (control >> 5) + 2
        if left == 9:
            left += data[at]
            at += 1
        start = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        if start < 0:
            raise ValueError('its compression is damaged')
        while left:  # source and destination may overlap
            part = out[start:start + left]
            out += part
            start, left = start + len(part), left - len(part)
    if len(out) != size:
        raise ValueError('its compression is damaged')
    return bytes(out)


def _read_text(path):
    """Read rows of x y z ... with spaces, commas or semicolons, with or without a header."""
    lines = read_bytes(path).decode('utf-8-sig').splitlines()
    rows = [re.split(r'[\s,;]+', line.strip(' \t,;')) for line in lines
            if line.strip() and not line.lstrip().startswith(('#', '//'))]
    if rows and len(rows[0]) < 3:  # .pts: the number of points
        rows = rows[1:]
    if not rows:
        raise ValueError('it holds no point')
    order = [0, 1, 2]
    if not _is_number(rows[0][0]):  # a line that names the columns
        names = [name.strip('"').lower() for name in rows[0]]
        if {'x', 'y', 'z'} <= {*names}:
            order = [names.index(axis) for axis in 'xyz']
        rows = rows[1:]
    return np.array([[row[i] for i in order] for row in rows], np.float64)


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_ply(path):
    read_bytes(path)
    from plyfile import PlyData
    return _fields(PlyData.read(str(path))['vertex'].data)


def _read_las(path):
    read_bytes(path)
    import laspy
    with laspy.open(path) as file:
        return np.asarray(file.read().xyz, np.float64)


_READERS: Dict[str, Callable] = {
    '.bin': _read_bin, '.npy': _read_npy, '.npz': _read_npy, '.pcd': _read_pcd,
    **{ending: _read_text for ending in ('.xyz', '.txt', '.csv', '.asc', '.pts')},
    '.ply': _read_ply, '.las': _read_las, '.laz': _read_las}
ENDINGS = tuple(_READERS)
