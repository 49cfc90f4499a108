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
"""Frames out of a recording: topics by their types, extrinsics from /tf, stamps in pairs."""
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Optional

import numpy as np

from steer_depth_ros import bag
from steer_depth_ros.errors import BagError, CalibrationError, SteerDepthError
from steer_depth_ros.frame import Frame
from steer_depth_ros.projection import sparse_from_depth_image
from steer_depth_ros.ros import messages
from steer_depth_ros.synchronizer import Synchronizer
from steer_depth_ros.transforms import matrix_from, TransformBuffer

NODE = 'depth_completion'
TRUTH = '/ground_truth/depth/image'
SLOP_S = 0.05
WHOLE_RECORDING_NS = 2 ** 62
IMAGE_TYPES = (bag.IMAGE, bag.COMPRESSED_IMAGE)


@dataclass(frozen=True)
class Topics:
    """The topics of a recording that make a frame: points, or sparse_depth, is None."""

    image: str
    camera_info: str
    points: Optional[str] = None
    sparse_depth: Optional[str] = None

    @property
    def depth(self) -> str:
        return self.points or self.sparse_depth


def choose_topics(recording, image=None, camera_info=None, points=None,
                  sparse_depth=None) -> Topics:
    """
    Find the topics by message type where they are not given by name.

    A colour image, the CameraInfo beside it, and a cloud, or without clouds a depth image.
    What the node itself publishes and the ground truth do not count.
    Raise BagError, naming the topics there are, when one is missing or several could be meant.
    """
    image = _choose(recording, image, IMAGE_TYPES, 'image', _is_colour)
    camera_info = camera_info or _sibling(recording, image)
    camera_info = _choose(recording, camera_info, (bag.CAMERA_INFO,), 'camera_info')
    if not sparse_depth and (points or bag.POINT_CLOUD in recording.topics.values()):
        points = _choose(recording, points, (bag.POINT_CLOUD,), 'points')
        return Topics(image, camera_info, points=points)
    sparse_depth = _choose(recording, sparse_depth, IMAGE_TYPES, 'sparse_depth', _is_depth,
                           'points (a PointCloud2) or sparse_depth (a depth image)')
    return Topics(image, camera_info, sparse_depth=sparse_depth)


def read_bag_frames(recording, topics, slop_s=SLOP_S, extrinsics=None, rectified=False,
                    counts=None) -> Iterator[Frame]:
    """
    Give the frames of a recording in order, paired by the synchroniser of the node.

    extrinsics: (4, 4) from the cloud to the optical frame, instead of the recorded /tf.
    rectified: the images are rectified already (P of camera_info, no distortion).
    counts: a Counter that takes the synchroniser's counts of pairs and drops.
    Raise BagError, MessageError or CalibrationError naming the topic.
    """
    transforms = None
    if topics.points and extrinsics is None:
        transforms = read_transforms(recording)
    for pair, info in _pairs(recording, topics, slop_s, counts):
        yield _frame(recording, topics, pair, info, transforms, extrinsics, rectified)


def read_transforms(recording) -> TransformBuffer:
    """Collect every transform of /tf and /tf_static, of the whole recording at once."""
    transforms = TransformBuffer(history_ns=WHOLE_RECORDING_NS)
    tf_topics = [t for t, kind in recording.topics.items() if kind == bag.TF_MESSAGE]
    for record in recording.messages(*tf_topics) if tf_topics else ():
        static = record.topic.endswith('tf_static')
        with named(record.topic):
            for message in recording.decode(record).transforms:
                xyz, q = message.transform.translation, message.transform.rotation
                transforms.set_transform(
                    message.header.frame_id, message.child_frame_id,
                    messages.stamp_ns(message.header),
                    matrix_from((xyz.x, xyz.y, xyz.z), (q.x, q.y, q.z, q.w)), static)
    return transforms


def find_extrinsics(transforms, target, source, stamp_ns) -> np.ndarray:
    """Look up the (4, 4) from the cloud's frame to the camera's, or raise CalibrationError."""
    try:
        return transforms.lookup(target, source, stamp_ns)
    except CalibrationError as error:
        raise CalibrationError(f'the recording does not tell where the sensor "{source}" sits on '
                               f'the camera "{target}" ({error}); give it with --xyz and '
                               '--quaternion') from None


def read_truth(recording):
    """Read the ground truth: a dict of image stamp to float32 (H, W) metres, NaN unknown."""
    if TRUTH not in recording.topics:
        return {}
    found = (recording.decode(record) for record in recording.messages(TRUTH))
    return {messages.stamp_ns(m.header): messages.depth_to_metres(m) for m in found}


@contextmanager
def named(topic):
    """Put the topic before whatever is wrong with its messages."""
    try:
        yield
    except BagError:
        raise
    except SteerDepthError as error:
        raise type(error)(f'{topic}: {error}') from None


def _pairs(recording, topics, slop_s, counts):
    """Give each pair with the camera_info that was current when it became complete."""
    info = recording.first(topics.camera_info)
    sync = Synchronizer(slop_s, depth_name=topics.depth)
    add = {topics.image: sync.add_image, topics.depth: sync.add_depth}
    for record in recording.messages(topics.image, topics.depth, topics.camera_info):
        if record.topic == topics.camera_info:
            info = recording.decode(record)
            continue
        for pair in add[record.topic](bag.cdr_stamp_ns(record.raw), record):
            yield pair, info
    for pair in sync.flush():
        yield pair, info
    if counts is not None:
        counts.update(sync.counts)
    if not sync.counts['pairs']:
        apart = sync.hint() or f'none lie within {slop_s * 1e3:g} ms of each other'
        raise BagError(f'no message of {topics.image} fits one of {topics.depth}: {apart}')


def _frame(recording, topics, pair, info, transforms, extrinsics, rectified):
    message = recording.decode(pair.image)
    compressed = recording.topics[topics.image] == bag.COMPRESSED_IMAGE
    with named(topics.image):
        image = (messages.compressed_to_rgb if compressed else messages.image_to_rgb)(message)
    with named(topics.camera_info):
        camera = _camera(info, rectified, image.shape[:2], topics)
    frame = Frame(image, camera, pair.image_ns, message.header.frame_id)
    depth = recording.decode(pair.depth)
    with named(topics.depth):
        if topics.points:
            frame.points = messages.cloud_to_xyz(depth)
            frame.camera_from_points = extrinsics if extrinsics is not None else find_extrinsics(
                transforms, frame.frame_id, depth.header.frame_id, pair.depth_ns)
        else:
            compressed = recording.topics[topics.depth] == bag.COMPRESSED_IMAGE
            read = messages.compressed_depth_to_metres if compressed else messages.depth_to_metres
            frame.sparse = _sparse(read(depth), camera, topics)
    return frame


def _camera(info, rectified, size, topics):
    camera = messages.camera_from_info(info, rectified)
    if (camera.height, camera.width) != size:
        raise CalibrationError(
            f'it describes images of {camera.width} x {camera.height} pixels, but {topics.image} '
            f'has {size[1]} x {size[0]}; choose the camera_info of that image')
    return camera


def _sparse(depth, camera, topics):
    if depth.shape != (camera.height, camera.width):
        raise CalibrationError(
            f'the depth image has {depth.shape[1]} x {depth.shape[0]} pixels, but {topics.image} '
            f'has {camera.width} x {camera.height}; register the depth to the image first')
    return sparse_from_depth_image(depth)


def _choose(recording, name, kinds, role, accept=None, wanted=None):
    """Check the topic that was given, or find the only one of these message types."""
    if name:
        if recording.topics.get(name) not in kinds:
            raise BagError(f'the recording has no topic {name} of type {" or ".join(kinds)}; '
                           f'it has {_listed(recording)}')
        return name
    found = [t for t, kind in recording.topics.items()
             if kind in kinds and t != TRUTH and f'/{NODE}/' not in t
             and (accept is None or accept(recording, t))]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BagError(f'the recording has no topic for {wanted or role}; it has '
                       f'{_listed(recording)}')
    raise BagError(f'several topics could be the {role}: {", ".join(sorted(found))}; choose with '
                   f'--{role.replace("_", "-")}')


def _listed(recording):
    return ', '.join(f'{t} ({kind})' for t, kind in sorted(recording.topics.items()))


def _sibling(recording, image):
    """Find the camera_info in the namespace of the image, or None."""
    parts = image.split('/')
    for cut in (1, 2):  # .../camera_info beside .../image, or beside .../image/compressed
        name = '/'.join([*parts[:-cut], 'camera_info'])
        if recording.topics.get(name) == bag.CAMERA_INFO:
            return name
    return None


def _is_depth(recording, topic):
    message = recording.first(topic)
    if recording.topics[topic] == bag.COMPRESSED_IMAGE:
        return 'compressedDepth' in message.format
    return message.encoding in ('16UC1', '32FC1')


def _is_colour(recording, topic):
    return not _is_depth(recording, topic)


def count_drops(counts: Counter) -> dict:
    """Name what the synchroniser dropped and how often, without the entries that are zero."""
    causes = ('unmatched', 'superseded', 'overflow', 'repeated', 'out_of_order', 'reset')
    return {name: counts[name] for stream in ('image', 'depth') for cause in causes
            if counts[name := f'{stream}_{cause}']}
