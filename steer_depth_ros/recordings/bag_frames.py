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
"""From a recording to results: topics by their types, /tf, and the node's own pipeline."""
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Optional

from steer_depth_ros.errors import BagError, CalibrationError, ConfigError, SteerDepthError
from steer_depth_ros.geometry.transforms import matrix_from, TransformBuffer, TransformError
from steer_depth_ros.recordings import bag
from steer_depth_ros.ros import messages, parameters
from steer_depth_ros.ros.extrinsics import Extrinsics
from steer_depth_ros.ros.pipeline import Cloud, Job, Pipeline, Result
from steer_depth_ros.ros.synchronizer import Synchronizer

NODE = 'depth_completion'
TRUTH = '/ground_truth/depth/image'
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
        return self.points or self.sparse_depth or ''


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


def node_values(recording, topics, **given) -> dict:
    """
    Give the parameters that the node would have for these topics, checked.

    given: values that differ from the defaults. Raise ConfigError for an unknown name or a value
    that cannot be used.
    """
    unknown = [name for name in given if name not in parameters.PARAMETERS]
    if unknown:
        raise ConfigError(f'there is no parameter {", ".join(unknown)}; parameters are '
                          f'{", ".join(parameters.PARAMETERS)}')
    values = {name: p.default for name, p in parameters.PARAMETERS.items()}
    compressed = recording.topics[topics.depth] == bag.COMPRESSED_IMAGE
    values |= {'depth_source': 'points' if topics.points else 'depth_image',
               'image_compressed': recording.topics[topics.image] == bag.COMPRESSED_IMAGE,
               'depth_compressed': compressed, **given}
    values = {name: parameters.check(name, value) for name, value in values.items()}
    parameters.check_together(values)
    return values


def run_pipeline(recording, topics, values, completer=None, wanted=(),
                 counts=None) -> Iterator[Result]:
    """
    Give the node's result for each pair of image and depth of a recording, in order.

    values: of `node_values`. completer: may be None when no output that needs it is `wanted`.
    counts: a Counter that takes the synchroniser's counts of pairs and drops.
    Raise BagError, MessageError or CalibrationError naming the topic.
    """
    check_first_messages(recording, topics, values)
    pipeline = make_pipeline(recording, values, completer)
    for pair, info in read_pairs(recording, topics, values, counts):
        yield run_pair(pipeline, recording, topics, pair, info, wanted)


def make_pipeline(recording, values, completer=None) -> Pipeline:
    """Make the node's pipeline with the transforms of a recording."""
    # All transforms are there from the start, so there is nothing to wait for.
    values = {**values, 'tf_timeout_s': 0.0}
    return Pipeline(values, completer, Extrinsics(values, read_transforms(recording)))


def run_pair(pipeline, recording, topics, pair, info, wanted=()) -> Result:
    """Decode a pair and its camera_info, all of them records, and give the node's result."""
    with named(f'{topics.image} and {topics.depth} at {pair.image_ns / 1e9:.3f} s'):
        cloud = Cloud(recording.decode(pair.depth), pair.depth_ns)
        pair = pair._replace(image=recording.decode(pair.image), depth=cloud)
        return pipeline.run(Job(pair, recording.decode(info)), set(wanted))


def check_first_messages(recording, topics, values):
    """Read the first message of every topic; raise the error of the first that cannot be used."""
    image, info, depth = (recording.first(t) for t in (topics.image, topics.camera_info,
                                                        topics.depth))
    with named(topics.image):
        compressed = values['image_compressed']
        pixels = (messages.compressed_to_rgb if compressed else messages.image_to_rgb)(image)
    with named(topics.camera_info):
        camera = messages.camera_from_info(info, values['image_rectified'])
        if (camera.height, camera.width) != pixels.shape[:2]:
            raise CalibrationError(
                f'it describes images of {camera.width} x {camera.height} pixels, but '
                f'{topics.image} has {pixels.shape[1]} x {pixels.shape[0]}; choose the '
                'camera_info of that image')
    with named(topics.depth):
        if topics.points:
            messages.cloud_to_xyz(depth)
        elif values['depth_compressed']:
            messages.compressed_depth_to_metres(depth)
        else:
            messages.depth_to_metres(depth)


def read_transforms(recording) -> TransformBuffer:
    """Collect every transform of /tf and /tf_static, of the whole recording at once."""
    transforms = TransformBuffer(WHOLE_RECORDING_NS, disorder_ns=WHOLE_RECORDING_NS)
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
    except TransformError as error:
        raise TransformError(
            f'{topic}: the recording does not tell where the depth sensor is ({error}); tell it '
            'with --param extrinsics.source=parameters --param extrinsics.xyz=[x,y,z] --param '
            'extrinsics.quaternion=[x,y,z,w]') from None
    except SteerDepthError as error:
        raise type(error)(f'{topic}: {error}') from None


def read_pairs(recording, topics, values, counts=None):
    """Give each pair, and the camera_info that was current when it was complete, as records."""
    info = next(recording.messages(topics.camera_info))
    sync = Synchronizer(values['slop_s'], values['time_offset_s'], values['queue_size'],
                        topics.depth)
    add = {topics.image: sync.add_image, topics.depth: sync.add_depth}
    for record in recording.messages(topics.image, topics.depth, topics.camera_info):
        if record.topic == topics.camera_info:
            info = record
            continue
        for pair in add[record.topic](bag.cdr_stamp_ns(record.raw), record):
            yield pair, info
    apart = sync.hint()
    for pair in sync.flush():
        yield pair, info
    if counts is not None:
        counts.update(sync.counts)
    if not sync.counts['pairs']:
        apart = apart or f'none lie within {values["slop_s"]} s (slop_s) of each other'
        raise BagError(f'no message of {topics.image} fits one of {topics.depth}: {apart}')


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
                       f'{_listed(recording)}: record that topic too, or take another recording')
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
