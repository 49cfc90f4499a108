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
"""A second thread: what depends on the samples alone need not wait for the image's analysis."""
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread


def run_in_background(function, *args) -> Future:
    """Run function(*args) in a thread of its own; `.result()` waits for it."""
    future: Future = Future()
    context = copy_context()

    def run():
        try:
            future.set_result(context.run(function, *args))
        except BaseException as error:  # whoever waits for the result gets it
            future.set_exception(error)

    try:
        Thread(target=run).start()
    except RuntimeError:  # the system has no thread left
        run()
    return future


def finished(result) -> Future:
    """Return a Future whose result is there."""
    future: Future = Future()
    future.set_result(result)
    return future
