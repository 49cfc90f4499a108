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
"""How long the stages of something larger take."""
from contextlib import contextmanager
from threading import local
import time

import torch

_of_thread = local()


@contextmanager
def measured_stages():
    """
    Yield a dictionary that the block fills: seconds by stage, without overlap.

    The time of a stage within another one counts for the inner one alone. Only what runs in this
    thread is measured.
    """
    outer = getattr(_of_thread, 'clock', None)
    seconds: dict = {}
    _of_thread.clock = seconds, [0.0]
    try:
        yield seconds
    finally:
        _of_thread.clock = outer


@contextmanager
def waiting_for_device():
    """Let stages in the block end when the GPU is done: they take what they cost, and slow it."""
    before, _of_thread.waits = getattr(_of_thread, 'waits', False), True
    try:
        yield
    finally:
        _of_thread.waits = before


@contextmanager
def stage(name, device=None):
    """
    Measure the block, or the decorated function, as a stage where somebody asks for it.

    device: where the block works. On a GPU the stage is what it takes to give the orders, unless
    `waiting_for_device`.
    """
    clock = getattr(_of_thread, 'clock', None)
    if clock is None:
        yield
        return
    seconds, inner = clock
    _finish(device)
    started = time.perf_counter()
    inner.append(0.0)
    try:
        yield
    finally:
        _finish(device)
        took = time.perf_counter() - started
        seconds[name] = seconds.get(name, 0.0) + took - inner.pop()
        inner[-1] += took


def _finish(device):
    if device is not None and device.type == 'cuda' and getattr(_of_thread, 'waits', False):
        torch.cuda.synchronize(device)
