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
"""Play a bag through the node and show it in RViz."""
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    Shutdown,
    TimerAction,
)
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = get_package_share_directory('steer_depth_ros')
START_S = 5.0  # the node loads its model meanwhile
BOOLEANS = ('true', 'false')
TOPICS = ('image', 'camera_info', 'points', 'sparse_depth')
PASSED = ('params_file', 'params_override', 'preset', 'device', 'rviz', 'fixed_frame', *TOPICS)


def generate_launch_description():
    bag, rate, loop = (LaunchConfiguration(name) for name in ('bag', 'rate', 'loop'))
    arguments = [
        DeclareLaunchArgument('bag', description='recording: a rosbag2 folder or .mcap file'),
        DeclareLaunchArgument('rate', default_value='1.0', description='speed of the replay'),
        DeclareLaunchArgument('loop', default_value='true', choices=BOOLEANS,
                              description='start over at the end'),
        DeclareLaunchArgument('params_file', default_value='depth_completion.yaml',
                              description='YAML file of parameters: a path, or a name in config/'),
        DeclareLaunchArgument('params_override', default_value='',
                              description='a small YAML file on top of params_file; empty: none'),
        DeclareLaunchArgument('fixed_frame', default_value='',
                              description='fixed frame of RViz; empty: camera_optical_frame'),
        DeclareLaunchArgument('preset', default_value='',
                              description='model preset; empty: as in params_file'),
        DeclareLaunchArgument('device', default_value='',
                              description='auto, cpu, cuda or cuda:N; empty: as in params_file'),
        DeclareLaunchArgument('rviz', default_value='true', choices=BOOLEANS,
                              description='start RViz'),
        *(DeclareLaunchArgument(topic, default_value=topic,
                                description=f'topic of the bag for `{topic}`')
          for topic in TOPICS)]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            os.path.join(SHARE, 'launch', 'depth_completion.launch.py')),
        launch_arguments=[('use_sim_time', 'true'),
                          *((name, LaunchConfiguration(name)) for name in PASSED)])
    command = ['ros2', 'bag', 'play', bag, '--clock', '100', '--rate', rate]
    # Without messages the node has nothing to do: a missing bag, or its end, ends all.
    play = [ExecuteProcess(cmd=[*command, '--loop'], output='screen', on_exit=Shutdown(),
                           condition=IfCondition(loop)),
            ExecuteProcess(cmd=command, output='screen', on_exit=Shutdown(),
                           condition=UnlessCondition(loop))]
    return LaunchDescription([*arguments, node, TimerAction(period=START_S, actions=play)])
