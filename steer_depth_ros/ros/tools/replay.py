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
"""Run a recording through the real node over DDS, with player and recorder processes."""
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from steer_depth_ros.errors import SteerDepthError
from steer_depth_ros.recordings.bag_tools import OUTPUTS
from steer_depth_ros.ros import distro

PROCESSES = 3
TIMEOUT_S, STOP_S = 600.0, 20.0  # for a whole run; for a process to end
LOG_LINES = 12
GAVE_UP = 'cannot configure'  # the node logs this and then waits to be configured again
PACKAGE = 'steer_depth_ros'


class ReplayError(SteerDepthError):
    """A process failed; the message ends with the last lines of its log."""


def replay(recording, topics, values, folder, rate=1.0, wait=True, outputs=OUTPUTS) -> dict:
    """
    Play a recording through the node and record its outputs in `folder`/completed.mcap.

    topics: bag_frames.Topics of the recording. values: parameters of the node to set.
    rate: playback speed. wait: slow down if the node needs longer; otherwise it drops frames.
    outputs: name to topic and type of what is recorded.
    Return the player's log: published_ns (stamp to time of publishing), expected and unanswered
    stamps. Raise ReplayError when a process fails.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'player.json'
    listened = [f'{topic}={kind}' for topic, kind in outputs.values()]
    deadline = time.monotonic() + TIMEOUT_S
    with Processes(folder, child_environment()) as processes:
        processes.start('recorder', str(folder / 'completed.mcap'), *listened)
        processes.start('node', '--ros-args', *node_arguments(topics, values))
        processes.start('player', str(recording), '--image', topics.image, '--camera-info',
                        topics.camera_info, '--depth', topics.depth, '--answers',
                        OUTPUTS['camera_info'][0], '--log', str(log), '--slop',
                        str(values['slop_s']), '--rate', str(rate),
                        *([] if wait else ['--patience', '0']), '--listeners',
                        *(topic for topic, _ in outputs.values()))
        processes.wait('player', deadline)
        processes.stop('recorder')
        processes.stop('node')
    return json.loads(log.read_text())


def log_end(path) -> str:
    """Return the last lines of a log file."""
    lines = path.read_text(errors='replace').splitlines()[-LOG_LINES:]
    return f'the end of {path}:\n  ' + '\n  '.join(lines)


def node_arguments(topics, values):
    """Yield the arguments of the node for these topics and parameters."""
    depth = 'points' if topics.points else 'sparse_depth'
    # The node itself appends the transport to the topic of a compressed image.
    bases = {'image': topics.image.removesuffix('/compressed'), 'camera_info': topics.camera_info,
             depth: topics.depth.removesuffix('/compressedDepth')}
    for name, topic in bases.items():
        yield from ('-r', f'{name}:={topic}')
    for name, value in values.items():
        yield from ('-p', f'{name}:={json.dumps(value)}')


def child_environment():
    """Return an environment with a separate domain, restricted to this machine."""
    environment = dict(os.environ)
    if not environment.get('LD_LIBRARY_PATH'):
        # The ROS wheels set variables at start-up, unless this is set.
        environment.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None)
    environment |= {'ROS_DOMAIN_ID': str(random.randint(1, 100)), 'PYTHONUNBUFFERED': '1',
                    **distro.local_discovery()}
    environment.setdefault('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    profile = distro.profile_path()
    profiled = distro.profile_environment(profile, environment) if profile else {}
    if not profiled:
        return environment
    free, needed = distro.shared_memory_free(), PROCESSES * distro.SEGMENT_BYTES
    if free < needed:
        print(f'{distro.SHARED_MEMORY} has {free // 2 ** 20} MB free, too little for '
              f'fastdds_shm.xml ({needed // 2 ** 20} MB); large messages may get lost '
              '(in a container: docker run --shm-size=1g)')
        return environment
    return environment | profiled


class Processes:
    """Modules of this package running as processes, each with a log file."""

    def __init__(self, folder, environment):
        self._folder, self._environment = folder, environment
        self._running = {}

    def start(self, name, *arguments):
        module = f'{PACKAGE}.ros.node' if name == 'node' else f'{PACKAGE}.ros.tools.{name}'
        with open(self._log(name), 'w') as log:
            # In its own session, so that Ctrl-C reaches it only once, from here.
            self._running[name] = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdout=log, stderr=subprocess.STDOUT, env=self._environment,
                stdin=subprocess.DEVNULL, start_new_session=True)

    def pid(self, name):
        """Return the process id of a running process."""
        return self._running[name].pid

    def wait(self, name, deadline, meanwhile=lambda: None):
        """
        Wait for a process to succeed, calling `meanwhile` ten times per second.

        Raise ReplayError if it fails, or if another one ends.
        """
        while True:
            meanwhile()
            for other, process in self._running.items():
                status = process.poll()
                if status == 0 and other == name:
                    del self._running[name]
                    return
                if status is not None:
                    raise ReplayError(f'the {other} ended with status {status}{self._tail(other)}')
            if GAVE_UP in self._log('node').read_text(errors='replace'):
                raise ReplayError(f'the node {GAVE_UP} itself{self._tail("node")}')
            if time.monotonic() > deadline:
                raise ReplayError(f'the {name} did not finish in time{self._tail(name)}')
            time.sleep(0.1)

    def stop(self, name):
        """Interrupt a process and wait; raise ReplayError if it fails."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ReplayError(f'the {name} did not end when asked to{self._tail(name)}') from None
        if status not in (0, -signal.SIGINT, 130):
            raise ReplayError(f'the {name} ended with status {status}{self._tail(name)}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name):
        return self._folder / f'{name}.log'

    def _tail(self, name):
        return '; ' + log_end(self._log(name))
