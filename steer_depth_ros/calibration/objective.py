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
"""How well a cloud fits an image: likelihood of the image's edges where the cloud expects them."""
import copy
from typing import Optional, Tuple

import cv2
import numpy as np

from steer_depth_ros.calibration.features import AXIS, Features, find_features, KINDS, WIDEST
from steer_depth_ros.calibration.guide import find_guided, lab
from steer_depth_ros.completion.occlusion import occlusion_mask
from steer_depth_ros.geometry.camera import Camera

FOCAL = 720.0  # pixels; finer images are reduced to this resolution
NORMALS = 6  # directions of edges told apart
ACROSS, ALONG = 1.0, 1.5  # pixels; width of the edge filters
WINDOW = np.deg2rad(2.5)  # around an edge, within which it is more or less likely
FLOOR = 0.5  # levels of brightness; less is noise
TILE_COLUMNS, TILE_ROWS = 6, 3  # parts of the image
TILES = TILE_COLUMNS * TILE_ROWS
FEWEST, MOST = 30, 4000  # features: that tell anything, and that are used
BATCH = 400_000  # places looked up at once
# What a sample tells through the image counts as much of what an edge does: neighbors share what
# they tell. Chosen on rendered scenes.
GUIDE = 0.65


class View:
    """
    An image as a pinhole camera without distortion would see it, at most FOCAL pixels a radian.

    image: uint8 (H, W, 3). focal, center: pixels.
    """

    def __init__(self, image: np.ndarray, camera: Camera):
        self.focal = min(FOCAL, camera.fx)
        left, right, top, bottom = np.clip(camera.bounds, -WIDEST, WIDEST)
        width, height = (max(1, int(side * self.focal)) for side in (right - left, bottom - top))
        self.center = -left * self.focal - 0.5, -top * self.focal - 0.5
        x, y = np.meshgrid((np.arange(width) - self.center[0]) / self.focal,
                           (np.arange(height) - self.center[1]) / self.focal)
        uv, _ = camera.project_normalized(x.ravel(), y.ravel())
        u, v = uv.astype(np.float32).reshape(height, width, 2).transpose(2, 0, 1)
        if self.focal < 0.7 * camera.fx:
            image = cv2.GaussianBlur(image, (0, 0), 0.45 * camera.fx / self.focal)
        self.image = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def place(self, points_cam: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return columns and rows of points (..., 3) in the camera; NaN behind it."""
        with np.errstate(all='ignore'):
            scale = self.focal / np.where(points_cam[..., 2] > 1e-3, points_cam[..., 2], np.nan)
        return (points_cam[..., 0] * scale + self.center[0],
                points_cam[..., 1] * scale + self.center[1])


class FrameFit:
    """
    The features of one frame and the edges of its image.

    start: (4, 4), takes points of the depth sensor to the camera, about right. echo: (N,)
    intensity. twist: (6,) velocity of the depth sensor in its own frame, meters and radians a
    second, rotation last; None where it does not count. lag_s: seconds from the image to the
    cloud, by their stamps. Where there are more features than MOST, a random choice is used.
    """

    def __init__(self, image: np.ndarray, camera: Camera, points: np.ndarray, start: np.ndarray,
                 echo: Optional[np.ndarray] = None, twist: Optional[np.ndarray] = None,
                 lag_s: float = 0.0):
        self.start, self.twist, self.lag_s = start, twist, lag_s
        self.view = View(image, camera)
        seen = self._seen(points)
        features = find_features(points, start[:3, :3], camera.bounds, echo)
        features = features.take(seen[features.source])
        if len(features) > MOST:
            rng = np.random.default_rng(len(features))
            features = features.take(np.sort(rng.choice(len(features), MOST, replace=False)))
        self.features = features
        self._groups = list(_groups(self.view, features))
        self.guided = find_guided(points, start[:3, :3], camera.bounds, seen)
        self._lab = lab(self.view.image)

    def some(self, most: int) -> 'FrameFit':
        """Return the fit of at most `most` features, evenly chosen; the maps are shared."""
        if len(self.features) <= most:
            return self
        fit = copy.copy(self)
        chosen = np.linspace(0, len(self.features) - 1, most).astype(int)
        position = np.full(len(self.features), -1)
        position[chosen] = np.arange(most)
        fit.features = self.features.take(chosen)
        fit._groups = [(own[own >= 0], ratio) for own, ratio in (
            (position[index], ratio) for index, ratio in self._groups) if (own >= 0).any()]
        if self.guided is not None:
            count = len(self.guided.sample)
            share = max(1, count * most // len(self.features))
            fit.guided = self.guided.take(np.linspace(0, count - 1, share).astype(int))
        return fit

    def __len__(self) -> int:
        return len(self.features)

    def tiles(self) -> np.ndarray:
        """Return in which part of the image, int, each column of `score` with `each` lies."""
        points = self.features.points
        if self.guided is not None:
            points = np.concatenate([points, self.guided.points[self.guided.sample]])
        u, v = self.view.place(self._in_camera(points, self.start[None], np.zeros(1))[0])
        height, width = self.view.image.shape[:2]
        u, v = (np.nan_to_num(np.clip(a / size * n, 0, n - 1)).astype(int)
                for a, size, n in ((u, width, TILE_COLUMNS), (v, height, TILE_ROWS)))
        return v * TILE_COLUMNS + u

    def score(self, poses: np.ndarray, offsets: np.ndarray,
              each: bool = False) -> np.ndarray:
        """
        Return the logarithm of the likelihood of the image, relative to chance.

        poses: (P, 4, 4). offsets: (P,) seconds by which the cloud was measured later than it
        says. Return float64 (P,), or with `each` float32 (P, N), by feature and guided sample.
        """
        found = [self._edges(poses, offsets, each)]
        if self.guided is not None:
            found.append(self._colors(self.guided, poses, offsets, each))
        return np.concatenate(found, 1) if each else np.sum(found, axis=0)

    def _edges(self, poses, offsets, each):
        count = len(self.features)
        result = np.zeros((len(poses), count), np.float32) if each else np.zeros(len(poses))
        for part in _parts(len(poses), count):
            u, v = self.view.place(
                self._in_camera(self.features.points, poses[part], offsets[part]))
            u, v = u.astype(np.float32), v.astype(np.float32)
            for chosen, ratio in self._groups:
                found = cv2.remap(ratio, u[:, chosen], v[:, chosen], cv2.INTER_LINEAR,
                                  borderMode=cv2.BORDER_CONSTANT, borderValue=0)
                found = found.reshape(-1, len(chosen)) * self.features.share[chosen]
                found = np.log1p(found, out=found)
                if each:
                    result[part, chosen] = found
                else:
                    result[part] += found.sum(1)
        return result

    def _colors(self, guided, poses, offsets, each):
        found = []
        for part in _parts(len(poses), guided.neighbors.size):
            u, v = self.view.place(self._in_camera(guided.points, poses[part], offsets[part]))
            color = cv2.remap(self._lab, u.astype(np.float32), v.astype(np.float32),
                              cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            gain = guided.gain(color.reshape(*u.shape, 3))
            found.append(gain if each else gain.sum(1, dtype=np.float64))
        return GUIDE * np.concatenate(found)

    def _in_camera(self, points, poses, offsets):
        """Return points of the depth sensor (N, 3) in the camera: float32 (P, N, 3)."""
        poses = poses.astype(np.float32)
        turned = (poses[:, :3, :3].reshape(-1, 3) @ points.T).reshape(len(poses), 3, -1)
        if self.twist is not None:
            moving = self.twist[:3] + np.cross(self.twist[3:], points)
            moved = (poses[:, :3, :3].reshape(-1, 3) @ moving.T.astype(np.float32))
            # What was measured later is seen from farther ahead: in the frame of the image's
            # time it lies farther ahead, too.
            late = (offsets + self.lag_s).astype(np.float32)
            turned += late[:, None, None] * moved.reshape(turned.shape)
        turned += poses[:, :3, 3:]
        return turned.transpose(0, 2, 1)

    def _seen(self, points):
        """Return which points of the cloud nothing nearer hides from the camera."""
        in_camera = points @ self.start[:3, :3].T + self.start[:3, 3]
        u, v = self.view.place(in_camera)
        height, width = self.view.image.shape[:2]
        with np.errstate(invalid='ignore'):
            inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        hidden = np.zeros(len(points), bool)
        index = np.flatnonzero(inside)
        hidden[index] = occlusion_mask(
            np.column_stack([u[index], v[index]]).astype(np.float32),
            in_camera[index, 2].astype(np.float32), (height, width))
        return ~hidden


def _parts(count, each):
    """Yield slices of `count` poses, so that not too many places are looked up at once."""
    step = max(1, BATCH // max(each, 1))
    return (slice(first, first + step) for first in range(0, count, step))


def _groups(view, features: Features):
    """
    Yield the features that look at the same map, and the map.

    The map says how much stronger the edges of a place are than those around it, less one.
    """
    if not len(features):
        return
    color = view.image.astype(np.float32)
    turn = np.mod(np.rint(features.normal * (NORMALS / np.pi)).astype(int), NORMALS)
    sort = np.array([kind.sign for kind in KINDS])[features.kind]
    axis = AXIS[features.kind]
    around = 2 * max(1, int(WINDOW * view.focal)) + 1
    for one in np.unique(turn):
        slope = cv2.filter2D(color, cv2.CV_32F, _edge_filter(one * np.pi / NORMALS),
                             borderType=cv2.BORDER_REFLECT)
        plain = cv2.transform(slope, np.full((1, 3), 1 / 3, np.float32))
        either = np.sqrt(cv2.transform(slope * slope, np.full((1, 3), 1 / 3, np.float32)))
        for a in (0, 1):
            for sign in (0, 1, -1):
                chosen = np.flatnonzero((turn == one) & (axis == a) & (sort == sign))
                if not len(chosen):
                    continue
                # A filter turned by a half circle sees the opposite change.
                along = np.cos(one * np.pi / NORMALS) if a == 0 else np.sin(one * np.pi / NORMALS)
                edge = np.maximum(np.copysign(sign, sign * along) * plain, 0) if sign else either
                half = int(0.5 * float(np.median(features.gap[chosen])) * view.focal)
                gap = 2 * half + 1  # an even window would shift the map
                window = (gap, 1) if a == 0 else (1, gap)
                edge = cv2.blur(edge, window, borderType=cv2.BORDER_REFLECT)
                window = (around, 1) if a == 0 else (1, around)
                usual = cv2.blur(edge, window, borderType=cv2.BORDER_REFLECT)
                yield chosen, (edge + FLOOR) / (usual + FLOOR) - 1


def _edge_filter(angle):
    """Return the derivative of a Gaussian in a direction; a step of one level gives one."""
    reach = int(3 * max(ACROSS, ALONG))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1].astype(np.float32)
    across, along = (x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    kernel = across * np.exp(-0.5 * (across / ACROSS) ** 2 - 0.5 * (along / ALONG) ** 2)
    return (kernel / (0.5 * np.abs(kernel).sum())).astype(np.float32)
