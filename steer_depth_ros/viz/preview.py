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
"""Pictures of depth, samples, confidence and errors in color, and the contact sheet."""
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from steer_depth_ros.errors import FrameError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.cloud import flying_points
from steer_depth_ros.viz.cloud_view import view_cloud

BACKGROUND = (18, 19, 22)
TEXT = (232, 232, 228)
MUTED_TEXT = (150, 152, 156)
UNKNOWN = (40, 42, 46), (54, 56, 61)  # the two tones of the hatching for "no estimate"
ERROR_LIMIT = 0.1  # relative error at the upper end of the color scale
SHEET_WIDTH = 1920
TICKS = np.outer(10.0 ** np.arange(-2, 4), [1, 1.5, 2, 3, 5, 7]).ravel()


@dataclass
class SheetRow:
    """
    One frame on the contact sheet.

    image: uint8 (H, W, 3) RGB; depth, confidence: float32 (H, W), meters and [0, 1].
    uv, sample_depth: the samples, float32 (N, 2) and (N,).
    truth: float32 (H, W) meters, NaN where unknown, or None.
    """

    image: np.ndarray
    uv: np.ndarray
    sample_depth: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    camera: Camera
    caption: str = ''
    truth: Optional[np.ndarray] = None


def depth_range(*depths):
    """Return (near, far) in meters around nearly all finite positive values; (1, 10) if none."""
    values = np.concatenate([np.zeros(0, np.float32),
                             *(np.asarray(d, np.float32).ravel() for d in depths)])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 1.0, 10.0
    near, far = np.percentile(values, [0.5, 99.5])
    return float(near), float(max(far, near * 1.2))


def color_depth(depth, near, far):
    """
    Return depth in colors from red (near) to blue (far), on a logarithmic scale.

    depth: float32 (H, W) meters, NaN (or 0) where unknown, which is shown hatched.
    Return uint8 (H, W, 3) RGB.
    """
    known = (depth > 0) & (depth < np.inf)
    position = np.log(np.where(known, depth, np.float32(near)).astype(np.float32, copy=False))
    position -= np.float32(np.log(near))
    position *= np.float32(-0.94 / np.log(far / near))
    position += np.float32(1)
    return _hatch_unknown(_color(np.clip(position, 0.06, 1), 'TURBO'), known)


def color_confidence(confidence):
    """Return a confidence map, float (H, W) in [0, 1], in colors from dark (0) to yellow (1)."""
    known = np.isfinite(confidence)
    return _hatch_unknown(_color(np.where(known, confidence, 0), 'VIRIDIS'), known)


def color_error(depth, truth):
    """Return |depth - truth| / truth from dark (exact) to ERROR_LIMIT, unknown hatched."""
    known = np.isfinite(depth) & np.isfinite(truth) & (truth > 0)
    relative = np.abs(depth - truth) / np.where(known, truth, 1)
    return _hatch_unknown(_color(np.where(known, relative, 0) / ERROR_LIMIT, 'INFERNO'), known)


def draw_samples(image, uv, depth, near, far, width=None):
    """
    Draw samples in the colors of their depth over the darkened image, near ones on top.

    uv: float32 (N, 2) pixel positions; depth: float32 (N,) meters.
    width: pixels of the returned picture; drawing at the final size keeps the dots visible.
    """
    height, full = image.shape[:2]
    width = width or full
    scale = width / full
    canvas = cv2.resize(image, (width, round(height * scale)), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
    canvas = cv2.cvtColor(cv2.convertScaleAbs(gray, alpha=0.45), cv2.COLOR_GRAY2RGBA)
    if not len(depth):
        return canvas[..., :3].copy()
    order = np.argsort(-depth)
    colors = color_depth(depth[order][:, None], near, far)
    colors = cv2.cvtColor(colors, cv2.COLOR_RGB2RGBA).view(np.uint32).ravel()
    corner = np.round((uv[order] + 0.5) * scale - 0.5).astype(int)
    # Dots are as large as possible while they cover at most about a third of the picture.
    dot = int(np.clip(np.sqrt(0.35 * canvas[..., 0].size / max(len(depth), 1)), 1, 5))
    pixels = canvas.view(np.uint32).ravel()  # one 32 bit write per pixel is fastest
    for dy in range(dot):
        for dx in range(dot):
            x = corner[:, 0] + dx - dot // 2
            y = corner[:, 1] + dy - dot // 2
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < canvas.shape[0])
            pixels[(y * width + x)[inside]] = colors[inside]
    return cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB)


def draw_cloud(image, depth, camera, size):
    """Render the completed depth as a colored cloud, seen from above; uint8 `size` + (3,)."""
    valid = np.isfinite(depth) & (depth > 0) & ~flying_points(depth)
    points = camera.rays()[valid] * depth[valid][:, None]
    return view_cloud(points, image[valid], size, depth[valid] / camera.fx)


def contact_sheet(rows, title='steer_depth_ros', subtitle=''):
    """
    Draw frames with image, samples, depth, confidence, cloud and, with truth, the errors.

    rows: list of SheetRow, one block per row; all share one depth scale.
    Return uint8 (H, W, 3) RGB. Raise FrameError if there is no row.
    """
    if not rows:
        raise FrameError('there is no frame to draw: no depth was completed')
    near, far = depth_range(*(r.sample_depth for r in rows), *(r.depth for r in rows))
    with_truth = any(r.truth is not None for r in rows)
    blocks = [_block(row, near, far, with_truth) for row in rows]
    bars = [('depth, m', *_depth_ticks(near, far), 'depth'),
            ('confidence', [0, 0.5, 1], ['0', '0.5', '1'], 'VIRIDIS')]
    if with_truth:
        ends = ['0', f'{50 * ERROR_LIMIT:g} %', f'{100 * ERROR_LIMIT:g} %']
        bars.append(('error / true depth', [0, 0.5, 1], ends, 'INFERNO'))
    return np.concatenate([_header(title, subtitle), *blocks, _legend(bars)])


def write_picture(path, picture):
    """Write uint8 (H, W, 3) RGB to a PNG or JPEG file; FrameError if it cannot be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise FrameError(f'cannot write the picture {path}: use a writable path ending in .png')


def _color(position, name):
    """Apply an OpenCV color map to positions in [0, 1]; RGB."""
    scaled = np.clip(position * 255, 0, 255).astype(np.uint8)
    colored = cv2.applyColorMap(scaled, getattr(cv2, f'COLORMAP_{name}'))
    return cv2.cvtColor(colored, cv2.COLOR_BGR2RGB)


def _hatch_unknown(picture, known):
    unknown = np.logical_not(known).view(np.uint8)
    return cv2.copyTo(_hatch(*known.shape), unknown, picture)


@lru_cache(maxsize=4)
def _hatch(height, width):
    y, x = np.ogrid[:height, :width]
    period = max(8, width // 60)
    stripe = ((x + y) % period < period // 2)[..., None]
    return np.where(stripe, *np.array(UNKNOWN, np.uint8))


def _depth_ticks(near, far):
    """Return positions in [0, 1] and labels of round depths between near and far."""
    inside = TICKS[(TICKS >= near) & (TICKS <= far)]
    inside = inside[:: max(1, -(-len(inside) // 7))]
    return np.log(inside / near) / np.log(far / near), [f'{t:g}' for t in inside]


def _text(canvas, text, x, y, scale=0.5, color=TEXT):
    cv2.putText(canvas, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1,
                cv2.LINE_AA)


def _text_width(text, scale):
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]


def _header(title, subtitle):
    band = np.full((56, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
    _text(band, title, 16, 36, 0.8)
    _text(band, subtitle, 36 + _text_width(title, 0.8), 36, 0.5, MUTED_TEXT)
    return band


def _panel(picture, width, height, label):
    """Return the picture resized to its cell, with the label on a dark strip in the corner."""
    if picture.shape[:2] != (height, width):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    picture = np.ascontiguousarray(picture)
    strip = picture[:22, :_text_width(label, 0.45) + 16]
    strip[:] = strip // 4
    _text(picture, label, 8, 16, 0.45)
    return picture


def _block(row, near, far, with_truth):
    """Return one frame: two rows of panels, and the cloud at the right across both."""
    margin, gap, caption = 16, 6, 30
    height, width = row.depth.shape
    columns = 3 if with_truth else 2
    # In units of the cell width; the cloud is at least as wide as a cell, also for wide images.
    aspect = height / width
    cloud = max(1.0, 1.3 * 2 * aspect)
    cell_w = int((SHEET_WIDTH - 2 * margin - columns * gap) / (columns + cloud))
    cell_h = round(cell_w * aspect)
    block = np.full((caption + 2 * cell_h + gap + 10, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
    _text(block, row.caption, margin, caption - 10, 0.5, MUTED_TEXT)
    count = f'samples, {len(row.sample_depth)}'
    cells = [(0, 0, row.image, 'image'),
             (0, 1, draw_samples(row.image, row.uv, row.sample_depth, near, far, cell_w), count),
             (1, 0, color_depth(row.depth, near, far), 'completed depth'),
             (1, 1, color_confidence(row.confidence), 'confidence')]
    if row.truth is not None:
        cells += [(2, 0, color_depth(row.truth, near, far), 'true depth'),
                  (2, 1, color_error(row.depth, row.truth), 'error')]
    for column, line, picture, label in cells:
        x, y = margin + column * (cell_w + gap), caption + line * (cell_h + gap)
        block[y:y + cell_h, x:x + cell_w] = _panel(picture, cell_w, cell_h, label)
    x = margin + columns * (cell_w + gap)
    size = (2 * cell_h + gap, SHEET_WIDTH - margin - x)
    picture = draw_cloud(row.image, row.depth, row.camera, (size[0] * 2, size[1] * 2))
    block[caption:caption + size[0], x:x + size[1]] = _panel(picture, size[1], size[0], 'cloud')
    return block


def _legend(bars):
    band = np.full((64, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
    slot = (SHEET_WIDTH - 32) // len(bars)
    for index, (name, positions, labels, colors) in enumerate(bars):
        x = 16 + index * slot
        start = x + _text_width(name, 0.45) + 14
        ramp = np.linspace(0, 1, x + slot - 40 - start)[None]
        strip = _color(1 - 0.94 * ramp if colors == 'depth' else ramp,
                        'TURBO' if colors == 'depth' else colors)
        band[14:30, start:start + ramp.size] = strip
        _text(band, name, x, 27, 0.45)
        for position, label in zip(positions, labels, strict=True):
            tick = start + position * (ramp.size - 1)
            band[30:35, int(tick)] = MUTED_TEXT
            _text(band, label, tick - _text_width(label, 0.4) / 2, 48, 0.4, MUTED_TEXT)
    return band
