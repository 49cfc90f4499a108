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
"""A worker thread that always processes the latest job."""
from threading import Condition, Thread
from typing import Any, Callable, Optional


class Worker:
    """
    Runs `process(job)` in one thread; a newer job replaces a waiting one.

    on_error: called with exceptions of `process`; the thread continues.
    replaced: number of jobs dropped for a newer one.
    """

    def __init__(self, process: Callable[[Any], None], on_error: Callable[[Exception], None]):
        self.replaced = 0
        self._process, self._on_error = process, on_error
        self._slot: Optional[Any] = None
        self._stopping = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name='completion', daemon=True)
        self._thread.start()

    def submit(self, job: Any) -> None:
        """Submit a job; return at once."""
        with self._changed:
            self.replaced += self._slot is not None
            self._slot = job
            self._changed.notify()

    def discard(self) -> None:
        """Drop the waiting job, if any."""
        with self._changed:
            self._slot = None

    def waiting(self) -> bool:
        """Return whether a job is waiting."""
        return self._slot is not None

    def stopping(self) -> bool:
        """Return whether the worker is stopping, so that waits should end."""
        return self._stopping

    def stop(self) -> None:
        """Finish the current job, drop the waiting one, and join the thread."""
        with self._changed:
            self._stopping = True
            self._slot = None
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._slot is not None)
                if self._stopping:
                    return
                job, self._slot = self._slot, None
            try:
                self._process(job)
            except Exception as error:  # one bad frame must not stop the node
                self._on_error(error)
