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
"""Render a colored point cloud from a raised viewpoint with z-buffered splats, without OpenGL."""
import numpy as np

BACKGROUND = np.array([24, 26, 30], np.uint8)
MAX_SPLAT = 4  # pixels; surfaces that are too close for it show gaps instead


def view_cloud(points, colors, size, spacing=None):
    """
    Render points as seen from a viewpoint left of, above and behind the camera.

    points: float32 (N, 3) meters in the camera's optical frame (x right, y down, z forward).
    colors: uint8 (N, 3) RGB.
    size: (H, W) of the picture.
    spacing: float32 (N,) meters between neighboring points (depth / focal length), which sets
        the size of a splat; without it every point is one pixel.
    Return uint8 (H, W, 3) RGB; only background if there is no finite point.
    """
    height, width = size
    picture = np.tile(BACKGROUND, (height * width, 1))
    keep = np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
    points, colors = points[keep], colors[keep]
    if not len(points):
        return picture.reshape(height, width, 3)
    viewed = (points - _eye(points)) @ _look_at(_eye(points), _target(points)).T
    ahead = viewed[:, 2] > 0.05 * np.median(viewed[:, 2])
    viewed, colors = viewed[ahead], colors[ahead]
    uv, focal = _fit(viewed, size)
    if spacing is None:
        splat = np.ones(len(viewed))
    else:
        splat = 1.3 * focal * spacing[keep][ahead] / viewed[:, 2]
    _splat(picture, uv, viewed[:, 2], colors, np.clip(np.ceil(splat), 1, MAX_SPLAT), size)
    return picture.reshape(height, width, 3)


def _target(points):
    """Return the point to look at, near the middle of the scene."""
    return np.array([np.median(points[:, 0]) * 0.5, np.median(points[:, 1]) * 0.5,
                     np.median(points[:, 2])])


def _eye(points):
    """Return the viewpoint; its distance is relative to the median depth, to suit any scale."""
    return np.array([-0.35, -0.45, -0.35]) * np.median(points[:, 2])


def _look_at(eye, target):
    """Return the rotation (3, 3) into a camera at `eye` looking at `target`, y pointing down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _fit(points, size):
    """Return image positions (N, 2) and the focal length at which most points fit the picture."""
    slope = points[:, :2] / points[:, 2:]
    low, high = np.percentile(slope, [2, 98], axis=0)
    height, width = size
    span = np.maximum(high - low, 1e-6)
    focal = 1.02 * max(width / span[0], height / span[1]) ** 0.5 \
        * min(width / span[0], height / span[1]) ** 0.5
    center = (low + high) / 2
    return (slope - center) * focal + [width / 2, height / 2], focal


def _splat(picture, uv, depth, colors, splat, size):
    """Draw each point as a square of `splat` pixels; the nearest point covers the others."""
    height, width = size
    # The rank by depth serves as the value of the z-buffer and identifies the point.
    rank = np.empty(len(depth), np.int64)
    rank[np.argsort(depth, kind='stable')] = np.arange(len(depth))
    nearest = np.full(height * width, len(depth), np.int64)
    corner = np.floor(uv - (splat[:, None] - 1) / 2).astype(np.int64)
    for dy in range(int(splat.max())):
        for dx in range(int(splat.max())):
            x, y = corner[:, 0] + dx, corner[:, 1] + dy
            inside = (max(dx, dy) < splat) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            np.minimum.at(nearest, y[inside] * width + x[inside], rank[inside])
    covered = nearest < len(depth)
    by_rank = np.empty_like(colors)
    by_rank[rank] = colors
    picture[covered] = by_rank[nearest[covered]]
