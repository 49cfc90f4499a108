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
"""Complete a matched pair of messages; independent of the node and of DDS."""
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import time
from typing import Any, Callable, Dict, List, Optional, Set

import cv2
import numpy as np

from steer_depth_ros.errors import CalibrationError, MessageError
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import (
    in_depth_range,
    project_points,
    sparse_from_depth_image,
    SparseDepth,
)
from steer_depth_ros.geometry.transforms import TransformError
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import compensate, Extrinsics, is_far, move
from steer_depth_ros.ros.stretch import Stretch
from steer_depth_ros.ros.synchronizer import Pair

COMPLETED = {'depth', 'confidence', 'cloud', 'depth_color'}  # outputs that need the model
NOTHING_INSIDE = ('no measured point lies in the image; check extrinsics, frames and the depth '
                  'range (~/debug/overlay shows where points fall)')
SHAPE_TOLERANCE = 0.01  # relative difference in aspect ratio between image and depth image
SAME_PLACE = 1.0  # pixels; a depth image whose projection differs by more is not registered
# Median distance of points from the middle of a cloud above which it must be in millimeters: no
# sensor on a robot measures that many meters. Less is enough if all coordinates are integers.
MILLIMETRES, WHOLE_MILLIMETRES = 400.0, 100.0
ENOUGH_POINTS = 100
FEW_INSIDE, TURNED_INSIDE, TIMES_MORE = 0.01, 0.03, 20  # of a cloud, in the image
LINK_CHECKS = 20
OPTICAL_FROM_LINK = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


class Cloud:
    """A PointCloud2 or depth image message, and its stamp on the image's clock."""

    def __init__(self, msg: Any, stamp_ns: int):
        self.msg, self.stamp_ns = msg, stamp_ns
        self._xyz: Optional[np.ndarray] = None

    def xyz(self) -> np.ndarray:
        """Return float32 (N, 3), converted only once."""
        if self._xyz is None:
            self._xyz = messages.cloud_to_xyz(self.msg)
        return self._xyz


@dataclass
class Job:
    """
    A pair of messages and everything else that its completion needs.

    pair: its depth is a Cloud. info: CameraInfo. earlier: clouds to use together with the pair's.
    arrived: time.perf_counter() when the pair was complete. depth_info: CameraInfo of the depth
    image or None; the same object as `info` if they share a topic.
    """

    pair: Pair
    info: Any
    earlier: List[Cloud] = field(default_factory=list)
    arrived: float = 0.0
    depth_info: Any = None


@dataclass
class Result:
    """
    The result of a job.

    header: of the image. depth, confidence: float32 (H, W), None if not wanted or if `sparse` is
    empty; `why` gives the likely cause then. stages: milliseconds by stage.
    """

    header: Any
    frame: Frame
    sparse: SparseDepth
    depth: Optional[np.ndarray] = None
    confidence: Optional[np.ndarray] = None
    stages: Dict[str, float] = field(default_factory=dict)
    why: str = ''


class Pipeline:
    """
    Converts, projects and completes.

    values: parameters of the node, see parameters.py. completer: a DepthCompleter.
    topics: names of `image`, `camera_info` and `depth`, for errors about their messages.
    tell: called with a sentence, once each, if an input is interpreted differently than declared.
    units: meters per unit of a sensor's coordinates, by frame, inferred from first messages.
    """

    def __init__(self, values: Dict[str, Any], completer: Any, extrinsics: Extrinsics,
                 topics: Optional[Dict[str, str]] = None,
                 tell: Callable[[str], None] = lambda sentence: None):
        self.values, self._completer, self._extrinsics = values, completer, extrinsics
        self._topics, self._tell_user = topics or {}, tell
        self._told: Set[str] = set()
        self._cameras: Dict[tuple, Any] = {}
        self._stretch = Stretch()
        self.units: Dict[str, float] = {}
        self._link_checks = 0

    @property
    def stretches(self) -> bool:
        """Return whether images have more than 8 bits; their mapping depends on earlier ones."""
        return self._stretch.used

    def run(self, job: Job, wanted: Set[str]) -> Result:
        """
        Process a job as far as the `wanted` outputs need it.

        Raise a SteerDepthError for messages, calibration or transforms that cannot be used.
        """
        stages = {}
        clock = time.perf_counter()
        if job.arrived:
            stages['wait'] = 1e3 * (clock - job.arrived)

        def lap(name):
            nonlocal clock
            now = time.perf_counter()
            stages[name], clock = 1e3 * (now - clock), now

        frame, sparse = self._image(job), None
        if self.values['depth_source'] == 'depth_image':
            sparse = self._samples(job, frame)
        else:
            self._points(job, frame)
        lap('convert')
        sparse = self._in_range(sparse) if sparse is not None else project_points(
            frame.points, frame.camera, frame.camera_from_points,
            self.values['min_depth_m'], self.values['max_depth_m'])
        frame.sparse = sparse if frame.points is None else None
        lap('project')
        result = Result(job.pair.image.header, frame, sparse, stages=stages,
                        why=self._beside(frame, sparse))
        if wanted & COMPLETED and len(sparse):
            completion = self._completer.complete(frame.image, sparse.uv, sparse.depth)
            result.depth, result.confidence = self._confident(completion)
            stages.update(getattr(completion, 'stages', None) or {})
            lap('complete')
        return result

    def _image(self, job):
        msg = job.pair.image
        decode = messages.image_to_rgb if hasattr(msg, 'encoding') else messages.compressed_to_rgb
        with self._named('image'):
            image = decode(msg, self._stretch)
        camera = self._camera(job.info, (image.shape[1], image.shape[0]))
        scale = self.values['image_scale']
        if scale < 1.0:
            size = max(1, round(camera.width * scale)), max(1, round(camera.height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            camera = self._camera(job.info, size)
        return Frame(image, camera, job.pair.image_ns, _frame_id(msg, job.info))

    def _camera(self, info, size, name='camera_info', of='image'):
        """Return the camera for this image size; cached while the calibration is the same."""
        roi = info.roi
        key = (size, info.width, info.height, info.distortion_model, tuple(info.k), tuple(info.d),
               tuple(info.p), info.binning_x, info.binning_y, roi.x_offset, roi.y_offset,
               roi.width, roi.height, of)
        if key not in self._cameras:
            if len(self._cameras) > 8:  # the calibration keeps changing
                self._cameras.clear()
            with self._named(name):
                self._cameras[key] = messages.camera_from_info(
                    info, self._rectified(info, of), size)
        return self._cameras[key]

    def _rectified(self, info, of='image'):
        """Return whether to use P, as parameter or topic name says."""
        if of == 'image' and self.values['image_rectified']:
            return True
        topic = self._topics.get(of, '')
        p, k = np.array(info.p, np.float64), np.array(info.k, np.float64)
        if not messages.is_rectified_topic(topic) or p.size != 12 or k.size != 9:
            return False
        plain = not np.any(info.d) and np.allclose(p.reshape(3, 4)[:, :3], k.reshape(3, 3))
        if plain or not p[0]:
            return False
        self._tell(f'{topic} is rectified, judging by its name: P of its camera_info is used, not '
                   'K and D')
        return True

    def _samples(self, job, frame):
        msg = job.pair.depth.msg
        decode = (messages.depth_to_metres if hasattr(msg, 'encoding')
                  else messages.compressed_depth_to_metres)
        with self._named('depth'):
            depth = decode(msg, self.values['depth_unit_m'])
        if self._is_millimeters(depth, msg):
            depth = depth * np.float32(1e-3)
        info, depth_frame = job.depth_info, _frame_id(msg, job.depth_info)
        registered = (self._extrinsics.source == 'identity' or not depth_frame
                      or depth_frame.lstrip('/') == frame.frame_id.lstrip('/'))
        if not registered and info is None:
            raise MessageError(
                f'the depth image is in frame "{depth_frame}", the image in "{frame.frame_id}", '
                'and there is no camera_info of the depth image to place it: register the depth '
                'to the image (align_depth.enable, depth_registration), publish its camera_info '
                'beside it, or set extrinsics.source to "identity" if it is registered')
        sparse = sparse_from_depth_image(depth, self.values['depth_image_stride'])
        height, width = depth.shape
        sx, sy = frame.camera.width / width, frame.camera.height / height
        own = None
        if info is not None and info is not job.info and self._extrinsics.source != 'identity':
            own = self._camera(info, (width, height), 'depth_info', 'depth')
        if own is not None and not (registered and _same_place(own, frame.camera)):
            return self._placed(frame, sparse, own, depth_frame or frame.frame_id,
                                job.pair.depth.stamp_ns)
        if abs(sx / sy - 1.0) > SHAPE_TOLERANCE:
            raise MessageError(
                f'the depth image has {width} x {height} pixels, the image '
                f'{frame.camera.width} x {frame.camera.height}; register the depth to the image, '
                'or publish the camera_info of the depth image beside it')
        if (sx, sy) != (1.0, 1.0):
            scale = np.array([sx, sy], np.float32)
            sparse = SparseDepth((sparse.uv + 0.5) * scale - 0.5, sparse.depth)
        return sparse

    def _placed(self, frame, sparse, own, depth_frame, stamp_ns):
        """Project a depth image that is not registered to the image like a cloud."""
        self._tell(f'the depth image (frame "{depth_frame}") is not registered to the image '
                   f'(frame "{frame.frame_id}"): it is projected with its own camera_info')
        u, v = sparse.uv.astype(np.intp).T
        points = own.rays()[v, u] * sparse.depth[:, None]
        try:
            matrix = self._extrinsics.camera_from(frame.frame_id, frame.stamp_ns, depth_frame,
                                                  stamp_ns)
        except TransformError as error:
            raise TransformError(f'{error}; set extrinsics.source to "identity" if the depth '
                                 'image is registered to the image') from None
        return project_points(points, frame.camera, matrix)

    def _points(self, job, frame):
        cloud = job.pair.depth
        compensated = self.values['compensate_point_times']
        frame.shift = self._shift(frame, job.info)
        if not job.earlier and not compensated:
            points, matrix = self._xyz(cloud), self._matrix(frame, cloud, 0.0)
            if points.dtype == np.float64 or is_far(matrix):  # float32 is too coarse
                points, matrix = move(points, matrix), np.eye(4)
            frame.points, frame.camera_from_points = points, matrix
            return
        parts = [self._in_camera(frame, one, compensated) for one in [*job.earlier, cloud]]
        frame.points = np.concatenate(parts)
        frame.camera_from_points = np.eye(4)

    def _in_camera(self, frame, cloud, compensated):
        times = messages.cloud_times(cloud.msg) if compensated else None
        if compensated and times is None:
            raise MessageError('compensate_point_times is on, but the point cloud has no time '
                               f'field ({", ".join(messages.TIME_FIELDS)})')
        if times is None:
            return move(self._xyz(cloud), self._matrix(frame, cloud, 0.0))
        return compensate(self._xyz(cloud), times, lambda t: self._matrix(frame, cloud, t))

    def _xyz(self, cloud):
        with self._named('depth'):
            points = cloud.xyz()
        unit = self._unit(points, cloud.msg.header.frame_id)
        return points if unit == 1.0 else points * points.dtype.type(unit)

    def _unit(self, points, frame_id):
        """Return the meters per unit of a cloud; inferred once per sensor."""
        if self.values['points_unit_m']:
            return self.values['points_unit_m']
        if frame_id not in self.units:
            found = _in_millimeters(points)
            if found is None:
                return 1.0  # too few points to tell
            self.units[frame_id] = 1e-3 if found else 1.0
            if found:
                self._tell(f'the cloud in frame "{frame_id}" is in millimeters, judging by '
                           'its size (points_unit_m: 1.0 takes it as meters)')
        return self.units[frame_id]

    def _is_millimeters(self, depth, msg):
        """Return whether a float depth image is in millimeters, as some converters write."""
        encoding = msg.encoding if hasattr(msg, 'encoding') else msg.format
        if not encoding.startswith(('32F', '64F')):
            return False
        if 'depth' not in self.units:
            known = depth[::4, ::4]
            known = known[np.isfinite(known)]
            if len(known) < ENOUGH_POINTS:
                return False
            whole = np.median(known) > WHOLE_MILLIMETRES and (known == np.rint(known)).all()
            self.units['depth'] = 1e-3 if whole else 1.0
            if whole:
                self._tell('the depth image is of floats in millimeters, as its whole numbers '
                           'tell; it is taken so')
        return self.units['depth'] != 1.0

    def _shift(self, frame, info):
        """
        Return the offset in meters from frame_id to the image's optical center, None if zero.

        The second camera of a stereo pair uses the frame_id of the first, unless TF has another
        frame at the baseline in P: then frame_id is its own.
        """
        if self._extrinsics.source != 'tf' or not self._rectified(info):
            return None
        shift = messages.stereo_shift(info)
        if not shift.any() or self._extrinsics.knows_frame_at(frame.frame_id, shift):
            return None
        self._tell(f'P of the camera_info places the image {np.abs(shift).max():.3f} m beside '
                   f'frame "{frame.frame_id}", as the second camera of a stereo pair; where '
                   'that frame is its own, publish the frame of the first camera on /tf_static, '
                   'too, or P with 0 in its fourth column')
        return shift

    def _beside(self, frame, sparse):
        """Return why no points lie in the image; warn of a link used as optical frame."""
        if frame.points is None or len(sparse) >= FEW_INSIDE * len(frame.points):
            return '' if len(sparse) else NOTHING_INSIDE
        if len(sparse) and self._link_checks >= LINK_CHECKS:
            return ''
        self._link_checks += 1
        turned = len(project_points(
            frame.points, frame.camera, OPTICAL_FROM_LINK @ frame.camera_from_points,
            self.values['min_depth_m'], self.values['max_depth_m']))
        if turned < max(TURNED_INSIDE * len(frame.points), TIMES_MORE * len(sparse)):
            return '' if len(sparse) else NOTHING_INSIDE
        sentence = (
            f'{len(sparse) or "no"} measured points lie in the image, but {turned} would if frame '
            f'"{frame.frame_id}" of the image had x forward: it is the link, not the optical '
            'frame (z forward, REP 103); let the driver stamp images with the optical frame, or '
            'set extrinsics.source to "parameters"')
        if len(sparse):
            self._tell(sentence)
        return sentence

    def _tell(self, sentence):
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell_user(sentence)

    @contextmanager
    def _named(self, name):
        """Prefix errors about a message with its topic, if known."""
        try:
            yield
        except (MessageError, CalibrationError) as error:
            if name not in self._topics:
                raise
            raise type(error)(f'{self._topics[name]}: {error}') from None

    def _matrix(self, frame, cloud, seconds):
        matrix = self._extrinsics.camera_from(
            frame.frame_id, frame.stamp_ns, cloud.msg.header.frame_id,
            cloud.stamp_ns + round(seconds * 1e9))
        if frame.shift is not None:
            matrix = matrix.copy()
            matrix[:3, 3] += frame.shift
        return matrix

    def _in_range(self, sparse):
        keep = in_depth_range(sparse.depth, self.values['min_depth_m'], self.values['max_depth_m'])
        return sparse if keep.all() else replace(
            sparse, uv=sparse.uv[keep], depth=sparse.depth[keep])

    def _confident(self, completion):
        depth, confidence = completion.depth, completion.confidence
        if self.values['min_confidence'] > 0:
            depth = np.where(confidence >= self.values['min_confidence'], depth, np.nan)
        return depth, confidence


def in_other_frame(job: Job) -> bool:
    """Return whether the depth of a job is in another frame than its image."""
    image = _frame_id(job.pair.image, job.info)
    depth = _frame_id(job.pair.depth.msg, job.depth_info)
    return bool(depth) and depth.lstrip('/') != image.lstrip('/')


def _frame_id(msg, info):
    """Return the frame of an image; some drivers leave it to the camera_info."""
    header = getattr(info, 'header', None)  # a calibration file has no header
    return msg.header.frame_id or (header.frame_id if header else '')


def _same_place(depth_camera, camera):
    """Return whether depth image and image see the same, pixel by pixel."""
    size = np.array([camera.width / depth_camera.width, camera.height / depth_camera.height])
    if abs(size[0] / size[1] - 1.0) > SHAPE_TOLERANCE:
        return False
    u, v = (np.linspace(0, n - 1, 5) for n in (depth_camera.width, depth_camera.height))
    uv = np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
    rays, valid = depth_camera.unproject(uv)
    found, seen = camera.project(rays)
    apart = np.abs(found - ((uv + 0.5) * size - 0.5))[valid & seen]
    return apart.max(initial=0.0) <= SAME_PLACE * max(1.0, *size)


def _in_millimeters(points):
    """Return whether a cloud is in millimeters; None for too few points."""
    known = points[::max(1, len(points) // 5000)]
    known = known[np.isfinite(known).all(axis=1) & known.any(axis=1)]
    if len(known) < ENOUGH_POINTS:
        return None
    known = known.astype(np.float64)  # about the middle: maps can be far from their origin
    spread = np.median(np.linalg.norm(known - np.median(known, axis=0), axis=1))
    whole = bool((known == np.rint(known)).all())
    return bool(spread > (WHOLE_MILLIMETRES if whole else MILLIMETRES))
