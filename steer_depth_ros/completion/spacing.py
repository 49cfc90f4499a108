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
"""How the samples of a frame lie: typical spacing, and how far scan lines are apart."""
import numpy as np

from steer_depth_ros.completion.config import CONFIG

BLOCK = 32  # pixels; the area that samples cover is measured in blocks of that size


def sample_spacing(uv, size, config=CONFIG):
    """Return the typical distance in pixels between samples along a row, and between rows."""
    height, width = size
    blocks = np.zeros((height // BLOCK + 2, width // BLOCK + 2), bool)
    column, row = np.floor(uv / BLOCK).astype(int).T  # -1 on the outermost half pixel
    blocks[row, column] = True
    area = min(np.count_nonzero(blocks) * float(BLOCK * BLOCK), float(height * width)) / len(uv)
    band = np.floor(uv[:, 1] / max(config.line_band * np.sqrt(area), 1.0))
    gaps = np.diff(np.sort(band * (2.0 * width) + uv[:, 0]))
    gaps = gaps[gaps < width]
    across = min(float(np.median(gaps)) if len(gaps) else np.inf, np.sqrt(area))
    across = max(across, 1.0)
    return across, max(area / across, 1.0)


def kernel_aspect(across, rows, config=CONFIG):
    """
    Return the operator's `aspect` for these spacings: above 1 for scan lines.

    Round kernels would see one scan line only; kernels as wide as the gaps in both directions
    smear across the many edges that stand upright.
    """
    return max((rows / across) ** config.aspect_exponent, 1.0)
