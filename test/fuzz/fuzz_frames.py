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
"""Frame folders: whatever their files hold, a frame or a SteerDepthError."""
import io
import json

import cv2
from fuzz_input import Input, joined, Scratch
import numpy as np

from steer_depth_ros.recordings.frame_folder import read_frame

FILES = Scratch()
IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
META = {'fx': 5.0, 'fy': 5.0, 'cx': 2.5, 'cy': 1.5, 'width': 6, 'height': 4, 'stamp_ns': 5,
        'distortion': [-0.1, 0.01, 0.0, 0.0, 0.0], 'distortion_model': 'plumb_bob',
        'T_cam_lidar': np.eye(4).ravel().tolist(), 'depth_scale': 1000, 'gt': {'scale': 256}}
KINDS = ('lidar.bin', 'lidar.npy', 'depth.png')


def frame_folder(data):
    """Read meta.json, rgb.png, a cloud or a depth image, and the truth."""
    given = Input(data)
    kind, with_truth = given.take('<BB')
    meta, image, depth, truth = given.parts(4)
    path = FILES.folder('frame', **{
        'meta.json': meta, 'rgb.png': image, KINDS[kind % len(KINDS)]: depth,
        'gt.png': truth if with_truth & 1 else None})
    recorded = read_frame(path)
    frame = recorded.frame
    size = frame.image.shape[:2]
    assert frame.image.dtype == np.uint8 and (frame.camera.height, frame.camera.width) == size
    samples = frame.sparse_depth()
    assert (samples.depth > 0).all() and (samples.uv >= -0.5).all()
    assert (samples.uv < (size[1] - 0.5, size[0] - 0.5)).all()
    assert recorded.truth is None or recorded.truth.shape == size


def frame_folder_seeds():
    """Give a folder with each kind of depth."""
    points = np.array([[0.1, 0.1, 2, 0], [-0.2, 0, 3, 0]], np.float32)
    array = io.BytesIO()
    np.save(array, points)
    image, depth = (cv2.imencode('.png', pixels)[1].tobytes() for pixels in (
        IMAGE, np.full((4, 6), 1500, np.uint16)))
    meta = json.dumps(META, separators=(',', ':')).encode()
    bare = json.dumps({**META, 'distortion': [0.1, 0, 0, 0], 'distortion_model': 'equidistant',
                       'width': None, 'gt': None}, separators=(',', ':')).encode()
    return [bytes([kind, kind]) + joined(text, image, body, depth)
            for kind, body in enumerate((points.tobytes(), array.getvalue(), depth))
            for text in (meta, bare)]
