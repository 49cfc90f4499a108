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
"""How well confidence predicts errors: figures and a reliability diagram."""
from typing import Any, Dict, List

import cv2
import numpy as np

BINS = 10
HIT_TOLERANCE = 0.05  # an estimate within 5 % of the truth is a hit
BACKGROUND, TEXT, MUTED = (18, 19, 22), (232, 232, 228), (110, 112, 116)
LINE, BAR, GRID = (120, 200, 255), (60, 78, 92), (40, 42, 46)


class ConfidenceReport:
    """
    Collects confidence and relative error of the pixels with truth.

    The most confident half is compared with the rest per frame, so that a far scene does not
    outweigh a near one; the bins pool all pixels.
    """

    def __init__(self):
        self._halves: List[tuple] = []
        self._count = np.zeros(BINS)
        self._confidence, self._error, self._hits = np.zeros((3, BINS))

    def add(self, estimate, confidence, truth) -> None:
        """Add a frame: float (H, W) in meters, [0, 1] and meters; unknown pixels are skipped."""
        with np.errstate(invalid='ignore'):
            known = (np.isfinite(estimate) & (estimate > 0) & np.isfinite(confidence)
                     & np.isfinite(truth) & (truth > 0))
        if known.sum() < 2:
            return
        truth, c = truth[known].astype(np.float64), confidence[known].astype(np.float64)
        error = np.abs(estimate[known] - truth) / truth
        # Ties are split at random, not by position in the image.
        shuffled = np.random.default_rng(0).permutation(len(c))
        ranked = shuffled[np.argsort(-c[shuffled], kind='stable')]
        half = len(c) // 2
        self._halves.append((error[ranked[:half]].mean(), error[ranked[half:]].mean()))
        bins = np.clip((c * BINS).astype(int), 0, BINS - 1)
        for total, weight in ((self._count, None), (self._confidence, c), (self._error, error),
                              (self._hits, error < HIT_TOLERANCE)):
            total += np.bincount(bins, weight, BINS)

    def figures(self) -> Dict[str, object]:
        """
        Return the figures as a dictionary; empty if no frame had a confidence.

        rel_confident_half, rel_other_half: mean relative error of the most confident half of the
        pixels and of the rest, averaged over frames; half_ratio: their ratio. reliability: per
        bin of 0.1 of confidence the fraction of pixels, their mean confidence, mean relative
        error and the fraction of hits (within 5 % of the truth), the last three None if empty.
        """
        if not self._halves:
            return {}
        confident, other = np.mean(self._halves, 0)
        rows = []
        for i in range(BINS):
            n = self._count[i]
            means = [float(s[i] / n) if n else None
                     for s in (self._confidence, self._error, self._hits)]
            rows.append({'share': float(n / self._count.sum()), 'confidence': means[0],
                         'rel': means[1], 'hits': means[2]})
        return {'rel_confident_half': float(confident), 'rel_other_half': float(other),
                'half_ratio': float(confident / other) if other else None, 'reliability': rows}


def draw_reliability(figures: Dict[str, Any], title: str) -> np.ndarray:
    """
    Draw the fraction of hits over confidence as a line and the fraction of pixels as bars.

    figures: result of `ConfidenceReport.figures`. Return uint8 (480, 640, 3) RGB.
    """
    canvas = np.full((480, 640, 3), BACKGROUND, np.uint8)
    left, top, width, height = 70, 50, 540, 360

    def place(x, y):
        return int(left + x * width), int(top + (1 - y) * height)

    _grid(canvas, place)
    points = []
    for i, row in enumerate(figures['reliability']):
        cv2.rectangle(canvas, place(i / BINS + 0.01, row['share']),
                      place((i + 1) / BINS - 0.01, 0), BAR, -1)
        if row['hits'] is not None:
            points.append(place(row['confidence'], row['hits']))
    cv2.polylines(canvas, [np.array(points, np.int32)], False, LINE, 2, cv2.LINE_AA)
    for point in points:
        cv2.circle(canvas, point, 4, LINE, -1, cv2.LINE_AA)
    _write(canvas, title, 16, 26, TEXT, 0.5)
    _write(canvas, f'line: within {HIT_TOLERANCE:.0%} of the truth; bars: fraction of pixels',
           left, 465, MUTED, 0.42)
    _write(canvas, 'confidence', left + width - 80, 440, MUTED, 0.42)
    return canvas


def _grid(canvas, place):
    for value in np.linspace(0, 1, 6):
        cv2.line(canvas, place(0, value), place(1, value), GRID, 1)
        x, y = place(0, value)
        _write(canvas, f'{value:.1f}', x - 36, y + 5, MUTED, 0.42)
        x, y = place(value, 0)
        _write(canvas, f'{value:.1f}', x - 12, y + 18, MUTED, 0.42)
    cv2.line(canvas, place(0, 0), place(1, 1), MUTED, 1, cv2.LINE_AA)


def _write(canvas, text, x, y, color, scale):
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
