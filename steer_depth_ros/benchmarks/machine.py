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
"""Description of the machine, and timing of functions on it."""
from datetime import datetime, timezone
import os
from pathlib import Path
import platform
import statistics
import time

import torch


def describe() -> dict:
    """Return processor, GPU, threads, load, versions and the date, for a report."""
    info = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in
             (info.read_text().splitlines() if info.exists() else ())
             if line.startswith('model name')]
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'processor': names[0] if names else platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load': round(os.getloadavg()[0], 2),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def median_ms(call, device: str = 'cpu', runs: int = 7, seconds: float = 3.0) -> float:
    """
    Return the median milliseconds of `call()` over 3 to `runs` calls within `seconds`.

    A first call is for warm-up; if it takes longer than `seconds`, its time is returned.
    """
    started = time.perf_counter()
    first = once_ms(call, device)
    if first > seconds * 1e3:
        return first
    times: list[float] = []
    while len(times) < runs and (len(times) < 3 or time.perf_counter() - started < seconds):
        times.append(once_ms(call, device))
    return statistics.median(times)


def once_ms(call, device: str = 'cpu') -> float:
    """Return the milliseconds of one call."""
    if device == 'cpu':
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak_gflops(device: str, size: int = 2048) -> float:
    """Return the best rate of a float32 matrix product, in GFLOP/s."""
    a, b = torch.rand(2, size, size, device=device)
    best = min(once_ms(lambda: a @ b, device) for _ in range(30))
    return 2 * size ** 3 / best / 1e6
