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
"""The table of parameters, and that the parameter files agree with it."""
from pathlib import Path

import pytest
import yaml

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.ros.parameters import check, check_together, PARAMETERS

CONFIG = Path(__file__).parents[2] / 'config'
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}


def flat(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def parameters_of(path):
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ['/**']
    return dict(flat(tree['/**']['ros__parameters']))


def test_defaults_pass_their_own_checks():
    for name, value in DEFAULTS.items():
        assert check(name, value) == value
    check_together(DEFAULTS)


@pytest.mark.parametrize('name, value, expected', [
    ('slop_s', 1, 1.0), ('extrinsics.xyz', [1, 2, 3], [1.0, 2.0, 3.0]), ('cloud_stride', 4, 4)])
def test_integers_stand_for_floats(name, value, expected):
    found = check(name, value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize('name, value', [
    ('slop_s', -0.1), ('slop_s', True), ('slop_s', 'x'), ('slop_s', float('nan')),
    ('cloud_stride', 0), ('cloud_stride', 1.5), ('cloud_organized', 1), ('preset', 3),
    ('depth_encoding', 'mono8'), ('extrinsics.xyz', [1.0]), ('extrinsics.xyz', 'here'),
    ('extrinsics.rpy', [0.0, 0.0, float('inf')])])
def test_wrong_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f'{name} must be'):
        check(name, value)


@pytest.mark.parametrize('change', [
    {'min_depth_m': 5.0, 'max_depth_m': 4.0}, {'cloud_organized': True, 'cloud_voxel_m': 0.1},
    {'cloud_voxel_m': 1e-30},
    {'sync_mode': 'exact', 'time_offset_s': 0.1}, {'compensate_point_times': True},
    {'extrinsics.rpy': [0.1, 0.0, 0.0], 'extrinsics.quaternion': [1.0, 0.0, 0.0, 0.0]}])
def test_contradictions_are_refused(change):
    with pytest.raises(ConfigError):
        check_together({**DEFAULTS, **change})


def test_the_documented_file_lists_every_parameter_with_its_default():
    assert parameters_of(CONFIG / 'depth_completion.yaml') == DEFAULTS


def test_the_documented_file_marks_what_is_dynamic_and_comments_every_line():
    for line in (CONFIG / 'depth_completion.yaml').read_text().splitlines():
        name, _, rest = line.strip().partition(':')
        if not rest.strip() or name.startswith('#'):
            continue
        assert ' # ' in rest, line
        name = name if name in PARAMETERS else f'extrinsics.{name}'
        assert ('[DYNAMIC]' in rest) == PARAMETERS[name].dynamic, line


@pytest.mark.parametrize('sensor', ['realsense', 'velodyne_camera', 'livox_camera', 'kitti'])
def test_sensor_files_hold_known_parameters(sensor):
    values = {name: check(name, value)
              for name, value in parameters_of(CONFIG / f'{sensor}.yaml').items()}
    check_together({**DEFAULTS, **values})


def test_every_parameter_is_documented():
    text = (CONFIG.parent / 'docs' / 'node.md').read_text()
    assert [name for name in PARAMETERS if f'`{name}`' not in text] == []
