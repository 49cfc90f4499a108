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
"""The valid region: between samples, and a little beyond."""
import cv2
import numpy as np

from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.spacing import sample_spacing

CELL = 4  # pixels; the question needs no finer answer


def valid_mask(uv, size, reach=None, config=CONFIG, spacing=None):
    """
    Return the pixels for which samples allow an estimate: bool (H, W).

    A pixel is valid within `reach` pixels of a sample (None: a tenth of the image height, or
    three times the distance of scan lines where that is more), and where samples lie both above
    and below it: a hole in a surface is filled, the sky over the highest scan line is not.
    uv: float32 (N, 2) inside the image. spacing: their `sample_spacing` where it is known.
    """
    height, width = size
    rows, columns = -(-height // CELL), -(-width // CELL)
    across, lines = spacing or sample_spacing(uv, size, config)
    if reach is None:
        reach = max(config.reach_height * height, config.reach_lines * lines)
    occupied = np.zeros((rows, columns), np.uint8)
    cell = np.clip(np.rint(uv / CELL).astype(int), 0, (columns - 1, rows - 1))
    occupied[cell[:, 1], cell[:, 0]] = 1
    distance = cv2.distanceTransform(1 - occupied, cv2.DIST_L2, 3) * CELL
    # Columns between samples of one line count as covered by it.
    band = 2 * int(np.ceil(max(across, 2.0 * CELL) / CELL)) + 1
    wide = cv2.dilate(occupied, np.ones((1, band), np.uint8))
    above = np.maximum.accumulate(wide, axis=0)
    below = np.maximum.accumulate(wide[::-1], axis=0)[::-1]
    valid = (distance <= reach) | ((above & below) > 0)
    full = cv2.resize(valid.astype(np.uint8), (columns * CELL, rows * CELL),
                      interpolation=cv2.INTER_NEAREST)
    return full[:height, :width] > 0
