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
"""What the node's process asks of the C library, seen in processes of their own."""
import os
from pathlib import Path
import platform
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = """
import resource, sys, threading
import numpy as np
from steer_depth_ros.ros import process_tuning

def work():
    for _ in range(2):  # the first round fetches the memory
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):  # ten images of 500 pages each, as in a frame
            images = [np.ones(500_000, np.float32) for _ in range(10)]
            del images
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if 'prepare' in sys.argv:
    process_tuning.prepare()
thread = threading.Thread(target=work)  # one that stays, as the node's worker
thread.start()
thread.join()
process_tuning.return_memory()
"""
POLICY = """
import os
from steer_depth_ros.ros import process_tuning
process_tuning.prepare()
print(os.environ['OMP_WAIT_POLICY'])
"""
OPENCV = """
import cv2
from steer_depth_ros.ros import process_tuning
process_tuning.prepare()
print(cv2.getNumThreads())
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, '-c', code, *arguments], capture_output=True, text=True, check=True,
        cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT), **environment})
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='memory is kept with glibc only')
def test_freed_memory_is_used_again_without_page_faults():
    assert int(run(FAULTS, 'prepare')) < 10_000  # pages, of 98,000 that are used


def test_idle_threads_sleep_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    assert run(POLICY) == 'PASSIVE'
    assert run(POLICY, OMP_WAIT_POLICY='ACTIVE') == 'ACTIVE'


def test_opencv_has_no_helpers_that_spin():
    assert run(OPENCV) == '1'
