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
"""Map 16-bit and floating point images, of which sensors use any part, to 8 bits."""
from typing import Optional, Tuple

import numpy as np

SAMPLES = 20_000  # pixels from which the range is estimated
ENOUGH = 256  # pixels; smaller images say nothing about a sensor's range
LOWEST, HIGHEST, BRIGHTEST = 1.0, 99.0, 99.9  # percentiles
NARROW, WIDE = 0.35, 0.5  # of the range; with hysteresis, images that span less are stretched
STILL = 0.05  # of the window; smaller changes are ignored
FOLLOW = 0.1  # of a larger change (at most of the window) is followed per image
SAME_SCENE = 0.5  # of the window; with less overlap it starts again


class Stretch:
    """
    Maps the images of one stream to 8 bits, consistently from image to image.

    Colors are only scaled, by the number of bits (or 1.0, or 255) that the stream has used so far.
    Gray images that span a small part of that range, as from thermal cameras, are stretched
    between robust percentiles, which follow larger changes of the scene slowly.
    """

    def __init__(self):
        self._full = 0.0  # the value that is white, of all images so far
        self._window: Optional[Tuple[float, float]] = None

    @property
    def used(self) -> bool:
        """Return whether it has seen an image."""
        return self._full > 0.0

    def to_8_bit(self, pixels: np.ndarray, color: bool) -> np.ndarray:
        """
        Convert (H, W) or (H, W, C) of any number type to uint8 of the same shape.

        color: channels (or Bayer pixels) must keep their ratios. Values that are not finite become
        black.
        """
        if pixels.dtype.kind != 'u':
            with np.errstate(over='ignore'):
                pixels = pixels.astype(np.float32)
            pixels[~np.isfinite(pixels)] = 0.0
        if pixels.shape[0] * pixels.shape[1] >= ENOUGH:
            self._look(pixels, color)
        return self._map(pixels, color)

    def _look(self, pixels, color):
        step = max(1, int(np.sqrt(pixels.size / SAMPLES)))
        # An odd step, so that all colors of a Bayer pattern are sampled.
        sample = pixels[::step | 1, ::step | 1]
        low, high, brightest = np.percentile(sample, (LOWEST, HIGHEST, BRIGHTEST))
        if brightest <= sample.min():
            return  # a uniform image says nothing about the range
        self._full = max(self._full, _full(brightest, pixels.dtype.kind))
        if not color:
            self._follow(float(low), float(high))

    def _follow(self, low, high):
        spanned = (high - low) / self._full
        wide = self._window is not None and self._window[0] == 0.0
        if low >= 0 and spanned >= (NARROW if wide else WIDE):
            low, high = 0.0, self._full
        if high <= low:
            return
        if self._window is None:
            self._window = low, high
            return
        old_low, old_high = self._window
        span = old_high - old_low
        if min(high, old_high) - max(low, old_low) < SAME_SCENE * min(span, high - low):
            self._window = low, high
        elif max(abs(low - old_low), abs(high - old_high)) > STILL * span:
            step = np.clip((low - old_low, high - old_high), -span, span)
            self._window = old_low + FOLLOW * step[0], old_high + FOLLOW * step[1]

    def _map(self, pixels, color):
        full = self._full or _default(pixels)
        low, high = (0.0, full) if color or self._window is None else self._window
        if pixels.dtype.kind == 'u' and low == 0.0 and high == full:
            bits = int(full).bit_length() - 8
            return np.minimum(pixels >> bits, 255).astype(np.uint8)
        scale = np.float32(255.0 / (high - low))
        mapped = (pixels.astype(np.float32) - np.float32(low)) * scale + np.float32(0.5)
        return np.clip(mapped, 0.0, 255.0, out=mapped).astype(np.uint8)


def _full(brightest, kind):
    """Return the value of white for images with this brightest value."""
    if kind != 'u' and brightest <= 1.0:
        return 1.0
    return float(2 ** max(8, int(brightest).bit_length()) - 1)


def _default(pixels):
    """Return the value of white while the stream has not shown it."""
    if pixels.dtype.kind == 'u':
        return float(np.iinfo(pixels.dtype).max)
    return _full(max(float(pixels.max(initial=0.0)), 0.0), 'f')
