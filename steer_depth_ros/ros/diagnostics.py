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
"""Rates, latencies and drops of the node, and what to do about them, on /diagnostics."""
from collections import Counter, deque
import sys
from threading import Lock
import time
from typing import Any, Deque, Dict, List, Optional, Tuple

import numpy as np

from steer_depth_ros.calibration.monitor import Fit
from steer_depth_ros.ros.synchronizer import LOSS, share_lost

OK, WARN, ERROR = 0, 1, 2
WINDOW_S = 5.0
LOSS_S, LOSS_MESSAGES = 30.0, 64  # the most that loss() looks back: few arrive where most get lost
SILENT_S = 3.0
ENOUGH_PAIRS = 3


class RateMeter:
    """Measures rate and loss of a stream over the last seconds. Thread-safe."""

    def __init__(self):
        self._lock = Lock()
        self._arrivals: Deque[float] = deque(maxlen=1000)
        self._stamps: Deque[Tuple[float, int]] = deque(maxlen=LOSS_MESSAGES)
        self._started = time.monotonic()

    def tick(self, stamp_ns: int) -> None:
        """Count a message with this stamp."""
        now = time.monotonic()
        with self._lock:
            self._arrivals.append(now)
            while self._arrivals[0] < now - WINDOW_S:
                self._arrivals.popleft()
            self._stamps.append((now, stamp_ns))

    def clear(self) -> None:
        """Reset."""
        with self._lock:
            self._arrivals.clear()
            self._stamps.clear()
            self._started = time.monotonic()

    def rate(self) -> float:
        """Return messages per second."""
        recent = [t for t in self._copy(self._arrivals) if t >= time.monotonic() - WINDOW_S]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])

    def silent_for(self) -> float:
        """Return the seconds since the last message, or since the start."""
        with self._lock:
            last = self._arrivals[-1] if self._arrivals else self._started
        return time.monotonic() - last

    def loss(self) -> float:
        """Return the fraction of messages missing according to the stamps; 0 if irregular."""
        since = time.monotonic() - LOSS_S
        stamps = np.array([stamp for t, stamp in self._copy(self._stamps) if t >= since], np.int64)
        back = np.flatnonzero(np.diff(stamps) < 0)  # a recording that starts over
        return share_lost(stamps[back[-1] + 1 if len(back) else 0:].tolist())

    def _copy(self, values):
        with self._lock:
            return list(values)


class Monitor:
    """
    Counters and latencies, updated by the node's threads.

    drops: Counter by cause. out: RateMeter of the output.
    """

    def __init__(self):
        self.drops: Counter = Counter()
        self.out = RateMeter()
        self._problems: Dict[str, Tuple[float, str]] = {}
        self._stages: Dict[str, Deque[float]] = {}
        self._told = 0, 0

    def dropped(self, cause: str, text: str) -> bool:
        """Count a drop; return whether to log it (at most every 5 s per cause)."""
        self.drops[cause] += 1
        now = time.monotonic()
        first = now - self._problems.get(cause, (-np.inf, ''))[0] > WINDOW_S
        if first:
            self._problems[cause] = now, text
        return first

    def completed(self, stamp_ns: int, stages: Dict[str, float]) -> None:
        """Count a published frame with its milliseconds by stage."""
        self.out.tick(stamp_ns)
        for name, milliseconds in stages.items():
            self._stages.setdefault(name, deque(maxlen=200)).append(milliseconds)

    def problems(self) -> List[str]:
        """Return the recent problems."""
        limit = time.monotonic() - 2 * WINDOW_S
        return [text for at, text in list(self._problems.values()) if at > limit]

    def judge_speed(self, pairs: int, busy: int) -> List[Tuple[int, str]]:
        """Return a warning if many pairs since the last call were dropped for a newer one."""
        came, dropped = pairs - self._told[0], busy - self._told[1]
        self._told = pairs, busy
        if came < ENOUGH_PAIRS or dropped <= LOSS * came:
            return []
        return [(WARN, f'the model is slower than the sensors: {dropped} of the last {came} pairs '
                       'were dropped; use a faster preset, a GPU, or a smaller image_scale')]

    def percentiles(self) -> Dict[str, Tuple[float, float]]:
        """Return (p50, p99) in milliseconds by stage."""
        return {name: tuple(np.percentile(list(values), [50, 99]))
                for name, values in list(self._stages.items())}


def judge_inputs(inputs: Any, hint: Optional[str]) -> List[Tuple[int, str]]:
    """
    Return (level, sentence) for each problem of the inputs.

    The hint of the synchronizer is used only if all inputs arrive.
    """
    found = []
    for name, rate in inputs.rates.items():
        topic, silent = inputs.topics[name], rate.silent_for()
        if name == 'camera_info' and inputs.info is not None:
            continue  # it may be latched or slow
        if silent > SILENT_S and not inputs.publishers(name):
            found.append((ERROR, f'nobody publishes {topic}; start the driver or remap {name}'))
        elif silent > SILENT_S and inputs.obstacle(name):
            found.append((ERROR, inputs.obstacle(name)))
        elif silent > SILENT_S:
            remedy = '' if name == 'camera_info' else f'; {inputs.remedy(name)}'
            found.append((ERROR, f'{topic} has a publisher, but nothing has arrived for '
                          f'{silent:.0f} s; check that it sends{remedy}'))
        elif name != 'camera_info' and rate.loss() > LOSS:
            found.append((WARN, f'{100 * rate.loss():.0f} % of {topic} get lost; '
                          f'{inputs.remedy(name)}'))
    return found or ([(WARN, hint)] if hint else [])


def judge_fit(fit: Optional[Fit]) -> List[Tuple[int, str]]:
    """Return a warning if points and image are turned against each other."""
    if fit is None or not fit.significant:
        return []
    return [(WARN, f'points and image do not fit, {fit.describe()}: look at ~/debug/overlay, and '
                   'run `steer_depth calibrate` on a recording for new extrinsics')]


def status_values(inputs: Any, monitor: Monitor, tf_age_s: Optional[float]) -> Dict[str, str]:
    """Return the key-value pairs of the diagnostics, except those of the model."""
    values = {}
    if inputs is not None:
        for name, rate in inputs.rates.items():
            values[f'rate in: {name} (Hz)'] = f'{rate.rate():.1f}'
        values['pairs'] = str(inputs.sync.counts['pairs'])
    values['rate out (Hz)'] = f'{monitor.out.rate():.1f}'
    for stage, (p50, p99) in monitor.percentiles().items():
        values[f'latency: {stage} p50 / p99 (ms)'] = f'{p50:.1f} / {p99:.1f}'
    for cause, count in sorted(drops(inputs, monitor).items()):
        values[f'drops: {cause}'] = str(count)
    if tf_age_s is not None:
        values['age of TF (s)'] = f'{tf_age_s:.2f}'
    memory = gpu_memory_mb()
    if memory is not None:
        values['GPU memory (MB)'] = f'{memory:.0f}'
    return values


def drops(inputs: Any, monitor: Monitor) -> Counter:
    """Return all drops by cause."""
    total = Counter(monitor.drops)
    if inputs is not None:
        total.update({cause: n for cause, n in inputs.sync.counts.items()
                      if n and cause not in ('image', 'depth', 'pairs')})
    return total


def gpu_memory_mb() -> Optional[float]:
    """Return the GPU memory reserved by torch, None without a GPU or torch."""
    torch = sys.modules.get('torch')
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.memory_reserved() / 1e6


class Diagnostics:
    """Publishes one DiagnosticStatus; does nothing without diagnostic_msgs."""

    def __init__(self, node):
        self._node, self._publisher = node, None
        try:
            from diagnostic_msgs.msg import DiagnosticArray
        except ImportError:
            node.get_logger().warning('diagnostic_msgs is not installed: no /diagnostics')
            return
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def publish(self, level: int, summary: str, values: Dict[str, str]) -> None:
        """Publish the state of the node."""
        if self._publisher is None:
            return
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
        status = DiagnosticStatus(
            level=bytes([level]), name=f'{self._node.get_fully_qualified_name()[1:]}: completion',
            message=summary, hardware_id='none',
            values=[KeyValue(key=key, value=value) for key, value in values.items()])
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(msg)
