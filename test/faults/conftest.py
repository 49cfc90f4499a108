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
"""One node for all tests that inject faults."""
import os
import random

import dds
import pytest


@pytest.fixture(scope='package')
def ros():
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
    os.environ.update(dds.ENVIRONMENT)
    import rclpy
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope='package')
def shared_rig(ros):
    from .rig import FaultRig
    rig = FaultRig()
    rig.open()
    yield rig
    status, log = rig.close()
    assert status == 0 and 'Traceback' not in log, log


@pytest.fixture
def rig(shared_rig):
    """Give the node, and check that all it has published belongs to its stamp."""
    shared_rig.forget()
    yield shared_rig
    shared_rig.tell()
    shared_rig.spin(0.05)
    assert not shared_rig.wrong
