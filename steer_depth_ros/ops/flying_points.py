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
"""Points that hang in the air between foreground and background: native code and numpy."""
import cv2
import numpy as np

from steer_depth_ros.ops import native

STEP = 0.05  # relative change of depth over an edge that counts as a step
REACH = 2  # pixels over which a smeared edge still counts as one step
BAND_PIXELS = 1 << 15


def flying_points(depth: np.ndarray) -> np.ndarray:
    """
    Find the pixels that hang in the air between foreground and background.

    depth: float32 (H, W) meters, NaN or 0 where unknown. Return bool (H, W), true for a pixel
    inside a step of depth, clearly off both its sides. The pixels on the two sides of a sharp
    step stay, and so does a slanted plane, which goes on at the same rate on both sides.
    ValueError for another shape.
    """
    # In inverse depth a plane is linear over the image.
    depth = np.asarray(depth, np.float32)
    if depth.ndim != 2:
        raise ValueError(f'depth must have shape (H, W), got {depth.shape}')
    with np.errstate(all='ignore'):
        inverse = np.where(depth > 0, np.float32(1.0) / depth, np.float32(np.nan))
    edge = 2 * REACH
    padded = cv2.copyMakeBorder(inverse, edge, edge, edge, edge, cv2.BORDER_CONSTANT,
                                value=float('nan'))
    name = native.cpu_name()
    if name is None:
        return _flying_points(padded, depth.shape)
    flying = np.empty(depth.shape, bool)
    native.load(name).steer_flying_points(padded.ctypes.data, *depth.shape, flying.ctypes.data)
    return flying


def _flying_points(padded, shape):
    """Do what csrc/flying_points/ does, where no compiler was at hand."""
    edge, flying = 2 * REACH, np.zeros(shape, bool)
    for band in row_bands(shape):
        rows = padded[band.start:band.stop + 2 * edge]
        found = np.zeros(rows.shape, bool)
        at = _candidates(rows.ravel(), rows.shape[1])
        found.ravel()[at] = _inside_step(rows.ravel(), rows.shape[1], at)
        flying[band] = found[edge:-edge, edge:-edge]
    return flying


def _candidates(inverse, width):
    """Find where the slope ends within a few pixels, which it does not do on a plane."""
    border = 2 * REACH * (width + 1)
    inner = slice(border, len(inverse) - border)
    bend = np.zeros(len(inverse) - 2 * border, np.float32)
    for direction in (1, width):
        for reach in range(1, REACH + 1):
            near, far = reach * direction, 2 * reach * direction
            change = inverse[border + near:][:len(bend)] - inverse[border - near:][:len(bend)]
            change += change
            change -= inverse[border + far:][:len(bend)]
            change += inverse[border - far:][:len(bend)]
            np.fmax(bend, np.abs(change, out=change), out=bend)
    return np.flatnonzero(bend > np.float32(0.5 * STEP) * inverse[inner]) + border


def _inside_step(inverse, width, at):
    """Return for the pixels `at` whether a step, flat on both sides, passes through them."""
    # What is unknown is NaN and compares false.
    found = np.zeros(len(at), bool)
    for direction in (1, width):  # a diagonal edge is a step along both
        for reach in range(1, REACH + 1):
            near, far = reach * direction, 2 * reach * direction
            one, other = inverse[at - near], inverse[at + near]
            step = np.abs(one - other)
            steep = np.flatnonzero(step > STEP * np.maximum(one, other))
            one, other, step, pixel = one[steep], other[steep], step[steep], at[steep]
            here = inverse[pixel]
            beyond_one, beyond_other = inverse[pixel - far], inverse[pixel + far]
            off = np.minimum(np.abs(here - one), np.abs(other - here))
            flat = np.abs(beyond_one - one) + np.abs(beyond_other - other) < 0.5 * step
            found[steep] |= ((one - here) * (here - other) > 0) & (off > 0.2 * step) & flat
    return found


def row_bands(shape):
    """Bands of rows small enough that what is computed on the way stays in the cache."""
    rows = max(1, BAND_PIXELS // max(shape[1], 1))
    return [slice(first, first + rows) for first in range(0, shape[0], rows)]
