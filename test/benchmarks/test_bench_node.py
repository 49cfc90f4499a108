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
"""The benchmark of the node runs and writes what it prints."""
import argparse
import json

import pytest

from steer_depth_ros.benchmarks import node


def test_stages_add_up(tmp_path, monkeypatch, capsys):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    parser = argparse.ArgumentParser()
    node.add_arguments(parser)
    status = node.run(parser.parse_args(['--frames', '2', '--json', str(tmp_path / 'f.json')]))
    figures = json.loads((tmp_path / 'f.json').read_text())
    assert set(figures['stages_ms']) == {'receive', 'match', 'convert in', 'project',
                                         'publish depth', 'make and publish cloud'}
    assert figures['total_ms'] == pytest.approx(sum(figures['stages_ms'].values()))
    assert status == (figures['total_ms'] > figures['goal_ms'])
    assert 'total' in capsys.readouterr().out
