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
"""Entry points: where a package is missing, a sentence that says how to get it."""
from importlib.machinery import ModuleSpec

import pytest

from steer_depth_ros import cli, entry_points


def without(*names):
    return lambda name: None if name in names else ModuleSpec(name, None)


@pytest.mark.parametrize('start, missing', [
    (entry_points.steer_depth, 'cv2'), (entry_points.completion_node, 'rclpy')])
def test_missing_packages_are_named_with_the_way_to_get_them(start, missing, monkeypatch, capsys):
    monkeypatch.setattr(entry_points, 'find_spec', without(missing, 'torch'))
    assert start() == 2
    said = capsys.readouterr().err
    assert 'torch' in said and f'{missing}: {entry_points.HOW[missing]}' in said
    assert 'scipy' not in said


def test_the_program_runs_where_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(entry_points, 'find_spec', without('rclpy'))  # not needed for this one
    monkeypatch.setattr(cli, 'main', lambda: 7)
    assert entry_points.steer_depth() == 7


def test_the_doctor_runs_where_anything_is_missing(monkeypatch):
    monkeypatch.setattr(entry_points, 'find_spec', lambda name: None)
    monkeypatch.setattr(cli, 'main', lambda: 7)
    monkeypatch.setattr('sys.argv', ['steer_depth', 'doctor'])
    assert entry_points.steer_depth() == 7
