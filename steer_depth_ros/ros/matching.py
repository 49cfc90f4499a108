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
"""Match messages into jobs, for the node and for recordings."""
from collections import deque
import time
from typing import Any, Callable, Deque, Dict, List, Optional

import numpy as np

from steer_depth_ros.ros.message_filters_sync import FilterSynchronizer
from steer_depth_ros.ros.pipeline import Cloud, Job
from steer_depth_ros.ros.synchronizer import CLOCKS_DIFFER, ENOUGH, SECOND, Synchronizer

MAX_ACCUMULATED = 100
OTHERS_NS = 110_000_000  # the nearest cloud of an untriggered 10 Hz LiDAR is at most this far away
MEASURED = 200  # messages from which the clock of a sensor is estimated


class Matcher:
    """
    Matches images and depth by stamp, and adds earlier clouds and camera_info.

    values: parameters of the node, see parameters.py. depth_name: name of the depth in hint().
    on_jump: called when stamps jump back, before the jobs of the new time are returned.
    sync: the synchronizer. info: the latest camera_info. depth_info: that of a depth image.
    Messages may be of any type: only stamps are used (with message_filters, the header).
    """

    def __init__(self, values: Dict[str, Any], depth_name: str,
                 on_jump: Callable[[], None] = lambda: None):
        self.values, self._on_jump = values, on_jump
        self.info: Any = None
        self.depth_info: Any = None
        self._others: Dict[str, Deque[Cloud]] = {}
        self._depth_name = depth_name
        self._recent: Deque[Cloud] = deque(maxlen=MAX_ACCUMULATED)
        self._clocks = {name: Clock() for name in ('image', 'depth')}
        if values['sync_mode'] == 'nearest':
            self.sync: Any = Synchronizer(values['slop_s'], values['time_offset_s'],
                                          values['queue_size'], depth_name)
        else:
            self.sync = FilterSynchronizer(values['sync_mode'], values['slop_s'],
                                           values['queue_size'])
        self._resets = 0

    def configure(self, values: Dict[str, Any]) -> None:
        """Apply new parameter values; a new offset drops waiting messages."""
        if values['time_offset_s'] != self.values['time_offset_s']:
            self._recent.clear()  # their stamps include the old offset
            self._others.clear()
        self.values = values
        self.sync.configure(values['slop_s'], values['time_offset_s'])
        self._resets = self.sync.counts['resets']

    def reset(self) -> None:
        """Drop all waiting messages after a jump in time."""
        self.sync.reset()
        self._resets = self.sync.counts['resets']
        self._recent.clear()
        self._others.clear()
        self._forget_clocks()

    def add_image(self, stamp_ns: int, item: Any, arrived_ns: int) -> List[Job]:
        """Add an image; arrived_ns: on the local clock. Return the jobs now ready."""
        self._clocks['image'].add(stamp_ns, arrived_ns)
        return self._jobs(self.sync.add_image(stamp_ns, item))

    def add_depth(self, stamp_ns: int, item: Any, arrived_ns: int) -> List[Job]:
        """Add a cloud or depth image; return the jobs now ready."""
        self._clocks['depth'].add(stamp_ns, arrived_ns)
        cloud = Cloud(item, stamp_ns + round(self.values['time_offset_s'] * SECOND))
        if self.values['accumulate_s'] > 0 and stamp_ns > 0:
            self._remember(cloud)
        own = isinstance(self.sync, Synchronizer)
        return self._jobs(self.sync.add_depth(stamp_ns, cloud if own else item))

    def add_other(self, name: str, stamp_ns: int, item: Any) -> None:
        """Add a cloud of a further LiDAR; each pair gets the nearest one in time."""
        clouds = self._others.setdefault(name, deque(maxlen=MAX_ACCUMULATED))
        clouds.append(Cloud(item, stamp_ns + round(self.values['time_offset_s'] * SECOND)))

    def flush(self) -> List[Job]:
        """Return the jobs among the waiting messages, at the end of a recording."""
        return self._jobs(self.sync.flush())

    def hint(self) -> Optional[str]:
        """Return what is wrong if most messages since the last call were not paired."""
        hint = self.sync.hint()
        return hint and (self._apart() or hint)

    def _apart(self):
        """Describe the offset between the sensors' clocks if it is more than a few seconds."""
        image, depth = (self._clocks[name].behind() for name in ('image', 'depth'))
        if image is None or depth is None:
            return None
        offset, jitter = depth[0] - image[0], float(np.hypot(image[1], depth[1]))
        if abs(offset - self.values['time_offset_s']) < CLOCKS_DIFFER:
            return None
        return (f'the clocks of image and {self._depth_name} differ by {abs(offset):.3f} s '
                f'(+- {1e3 * jitter:.0f} ms, by when messages arrived): set time_offset_s to '
                f'{offset:.3f}, or synchronize the clocks (PTP, chrony, or a driver that stamps '
                'with the time of the host)')

    def _forget_clocks(self):
        for clock in self._clocks.values():
            clock.clear()

    def _remember(self, cloud):
        oldest = cloud.stamp_ns - (self.values['accumulate_s'] + self.values['slop_s']) * SECOND
        while self._recent and not oldest <= self._recent[0].stamp_ns <= cloud.stamp_ns:
            self._recent.popleft()
        self._recent.append(cloud)

    def _jobs(self, pairs):
        if self.sync.counts['resets'] != self._resets:
            self._resets = self.sync.counts['resets']
            self._forget_clocks()
            self._on_jump()
        jobs = []
        for pair in pairs:
            if not isinstance(pair.depth, Cloud):  # message_filters passes only messages
                pair = pair._replace(depth=Cloud(pair.depth, pair.depth_ns))
            together = self._earlier(pair.depth) + self._beside(pair.image_ns)
            jobs.append(Job(pair, self.info, together, time.perf_counter(), self.depth_info))
        return jobs

    def _earlier(self, cloud):
        """Return the clouds of the last `accumulate_s`; LiDARs on one topic may share stamps."""
        window = self.values['accumulate_s'] * SECOND
        return [c for c in self._recent if c is not cloud and
                cloud.stamp_ns - window <= c.stamp_ns <= cloud.stamp_ns] if window else []

    def _beside(self, image_ns):
        """Return the clouds of further LiDARs for an image."""
        near = max(OTHERS_NS, self.values['slop_s'] * SECOND)
        window = self.values['accumulate_s'] * SECOND
        found = []
        for clouds in self._others.values():
            if window:
                found += [c for c in clouds if -window - near <= c.stamp_ns - image_ns <= near]
                continue
            nearest = min(clouds, key=lambda c: abs(c.stamp_ns - image_ns))
            if abs(nearest.stamp_ns - image_ns) <= near:
                found.append(nearest)
        return found


class Clock:
    """Estimates how far a sensor's stamps are behind the arrival of its messages."""

    def __init__(self):
        self._behind: Deque[int] = deque(maxlen=MEASURED)

    def add(self, stamp_ns: int, arrived_ns: int) -> None:
        """Note a message."""
        if stamp_ns > 0:
            self._behind.append(arrived_ns - stamp_ns)

    def clear(self) -> None:
        """Start anew."""
        self._behind.clear()

    def behind(self):
        """Return median and jitter (robust standard deviation) in seconds; None if too few."""
        if len(self._behind) < ENOUGH:
            return None
        first = self._behind[0]  # nanoseconds since 1970 do not fit a float
        apart = np.array([behind - first for behind in self._behind], np.float64)
        middle = np.median(apart)
        jitter = 1.4826 * np.median(np.abs(apart - middle))
        return (first + middle) / SECOND, float(jitter) / SECOND
