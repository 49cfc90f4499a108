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
"""Read images and depth images from files that OpenCV decodes, and from NumPy arrays."""
from pathlib import Path

import cv2
import numpy as np

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.image_decode import decode_picture

PICTURES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.webp', '.bmp', '.pgm', '.ppm', '.jp2')
DEPTHS = ('.png', '.tif', '.tiff', '.pgm', '.npy', '.npz', '.exr', '.pfm')
COUNTS_PER_METRE = 1000.0  # default for integers: millimeters
SHAPE_TOLERANCE = 0.01  # relative difference of aspect ratio between image and depth image
# Meters; if the median lies outside, the scale is wrong: no sensor measures there.
NEAREST_M, FARTHEST_M = 0.02, 300.0


def read_image(path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB; of 16 bits the high byte is kept."""
    image = _decode(path, cv2.IMREAD_COLOR, PICTURES)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depth(path, scale=None, size=None, floats=None, other_sizes=False) -> np.ndarray:
    """
    Read a depth image as float32 (H, W) meters, NaN where unknown.

    Zero, negative and infinite values, and the largest of their type, are not measurements.
    scale: counts per meter of integers, COUNTS_PER_METRE if None. floats: the same for floating
    point, which is in meters if None; then depths that no sensor measures are refused.
    size: (H, W) of its image, which it must match; with `other_sizes` only in aspect ratio.
    Raise DatasetError naming the file.
    """
    path = Path(path)
    ending = path.suffix.lower()
    values = load_array(path) if ending in ('.npy', '.npz') else _decode(
        path, cv2.IMREAD_UNCHANGED, DEPTHS)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[:, :, 0]
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in 'fiu':
        raise DatasetError(
            f'{path} is not a depth image: it has {values.dtype} values of shape {values.shape}; '
            'expected one channel of integers of 16 bits or more, or of floats')
    if values.dtype.itemsize == 1 and scale is None:
        raise DatasetError(f'{path} is an 8-bit image, too coarse for depth; give one of 16 '
                           'bits, or its counts per meter with --depth-scale')
    depth = _metres(values, scale or COUNTS_PER_METRE, floats or 1.0)
    if values.dtype.kind == 'f' and floats is None:
        _check_unit(path, depth)
    if size is not None and depth.shape != tuple(size):
        (height, width), (rows, columns) = depth.shape, size
        if not other_sizes or abs(width * rows / (height * columns) - 1) > SHAPE_TOLERANCE:
            raise DatasetError(f'{path} has {width} x {height} pixels but its image has {columns} '
                               f'x {rows}; register the depth to the image first')
    return depth


def load_array(path) -> np.ndarray:
    """Load the array of a .npy file, or the only one of an .npz file."""
    read_bytes(path)
    try:
        # Memory-mapped, so that a header with a huge size allocates nothing.
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        if isinstance(array, np.lib.npyio.NpzFile) and Path(path).suffix.lower() == '.npz':
            with array as arrays:
                if len(arrays.files) != 1:
                    raise ValueError(f'it holds {len(arrays.files)} arrays '
                                     f'({", ".join(arrays.files)}), not one')
                array = arrays[arrays.files[0]]
    except Exception as error:  # a damaged header can cause any error in NumPy
        reason = str(error) or type(error).__name__
        raise DatasetError(f'{path} is no array file: {reason}') from None
    if not isinstance(array, np.ndarray) or not (array.dtype.kind in 'fiu' or array.dtype.names):
        raise DatasetError(f'{path} is no array file of numbers; write it with numpy.save')
    return array


def read_bytes(path) -> bytes:
    """Read a file; raise DatasetError if that fails."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f'cannot read {path}: {error.strerror}') from None


def spread(depth: np.ndarray, size) -> np.ndarray:
    """Put the values of a smaller depth image (h, w) on their pixels of (H, W), else NaN."""
    if depth.shape == tuple(size):
        return depth
    result = np.full(size, np.nan, np.float32)
    rows, columns = (((np.arange(n) + 0.5) * whole / n).astype(int)
                     for n, whole in zip(depth.shape, size))
    result[rows[:, None], columns] = depth
    return result


def _metres(values, scale, floats):
    with np.errstate(all='ignore'):
        if values.dtype.kind == 'f':
            depth = values.astype(np.float64) / floats
        else:
            depth = values.astype(np.float64) / scale
            # 65535 and the like: "too far" or "no measurement" of drivers and converters.
            depth[values == np.iinfo(values.dtype).max] = np.nan
        depth = depth.astype(np.float32)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def _check_unit(path, depth):
    """Raise DatasetError for floats that cannot be meters."""
    known = depth[np.isfinite(depth)]
    middle = float(np.median(known)) if known.size else 1.0
    if not NEAREST_M <= middle <= FARTHEST_M:
        raise DatasetError(f'{path} holds floats around {middle:.4g}, which are not meters; say '
                           'how many make a meter (--depth-scale, or "depth": {"scale": ...} in '
                           'meta.json)')


def _decode(path, flags, endings):
    """Decode an image; raise DatasetError with the reason, format or damage."""
    data = np.frombuffer(read_bytes(path), np.uint8)
    ending = Path(path).suffix.lower()
    # Ignore orientation tags: the calibration is for the image as stored.
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    plain = ending in ('.exr', '.pfm') and endings is DEPTHS
    image = _plainly(data, flags) if plain else decode_picture(data, flags)
    if image is not None:
        return image
    if ending == '.exr' and bytes(data[:4]) == b'v/1\x01':
        raise DatasetError(f'{path} is OpenEXR, which this OpenCV does not read (build it with '
                           'OpenEXR and set OPENCV_IO_ENABLE_OPENEXR=1); write .tiff or .npy')
    if ending not in (*PICTURES, *endings):
        raise DatasetError(f'{path} is of an unknown format; give {", ".join(endings)}')
    raise DatasetError(f'{path} cannot be decoded: it is damaged, or no {ending[1:]} as its name '
                       'says')


def _plainly(data, flags):
    try:
        return cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:
        return None
