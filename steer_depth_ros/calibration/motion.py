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
"""How the depth sensor moves, from two of its clouds: point to plane, iteratively."""
from typing import Optional

import cv2
import numpy as np
from scipy.spatial import cKDTree

VOXEL_M = 0.4
NEAR_M, FAR_M = 1.0, 70.0
SOURCE, FEW, NORMAL_NEIGHBORS = 2500, 700, 8
FLAT, WIDE = 0.05, 0.15  # ratios of eigenvalues of flat surroundings, not rough, not a line
# Distances within which points are matched, step by step.
COARSE_M, FINE_M = (2.0,) * 5 + (1.0,) * 3, (1.0,) * 3 + (0.6,) * 4 + (0.4,) * 4
STARTS_M = ((0, 0, 0), (0.8, 0, 0), (-0.8, 0, 0), (0, 0.8, 0), (0, -0.8, 0), (1.8, 0, 0),
            (0, 1.8, 0))
FEWEST, LARGEST_M = 100, 0.15
MISSED_M = 0.1  # what points without a match count


def sensor_twist(points: np.ndarray, later: np.ndarray, seconds: float) -> Optional[np.ndarray]:
    """
    Return the velocity of a sensor between two clouds in its own frame.

    points, later: (N, 3), (M, 3) meters, `seconds` apart. Return float64 (6,): meters a second and
    radians a second along and about its axes; None where the clouds do not tell.
    """
    target, source = _thinned(points), _thinned(later)
    if min(len(target), len(source)) < FEWEST:
        return None
    tree = cKDTree(target)
    normals, flat = _normals(target, tree)
    rng = np.random.default_rng(0)
    source = source[rng.permutation(len(source))[:SOURCE]]
    match = _Match(target, tree, normals, flat)
    started = [match.fit(source[:FEW], _moved(start), COARSE_M) for start in STARTS_M]
    best = min((one for one in started if one is not None), key=lambda one: one[1], default=None)
    found = best and match.fit(source, best[0], FINE_M)
    if not found or found[1] > LARGEST_M:
        return None
    pose = found[0]
    turned = cv2.Rodrigues(pose[:3, :3])[0].ravel()
    return np.concatenate([pose[:3, 3], turned]) / seconds


def _moved(xyz):
    pose = np.eye(4)
    pose[:3, 3] = xyz
    return pose


class _Match:
    """The earlier cloud, to which a later one is fitted."""

    def __init__(self, target, tree, normals, flat):
        self.target, self.tree, self.normals, self.flat = target, tree, normals, flat

    def fit(self, source, pose, reaches):
        """
        Improve the pose of the later sensor in the earlier one.

        Return it and the typical distance of points from planes in meters; None without a match.
        """
        for reach in reaches:
            moved = source @ pose[:3, :3].T + pose[:3, 3]
            distance, index = self.tree.query(moved, distance_upper_bound=reach)
            own = np.flatnonzero(np.isfinite(distance))
            own = own[self.flat[index[own]]]
            if len(own) < FEWEST:
                return None
            p, n = moved[own], self.normals[index[own]]
            off = ((p - self.target[index[own]]) * n).sum(1)
            scale = 1.5 * np.median(np.abs(off)) + 1e-3
            weight = 1.0 / (1.0 + (off / scale) ** 2) ** 2  # what moves by itself counts little
            rows = np.concatenate([n, np.cross(p, n)], 1)
            normal = (rows * weight[:, None]).T @ rows + 1e-6 * np.eye(6)
            step = -np.linalg.solve(normal, (rows * weight[:, None]).T @ off)
            pose = _moved(step[:3]) @ _turned(step[3:]) @ pose
        missed = 1.0 - len(own) / max(np.count_nonzero(self.flat) / len(self.flat), 1e-3) / len(
            source)
        return pose, float(np.mean(np.minimum(np.abs(off), LARGEST_M)) + MISSED_M * max(missed, 0))


def _turned(vector):
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(vector)[0]
    return pose


def _thinned(points):
    """Return one point a cube, of those at a useful distance."""
    with np.errstate(invalid='ignore'):
        distance = np.linalg.norm(points, axis=1)
        points = points[(distance > NEAR_M) & (distance < FAR_M)].astype(np.float64)
    cell = np.floor(points / VOXEL_M).astype(np.int64)
    return points[np.unique(cell, axis=0, return_index=True)[1]] if len(points) else points


def _normals(points, tree):
    """Return unit normals (N, 3) and where the surroundings are flat."""
    around = points[tree.query(points, k=NORMAL_NEIGHBORS)[1]]
    around = around - around.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum('nki,nkj->nij', around, around))
    flat = (values[:, 0] < FLAT * values[:, 1]) & (values[:, 1] > WIDE * values[:, 2])
    return vectors[..., 0], flat
