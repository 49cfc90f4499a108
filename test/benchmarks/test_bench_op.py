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
"""`steer_depth bench op` counts pairs correctly and marks extrapolated figures."""
import json

import pytest
import torch

from steer_depth_ros.benchmarks import op
from steer_depth_ros.cli import main


def test_quick_report(tmp_path, capsys):
    file = tmp_path / 'new' / 'op.json'
    assert main(['bench', 'op', '--quick', '--twin-seconds', '20', '--json', str(file)]) == 0
    report = json.loads(file.read_text())
    assert report['machine']['cores'] >= 1 and report['machine']['date']
    cpu = report['backends']['cpu']
    assert [row['order'] for row in cpu['window']] == [0, 1, 2]
    (size, count), = op.QUICK.values()
    pairs = op.count_pairs(op.scene(size, count)['uv'][0], size)
    for row in cpu['window']:
        assert row['pairs'] == pairs
        assert 0 < row['forward_share_of_peak'] < 1 and 0 < row['backward_share_of_peak'] < 1
    assert [row['sectors'] for row in cpu['neighbours']] == [1, 4, 8]
    assert 'to the power of' in capsys.readouterr().out


def test_figures_are_those_of_the_measured_times(monkeypatch):
    size, count = (64, 96), 50
    monkeypatch.setattr(op, 'both_directions', lambda *_: (2., 4.))
    monkeypatch.setattr(op, 'torch_directions', lambda *_: (30., 80., 1.))
    monkeypatch.setattr(op, 'best_tile', lambda data, size: 32)
    row = op.window_case('a case', size, count, 100., 'cpu', 0)[1]
    flop = 32 * row['pairs'] + 30 * 64 * 96  # order 1
    assert row['forward_share_of_peak'] == pytest.approx(flop / 2e-3 / 100e9)
    assert (row['forward_ratio'], row['backward_ratio']) == (15, 20)
    assert not row['twin_extrapolated']


def test_pairs_are_those_within_the_window():
    size = (50, 60)
    uv = op.scene(size, 40)['uv'][0]
    y, x = torch.meshgrid(torch.arange(50), torch.arange(60), indexing='ij')
    near = (((uv[:, 1, None, None] - y).abs() <= op.WINDOW[0])
            & ((uv[:, 0, None, None] - x).abs() <= op.WINDOW[1]))
    assert op.count_pairs(uv, size) == near.sum()


def test_tiles_of_plain_torch_hold_all_pairs():
    size, tile = (40, 70), 16
    data = op.scene(size, 30)
    corners = [(top, left) for top in range(0, 40, tile) for left in range(0, 70, tile)]
    pairs = [op.torch_tile(data, size, 1, tile, corner)[2] for corner in corners]
    assert sum(pairs) == op.count_pairs(data['uv'][0], size)


def test_plain_torch_out_of_time_is_extrapolated_and_marked(monkeypatch, capsys):
    size = (64, 96)
    monkeypatch.setattr(op, 'torch_tile', lambda data, size, order, tile, corner: (2., 3., 1_000))
    monkeypatch.setattr(op, 'best_tile', lambda data, size: 32)
    pairs = op.count_pairs(op.scene(size, 50)['uv'][0], size)
    row = op.window_case('a case', size, 50, 100., 'cpu', torch_seconds=0)[0]
    assert row['twin_extrapolated'] and row['twin_measured'] == 1_000 / pairs
    assert row['twin_forward_ms'] == pytest.approx(2 * pairs / 1_000)
    assert row['twin_backward_ms'] == pytest.approx(3 * pairs / 1_000)
    assert '~' in capsys.readouterr().out


def test_unknown_subject_is_a_usage_error():
    with pytest.raises(SystemExit, match='2'):
        main(['bench', 'weather'])
