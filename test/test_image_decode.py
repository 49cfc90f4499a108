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
"""Pictures are decoded as OpenCV does; damaged ones are refused before they reach OpenCV."""
import struct
import zlib

import cv2
import numpy as np
import pytest

from steer_depth_ros.image_decode import decode_picture, picture_size

PIXELS = np.random.default_rng(0).integers(0, 255, (17, 31, 3), dtype=np.uint8)
PNG = cv2.imencode('.png', PIXELS)[1]
JPEG = cv2.imencode('.jpg', PIXELS)[1]
PROGRESSIVE = cv2.imencode('.jpg', PIXELS, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1]


def changed(data, at, new):
    data = bytearray(data.tobytes())
    data[at:at + len(new)] = new
    return np.frombuffer(bytes(data), np.uint8)


@pytest.mark.parametrize('data', [PNG, JPEG, PROGRESSIVE], ids=['png', 'jpeg', 'progressive'])
def test_valid_pictures_are_decoded_as_by_opencv(data):
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert np.array_equal(decode_picture(data, cv2.IMREAD_COLOR), expected)
    assert picture_size(data) == (31, 17)


@pytest.mark.parametrize('shape', [(1200, 1600), (1200, 1600, 3)])
@pytest.mark.parametrize('ending', ['.png', '.jpg'])
def test_a_highly_compressed_picture_of_one_color_is_accepted(shape, ending):
    data = cv2.imencode(ending, np.zeros(shape, np.uint8), (cv2.IMWRITE_PNG_COMPRESSION, 9))[1]
    assert decode_picture(data, cv2.IMREAD_UNCHANGED).shape == shape


@pytest.mark.parametrize('data', [
    changed(PNG, 16, struct.pack('>II', 30_000, 30_000)),  # with few bytes
    changed(PNG, 33, b'\xff\xff\xff\xff'),  # the length of the second chunk
    changed(PNG, 8, b'\x80\x00\x00\x0d'), PNG[:20], PNG[:60], PNG[:8],
    changed(JPEG, JPEG.tobytes().index(b'\xff\xc0') + 5, b'\xff\xff\xff\xff'),
    JPEG[:100], JPEG[:2], np.zeros(0, np.uint8), np.frombuffer(b'P6 30000 30000 255 ', np.uint8)])
def test_damaged_pictures_do_not_reach_opencv(data, monkeypatch):
    # OpenCV would take seconds and gigabytes for some of them.
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('decoded without a check'))
    assert decode_picture(data, cv2.IMREAD_UNCHANGED) is None


def with_chunk(kind, content):
    """Put a chunk behind the header of the PNG."""
    chunk = kind + content
    chunk = struct.pack('>I', len(content)) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return np.frombuffer(PNG[:33].tobytes() + chunk + PNG[33:].tobytes() + b'more', np.uint8)


@pytest.mark.parametrize('kind', [b'tEXt', b'acTL', b'IDAA', b'fcTL'])
def test_chunks_that_are_no_pixels_are_left_out(kind):
    for content in (b'', b'\xff' * 26):
        found = decode_picture(with_chunk(kind, content), cv2.IMREAD_COLOR)
        assert np.array_equal(found, PIXELS)


def test_every_changed_byte_of_a_png_is_refused():
    for at in range(8, len(PNG) - 12, 5):
        assert decode_picture(changed(PNG, at, bytes([PNG[at] ^ 0x10])), cv2.IMREAD_COLOR) is None


def test_every_truncation_is_refused_or_read():
    for data in (PNG, JPEG, PROGRESSIVE):
        for end in range(0, len(data), 7):
            pixels = decode_picture(data[:end], cv2.IMREAD_COLOR)
            assert pixels is None or pixels.shape == PIXELS.shape
