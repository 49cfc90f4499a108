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
"""Pair images and depth by stamp: nearest within a tolerance; every drop is counted."""
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from itertools import pairwise
from operator import itemgetter
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from steer_depth_ros.errors import ConfigError

SECOND = 1_000_000_000
# The next stamp of a stream is at least this fraction of its shortest recent period away.
NEXT_AT_LEAST = 0.75
INTERVALS = 16
RHYTHM = 64  # intervals that define the usual period; longer than several bursts
LONGEST_PERIOD = 5  # seconds; a longer interval is a pause or a jump of the clock
NEAR_NS = SECOND // 2  # stamps farther apart do not belong to the same time, whatever the period
ENOUGH = 5  # messages of both streams that hint() needs
CLOCKS_DIFFER = 5.0  # seconds; with a larger offset sensors do not share a clock
PAUSE = 5  # usual gaps; a longer one is a pause of the sensor, not a loss
LOSS = 0.2  # fraction of missing messages that is worth a warning
FARTHEST = 0.75  # periods; the nearest partner is at most half a period (plus jitter) away
ONE_WAY = 0.8  # fraction of distances with the sign of their median that means an offset
STAMP = itemgetter(0)  # of a queue entry


class Pair(NamedTuple):
    """An image and the depth nearest to it in time, with their stamps."""

    image_ns: int
    image: Any
    depth_ns: int
    depth: Any


def share_lost(stamps_ns: Sequence[int]) -> float:
    """Return the fraction of messages missing according to the stamps; 0 if irregular."""
    if len(stamps_ns) < 10:
        return 0.0
    gaps = np.diff(np.asarray(stamps_ns, np.int64))
    period = np.percentile(gaps, 5)
    if period <= 0:
        return 0.0
    near = gaps[gaps < 3.5 * period]  # whole periods, even if the first estimate is a little off
    period = near.sum() / max(np.round(near / period).sum(), 1.0)
    # With much loss the usual gap is several periods; only a far longer one is a pause.
    steps = gaps[gaps < PAUSE * max(period, np.median(gaps))] / period
    if np.mean(np.abs(steps - np.round(steps)) < 0.2) < 0.9:
        return 0.0
    return float(1.0 - len(steps) / np.round(steps).sum())


class Synchronizer:
    """
    Matches two streams by stamp, each message at most once.

    A pair is returned as soon as neither message can get a nearer partner, given that stamps of a
    stream increase by at least most of its recent period. Pairs are in order of time and do not
    depend on which stream arrives first.

    slop_s: largest distance within a pair in seconds (inclusive).
    time_offset_s: added to the stamps of the depth before comparing.
    queue_size: waiting messages kept per stream; the oldest is dropped first.
    depth_name: name of the depth in hint(), e.g. 'points'.
    counts: Counter of 'image', 'depth' (received), 'pairs', 'resets', and what was dropped:
    '<stream>_unmatched' (no partner within slop), '<stream>_superseded' (its partner had a nearer
    one: the streams differ in rate), '<stream>_overflow', '<stream>_repeated' (same stamp again),
    '<stream>_out_of_order', '<stream>_reset' and '<stream>_unstamped' (the stamp is zero).
    """

    def __init__(self, slop_s: float, time_offset_s: float = 0.0, queue_size: int = 20,
                 depth_name: str = 'points'):
        if queue_size < 1:
            raise ConfigError(f'the queue of the synchronizer needs a size of at least 1, '
                              f'got {queue_size}')
        self.offset_ns = round(time_offset_s * SECOND)
        self.configure(slop_s, time_offset_s)
        self.queue_size = queue_size
        self.depth_name = depth_name
        self.counts: Counter = Counter()
        self._image = _Stream('image')
        self._depth = _Stream('depth')
        self._told: Dict[str, int] = {}

    def configure(self, slop_s: float, time_offset_s: float) -> None:
        """Apply a new tolerance and offset; a new offset drops waiting messages."""
        if not slop_s >= 0.0:
            raise ConfigError(f'the tolerance (slop) must not be negative, got {slop_s} s')
        self.slop_ns = round(slop_s * SECOND)
        self._checked_ns: Optional[int] = None  # where _certain() starts, None: at the first image
        if round(time_offset_s * SECOND) != self.offset_ns:
            self.offset_ns = round(time_offset_s * SECOND)
            self.reset()

    def add_image(self, stamp_ns: int, item: Any) -> List[Pair]:
        """Add an image; return the pairs now ready, oldest first."""
        return self._add(self._image, self._depth, stamp_ns, item)

    def add_depth(self, stamp_ns: int, item: Any) -> List[Pair]:
        """Add a cloud or depth image; return the pairs now ready, oldest first."""
        return self._add(self._depth, self._image, stamp_ns, item, self.offset_ns)

    def flush(self) -> List[Pair]:
        """Return the pairs among the waiting messages, at the end of a recording, and reset."""
        pairs = self._settle(self._image.queue, self._depth.queue)
        self._image, self._depth = _Stream('image'), _Stream('depth')
        self._checked_ns = None
        return pairs

    def reset(self) -> None:
        """Drop all waiting messages after a jump in time."""
        self.counts['resets'] += 1
        for stream in (self._image, self._depth):
            self._forget(stream)
            stream.last, stream.behind = None, False

    def hint(self) -> Optional[str]:
        """
        Return what is wrong if most messages since the last hint were not paired, else None.

        A hint needs a few messages of each stream; counting then starts again.
        """
        seen = {name: count - self._told.get(name, 0) for name, count in self.counts.items()}
        images, depths = seen.get('image', 0), seen.get('depth', 0)
        if max(images, depths) < ENOUGH or 0 < min(images, depths) < ENOUGH:
            return None
        self._told = dict(self.counts)
        sentence = self._diagnose(seen, images, depths)
        self._image.apart.clear()
        self._depth.apart.clear()
        return sentence

    def _diagnose(self, seen, images, depths):
        streams = ((self._image, 'images'), (self._depth, self.depth_name))
        for (stream, missing), (_, there) in (streams, streams[::-1]):
            if not seen.get(stream.name):
                return None if self.counts[stream.name] else (
                    f'{max(images, depths)} {there} but no {missing} arrived; check the name of '
                    'that topic and that its publisher runs')
        if seen.get('pairs', 0) >= 0.5 * min(images, depths):
            return None
        for stream, label in streams:
            if seen.get(f'{stream.name}_unstamped', 0) > 0.5 * seen[stream.name]:
                return f'{label} carry no stamp (zero); their publisher must stamp each message'
            if seen.get(f'{stream.name}_repeated', 0) > 0.5 * seen[stream.name]:
                return (f'{label} repeat the stamp {stream.last} ns; their publisher must stamp '
                        'each message anew')
        for stream, label in streams:
            lost = share_lost(stream.stamps)
            if lost > LOSS:  # with lost messages, distances say nothing
                return f'{100 * lost:.0f} % of the {label} are missing, as their stamps tell'
        rarer = self._image if images <= depths else self._depth
        apart = rarer.apart or self._image.apart or self._depth.apart
        if apart:
            return self._apart(apart)
        if self._depth.last is None or self._image.last is None:
            return None
        latest = self._depth.last - self._image.last  # so far apart nothing is dropped
        return self._apart([latest]) if abs(latest) >= LONGEST_PERIOD * SECOND else None

    def _apart(self, distances):
        """Describe distances (depth stamp + offset - image stamp, nanoseconds) if consistent."""
        median = float(np.median(distances)) / SECOND
        slop, offset = self.slop_ns / SECOND, self.offset_ns / SECOND
        if abs(median) > CLOCKS_DIFFER:
            return (f'image and {self.depth_name} are {abs(median):.1f} s apart: their clocks '
                    'differ; synchronize them (PTP, chrony) or let one driver stamp both')
        periods = [np.percentile(stream.rhythm, 10) / SECOND
                   for stream in (self._image, self._depth) if stream.rhythm]
        if abs(median) > FARTHEST * max(periods, default=0.0):
            return None  # too far for a nearest partner: messages are missing
        far = (f'image and {self.depth_name} are {abs(median) * 1e3:.0f} ms apart (median); '
               f'slop is {slop * 1e3:.0f} ms; ')
        if np.mean(np.sign(distances) == np.sign(median)) < ONE_WAY:
            return far + 'now one is earlier, now the other, so raise slop_s'
        return far + f'set time_offset_s (about {offset - median:.3f}) or raise slop_s'

    def _add(self, stream, other, stamp_ns, item, offset_ns=0):
        self.counts[stream.name] += 1
        if stamp_ns <= 0:
            self.counts[f'{stream.name}_unstamped'] += 1
            return []
        stamp = stamp_ns + offset_ns
        if stream.last is not None and stamp <= stream.last and not self._restart(
                stream, other, stamp):
            return []
        stream.push(stamp, item)
        pairs = self._ready()
        self._drop_hopeless(self._image, self._depth)
        self._drop_hopeless(self._depth, self._image)
        while len(stream.queue) > self.queue_size:
            self._drop(stream, stream.queue.pop(0), other, 'overflow')
        return pairs

    def _restart(self, stream, other, stamp):
        """Return whether a stamp that is not newer is a jump back in time (a bag that loops)."""
        if stamp == stream.last:
            self.counts[f'{stream.name}_repeated'] += 1
            return False
        late_again = stream.late is not None and stamp > stream.late
        if stream.last - stamp < min(stream.shortest_interval(), NEAR_NS) and not late_again:
            self.counts[f'{stream.name}_out_of_order'] += 1
            stream.late = stamp
            return False
        # The shortest interval, not the usual one: mistaking a jump of the clock for a wrong stamp
        # would keep old transforms in use.
        near = min(2 * max(stream.shortest_interval(), other.shortest_interval()), NEAR_NS)
        alone = other.last is not None and abs(stamp - other.last) <= near + self.slop_ns
        if stream.behind or alone:
            # The other stream has already jumped, or did not jump: its messages are current.
            self._forget(stream)
        else:
            self.counts['resets'] += 1
            self._forget(stream)
            self._forget(other)
            other.behind = other.last is not None
        stream.begin_anew()
        return True

    def _forget(self, stream):
        self.counts[f'{stream.name}_reset'] += len(stream.queue)
        stream.queue.clear()
        stream.stamps.clear()
        stream.bound = None

    def _ready(self):
        pairs: List[Pair] = []
        images, depths = self._image.queue, self._depth.queue
        while (pair := self._certain()) is not None:
            # Older messages cannot be paired with newer ones, so they are settled, too.
            i, d = pair
            pairs += self._settle(images[:i], depths[:d])
            pairs.append(self._pair(images[i], depths[d]))
            del images[:i + 1], depths[:d + 1]
        self._checked_ns = min(self._image.next_at_least(), self._depth.next_at_least())
        return pairs

    def _certain(self):
        """
        Return the queue positions of a pair that no future message can change, or None.

        If there are several, the closest one. Images before or after all depths have the first or
        last depth as their nearest, so only one of each matters. Pairs that were uncertain in the
        last call have an image later than `_checked_ns` minus two tolerances; new pairs include a
        message at an end of its queue. So only these are examined.
        """
        images, depths = self._image, self._depth
        if not images.queue or not depths.queue:
            return None
        first = images.nearest(depths.queue[0][0])
        last = images.nearest(depths.queue[-1][0])
        begin = first if self._checked_ns is None else max(first, bisect_right(
            images.queue, self._checked_ns - 2 * self.slop_ns, key=STAMP))
        next_image, next_depth = images.next_at_least(), depths.next_at_least()
        found = []
        for i in {first, *range(begin, last), last}:
            image_ns = images.queue[i][0]
            d = depths.nearest(image_ns)
            depth_ns = depths.queue[d][0]
            distance = abs(image_ns - depth_ns)
            if (distance <= self.slop_ns and next_image >= depth_ns + distance
                    and next_depth >= image_ns + distance and images.nearest(depth_ns) == i):
                found.append((distance, i, d))
        return min(found)[1:] if found else None

    def _settle(self, images, depths):
        """Pair the remaining messages, closest first and without crossing; drop the rest."""
        # No message lies between the closest two, nor between the next closest on either side:
        # only neighbors in time can form pairs.
        in_time = sorted([(entry[0], 0, i) for i, entry in enumerate(images)]
                         + [(entry[0], 1, d) for d, entry in enumerate(depths)])
        near = sorted((b[0] - a[0], *((a[2], b[2]) if a[1] < b[1] else (b[2], a[2])))
                      for a, b in pairwise(in_time)
                      if a[1] != b[1] and b[0] - a[0] <= self.slop_ns)
        depth_of: Dict[int, int] = {}
        taken = set()
        for _, i, d in near:
            if i not in depth_of and d not in taken:
                depth_of[i] = d
                taken.add(d)
        for i, image in enumerate(images):
            if i not in depth_of:
                self._drop(self._image, image, self._depth, 'unmatched')
        for d, depth in enumerate(depths):
            if d not in taken:
                self._drop(self._depth, depth, self._image, 'unmatched')
        return [self._pair(images[i], depths[d]) for i, d in sorted(depth_of.items())]

    def _pair(self, image, depth):
        self.counts['pairs'] += 1
        return Pair(image[0], image[1], depth[0] - self.offset_ns, depth[1])

    def _drop_hopeless(self, stream, other):
        """
        Drop messages that no present or future message of the other stream can match.

        None are dropped while a stream is far ahead: its stamps may be wrong and come back.
        """
        while (stream.queue and other.bound is not None
               and other.bound - stream.last < LONGEST_PERIOD * SECOND):
            stamp = stream.queue[0][0]
            near = other.queue and abs(
                other.queue[other.nearest(stamp)][0] - stamp) <= self.slop_ns
            if near or other.bound < stamp + self.slop_ns:
                return
            self._drop(stream, stream.queue.pop(0), other, 'unmatched')

    def _drop(self, stream, entry, other, cause):
        nearest = min(other.stamps, key=lambda stamp: abs(stamp - entry[0]), default=None)
        if nearest is not None:
            apart = nearest - entry[0]
            if abs(apart) <= self.slop_ns and cause == 'unmatched':
                cause = 'superseded'
            stream.apart.append(apart if stream is self._image else -apart)
        self.counts[f'{stream.name}_{cause}'] += 1


class _Stream:
    """The waiting messages of a stream, and statistics of its stamps."""

    def __init__(self, name):
        self.name = name
        self.queue: List[Tuple[int, Any]] = []
        self.last: Optional[int] = None
        self.late: Optional[int] = None  # the last out of order; a second one is a jump back
        self.bound: Optional[int] = None  # lower bound of later stamps; None after a jump
        self.behind = False  # the other stream has jumped back, this one not yet
        self.stamps: Deque[int] = deque(maxlen=64)
        self.intervals: Deque[int] = deque(maxlen=INTERVALS)
        self.rhythm: Deque[int] = deque(maxlen=RHYTHM)
        self.apart: Deque[int] = deque(maxlen=100)

    def push(self, stamp, item):
        if self.last is not None and stamp - self.last < LONGEST_PERIOD * SECOND:
            self.intervals.append(stamp - self.last)
            self.rhythm.append(stamp - self.last)
        self.last, self.bound, self.late = stamp, stamp, None
        self.stamps.append(stamp)
        self.queue.append((stamp, item))

    def nearest(self, stamp):
        """Return the position of the message nearest to `stamp`; the older of two equally near."""
        after = bisect_left(self.queue, stamp, key=STAMP)
        if after == len(self.queue) or after > 0 and (
                stamp - self.queue[after - 1][0] <= self.queue[after][0] - stamp):
            return after - 1
        return after

    def begin_anew(self):
        """Continue at another time with the usual period, ignoring bursts and pauses."""
        self.last, self.behind = None, False
        usual = sorted(self.rhythm)[3 * len(self.rhythm) // 4:][:1]
        self.intervals.clear()
        self.intervals.extend(usual)

    def shortest_interval(self):
        return min(self.intervals, default=0)

    def next_at_least(self):
        return (self.bound or 0) + int(NEXT_AT_LEAST * self.shortest_interval())
