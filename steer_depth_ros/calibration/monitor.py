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
"""The fit of cloud and image while the node runs: cheap, over a minute, and never acting."""
from collections import deque
from dataclasses import dataclass
from typing import Deque, Optional, Tuple

import cv2
import numpy as np

from steer_depth_ros.calibration.features import SLOPE, STEP
from steer_depth_ros.geometry.camera import Camera

WIDTH = 640  # pixels; wider images are reduced, by a whole number
FEATURES = 300
SHARE = 0.5  # how often the image has an edge where the depth has a step
FLOOR = 2.0  # levels of brightness
WINDOW = np.deg2rad(3.0)
# Rotations that are compared, degrees about the camera's axes x, y and z.
PITCH = YAW = np.linspace(-2.1, 2.1, 13)
ROLL = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
POSES = np.stack(np.meshgrid(PITCH, YAW, ROLL, indexing='ij'), -1).reshape(-1, 3)
POSES_F = POSES.astype(np.float32)
STEPS = PITCH[1] - PITCH[0], YAW[1] - YAW[0], ROLL[1] - ROLL[0]
NO_TURN = len(POSES) // 2
TEMPER = 6.0  # features of one edge, and frames of one scene, are not independent
PRIOR_DEG = 1.2
FLOOR_DEG = 0.1
MEMORY_S = 60.0
ENOUGH_FEATURES = 40
CERTAIN_DEG = 0.5  # deviations above tell nothing
OFF, OFF_DEG = 4.0, 0.5  # standard deviations, and degrees, from which on there is a warning
AGREED = 0.5  # logarithm by which each half of the features must prefer the rotation
AXES = 'x', 'y', 'z'
SMALL = 64, 48  # pixels by which views are told apart
SAME_LEVELS = 1.5  # of brightness between two images of one view: noise


@dataclass
class Fit:
    """
    How far off the rotation is: degrees about the camera's axes x, y and z, and deviations.

    significant: more than its uncertainty, and more than pairs of sensors usually are.
    """

    degrees: np.ndarray
    sigma: np.ndarray
    seconds: float
    significant: bool

    def describe(self) -> str:
        """Return half a sentence: "off by 0.7 deg +- 0.1 about y over 30 s"."""
        known = self.sigma < CERTAIN_DEG
        over = f'over {self.seconds:.0f} s' if self.seconds >= 1 else 'in one view'
        if not self.significant:
            return ('good' if known.all() else 'no misfit seen') + ': ' + ', '.join(
                f'{axis} {value:+.1f} +- {sigma:.1f} deg' if sure else f'{axis} not observable'
                for axis, value, sigma, sure in zip(AXES, self.degrees, self.sigma, known,
                                                    strict=True)) + f' {over}'
        off = np.where(known, np.abs(self.degrees), 0.0)
        size = np.linalg.norm(off)
        sigma = np.linalg.norm(self.sigma * off) / size
        about = ' and '.join(axis for axis, one in zip(AXES, off, strict=True)
                             if one > 0.5 * off.max())
        return f'off by {size:.1f} deg +- {sigma:.1f} about {about} {over}'


class FitMonitor:
    """
    Collect how well small rotations of the cloud would fit the images of the last minute.

    The measure is that of `objective.py` for upright and lying steps of depth between samples
    that are neighbors in the image, on a gray image of half a thousand pixels.
    """

    def __init__(self, memory_s: float = MEMORY_S):
        self._memory_ns = round(memory_s * 1e9)
        self._scores: Deque[Tuple[int, np.ndarray, np.ndarray]] = deque()
        self._camera: Optional[Camera] = None

    def clear(self) -> None:
        """Forget everything: the extrinsics or the scene have changed."""
        self._scores.clear()

    def add(self, image: np.ndarray, camera: Camera, uv: np.ndarray, depth: np.ndarray,
            stamp_ns: int) -> None:
        """
        Take a frame.

        image: uint8 (H, W, 3) RGB. uv: float32 (N, 2) samples in it. depth: float32 (N,) meters.
        """
        if camera != self._camera or (self._scores and stamp_ns < self._scores[-1][0]):
            self.clear()
            self._camera = camera
        scores = _scores(image, camera, uv, depth)
        if scores is None:
            return
        small = cv2.resize(image[::2, ::2], SMALL, interpolation=cv2.INTER_AREA).astype(np.int16)
        if self._scores and np.median(np.abs(self._scores[-1][2] - small)) < SAME_LEVELS:
            self._scores.pop()  # the robot stands: a second look is no second witness
        self._scores.append((stamp_ns, scores, small))
        while self._scores[0][0] < stamp_ns - self._memory_ns:
            self._scores.popleft()

    def fit(self) -> Optional[Fit]:
        """Return what is known now; None before the first frame that tells something."""
        known = list(self._scores)  # another thread may add
        if not known:
            return None
        halves = np.sum([scores for _, scores, _ in known], axis=0)
        mean, covariance = _posterior(halves.sum(0))
        sigma = np.sqrt(np.diag(covariance))
        seconds = (known[-1][0] - known[0][0]) * 1e-9
        return Fit(mean, sigma, seconds, _off(mean, covariance, halves))


def _off(mean, covariance, halves):
    """Return whether the rotation is wrong for certain, all observable axes together."""
    sure = np.flatnonzero(np.diag(covariance) < CERTAIN_DEG ** 2)
    part, size = mean[sure], np.linalg.norm(mean[sure])
    if size <= OFF_DEG:
        return False
    if part @ np.linalg.solve(covariance[np.ix_(sure, sure)], part) <= OFF ** 2:
        return False
    # What one thing in the image says is no reason to warn: each half must prefer the rotation,
    # whichever others it cannot tell from it.
    there = int(np.argmin((((POSES - mean) / STEPS) ** 2).sum(1)))
    return bool((halves[:, there] - halves[:, NO_TURN] > AGREED * TEMPER).all())


def _posterior(scores):
    """Return mean (3,) and covariance (3, 3) of the rotation."""
    total = scores / TEMPER - 0.5 * ((POSES / PRIOR_DEG) ** 2).sum(1)
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    mean = weight @ POSES
    apart = POSES - mean
    return mean, (apart * weight[:, None]).T @ apart + FLOOR_DEG ** 2 * np.eye(3)


def _scores(image, camera, uv, depth):
    """Return the log-likelihood of POSES by half of the features, (2, P), or None."""
    found = _steps(uv, depth, camera)
    if found is None:
        return None
    place, axis = found
    shrink = max(1, round(camera.width / WIDTH))
    gray = cv2.cvtColor(image[::shrink, ::shrink] if shrink > 1 else image, cv2.COLOR_RGB2GRAY)
    maps = _maps(gray, max(1, int(WINDOW * camera.fx / shrink)))
    shift = _shifts(place, camera)
    total = np.zeros((2, len(POSES)), np.float32)
    right = place[:, 0] > np.median(place[:, 0])
    for a, half in ((0, 0), (0, 1), (1, 0), (1, 1)):
        own = (axis == a) & (right == half)
        if not own.any():
            continue
        u, v = (start + POSES_F @ moved for start, moved in (
            (place[own, c] / shrink, shift[:, own, c] / shrink) for c in (0, 1)))
        ratio = cv2.remap(maps[a], u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                          borderValue=0)
        total[half] += cv2.reduce(ratio, 1, cv2.REDUCE_SUM)[:, 0]
    return total


def _steps(uv, depth, camera):
    """Return places (M, 2) of the near sides of steps and their axis: 0 upright, 1 lying."""
    if len(depth) < 100:
        return None
    size = float(np.sqrt(camera.width * camera.height / len(depth)))
    inverse = (1.0 / depth).astype(np.float32)
    places, axes = [], []
    for axis, (across, along) in enumerate(((1.0, 0.6), (1.5, 0.6))):
        # Cells: one sample along the line of neighbors, a narrow band beside it.
        cell = np.array([size * along, size * across] if axis == 0 else
                        [size * 0.4, size * across], np.float32)
        columns, rows = (np.array([camera.width, camera.height]) / cell).astype(int) + 5
        at = (uv / cell).astype(np.int32) + 2
        index = at[:, 1] * columns + at[:, 0]
        grid = np.full(rows * columns, -1, np.int32)
        grid[index] = np.arange(len(depth), dtype=np.int32)
        stride = 1 if axis == 0 else columns
        for side in (stride, -stride):
            far = _beside(grid, index, side)
            near = _beside(grid, index, -side)
            known = (far >= 0) & (near >= 0)
            drop = inverse - inverse[far]
            slope = np.abs(inverse[near] - inverse)
            step = np.flatnonzero(known & (drop > STEP * inverse) & (drop > SLOPE * slope))
            places.append(0.5 * (uv[step] + uv[far[step]]))
            axes.append(np.full(len(step), axis))
    place, kind = np.concatenate(places), np.concatenate(axes)
    if len(place) < ENOUGH_FEATURES:
        return None
    if len(place) > FEATURES:
        some = np.linspace(0, len(place) - 1, FEATURES).astype(int)
        place, kind = place[some], kind[some]
    return place, kind


def _beside(grid, index, side):
    """Return the sample in the next cell to a side, or in the one after that; -1 for none."""
    one = grid[index + side]
    return np.where(one >= 0, one, grid[index + 2 * side])


def _maps(gray, window):
    """Return for upright and lying edges: log-likelihood of an edge at each pixel."""
    found = []
    for order, size in (((1, 0), (2 * window + 1, 1)), ((0, 1), (1, 2 * window + 1))):
        slope = cv2.convertScaleAbs(cv2.Sobel(gray, cv2.CV_16S, *order, scale=0.25))
        edge = cv2.blur(slope, (3, 3)).astype(np.float32)
        usual = cv2.blur(edge, size)
        ratio = (edge + FLOOR) / (usual + FLOOR)
        found.append(cv2.log(1.0 - SHARE + SHARE * ratio))
    return found


def _shifts(place, camera):
    """Return how a place moves with a rotation: float32 (3, M, 2) pixels a degree."""
    rays, _ = camera.unproject(place)
    small = np.deg2rad(0.5)
    found = []
    for axis in np.eye(3):
        ahead, behind = (camera.project(rays + sign * small * np.cross(axis, rays))[0]
                         for sign in (1, -1))
        found.append(ahead - behind)
    return np.nan_to_num(np.stack(found)).astype(np.float32)
