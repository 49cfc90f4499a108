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
"""The two programs; where a package is missing they say so in a sentence, not in a traceback."""
from importlib import import_module
from importlib.util import find_spec
import sys

# Not among the requirements of setup.py: the one that cv_bridge was built with must stay alone.
OPENCV = ('apt install python3-opencv beside ROS 2, pip install opencv-python-headless without '
          '(a second OpenCV breaks cv_bridge)')
PIP = 'pip install {} in the virtual environment, and activate it before starting this'
HOW = {'cv2': OPENCV, 'numpy': 'apt install python3-numpy', 'scipy': 'apt install python3-scipy',
       'yaml': 'apt install python3-yaml', 'tqdm': 'apt install python3-tqdm',
       'torch': PIP.format('torch'), 'safetensors': PIP.format('safetensors'),
       'rosbags': PIP.format('rosbags'),
       'rclpy': 'source /opt/ros/$ROS_DISTRO/setup.bash, or pip install "steer_depth_ros[ros]"'}


def steer_depth() -> int:
    """Run the command line tool."""
    doctor = sys.argv[1:2] == ['doctor']  # tells more than this does
    return _run('steer_depth_ros.cli', needs=set() if doctor else set(HOW) - {'rclpy'})


def completion_node() -> int:
    """Run the node."""
    return _run('steer_depth_ros.ros.node', needs=set(HOW) - {'rosbags'})


def _run(module, needs):
    lines = [f'{name}: {HOW[name]}' for name in HOW if name in needs and find_spec(name) is None]
    if lines:
        print('\n  '.join([f'error: {sys.executable} does not have what this needs:', *lines]),
              file=sys.stderr)
        return 2
    return import_module(module).main()
