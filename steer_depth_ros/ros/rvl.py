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
"""Decode RVL, a lossless compression of 16-bit depth images (compressedDepth transport)."""
from typing import Optional

import numpy as np

LARGEST = 2 ** 26  # pixels; else a few bytes of zero runs could claim any memory
DIGITS = 6  # of 3 bits; more than any run or zigzag-coded 16-bit difference needs


def decode_rvl(data: np.ndarray) -> Optional[np.ndarray]:
    """
    Decode columns, rows (int32 each) and an RVL stream to uint16 (rows, columns).

    data: uint8 (N,). Return None if it is damaged.
    The stream is a sequence of numbers in 4-bit groups: 3 bits of data and a continuation bit. The
    numbers are: count of zeros, count of values, their differences, count of zeros, ...
    """
    if len(data) < 8:
        return None
    columns, rows = (int(n) for n in data[:8].view('<i4'))
    count = columns * rows
    if columns <= 0 or rows <= 0 or count > LARGEST:
        return None
    numbers = _numbers(data[8:])
    if numbers is None:
        return None
    depth = np.zeros(count, np.uint16)
    where, what = _runs(numbers, count)
    if where is None:
        return None
    zigzag = numbers[what]
    # Differences continue across zeros; sums wrap at 16 bits.
    depth[where] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    return depth.reshape(rows, columns)


def _numbers(data):
    """Return all numbers of a stream, int64; None if one has too many digits."""
    words = data[:len(data) // 4 * 4].view('<u4').astype('>u4').view(np.uint8)
    digits = np.empty(2 * len(words), np.uint8)
    digits[0::2], digits[1::2] = words >> 4, words & 15
    ends = np.flatnonzero(digits < 8)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if lengths.max(initial=0) > 2 * DIGITS:
        return None
    numbers = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > place)
        numbers[longer] |= (digits[starts[longer] + place].astype(np.int64) & 7) << (3 * place)
    return numbers


def _runs(numbers, count):
    """Return the indices of nonzero pixels, and those of the numbers with their differences."""
    pixel, at = 0, 0
    first_pixels, first_numbers, lengths = [], [], []
    while pixel < count:
        if at + 2 > len(numbers):
            return None, None
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        pixel, at = pixel + zeros, at + 2
        if zeros + others == 0 or pixel + others > count or at + others > len(numbers):
            return None, None
        if others:
            first_pixels.append(pixel)
            first_numbers.append(at)
            lengths.append(others)
        pixel, at = pixel + others, at + others
    long = np.array(lengths, np.int64)
    inside = np.arange(long.sum()) - np.repeat(np.cumsum(long) - long, long)
    return (np.repeat(np.array(first_pixels, np.int64), long) + inside,
            np.repeat(np.array(first_numbers, np.int64), long) + inside)
