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
"""A second thread: what positions of samples tell does not wait for what the image tells."""
from concurrent.futures import Future, ThreadPoolExecutor
import os

_threads = ThreadPoolExecutor(1, 'steer_depth aside')


def aside(function, *args) -> Future:
    """Run function(*args) in the second thread, one after the other; `.result()` waits for it."""
    return _threads.submit(function, *args)


def _begin_anew():
    """Start another thread in a forked process, which inherits none."""
    global _threads
    _threads = ThreadPoolExecutor(1, 'steer_depth aside')


os.register_at_fork(after_in_child=_begin_anew)
