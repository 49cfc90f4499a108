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
"""Operations on images: by OpenCV and by torch, one against the other."""
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import maps


def both(function, *args):
    """Return what the two sides make of the same."""
    by_opencv = function(*args)
    with maps.torch_on_cpu():
        return by_opencv, function(*args)


def picture(*shape):
    return torch.from_numpy(np.random.default_rng(1).random(shape).astype(np.float32))


def apart(pair):
    one, other = pair
    assert one.shape == other.shape and one.dtype == other.dtype == torch.float32
    return (one - other).abs().max()


@pytest.mark.parametrize('size', [(37, 52), (38, 51), (3, 4), (1, 1), (1, 6)])
@pytest.mark.parametrize('planes', [(), (3,)])
def test_scaling(size, planes):
    image = picture(*planes, *size)
    half = maps.downsample2(image)
    assert apart(both(maps.downsample2, image)) < 1e-5
    for factor in (1, 2):
        assert apart(both(maps.upsample, half, [min(n, factor * m) for n, m in
                                                zip(size, half.shape[-2:])], factor)) < 1e-5
    assert apart(both(maps.resize, image, half.shape[-2:])) < 1e-4


def test_averaging_over_cells():
    assert apart(both(maps.area, picture(3, 36, 48), (6, 8))) < 1e-5


@pytest.mark.parametrize('size', [(33, 41), (2, 3), (1, 5)])
@pytest.mark.parametrize('sigma', [0.75, 1.5])
def test_blur_and_derivatives(sigma, size):
    image = picture(2, *size)
    assert apart(both(maps.blur, image, sigma)) < 1e-5
    assert apart(both(maps.blur, image, sigma, 2)) < 1e-5
    assert apart(both(maps.sobel, image[0], 0.5)) < 1e-5


def test_colors():
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.integers(0, 255, (41, 60, 3), np.uint8))
    one, other = both(maps.smooth_lab, image, 0.75)
    assert one.shape == other.shape == (3, 21, 30)
    assert (one - other).abs().mean() < 0.2
    assert (one - other).abs().max() < 2  # a step of a byte; OpenCV rounds in between


@pytest.mark.parametrize('count', [0, 300, 40000])
def test_reading_between_pixels(count):
    rng = np.random.default_rng(2)
    uv = torch.from_numpy((rng.random((count, 2)) * (34, 24) - 2).astype(np.float32))
    for image in (picture(2, 20, 30), picture(20, 30)):
        one, other = both(maps.sample, image, uv)
        assert one.shape == other.shape == (*image.shape[:-2], count)
        assert count == 0 or (one - other).abs().max() < 0.05  # OpenCV: in 32nds of a pixel


def test_adding_up_at_pixels():
    uv, values = torch.tensor([[0.4, 0.0], [-0.3, 0.2], [9.0, 1.6]]), torch.tensor([[1., 2., 4.]])
    assert maps.add_at(uv, values, (2, 3)).tolist() == [[[3, 0, 0], [0, 0, 4]]]


@pytest.mark.parametrize('count', [1, 5, 60])
def test_distance_is_that_to_the_nearest_sample(count):
    size, rng = (45, 64), np.random.default_rng(count)
    uv = rng.integers(0, (64, 45), (count, 2)).astype(np.float32)
    valid = np.ones(count, bool)
    valid[1::4] = False
    by_steps, exact = both(maps.distance, torch.from_numpy(uv), torch.from_numpy(valid), size)
    y, x = np.mgrid[:45, :64]
    each = np.hypot(uv[valid][:, 0, None, None] - x, uv[valid][:, 1, None, None] - y)
    assert np.abs(exact.numpy() - each.min(0)).max() < 1e-4
    assert np.abs(by_steps.numpy() - each.min(0)).max() < 0.06 * each.min(0).max() + 0.1
    assert torch.equal(maps.distance(torch.from_numpy(uv[valid]), None, size), by_steps)


@pytest.mark.parametrize('count', [1, 6, 7])
def test_median(count):
    values = picture(count)
    one, other = both(maps.median, values)
    assert one == other == np.median(values)


def test_only_what_runs_inside_is_torch_and_the_second_thread_knows():
    image = picture(3)
    assert maps.by_opencv(image) and not maps.by_opencv(image.to('meta'))
    with maps.torch_on_cpu():
        assert not maps.by_opencv(image)
        assert maps.run_in_background(maps.by_opencv, image).result() is False
    assert maps.by_opencv(image)
    assert maps.meanwhile(torch.sum, image).result() == image.sum()
