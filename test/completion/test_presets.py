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
"""`steer_depth presets` and `steer_depth bench model`."""
import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file
import torch

from steer_depth_ros.benchmarks import model as bench
from steer_depth_ros.cli import main
from steer_depth_ros.completion import presets
from steer_depth_ros.completion.presets import Preset, PRESETS, stored_parameters

FIGURES = {'own': {'score': 0.7, 'mae_vs_linear': {'lidar': 0.9, 'random500': 0.6},
                   'of_linear': {'640x480': 0.25}, 'ms': {'640x480': 42.0},
                   'machine': '2 cores', 'command': 'score.py'}}


def test_lists_every_preset(tmp_path, capsys):
    path = tmp_path / 'presets.json'
    assert main(['presets', '--json', str(path)]) == 0
    shown = capsys.readouterr().out
    listed = json.loads(path.read_text())
    assert [entry['name'] for entry in listed] == list(PRESETS)
    for entry in listed:
        assert f'{entry["name"]}: {entry["summary"]}' in shown and entry['needs'] in shown
        if entry['weights']:
            assert entry['parameters'] > 1000 and entry['bytes'] > 4 * entry['parameters']


def test_shows_size_and_measured_figures(tmp_path, monkeypatch, capsys):
    state = {'a.weight': torch.zeros(3, 4), 'a.bias': torch.zeros(3),
             'b.running_mean': torch.zeros(9), 'b.num_batches_tracked': torch.tensor(5)}
    save_file(state, str(tmp_path / 'own.safetensors'), metadata={'format': 'x'})
    (tmp_path / 'presets.json').write_text(json.dumps(FIGURES))
    monkeypatch.setattr(presets, 'WEIGHTS', tmp_path)
    monkeypatch.setitem(PRESETS, 'own', Preset('own', 'learned', 'mine', 'own.safetensors'))
    monkeypatch.setitem(PRESETS, 'gone', Preset('gone', 'learned', 'lost', 'gone.safetensors'))
    assert stored_parameters(tmp_path / 'own.safetensors') == 15
    assert main(['presets']) == 0
    shown = capsys.readouterr().out
    for text in ('15 parameters', 'score     0.700', 'lidar 0.90, random500 0.60',
                 'in the same run: 0.25 at 640x480', '42 ms at 640x480; 2 cores', 'score.py',
                 'gone.safetensors (missing)'):
        assert text in shown


def test_stored_figures_belong_to_presets():
    assert set(presets.measured_figures()) <= set(PRESETS)


def test_needs_no_torch():
    code = ("import sys; sys.modules['torch'] = None\n"
            "from steer_depth_ros.cli import main; sys.exit(main(['presets']))")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def test_bench_measures_stages_and_memory(tmp_path, capsys):
    path = tmp_path / 'figures.json'
    assert main(['bench', 'model', '--preset', 'steering', '--preset', 'reference', '--size',
                 '80x64', '--samples', '200', '--frames', '2', '--device', 'cpu', '--json',
                 str(path)]) == 0
    report = json.loads(path.read_text())
    assert report['machine']['date'] and report['machine']['processor']
    steering, reference = report['results']
    assert steering['preset'] == 'steering' and steering['samples'] == 200
    for result in (steering, reference):
        assert 0 < result['median_ms'] <= result['p90_ms'] and result['peak_mb'] > 50
        assert result['of_linear'] == result['median_ms'] / result['linear_ms']
        assert 0 < result['operator_share'] < 1 and min(result['stages_ms'].values()) >= 0
    assert reference['stages_ms']['network'] > reference['stages_ms']['operator']
    assert {*bench.STAGES, 'rest'} - {'network'} <= set(steering['stages_ms'])
    assert 'reference        80x64' in capsys.readouterr().out


def test_bench_counts_what_a_gpu_would_launch(tmp_path, capsys):
    path = tmp_path / 'launches.json'
    assert main(['bench', 'model', '--launches', '--preset', 'fast', '--preset', 'reference',
                 '--size', '80x64', '--samples', '200', '--json', str(path)]) == 0
    fast, = json.loads(path.read_text())['results']  # the other has a network
    counted = fast['by_operation']
    # The coarse estimate, at half of the size and at the whole, and the confidence: of two each.
    assert counted['kernel_regression'] == 8 and counted['surface_step'] == 2
    assert fast['launches'] == sum(counted.values())
    assert 'view' not in counted and 'item' not in counted
    assert f'{fast["launches"]} launches' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, message', [
    (['--preset', 'none'], "unknown preset 'none'"),
    (['--frames', '0'], '--frames'),
    (['--weights', 'w'], 'name it with --preset'),
    (['--size', '10'], 'size 10:'),
    (['--preset', 'default', '--size', '80x64', '--weights', 'nowhere'], 'nowhere')])
def test_bench_errors_are_one_sentence(arguments, message, capsys):
    assert main(['bench', 'model', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error
