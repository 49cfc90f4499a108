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
"""All differences between Humble, Jazzy and Lyrical."""
import os
from pathlib import Path
import shutil
import sysconfig
from typing import Dict, Mapping, Optional

PACKAGE = 'steer_depth_ros'
FOXGLOVE = 'depth_completion.foxglove.json'
SEGMENT_BYTES = 134217728  # of config/fastdds_shm.xml, per process
SHARED_MEMORY = Path('/dev/shm')
# Fast DDS 2 (Humble, Jazzy) reads the first, Fast DDS 3 (Lyrical) the second.
PROFILE_VARIABLES = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'


def config_file(name: str) -> Optional[Path]:
    """Return the path of a file of config/, in the source tree or installed; None if missing."""
    places = [Path(__file__).parents[2], Path(sysconfig.get_path('data')) / 'share' / PACKAGE]
    places += [Path(p) / 'share' / PACKAGE
               for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    found = (p / 'config' / name for p in places)
    return next((p.resolve() for p in found if p.exists()), None)


def profile_path() -> Optional[Path]:
    """Return the Fast DDS profile that passes large messages through shared memory."""
    return config_file('fastdds_shm.xml')


def profile_variable(environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable from which Fast DDS of this distribution reads its profile."""
    return PROFILE_VARIABLES[environment.get('ROS_DISTRO', 'jazzy') not in ('humble', 'jazzy')]


def shared_memory_free() -> int:
    """Return the free bytes in /dev/shm, 0 if it does not exist."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0


def profile_environment(profile, environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables that make Fast DDS read a profile; none if one is set already."""
    if any(name in environment for name in PROFILE_VARIABLES):
        return {}
    return {name: str(profile) for name in PROFILE_VARIABLES}


def local_discovery(environment: Mapping[str, str] = os.environ) -> Dict[str, str]:
    """
    Return the variables that keep discovery on this machine.

    None where the middleware's own configuration is to decide (SYSTEM_DEFAULT).
    """
    if environment.get('ROS_AUTOMATIC_DISCOVERY_RANGE') == 'SYSTEM_DEFAULT':
        return {}
    if environment.get('ROS_DISTRO') == 'humble':
        return {'ROS_LOCALHOST_ONLY': '1'}
    return {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}


def no_default_events():
    """
    Return subscription event callbacks that do not log incompatible QoS.

    The inputs check that themselves and name the remedy.
    """
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(use_default_callbacks=False)


def refuse_impossible_transitions(node) -> None:
    """
    Answer requests for a transition that is not possible now with a failure.

    In Humble and Jazzy they raise an error in the executor, which would end the node.
    """
    service = getattr(node, '_service_change_state', None)
    if service is None:
        return
    change = service.callback

    def change_if_possible(request, response):
        try:
            return change(request, response)
        except RuntimeError:  # rclpy's RCLError is one
            wanted = request.transition.label or request.transition.id
            node.get_logger().warning(f'refused the transition {wanted}: it does not exist in the '
                                      'current state; `ros2 lifecycle list` shows those that do')
            response.success = False
            return response

    service.callback = change_if_possible
