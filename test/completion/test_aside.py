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
"""The second thread: results and errors come back, also in a forked process."""
import os
import threading

import pytest

from steer_depth_ros.completion.aside import aside


def test_it_runs_in_another_thread_and_gives_the_result():
    assert aside(threading.get_ident).result() != threading.get_ident()
    assert aside(pow, 2, 10).result() == 1024


def test_what_is_raised_there_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 1, 0).result()


def test_a_forked_process_has_a_thread_of_its_own():
    aside(len, '').result()
    child = os.fork()
    if child == 0:
        os._exit(aside(len, 'three').result(timeout=30))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
