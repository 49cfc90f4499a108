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
"""From an extrinsic calibration about right to the one that fits best, with its uncertainty."""
from dataclasses import dataclass, field
from typing import Callable, List, Sequence, Tuple

import cv2
import numpy as np

from steer_depth_ros.calibration.objective import FrameFit, TILES

NAMES = ('pitch', 'yaw', 'roll', 'x', 'y', 'z', 'time')
ROTATION, TRANSLATION, TIME = slice(0, 3), slice(3, 6), 6
UNITS = ('deg',) * 3 + ('m',) * 3 + ('s',)
# What is believed of an error before the images are looked at: standard deviations.
PRIOR = np.array([1.2, 1.2, 1.2, 0.05, 0.05, 0.05, 0.03])
# What edges, beams and pixels of real sensors leave even of very many features.
FLOOR = np.array([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.002])
REACH, GRID = 3.0, (0.25, 0.25, 0.5)  # degrees: search around the start, and its steps
COARSE = 1500  # features of a frame for the grid, shared among more than GRID_FRAMES frames
GRID_FRAMES = 4
KEPT = 6  # maxima of the grid that are followed
# Features of one edge are not independent: so many count as one.
TEMPER = 4.0
ROUNDS, DRAWS = 10, 240
JUDGED = 160  # draws that tell how far the tiles of the image agree
SPREAD = 1.4  # of the draws, relative to what is known of the result
OBSERVED = 0.5  # a degree of freedom whose deviation is not below this share of PRIOR is not
CONFIRMED = 4.0  # squared deviations, all degrees of freedom together, that a change must exceed


@dataclass
class Estimate:
    """
    The correction of an extrinsic calibration.

    correction, sigma: float64 (7,), of NAMES: degrees about the camera's axes x (right), y (down)
    and z (forward), through the origin of the depth sensor; meters along them; seconds by which
    the cloud was measured later than it says. Zero and NaN for what was not asked for.
    free: bool (7,), what was asked for. observable: bool (7,). changed: false where the start is
    right within its own uncertainty; start and pose: (4, 4), depth sensor to camera.
    gain: logarithm of the likelihood, relative to that of the start.
    """

    start: np.ndarray
    correction: np.ndarray
    sigma: np.ndarray
    free: np.ndarray
    observable: np.ndarray
    changed: bool
    gain: float
    features: int = 0
    frames: int = 0
    notes: List[str] = field(default_factory=list)

    @property
    def pose(self) -> np.ndarray:
        """Return the corrected pose, (4, 4)."""
        return corrected(self.start, self.correction) if self.changed else self.start

    @property
    def found(self) -> np.ndarray:
        """Return the best pose, (4, 4), whether it differs enough from the start or not."""
        return corrected(self.start, self.correction)


def corrected(start: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """Apply a correction, see Estimate."""
    pose = start.copy()
    pose[:3, :3] = rotations(correction[None, ROTATION])[0] @ start[:3, :3]
    pose[:3, 3] += correction[TRANSLATION]
    return pose


def rotations(degrees: np.ndarray) -> np.ndarray:
    """Return (P, 3, 3) of rotation vectors (P, 3) in degrees."""
    return np.array([cv2.Rodrigues(np.deg2rad(one.astype(np.float64)))[0] for one in degrees])


def calibrate(fits: Sequence[FrameFit], start: np.ndarray, pose: bool = False, time: bool = False,
              progress: Callable[[float], None] = lambda share: None) -> Estimate:
    """
    Find the correction of `start` that fits best.

    fits: of frames, each with its own start, which is `start` but for the robot's motion.
    pose: correct translation, too. time: and the time offset.
    progress: called with the share that is done.
    """
    free = np.array([True] * 3 + [pose] * 3 + [time])
    fits = [fit for fit in fits if len(fit)]
    score = _Score(fits, free)
    modes, far = _grid(fits, score, lambda share: progress(0.5 * share))
    best = max((_follow(score, mode) for mode in modes), key=lambda one: one[1])[0]
    mean, covariance = _sample(score, best, lambda share: progress(0.5 + 0.5 * share))
    covariance = _disagreement(score, mean, covariance)
    covariance[:3, :3] += _ambiguity(far, mean, score(mean[None])[0])
    sigma = np.sqrt(np.diag(covariance) + FLOOR ** 2)
    correction = np.where(free, mean, 0.0)
    observable = free & (sigma < OBSERVED * PRIOR)
    known = np.flatnonzero(observable)
    full = covariance[np.ix_(known, known)] + np.diag(FLOOR[known] ** 2)
    distance = correction[known] @ np.linalg.solve(full, correction[known]) if len(known) else 0
    at = score.plain(np.stack([mean, np.zeros(7)]))
    return Estimate(start, np.where(observable, correction, 0.0), np.where(free, sigma, np.nan),
                    free, observable, bool(distance > CONFIRMED), float(at[0] - at[1]),
                    sum(len(fit) for fit in fits), len(fits))


class _Score:
    """Logarithm of the posterior of corrections (P, 7), tempered."""

    def __init__(self, fits, free):
        self.fits, self.free = fits, free

    def __call__(self, corrections):
        return self.plain(corrections) / TEMPER - 0.5 * ((corrections / PRIOR) ** 2).sum(1)

    def plain(self, corrections, fits=None):
        total = np.zeros(len(corrections))
        for fit in fits or self.fits:
            total += fit.score(self.poses(fit, corrections), corrections[:, TIME])
        return total

    @staticmethod
    def poses(fit, corrections):
        """Return the poses (P, 4, 4) of a frame."""
        poses = np.repeat(fit.start[None], len(corrections), 0)
        poses[:, :3, :3] = rotations(corrections[:, ROTATION]) @ fit.start[:3, :3]
        poses[:, :3, 3] += corrections[:, TRANSLATION]
        return poses


def _grid(fits, score, progress):
    """Return the best corrections of a grid of rotations, and (corrections, posterior) of all."""
    axes = [np.arange(-REACH, REACH + 1e-6, step) for step in GRID]
    grid = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    grid = grid[np.linalg.norm(grid, axis=1) <= REACH + 1e-6]
    corrections = np.zeros((len(grid), 7))
    corrections[:, ROTATION] = grid
    total = np.zeros(len(grid))
    for index, fit in enumerate(fits):
        most = COARSE if len(fits) <= GRID_FRAMES else COARSE * GRID_FRAMES // len(fits)
        some = fit.some(most)
        total += score.plain(corrections, [some]) * (len(fit) / max(len(some), 1))
        progress((index + 1) / len(fits))
    total = total / TEMPER - 0.5 * ((grid / PRIOR[ROTATION]) ** 2).sum(1)
    modes: List[np.ndarray] = []
    for index in np.argsort(-total):
        apart = [np.abs((grid[index] - mode[ROTATION]) / GRID).max() for mode in modes]
        if min(apart, default=np.inf) > 1.5:
            modes.append(corrections[index])
        if len(modes) == KEPT:
            break
    return modes, (grid, total)


def _follow(score, mode) -> Tuple[np.ndarray, float]:
    """Climb from a point of the grid to the maximum beside it, by halving steps of rotation."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing='ij'), -1).reshape(-1, 3)
    best, size = mode, 0.5 * np.array(GRID)
    for _ in range(4):
        candidates = np.repeat(best[None], len(steps), 0)
        candidates[:, ROTATION] += steps * size
        values = score(candidates)
        best, value = candidates[values.argmax()], float(values.max())
        size = 0.5 * size
    return best, value


def _sample(score, best, progress) -> Tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the posterior around its maximum: adaptive sampling."""
    free = np.flatnonzero(score.free)
    rng = np.random.default_rng(0)
    mean = best[free]
    covariance = np.diag(np.minimum(0.3 * PRIOR[free], np.where(free < 3, 0.15, 1.0)) ** 2)
    for number in range(ROUNDS):
        root = np.linalg.cholesky(covariance * SPREAD ** 2 + 1e-12 * np.eye(len(free)))
        normal = rng.standard_normal((DRAWS // 2, len(free)))
        normal = np.concatenate([normal, -normal])
        draws = np.zeros((len(normal), 7))
        draws[:, free] = mean + normal @ root.T
        weight = score(draws) + 0.5 * (normal ** 2).sum(1)
        weight = np.exp(weight - weight.max())
        weight = _damped(weight / weight.sum())
        mean = weight @ draws[:, free]
        apart = draws[:, free] - mean
        covariance = (apart * weight[:, None]).T @ apart
        covariance += np.diag((0.05 * FLOOR[free]) ** 2)
        progress((number + 1) / ROUNDS)
    whole, spread = np.zeros(7), np.zeros((7, 7))
    whole[free] = mean
    spread[np.ix_(free, free)] = covariance
    return whole, spread


def _disagreement(score, mean, covariance):
    """
    Widen the covariance by as much as the parts of the image disagree.

    Where few tiles of the image pull against the others, the result depends on which of them were
    there: the sandwich estimate of the variance, over tiles, tells by how much.
    """
    free = np.flatnonzero(score.free)
    own = covariance[np.ix_(free, free)]
    normal = np.random.default_rng(1).standard_normal((JUDGED, len(free)))
    apart = normal @ np.linalg.cholesky(own + 1e-12 * np.eye(len(free))).T
    draws = np.repeat(mean[None], JUDGED, 0)
    draws[:, free] += apart
    tiles = sum(_by_tile(fit, score.poses(fit, draws), draws[:, TIME]) for fit in score.fits)
    pairs = np.triu_indices(len(free))
    surface = np.column_stack([np.ones(JUDGED), normal, normal[:, pairs[0]] * normal[:, pairs[1]]])
    slopes = np.linalg.lstsq(surface, tiles, rcond=None)[0][1:len(free) + 1]
    # In units of the draws the tempered curvature is one.
    root = np.linalg.cholesky(own + 1e-12 * np.eye(len(free)))
    spread = root @ (slopes @ slopes.T) @ root.T * (TILES / (TILES - 1) / TEMPER ** 2)
    wider = np.sqrt(np.maximum(np.diag(spread) / np.maximum(np.diag(own), 1e-12), 1.0))
    result = covariance.copy()
    result[np.ix_(free, free)] = own * np.outer(wider, wider)
    return result


def _by_tile(fit, poses, offsets):
    """Return the score of each pose by tile of the image, (P, TILES)."""
    each, tile = fit.score(poses, offsets, each=True), fit.tiles()
    return np.stack([each[:, tile == one].sum(1, dtype=np.float64) for one in range(TILES)], 1)


def _damped(weight):
    """Flatten weights until a tenth of the draws counts, as an early round may be far off."""
    power = 1.0
    while power > 0.05:
        flat = weight ** power
        flat /= flat.sum()
        if 1.0 / (flat ** 2).sum() > 0.1 * len(weight):
            break
        power *= 0.7
    return flat


def _ambiguity(far, mean, value):
    """Return the covariance that other maxima add, as far as they may be the true one."""
    grid, total = far
    apart = grid - mean[ROTATION]
    beside = (np.abs(apart / GRID) < 1.5).all(1)
    weight = np.where(beside, 0.0, np.exp(np.minimum(total - max(value, total.max()), 0)))
    mass = weight.sum() + 1.0
    return (apart * (weight / mass)[:, None]).T @ apart
