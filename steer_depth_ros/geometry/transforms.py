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
"""Rigid transforms between named frames over time, without tf2."""
import bisect
from dataclasses import dataclass, field
import math
from threading import RLock
from typing import Dict, List, Optional, Sequence

import numpy as np

from steer_depth_ros.errors import CalibrationError

HISTORY_NS = 10_000_000_000
DISORDER_NS = 500_000_000
TOLERANCE_NS = 10_000_000
GAP_NS, GAPS = 500_000_000, 3


class TransformError(CalibrationError):
    """
    Frames that are unknown, not connected, or not known at the requested time.

    past: the requested time is so long before all known stamps that waiting is pointless, unless
    a stamp was wrong.
    """

    past = False


@dataclass
class _Edge:
    """The poses of one frame in its parent, sorted by stamp; a static one has a single pose."""

    parent: str
    static: bool
    stamps: List[int] = field(default_factory=list)
    poses: List[tuple] = field(default_factory=list)  # (translation (3,), quaternion xyzw (4,))
    latest: tuple = ()  # stamp and pose that arrived last
    put_aside: bool = False  # `latest` was far older than the newest and is not in the lists
    doubtful: bool = False  # the only pose is the one clear() kept; dropped if the next is older
    arrival: int = 0  # serial number of the latest pose


class TransformBuffer:
    """
    A tree of frames with their recent transforms, interpolated between stamps.

    history_ns: how long poses are kept, counted back from the newest stamp of their frame.
    disorder_ns: a pose older than the newest by more than this is put aside and used only for
    lookups at its own stamp. A second one in a row means that the publisher's clock jumped back
    (or that an earlier stamp was in the future), and the frame starts over with these two.
    The nearest pose is used up to TOLERANCE_NS outside the known stamps. Poses are never
    extrapolated, and never interpolated over a gap that is longer than both half a second and
    three times the usual one. Thread-safe.
    """

    def __init__(self, history_ns: int = HISTORY_NS, disorder_ns: int = DISORDER_NS):
        self._history_ns = history_ns
        self._disorder_ns = min(disorder_ns, history_ns)
        self._edges: Dict[str, _Edge] = {}
        self._arrivals = 0
        self._refused: Dict[str, int] = {}  # arrivals at the last refusal of each frame
        self._lock = RLock()

    def set_pose(self, parent: str, child: str, stamp_ns: int, xyz: Sequence[float],
                 quaternion_xyzw: Sequence[float], static: bool = False) -> None:
        """
        Add the pose of `child` in `parent`: meters, and a quaternion (x, y, z, w) of any length.

        The pose takes points from child to parent. Raise TransformError if a frame name is empty,
        the frames would form a loop, or the numbers are not a pose; the buffer is unchanged then.
        """
        parent, child = _frame(parent), _frame(child)
        pose = np.array(xyz, np.float64), np.array(_unit(xyz, quaternion_xyzw))
        if parent == child:
            raise TransformError(f'frame "{child}" cannot be its own parent; correct it')
        with self._lock:
            path = self._ancestors(parent)
            if child in path and not self._break_loop(child, path[:path.index(child)]):
                raise TransformError(
                    f'{child} in {parent} would close a loop of the frames '
                    f'{", ".join(path[:path.index(child) + 1])}; each frame may have one parent '
                    'only, correct the one that is wrong')
            edge = self._edges.get(child)
            if static or edge is None or edge.parent != parent or edge.static:
                edge = self._edges[child] = _Edge(parent, static)
            self._arrivals += 1
            edge.arrival = self._arrivals
            self._insert(edge, int(stamp_ns), pose)

    def lookup(self, target: str, source: str, stamp_ns: Optional[int] = None) -> np.ndarray:
        """
        Return the float64 4 x 4 matrix that takes points in `source` to `target`.

        stamp_ns: the requested time; None for the latest at which all transforms are known.
        Raise TransformError, naming the frames and times that exist.
        """
        target, source = _frame(target), _frame(source)
        with self._lock:
            up, down = self._links(target, source)
            if stamp_ns is None:
                moving = [self._edges[c].stamps[-1] for c in up + down
                          if not self._edges[c].static]
                stamp_ns = min(moving, default=0)
            return (inverse(self._chain(down, stamp_ns, target, source))
                    @ self._chain(up, stamp_ns, target, source))

    def lookup_full(self, target: str, target_stamp: Optional[int], source: str,
                    source_stamp: Optional[int], fixed: str) -> np.ndarray:
        """
        Take points in `source` at `source_stamp` to `target` at `target_stamp`.

        fixed: a frame in which the world is static between the two stamps, such as odom.
        """
        return (self.lookup(target, fixed, target_stamp)
                @ self.lookup(fixed, source, source_stamp))

    def frames(self) -> List[str]:
        """Return the names of all known frames, sorted."""
        with self._lock:
            return sorted({*self._edges, *(e.parent for e in self._edges.values())})

    def clear(self) -> None:
        """
        Forget moving transforms after a jump in time (a bag that loops); static ones stay.

        The last pose of each frame is kept, since it may already belong to the new time. If it
        does not, the next pose is older and replaces it.
        """
        with self._lock:
            for child, edge in self._edges.items():
                if not edge.static:
                    kept = _Edge(edge.parent, False, arrival=edge.arrival)
                    self._insert(kept, *edge.latest)
                    kept.doubtful, self._edges[child] = True, kept

    def _insert(self, edge, stamp, pose):
        if edge.doubtful and stamp < edge.stamps[-1]:
            edge.stamps.clear()
            edge.poses.clear()
        edge.doubtful = False
        far_older = bool(edge.stamps) and stamp < edge.stamps[-1] - self._disorder_ns
        before, edge.latest = edge.latest, (stamp, pose)
        if far_older and not edge.put_aside:
            edge.put_aside = True
            return
        edge.put_aside = False
        if far_older:
            edge.stamps.clear()
            edge.poses.clear()
            self._insert(edge, *before)
            self._insert(edge, stamp, pose)
            return
        at = bisect.bisect_left(edge.stamps, stamp)
        if at < len(edge.stamps) and edge.stamps[at] == stamp:
            edge.poses[at] = pose
            return
        edge.stamps.insert(at, stamp)
        edge.poses.insert(at, pose)
        old = bisect.bisect_left(edge.stamps, edge.stamps[-1] - self._history_ns)
        del edge.stamps[:old], edge.poses[:old]

    def _break_loop(self, child, links):
        """Drop a moving link that has not been updated since `child` was last refused, if any."""
        before, self._refused[child] = self._refused.get(child, -1), self._arrivals
        for link in links:
            if not self._edges[link].static and self._edges[link].arrival <= before:
                del self._edges[link]
                return True
        return False

    def _ancestors(self, name):
        """Return the frames from `name` up to its root."""
        path = [name]
        while path[-1] in self._edges:
            path.append(self._edges[path[-1]].parent)
        return path

    def _links(self, target, source):
        """Return the links of `source` and of `target` up to their common ancestor, by child."""
        known = self.frames()
        for name in (target, source):
            if name not in known and target != source:
                raise TransformError(
                    f'frame "{name}" does not exist, needed for {source} -> {target}; '
                    f'existing frames: {", ".join(known) or "none"}')
        up, down = self._ancestors(source), self._ancestors(target)
        meeting = next((name for name in up if name in down), None)
        if meeting is None:
            raise TransformError(
                f'frames "{source}" and "{target}" are in separate trees, below "{up[-1]}" and '
                f'"{down[-1]}"; publish a transform between them (frames: {", ".join(known)})')
        return up[:up.index(meeting)], down[:down.index(meeting)]

    def _chain(self, children, stamp, target, source):
        matrix = np.eye(4)
        for child in children:
            matrix = self._at(child, stamp, target, source) @ matrix
        return matrix

    def _at(self, child, stamp, target, source):
        edge = self._edges[child]
        stamps = edge.stamps
        if edge.static:
            return matrix_from(*edge.poses[0])
        if edge.put_aside and abs(edge.latest[0] - stamp) <= TOLERANCE_NS:
            return matrix_from(*edge.latest[1])  # a lookup at the stamp of that pose
        if not stamps[0] - TOLERANCE_NS <= stamp <= stamps[-1] + TOLERANCE_NS:
            error = TransformError(
                f'{source} -> {target} asked for at {_seconds(stamp)} s, but {child} in '
                f'{edge.parent} is known from {_seconds(stamps[0])} s to '
                f'{_seconds(stamps[-1])} s only; wait for it, or check the clocks')
            error.past = stamp < stamps[0] - self._disorder_ns
            raise error
        at = bisect.bisect_right(stamps, stamp)
        if at == 0 or at == len(stamps):
            return matrix_from(*edge.poses[min(at, len(stamps) - 1)])
        gap = stamps[at] - stamps[at - 1]
        if gap > GAP_NS and gap > GAPS * _usual_gap(stamps, at):
            for near in (at - 1, at):
                if abs(stamps[near] - stamp) <= TOLERANCE_NS:
                    return matrix_from(*edge.poses[near])
            raise TransformError(
                f'{source} -> {target} asked for at {_seconds(stamp)} s, but {child} in '
                f'{edge.parent} is not known between {_seconds(stamps[at - 1])} s and '
                f'{_seconds(stamps[at])} s; publish it more often, or check the clocks')
        share = (stamp - stamps[at - 1]) / gap
        (xyz0, q0), (xyz1, q1) = edge.poses[at - 1], edge.poses[at]
        return matrix_from(xyz0 + share * (xyz1 - xyz0), _slerp(q0, q1, share))


def matrix_from(xyz: Sequence[float], quaternion_xyzw: Sequence[float]) -> np.ndarray:
    """
    Build the float64 4 x 4 matrix of a translation in meters and a quaternion (x, y, z, w).

    Raise TransformError for a quaternion of length zero and for numbers that are not finite.
    """
    x, y, z, w = _unit(xyz, quaternion_xyzw)
    matrix = np.eye(4)
    matrix[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                      [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                      [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]
    matrix[:3, 3] = xyz
    return matrix


def matrix_from_rpy(xyz: Sequence[float], rpy: Sequence[float]) -> np.ndarray:
    """Build a 4 x 4 matrix from meters and roll, pitch, yaw in radians about fixed x, y, z."""
    roll, pitch, yaw = (0.5 * float(angle) for angle in rpy)
    cr, sr, cp, sp = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    cy, sy = np.cos(yaw), np.sin(yaw)
    return matrix_from(xyz, (sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy,
                             cr * cp * sy - sr * sp * cy, cr * cp * cy + sr * sp * sy))


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert a rigid 4 x 4 transform."""
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T
    result[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return result


def quaternion_from(matrix: np.ndarray) -> np.ndarray:
    """Return the unit quaternion float64 (x, y, z, w), w >= 0, of a 3 x 3 or 4 x 4 rotation."""
    r = np.asarray(matrix, dtype=np.float64)[:3, :3]
    # Each row is the quaternion times one of its entries; the longest is the most accurate.
    table = np.array([
        [1 + r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
        [r[0, 1] + r[1, 0], 1 - r[0, 0] + r[1, 1] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
        [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 1 - r[0, 0] - r[1, 1] + r[2, 2], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], 1 + r[0, 0] + r[1, 1] + r[2, 2]],
    ])
    row = table[np.argmax(np.diag(table))]
    return row / (np.linalg.norm(row) * (1.0 if row[3] >= 0 else -1.0))


def _usual_gap(stamps, left_out):
    """Return the median gap between sorted stamps without that before `left_out`; 0 if none."""
    gaps = np.delete(np.diff(stamps), left_out - 1)
    return np.median(gaps) if len(gaps) else 0


def _slerp(q0, q1, share):
    cosine = float(q0 @ q1)
    if cosine < 0.0:  # q and -q are the same rotation: take the shorter way
        q1, cosine = -q1, -cosine
    if cosine > 0.9995:
        return q0 + share * (q1 - q0)
    angle = np.arccos(cosine)
    return (np.sin((1.0 - share) * angle) * q0 + np.sin(share * angle) * q1) / np.sin(angle)


def _unit(xyz, quaternion):
    """Return a normalized quaternion; plain Python, as thousands arrive per second."""
    numbers = tuple(map(float, (*xyz, *quaternion)))
    length = math.sqrt(sum(number * number for number in numbers[3:]))
    if (len(xyz) != 3 or len(quaternion) != 4 or not all(map(math.isfinite, (*numbers, length)))
            or length < 1e-6):
        raise TransformError(f'xyz {list(numbers[:3])} and quaternion {list(numbers[3:])} are no '
                             'pose; three and four finite numbers (x y z w, not all zero) are '
                             'needed')
    return [number / length for number in numbers[3:]]


def _frame(name):
    name = name.lstrip('/')
    if not name:
        raise TransformError('a frame name is empty; set frame_id in the message')
    return name


def _seconds(stamp_ns):
    return f'{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000 // 1_000_000:03d}'
