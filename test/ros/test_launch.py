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
"""Launch files: run by launch_ros where it is installed, else checked against stand-ins."""
import importlib.util
from pathlib import Path
import re
import sys
from types import ModuleType
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
import yaml

from steer_depth_ros.ros import distro
from steer_depth_ros.ros.distro import PROFILE_VARIABLES

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob('launch/*.launch.py'))
MODULES = {
    'ament_index_python': (), 'ament_index_python.packages': (), 'launch': ('LaunchDescription',),
    'launch.actions': ('DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription',
                       'LogInfo', 'OpaqueFunction', 'Shutdown', 'TimerAction'),
    'launch.conditions': ('IfCondition', 'UnlessCondition'),
    'launch.launch_description_sources': ('PythonLaunchDescriptionSource',),
    'launch.substitutions': ('LaunchConfiguration',),
    'launch_ros': (), 'launch_ros.actions': ('Node',),
    'launch_ros.parameter_descriptions': ('ParameterFile', 'ParameterValue')}


class Recorded:
    """Keep how it was made."""

    def __init__(self, kind, args, kwargs):
        self.kind, self.args, self.kwargs = kind, args, kwargs

    def perform(self, context):
        return context.get(self.args[0], '')


def stand_ins(rviz):
    made, modules = [], {}
    for name, classes in MODULES.items():
        modules[name] = ModuleType(name)
        for kind in classes:
            def make(*args, kind=kind, **kwargs):
                made.append(Recorded(kind, args, kwargs))
                return made[-1]
            setattr(modules[name], kind, make)
    index = modules['ament_index_python.packages']
    index.get_package_share_directory = lambda _: str(ROOT)
    index.PackageNotFoundError = LookupError
    index.get_package_prefix = {'rviz2': '/opt/ros'}.__getitem__ if rviz else {}.__getitem__
    return made, modules


def load(path):
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(path, context=None, rviz=True):
    """Generate the description with stand-ins; give all that was made, by kind."""
    made, modules = stand_ins(rviz)
    with patch.dict(sys.modules, modules):
        description = load(path).generate_launch_description()
        values = {one.args[0]: one.kwargs.get('default_value', '') for one in made
                  if one.kind == 'DeclareLaunchArgument'}
        for one in [one for one in made if one.kind == 'OpaqueFunction']:
            one.kwargs['function']({**values, **(context or {})})
    assert description.kind == 'LaunchDescription'
    return lambda kind: [one for one in made if one.kind == kind]


def names(of):
    return {one.args[0] for one in of('DeclareLaunchArgument')}


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_arguments_are_declared_described_and_used(path):
    of = described(path)
    used = {one.args[0] for one in of('LaunchConfiguration')}
    assert used <= names(of)
    assert all(one.kwargs['description'] for one in of('DeclareLaunchArgument'))
    for source in of('PythonLaunchDescriptionSource'):
        assert Path(source.args[0]).is_file()


NODE = ROOT / 'launch' / 'depth_completion.launch.py'


@pytest.fixture(autouse=True)
def no_profile_of_ones_own(monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def memory_free(monkeypatch, size):
    monkeypatch.setattr(distro, 'shared_memory_free', lambda: size)


def test_the_node_gets_files_that_exist_and_every_topic_can_be_remapped(monkeypatch):
    memory_free(monkeypatch, 2 ** 30)
    topics = {'image': '/a', 'camera_info': '/b', 'points': '/c', 'sparse_depth': '/d'}
    of = described(NODE, {'rviz': 'true', 'fixed_frame': 'map', **topics})
    assert {'namespace', 'name', 'params_file', 'params_override', 'preset', 'device', 'rviz',
            'use_sim_time', 'log_level', 'autostart', 'fixed_frame', 'respawn', 'tf_prefix',
            *topics} == names(of)
    node, rviz = of('Node')
    assert node.kwargs['executable'] == 'completion_node'
    assert f"{node.kwargs['executable']} = " in (ROOT / 'setup.py').read_text()
    assert len(node.kwargs['remappings']) == 4
    assert Path(rviz.kwargs['arguments'][1]).is_file()
    assert rviz.kwargs['arguments'][2:] == ['-f', 'map']
    for name in PROFILE_VARIABLES:
        assert Path(node.kwargs['additional_env'][name]).is_file()


def test_without_rviz_the_node_runs_and_a_sentence_says_so():
    of = described(NODE, {'rviz': 'true'}, rviz=False)
    assert [node.kwargs['executable'] for node in of('Node')] == ['completion_node']
    assert any('rviz2 is not installed' in one.kwargs['msg'] for one in of('LogInfo'))


def test_no_profile_where_shared_memory_cannot_hold_it(monkeypatch):
    memory_free(monkeypatch, 64 * 2 ** 20)
    of = described(NODE)
    assert not set(PROFILE_VARIABLES) & set(of('Node')[0].kwargs['additional_env'])
    assert '--shm-size' in of('LogInfo')[0].kwargs['msg']


def test_parameter_files_by_name_and_one_on_top(tmp_path):
    mine = tmp_path / 'mine.yaml'
    mine.touch()
    of = described(NODE, {'params_file': 'kitti', 'params_override': str(mine)})
    files = [one.args[0] for one in of('ParameterFile')]
    assert files == [str(ROOT / 'config' / 'kitti.yaml'), str(mine)]
    with pytest.raises(RuntimeError, match='realsense'):
        described(NODE, {'params_file': 'nonsense'})


def test_tf_goes_to_the_namespace_of_the_robot():
    node = described(NODE, {'tf_prefix': '/r1'})('Node')[0]
    assert node.kwargs['remappings'] == [('/tf', '/r1/tf'), ('/tf_static', '/r1/tf_static')]


def test_cameras_by_name_within_a_namespace():
    of = described(ROOT / 'launch' / 'multi_camera.launch.py',
                   {'cameras': 'left, right', 'namespace': 'robot1'})
    given = [dict(one.kwargs['launch_arguments']) for one in of('IncludeLaunchDescription')]
    assert [one['namespace'] for one in given] == ['robot1/left', 'robot1/right']


def test_the_end_of_a_bag_is_the_end_of_its_launch():
    for play in described(ROOT / 'launch' / 'replay.launch.py')('ExecuteProcess'):
        assert play.kwargs['on_exit'].kind == 'Shutdown'


@pytest.mark.parametrize('context, expected', [({}, set()), ({'preset': 'fast'}, {'preset'})])
def test_only_given_arguments_override_the_parameter_file(context, expected):
    node = described(NODE, context)('Node')[0]
    assert set(node.kwargs['parameters'][-1]) == expected


@pytest.mark.parametrize('name', ['replay', 'multi_camera'])
def test_what_is_passed_on_is_declared_there(name):
    declared = names(described(NODE))
    for one in described(ROOT / 'launch' / f'{name}.launch.py')('IncludeLaunchDescription'):
        assert {key for key, _ in one.kwargs['launch_arguments']} <= declared


def test_rviz_shows_topics_that_the_node_publishes():
    tree = yaml.safe_load((ROOT / 'config' / 'depth_completion.rviz').read_text())
    topics = {d['Topic']['Value']: d['Topic']['Reliability Policy']
              for d in tree['Visualization Manager']['Displays'] if 'Topic' in d}
    # With the defaults of Fast DDS big best-effort messages get lost.
    assert {name for name, policy in topics.items() if policy == 'Best Effort'} == {'image'}
    assert set(topics) == {'image', 'depth_completion/debug/overlay',
                      'depth_completion/debug/depth_color', 'depth_completion/depth/image',
                      'depth_completion/confidence/image', 'depth_completion/points'}


def test_the_manifest_names_every_ros_package_that_is_imported_or_started():
    declared = {one.text for one in ElementTree.parse(ROOT / 'package.xml').iter('exec_depend')}
    text = '\n'.join(path.read_text() for path in [*FILES, *ROOT.glob('steer_depth_ros/**/*.py')])
    imported = set(re.findall(r'^ *(?:from|import) (\w+)', text, re.MULTILINE))
    ros = {name for name in imported if re.search(
        r'^(rclpy|launch|launch_ros|message_filters|tf2_\w+|cv_bridge|\w+_msgs|\w+_msgs_py|'
        r'\w+_interfaces|ament_index_python|std_srvs)$', name)}
    assert {'rclpy', 'sensor_msgs', 'ament_index_python'} <= ros <= declared
    assert {'rviz2', 'ros2bag'} <= declared  # started by the launch files


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_with_launch_ros(path):
    pytest.importorskip('launch_ros', reason='launch_ros is not installed')
    from launch import LaunchDescription
    assert isinstance(load(path).generate_launch_description(), LaunchDescription)
