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
import sys

import dds
import pytest

os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
os.environ.update(dds.ENVIRONMENT)

SECONDS = count(1_700_000_000, 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Show with a failure what the newest nodes wrote, and how they ended."""
    report = yield
    if report.failed:
        from node_rig import Rig
        report.sections += [(f'node {rig.namespace}, exit status {rig.process.poll()}', rig.said())
                            for rig in Rig.started[-3:] if rig.process]
    return report


def pytest_sessionfinish():
    """End the nodes of tests that failed: a node waits for messages for ever."""
    if 'node_rig' in sys.modules:
        for rig in sys.modules['node_rig'].Rig.started:
            if rig.process and rig.process.poll() is None:
                rig.process.kill()


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
