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
"""Small frames, frame folders and recordings for tests."""
import json

import cv2
import numpy as np

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import sparse_from_depth_image
from steer_depth_ros.geometry.transforms import quaternion_from
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import FIRST_STAMP_NS, PERIOD_NS, RecordedFrame
from steer_depth_ros.ros import messages

SIZE = 48, 64
CAMERA = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
# LiDAR: x forward, y left, z up, 20 cm above the camera.
CAMERA_FROM_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, -0.2], [1, 0, 0, 0], [0, 0, 0, 1.0]])
IMAGE_TOPIC, INFO_TOPIC, POINTS_TOPIC = '/camera/image', '/camera/camera_info', '/lidar/points'


class PlaneCompleter:
    """Stands in for the model: every pixel gets the mean depth of the samples."""

    def complete(self, image, uv, depth):
        class Completion:
            pass

        result = Completion()
        result.depth = np.full(image.shape[:2], depth.mean(), np.float32)
        result.confidence = np.full(image.shape[:2], 0.5, np.float32)
        return result


def wall(distance=4.0, step=0.1):
    """Points of a wall in front of the LiDAR, float32 (N, 3)."""
    y, z = np.meshgrid(np.arange(-2, 2, step), np.arange(-1.5, 1.5, step))
    return np.stack([np.full(y.size, distance), y.ravel(), z.ravel()], 1).astype(np.float32)


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)


def cloud_frames(count=3):
    """Frames with a cloud and the exact depth of the wall that they see."""
    for index in range(count):
        distance = 4.0 + 0.5 * index
        frame = Frame(image(index), CAMERA, FIRST_STAMP_NS + index * PERIOD_NS,
                      points=wall(distance), camera_from_points=CAMERA_FROM_LIDAR)
        yield RecordedFrame(f'{index:06d}', frame, truth=np.full(SIZE, distance, np.float32))


def depth_frames(count=3):
    """Frames with a depth image that has holes."""
    for index in range(count):
        depth = np.full(SIZE, 2.0 + index, np.float32)
        depth[::2] = np.nan
        frame = Frame(image(index), CAMERA, FIRST_STAMP_NS + index * PERIOD_NS,
                      sparse=sparse_from_depth_image(depth))
        yield RecordedFrame(f'{index:06d}', frame, depth_image=depth)


def cloud_bag(path, count=3):
    frames_to_bag(cloud_frames(count), path)
    return path


def write_bag(path, **changes):
    """
    Write one frame with a cloud, changed: None leaves a topic out, a dict replaces fields.

    changes: image, camera_info, points, tf.
    """
    frame = next(cloud_frames(1)).frame
    flat = np.zeros((len(frame.points), 4), np.float32)
    flat[:, :3] = frame.points
    parts = {
        'image': (IMAGE_TOPIC, bag.IMAGE, messages.image_fields(frame.image, 'rgb8')),
        'camera_info': (INFO_TOPIC, bag.CAMERA_INFO, messages.camera_info_fields(CAMERA)),
        'points': (POINTS_TOPIC, bag.POINT_CLOUD, messages.cloud_fields(flat))}
    with bag.BagWriter(path) as writer:
        if changes.get('tf', True):
            writer.add_topic('/tf_static', bag.TF_MESSAGE)
            writer.write('/tf_static', 1, bag.transform_message(
                'camera', 'lidar', 1, (0, -0.2, 0), quaternion_from(CAMERA_FROM_LIDAR)))
        for name, (topic, kind, fields) in parts.items():
            change = changes.get(name, {})
            if change is None:
                continue
            writer.add_topic(topic, kind)
            frame_id = 'lidar' if name == 'points' else 'camera'
            writer.write(topic, frame.stamp_ns, bag.build(kind, frame.stamp_ns, frame_id,
                                                          {**fields, **change}))
    return path


def write_folder(folder, recorded, **meta):
    """Write one frame with a cloud as a frame folder; `meta` changes meta.json."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = recorded.frame
    cv2.imwrite(str(folder / 'rgb.png'), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    xyzi = np.zeros((len(frame.points), 4), np.float32)
    xyzi[:, :3] = frame.points
    (folder / 'lidar.bin').write_bytes(xyzi.tobytes())
    cv2.imwrite(str(folder / 'gt.png'), np.round(recorded.truth * 256).astype(np.uint16))
    calibration = {'fx': CAMERA.fx, 'fy': CAMERA.fy, 'cx': CAMERA.cx, 'cy': CAMERA.cy,
                   'width': CAMERA.width, 'height': CAMERA.height, 'distortion': [],
                   'T_cam_lidar': CAMERA_FROM_LIDAR.ravel().tolist(), 'gt': {'scale': 256},
                   **meta}
    (folder / 'meta.json').write_text(json.dumps(calibration))
    return folder
