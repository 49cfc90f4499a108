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
"""Rendered scenes as a data set; each is reproducible from its index in any process."""
from typing import Optional, Tuple

import torch

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.synthetic.renderer import render_scene, Scene

RETRIES = 20


def parse_size(text) -> Tuple[int, int]:
    """Return (H, W) of 'WxH', up to 16384 pixels a side; raise ConfigError otherwise."""
    try:
        width, height = (int(part) for part in str(text).lower().split('x'))
    except ValueError:
        width = height = 0
    if min(width, height) < 16 or max(width, height) > 16384:
        raise ConfigError(f'size {text}: expected WIDTHxHEIGHT of 16 to 16384 pixels, such as '
                          '640x480')
    return height, width


class ProceduralFrames:
    """
    `length` rendered scenes; scene i depends on (seed, i), kind and size.

    size: (H, W) pixels. kind: one of scenes.KINDS, or None for all.
    """

    def __init__(self, length: int, seed: int = 0, size: Tuple[int, int] = (240, 320),
                 kind: Optional[str] = None):
        self.length, self.seed, self.size, self.kind = length, seed, size, kind

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """Render scene `index`; retry with another seed if hardly any surface is in view."""
        for attempt in range(RETRIES):
            scene = render_scene([self.seed, index, attempt], self.size, kind=self.kind)
            if torch.isfinite(scene.depth).float().mean() > 0.2:
                break
        return scene
