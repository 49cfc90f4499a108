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
"""Under twice the load that it can carry the node keeps its rate and its latency."""
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from faults.overload import measure  # noqa: E402

SECONDS = 4.0
NOISE_MS = 50.0  # of a machine with other work


def test_twice_the_load_drops_frames_and_never_queues(rig):
    found = measure(rig, SECONDS)
    rig.tell()
    assert found['rate_hz'] >= 0.8 * found['capacity_hz'], found
    assert found['age_ms']['p50'] < found['bound_ms'], found
    assert found['age_ms']['p90'] < found['bound_ms'] + NOISE_MS, found
    assert found['age_ms']['max'] < 2 * found['bound_ms'], found
    assert found['dropped_as_busy'] >= 0.3 * found['pairs'], found
    assert rig.recover().frames <= 2
