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
"""Start the node, and RViz on request; every choice is a launch argument."""
import os
from pathlib import Path

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

from launch import LaunchDescription
from steer_depth_ros.ros.distro import (
    profile_environment,
    SEGMENT_BYTES,
    shared_memory_free,
)

SHARE = get_package_share_directory('steer_depth_ros')
TOPICS = ('image', 'camera_info', 'points', 'sparse_depth')
BOOLEANS = ('true', 'false')
LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
OVERRIDES = {
    'preset': (str, 'model preset', None),
    'device': (str, 'auto, cpu, cuda or cuda:N', None),
    'autostart': (bool, 'true or false: configure and activate at start', BOOLEANS),
    'use_sim_time': (bool, 'true or false: take the time from /clock (bags, simulation)',
                     BOOLEANS),
}
NO_RVIZ = 'rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2): going on without RViz'
NO_MEMORY = ('/dev/shm has less than {} MB free, so Fast DDS keeps its small segment and large '
             'best-effort images may get lost; give containers --shm-size=1g or --ipc=host')


def config(name):
    """Give the path of a parameter file, which may be the bare name of one in config/."""
    found = [path for path in (Path(name).expanduser(), Path(SHARE, 'config', name),
                               Path(SHARE, 'config', f'{name}.yaml')) if path.is_file()]
    if not found:
        known = sorted(path.stem for path in Path(SHARE, 'config').glob('*.yaml'))
        raise RuntimeError(f'parameter file {name} not found; give a path, or one of '
                           f'{", ".join(known)}')
    return str(found[0])


def environment():
    """Give what only our node gets: a profile against losses, where its memory fits; notes."""
    values = {'RCUTILS_LOGGING_BUFFERED_STREAM': '1'}
    profile = profile_environment(os.path.join(SHARE, 'config', 'fastdds_shm.xml'), os.environ)
    if not profile:
        return values, []  # an own profile stays
    if shared_memory_free() < 2 * SEGMENT_BYTES:  # the driver wants one, too
        return values, [LogInfo(msg=NO_MEMORY.format(2 * SEGMENT_BYTES // 2 ** 20))]
    return {**values, **profile}, []


def installed(package):
    """Tell whether a ROS package is installed."""
    try:
        return bool(get_package_prefix(package))
    except PackageNotFoundError:
        return False


def nodes(context):
    """Make node and RViz; what is not given as an argument stays as the parameter file has it."""
    def text(name):
        return LaunchConfiguration(name).perform(context)

    given = {name: ParameterValue(LaunchConfiguration(name), value_type=kind)
             for name, (kind, *_) in OVERRIDES.items() if text(name)}
    files = [config(text(name)) for name in ('params_file', 'params_override') if text(name)]
    variables, notes = environment()
    tf = [(f'/{name}', f'{text("tf_prefix")}/{name}')
          for name in ('tf', 'tf_static') if text('tf_prefix')]
    completion = Node(
        package='steer_depth_ros', executable='completion_node', name=text('name'),
        namespace=LaunchConfiguration('namespace'), output='screen', emulate_tty=True,
        parameters=[*(ParameterFile(file, allow_substs=True) for file in files), given],
        remappings=[*((topic, LaunchConfiguration(topic)) for topic in TOPICS
                      if text(topic) != topic), *tf],
        respawn=text('respawn') == 'true', respawn_delay=2.0, additional_env=variables,
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')])
    if text('rviz') != 'true':
        return [*notes, completion]
    if not installed('rviz2'):
        return [*notes, LogInfo(msg=NO_RVIZ), completion]
    frame = ['-f', text('fixed_frame')] if text('fixed_frame') else []
    rviz = Node(
        package='rviz2', executable='rviz2', namespace=LaunchConfiguration('namespace'),
        output='log', additional_env=variables,
        arguments=['-d', os.path.join(SHARE, 'config', 'depth_completion.rviz'), *frame],
        parameters=[{name: value for name, value in given.items() if name == 'use_sim_time'}],
        remappings=[('image', LaunchConfiguration('image')), *tf])
    return [*notes, completion, rviz]


def generate_launch_description():
    def argument(name, default, description, choices=None):
        return DeclareLaunchArgument(name, default_value=default, description=description,
                                     **({'choices': choices} if choices else {}))

    return LaunchDescription([
        argument('namespace', '', 'namespace of the node and its relative topics'),
        argument('name', 'depth_completion', 'name of the node'),
        argument('params_file', 'depth_completion.yaml',
                 'YAML file of parameters: a path, or a name in config/ such as kitti'),
        argument('params_override', '', 'a small YAML file on top of params_file; empty: none'),
        *(argument(name, '', f'{text}; empty: as in params_file', choices and ('', *choices))
          for name, (_, text, choices) in OVERRIDES.items()),
        argument('rviz', 'false', 'start RViz', BOOLEANS),
        argument('fixed_frame', '', 'fixed frame of RViz; empty: camera_optical_frame'),
        argument('respawn', 'false', 'start the node again when it ends', BOOLEANS),
        argument('tf_prefix', '', 'namespace of /tf and /tf_static, e.g. /robot1; empty: none'),
        argument('log_level', 'info', 'least severe messages to log', LEVELS),
        *(argument(topic, topic, f'topic for `{topic}`') for topic in TOPICS),
        OpaqueFunction(function=nodes)])
