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
"""Places in a cloud where an image should have an edge: steps of depth, creases, echo strength."""
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional, Tuple

import numpy as np
from scipy.spatial import cKDTree

WIDEST = np.tan(np.deg2rad(60.0))  # of the view, from its middle
MARGIN = np.tan(np.deg2rad(4.0))  # beyond the image; a wrong rotation brings these points in
NEAREST_M = 0.3  # along the optical axis
NEIGHBORS = 20
MOST_ASPECT = 8.0
GAP = 4.0  # neighbors farther apart than this many typical spacings do not tell of a step
STEP, SLOPE = 0.1, 3.0  # of inverse depth: relative to itself, and to the slope of the near side
CREASE, LARGEST_CREASE, STRAIGHT = 0.03, 0.3, 0.3
FLAT, FLAT_PAIR = 0.03, 0.03
ECHO, ECHO_PAIR = 0.25, 0.15  # steps of echo strength, as shares of all points that are weaker
NEAR_IN_DEPTH = 0.08  # natural logarithm; points of one edge
REACH = 1.5, 2.5  # spacings along and across lines in which points of one upright edge lie
FLAT_REACH = 6.0, 1.0  # the same of an edge that lies
FEWEST = 50  # points in view
# How often the image really has an edge there, by kind and by how many points of the same edge
# lie around (0 or 1, 2, 3 or 4, more). Chosen on rendered scenes.
UPRIGHT_STEP, ECHO_STEP = (0.15, 0.4, 0.7, 0.7), (0.05, 0.1, 0.3, 0.3)


class Kind(NamedTuple):
    """Kind of a feature; axis 0 has its neighbor in the scan line, axis 1 in the next one."""

    name: str
    axis: int
    sign: int  # of the change of brightness to the right or downwards; 0 where either may be
    shares: Tuple[float, float, float, float]


RIGHT, LEFT, BELOW, ABOVE = range(4)  # of the near side of a step, where it ends
KINDS = (
    Kind('step to the right', 0, 0, UPRIGHT_STEP),
    Kind('step to the left', 0, 0, UPRIGHT_STEP),
    Kind('step downwards', 1, 0, (0.0, 0.1, 0.1, 0.2)),
    Kind('step upwards', 1, 0, (0.0, 0.2, 0.2, 0.4)),
    Kind('stronger echo to the right', 0, 1, ECHO_STEP),
    Kind('weaker echo to the right', 0, -1, ECHO_STEP),
    Kind('stronger echo downwards', 1, 1, (0.0, 0.0, 0.0, 0.2)),
    Kind('weaker echo downwards', 1, -1, (0.0, 0.0, 0.0, 0.2)),
    Kind('upright crease', 0, 0, (0.2, 0.2, 0.3, 0.3)),
    Kind('lying crease', 1, 0, (0.15, 0.15, 0.15, 0.3)))
ECHOES, CREASES = 4, 8  # the first kinds of their sort
AXIS = np.array([kind.axis for kind in KINDS])


@dataclass
class Features:
    """
    Places where an image should have an edge, in the frame of the depth sensor.

    points: float32 (N, 3) meters. kind: int (N,), of KINDS. share: float32 (N,), the probability
    that the image has an edge there. normal: float32 (N,), angle in [0, pi) across the edge, from
    the image's x axis to its y axis. gap: float32 (N,), radians between the two points that the
    edge lies between. source: int (N,), index of the near point in the cloud.
    """

    points: np.ndarray
    kind: np.ndarray
    share: np.ndarray
    normal: np.ndarray
    gap: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def take(self, chosen: np.ndarray) -> 'Features':
        """Return some of them: a mask or indices."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in (
            'points', 'kind', 'share', 'normal', 'gap', 'source')})


def find_features(points: np.ndarray, rotation: np.ndarray, bounds,
                  echo: Optional[np.ndarray] = None) -> Features:
    """
    Find the features of a cloud.

    They are looked for in the view of the depth sensor itself, turned as the camera: there a
    plane has a straight inverse depth, and nothing hides behind a nearer point.
    points: (N, 3) meters in the frame of the depth sensor. rotation: (3, 3), the camera's axes
    from those of the sensor, about right. bounds: of `Camera.bounds`. echo: (N,) strength of the
    echoes (intensity), if the sensor tells.
    """
    view = in_view(points, rotation, bounds)
    if view is None:
        return _none()
    index, place, depth = view
    strength = None if echo is None else _ranks(np.nan_to_num(echo[index].astype(np.float64)))
    spacing = typical_spacing(place)
    beside = _beside(place, min(spacing[1] / spacing[0], MOST_ASPECT))
    found = [part for ahead, back in ((0, 1), (1, 0), (2, 3), (3, 2))
             for part in _along(place, depth, strength, spacing, beside, ahead, back)]
    kind, near, where, far, gap = (np.concatenate(parts) for parts in zip(*found))
    many, normal = _edges(kind, where, far, spacing)
    share = np.array([k.shares for k in KINDS])[kind, np.searchsorted([2, 3, 5], many, 'right')]
    in_camera = np.column_stack([where, np.ones(len(where))]) * far[:, None]
    features = Features((in_camera @ rotation).astype(np.float32), kind,
                        share.astype(np.float32), normal.astype(np.float32),
                        gap.astype(np.float32), index[near])
    return features.take(share > 0)


def in_view(points: np.ndarray, rotation: np.ndarray, bounds):
    """Return the points in view: index, place (M, 2) at depth 1, and depth; None for too few."""
    turned = points.astype(np.float64) @ rotation.T
    left, right, top, bottom = np.clip(bounds, -WIDEST, WIDEST)
    with np.errstate(all='ignore'):
        place = turned[:, :2] / turned[:, 2:]
        seen = (turned[:, 2] > NEAREST_M) & np.isfinite(turned).all(1)
        seen &= (place[:, 0] > left - MARGIN) & (place[:, 0] < right + MARGIN)
        seen &= (place[:, 1] > top - MARGIN) & (place[:, 1] < bottom + MARGIN)
    index = np.flatnonzero(seen)
    if len(index) < FEWEST:
        return None
    return index, place[index], turned[index, 2]


def _none():
    empty, none = np.zeros(0, np.float32), np.zeros(0, np.int64)
    return Features(np.zeros((0, 3), np.float32), none, empty, empty, empty, none)


def typical_spacing(place: np.ndarray) -> Tuple[float, float]:
    """Return the distances of points (M, 2) along their lines and across them."""
    along = float(np.median(cKDTree(place).query(place, k=2)[0][:, 1]))
    along = max(along, 1e-4)  # several clouds in one, or points twice
    cell = 12.0 * along
    area = len(np.unique(np.floor(place / cell).astype(np.int64), axis=0)) * cell * cell
    return along, max(area / len(place) / along, along)


def _beside(place, aspect):
    """Return the neighbors to the right, left, below and above, (M, 4); -1 where none."""
    scaled = place / np.array([1.0, aspect])
    count = min(NEIGHBORS, len(place) - 1)
    distance, other = cKDTree(scaled).query(scaled, k=count + 1)
    distance, other = distance[:, 1:], other[:, 1:]
    offset = scaled[other] - scaled[:, None]
    x, y = offset[..., 0], offset[..., 1]
    row = np.arange(len(place))
    found = np.full((len(place), 4), -1)
    upright, lying = np.abs(y) < 0.4 * np.abs(x), np.abs(x) < 0.6 * np.abs(y)
    for n, there in enumerate((upright & (x > 0), upright & (x < 0), lying & (y > 0),
                               lying & (y < 0))):
        candidates = np.where(there, distance, np.inf)
        best = candidates.argmin(1)
        known = np.isfinite(candidates[row, best])
        found[known, n] = other[row[known], best[known]]
    return found


def _along(place, depth, strength, spacing, beside, ahead, back):
    """Yield (kind, near point, place, depth, gap) of the features in one direction."""
    inverse = 1.0 / depth
    there = np.append(inverse, np.nan)  # -1 finds nothing
    first, behind = beside[:, ahead], beside[:, back]
    second = np.where(first >= 0, beside[first, ahead], -1)
    third = np.where(behind >= 0, beside[behind, back], -1)
    gap = np.linalg.norm(place[first] - place, axis=1)
    close = (first >= 0) & (behind >= 0) & (gap < GAP * spacing[ahead // 2])
    with np.errstate(invalid='ignore'):
        drop = inverse - there[first]
        slope = there[behind] - inverse
        step = close & (drop > STEP * inverse) & ~(drop < SLOPE * np.abs(slope))
        yield _chosen(step, ahead, 0.5 * (place + place[first]), depth, gap)
        if ahead % 2:
            return
        axis = ahead // 2
        bend = slope - drop
        straight = ((np.abs(slope - there[third] + there[behind]) < STRAIGHT * np.abs(bend))
                    & (np.abs(there[first] - there[second] - drop) < STRAIGHT * np.abs(bend)))
        crease = (close & straight & (np.abs(bend) > CREASE * inverse)
                  & (np.abs(bend) < LARGEST_CREASE * inverse))
        yield _chosen(crease, CREASES + axis, place, depth, gap)
        if strength is None:
            return
        flat = (close & (np.abs(bend) < FLAT * inverse)
                & (np.abs(there[second] + inverse - 2 * there[first]) < FLAT_PAIR * there[first]))
        known = np.append(strength, np.nan)
        pair = known[first] - strength
        change = (known[first] + 0.5 * known[second] - strength - 0.5 * known[behind]) / 1.5
        for sign in (1, -1):
            brighter = flat & (sign * change > ECHO) & (sign * pair > ECHO_PAIR)
            yield _chosen(brighter, ECHOES + 2 * axis + (sign < 0),
                          0.5 * (place + place[first]), 2.0 / (inverse + there[first]), gap)


def _chosen(mask, kind, place, depth, gap):
    index = np.flatnonzero(mask)
    return np.full(len(index), kind), index, place[index], depth[index], gap[index]


def _edges(kind, place, depth, spacing):
    """Return how many features of the same edge lie around each, and the edge's normal."""
    many, normal = np.zeros(len(kind), np.int64), np.where(AXIS[kind] == 0, 0.0, 0.5 * np.pi)
    for one in np.unique(kind):
        own = np.flatnonzero(kind == one)
        reach = np.array(spacing) * (REACH if AXIS[one] == 0 else FLAT_REACH)
        scaled = np.column_stack([place[own] / reach, np.log(depth[own]) / NEAR_IN_DEPTH])
        pairs = cKDTree(scaled).query_pairs(1.0, output_type='ndarray')
        if not len(pairs):
            continue
        a, b = np.concatenate([pairs, pairs[:, ::-1]]).T
        many[own] = np.bincount(a, minlength=len(own))
        x, y = (place[own][b] - place[own][a]).T
        xx, yy, xy = (np.bincount(a, w, len(own)) for w in (x * x, y * y, x * y))
        across = 0.5 * np.arctan2(2 * xy, xx - yy) + 0.5 * np.pi
        clear = many[own] >= 2
        normal[own[clear]] = across[clear]
    return many, np.mod(normal, np.pi)


def _ranks(values):
    """Return the share of values that are smaller than each, half of those that are equal."""
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(count) - 0.5 * count) / len(values))[index.reshape(-1)]
