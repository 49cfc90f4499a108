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
"""How much time the operator takes within something larger."""
from contextlib import contextmanager
from threading import local
import time

import torch

_of_thread = local()


@contextmanager
def stopwatch():
    """Give a list of one number: the seconds that the operator takes in the block."""
    outer = getattr(_of_thread, 'seconds', None)
    _of_thread.seconds = seconds = [0.0]
    try:
        yield seconds
    finally:
        _of_thread.seconds = outer


@contextmanager
def time_operator(device):
    """Add the time that the block takes to a stopwatch around it, if there is one."""
    seconds = getattr(_of_thread, 'seconds', None)
    if seconds is None:
        yield
        return
    _finish(device)
    started = time.perf_counter()
    yield
    _finish(device)
    seconds[0] += time.perf_counter() - started


def _finish(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
