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
"""Rendered frames of a training run: kept in files, with the truth that a sensor could know."""
import numpy as np
import pytest
import torch

from steer_depth_ros.errors import DatasetError
from steer_depth_ros.synthetic import cached, sensors
from steer_depth_ros.synthetic.cached import RenderedFrames


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Two sensors on one scene: a LiDAR, and random points."""
    turn = iter(range(2))

    def pattern(scene, rng):
        if next(turn):
            return sensors.random_samples(scene, rng, 50), 'random:50', None
        offset = np.array([0.5, -0.3, 0.0])
        return sensors.lidar_lines(scene, rng, 16, offset=offset), 'lidar:16', offset

    monkeypatch.setattr(cached, 'random_pattern', pattern)
    return RenderedFrames(tmp_path, 1, 2, seed=3, size=(48, 64))


def test_the_truth_of_a_lidar_is_what_it_sees(frames):
    scanned, drawn = frames[0], frames[1]
    assert scanned['scanned'] and not drawn['scanned']
    hidden = scanned['depth'].isnan()
    assert 0.005 < hidden.float().mean() < 0.8 and not drawn['depth'].isnan().any()
    assert torch.equal(scanned['depth'][~hidden], drawn['depth'][~hidden])


def test_a_scene_is_rendered_once(frames, monkeypatch):
    first = frames[0]
    monkeypatch.setattr(frames.source, 'scene', None)  # would be called
    again = frames[0]
    assert all(torch.equal(first[k], again[k]) for k in ('image', 'uv', 'sparse'))
    path, = frames.folder.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match='is damaged'):
        frames[0]
