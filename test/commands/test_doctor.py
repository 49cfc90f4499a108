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
"""`steer_depth doctor`: each finding is true, and each remedy fits."""
import json
import sys
import types

import pytest

from steer_depth_ros.cli import main
from steer_depth_ros.commands import doctor
from steer_depth_ros.errors import NativeLibraryError
from steer_depth_ros.ros import distro


def test_says_what_runs_here(tmp_path, capsys):
    assert main(['doctor', '--json', str(tmp_path / 'd.json')]) == 0
    screen = capsys.readouterr().out
    findings = {f['name']: f for f in json.loads((tmp_path / 'd.json').read_text())}
    assert findings['torch']['state'] == 'ok' and 'ready to run' in screen
    for name, finding in findings.items():
        assert name in screen and (finding['remedy'] is None or finding['remedy'] in screen)
    assert 'default is fast' in findings['presets']['text']


def test_a_missing_module_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'rosbags', None)  # as if it were not installed
    assert main(['doctor']) == 1
    screen = capsys.readouterr().out
    assert '-> pip install rosbags' in screen and 'cannot run: rosbags' in screen


def test_a_missing_optional_package_does_not_stop_the_rest(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    found = doctor.module(*doctor.OPTIONAL_ROS_MODULES[0], needed=False)
    assert found.state == doctor.ABSENT and found.remedy == 'apt install ros-humble-cv-bridge'


def test_a_module_that_raises_when_imported_is_missing(monkeypatch, tmp_path):
    (tmp_path / 'built_for_another_numpy.py').write_text("raise RuntimeError('numpy.core')")
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor.module('built_for_another_numpy', 'x', 'y')
    assert found.state == doctor.MISSING and 'numpy.core' in found.text


def test_a_stale_library_is_named_with_the_command_that_rebuilds_it(monkeypatch):
    from steer_depth_ros import ops

    def stale(device):
        raise NativeLibraryError('x.so does not belong to this version; rebuild: pip install -e .')

    monkeypatch.setattr(ops, 'describe_backend', stale)
    found = next(f for f in doctor.model() if f.name == 'operator library')
    assert found.state == doctor.MISSING and found.remedy == 'rebuild: pip install -e .'


def test_a_second_opencv_beside_cv_bridge_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', types.ModuleType('cv_bridge'))
    monkeypatch.setattr(doctor, '_installed', lambda name: name == 'opencv-python-headless')
    assert 'pip uninstall opencv-python-headless' in doctor.opencv().remedy


@pytest.mark.parametrize(('free', 'profile', 'said'), [
    (64, None, '--shm-size=1g'), (4096, 'nowhere.xml', 'nowhere.xml does not exist'),
    (4096, None, None)])
def test_shared_memory_is_judged_by_what_the_profile_needs(free, profile, said, monkeypatch):
    monkeypatch.setattr(distro, 'shared_memory_free', lambda: free * doctor.MB)
    for name in distro.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if profile:
        monkeypatch.setenv(distro.PROFILE_VARIABLES[0], profile)
    found = doctor.shared_memory()
    assert (found.state == doctor.OK) == (said is None)
    assert said is None or said in found.remedy


def test_a_small_receive_buffer_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, 'RECEIVE_BUFFER', tmp_path / 'rmem_max')
    doctor.RECEIVE_BUFFER.write_text('212992\n')
    assert 'sysctl -w net.core.rmem_max' in doctor.receive_buffer().remedy
    doctor.RECEIVE_BUFFER.write_text('2147483647\n')
    assert doctor.receive_buffer().remedy is None
