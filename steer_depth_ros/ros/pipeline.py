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
"""From a matched pair of messages to completed depth; knows messages, but neither node nor DDS."""
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import time
from typing import Any, Dict, List, Optional, Set

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
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.extrinsics import compensate, Extrinsics, move
from steer_depth_ros.ros.synchronizer import Pair

COMPLETED = {'depth', 'confidence', 'cloud', 'depth_color'}  # outputs that need the model
NOTHING_INSIDE = ('no measured point lies in the image; check extrinsics, frames and the depth '
                  'range (~/debug/overlay shows where points fall)')
SHAPE_TOLERANCE = 0.01  # relative difference of aspect ratio between image and depth image


class Cloud:
    """A PointCloud2 or depth image message with its stamp on the image's clock."""

    def __init__(self, msg: Any, stamp_ns: int):
        self.msg, self.stamp_ns = msg, stamp_ns
        self._xyz: Optional[np.ndarray] = None

    def xyz(self) -> np.ndarray:
        """Give float32 (N, 3), converted once however often it is accumulated."""
        if self._xyz is None:
            self._xyz = messages.cloud_to_xyz(self.msg)
        return self._xyz


@dataclass
class Job:
    """
    A pair of messages and all else that its completion needs.

    pair: its depth is a Cloud. info: CameraInfo. earlier: clouds to accumulate with the pair's.
    arrived: time.perf_counter() when the pair was complete.
    """

    pair: Pair
    info: Any
    earlier: List[Cloud] = field(default_factory=list)
    arrived: float = 0.0


@dataclass
class Result:
    """
    What came out of a job.

    header: that of the image. depth, confidence: float32 (H, W), None if nobody wants them or
    `sparse` is empty. stages: milliseconds by stage.
    """

    header: Any
    frame: Frame
    sparse: SparseDepth
    depth: Optional[np.ndarray] = None
    confidence: Optional[np.ndarray] = None
    stages: Dict[str, float] = field(default_factory=dict)


class Pipeline:
    """
    Convert, project and complete.

    values: parameters of the node, see parameters.py. completer: a DepthCompleter.
    topics: of `image`, `camera_info` and `depth`, named by what is wrong with their messages.
    """

    def __init__(self, values: Dict[str, Any], completer: Any, extrinsics: Extrinsics,
                 topics: Optional[Dict[str, str]] = None):
        self.values, self._completer, self._extrinsics = values, completer, extrinsics
        self._topics = topics or {}
        self._cameras: Dict[tuple, Any] = {}

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
        result = Result(job.pair.image.header, frame, sparse, stages=stages)
        if wanted & COMPLETED and len(sparse):
            completion = self._completer.complete(frame.image, sparse.uv, sparse.depth)
            result.depth, result.confidence = self._confident(completion)
            stages.update(getattr(completion, 'stages', None) or {})
            lap('complete')
        return result

    def _image(self, job):
        msg = job.pair.image
        compressed = not hasattr(msg, 'encoding')
        with self._named('image'):
            image = messages.compressed_to_rgb(msg) if compressed else messages.image_to_rgb(msg)
        camera = self._camera(job.info, (image.shape[1], image.shape[0]))
        scale = self.values['image_scale']
        if scale < 1.0:
            size = max(1, round(camera.width * scale)), max(1, round(camera.height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            camera = self._camera(job.info, size)
        return Frame(image, camera, job.pair.image_ns, msg.header.frame_id)

    def _camera(self, info, size):
        """Give the camera of images of this size; the same object while the calibration stays."""
        roi = info.roi
        key = (size, info.width, info.height, info.distortion_model, tuple(info.k), tuple(info.d),
               tuple(info.p), info.binning_x, info.binning_y, roi.x_offset, roi.y_offset,
               roi.width, roi.height)
        if key not in self._cameras:
            if len(self._cameras) > 4:  # a calibration that changes all the time
                self._cameras.clear()
            with self._named('camera_info'):
                self._cameras[key] = messages.camera_from_info(
                    info, self.values['image_rectified'], size)
        return self._cameras[key]

    def _samples(self, job, frame):
        msg = job.pair.depth.msg
        decode = (messages.depth_to_metres if hasattr(msg, 'encoding')
                  else messages.compressed_depth_to_metres)
        with self._named('depth'):
            depth = decode(msg)
        sparse = sparse_from_depth_image(depth, self.values['depth_image_stride'])
        height, width = depth.shape
        sx, sy = frame.camera.width / width, frame.camera.height / height
        if abs(sx / sy - 1.0) > SHAPE_TOLERANCE:
            raise MessageError(
                f'the depth image has {width} x {height} pixels, the image '
                f'{frame.camera.width} x {frame.camera.height}; register the depth to the image')
        if (sx, sy) != (1.0, 1.0):
            scale = np.array([sx, sy], np.float32)
            sparse = SparseDepth((sparse.uv + 0.5) * scale - 0.5, sparse.depth)
        return sparse

    def _points(self, job, frame):
        cloud = job.pair.depth
        compensated = self.values['compensate_point_times']
        if not job.earlier and not compensated:
            frame.points = self._xyz(cloud)
            frame.camera_from_points = self._matrix(frame, cloud, 0.0)
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
            return cloud.xyz()

    @contextmanager
    def _named(self, name):
        """Put the topic before what is wrong with its messages, where it is known."""
        try:
            yield
        except (MessageError, CalibrationError) as error:
            if name not in self._topics:
                raise
            raise type(error)(f'{self._topics[name]}: {error}') from None

    def _matrix(self, frame, cloud, seconds):
        return self._extrinsics.camera_from(
            frame.frame_id, frame.stamp_ns, cloud.msg.header.frame_id,
            cloud.stamp_ns + round(seconds * 1e9))

    def _in_range(self, sparse):
        keep = in_depth_range(sparse.depth, self.values['min_depth_m'], self.values['max_depth_m'])
        return sparse if keep.all() else replace(
            sparse, uv=sparse.uv[keep], depth=sparse.depth[keep])

    def _confident(self, completion):
        depth, confidence = completion.depth, completion.confidence
        if self.values['min_confidence'] > 0:
            depth = np.where(confidence >= self.values['min_confidence'], depth, np.nan)
        return depth, confidence
