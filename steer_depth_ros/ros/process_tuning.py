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
"""What the node asks of the C libraries under it: to keep memory, and not to spin while idle."""
import ctypes
import os
import platform

import cv2

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
KEPT_BYTES = 512 << 20
FROM_HEAP_BYTES = 32 << 20  # the most that it takes


def prepare() -> None:
    """
    Set up the process before torch is imported.

    Freed memory stays with the process: handed back and fetched again, it costs thousands of page
    faults a frame. Idle threads sleep: spinning, they would take the cores from the middleware.
    OpenCV's have no such setting, and take more time than they save on images of this size.
    """
    cv2.setNumThreads(1)
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    if _glibc():
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, FROM_HEAP_BYTES)
        ctypes.CDLL(None).mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def return_memory() -> None:
    """Hand freed memory back to the system."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc():
    return platform.libc_ver()[0] == 'glibc'
