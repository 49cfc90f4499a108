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
"""Write one frame to a folder that `steer_depth complete` reads."""
import json
import os
from pathlib import Path

import cv2
import numpy as np

from steer_depth_ros.errors import FrameError
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import in_depth_range, pixel_of

PNG_LIMIT = 65535
SCALES = 1000.0, 256.0  # values per meter: millimeters, or coarser if they do not fit 16 bits


def save_frame(frame: Frame, folder, min_depth: float = 0.0, max_depth: float = np.inf) -> Path:
    """
    Write rgb.png, lidar.npy or depth.png, and meta.json to `folder`/<stamp>; return that path.

    folder: relative to ROS_HOME (~/.ros), since the working directory of a node is arbitrary.
    min_depth, max_depth: meters; points outside were not used and are not written.
    Raise FrameError if it cannot be written.
    """
    home = Path(os.environ.get('ROS_HOME') or '~/.ros')
    path = (home / Path(folder).expanduser()).expanduser() / str(frame.stamp_ns)
    camera = frame.camera
    meta = {'fx': camera.fx, 'fy': camera.fy, 'cx': camera.cx, 'cy': camera.cy,
            'width': camera.width, 'height': camera.height,
            'distortion': list(camera.distortion), 'distortion_model': camera.model,
            'stamp_ns': frame.stamp_ns, 'frame_id': frame.frame_id}
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / 'rgb.png').write_bytes(_png(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)))
        if frame.points is not None:
            matrix = np.asarray(frame.camera_from_points)
            z = frame.points @ matrix[2, :3] + matrix[2, 3]
            np.save(path / 'lidar.npy', frame.points[in_depth_range(z, min_depth, max_depth)])
            meta['T_cam_lidar'] = matrix.ravel().tolist()
        else:
            farthest = frame.sparse_depth().depth.max(initial=0.0)
            meta['depth_scale'] = scale = next(
                (scale for scale in SCALES if farthest * scale <= PNG_LIMIT), SCALES[-1])
            (path / 'depth.png').write_bytes(_png(_depth_image(frame, scale)))
        (path / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n')
    except OSError as error:
        raise FrameError(f'cannot write the frame to {path}: {error.strerror}; set save_dir to a '
                         'folder that can be written') from None
    return path


def _depth_image(frame, scale):
    """Return the samples as a 16-bit depth image; those out of range stay unknown."""
    samples = frame.sparse_depth()
    image = np.zeros((frame.camera.height, frame.camera.width), np.uint16)
    near = samples.depth * scale <= PNG_LIMIT
    image[pixel_of(samples.uv[near], image.shape)] = np.rint(samples.depth[near] * scale)
    return image


def _png(pixels):
    return cv2.imencode('.png', pixels)[1].tobytes()
