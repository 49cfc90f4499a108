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
The package in a colcon workspace of its own (`make test-ros`): builds, installed scripts, drivers.

colcon comes from PyPI, rclpy and torch from the environment that runs this.
"""
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import pytest

from steer_depth_ros.ros.distro import local_discovery, PROFILE_VARIABLES

ROOT = Path(__file__).parents[2]
COLCON = ('colcon-core>=0.21', 'colcon-ros', 'colcon-bash', 'colcon-python-setup-py',
          'colcon-recursive-crawl', 'colcon-library-path', 'colcon-test-result')
# That of the oldest Ubuntu with this Python, and the newest, of which colcon is not sure yet.
SETUPTOOLS = {'oldest': '59.6.0' if sys.version_info < (3, 12) else '68.1.2', 'newest': ''}
# g++, which gives what it was asked for before: four builds need not compile four times.
CACHED_COMPILER = """#!/bin/bash
key={folder}/$(printf '%s ' "${{@:1:$#-1}}" | sed 's#[^ ]*/csrc#csrc#g' | md5sum | cut -c1-32)
[ -e "$key" ] || g++ "${{@:1:$#-1}}" "$key" && cp "$key" "${{@: -1}}"
"""
BUILDS = [(age, *mode) for age in SETUPTOOLS for mode in ((), ('--symlink-install',))]
SHARED = ('package.xml', 'launch/replay.launch.py', 'config/kitti.yaml',
          'config/fastdds_shm.xml')
DRIVERS = {'reliable': ['--image-qos', 'reliable'],
           'latched camera_info': ['--image-qos', 'reliable', '--latched-info'],
           'best effort camera, reliable LiDAR, profile at the driver': [
               '--image-qos', 'best_effort', '--points-qos', 'reliable']}


def run(command, cwd, **variables):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope='session')
def colcon(tmp_path_factory):
    """Give a function that runs colcon with an age of setuptools in its workspace."""
    made = {}
    compiler = tmp_path_factory.mktemp('compiler') / 'cached_compiler'
    compiler.write_text(CACHED_COMPILER.format(folder=compiler.parent))
    compiler.chmod(0o755)

    def call(age, *arguments):
        if age not in made:
            venv = made[age] = tmp_path_factory.mktemp(age) / 'venv'
            run([sys.executable, '-m', 'venv', venv], ROOT)
            packages = Path(next((venv / 'lib').glob('python3*')), 'site-packages')
            pip = [venv / 'bin' / 'pip', 'install', '-q']
            run([*pip, *COLCON], ROOT)
            version = SETUPTOOLS[age]
            run([*pip, '-U', f'setuptools=={version}' if version else 'setuptools'], ROOT)
            here = Path(next((Path(sys.prefix) / 'lib').glob('python3*')), 'site-packages')
            (packages / 'base.pth').write_text(f'{here}\n')
        return run([made[age] / 'bin' / 'colcon', *arguments[1:]], arguments[0],
                   CXX=str(compiler), STEER_DEPTH_CUDA='0')
    return call


@pytest.fixture(scope='session')
def workspaces(colcon, tmp_path_factory):
    """Give a function that builds a workspace, once."""
    made = {}

    def build(*how):
        if how not in made:
            made[how] = folder = tmp_path_factory.mktemp('ws')
            listed = run(['git', 'ls-files', '-co', '--exclude-standard'], ROOT).split('\n')
            for name in filter(None, listed):
                target = folder / 'src' / 'steer_depth_ros' / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_file():
                    shutil.copy(ROOT / name, target)
            colcon(how[0], folder, 'build', *how[1:])
        return made[how]
    return build


def sourced(workspace, command):
    return ['bash', '-c', f'source install/setup.bash && exec {command}']


@pytest.mark.parametrize('how', BUILDS, ids=' '.join)
def test_a_workspace_builds_and_its_programs_start(workspaces, how):
    workspace = workspaces(*how)
    prefix = workspace / 'install' / 'steer_depth_ros'
    script = prefix / 'lib' / 'steer_depth_ros' / 'completion_node'
    assert script.read_text().startswith('#!/usr/bin/env python3\n')
    assert all((prefix / 'share' / 'steer_depth_ros' / name).exists() for name in SHARED)
    path = run(sourced(workspace, f'{sys.executable} -c "from steer_depth_ros.ops import native; '
                       'print(native.__file__, native.cpu_name())"'), workspace)
    assert str(workspace) in path and 'None' not in path


@pytest.mark.parametrize('driver', DRIVERS)
def test_pairs_of_a_driver_arrive(workspaces, driver, tmp_path):
    workspace = workspaces('oldest', '--symlink-install')
    parameters = tmp_path / 'mine.yaml'
    parameters.write_text('/**:\n  ros__parameters:\n    preset: fast\n    device: cpu\n'
                          '    extrinsics: {source: parameters}\n')
    users = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    environment = {**users, **local_discovery({}), 'PATH': os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ['PATH']])}
    environment['ROS_DOMAIN_ID'] = str(100 + os.getpid() % 100)
    program = 'install/steer_depth_ros/lib/steer_depth_ros/completion_node'
    with open(tmp_path / 'log', 'w') as log:
        node = subprocess.Popen(
            sourced(workspace, f'{program} --ros-args --params-file {parameters}'),
            cwd=workspace, env=environment, stdout=log, stderr=subprocess.STDOUT)
        profile = {name: str(ROOT / 'config' / 'fastdds_shm.xml') for name in PROFILE_VARIABLES}
        try:
            for _ in range(3):  # a machine that is busy with something else loses messages, too
                done = subprocess.run(
                    [sys.executable, '-m', 'steer_depth_ros.ros.tools.driver', '--check', '0.95',
                     '--seconds', '6', *DRIVERS[driver]], capture_output=True, text=True,
                    env={**environment, **(profile if 'profile' in driver else {})})
                if done.returncode == 0:
                    break
        finally:
            node.send_signal(signal.SIGINT)
            node.wait(30)
    print(driver, done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / 'log').read_text()


def test_colcon_test(colcon, workspaces):
    workspace = workspaces('oldest', '--symlink-install')
    colcon('oldest', workspace, 'test', '--return-code-on-test-failure', '--pytest-args',
           ' --cov-fail-under=0',  # that bound is for the whole suite
           'test/test_entry_points.py', 'test/ros/test_launch.py', 'test/ros/test_distro.py')
