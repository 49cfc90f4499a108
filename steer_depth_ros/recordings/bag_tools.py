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
"""Convert frame folders to recordings, and complete recordings offline with the node's code."""
from contextlib import contextmanager, nullcontext

import numpy as np

from steer_depth_ros.errors import BagError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.geometry.transforms import quaternion_from
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import (
    calibration_message,
    choose_topics,
    Drops,
    info_beside,
    NODE,
    node_values,
    run_jobs,
    tf_topics,
    TRUTH,
)
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import calibrated_values
from steer_depth_ros.ros.output_fields import output_fields, RateGate
from steer_depth_ros.viz.overlay import draw_overlay, Video

CAMERA_FRAME = 'camera_optical_frame'
LIDAR_FRAME = 'lidar'
RECORDED = {'image': '/camera/image', 'camera_info': '/camera/camera_info',
            'points': '/lidar/points', 'sparse_depth': '/camera/sparse_depth',
            'tf': '/tf_static'}
OUTPUTS = {'depth': (f'/{NODE}/depth/image', bag.IMAGE),
           'camera_info': (f'/{NODE}/depth/camera_info', bag.CAMERA_INFO),
           'confidence': (f'/{NODE}/confidence/image', bag.IMAGE),
           'cloud': (f'/{NODE}/points', bag.POINT_CLOUD)}
PICTURES = {'overlay': (f'/{NODE}/debug/overlay', bag.IMAGE),
            'depth_color': (f'/{NODE}/debug/depth_color', bag.IMAGE)}


def frames_to_bag(frames, target, overwrite=False) -> int:
    """
    Write frames (`frame_folder.RecordedFrame`) as a rosbag2; return their number.

    Writes image, CameraInfo, cloud or depth image, the extrinsics as a static transform, and the
    ground truth if known. target: as for `BagWriter`.
    """
    count = 0
    with bag.BagWriter(target, overwrite) as writer:
        topics = set()

        def write(topic, kind, stamp_ns, message):
            if topic not in topics:
                topics.add(topic)
                writer.add_topic(topic, kind)
            writer.write(topic, stamp_ns, message)

        pose = None
        for recorded in frames:
            own = pose if recorded.frame.points is None else recorded.frame.camera_from_points
            if pose is not None and own is not None and not np.allclose(own, pose, atol=1e-6):
                raise BagError(f'T_cam_lidar of frame {recorded.name} is not that of the frames '
                               'before, and a recording has one; put frames with each pose into '
                               'a recording of their own')
            for topic, kind, message in _frame_messages(recorded, first=pose is None):
                write(topic, kind, recorded.frame.stamp_ns, message)
            pose, count = own, count + 1
    return count


class Stored:
    """The completed messages of a pair; without any, depth is None and `why` the reason."""

    def __init__(self, why='', messages=()):
        self.why, self.messages = why, messages
        self.depth = messages or None


@contextmanager
def open_bag(source, topics=None, values=None, calibration=None):
    """
    Yield an open recording, its Topics, all parameters, and the Calibration or None.

    The arguments are those of `complete_bag`.
    """
    with bag.BagReader(source) as recording:
        given = values or {}
        if calibration is None and given.get('calibration_file'):
            calibration = read_calibration(given['calibration_file'])
        chosen = choose_topics(recording, **(topics or {}), given=given,
                               calibrated=calibration is not None)
        values = calibrated_values(node_values(recording, chosen, **given), calibration)
        yield recording, chosen, values, calibration


def complete_bag(source, target, completer, topics=None, values=None, overwrite=False,
                 progress=None, keep_inputs=False, calibration=None,
                 tell=lambda sentence: None, stored=None, overlay=None) -> dict:
    """
    Complete a recording offline: pairs and results of the node, without its time limit.

    target: receives completed depth, its camera_info, confidence and colored cloud under the
    node's topic names, with the stamps and frame ids of the images.
    completer: DepthCompleter. topics: keyword arguments of `choose_topics`. values: parameters of
    the node that differ from their defaults.
    progress: called with the number of completed frames and of images.
    keep_inputs: also copy the image, its camera_info and all transforms, so that a viewer needs
    nothing else. calibration: from `read_calibration`, instead of a camera_info.
    tell: called with a sentence for each cause of dropped frames. stored: yields for each pair
    the Stored or the error from elsewhere, instead of completing it here.
    overlay: path of a video of depth edges over image edges; not with `stored`.
    Return a dict of frames, images and drops by cause. Raise BagError, MessageError,
    CalibrationError or ConfigError; the target is created only if a frame was completed.
    """
    drops, frames, gate = Drops(), 0, RateGate()
    bag.require_apart(source, target)
    with open_bag(source, topics, values, calibration) as (recording, chosen, values, calibration):
        images = recording.counts[chosen.image]
        with bag.BagWriter(target, overwrite) as writer, (
                Video(overlay) if overlay else nullcontext()) as video:
            for topic, kind in OUTPUTS.values():
                writer.add_topic(topic, kind)
            kept = _keep(recording, chosen, calibration, writer) if keep_inputs else ()

            def copy(record):
                if record.topic in kept:
                    writer.write(record.topic, record.log_ns, record.raw)

            for job, result in run_jobs(recording, chosen, values, completer, {*OUTPUTS}, drops,
                                        calibration, kept, copy, tell, stored):
                if video is not None:
                    video.add(draw_overlay(result.frame.image, result.sparse.uv,
                                           result.sparse.depth))
                if result.depth is None:
                    drops.add(BagError(result.why), 'no_points_in_image')
                    continue
                frames += 1
                # Recorded with its image, so that a player shows both together.
                log_ns = job.pair.image.record.log_ns
                cloud = gate.due(job.pair.image_ns, values['cloud_rate_hz'])
                if cloud:
                    gate.passed(job.pair.image_ns)
                for role, message in completed_messages(result, values, cloud):
                    writer.write(OUTPUTS[role][0], log_ns, message)
                if progress:
                    progress(frames, images)
            if not frames:
                raise drops.failure(f'no frame of {source} could be completed')
    for sentence in (*drops.reasons(), *([drops.hint] if drops.hint else ())):
        tell(sentence)
    return {'frames': frames, 'images': images, 'dropped': dict(drops.counts)}


def _keep(recording, chosen, calibration, writer):
    """Declare the inputs that a viewer needs; return the topics to copy."""
    kept = [chosen.image, *tf_topics(recording)]
    if calibration:
        message = calibration_message(recording, chosen, calibration)
        topic = info_beside(recording, chosen.image)
        writer.add_topic(topic, bag.CAMERA_INFO, [bag.LATCHED])
        writer.write(topic, next(recording.messages(chosen.image)).log_ns, message)
    else:
        kept.append(chosen.camera_info)
    for topic in kept:
        writer.add_topic(topic, recording.topics[topic], recording.qos.get(topic, ()))
    return kept


def completed_messages(result, values, cloud=True):
    """Yield (role, message) for all outputs of a result; cloud: include the cloud."""
    if isinstance(result, Stored):
        yield from (made for made in result.messages if cloud or made[0] != 'cloud')
        return
    for role, (_, kind) in OUTPUTS.items():
        if cloud or role != 'cloud':
            fields = output_fields(role, result, values)
            yield role, bag.build(kind, result.frame.stamp_ns, result.frame.frame_id, fields)


def _frame_messages(recorded, first):
    """Yield (topic, type, message) of a frame; the first with points also yields their pose."""
    frame = recorded.frame
    stamp = frame.stamp_ns

    def made(kind, fields, frame_id=CAMERA_FRAME):
        return kind, bag.build(kind, stamp, frame_id, fields)

    if frame.points is not None:
        if first:
            xyz = frame.camera_from_points[:3, 3]
            yield (RECORDED['tf'], bag.TF_MESSAGE, bag.transform_message(
                CAMERA_FRAME, LIDAR_FRAME, stamp, xyz, quaternion_from(frame.camera_from_points)))
        fields = _points_fields(frame.points)
        yield RECORDED['points'], *made(bag.POINT_CLOUD, fields, LIDAR_FRAME)
    else:
        fields = messages.depth_fields(recorded.depth_image)
        yield RECORDED['sparse_depth'], *made(bag.IMAGE, fields)
    fields = messages.camera_info_fields(frame.camera)
    yield RECORDED['camera_info'], *made(bag.CAMERA_INFO, fields)
    if recorded.truth is not None:
        yield TRUTH, *made(bag.IMAGE, messages.depth_fields(recorded.truth))
    yield RECORDED['image'], *made(bag.IMAGE, messages.image_fields(frame.image, 'rgb8'))


def _points_fields(points):
    """Return the fields of a PointCloud2 with x, y, z only; points: (N, 3) float32 or float64."""
    size, datatype = points.dtype.itemsize, 8 if points.dtype == np.float64 else 7
    return {**messages.cloud_fields(np.zeros((0, 4), np.float32)), 'width': len(points),
            'point_step': 3 * size, 'row_step': 3 * size * len(points),
            'fields': [{'name': name, 'offset': size * i, 'datatype': datatype, 'count': 1}
                       for i, name in enumerate('xyz')],
            'data': np.ascontiguousarray(points).reshape(-1).view(np.uint8)}
