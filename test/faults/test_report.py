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
"""The documented figures are those of the recorded run."""
import json
from pathlib import Path

import pytest

from faults.report import table, totals

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def recorded():
    return json.loads((DOCS / 'reliability' / 'faults.json').read_text())


def test_the_tables_are_those_of_the_recorded_run(recorded):
    text = (DOCS / 'reliability.md').read_text()
    assert table(recorded) in text and totals(recorded) in ' '.join(text.split())


def test_the_recorded_run_has_no_crash_no_hang_and_nothing_wrong(recorded):
    for part in (recorded['random'], *recorded['each'].values()):
        assert not any(part[key] for key in ('wrong', 'crashes', 'hangs'))
    assert recorded['exit_status'] == recorded['tracebacks'] == 0
