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
"""Another thread: results and errors come back, also where there is none."""
import os
import threading

import pytest

from steer_depth_ros.completion import background
from steer_depth_ros.completion.background import run_in_background


def test_it_runs_in_another_thread_and_gives_the_result():
    assert run_in_background(threading.get_ident).result() != threading.get_ident()
    assert run_in_background(pow, 2, 10).result() == 1024


def test_what_is_raised_there_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        run_in_background(divmod, 1, 0).result()


def test_without_another_thread_it_runs_in_this_one(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(background, '_pools', [])
    monkeypatch.setattr(threading.Thread, 'start', start)
    assert run_in_background(threading.get_ident).result() == threading.get_ident()


def test_threads_are_kept():
    started = {run_in_background(threading.current_thread).result() for _ in range(20)}
    assert len(started) <= background.THREADS


def test_a_forked_process_has_a_thread_of_its_own():
    run_in_background(len, '').result()
    child = os.fork()
    if child == 0:
        os._exit(run_in_background(len, 'three').result(timeout=30))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
