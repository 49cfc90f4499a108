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
A fixed library of surface textures, drawn once per process and kept as a mip pyramid.

Scenes differ in the texture they pick and in its color, size and angle, so a frame needs only
lookups and no drawing.
"""
from functools import lru_cache
from typing import Tuple

import cv2
import numpy as np
import torch

SIDE = 256  # texels; a power of two
COUNT = 112
LEVELS = 9  # 256 ... 1
GLYPHS = 'ABCDEFGHKLMNPRSTUVXYZabcdeghkmnoprstuy0123456789%&?!=+#'


def noise(rng: np.random.Generator, beta: float, stretch: float = 1.0) -> np.ndarray:
    """Draw tileable noise (SIDE, SIDE) in 0..1 whose amplitude falls with frequency ** beta."""
    fy = np.fft.fftfreq(SIDE)[:, None] * stretch
    fx = np.fft.rfftfreq(SIDE)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
    field = np.fft.irfft2(white * radius ** -beta, (SIDE, SIDE))
    return np.clip(0.5 + field / (4.0 * field.std() + 1e-9), 0, 1)


def _palette(rng, n):
    return rng.random((n, 3))


def _mix(mask, a, b):
    return a + mask[..., None] * (b - a)


def _fractal(rng):
    mono = noise(rng, rng.uniform(0.6, 2.2))
    if rng.random() < 0.5:
        return _mix(mono, *_palette(rng, 2))
    return np.stack([0.7 * mono + 0.3 * noise(rng, rng.uniform(0.6, 2.0)) for _ in range(3)], -1)


def _grain(rng):
    grain = 0.5 + 0.25 * (noise(rng, rng.uniform(0.0, 0.5)) - 0.5)
    patches = 0.35 * (noise(rng, 1.4) - 0.5)
    return np.repeat((grain + patches)[..., None], 3, -1)


def _foliage(rng):
    mono = noise(rng, rng.uniform(0.4, 1.1))
    return _mix(np.clip((mono - 0.5) * rng.uniform(2, 5) + 0.5, 0, 1), *_palette(rng, 2))


def _stripes(rng):
    n = int(2 ** rng.integers(1, 6))
    phase = (np.arange(SIDE) * n / SIDE) % 1
    bands = (phase < rng.uniform(0.15, 0.85)).astype(float)
    if rng.random() < 0.3:
        bands = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    return _mix(np.tile(bands, (SIDE, 1)), *_palette(rng, 2))


def _checker(rng):
    n = int(2 ** rng.integers(1, 5))
    i = np.arange(SIDE) * n // SIDE
    return _mix(((i[:, None] + i) % 2).astype(float), *_palette(rng, 2))


def _bricks(rng):
    rows = int(2 ** rng.integers(2, 5))
    tall = SIDE // rows
    wide = tall * int(rng.integers(1, 4))
    shift = rng.choice([0, wide // 2])
    y, x = np.mgrid[:SIDE, :SIDE]
    row = y // tall
    column = (x + shift * (row % 2)) // wide
    grout = ((y % tall) < max(1, tall // 10)) | (((x + shift * (row % 2)) % wide) <= tall // 12)
    shade = rng.random((64, 256))[row, column] * rng.uniform(0.1, 0.9)
    a, b, c = _palette(rng, 3)
    image = _mix(shade, a, b) * (0.8 + 0.4 * noise(rng, 0.8)[..., None])
    return np.where(grout[..., None], c, image)


def _planks(rng):
    grainy = noise(rng, rng.uniform(0.8, 1.3), stretch=1 / rng.uniform(8, 30))
    boards = int(rng.integers(1, 9))
    edges = (np.arange(SIDE) * boards / SIDE) % 1
    tone = np.repeat(rng.random(boards), -(-SIDE // boards))[:SIDE]
    image = _mix(0.6 * grainy.T + 0.4 * tone, *_palette(rng, 2))
    image[:, edges < 0.015 * boards] *= 0.4 if boards > 1 else 1.0
    return image


def _leaves(rng):
    image = np.empty((SIDE, SIDE, 3))
    image[:] = rng.random(3)
    steep = rng.uniform(1.5, 3.0)
    for _ in range(int(rng.integers(80, 400))):
        size = min(4.0 * rng.random() ** (-1 / steep) * rng.uniform(0.8, 2), 70.0)
        center = tuple(int(c) for c in rng.integers(0, SIDE, 2))
        color = tuple(rng.random(3))
        if rng.random() < 0.5:
            cv2.circle(image, center, int(size), color, -1)
        else:
            box = (center, (size * 2, size * rng.uniform(0.3, 2)), rng.uniform(0, 180))
            corners = cv2.boxPoints(box).astype(np.int32)
            cv2.fillConvexPoly(image, corners, color)
    return image


def _write(image, line, at, font, size, color, thickness):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.putText(mask, line, at, font, size, 255, thickness)
    image[mask > 127] = color


def _text(rng):
    page, ink = _palette(rng, 2)
    image = np.empty((SIDE, SIDE, 3))
    image[:] = page
    y = 4
    while y < SIDE:
        size = float(rng.choice([0.3, 0.4, 0.6, 1.0, 2.0], p=[0.35, 0.3, 0.15, 0.12, 0.08]))
        y += int(26 * size) + int(rng.integers(1, 10))
        line = ''.join(rng.choice(list(GLYPHS + '   '), 60))
        _write(image, line, (int(rng.integers(0, 30)), y), int(rng.choice([0, 2, 3])), size,
               ink if rng.random() < 0.8 else rng.random(3), 1 + int(size * 2))
        if rng.random() < 0.12:  # a picture between the paragraphs
            x0, tall = int(rng.integers(0, 160)), int(rng.integers(20, 70))
            part = image[y + 6:y + 6 + tall, x0:x0 + 90]
            part[:] = _leaves(rng)[:part.shape[0], :part.shape[1]]
            y += tall
    return image


def _poster(rng):
    image = _leaves(rng) if rng.random() < 0.5 else _fractal(rng)
    image = image.copy()
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.integers(0, 200, 2)
        w, h = rng.integers(20, 200, 2)
        image[y:y + h, x:x + w] = rng.random(3)
        _write(image, ''.join(rng.choice(list(GLYPHS), 8)), (int(x), int(y) + int(h) // 2),
               int(rng.integers(0, 4)), float(rng.uniform(0.6, 2.5)), rng.random(3),
               int(rng.integers(1, 7)))
    return image


def _windows(rng):
    wall, pane, frame = _palette(rng, 3)
    pane = pane * 0.35
    image = np.empty((SIDE, SIDE, 3))
    image[:] = wall
    image *= 0.85 + 0.3 * noise(rng, 0.9)[..., None]
    columns, rows = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    w, h = SIDE // columns, SIDE // rows
    x0, x1 = int(w * rng.uniform(0.1, 0.3)), int(w * rng.uniform(0.6, 0.92))
    y0, y1 = int(h * rng.uniform(0.1, 0.3)), int(h * rng.uniform(0.6, 0.9))
    for i in range(columns):
        for j in range(rows):
            cell = image[j * h:(j + 1) * h, i * w:(i + 1) * w]
            cell[y0 - 2:y1 + 3, x0 - 2:x1 + 3] = frame
            cell[y0:y1, x0:x1] = np.clip(pane + rng.normal(0, 0.12), 0, 1)
            cell[y0:y1, (x0 + x1) // 2 - 1:(x0 + x1) // 2 + 1] = frame
    if rng.random() < 0.4:
        image[:4] = frame
    return image


def _gradient(rng):
    ramp = np.abs(np.linspace(-1, 1, SIDE))  # symmetric, so that it tiles
    field = 0.5 * (ramp[:, None] * rng.random() + ramp[None] * rng.random())
    return _mix(field, *_palette(rng, 2))


def _dots(rng):
    image = np.empty((SIDE, SIDE, 3))
    back, dot = _palette(rng, 2)
    image[:] = back
    step = int(2 ** rng.integers(3, 7))
    for y in range(0, SIDE, step):
        for x in range((y // step % 2) * step // 2, SIDE, step):
            cv2.circle(image, (x, y), max(1, int(step * 0.3)), tuple(dot), -1)
    return image


def _weave(rng):
    n = int(2 ** rng.integers(4, 7))
    wave = np.sin(2 * np.pi * np.arange(SIDE) * n / SIDE)
    cloth = 0.5 + 0.25 * np.sign(wave[:, None]) * wave + 0.3 * (noise(rng, 0.6) - 0.5)
    return _mix(np.clip(cloth, 0, 1), *_palette(rng, 2))


FAMILIES = {
    'fractal': _fractal, 'grain': _grain, 'foliage': _foliage, 'stripes': _stripes,
    'checker': _checker, 'bricks': _bricks, 'planks': _planks, 'leaves': _leaves, 'text': _text,
    'poster': _poster, 'windows': _windows, 'gradient': _gradient, 'dots': _dots,
    'weave': _weave,
}
NAMES = tuple(FAMILIES)


def family_of(index: int) -> str:
    """Return the family of texture `index`; the families alternate in the library."""
    return NAMES[index % len(NAMES)]


def pick(rng: np.random.Generator, *families: str) -> int:
    """Draw the index of a texture of the named families, or of all if none is named."""
    name = families[rng.integers(len(families))] if families else NAMES[rng.integers(len(NAMES))]
    return NAMES.index(name) + len(NAMES) * int(rng.integers(COUNT // len(NAMES)))


@lru_cache(maxsize=4)
def library(device: str = 'cpu') -> Tuple[torch.Tensor, torch.Tensor]:
    """
    Return the library, drawn once per process and device in a second or two.

    Return texels uint8 (T, 3), all textures of level 0 first, then of level 1 and so on, and the
    offset of every level, int64 (LEVELS,).
    """
    base = []
    for index in range(COUNT):
        image = FAMILIES[family_of(index)](np.random.default_rng([7, index]))
        base.append(np.clip(image, 0, 1).astype(np.float32))
    texels, offsets, total = [], [], 0
    for level in range(LEVELS):
        side = SIDE >> level
        offsets.append(total)
        total += COUNT * side * side
        for image in base:
            small = image if level == 0 else cv2.resize(image, (side, side),
                                                        interpolation=cv2.INTER_AREA)
            texels.append((small.reshape(-1, 3) * 255 + 0.5).astype(np.uint8))
    return (torch.from_numpy(np.concatenate(texels)).to(device),
            torch.tensor(offsets, device=device))


def sample(index: torch.Tensor, uv: torch.Tensor, footprint: torch.Tensor) -> torch.Tensor:
    """
    Sample textures bilinearly at the matching mip level.

    index: int64 (M,); uv: float32 (2, M) in tiles (repeats at whole numbers); footprint: float32
    (M,) width of a pixel in tiles. Return float32 (3, M) in 0..1.
    """
    texels, offsets = library(str(index.device))
    level = torch.log2((footprint * SIDE).clamp(min=1.0)).round_().clamp_(max=LEVELS - 1).long()
    side = torch.bitwise_right_shift(torch.full_like(level, SIDE), level)
    base = offsets[level] + index * side * side
    at = (uv - uv.floor()) * side
    low = at.floor()
    fraction = at - low
    x0, y0 = low.long().unbind(0)
    last = side - 1
    x1, y1 = (x0 + 1) & last, (y0 + 1) & last
    x0, y0 = x0 & last, y0 & last
    fx, fy = fraction.unsqueeze(1)
    wide = [texels[base + y * side + x].T.float() for y in (y0, y1) for x in (x0, x1)]
    top = wide[0] + fx * (wide[1] - wide[0])
    bottom = wide[2] + fx * (wide[3] - wide[2])
    return (top + fy * (bottom - top)) / 255.0
