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
"""Advice for lost large messages, by middleware."""
import os
import shutil
from typing import Mapping

from steer_depth_ros.ros import distro

MB = 2 ** 20


def against_loss(middleware: str, reliable: bool,
                 environment: Mapping[str, str] = os.environ) -> str:
    """
    Return a clause that says what to change at the publisher or on this machine.

    middleware: name from rclpy. reliable: whether the subscription is reliable.
    """
    reliability = (' or let it keep at least 5 messages (depth), to send again what got lost'
                   if reliable else ' or let it publish reliable, not best effort')
    if middleware.startswith('rmw_fastrtps'):
        return _fast_dds(environment) + reliability
    if middleware.startswith('rmw_cyclonedds'):
        return ('let the system receive more at once: sysctl -w net.core.rmem_max=2147483647, '
                'SocketReceiveBufferSize min="10MB" in the file that CYCLONEDDS_URI names, for '
                'its publisher too' + reliability)
    if middleware.startswith('rmw_zenoh'):
        return ("set ZENOH_CONFIG_OVERRIDE='transport/shared_memory/enabled=true' for its "
                'publisher and this node, and ZENOH_SHM_ALLOC_SIZE to twice the bytes of all '
                'images and clouds' + reliability)
    return f'see how to set up {middleware} for messages of several megabytes' + reliability


def _fast_dds(environment):
    """Return the profile to set, or how to make room for it in /dev/shm."""
    needed = 2 * distro.SEGMENT_BYTES  # one for the publisher, one for this node
    held = any(name in environment for name in distro.PROFILE_VARIABLES)
    total = (shutil.disk_usage(distro.SHARED_MEMORY).total if distro.SHARED_MEMORY.exists()
             else 0)
    free = distro.shared_memory_free() + (distro.SEGMENT_BYTES if held else 0)
    if min(total, free) < needed:
        return (f'{distro.SHARED_MEMORY} has {min(total, free) // MB} MB for large messages, '
                f'which take {needed // MB} MB with fastdds_shm.xml: start the containers with '
                '--shm-size=1g or --ipc=host and then its publisher with that profile,')
    return (f'start its publisher with {distro.profile_variable(environment)}='
            f'{distro.profile_path() or "config/fastdds_shm.xml of steer_depth_ros"}')
