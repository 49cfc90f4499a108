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
"""What the tests over DDS share: a domain of their own, rclpy, stamps, and one node a module."""
from itertools import count
import os
import random

import pytest

os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

SECONDS = count(1_700_000_000, 10)


@pytest.fixture(scope='module')
def context():
    """Start rclpy in this process."""
    import rclpy
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def stamps():
    """Give stamps 0.1 s apart, far from those of other tests, so that none looks like a jump."""
    start = next(SECONDS) * 10**9
    return [start + i * 10**8 for i in range(90)]


@pytest.fixture
def rig(shared_rig):
    """Give the node that a module shares, with nothing received and nobody who listens."""
    shared_rig.received.clear()
    yield shared_rig
    shared_rig.deafen()
