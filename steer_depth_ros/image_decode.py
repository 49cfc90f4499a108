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
"""Decode images from untrusted bytes without exhausting memory or time."""
import re
import struct
from typing import List, Optional, Tuple
import zlib

import cv2
import numpy as np

PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8'
# More than PNG or JPEG can reach: an 8-bit gray PNG of a single value has 1000.
PIXELS_PER_BYTE = 2_000
PLAIN_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
ALONE = {0x01, *range(0xd0, 0xda)}  # JPEG markers without a length field
FRAMES = {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}  # markers of frame headers, which hold the size
SCAN = 0xda
# Pixels; more than any camera has. In some formats a few bytes can claim any size.
LARGEST = 2 ** 27
TIFF_SIZE = {256: 0, 257: 1}  # TIFF tags of width and height


def decode_picture(data: np.ndarray, flags: int) -> Optional[np.ndarray]:
    """
    Decode an image as cv2.imdecode does; return None if it is damaged or of another format.

    data: uint8 (N,), a PNG, JPEG, WebP, TIFF, BMP, PGM, PPM or JPEG 2000 file. flags: of
    cv2.imdecode.
    The size is read from the header first, and the chunks of a PNG are checked: OpenCV alone
    takes seconds and gigabytes for a few bytes that claim a huge image, or for a PNG with one
    damaged byte in a chunk header.
    """
    start = bytes(data[:8])
    sound = _plain_png(data) if start == PNG else data
    size = None if sound is None else picture_size(sound)
    if size is None or not 0 < size[0] * size[1] <= LARGEST:
        return None
    if (start == PNG or start[:2] == JPEG) and size[0] * size[1] > PIXELS_PER_BYTE * len(data):
        return None
    try:
        return cv2.imdecode(sound, flags)
    except cv2.error:
        return None


def picture_size(data: np.ndarray) -> Optional[Tuple[int, int]]:
    """Return (width, height) from an image header; None if there is none."""
    start = bytes(data[:64])
    try:
        if start[:8] == PNG:
            return struct.unpack('>II', start[16:24])
        if start[:2] == JPEG:
            return _jpeg_size(bytes(data))
        if start[:4] == b'RIFF' and start[8:12] == b'WEBP':
            return _webp_size(start)
        if start[:4] in (b'II*\0', b'MM\0*'):
            return _tiff_size(data)
        if start[:2] == b'BM':
            width, height = struct.unpack('<ii', start[18:26])
            return width, abs(height)
        if re.match(rb'P[2356]\s', start):
            return _pnm_size(bytes(data[:512]))
        if start[4:12] == b'jP  \r\n\x87\n' and b'ihdr' in start:
            at = start.index(b'ihdr') + 4
            return struct.unpack('>II', start[at:at + 8])[::-1]
    except (struct.error, IndexError):
        pass
    return None


def _webp_size(start):
    kind = start[12:16]
    if kind == b'VP8X':
        return (1 + int.from_bytes(start[24:27], 'little'),
                1 + int.from_bytes(start[27:30], 'little'))
    if kind == b'VP8L':
        bits = int.from_bytes(start[21:25], 'little')
        return 1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)
    if kind == b'VP8 ':
        width, height = struct.unpack('<HH', start[26:30])
        return width & 0x3fff, height & 0x3fff
    return None


def _tiff_size(data):
    """Return the size in the first directory, (0, 0) if it has none."""
    order = '<' if data[0] == ord('I') else '>'
    at, = struct.unpack(f'{order}I', bytes(data[4:8]))
    count, = struct.unpack(f'{order}H', bytes(data[at:at + 2]))
    size = [0, 0]
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, _ = struct.unpack(f'{order}HHI', bytes(data[entry:entry + 8]))
        if tag in TIFF_SIZE:
            value = bytes(data[entry + 8:entry + 12])
            size[TIFF_SIZE[tag]], = struct.unpack(
                f'{order}H', value[:2]) if kind == 3 else struct.unpack(f'{order}I', value)
    return size[0], size[1]


def _pnm_size(start):
    numbers = re.match(rb'P\d(?:\s+|#[^\n]*\n)+(\d+)\s+(?:#[^\n]*\n)*(\d+)', start)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _plain_png(data):
    """Return a PNG reduced to the chunks that hold its pixels; None if one of them is damaged."""
    kept: List[np.ndarray] = []
    view, at = np.ascontiguousarray(data).data, len(PNG)
    while at + 12 <= len(view):
        length, kind = struct.unpack('>I4s', view[at:at + 8])
        end = at + 12 + length
        if end > len(view) or (not kept and (kind, length) != (b'IHDR', 13)):
            return None
        if kind in PLAIN_CHUNKS:
            if zlib.crc32(view[at + 4:end - 4]) != int.from_bytes(view[end - 4:end], 'big'):
                return None
            kept.append(data[at:end])
        if kind == b'IEND':
            whole = sum(map(len, kept)) + len(PNG) == len(data)
            return data if whole else np.concatenate([data[:len(PNG)], *kept])
        at = end
    return None


def _jpeg_size(data):
    at = data.find(b'\xff', 2)
    while 0 <= at < len(data) - 9:
        marker = data[at + 1]
        if marker in FRAMES:
            height, width = struct.unpack('>HH', data[at + 5:at + 9])
            return width, height
        if marker == SCAN:
            return None
        if marker in (0x00, 0xff):
            step = 1
        else:
            step = 2 if marker in ALONE else 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        at = data.find(b'\xff', at + step)
    return None
