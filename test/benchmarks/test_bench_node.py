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
"""The benchmark of the node reports the median per stage and fails above its goal."""
import argparse
import json

import dds
import pytest

from steer_depth_ros.benchmarks import node


def test_every_stage_of_the_node_is_measured(monkeypatch):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    for name, value in dds.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    stages = node.measure(2)
    assert set(stages) == {'receive', 'match', 'convert in', 'project', 'publish depth',
                           'make and publish cloud'}
    assert all(milliseconds > 0 for milliseconds in stages.values())


@pytest.mark.parametrize('publish_ms, status', [(14.9, 0), (15.1, 1)])
def test_above_the_goal_the_benchmark_fails(publish_ms, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(node, 'measure', lambda frames: {'receive': 10.0, 'publish': publish_ms})
    monkeypatch.setattr(node.model, 'linear_of_a_lidar_frame', lambda: 100.0)
    file = tmp_path / 'figures.json'
    assert node.run(argparse.Namespace(frames=2, json=file)) == status
    figures = json.loads(file.read_text())
    assert figures['total_ms'] == pytest.approx(10 + publish_ms)
    assert figures['of_linear'] == pytest.approx((10 + publish_ms) / 100)
    assert f'{10 + publish_ms:.2f} ms' in capsys.readouterr().out
