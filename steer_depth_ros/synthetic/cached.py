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
"""Rendered frames cached on disk, so that each scene is rendered only once."""
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch.utils.data import Dataset

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.synthetic.sensors import random_pattern, seen_from


class RenderedFrames(Dataset):
    """
    `frames` procedural scenes, each measured by `patterns` simulated sensors.

    A scene is rendered on first use and read from `folder` afterwards. Item i is sensor
    i % patterns on scene i // patterns and depends only on (seed, i, size); three sensors in four
    have no noise and no outliers. Items: image uint8 (H, W, 3), depth float32 (H, W) with inf for
    sky, uv float32 (N, 2), sparse float32 (N,), name, scanned: whether the sensor is a LiDAR; then
    depth is NaN where it does not see what the camera sees. Raise DatasetError naming a damaged
    file.
    """

    def __init__(self, folder, frames, patterns=4, seed=1, size=(240, 320)):
        self.folder, self.frames, self.patterns = Path(folder), frames, patterns
        self.source = ProceduralFrames(frames, seed, size)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self):
        return self.frames * self.patterns

    def path(self, scene):
        height, width = self.source.size
        return self.folder / f'{self.source.seed}_{height}x{width}_{scene:06d}.npz'

    def render(self, scene):
        """Render and measure a scene, unless its file exists."""
        path = self.path(scene)
        if path.exists():
            return
        rendered = self.source.scene(scene)
        arrays = {'image': rendered.image.cpu().numpy(),
                  'depth': rendered.depth.cpu().numpy().astype(np.float32)}
        for k in range(self.patterns):
            rng = np.random.default_rng([self.source.seed, scene, 1000 + k])
            samples, name, offset = self._measure(rendered, rng, clean=k % 4 != 3)
            arrays.update({f'uv{k}': samples.uv, f'sparse{k}': samples.depth, f'name{k}': name})
            if offset is not None:
                arrays[f'seen{k}'] = np.packbits(seen_from(rendered, offset), 1)
        partial = path.with_suffix(f'.{os.getpid()}.npz')
        np.savez(partial, **arrays)
        partial.rename(path)  # readers never see half a file

    @staticmethod
    def _measure(scene, rng, clean):
        """Draw a sensor; clean: without noise and outliers, as most sensors in practice."""
        while True:
            samples, name, offset = random_pattern(scene, rng)
            if not clean or ('noise' not in name and 'outliers' not in name):
                return samples, name, offset

    def __getitem__(self, index):
        scene, k = divmod(index, self.patterns)
        self.render(scene)
        try:
            with np.load(self.path(scene)) as data:
                depth, scanned = data['depth'], f'seen{k}' in data
                if scanned:
                    seen = np.unpackbits(data[f'seen{k}'], 1, depth.shape[1]).astype(bool)
                    depth = np.where(seen | np.isinf(depth), depth, np.nan)
                return {'image': torch.from_numpy(data['image']),
                        'depth': torch.from_numpy(depth), 'scanned': scanned,
                        'uv': torch.from_numpy(data[f'uv{k}']),
                        'sparse': torch.from_numpy(data[f'sparse{k}']),
                        'name': str(data[f'name{k}'])}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DatasetError(f'{self.path(scene)} is damaged ({error}); delete it, and it will '
                               'be rendered again') from None
