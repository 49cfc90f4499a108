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
"""Recordings: whatever a file holds, frames come out or a SteerDepthError."""
from copy import deepcopy
from functools import lru_cache, partial
from types import SimpleNamespace

from fuzz_input import Input, joined, Scratch
import numpy as np
from rosbags.rosbag2 import reader, storage_mcap, storage_sqlite3
from ruamel.yaml import YAML

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import sparse_from_depth_image
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import choose_topics, node_values, run_pipeline
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import PERIOD_NS, RecordedFrame

# Most of the time would go into YAML: the list of plug-ins, the same QoS again and again, and
# metadata that stay as they are while the storage beside them changes.
YAML.official_plug_ins = lambda self: []
parsed = lru_cache(maxsize=256)(lambda text: YAML(typ='safe').load(text))
reader.YAML = lambda typ: SimpleNamespace(load=lambda text: deepcopy(parsed(text)))
for storage in (storage_mcap, storage_sqlite3):
    storage.parse_qos = lru_cache(storage.parse_qos)

FILES = Scratch()
SIZE = 4, 6
KINDS = (bag.IMAGE, bag.COMPRESSED_IMAGE, bag.CAMERA_INFO, bag.POINT_CLOUD, bag.TF_MESSAGE)


def recording(ending, data):
    """Read a single storage file as `steer_depth bag` does, up to the samples of each frame."""
    _read(FILES.write(f'recording{ending}', data))


def folder(data):
    """Read a rosbag2 folder: metadata.yaml and its storage file."""
    metadata, storage = Input(data).parts(2)
    _read(FILES.folder('rosbag2', **{'metadata.yaml': metadata, 'rosbag2.db3': storage}))


def cdr(data):
    """Decode the CDR of the first byte's message type, and read its stamp."""
    kind, raw = KINDS[data[0] % len(KINDS)] if data else bag.IMAGE, data[1:]
    bag.decode(raw, kind, '/topic')
    if kind != bag.TF_MESSAGE:
        bag.cdr_stamp_ns(raw)


def generated():
    """Give the functions that the rosbags package wrote for the types of messages used here."""
    return [getattr(bag.TYPES.get_msgdef(kind), f'deserialize_cdr_{order}')
            for kind in KINDS for order in ('le', 'be')]


def recording_seeds(ending):
    """Give a recording with clouds and one with depth images, two frames of 6 x 4 pixels each."""
    found = []
    for frames in (_cloud_frames(), _depth_frames()):
        path = FILES.path(f'seed{ending}')
        frames_to_bag(frames, path, overwrite=True)
        found.append(path.read_bytes())
    return found


def folder_seeds():
    """Give a rosbag2 folder as rosbag2 writes it."""
    path = FILES.path('rosbag2')
    frames_to_bag(_cloud_frames(), path, overwrite=True)
    return [joined((path / 'metadata.yaml').read_bytes(), (path / 'rosbag2.db3').read_bytes())]


def cdr_seeds():
    """Give every message of two recordings."""
    found = []
    for data in recording_seeds('.mcap'):
        with bag.BagReader(FILES.write('seed.mcap', data)) as source:
            found += [bytes([KINDS.index(source.topics[record.topic])]) + bytes(record.raw)
                      for record in source.messages()]
    return found


mcap, mcap_seeds = partial(recording, '.mcap'), partial(recording_seeds, '.mcap')
sqlite, sqlite_seeds = partial(recording, '.db3'), partial(recording_seeds, '.db3')


def _read(path):
    with bag.BagReader(path) as source:
        topics = choose_topics(source)
        for result in run_pipeline(source, topics, node_values(source, topics)):
            height, width = result.frame.image.shape[:2]
            uv, depth = result.sparse.uv, result.sparse.depth
            assert (uv >= -0.5).all() and (uv < (width - 0.5, height - 0.5)).all()
            assert (depth > 0).all() and len(uv) == len(depth)


def _frame(index):
    image = np.full((*SIZE, 3), 40 * index, np.uint8)
    return Frame(image, Camera(6, 4, 5.0, 5.0, 2.5, 1.5), PERIOD_NS * (index + 1))


def _cloud_frames():
    for index in range(2):
        frame = _frame(index)
        frame.points = np.array([[3, 0.5, 0.2], [4, -1, 0], [5, 0, -0.4]], np.float32)
        frame.camera_from_points = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0],
                                             [0, 0, 0, 1.0]])
        yield RecordedFrame(str(index), frame)


def _depth_frames():
    for index in range(2):
        frame = _frame(index)
        depth = np.full(SIZE, 2.0 + index, np.float32)
        frame.sparse = sparse_from_depth_image(depth)
        yield RecordedFrame(str(index), frame, depth_image=depth)
