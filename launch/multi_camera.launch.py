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
"""Complete depth for two cameras that share a LiDAR: one node a namespace."""
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = get_package_share_directory('steer_depth_ros')
CAMERAS = ('front', 'rear')
PASSED = ('points', 'params_file', 'preset', 'device')


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument('points', default_value='/points', description='cloud of the LiDAR'),
        DeclareLaunchArgument('params_file',
                              default_value=os.path.join(SHARE, 'config', 'depth_completion.yaml'),
                              description='YAML file of parameters, for all cameras'),
        DeclareLaunchArgument('preset', default_value='',
                              description='model preset; empty: as in params_file'),
        DeclareLaunchArgument('device', default_value='',
                              description='auto, cpu, cuda or cuda:N; empty: as in params_file')]
    source = PythonLaunchDescriptionSource(
        os.path.join(SHARE, 'launch', 'depth_completion.launch.py'))
    # Images are those of each namespace: /front/image, /rear/image.
    nodes = [IncludeLaunchDescription(source, launch_arguments=[
        ('namespace', camera), *((name, LaunchConfiguration(name)) for name in PASSED)])
        for camera in CAMERAS]
    return LaunchDescription([*arguments, *nodes])
