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
"""Node, player and recorder, a process each: any of them is killed, the others go on."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from sample_recordings import cloud_bag  # noqa: E402
from tf_types import tf_message  # noqa: E402

from steer_depth_ros.recordings import bag  # noqa: E402
from steer_depth_ros.recordings.bag_tools import OUTPUTS, RECORDED  # noqa: E402
from steer_depth_ros.ros import messages  # noqa: E402

FRAMES = 300  # more than are played
DEPTH, INFO = OUTPUTS['depth'], OUTPUTS['camera_info']


class Processes:
    """The three processes, and a peer that sees the node's depth."""

    def __init__(self, folder):
        from rclpy.node import Node
        from sensor_msgs.msg import Image
        tf_message()  # puts the type of /tf where the processes find it
        self.folder, self.running, self.depths = folder, {}, []
        self.recording = cloud_bag(folder / 'drive.mcap', FRAMES)
        self.target = folder / 'out.mcap'
        self.peer = Node('witness')
        self.peer.create_subscription(Image, DEPTH[0], self.depths.append, 10)
        inputs = [item for name in ('image', 'camera_info', 'points')
                  for item in ('-r', f'{name}:={RECORDED[name]}')]
        self.commands = {
            'recorder': [str(self.target), f'{DEPTH[0]}={DEPTH[1]}'],
            'node': ['--ros-args', *inputs, '-p', 'preset:=steering', '-p', 'device:=cpu'],
            'player': [str(self.recording), '--image', RECORDED['image'], '--camera-info',
                       RECORDED['camera_info'], '--depth', RECORDED['points'], '--answers',
                       INFO[0], '--log', str(folder / 'log'), '--slop', '0.05', '--patience',
                       '0.3', '--listeners', DEPTH[0]]}

    def listeners(self):
        return {bytes(each.endpoint_gid)
                for each in self.peer.get_subscriptions_info_by_topic(DEPTH[0])}

    def start_recorder(self):
        """Start it, and wait until it listens: frames may come faster than it starts."""
        import time

        import rclpy
        before, end = self.listeners(), time.monotonic() + 60
        self.start('recorder')
        while not self.listeners() - before and time.monotonic() < end:
            rclpy.spin_once(self.peer, timeout_sec=0.05)

    def start(self, name):
        module = 'node' if name == 'node' else f'tools.{name}'
        with open(self.folder / f'{name}.log', 'a') as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, '-m', f'steer_depth_ros.ros.{module}', *self.commands[name]],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'})

    def kill(self, name):
        self.running[name].kill()
        self.running.pop(name).wait()

    def end(self, name, how=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(how)
        return process.wait(20)

    def frames(self, count, timeout=60.0):
        """Wait for so many more depth images; give their stamps."""
        import time

        import rclpy
        del self.depths[:]
        end = time.monotonic() + timeout
        while len(self.depths) < count and time.monotonic() < end:
            rclpy.spin_once(self.peer, timeout_sec=0.05)
        assert len(self.depths) >= count, self.logs()
        return [messages.stamp_ns(msg.header) for msg in self.depths]

    def logs(self):
        return '\n'.join(path.read_text() for path in self.folder.glob('*.log'))

    def close(self):
        for name in list(self.running):
            self.kill(name)
        self.peer.destroy_node()


@pytest.fixture
def processes(ros, tmp_path):
    processes = Processes(tmp_path)
    yield processes
    processes.close()


def check_walls(msgs, recording):
    """Check each depth image against the wall that its stamp belongs to."""
    from steer_depth_ros.recordings.bag_frames import read_truth
    with bag.BagReader(recording) as source:
        truth = read_truth(source)
    for msg in msgs:
        depth = messages.depth_to_metres(msg)
        wall = truth[messages.stamp_ns(msg.header)]
        np.testing.assert_allclose(depth[np.isfinite(depth)], wall.flat[0], rtol=1e-3)


def test_player_recorder_and_node_are_killed_and_come_back(processes):
    processes.start_recorder()
    for name in ('node', 'player'):
        processes.start(name)
    before = processes.frames(4)
    processes.kill('player')
    processes.start('player')
    assert processes.frames(4)[-1] <= before[-1] + 4 * 10**8  # it began anew
    processes.kill('recorder')
    assert not processes.target.exists()
    processes.start_recorder()
    processes.frames(4)
    processes.kill('node')
    processes.start('node')
    processes.frames(4)
    check_walls(processes.depths, processes.recording)
    processes.kill('player')
    assert processes.end('recorder') == 0, processes.logs()
    with bag.BagReader(processes.target) as recorded:
        assert recorded.counts[DEPTH[0]] >= 4
    assert processes.end('node', signal.SIGINT) == 0
    assert 'Traceback' not in processes.logs()
    assert not list(processes.folder.glob('.*.partial'))


def test_a_damaged_recording_ends_the_player_with_a_sentence(tmp_path):
    path = cloud_bag(tmp_path / 'a.mcap', 2)
    path.write_bytes(path.read_bytes()[:-100])
    done = subprocess.run(
        [sys.executable, '-m', 'steer_depth_ros.ros.tools.player', str(path), '--image', 'i',
         '--depth', 'd', '--camera-info', 'c', '--answers', 'a', '--log', 'l', '--slop', '0.05'],
        capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('player: error: the recording')
    assert 'Traceback' not in done.stderr
