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
"""How the samples of a frame lie: typical gaps, and how far scan lines are apart."""
import numpy as np

STRONGEST = 6.0  # beyond it kernels become needles
BAND = 0.4  # of the mean distance of samples; thinner bands of rows hold one scan line
# Between 0 (round kernels, which see one scan line only) and 1 (gaps counted alike in both
# directions, which smears across the many edges that stand upright).
SHARE = 0.65


def sample_spacing(uv, size):
    """Return the typical distance in pixels between samples along a row, and between rows."""
    height, width = size
    blocks = np.zeros((height // 32 + 2, width // 32 + 2), bool)
    column, row = np.floor(uv / 32).astype(int).T  # -1 for what lies on the outermost half pixel
    blocks[row, column] = True
    area = min(np.count_nonzero(blocks) * 32.0 * 32.0, float(height * width)) / len(uv)
    band = np.floor(uv[:, 1] / max(BAND * np.sqrt(area), 1.0))
    gaps = np.diff(np.sort(band * (2.0 * width) + uv[:, 0]))
    gaps = gaps[gaps < width]
    across = min(float(np.median(gaps)) if len(gaps) else np.inf, np.sqrt(area))
    across = max(across, 1.0)
    return across, max(area / across, 1.0)


def kernel_aspect(across, rows):
    """Return the operator's `aspect` for these spacings: above 1 for scan lines."""
    return float(np.clip((rows / across) ** SHARE, 1.0, STRONGEST))
