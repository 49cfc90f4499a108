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
"""`make gpu`: its stages, its report, and what it measures, as far as no GPU is needed."""
import json
import sys
import time

import pytest
import torch

from steer_depth_ros.benchmarks import gpu, on_gpu

CANNED = {'gpu': 'NVIDIA H100 80GB HBM3', 'date': '2026-11-27T12:00:00+00:00', 'stages': [
    {'stage': 'tests', 'ok': False, 'outcome': '3 passed, 1 failed', 'seconds': 12.3,
     'results': []},
    {'stage': 'operator', 'ok': True, 'outcome': 'done', 'seconds': 9.0, 'results': [
        {'machine': {'gpu': 'H100', 'processor': None}, 'copy_gb_s': 2950.4, 'gflop_s': 51234.0},
        {'case': '640x480, 5,000', 'order': 2, 'direction': 'forward', 'events_us': 151.6,
         'graph_us': 81.2, 'copies_us': 200.0, 'launches': 7, 'float32_share': 0.1234,
         'bandwidth_share': 0.05, 'kernels': [
             {'name': 'run<Forward<2, true> >', 'calls': 1, 'us': 60.25},
             {'name': 'fill', 'calls': 1, 'us': 1.0}]},
        {'case': 'b', 'order': 1, 'direction': 'forward', 'events_us': 1.0, 'graph_us': None,
         'copies_us': 2.0, 'launches': None, 'float32_share': None, 'bandwidth_share': 0.1,
         'kernels': []}]},
    {'stage': 'model', 'ok': True, 'outcome': 'done', 'seconds': 5.0, 'results': [
        {'preset': 'learned', 'device': 'cuda', 'size': [1216, 352], 'samples': 20000,
         'median_ms': 12.0, 'of_linear': 0.0712, 'device_ms': 1.5, 'launches': 140},
        {'left_out': '`fast` on cuda', 'why': 'runs on the CPU only'},
        {'left_out': '`fast` on cuda', 'why': 'runs on the CPU only'}]},
    {'stage': 'node', 'ok': True, 'outcome': 'done', 'seconds': 1.0,
     'results': [{'why': 'bench node needs rclpy'}]}]}


def test_without_a_gpu_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert gpu.run(arguments(tmp_path)) == 1
    said = capsys.readouterr()
    assert said.err.count('\n') == 1 and 'No GPU here' in said.err and said.out == ''
    assert not list(tmp_path.iterdir())


def test_a_driver_without_a_gpu_counts_as_none(tmp_path, monkeypatch):
    script(tmp_path / 'nvidia-smi', 'echo "No devices were found"; exit 6')
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    assert gpu.gpu_name() is None


def script(path, text):
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


def arguments(folder):
    from types import SimpleNamespace
    return SimpleNamespace(out=folder)


@pytest.mark.parametrize('name, short', [
    ('NVIDIA H100 80GB HBM3', 'h100_80gb_hbm3'), ('NVIDIA GeForce RTX 4090', 'rtx_4090'),
    ('Tesla T4', 'tesla_t4'), ('NVIDIA', 'unknown')])
def test_short_names(name, short):
    assert gpu.short_name(name) == short


WRITES = """
import json, os, sys, time
with open(os.environ['STEER_DEPTH_RESULTS'], 'w') as file:
    print(json.dumps({'small': 'first'}), file=file)
    file.write('{"half a li')
print('so far')
"""


def test_a_stage_that_fails_or_hangs_costs_its_own_results_only(tmp_path, monkeypatch, capsys):
    def python(text):
        return [sys.executable, '-c', text]

    monkeypatch.setattr(gpu, 'stages', lambda: [
        [('build', python('print("fine")'), 30)],
        [('tests', python('print("FAILED test/a.py::b\\nFAILED c::d - e\\n2 failed, 3 passed");'
                          'exit(1)'), 30),
         ('memcheck', python(WRITES + 'print("=== ERROR SUMMARY: 0 errors")'), 30),
         ('racecheck', ['no-such-tool'], 30)],
        [('operator', python(WRITES + 'time.sleep(100)'), 3)],
        [('node', python('exit("no node")'), 30)]])
    monkeypatch.setattr(gpu, 'gpu_name', lambda: 'NVIDIA X 1')
    began = time.monotonic()
    assert gpu.run(arguments(tmp_path / 'new')) == 1
    assert time.monotonic() - began < 90
    report = json.loads((tmp_path / 'new' / 'gpu_x_1.json').read_text())
    found = {stage['stage']: stage for stage in report['stages']}
    assert {name: stage['ok'] for name, stage in found.items()} == {
        'build': True, 'tests': False, 'memcheck': True, 'racecheck': False, 'operator': False,
        'node': False}
    assert found['tests']['outcome'] == '2 failed, 3 passed; test/a.py::b, c::d'
    assert found['memcheck']['outcome'] == '0 errors'
    assert found['racecheck']['outcome'].startswith('no-such-tool is not installed')
    assert found['operator']['outcome'].startswith('stopped after 3 s')
    assert found['operator']['results'] == [{'small': 'first'}]
    assert 'so far' in found['operator']['log']
    assert found['node']['outcome'] == 'status 1: no node'
    page = (tmp_path / 'new' / 'gpu_x_1.md').read_text()
    assert '| node | status 1: no node |' in page and page in capsys.readouterr().out


def test_no_stage_starts_anew_when_the_time_is_over(tmp_path):
    found, = gpu.run_together([('node', [sys.executable, '-c', 'import time; time.sleep(9)'], 30)],
                              time.monotonic())
    assert not found['ok'] and found['outcome'].startswith('stopped after 0 s')


def test_the_page_has_every_figure():
    page = gpu.markdown(CANNED)
    for line in ('# NVIDIA H100 80GB HBM3', 'gpu H100',
                 'Measured: copies 2,950 GB/s (read and written), float32 matrix products '
                 '51.2 TFLOP/s.', '| tests | 3 passed, 1 failed | 12 |',
                 '| 640x480, 5,000 | 2 | forward | 152 | 81 | 200 | 7 | 12.3% | 5.0% |',
                 '| b | 1 | forward | 1 | - | 2 | - | - | 10.0% |',
                 '| 640x480, 5,000, order 2, forward | `run<Forward<2, true> >` | 1 | 60.2 |',
                 '| learned | cuda | 1216 x 352 | 20,000 | 12.00 | 0.071 | 1.50 | 140 |',
                 '- `fast` on cuda: runs on the CPU only', 'bench node needs rclpy'):
        assert line in page.splitlines(), line
    assert page.count('runs on the CPU only') == 1


def test_a_report_without_results_is_still_a_page():
    stages = [{**stage, 'results': []} for stage in CANNED['stages']]
    assert '| node | done | 1 |' in gpu.markdown({**CANNED, 'stages': stages})


def test_every_stage_has_a_time_limit_within_the_whole():
    groups = gpu.stages()
    assert [stage[0] for group in groups for stage in group] == [
        'build', 'tests', 'memcheck', 'racecheck', 'operator', 'model', 'node']
    assert all(0 < seconds < gpu.SECONDS <= 240 for group in groups for _, _, seconds in group)


def test_small_cases_run_everything_that_the_sanitizer_shall_see(tmp_path, monkeypatch):
    monkeypatch.setenv('STEER_DEPTH_RESULTS', str(tmp_path / 'results'))
    on_gpu.small('cpu')
    lines = gpu.read_lines(tmp_path / 'results')
    assert len(lines) == 2 * len(on_gpu.SMALL_MODES) + 4
    assert all(line['total'] == line['total'] for line in lines)


def test_shares_are_those_of_the_fastest_time(monkeypatch):
    found = []
    monkeypatch.setattr(on_gpu, 'report', lambda **result: found.append(result))
    monkeypatch.setattr(on_gpu, 'event_us', lambda call: (call(), 80.)[1])
    monkeypatch.setattr(on_gpu, 'as_graph', lambda call: (40., 9, []))
    monkeypatch.setattr(torch.Tensor, 'cuda', lambda self: self.clone())
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: self)
    size, count = (48, 64), 60
    options = dict(order=1, window=on_gpu.op.WINDOW)
    for backward in (False, True):
        on_gpu.measure('a case', size, on_gpu.op.scene(size, count), options, backward, 100., 50.)
    forward, both = found
    inputs, plane = 4 * count * (2 + 1 + 3) + 4, 4 * 48 * 64
    assert forward['least_bytes'] == inputs + 2 * plane
    assert forward['bandwidth_share'] == pytest.approx(forward['least_bytes'] / 40e-6 / 100e9)
    flop = 32 * forward['pairs'] + 30 * 48 * 64
    assert forward['float32_share'] == pytest.approx(flop / 40e-6 / 50e9)
    assert both['direction'] == 'forward and backward' and both['gflop'] > forward['gflop']
    assert both['launches'] == 9 and both['copies_us'] == 80.


def test_a_preset_is_measured_from_numpy_to_numpy(monkeypatch):
    import numpy as np

    from steer_depth_ros.completion.completer import DepthCompleter
    found = []
    monkeypatch.setattr(on_gpu, 'report', lambda **result: found.append(result))
    rng = np.random.default_rng(0)
    uv = (rng.random((200, 2)) * [79, 59]).astype(np.float32)
    frame = (rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), uv, uv[:, 0] / 20 + 3)
    on_gpu.measure_model(DepthCompleter('fast', 'cpu'), frame, 1e3)
    result, = found
    assert result['preset'] == 'fast' and result['size'] == [80, 60]
    assert 0 < result['of_linear'] == pytest.approx(result['median_ms'] / 1e3)
    assert result['max_ms'] >= result['median_ms']


def test_names_of_kernels_are_short():
    name = 'void steer::device::run<steer::device::Forward<2, true> >(steer::device::Forward<2>)'
    assert on_gpu.readable(name) == 'run<Forward<2, true> >'


def test_the_cases_are_those_of_the_operator_benchmark():
    assert list(on_gpu.CASES) == ['304x228, 500', '640x480, 5,000', '1216x352, 20,000']
