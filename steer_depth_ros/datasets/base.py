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
"""Recorded data sets: frames with measured depth, of which a pattern draws samples."""
from dataclasses import dataclass
from typing import Callable, Dict, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from steer_depth_ros.errors import ConfigError, DatasetError
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.geometry.projection import sparse_from_depth_image, SparseDepth
from steer_depth_ros.ops.regression import pixel_of
from steer_depth_ros.synthetic.sensors import pattern_by_name

SENSOR = 'sensor'  # the pattern that takes all measurements


@dataclass
class MeasuredFrame:
    """
    One frame of a data set.

    image: uint8 (H, W, 3) RGB. truth: float32 (H, W) meters, NaN where unknown.
    measured: float32 (H, W) meters, NaN where nothing was measured; samples are drawn from it.
    camera: intrinsics of the image. name: source of the frame.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    measured: np.ndarray
    camera: Camera


class MeasuredScene:
    """
    A measured frame with the interface of a rendered scene, for the sampling patterns.

    image: uint8 (H, W, 3). depth: float32 (H, W) meters, inf where nothing was measured.
    """

    outdoor = False
    far = float('inf')
    behind = None

    def __init__(self, frame: MeasuredFrame):
        self.image = torch.from_numpy(np.require(frame.image, requirements='W'))
        self.depth = torch.from_numpy(np.where(frame.measured > 0, frame.measured,
                                               np.float32(np.inf)))
        self.camera = frame.camera
        self.echo = torch.zeros(self.depth.shape, dtype=torch.long)  # NORMAL everywhere

    def cast(self, origins: Tensor, directions: Tensor) -> Tensor:
        """
        Return the depth image at rays (M, 3) from the camera; float32 (M,), z = 1 units.

        Raise ConfigError for rays from another origin, where nothing was measured.
        """
        if torch.as_tensor(origins).any():
            raise ConfigError('this sampling pattern has a sensor beside the camera, for which '
                              'only rendered scenes have depth; for recorded frames use random, '
                              'features, rows, depth or semi')
        x, y, z = torch.as_tensor(directions, dtype=torch.float32).T
        camera, (height, width) = self.camera, self.depth.shape
        uv = torch.stack([x / z * camera.fx + camera.cx, y / z * camera.fy + camera.cy])
        u, v = pixel_of(uv).long()
        return self.depth[v.clamp(0, height - 1), u.clamp(0, width - 1)] / z

    def trace(self, origins: Tensor, directions: Tensor):
        """Return the result of `cast` and the echo of the surface, int64 (M,)."""
        t = self.cast(origins, directions)
        return t, torch.zeros(t.shape, dtype=torch.long)


def draw_samples(frame: MeasuredFrame, pattern: str, rng) -> SparseDepth:
    """
    Draw samples from the measurements.

    pattern: 'sensor' for all of them, or a name that `sensors.pattern_by_name` accepts.
    Raise ConfigError for a pattern that is unknown or needs a rendered scene, DatasetError for a
    frame without depth.
    """
    if not (frame.measured > 0).any():
        raise DatasetError(f'{frame.name} holds no depth at all; remove it from the data set')
    if pattern == SENSOR:
        return sparse_from_depth_image(frame.measured)
    draw: Callable = pattern_by_name(pattern)
    return draw(MeasuredScene(frame), rng)


@dataclass
class Example:
    """
    The input of an estimate and the truth to compare it with.

    image: uint8 (H, W, 3) RGB. uv: float32 (N, 2), sparse: float32 (N,) meters. truth: float32
    (H, W) meters, not finite where unknown. camera: intrinsics of the image.
    """

    name: str
    image: np.ndarray
    uv: np.ndarray
    sparse: np.ndarray
    truth: np.ndarray
    camera: Camera

    def item(self) -> Dict[str, object]:
        """Return the item of a data set for training, see `MeasuredFrames`."""
        image = np.array(self.image)  # images of messages are read-only
        return {'image': torch.from_numpy(image), 'depth': torch.from_numpy(self.truth),
                'uv': torch.from_numpy(self.uv), 'sparse': torch.from_numpy(self.sparse),
                'name': self.name}


class MeasuredFrames(Dataset):
    """
    Base class of recorded data sets; the samples of frame i depend only on (seed, epoch, i).

    An item is a dictionary: image uint8 (H, W, 3) RGB; depth float32 (H, W) meters, NaN where
    unknown; uv float32 (N, 2) and sparse float32 (N,), the samples; name of the frame.
    """

    def __init__(self, pattern: str, seed: int = 0):
        self.pattern, self.seed, self.epoch = pattern, seed, 0

    def read(self, index: int) -> MeasuredFrame:
        """Read one frame from its files; DatasetError names a file that is missing or corrupt."""
        raise NotImplementedError

    def example(self, frame: MeasuredFrame, index: int, pattern: Optional[str] = None) -> Example:
        """Draw the samples of a frame that is already read; pattern: other than the default."""
        rng = np.random.default_rng([self.seed, self.epoch, index])
        samples = draw_samples(frame, pattern or self.pattern, rng)
        return Example(frame.name, frame.image, samples.uv, samples.depth, frame.truth,
                       frame.camera)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Dict[str, object]:
        if not 0 <= index < len(self):
            raise IndexError(f'frame {index} of {len(self)}')
        return self.example(self.read(index), index).item()
