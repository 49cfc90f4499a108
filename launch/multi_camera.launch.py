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
"""Complete depth for several cameras that share a LiDAR: one node a namespace."""
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = get_package_share_directory('steer_depth_ros')
DEFAULTS = {
    'points': ('/points', 'cloud of the LiDAR'),
    'params_file': ('depth_completion.yaml', 'YAML file of parameters, for all cameras'),
    'params_override': ('', 'a small YAML file on top of params_file; empty: none'),
    'preset': ('', 'model preset; empty: as in params_file'),
    'device': ('', 'auto, cpu, cuda or cuda:N; empty: as in params_file'),
    'use_sim_time': ('', 'true or false; empty: as in params_file'),
    'tf_prefix': ('', 'namespace of /tf and /tf_static; empty: none'),
    'log_level': ('info', 'least severe messages to log'),
}


def nodes(context):
    """Include a node a camera; images are those of its namespace: /front/image, /rear/image."""
    cameras = LaunchConfiguration('cameras').perform(context).split(',')
    namespace = LaunchConfiguration('namespace').perform(context)
    source = os.path.join(SHARE, 'launch', 'depth_completion.launch.py')
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(source), launch_arguments=[
        ('namespace', f'{namespace}/{camera.strip()}' if namespace else camera.strip()),
        ('image', 'image'), ('camera_info', 'camera_info'), ('rviz', 'false'),
        *((name, LaunchConfiguration(name)) for name in DEFAULTS)])
        for camera in cameras if camera.strip()]


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument('cameras', default_value='front,rear',
                              description='names of the cameras, a namespace each'),
        DeclareLaunchArgument('namespace', default_value='',
                              description='namespace around those of the cameras'),
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in DEFAULTS.items()),
        OpaqueFunction(function=nodes)])
