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
"""Other threads: what depends on the samples alone need not wait for the image's analysis."""
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
import os

THREADS = 4  # as many as a frame has jobs that need not wait for each other

# Kept, as each thread that meets OpenMP gets threads of its own, which spin before they sleep.
_pools: list = []
os.register_at_fork(after_in_child=_pools.clear)  # the child has none of the threads


def run_in_background(function, *args) -> Future:
    """Run function(*args) in another thread; `.result()` waits for it."""
    context = copy_context()
    try:
        if not _pools:
            _pools.append(ThreadPoolExecutor(THREADS, 'steer_depth'))
        return _pools[0].submit(context.run, function, *args)
    except RuntimeError:  # the system has no thread left, or the interpreter ends
        return finished(function(*args))


def finished(result) -> Future:
    """Return a Future whose result is there."""
    future: Future = Future()
    future.set_result(result)
    return future
