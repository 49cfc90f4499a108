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
"""`steer_depth bench op` runs through and reports what it promises."""
import json

import pytest
import torch

from steer_depth_ros.benchmarks import op
from steer_depth_ros.cli import main


def test_quick_report(tmp_path, capsys):
    file = tmp_path / 'new' / 'op.json'
    assert main(['bench', 'op', '--quick', '--json', str(file)]) == 0
    report = json.loads(file.read_text())
    assert report['machine']['cores'] >= 1 and report['machine']['date']
    cpu = report['backends']['cpu']
    assert [row['order'] for row in cpu['window']] == [0, 1, 2]
    for row in cpu['window']:
        assert row['forward_ms'] > 0 and row['backward_ms'] > 0 and row['twin_forward_ms'] > 0
        assert 0 < row['share_of_peak'] < 1
    assert [row['sectors'] for row in cpu['neighbours']] == [1, 4, 8]
    assert 'to the power of' in capsys.readouterr().out


def test_pairs_are_those_within_the_window():
    size = (50, 60)
    uv = op.scene(size, 40)['uv'][0]
    y, x = torch.meshgrid(torch.arange(50), torch.arange(60), indexing='ij')
    near = (((uv[:, 1, None, None] - y).abs() <= op.WINDOW[0])
            & ((uv[:, 0, None, None] - x).abs() <= op.WINDOW[1]))
    assert op.count_pairs(uv, size) == near.sum()


def test_unknown_subject_is_a_usage_error():
    with pytest.raises(SystemExit, match='2'):
        main(['bench', 'weather'])
