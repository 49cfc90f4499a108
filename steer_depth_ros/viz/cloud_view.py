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
"""A picture of a coloured point cloud from a raised viewpoint: z-buffered splats, no OpenGL."""
import numpy as np

BACKGROUND = np.array([24, 26, 30], np.uint8)
MAX_SPLAT = 4  # pixels; a nearer surface that would need more shows its gaps instead


def view_cloud(points, colours, size, spacing=None):
    """
    Render points as seen from the left of, above and behind the camera that took them.

    points: float32 (N, 3) metres in the camera's optical frame (x right, y down, z forward).
    colours: uint8 (N, 3) RGB.
    size: (H, W) of the picture.
    spacing: float32 (N,) metres between neighbouring points (depth / focal length), which sets
        the size of a splat; without it every point is one pixel.
    Return uint8 (H, W, 3) RGB; the background alone when there is no finite point.
    """
    height, width = size
    picture = np.tile(BACKGROUND, (height * width, 1))
    keep = np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
    points, colours = points[keep], colours[keep]
    if not len(points):
        return picture.reshape(height, width, 3)
    seen = (points - _eye(points)) @ _look_at(_eye(points), _target(points)).T
    ahead = seen[:, 2] > 0.05 * np.median(seen[:, 2])
    seen, colours = seen[ahead], colours[ahead]
    uv, focal = _fit(seen, size)
    if spacing is None:
        splat = np.ones(len(seen))
    else:
        splat = 1.3 * focal * spacing[keep][ahead] / seen[:, 2]
    _splat(picture, uv, seen[:, 2], colours, np.clip(np.ceil(splat), 1, MAX_SPLAT), size)
    return picture.reshape(height, width, 3)


def _target(points):
    """Point to look at: the middle of the nearer half of the scene."""
    return np.array([np.median(points[:, 0]) * 0.5, np.median(points[:, 1]) * 0.5,
                     np.median(points[:, 2])])


def _eye(points):
    """Viewpoint, in units of the median depth so that a table and a street look alike."""
    return np.array([-0.35, -0.45, -0.35]) * np.median(points[:, 2])


def _look_at(eye, target):
    """Rotation (3, 3) into a camera at `eye` that looks at `target`, its y pointing down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _fit(seen, size):
    """Image positions (N, 2) and the focal length with which most points fill the picture."""
    slope = seen[:, :2] / seen[:, 2:]
    low, high = np.percentile(slope, [2, 98], axis=0)
    height, width = size
    span = np.maximum(high - low, 1e-6)
    focal = 1.02 * max(width / span[0], height / span[1]) ** 0.5 \
        * min(width / span[0], height / span[1]) ** 0.5
    centre = (low + high) / 2
    return (slope - centre) * focal + [width / 2, height / 2], focal


def _splat(picture, uv, depth, colours, splat, size):
    """Draw each point as a square of `splat` pixels; the nearest point wins a pixel."""
    height, width = size
    # One integer orders by depth first and remembers which point it was.
    order = np.empty(len(depth), np.int64)
    order[np.argsort(depth, kind='stable')] = np.arange(len(depth))
    nearest = np.full(height * width, len(depth), np.int64)
    corner = np.floor(uv - (splat[:, None] - 1) / 2).astype(np.int64)
    for dy in range(int(splat.max())):
        for dx in range(int(splat.max())):
            x, y = corner[:, 0] + dx, corner[:, 1] + dy
            inside = (max(dx, dy) < splat) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            np.minimum.at(nearest, y[inside] * width + x[inside], order[inside])
    hit = nearest < len(depth)
    by_rank = np.empty_like(colours)
    by_rank[order] = colours
    picture[hit] = by_rank[nearest[hit]]
