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
"""PNG and JPEG from anywhere: decoded only if their bytes are sound and can hold the picture."""
import struct
from typing import List, Optional, Tuple
import zlib

import cv2
import numpy as np

PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8'
# Above what either can reach: an 8 bit grey PNG of one value has 1000.
PIXELS_PER_BYTE = 2_000
PLAIN_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
ALONE = {0x01, *range(0xd0, 0xda)}  # JPEG markers that no length follows
FRAMES = {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}  # those that carry the size
SCAN = 0xda


def decode_picture(data: np.ndarray, flags: int) -> Optional[np.ndarray]:
    """
    Decode a PNG or JPEG as cv2.imdecode does; None for anything damaged or of another format.

    data: uint8 (N,). OpenCV alone takes seconds and gigabytes for a few bytes that promise a huge
    picture, or for a PNG with one damaged byte in the head of a chunk.
    """
    sound = _plain_png(data) if bytes(data[:8]) == PNG else data
    size = None if sound is None else picture_size(sound)
    if size is None or size[0] * size[1] > PIXELS_PER_BYTE * len(data):
        return None
    try:
        return cv2.imdecode(sound, flags)
    except cv2.error:
        return None


def picture_size(data: np.ndarray) -> Optional[Tuple[int, int]]:
    """Read (width, height) from the header of a PNG or JPEG; None where there is none."""
    start = bytes(data[:24])
    if start[:8] == PNG and len(start) == 24:
        width, height = struct.unpack('>II', start[16:])
        return width, height
    return _jpeg_size(bytes(data)) if start[:2] == JPEG else None


def _plain_png(data):
    """Give a PNG with the chunks of its pixels alone; None when any chunk is damaged."""
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
