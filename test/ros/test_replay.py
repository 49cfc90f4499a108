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
"""A recorded drive through the real node at the rate of its sensors, every output checked."""
from dataclasses import replace
import os
from pathlib import Path

import numpy as np
import pytest

from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import choose_topics, node_values, recorded_pose
from steer_depth_ros.recordings.bag_tools import frames_to_bag, OUTPUTS, PICTURES
from steer_depth_ros.recordings.frame_folder import FIRST_STAMP_NS, PERIOD_NS, read_frames
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import posed_values
from steer_depth_ros.ros.message_types import message_class
from steer_depth_ros.ros.tools.replay import replay

pytest.importorskip('rclpy', reason='rclpy is not installed; pip install steer_depth_ros[ros]')
DATA = Path(os.environ.get('STEER_DEPTH_DATA', Path(__file__).parents[3] / 'shared' / 'data'))
DRIVE = DATA / 'lidarseq_kittiraw_a'
PASSES = 4
ALL_OUTPUTS = {**OUTPUTS, **PICTURES,
               'diagnostics': ('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')}


class Replayed:
    """The player's log, and the decoded outputs by stamp."""

    def __init__(self, folder):
        frames = list(read_frames(DRIVE))
        self.size = frames[0].frame.image.shape[:2]
        there_and_back = [*frames, *reversed(frames)] * (PASSES // 2)
        frames_to_bag((replace(one, frame=replace(
            one.frame, stamp_ns=FIRST_STAMP_NS + index * PERIOD_NS))
            for index, one in enumerate(there_and_back)), folder / 'drive.mcap')
        with bag.BagReader(folder / 'drive.mcap') as recording:
            topics = choose_topics(recording)
            values = node_values(recording, topics, preset='fast', device='cpu')
            if message_class(bag.TF_MESSAGE) is None:
                values = posed_values(values, recorded_pose(recording, topics, values))
        self.log = replay(folder / 'drive.mcap', topics, values, folder, wait=False,
                          outputs=ALL_OUTPUTS)
        self.outputs = {name: {} for name in ALL_OUTPUTS}
        with bag.BagReader(folder / 'completed.mcap') as recording:
            for name, (topic, _) in ALL_OUTPUTS.items():
                records = recording.messages(topic)
                self.outputs[name] = {bag.cdr_stamp_ns(r.raw): (r.log_ns, recording.decode(r))
                                      for r in records}

    def messages(self, name):
        return [message for _, message in self.outputs[name].values()]


@pytest.fixture(scope='module')
def replayed(tmp_path_factory):
    if not DRIVE.is_dir():
        pytest.skip(f'{DRIVE} is not there; set STEER_DEPTH_DATA')
    return Replayed(tmp_path_factory.mktemp('replay'))


def test_every_output_comes_with_the_stamp_and_frame_of_an_image(replayed):
    sent = set(map(int, replayed.log['published_ns']))
    for name in set(ALL_OUTPUTS) - {'diagnostics'}:
        assert set(replayed.outputs[name]) and set(replayed.outputs[name]) <= sent, name
        assert {m.header.frame_id for m in replayed.messages(name)} == {'camera_optical_frame'}


def test_images_have_the_size_of_the_input_and_plausible_content(replayed):
    for message in replayed.messages('depth'):
        depth = messages.depth_to_metres(message)
        assert depth.shape == replayed.size and 0.5 < np.isfinite(depth).mean() < 1.0
        assert 5.0 < np.nanmedian(depth) < 30.0
    for message in replayed.messages('confidence'):
        confidence = np.frombuffer(message.data, np.float32)
        assert confidence.min() >= 0.0 and 0.5 < confidence.max() <= 1.0
    for name in ('overlay', 'depth_color'):
        for message in replayed.messages(name):
            picture = messages.image_to_rgb(message)
            assert picture.shape == (*replayed.size, 3) and picture.std() > 20
    for message in replayed.messages('camera_info'):
        camera = messages.camera_from_info(message)
        assert (camera.height, camera.width) == replayed.size and 721 < camera.fx < 722


def test_the_cloud_is_the_depth_in_space_and_colored(replayed):
    for stamp, (_, message) in replayed.outputs['cloud'].items():
        points = messages.cloud_to_xyz(message)
        known = np.isfinite(messages.depth_to_metres(replayed.outputs['depth'][stamp][1]))
        assert 0.8 * known.sum() < len(points) <= known.sum() and np.isfinite(points).all()
        assert [field.name for field in message.fields] == ['x', 'y', 'z', 'rgb']
        rgb = np.frombuffer(message.data, np.uint8).reshape(-1, 16)[:, 12:15]
        assert rgb.std() > 20


def test_the_diagnostics_name_rates_and_latencies(replayed):
    keys = {value.key for message in replayed.messages('diagnostics')
            for status in message.status for value in status.values}
    assert {'model', 'pairs', 'rate in: image (Hz)', 'rate in: depth (Hz)', 'rate out (Hz)',
            'latency: complete p50 / p99 (ms)'} <= keys
