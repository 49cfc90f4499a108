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
"""Occluded samples: native code and torch, against a search of all pairs."""
import numpy as np
import pytest
from regression_cases import available, backend, CPU_VARIANTS
import torch

from steer_depth_ros.ops.occlusion import find_occluded
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.synthetic.sensors import lidar_lines, rosette

SIZE = (121, 160)
ALL = [*(pytest.param(name, marks=pytest.mark.skipif(
    not available(name), reason='not built, or not for this machine')) for name in CPU_VARIANTS),
    'torch']
# Reaches at which no cell lies on the ellipse, or on the border of sectors.
CASES = [(1, (3.37, 8.61)), (2, (2.23, 2.57)), (3, (1.0, 4.29)), (5, (1.0, 1.0))]


def run(name, uv, depth, *args):
    """Find occluded samples by a library, or by torch."""
    with backend('native' if name == 'torch' else name):
        dtype = torch.float64 if name == 'torch' else torch.float32
        return find_occluded(uv.to(dtype), depth.to(dtype), *args, 0.08, 0.7)


def expected(uv, depth, size, cell, reach, margin=0.08, share=0.7):
    """Look at every cell from every sample, and at the angles that occluders leave free."""
    grid = {}
    last = size[1] // cell, size[0] // cell
    cells = [tuple(np.clip(np.rint(at / np.float32(cell)), 0, last)) for at in uv.numpy()]
    nearness = [1 / max(float(each), 1e-6) if each > 0 else 0.0 for each in depth]
    for at, near in zip(cells, nearness):
        grid[at] = max(grid.get(at, 0.0), near)
    places, values = np.array(list(grid)).reshape(-1, 2), np.array(list(grid.values()))
    found = np.zeros(len(uv), bool)
    for i, (at, own) in enumerate(zip(cells, nearness)):
        offset = (places - at) / reach
        around = (np.hypot(*offset.T) <= 1) & offset.any(1)
        surface = max(own * (1 + margin),
                      own + share * (values[around].max(initial=0.0) - own))
        x, y = offset[around & (values > surface)].T
        sectors = np.unique(np.floor((np.arctan2(y, x) / np.pi + 1) * 8).astype(int) % 16)
        free = np.diff(np.append(sectors, sectors[:1] + 16)) - 1
        found[i] = len(sectors) > 0 and free.max() < 8
    return found


def frames():
    """Return (uv, depth): a scanner beside the camera, one that draws a rosette, at random."""
    scene, rng = ProceduralFrames(1, 5, SIZE).scene(0), np.random.default_rng(3)
    for sensor in (lidar_lines(scene, rng, 32), rosette(scene, rng, 1500)):
        yield torch.from_numpy(sensor.uv), torch.from_numpy(sensor.depth)
    g = torch.Generator().manual_seed(2)
    uv = torch.rand(900, 2, generator=g) * torch.tensor([170.0, 130.0]) - 5  # and beyond the image
    near = torch.rand(900, generator=g) < 0.4
    yield uv, torch.where(near, 2.0, 5.0) + torch.rand(900, generator=g)


@pytest.mark.parametrize('cell, reach', CASES)
@pytest.mark.parametrize('name', ALL)
def test_are_those_that_a_nearer_surface_surrounds(name, cell, reach):
    some = 0
    for uv, depth in frames():
        found = run(name, uv, depth, SIZE, cell, reach)
        np.testing.assert_array_equal(found, expected(uv, depth, SIZE, cell, reach))
        some += found.sum()
    assert some > 20


@pytest.mark.parametrize('name', ALL)
def test_around_a_sample_every_half_of_the_circle_counts(name):
    """Others stand on a circle but for a gap, and the circle is turned."""
    def occluded(gap, depth):
        turn = np.deg2rad(np.arange(3, 363, 6))
        turn = turn[(turn > np.deg2rad(gap + 3)) | (turn < 0.01)]
        for first in np.arange(0, 2 * np.pi, np.pi / 8):
            around = 50 + 16 * np.column_stack([np.cos(turn + first), np.sin(turn + first)])
            uv = torch.tensor(np.vstack([[50, 50], around]))
            depths = torch.tensor([2.0] + [depth] * len(around))
            found = run(name, uv, depths, (101, 101), 1, (17.0, 17.0))
            assert not found[1:].any()
            yield bool(found[0])

    assert all(occluded(0, 1.0)) and all(occluded(150, 1.0)) and all(occluded(150, 1e-9))
    assert not any(occluded(210, 1.0))
    assert not any(occluded(0, 1.9)) and not any(occluded(0, 0.0)) and not any(occluded(0, -1.0))


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('count', [0, 1, 2])
def test_few_samples(name, count):
    found = run(name, torch.zeros(count, 2), torch.ones(count), (1, 1), 1, (1, 9))
    assert found.shape == (count,) and not found.any()


def test_many_samples_on_several_threads():
    g = torch.Generator().manual_seed(0)
    uv, depth = torch.rand(100_000, 2, generator=g) * 1000, torch.rand(100_000, generator=g) + 0.1
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(find_occluded(uv, depth, (1000, 1000), 1, (3.1, 3.1), 0.08, 0.7))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert 0.01 < found[0].float().mean() < 0.9


def test_what_does_not_fit():
    uv, depth = torch.rand(9, 2), torch.rand(9)
    rest = (20, 30), 2, (1.5, 3.0), 0.08, 0.7
    with pytest.raises(ValueError, match=r'uv must have shape \(N, 2\)'):
        find_occluded(uv.T, depth, *rest)
    with pytest.raises(ValueError, match=r'depth must have shape \(9,\)'):
        find_occluded(uv, depth[:4], *rest)
    with pytest.raises(ValueError, match='depth is on meta'):
        find_occluded(uv, depth.to('meta'), *rest)
    with pytest.raises(TypeError, match='depth must be torch.float32'):
        find_occluded(uv, depth.double(), *rest)
    for cell, reach in ((0, (1.5, 3.0)), (2.5, (1.5, 3.0)), (2, (float('nan'), 3.0)),
                        (2, (1.5, 0.0)), (2, (1.5, float('inf')))):
        with pytest.raises(ValueError, match='cell must be a whole number'):
            find_occluded(uv, depth, (20, 30), cell, reach, 0.08, 0.7)
