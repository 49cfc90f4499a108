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
"""Edges of depth over edges of the image, for judging a calibration by eye."""
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.viz.preview import color_depth, depth_range

DARK, EDGE = 0.35, 3.0  # brightness of the image, and of its edges
STEP = 1.15  # ratio of depths beside each other, from which on there is an edge
CELL = 1.5  # typical distances of samples
RIM = (255, 60, 200)
TEXT = (235, 235, 235)
RATE_HZ = 10.0  # of videos


def rims(uv: np.ndarray, depth: np.ndarray, size) -> np.ndarray:
    """
    Return which samples lie on the near side of an upright edge of depth: bool (N,).

    uv: (N, 2) pixels. depth: (N,) meters. size: (H, W). Only neighbors in the same row count: from
    row to row the depth of the ground changes by as much.
    """
    if len(depth) < 2:
        return np.zeros(len(depth), bool)
    height, width = size
    spacing = _row_spacing(uv, width)
    cell = max(1.0, CELL * spacing)
    columns = int(width / cell) + 3
    at_x = (uv[:, 0] / cell).astype(np.int64) + 1
    rows = max(2.0, 0.5 * height * width / len(depth) / spacing)
    at = (np.maximum(uv[:, 1], 0) / rows).astype(np.int64) * columns + at_x
    near = np.full((int(height / rows) + 2) * columns, np.inf)
    order = np.argsort(-depth)
    near[at[order]] = depth[order]  # the nearest of a cell
    beyond = [np.where(np.isfinite(near[at + side]), near[at + side], 0.0) for side in (-1, 1)]
    return np.maximum(*beyond) > STEP * depth


def _row_spacing(uv, width):
    """Return the typical distance of samples in a row, in pixels."""
    order = np.argsort(np.round(uv[:, 1]) * (4.0 * width) + uv[:, 0])
    gaps = np.diff(uv[order, 0])
    gaps = gaps[(gaps > 0.2) & (gaps < 0.1 * width)]
    return float(np.median(gaps)) if len(gaps) else 1.0


def draw_overlay(image: np.ndarray, uv: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """
    Draw samples over the darkened image with its edges bright, edges of depth in pink.

    image: uint8 (H, W, 3) RGB. uv: float32 (N, 2). depth: float32 (N,) meters.
    Return uint8 (H, W, 3) RGB.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dx, dy = (cv2.Sobel(gray, cv2.CV_16S, *order, scale=0.25) for order in ((1, 0), (0, 1)))
    edges = cv2.addWeighted(cv2.convertScaleAbs(dx), 0.5 * EDGE, cv2.convertScaleAbs(dy),
                            0.5 * EDGE, 0)
    canvas = cv2.cvtColor(cv2.add(cv2.convertScaleAbs(gray, alpha=DARK), edges),
                          cv2.COLOR_GRAY2RGB)
    if not len(depth):
        return canvas
    rim = rims(uv, depth, gray.shape)
    colors = color_depth(depth[:, None], *depth_range(depth))[:, 0]
    column, row = np.round(uv).astype(np.int64).T
    for chosen, color, reach in ((~rim, colors, (0,)), (rim, RIM, (-1, 0, 1))):
        x, y = column[chosen], row[chosen]
        own = color[chosen] if isinstance(color, np.ndarray) else color
        for dx_ in reach:
            for dy_ in reach:
                canvas[np.clip(y + dy_, 0, gray.shape[0] - 1),
                       np.clip(x + dx_, 0, gray.shape[1] - 1)] = own
    return canvas


def stacked(pictures, captions) -> np.ndarray:
    """Put pictures of one width on top of each other, each with its caption."""
    parts = []
    for picture, caption in zip(pictures, captions, strict=True):
        bar = np.zeros((28, picture.shape[1], 3), np.uint8)
        cv2.putText(bar, caption, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, TEXT, 1, cv2.LINE_AA)
        parts += [bar, picture]
    return np.concatenate(parts)


class Video:
    """
    A video file of pictures, by OpenCV's writer. A context manager.

    path: .mp4 or .avi. The first picture sets the size; others are resized to it.
    Raise ConfigError where OpenCV cannot write such a file.
    """

    CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}

    def __init__(self, path):
        self._path = Path(path)
        self._writer: Any = None
        self._size = 0, 0
        if self._path.suffix.lower() not in self.CODECS:
            raise ConfigError(f'{path} must end in {" or ".join(self.CODECS)}')

    def add(self, picture: np.ndarray) -> None:
        """Append a picture, uint8 (H, W, 3) RGB."""
        if self._writer is None:
            self._size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2
            code = cv2.VideoWriter.fourcc(*self.CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), code, RATE_HZ, self._size)
            if not self._writer.isOpened():
                raise ConfigError(f'cannot write the video {self._path}: its folder is missing or '
                                  'read-only, or this OpenCV has no encoder for it; try .avi')
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(picture[..., ::-1])

    def __enter__(self) -> 'Video':
        return self

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.release()
