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
"""Every fault alone, then many at random: nothing wrong comes out, and the node goes on."""
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from faults.catalogue import FAULTS  # noqa: E402
from faults.random_steps import one_by_one, random_steps, usable  # noqa: E402

TIMES = 2
STEPS, SEED = 200, 7


@pytest.mark.parametrize('name', [name for name, fault in FAULTS.items() if not fault.rare])
def test_a_fault_is_noticed_and_over_after_two_frames(rig, name):
    if name not in usable(rig, FAULTS, rare=False):
        pytest.skip('transforms need tf2_msgs, or g++ to build it')
    found = one_by_one(rig, FAULTS, name, TIMES, np.random.default_rng(3))
    assert not found['crashes'] and not found['hangs']
    assert found['injected'] == TIMES and found['later'] == 0, found
    noticed = FAULTS[name].noticed
    assert not noticed or found['drops'].keys() & set(noticed), found


def test_random_faults(rig):
    record = random_steps(rig, FAULTS, STEPS, SEED)
    assert not record.crashes and not record.hangs, record.events
    late = {name: entry for name, entry in record.faults.items() if entry['later']}
    assert not late
    assert len(rig.answered) >= STEPS


def test_silent_sensors_are_told_and_their_return_is_seen(rig):
    rig.spin(3.3)
    rig.spin_status()
    assert rig.status['level'] == b'\x02' and 'nothing has arrived' in rig.status['message']
    assert rig.recover().frames <= 2
    rig.spin_status()
    assert 'nothing has arrived' not in rig.status['message']


def test_a_lack_of_memory_is_told_with_its_remedy(rig):
    rig.tell('cuda memory')
    rig.pair()
    rig.spin_status()
    assert 'not enough memory for an image of 96 x 64' in rig.status['message']
    assert 'image_scale' in rig.status['message'] and rig.status['level'] == b'\x01'
    rig.tell()
    assert rig.recover().frames <= 2
