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
"""Run a recording through the node's pipeline: choose topics, read /tf, match, complete."""
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Dict, Iterator, List, Optional, Tuple

from steer_depth_ros.errors import BagError, ConfigError, SteerDepthError
from steer_depth_ros.geometry.calibration_file import Calibration
from steer_depth_ros.geometry.transforms import TransformBuffer, TransformError
from steer_depth_ros.recordings import bag
from steer_depth_ros.ros import messages, parameters
from steer_depth_ros.ros.extrinsics import add_transform, calibrated_values, Extrinsics
from steer_depth_ros.ros.matching import Matcher
from steer_depth_ros.ros.pipeline import Job, Pipeline, Result

NODE = 'depth_completion'
TRUTH = '/ground_truth/depth/image'
WHOLE_RECORDING_NS = 2 ** 62
IMAGE_TYPES = (bag.IMAGE, bag.COMPRESSED_IMAGE)
ALL_WRONG = 100  # give up if the first this many frames all fail
NAMED = 3  # ignored transforms named in a warning


@dataclass(frozen=True)
class Topics:
    """The topics that make up a frame; either points or sparse_depth is None."""

    image: str
    camera_info: Optional[str]  # None: the calibration comes from a file
    points: Optional[str] = None
    sparse_depth: Optional[str] = None
    others: Tuple[str, ...] = ()  # clouds of further LiDARs
    depth_info: Optional[str] = None  # the CameraInfo of sparse_depth, if it has one of its own

    @property
    def depth(self) -> str:
        return self.points or self.sparse_depth or ''


class Recorded:
    """A recorded message, decoded on first access; that raises BagError if it is damaged."""

    def __init__(self, recording, record):
        self.record, self._recording = record, recording

    @cached_property
    def msg(self) -> Any:
        return self._recording.decode(self.record)

    @property
    def header(self) -> Any:
        return self.msg.header


class Drops:
    """
    What was dropped, by cause, counted as in the node.

    counts: Counter by cause. first: the first error of each cause. hint: what is wrong with the
    stamps if most messages were not paired.
    """

    def __init__(self):
        self.counts: Counter = Counter()
        self.first: Dict[str, SteerDepthError] = {}
        self.hint: Optional[str] = None

    def add(self, error: SteerDepthError, cause: Optional[str] = None) -> None:
        """Count a dropped frame."""
        cause = cause or type(error).__name__
        self.counts[cause] += 1
        self.first.setdefault(cause, error)

    def reasons(self) -> List[str]:
        """Return a sentence for each cause with an error."""
        return [f'{self.counts[cause]} dropped, {cause}: {error}'
                for cause, error in self.first.items()]

    def failure(self, what: str) -> SteerDepthError:
        """Return the error to raise for a run without any result."""
        if len(self.first) == 1:
            return next(iter(self.first.values()))
        return BagError(f'{what}: ' + ('; '.join(self.reasons()) or 'it holds no frame'))


def choose_topics(recording, image=None, camera_info=None, points=None, sparse_depth=None,
                  given=None, calibrated=False) -> Topics:
    """
    Choose the topics, by message type unless they are given by name.

    They are a color image, its CameraInfo, and a cloud or, if there is none, a depth image. The
    node's own outputs and the ground truth are ignored.
    given: parameters of the node that were set; depth_source, image_compressed and
    depth_compressed decide between several topics. calibrated: a calibration file replaces the
    CameraInfo.
    Raise BagError, listing the topics, if one is missing or several match.
    """
    given = given or {}
    image = _choose(recording, image, IMAGE_TYPES, 'image', _is_color,
                    compressed=given.get('image_compressed'))
    info: Optional[str] = None
    if not calibrated:
        info = _choose(recording, camera_info or _sibling(recording, image), (bag.CAMERA_INFO,),
                       'camera_info', remedy='or give its calibration with --calibration FILE')
    wants_images = given.get('depth_source') == 'depth_image' and not points
    if not sparse_depth and not wants_images and (
            points or bag.POINT_CLOUD in recording.topics.values()):
        several = [] if points else [t for t in given.get('points_topics') or () if t]
        points, *others = [_choose(recording, name, (bag.POINT_CLOUD,), 'points')
                           for name in several or [points]]
        return Topics(image, info, points=points, others=tuple(others))
    sparse_depth = _choose(recording, sparse_depth, IMAGE_TYPES, 'sparse_depth', _is_depth,
                           'points (a PointCloud2) or sparse_depth (a depth image)',
                           compressed=given.get('depth_compressed'))
    beside = _sibling(recording, sparse_depth)
    return Topics(image, info, sparse_depth=sparse_depth,
                  depth_info=beside if beside != info or calibrated else None)


def recorded_pose(recording, topics, values):
    """Return the (4, 4) pose of the LiDAR at the first frame, None where TF is not asked for."""
    if not topics.points or values['extrinsics.source'] not in ('auto', 'tf'):
        return None
    return next(run_pipeline(recording, topics, values)).frame.camera_from_points


def node_values(recording, topics, **given) -> dict:
    """
    Return the checked parameters of the node for these topics.

    given: values that differ from the defaults. Raise ConfigError for an unknown name or an
    invalid value.
    """
    unknown = [name for name in given if name not in parameters.PARAMETERS]
    if unknown:
        raise ConfigError(f'there is no parameter {", ".join(unknown)}; parameters are '
                          f'{", ".join(parameters.PARAMETERS)}')
    values = {name: p.default for name, p in parameters.PARAMETERS.items()}
    values |= {name: parameters.check(name, value) for name, value in given.items()}
    # The recording determines these, whatever a parameter file says.
    values |= {'depth_source': 'points' if topics.points else 'depth_image',
               'image_compressed': recording.topics[topics.image] == bag.COMPRESSED_IMAGE,
               'depth_compressed': recording.topics[topics.depth] == bag.COMPRESSED_IMAGE}
    parameters.check_together(values)
    return values


def run_pipeline(recording, topics, values, drops=None) -> Iterator[Result]:
    """
    Yield the node's result for each pair of image and depth of a recording, in order.

    Nothing is completed. values: from `node_values`.
    drops: collects what was dropped; as in the node, unusable frames are skipped.
    Raise BagError if nothing can be paired, and the error of the frames if all of them fail.
    """
    for _, result in run_jobs(recording, topics, values, drops=drops):
        yield result


def run_jobs(recording, topics, values, completer=None, wanted=(), drops=None, calibration=None,
             also=(), seen=lambda record: None, tell=lambda sentence: None,
             stored=None) -> Iterator[Tuple[Job, Any]]:
    """
    Yield (job, result) like `run_pipeline`; the messages of the job are Recorded.

    completer: may be None if no `wanted` output needs it.
    calibration: from `read_calibration`, instead of the topic.
    also: further topics to read. seen: called with each record in recorded order. tell: called
    with a sentence whenever an input is interpreted differently than it declares. stored: yields
    the result of each job, or its error, if the jobs were run elsewhere.
    """
    drops = Drops() if drops is None else drops
    values = calibrated_values(values, calibration)
    pipeline = None if stored else make_pipeline(recording, values, topics, completer, tell)
    found = failed = 0
    for job in read_jobs(recording, topics, values, drops, calibration, also, seen):
        try:
            result = next(stored) if stored else run_job(pipeline, topics, job, wanted)
            if isinstance(result, SteerDepthError):
                raise result
        except SteerDepthError as error:
            drops.add(error)
            failed += not isinstance(error, TransformError)
            if not found and failed >= ALL_WRONG:
                raise
            continue
        found += 1
        yield job, result
    if not found:
        raise drops.failure(f'no frame of {recording.path} can be used')


def make_pipeline(recording, values, topics, completer=None, tell=lambda sentence: None,
                  transforms=None) -> Pipeline:
    """Return the node's pipeline with the transforms of a recording; read unless given."""
    # All transforms are known from the start, so waiting is pointless.
    values = {**values, 'tf_timeout_s': 0.0}
    if transforms is None:
        transforms, ignored = read_transforms(recording)
        for sentence in ignored:
            tell(sentence)
    return Pipeline(values, completer, Extrinsics(values, transforms),
                    {'image': topics.image, 'depth': topics.depth,
                     'camera_info': topics.camera_info or 'the calibration file',
                     'depth_info': topics.depth_info or topics.camera_info or ''}, tell)


def run_job(pipeline, topics, job, wanted=()) -> Result:
    """Decode a job of Recorded messages and return the node's result."""
    with named(f'{topics.image} and {topics.depth} at {job.pair.image_ns / 1e9:.3f} s'):
        clouds = [cloud for cloud in (*job.earlier, job.pair.depth)
                  if isinstance(cloud.msg, Recorded)]
        for cloud in clouds:  # in place: converted once for all jobs that share it
            cloud.msg = cloud.msg.msg
        infos = {name: info.msg if isinstance(info := getattr(job, name), Recorded) else info
                 for name in ('info', 'depth_info')}
        return pipeline.run(replace(job, pair=job.pair._replace(image=job.pair.image.msg),
                                    **infos), set(wanted))


def read_transforms(recording) -> Tuple[TransformBuffer, List[str]]:
    """
    Read all transforms of /tf and /tf_static.

    Return them and a warning for each that was ignored because it is not a valid pose.
    """
    transforms = TransformBuffer(WHOLE_RECORDING_NS, disorder_ns=WHOLE_RECORDING_NS)
    ignored: Dict[str, str] = {}
    topics = tf_topics(recording)
    for record in recording.messages(*topics) if topics else ():
        static = record.topic.endswith('tf_static')
        try:
            message = recording.decode(record)
        except BagError as error:
            ignored.setdefault(record.topic, str(error))
            continue
        for one in message.transforms:
            try:
                add_transform(transforms, one, static)
            except TransformError as error:
                name = f'"{one.child_frame_id}" in "{one.header.frame_id}"'
                ignored.setdefault(name, str(error))
    more = f' and {len(ignored) - NAMED} more' if len(ignored) > NAMED else ''
    named_ones = list(ignored.items())[:NAMED]
    return transforms, [f'ignored the transforms of {name} ({reason}){more}'
                        for name, reason in named_ones]


def tf_topics(recording) -> List[str]:
    """Return the transform topics."""
    return [t for t, kind in recording.topics.items() if kind == bag.TF_MESSAGE]


def read_truth(recording):
    """Return the ground truth by image stamp: float32 (H, W) meters, NaN where unknown."""
    if TRUTH not in recording.topics:
        return {}
    found = (recording.decode(record) for record in recording.messages(TRUTH))
    return {messages.stamp_ns(m.header): messages.depth_to_metres(m) for m in found}


@contextmanager
def named(frame):
    """Add the frame and the remedy to a TransformError."""
    try:
        yield
    except TransformError as error:
        raise TransformError(
            f'{frame}: the recording does not tell where the depth sensor is ({error}); tell it '
            'with --param extrinsics.source=parameters --param extrinsics.xyz=[x,y,z] --param '
            'extrinsics.quaternion=[x,y,z,w]') from None


def read_jobs(recording, topics, values, drops, calibration=None, also=(),
              seen=lambda record: None) -> Iterator[Job]:
    """Yield the jobs that the node would make of a recording; see `run_jobs`."""
    matcher = Matcher(values, topics.depth)
    # Used also for images recorded before the first camera_info.
    matcher.info = calibration or Recorded(recording, _first(recording, topics.camera_info))
    wanted = [topics.image, topics.depth, *topics.others]
    if not calibration:
        wanted.append(topics.camera_info)
    if topics.depth_info:
        matcher.depth_info = Recorded(recording, _first(recording, topics.depth_info))
        wanted.append(topics.depth_info)
    for record in recording.messages(*wanted, *also):
        seen(record)
        if record.topic not in wanted:
            continue
        item = Recorded(recording, record)
        if record.topic == topics.camera_info:
            matcher.info = item
        elif record.topic == topics.depth_info:
            matcher.depth_info = item
        if record.topic in (topics.camera_info, topics.depth_info):
            continue
        try:
            stamp = bag.cdr_stamp_ns(record.raw)
        except BagError as error:
            drops.add(BagError(f'{record.topic}: {error}'))
            continue
        if record.topic in topics.others:
            matcher.add_other(record.topic, stamp, item)
        elif record.topic == topics.image:
            yield from matcher.add_image(stamp, item, record.log_ns)
        else:
            yield from matcher.add_depth(stamp, item, record.log_ns)
    drops.hint = matcher.hint()
    yield from matcher.flush()
    drops.counts.update(count_drops(matcher.sync.counts))
    if not matcher.sync.counts['pairs']:
        apart = drops.hint or f'none lie within {values["slop_s"]} s (slop_s) of each other'
        raise BagError(f'no message of {topics.image} fits one of {topics.depth}: {apart}')


def calibration_message(recording, topics, calibration: Calibration) -> Any:
    """Return a calibration as CameraInfo, with size and frame of the first image."""
    error: Optional[SteerDepthError] = None
    for record in recording.messages(topics.image):
        try:
            image = recording.decode(record)
            convert = messages.image_to_rgb if hasattr(image, 'encoding') else (
                messages.compressed_to_rgb)
            height, width = convert(image).shape[:2]
        except SteerDepthError as wrong:
            error = error or wrong
            continue
        sized = calibration.of_size(width, height)
        return bag.build(bag.CAMERA_INFO, messages.stamp_ns(image.header), image.header.frame_id, {
            'height': sized.height, 'width': sized.width, 'd': sized.d, 'k': sized.k,
            'distortion_model': sized.distortion_model, 'r': sized.r, 'p': sized.p})
    raise error or BagError(f'{recording.path} holds no message of {topics.image}')


def _first(recording, topic):
    """Return the first record of a topic; raise BagError if there is none."""
    record = next(recording.messages(topic), None)
    if record is None:
        recording.first(topic)  # raises with the reason
    return record


def _choose(recording, name, kinds, role, accept=None, wanted=None, compressed=None, remedy=None):
    """Return the given topic if it is valid, else the only one of these message types."""
    if name:
        if recording.topics.get(name) not in kinds:
            raise BagError(f'the recording has no topic {name} of type {" or ".join(kinds)}; '
                           f'it has {_listed(recording)}')
        return name
    found = [t for t, kind in recording.topics.items()
             if kind in kinds and t != TRUTH and f'/{NODE}/' not in t
             and (accept is None or accept(recording, t))]
    found = _one_transport(recording, found, compressed)
    if len(found) == 1:
        return found[0]
    if not found:
        raise BagError(f'the recording has no topic for {wanted or role}; it has '
                       f'{_listed(recording)}: record that topic too, '
                       f'{remedy or "or take another recording"}')
    together = (f', or use all with --param points_topics=[{",".join(sorted(found))}]'
                if role == 'points' else '')
    raise BagError(f'several topics could be the {role}: {", ".join(sorted(found))}; choose with '
                   f'--{role.replace("_", "-")}{together}')


def _one_transport(recording, found, compressed):
    """Keep one transport of each image: the raw one, or what the user chose."""
    packed = [t for t in found if recording.topics[t] == bag.COMPRESSED_IMAGE]
    raw = [t for t in found if t not in packed]
    if compressed is not None and (packed if compressed else raw):
        found = packed if compressed else raw
    return [t for t in found if not any(t.startswith(f'{r}/') for r in raw if r in found)]


def _listed(recording):
    read = [f'{t} ({kind})' for t, kind in sorted(recording.topics.items())]
    return ', '.join(read + [f'{t} ({kind}, not read)'
                             for t, kind in sorted(recording.foreign.items())])


def _sibling(recording, image):
    """Return the camera_info in the namespace of the image, if recorded."""
    name = info_beside(recording, image)
    return name if recording.topics.get(name) == bag.CAMERA_INFO else None


def info_beside(recording, image) -> str:
    """Return the name of the camera_info that belongs to .../image or .../image/compressed."""
    parts = image.split('/')
    names = ['/'.join([*parts[:-cut], 'camera_info']) for cut in (1, 2)]
    here = next((n for n in names if recording.topics.get(n) == bag.CAMERA_INFO), None)
    return here or names[recording.topics.get(image) == bag.COMPRESSED_IMAGE]


def _is_depth(recording, topic):
    return messages.is_depth(recording.first(topic))


def _is_color(recording, topic):
    return not _is_depth(recording, topic)


def count_drops(counts: Counter) -> dict:
    """Return the drop counters of the synchronizer that are not zero."""
    causes = ('unmatched', 'superseded', 'overflow', 'repeated', 'out_of_order', 'reset',
              'unstamped')
    return {name: counts[name] for stream in ('image', 'depth') for cause in causes
            if counts[name := f'{stream}_{cause}']}
