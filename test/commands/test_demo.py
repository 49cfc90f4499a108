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
"""The real demo: node, player and recorder as processes that talk over DDS."""
import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
import dds
import pytest
from sample_recordings import cloud_frames, write_bag, write_folder

from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import OUTPUTS

pytest.importorskip('rclpy', reason='rclpy is not installed; pip install steer_depth_ros[ros]')
ROOT = Path(__file__).resolve().parents[2]


def demo(*argv):
    """Run the command as a person would; return the finished process."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, '-m', 'steer_depth_ros.cli', 'demo', *map(str, argv), '--device', 'cpu',
         '--preset', 'steering'],
        env={**os.environ, **dds.ENVIRONMENT, 'PYTHONPATH': path}, capture_output=True, text=True,
        timeout=150)


def test_every_frame_comes_out_of_the_node(tmp_path):
    for recorded in cloud_frames(3):
        write_folder(tmp_path / 'frames' / recorded.name, recorded)
    out = tmp_path / 'out'
    done = demo('--frames', tmp_path / 'frames', '--out', out, '--json', tmp_path / 'f.json')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'frames in 3, out 3, dropped 0' in done.stdout
    figures = json.loads((tmp_path / 'f.json').read_text())
    assert (figures['frames_in'], figures['frames_out']) == (3, 3)
    assert 0 < figures['latency_p50_ms'] <= figures['latency_p99_ms']
    assert figures['errors']['mae'] < 0.05 and figures['errors']['coverage'] > 0.5
    assert cv2.imread(str(out / 'sheet.png')).shape[0] > 300
    with bag.BagReader(out / 'completed.mcap') as recording:
        assert recording.counts == {topic: 3 for topic, _ in OUTPUTS.values()}
        stamps = [bag.cdr_stamp_ns(r.raw) for r in recording.messages(OUTPUTS['depth'][0])]
    assert stamps == [r.frame.stamp_ns for r in cloud_frames(3)]


def test_a_recording_that_cannot_be_used_is_refused(tmp_path):
    path = write_bag(tmp_path / 'bad.mcap', image={'encoding': 'h264'})
    done = demo('--bag', path, '--out', tmp_path / 'out')
    assert done.returncode == 2
    assert 'image encoding "h264"' in done.stderr and 'Traceback' not in done.stderr


def test_a_node_that_fails_shows_the_end_of_its_log(tmp_path):
    path = write_bag(tmp_path / 'one.mcap')
    done = demo('--bag', path, '--out', tmp_path / 'out', '--weights', tmp_path / 'missing.pt')
    assert done.returncode == 2
    assert 'the node cannot configure itself' in done.stderr and 'missing.pt' in done.stderr


def test_no_output_shows_the_log_of_the_node(tmp_path):
    path = write_bag(tmp_path / 'one.mcap')
    # The cloud ends up behind the camera.
    done = demo('--bag', path, '--out', tmp_path / 'out',
                '--param', 'extrinsics.source=parameters', '--param', 'extrinsics.xyz=[0, 0, -9]')
    assert done.returncode == 2
    assert 'published nothing' in done.stderr and 'no measured point' in done.stderr
    assert 'Traceback' not in done.stderr
