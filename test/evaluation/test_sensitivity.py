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
"""The table of what each constant does: none is forgotten, and it tells the truth."""
from dataclasses import fields
import json

import pytest

from steer_depth_ros.cli import main
from steer_depth_ros.completion.config import CONFIG, Config
from steer_depth_ros.evaluation.sensitivity import varied

SMALL = ['eval', '--dataset', 'procedural', '--sensitivity', '--size', '64x48', '--limit', '1']


def test_the_table_has_every_constant(tmp_path, capsys):
    path = tmp_path / 'figures.json'
    assert main([*SMALL, '--preset', 'fast', '--pattern', 'random:90', '--json', str(path)]) == 0
    table = capsys.readouterr().out.splitlines()
    results = {effect['name']: effect for effect in json.loads(path.read_text())['results']}
    assert list(results) == [constant.name for constant in fields(Config)]
    assert [line.split('`')[1] for line in table if line.startswith('| `')] == list(results)

    def changes(name):
        return {c['figure']: c['log_quotient'] for c in results[name]['changes']}

    assert all(abs(change) > 1e-4 for change in changes('bandwidth').values())
    only_confidence = changes('error_per_residual')
    assert only_confidence.pop('confidence') and not any(only_confidence.values())
    assert not any(changes('neighbors').values())  # of the full size, not of fast
    assert 'neighbors' in table[-1] and 'bandwidth,' not in table[-1]


def test_variation_changes_one_constant_and_every_whole_number():
    assert varied('bandwidth', 0.5) == Config(bandwidth=CONFIG.bandwidth / 2)
    assert varied('neighbors', 1.5).neighbors == round(1.5 * CONFIG.neighbors)
    for constant in fields(Config):
        for factor in (0.5, 1.5):
            assert varied(constant.name, factor) != CONFIG


@pytest.mark.parametrize('arguments, message', [
    (['--preset', 'learned'], 'without weights'), (['--sheet', 'x.png'], 'gives a table only')])
def test_bad_options_are_one_sentence(arguments, message, capsys):
    assert main([*SMALL, *arguments]) == 2
    assert message in capsys.readouterr().err
