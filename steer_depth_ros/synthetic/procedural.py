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
"""Rendered frames as a data set; each frame is reproducible from its index in any process."""
from typing import Dict, Optional, Tuple

import numpy as np
import torch
from torch.utils.data import Dataset

from steer_depth_ros.synthetic.renderer import render_scene, Scene
from steer_depth_ros.synthetic.sensors import pattern_by_name, random_pattern

__all__ = ['ProceduralFrames', 'render_scene', 'Scene']

RETRIES = 20


class ProceduralFrames(Dataset):
    """
    `length` rendered frames with simulated samples; frame i depends on (seed, i) and the size.

    size: (H, W) pixels. pattern: a name for `sensors.pattern_by_name`, or None for the training
    mix. kind: one of scenes.KINDS, or None for all. device: device for rendering; the frames are
    always on the CPU.

    A frame is a dictionary: image uint8 (H, W, 3) RGB; depth float32 (H, W) meters, inf for sky;
    uv float32 (N, 2) and sparse float32 (N,), the samples; intrinsics float32 (4,) fx, fy, cx,
    cy; name of the sampling pattern.
    """

    def __init__(self, length: int, seed: int = 0, size: Tuple[int, int] = (240, 320),
                 pattern: Optional[str] = None, kind: Optional[str] = None, device: str = 'cpu'):
        self.length, self.seed, self.size = length, seed, size
        self.pattern, self.kind, self.device = pattern, kind, device
        self._sample = pattern_by_name(pattern) if pattern else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Dict[str, object]:
        if not 0 <= index < self.length:
            raise IndexError(f'frame {index} of {self.length}')
        scene = self.scene(index)
        rng = np.random.default_rng([self.seed, index, RETRIES])
        if self._sample is None:
            uv, sparse, name = random_pattern(scene, rng)
        else:
            samples = self._sample(scene, rng)
            uv, sparse, name = samples.uv, samples.depth, str(self.pattern)
        camera = scene.camera
        return {'image': scene.image.cpu(), 'depth': scene.depth.cpu(),
                'uv': torch.from_numpy(uv), 'sparse': torch.from_numpy(sparse),
                'intrinsics': torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy]),
                'name': name}

    def scene(self, index: int) -> Scene:
        """Render frame `index`; retry with another seed if hardly any surface is in view."""
        for attempt in range(RETRIES):
            scene = render_scene([self.seed, index, attempt], self.size, self.device, self.kind)
            if torch.isfinite(scene.depth).float().mean() > 0.2:
                break
        return scene
