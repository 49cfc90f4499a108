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
"""
`steer_depth doctor`: what is installed, what will run, and what to do about what is missing.

Each check is a function that returns one Finding or several; the screen is their list.
"""
from dataclasses import asdict, dataclass
import importlib
from importlib import metadata
import os
from pathlib import Path
import platform
import shutil
from typing import Iterator, Optional

import steer_depth_ros
from steer_depth_ros.commands import options
from steer_depth_ros.errors import NativeLibraryError
from steer_depth_ros.ros import distro

OK, SLOW, MISSING, ABSENT = 'ok', 'slow', 'missing', 'absent'
MB = 2 ** 20
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python',
          'opencv-contrib-python-headless')
MIDDLEWARES = 'rmw_fastrtps_cpp', 'rmw_cyclonedds_cpp', 'rmw_zenoh_cpp'
RECEIVE_BUFFER = Path('/proc/sys/net/core/rmem_max')
# Module, what it is for, what to do without it.
PYTHON_MODULES = (
    ('numpy', 'arrays', 'apt install python3-numpy, or pip install numpy'),
    ('scipy', 'neighbor search', 'apt install python3-scipy, or pip install scipy'),
    ('yaml', 'parameter files', 'apt install python3-yaml, or pip install pyyaml'),
    ('tqdm', 'progress', 'apt install python3-tqdm, or pip install tqdm'),
    ('rosbags', 'recordings', 'pip install rosbags'),
    ('safetensors', 'weights', 'pip install safetensors'))
ROS_MODULES = (
    ('rclpy', 'the node', 'source /opt/ros/DISTRO/setup.bash, or install the wheels: pip install '
     "'steer_depth_ros[ros]'"),
    ('sensor_msgs', 'images and clouds', 'apt install ros-DISTRO-sensor-msgs'),
    ('diagnostic_msgs', '/diagnostics', 'apt install ros-DISTRO-diagnostic-msgs'))
OPTIONAL_ROS_MODULES = (
    ('cv_bridge', 'rare image encodings', 'apt install ros-DISTRO-cv-bridge'),
    ('message_filters', 'sync_mode approximate and exact',
     'apt install ros-DISTRO-message-filters'),
    ('tf2_msgs', '/tf; without it set extrinsics.*', 'apt install ros-DISTRO-tf2-msgs'),
    ('launch_ros', 'ros2 launch', 'apt install ros-DISTRO-launch-ros'))


@dataclass
class Finding:
    """
    One line of the screen; remedy says what to do about it.

    state: ok, slow (works, could be better), missing (cannot run), or absent (not needed).
    """

    name: str
    state: str
    text: str
    remedy: Optional[str] = None


def add_arguments(parser):
    """Declare the options of the subcommand."""
    parser.add_argument('--json', metavar='FILE', help='write the findings to a file')


def run(args) -> int:
    """Print all findings; exit status 1 when something that is needed is missing."""
    findings = list(examine())
    for finding in findings:
        print(f'{finding.state:>8}  {finding.name:<18} {finding.text}')
        if finding.remedy:
            print(f'{"":>8}  {"":<18} -> {finding.remedy}')
    broken = [f.name for f in findings if f.state == MISSING]
    better = [f.name for f in findings if f.state in (SLOW, ABSENT)]
    print('\n' + ('cannot run: ' + ', '.join(broken) if broken else 'ready to run')
          + (f'; could be better: {", ".join(better)}' if better else ''))
    options.write_json(args.json, [asdict(finding) for finding in findings])
    return 1 if broken else 0


def examine() -> Iterator[Finding]:
    """Yield the findings, in the order in which things build on each other."""
    yield Finding('package', OK, f'steer_depth_ros {steer_depth_ros.__version__} in '
                  f'{Path(steer_depth_ros.__file__).parent}')
    yield Finding('machine', OK, f'{platform.machine()}, {os.cpu_count()} cores, Python '
                  f'{platform.python_version()}, {platform.system()} {platform.release()}')
    for entry in PYTHON_MODULES:
        yield module(*entry)
    yield opencv()
    yield from model()
    rclpy = module(*ROS_MODULES[0])
    yield rclpy
    if rclpy.state == OK:
        yield from ros()


def module(name, purpose, remedy, needed=True) -> Finding:
    """Check whether a module can be imported."""
    try:
        found = importlib.import_module(name)
    except Exception as error:  # a binary for another NumPy raises anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        distribution = os.environ.get('ROS_DISTRO', 'jazzy')
        return Finding(name, MISSING if needed else ABSENT, f'{purpose}: {reason}',
                       remedy.replace('DISTRO', distribution))
    return Finding(name, OK, f'{getattr(found, "__version__", "")} for {purpose}'.strip())


def opencv() -> Finding:
    """Report which OpenCV is used, and whether there is more than one."""
    found = module('cv2', 'images', 'apt install python3-opencv, or pip install '
                   'opencv-python-headless')
    if found.state != OK:
        return found
    wheels = [name for name in OPENCV if _installed(name)]
    import cv2
    found.text += f' ({Path(cv2.__file__).parent})'
    bridge = module('cv_bridge', '', '')
    if bridge.state == OK and wheels:
        found.state = SLOW
        found.remedy = (f'pip uninstall {" ".join(wheels)}: cv_bridge was built with the OpenCV '
                        'of the distribution, and two of them do not agree on type numbers')
    elif len(wheels) > 1:
        found.state = SLOW
        found.remedy = f'keep one of {", ".join(wheels)}: pip uninstall the others'
    return found


def _installed(name):
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def model() -> Iterator[Finding]:
    """Report what the completion runs on: torch, devices, native library, weights."""
    torch = module('torch', 'tensors and networks', 'pip install torch (on a machine without a '
                   'GPU: --index-url with the CPU wheels of pytorch.org saves gigabytes)')
    yield torch
    if torch.state != OK:
        return
    import torch as library

    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.completion.presets import DEFAULT, PRESETS
    from steer_depth_ros.ops import describe_backend
    device = find_device('auto')
    if device.type == 'cuda':
        yield Finding('device', OK, f'{library.cuda.get_device_name()}, CUDA '
                      f'{library.version.cuda}')
    elif shutil.which('nvidia-smi'):
        yield Finding('device', SLOW, 'CPU, though there is an NVIDIA driver',
                      'install a CUDA build of torch and build this package again')
    else:
        yield Finding('device', OK, f'CPU, {library.get_num_threads()} threads; no NVIDIA driver')
    try:
        backend = describe_backend(library.device('cpu'))
    except NativeLibraryError as error:
        reason, _, remedy = str(error).partition('; ')
        yield Finding('operator library', MISSING, reason, remedy)
    else:
        built = 'torch' not in backend
        yield Finding('operator library', OK if built else SLOW, backend, None if built else
                      'apt install g++, then pip install -e . (or colcon build) again')
    for preset in PRESETS.values():
        path = preset.weights_path()
        if path and not path.exists():
            yield Finding(f'weights of {preset.name}', ABSENT, f'{path} does not exist',
                          'install the package again')
    yield Finding('presets', OK, f'{", ".join(PRESETS)}; default is {DEFAULT}')


def ros() -> Iterator[Finding]:
    """Report ROS packages and middleware, and whether large messages pass it."""
    for entry in ROS_MODULES[1:]:
        yield module(*entry)
    for entry in OPTIONAL_ROS_MODULES:
        yield module(*entry, needed=False)
    from rclpy import get_rmw_implementation_identifier
    name = os.environ.get('ROS_DISTRO', 'no ROS_DISTRO: from wheels')
    try:
        middleware = get_rmw_implementation_identifier()
    except Exception as error:  # the library that RMW_IMPLEMENTATION names is not installed
        yield Finding('middleware', MISSING, str(error).splitlines()[0],
                      f'unset RMW_IMPLEMENTATION, or install one of {", ".join(MIDDLEWARES)}')
        return
    yield Finding('middleware', OK, f'{middleware} ({name})')
    if middleware.startswith('rmw_fastrtps'):
        yield shared_memory()
    elif middleware.startswith('rmw_cyclonedds'):
        yield receive_buffer()


def shared_memory() -> Finding:
    """Check whether /dev/shm holds the segments with which Fast DDS passes large messages."""
    free, needed = distro.shared_memory_free() // MB, 2 * distro.SEGMENT_BYTES // MB
    profile = next((os.environ[v] for v in distro.PROFILE_VARIABLES if v in os.environ), None)
    text = f'{free} MB free in {distro.SHARED_MEMORY}, profile {profile or "not set"}'
    if free < needed:
        return Finding('large messages', SLOW, text, f'{needed} MB are needed for the profile: '
                       'start the container with --shm-size=1g or --ipc=host')
    if profile and not Path(profile).exists():
        return Finding('large messages', SLOW, text, f'{profile} does not exist')
    if profile is None:
        variable = distro.profile_variable()
        return Finding('large messages', OK, text + f'; for a driver that publishes best effort '
                       f'start it with {variable}={distro.profile_path()}')
    return Finding('large messages', OK, text)


def receive_buffer() -> Finding:
    """Check whether the system lets Cyclone DDS receive large messages."""
    size = int(RECEIVE_BUFFER.read_text()) if RECEIVE_BUFFER.exists() else 0
    if size < 10 * MB:
        return Finding('large messages', SLOW, f'net.core.rmem_max is {size} bytes',
                       'sudo sysctl -w net.core.rmem_max=2147483647')
    return Finding('large messages', OK, f'net.core.rmem_max is {size} bytes')

