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
"""
Accuracy of dense depth per frame, and its average over frames as in the paper and KITTI.

A pixel is scored if its truth is finite and positive (and the mask includes it). It is covered if
the estimate there is finite and positive. Errors are means over covered pixels. Missing estimates
lower the coverage and the delta accuracies, which count an uncovered pixel as a miss.
"""
from typing import Any, Dict, Optional, Sequence

import numpy as np

DELTAS = {'delta_1.02': 1.02, 'delta_1.05': 1.05, 'delta_1.10': 1.10, 'delta_1.25': 1.25,
          'delta_1.25^2': 1.25 ** 2, 'delta_1.25^3': 1.25 ** 3}
ERRORS = ('rmse', 'mae', 'rel', 'log10', 'irmse', 'imae')
NAMES = (*ERRORS, *DELTAS, 'coverage')


def measure(estimate, truth, mask: Optional[np.ndarray] = None) -> Dict[str, float]:
    """
    Compare an estimate with the truth.

    estimate, truth: (H, W) meters; NaN, zero and negative values mean unknown.
    mask: bool (H, W), the pixels to score; None for all.
    Return rmse and mae in meters, rel (mean |e - t| / t), log10 (mean |log10 e - log10 t|), irmse
    and imae in 1/km, the delta accuracies (fraction with max(e / t, t / e) below 1.02 to 1.25^3)
    and coverage, both in [0, 1]. All are NaN if no pixel is scored, the errors also if none is
    covered. Raise ValueError if shapes differ.
    """
    estimate, truth = np.asarray(estimate), np.asarray(truth)
    if estimate.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
        raise ValueError(f'estimate {estimate.shape}, truth {truth.shape} and mask must have the '
                         'same shape')
    scored = np.isfinite(truth) & (truth > 0)
    if mask is not None:
        scored &= mask
    total = int(scored.sum())
    if total == 0:
        return dict.fromkeys(NAMES, float('nan'))
    covered = scored & np.isfinite(estimate) & (estimate > 0)
    e, t = estimate[covered].astype(np.float64), truth[covered].astype(np.float64)
    result = _errors(e, t) if len(e) else dict.fromkeys(ERRORS, float('nan'))
    ratio = np.maximum(e / t, t / e)
    result |= {name: float((ratio < limit).sum() / total) for name, limit in DELTAS.items()}
    return result | {'coverage': len(e) / total}


def _errors(e, t):
    difference, inverse = np.abs(e - t), 1000 * np.abs(1 / e - 1 / t)
    return {'rmse': float(np.sqrt(np.mean(difference ** 2))), 'mae': float(difference.mean()),
            'rel': float(np.mean(difference / t)),
            'log10': float(np.mean(np.abs(np.log10(e / t)))),
            'irmse': float(np.sqrt(np.mean(inverse ** 2))), 'imae': float(inverse.mean())}


def average(frames: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """
    Return the mean of each measure over the results of `measure`, every frame with equal weight.

    Frames for which a measure is NaN or None are left out of its mean; NaN if no frame has it.
    """
    table = np.array([[frame[name] for name in NAMES] for frame in frames], np.float64)
    known = (column[~np.isnan(column)] for column in table.reshape(-1, len(NAMES)).T)
    return {name: float(column.mean()) if len(column) else float('nan')
            for name, column in zip(NAMES, known, strict=True)}
