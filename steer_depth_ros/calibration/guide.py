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
"""The image as a guide: samples at a step of depth know their side by their color."""
from typing import NamedTuple, Optional

import cv2
import numpy as np
from scipy.spatial import cKDTree

from steer_depth_ros.calibration.features import in_view, MOST_ASPECT, typical_spacing

NEIGHBORS = 12
STEP, CLEAR = 0.1, 3.0  # natural logarithm of depth; relative to the next smaller step
FEWEST_A_SIDE = 2  # neighbors
COLOR = 6.0  # of CIE Lab; neighbors that differ by as much count half
MOST = 1000  # samples of a frame, a random choice; more of them share too much to tell more


class Guided(NamedTuple):
    """
    Samples at steps of depth, and their neighbors in the view of the depth sensor.

    points: float32 (M, 3) of the depth sensor, samples and neighbors. sample: int (N,), neighbors:
    int (N, NEIGHBORS), indices of points. near: float32, weights of the neighbors for lying near,
    their sum is one; same: near for neighbors on the side of the step that the sample lies on, 0
    for the others.
    """

    points: np.ndarray
    sample: np.ndarray
    neighbors: np.ndarray
    near: np.ndarray
    same: np.ndarray

    def take(self, chosen: np.ndarray) -> 'Guided':
        """Return some of the samples: a mask or indices."""
        index, place = np.unique(
            np.column_stack([self.sample[chosen], self.neighbors[chosen]]), return_inverse=True)
        place = place.reshape(-1, self.neighbors.shape[1] + 1)
        return Guided(self.points[index], place[:, 0], place[:, 1:], self.near[chosen],
                      self.same[chosen])

    def gain(self, color: np.ndarray) -> np.ndarray:
        """
        Return how much better the image tells the side of each sample than nearness alone.

        The neighbors of a sample vote on which side of the step it lies, without the sample and
        with weights for likeness of color; that is the logarithm of the share of votes for the
        right side, relative to votes without color.
        color: float32 (P, M, 3) CIE Lab at the points, by pose. Return float32 (P, N).
        """
        apart = np.zeros((len(color), *self.neighbors.shape), np.float32)
        for channel in np.moveaxis(color, -1, 0):
            channel = np.ascontiguousarray(channel)
            off = channel.take(self.neighbors, axis=1)
            off -= channel.take(self.sample, axis=1)[..., None]
            off *= off
            apart += off
        apart *= 1.0 / COLOR ** 2
        apart += 1.0
        np.reciprocal(apart, out=apart)
        votes = np.einsum('pnk,nk->pn', apart, self.same)
        votes /= np.einsum('pnk,nk->pn', apart, self.near)
        votes /= self.same.sum(1)
        return np.log(votes, out=votes)


def find_guided(points: np.ndarray, rotation: np.ndarray, bounds,
                seen: np.ndarray) -> Optional[Guided]:
    """
    Find the samples whose neighbors lie at two depths; None where there are none.

    Arguments as of `features.find_features`; seen: bool (N,), what nothing hides from the camera.
    """
    view = in_view(points, rotation, bounds)
    if view is None:
        return None
    index, place, depth = view
    spacing = typical_spacing(place)
    kept = seen[index]
    index, place, depth = index[kept], place[kept], np.log(depth[kept])
    if len(index) <= NEIGHBORS:
        return None
    place = place / np.array([1.0, min(spacing[1] / spacing[0], MOST_ASPECT)])
    distance, neighbors = (a[:, 1:] for a in cKDTree(place).query(place, k=NEIGHBORS + 1))
    near = np.exp(-0.5 * (distance / (distance[:, NEIGHBORS // 2, None] + 1e-9)) ** 2)
    near = (near / near.sum(1, keepdims=True)).astype(np.float32)
    around = np.sort(np.column_stack([depth, depth[neighbors]]), axis=1)
    steps = np.diff(around, axis=1)
    row, widest = np.arange(len(depth)), steps.argmax(1)
    middle = around[row, widest] + 0.5 * steps[row, widest]
    second, first = np.sort(steps, axis=1)[:, -2:].T
    same = (depth[neighbors] > middle[:, None]) == (depth > middle)[:, None]
    several = np.minimum(same.sum(1), NEIGHBORS - same.sum(1)) >= FEWEST_A_SIDE
    chosen = np.flatnonzero(several & (first > STEP) & (first > CLEAR * second))
    if not len(chosen):
        return None
    if len(chosen) > MOST:
        rng = np.random.default_rng(len(chosen))
        chosen = np.sort(rng.choice(chosen, MOST, replace=False))
    return Guided(points[index].astype(np.float32), row, neighbors, near,
                  near * same).take(chosen)


def lab(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, 3) RGB, as float32 CIE Lab."""
    return cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
