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
"""The synchronizers of message_filters with the interface of our own."""
from collections import Counter
from typing import Any, List, Optional

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.ros.messages import stamp_ns
from steer_depth_ros.ros.synchronizer import Pair


class FilterSynchronizer:
    """
    Matches with message_filters, mode 'approximate' or 'exact'.

    These do not report what they drop, so `counts` holds only 'image', 'depth', 'pairs', 'resets'
    and '<stream>_unstamped'. Raise ConfigError if message_filters is not installed.
    """

    def __init__(self, mode: str, slop_s: float, queue_size: int):
        try:
            import message_filters
        except ImportError:
            raise ConfigError(f'sync_mode "{mode}" needs message_filters, which is not installed; '
                              'install it or use "nearest"') from None
        self.counts: Counter = Counter()
        self._slop_s = slop_s
        self._make = lambda inputs: (
            message_filters.TimeSynchronizer(inputs, queue_size) if mode == 'exact' else
            message_filters.ApproximateTimeSynchronizer(
                inputs, queue_size=queue_size, slop=self._slop_s))
        self._filters = message_filters
        self._pairs: List[Pair] = []
        self._start()

    def _start(self):
        self._inputs = [self._filters.SimpleFilter(), self._filters.SimpleFilter()]
        self._sync = self._make(self._inputs)
        # Called under the filter's lock: only note the pair.
        self._sync.registerCallback(self._matched)

    def configure(self, slop_s: float, time_offset_s: float) -> None:
        """Apply a new tolerance, which drops waiting messages; the offset is always 0."""
        if slop_s != self._slop_s:
            self._slop_s = slop_s
            self.reset()

    def add_image(self, stamp: int, item: Any) -> List[Pair]:
        """Add an image message; return the pairs now ready."""
        return self._add('image', 0, stamp, item)

    def add_depth(self, stamp: int, item: Any) -> List[Pair]:
        """Add a cloud or depth image message; return the pairs now ready."""
        return self._add('depth', 1, stamp, item)

    def flush(self) -> List[Pair]:
        """Return no pairs: message_filters cannot be flushed."""
        return []

    def reset(self) -> None:
        """Drop all waiting messages after a jump in time."""
        self.counts['resets'] += 1
        self._start()

    def hint(self) -> Optional[str]:
        """Return None: message_filters does not report what it drops."""
        return None

    def _add(self, name, index, stamp, item):
        self.counts[name] += 1
        if stamp <= 0:
            self.counts[f'{name}_unstamped'] += 1
            return []
        self._inputs[index].signalMessage(item)
        pairs, self._pairs = self._pairs, []
        self.counts['pairs'] += len(pairs)
        return pairs

    def _matched(self, image, depth):
        self._pairs.append(Pair(stamp_ns(image.header), image, stamp_ns(depth.header), depth))
