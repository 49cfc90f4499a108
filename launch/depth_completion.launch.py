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

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

from launch import LaunchDescription
from steer_depth_ros.ros.distro import profile_environment

SHARE = get_package_share_directory('steer_depth_ros')
TOPICS = ('image', 'camera_info', 'points', 'sparse_depth')
BOOLEANS = ('true', 'false')
OVERRIDES = {
    'preset': (str, 'model preset'),
    'device': (str, 'auto, cpu, cuda or cuda:N'),
    'autostart': (bool, 'true or false: configure and activate at start'),
    'use_sim_time': (bool, 'true or false: take the time from /clock (bags, simulation)'),
}


def nodes(context):
    """Make node and RViz; what is not given as an argument stays as the parameter file has it."""
    given = {name: ParameterValue(LaunchConfiguration(name), value_type=kind)
             for name, (kind, _) in OVERRIDES.items()
             if LaunchConfiguration(name).perform(context)}
    completion = Node(
        package='steer_depth_ros', executable='completion_node', name='depth_completion',
        namespace=LaunchConfiguration('namespace'), output='screen', emulate_tty=True,
        parameters=[ParameterFile(LaunchConfiguration('params_file'), allow_substs=True), given],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')])
    rviz = Node(
        package='rviz2', executable='rviz2', namespace=LaunchConfiguration('namespace'),
        output='log', arguments=['-d', os.path.join(SHARE, 'config', 'depth_completion.rviz')],
        parameters=[{name: value for name, value in given.items() if name == 'use_sim_time'}],
        remappings=[('image', LaunchConfiguration('image'))],
        condition=IfCondition(LaunchConfiguration('rviz')))
    return [completion, rviz]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument('namespace', default_value='',
                              description='namespace of the node and its relative topics'),
        DeclareLaunchArgument('params_file',
                              default_value=os.path.join(SHARE, 'config', 'depth_completion.yaml'),
                              description='YAML file of parameters; see config/'),
        *(DeclareLaunchArgument(name, default_value='',
                                description=f'{text}; empty: as in params_file')
          for name, (_, text) in OVERRIDES.items()),
        DeclareLaunchArgument('rviz', default_value='false', choices=BOOLEANS,
                              description='start RViz'),
        DeclareLaunchArgument('log_level', default_value='info', description='debug to fatal'),
        *(DeclareLaunchArgument(topic, default_value=topic, description=f'topic for `{topic}`')
          for topic in TOPICS)]
    # Images and clouds get lost with the default shared-memory segment; an own profile stays.
    profile = os.path.join(SHARE, 'config', 'fastdds_shm.xml')
    profiles = [SetEnvironmentVariable(name, value)
                for name, value in profile_environment(profile, os.environ).items()]
    lines = SetEnvironmentVariable('RCUTILS_LOGGING_BUFFERED_STREAM', '1')
    return LaunchDescription(
        [*arguments, *profiles, lines, OpaqueFunction(function=nodes)])
