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
"""The completion in torch, which a GPU runs: against the native one, and without reading back."""
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from steer_depth_ros.completion import kernels, pipeline, resample, tensor_pipeline
from steer_depth_ros.completion import tensor_maps as maps
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.hole_filling import fill_large_holes
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.synthetic.sensors import lidar_lines, random_samples

SIZE = (121, 160)


@pytest.fixture(scope='module')
def frames():
    """Return (image, uv, depth) of a LiDAR, at random, and with a large hole."""
    scene = ProceduralFrames(1, 5, SIZE).scene(0)
    rng = np.random.default_rng(3)
    lines, scattered = lidar_lines(scene, rng, 32), random_samples(scene, rng, 900)
    u, v = scattered.uv.T
    outside = (np.abs(u - 70) > 32) | (np.abs(v - 60) > 32)
    image = scene.image.numpy()
    return {'lidar': (image, lines.uv, lines.depth),
            'random': (image, scattered.uv, scattered.depth),
            'hole': (image, scattered.uv[outside], scattered.depth[outside]),
            'few': (image, scattered.uv[:9], scattered.depth[:9]),
            'dense': (image, *(np.concatenate([a] * 5) for a in (scattered.uv, scattered.depth)))}


@pytest.mark.parametrize('kind', ['lidar', 'random', 'hole', 'few', 'dense'])
@pytest.mark.parametrize('half', [False, True])
def test_agrees_with_the_native_completion(frames, kind, half):
    with torch.inference_mode():
        depth, confidence = pipeline.complete(*frames[kind], half=half)
        found, sure = tensor_pipeline.complete(*frames[kind], half=half)
    known = np.isfinite(depth)
    assert found.dtype == sure.dtype == np.float32
    assert np.mean(np.isfinite(found) != known) < 1e-3
    apart = np.abs(found - depth)[known & np.isfinite(found)] / depth[known & np.isfinite(found)]
    assert apart.mean() < 0.01 and np.median(apart) < 1e-3
    assert np.abs(sure - confidence).mean() < 0.02


def test_holes_are_filled_alike(frames):
    image, uv, depth = frames['hole']
    plan = tensor_pipeline.prepare(SIZE, uv, depth)
    with torch.inference_mode():
        lab = tensor_pipeline._lab(torch.from_numpy(image), plan.frame.config)
        found_uv, found = tensor_pipeline.fill_holes(plan, lab)
        expected = fill_large_holes(normalize(image, *plan.samples[:2]))
    assert len(found) > len(plan.uv)  # or this test shows nothing
    assert torch.equal(found_uv, expected.uv[0])
    assert ((found - expected.inverse[0]).abs() / expected.inverse[0]).max() < 0.02


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('kind', ['lidar', 'hole', 'few'])
def test_nothing_is_read_back_and_no_shape_depends_on_data(frames, kind, half):
    """The meta device has no data: whoever asks for a value, or mixes devices, fails."""
    image, uv, depth = frames[kind]
    plan = tensor_pipeline.prepare(SIZE, uv, depth, half)
    plan = replace(plan, frame=replace(plan.frame, has_parallax=True))
    with torch.inference_mode():
        dense, confidence = tensor_pipeline.on_device(torch.from_numpy(image).to('meta'),
                                                      plan.to('meta'))
    assert dense.is_meta and confidence.is_meta
    assert dense.shape == confidence.shape == SIZE and dense.dtype == torch.float32


def test_rejected_samples_count_nowhere(frames):
    """Bleed-through, forced: what is rejected might as well not be there."""
    image, uv, depth = frames['random']
    plan = tensor_pipeline.prepare(SIZE, uv, depth)
    with torch.inference_mode():
        scene = tensor_pipeline.describe(plan, tensor_pipeline._lab(torch.from_numpy(image),
                                                                    plan.frame.config))
        rejected = torch.zeros(scene.count, dtype=torch.bool)
        rejected[::3] = True
        less = tensor_pipeline.without(scene, rejected)
        expected = kernels.sample_distance(plan.frame.choose(~rejected.numpy()))
    assert np.abs(less.distance.numpy() - expected).max() < 0.06 * expected.max() + 0.1
    assert less.range[0] == scene.inverse[~torch.cat([rejected, rejected[:0]])].min()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('preset', ['fast', 'steering'])
def test_a_gpu_completes_as_the_cpu_does(frames, preset):
    expected = DepthCompleter(preset, 'cpu', operators='twin').complete(*frames['lidar'])
    found = DepthCompleter(preset, 'cuda').complete(*frames['lidar'])
    known = np.isfinite(expected.depth)
    assert np.mean(np.isfinite(found.depth) != known) < 1e-3
    assert np.nanmean(np.abs(found.depth - expected.depth) / expected.depth) < 0.01


# --- Image operations, against OpenCV ---


def picture(*shape):
    return np.random.default_rng(1).random(shape).astype(np.float32)


def planes(array):
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


@pytest.mark.parametrize('size', [(37, 52), (38, 51), (3, 4)])
def test_images_are_scaled_as_opencv_does(size):
    image = picture(*size, 3)
    half = resample.downsample2(image)
    assert np.allclose(maps.downsample2(planes(image)).numpy().transpose(1, 2, 0), half, atol=1e-5)
    assert np.allclose(maps.upsample(planes(half), size).numpy().transpose(1, 2, 0),
                       resample.upsample(half, size), atol=1e-5)
    smaller = cv2.resize(image, half.shape[1::-1])
    assert np.allclose(maps.resize(planes(image), half.shape[:2]).numpy().transpose(1, 2, 0),
                       smaller, atol=1e-4)


@pytest.mark.parametrize('sigma', [0.75, 1.5])
def test_blur_and_derivatives_are_those_of_opencv(sigma):
    image = picture(33, 41, 2)
    blurred = maps.blur(planes(image), sigma, maps.radius_of(sigma))
    assert np.allclose(blurred.numpy().transpose(1, 2, 0), cv2.GaussianBlur(image, (0, 0), sigma),
                       atol=1e-5)
    dy, dx = maps.sobel(torch.from_numpy(image[..., 0].copy()), 0.5)
    assert np.allclose(dy, cv2.Sobel(image[..., 0], cv2.CV_32F, 0, 1, scale=0.5), atol=1e-5)
    assert np.allclose(dx, cv2.Sobel(image[..., 0], cv2.CV_32F, 1, 0, scale=0.5), atol=1e-5)


def test_colors_are_those_of_opencv():
    image = picture(20, 30, 3)
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    found = maps.lab(planes(image)).numpy().transpose(1, 2, 0)
    assert np.abs(found - expected).max() < 0.5  # OpenCV reads a table


def test_maps_are_read_between_pixels_as_opencv_does():
    image, rng = picture(20, 30, 2), np.random.default_rng(2)
    uv = (rng.random((300, 2)) * (34, 24) - 2).astype(np.float32)
    expected = resample.sample_bilinear(image, torch.from_numpy(uv)[None])
    assert np.abs(maps.sample(planes(image), torch.from_numpy(uv)).numpy() - expected).max() < 0.05


@pytest.mark.parametrize('count', [1, 5, 60])
def test_distance_is_that_to_the_nearest_sample(count):
    size, rng = (45, 64), np.random.default_rng(count)
    uv = rng.integers(0, (64, 45), (count, 2)).astype(np.float32)
    valid = np.ones(count, bool)
    valid[1::4] = False
    found = maps.distance(torch.from_numpy(uv), torch.from_numpy(valid), size).numpy()
    y, x = np.mgrid[:45, :64]
    each = np.hypot(uv[valid][:, 0, None, None] - x, uv[valid][:, 1, None, None] - y)
    assert (found - each.min(0)).min() > -1e-3
    assert np.mean(found - each.min(0) > 1e-3) < 0.02
