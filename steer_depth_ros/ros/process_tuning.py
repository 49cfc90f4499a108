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
"""Process settings of the node: keep freed memory, and let idle threads sleep."""
import ctypes
import os
import platform

import cv2

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
KEPT_BYTES = 512 << 20
FROM_HEAP_BYTES = 32 << 20  # the largest value allowed


def prepare() -> None:
    """
    Set up the process before torch is imported.

    Freed memory stays with the process: returning and fetching it costs thousands of page faults
    per frame. Idle OpenMP threads sleep: spinning, they take the cores from the middleware. OpenCV
    gets one thread, as its pool has no such setting and gains nothing on images of this size.
    """
    cv2.setNumThreads(1)
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    if _glibc():
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, FROM_HEAP_BYTES)
        ctypes.CDLL(None).mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def return_memory() -> None:
    """Return freed memory to the system."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc():
    return platform.libc_ver()[0] == 'glibc'
