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
"""The end of a process with a ROS node."""
import signal

import rclpy
from rclpy.signals import uninstall_signal_handlers


def shut_down(node=None) -> None:
    """
    Destroy a node, if there is one, and shut down ROS; interrupts are ignored from here on.

    rclpy answers a signal in a thread of its own, which uses the guard conditions of the executor.
    It is joined first: on busy cores it may be late, and find them freed (a segmentation fault).
    """
    uninstall_signal_handlers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if node is not None:
        node.destroy_node()
        machine = getattr(node, '_state_machine', None)  # of a lifecycle node, keeps the rcl node
        if machine is not None:
            machine.destroy_when_not_in_use()
    rclpy.try_shutdown()
