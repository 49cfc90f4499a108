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
"""DepthCompleter: its checks, its corner cases, and where it makes no estimate."""
import subprocess
import sys
from time import perf_counter

import numpy as np
import pytest
import torch

import steer_depth_ros as sd
from steer_depth_ros.completion.presets import PRESETS
from steer_depth_ros.errors import (
    ConfigError,
    DeviceMemoryError,
    FrameError,
    WeightsError,
)

IMAGE = np.full((80, 120, 3), 100, np.uint8)


@pytest.fixture(scope='module')
def completer():
    return sd.DepthCompleter(preset='steering', device='cpu')


@pytest.mark.parametrize('uv, depth', [
    (np.zeros((0, 2), np.float32), np.zeros(0, np.float32)), ([], [])])
def test_no_sample_gives_no_estimate(completer, uv, depth):
    result = completer.complete(IMAGE, uv, depth)
    assert np.isnan(result.depth).all() and (result.confidence == 0).all()
    assert result.depth.shape == (80, 120) and result.depth.dtype == np.float32


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_few_samples(completer, count):
    uv = np.float32([[60, 40], [61, 41], [20, 70], [90, 10], [100, 60]])[:count]
    result = completer.complete(IMAGE, uv, np.full(count, 3, np.float32))
    np.testing.assert_allclose(result.depth[40, 60], 3, rtol=1e-4)
    known = np.isfinite(result.depth)
    np.testing.assert_allclose(result.depth[known], 3, rtol=1e-4)
    assert (result.confidence[~known] == 0).all()


@pytest.mark.parametrize('preset', ['fast', 'steering'])
def test_of_samples_at_one_position_the_nearest_counts(preset):
    rng = np.random.default_rng(0)
    uv = rng.uniform((0, 0), (159, 119), (300, 2)).astype(np.float32)
    image, at = rng.integers(0, 255, (120, 160, 3), np.uint8), np.tile([[80.3, 60.2]], (100, 1))
    completer = sd.DepthCompleter(preset=preset, device='cpu')
    once = completer.complete(image, np.vstack([uv, at[:1]]), np.full(301, 4.0))
    many = completer.complete(image, np.vstack([at, uv]), np.r_[np.linspace(9, 4, 100),
                                                                np.full(300, 4.0)])
    assert np.isfinite(many.depth).sum() == np.isfinite(once.depth).sum()
    np.testing.assert_allclose(many.depth, once.depth, rtol=0.02)


def test_samples_that_cannot_be_used_are_left_out(completer):
    rng = np.random.default_rng(0)
    uv = (rng.random((100, 2)) * (119, 79)).astype(np.float32)
    depth = np.full(100, 4, np.float32)
    bad_uv = np.float32([[np.nan, 3], [5, 5], [6, 6], [7, 7], [500, 3], [8, 8], [9, 9], [9, 8],
                         [8, 9]])
    bad_depth = np.float32([4, np.nan, np.inf, -2, 9, 0, 1e-40, 1e-10, 2e9])
    clean = completer.complete(IMAGE, uv, depth)
    dirty = completer.complete(IMAGE, np.concatenate([bad_uv, uv]),
                               np.concatenate([bad_depth, depth]))
    np.testing.assert_array_equal(clean.depth, dirty.depth)


@pytest.mark.parametrize('preset', ['fast', 'steering', 'learned'])
@pytest.mark.parametrize('size', [(80, 120), (1, 90), (1, 1)])
def test_depths_of_all_magnitudes(preset, size):
    rng = np.random.default_rng(0)
    uv = rng.uniform(-0.5, np.subtract(size[::-1], 0.5), (300, 2)).astype(np.float32)
    depth = (10 ** rng.uniform(-9, 9, 300)).astype(np.float32)
    result = sd.DepthCompleter(preset).complete(IMAGE[:size[0], :1].repeat(size[1], 1), uv, depth)
    known = np.isfinite(result.depth)
    assert known.all() and np.isfinite(result.confidence).all()
    assert depth.min() * 0.999 <= result.depth.min() <= result.depth.max() <= depth.max() * 1.001


@pytest.mark.parametrize('options', [
    {'preset': 'fast', 'operators': 'twin'}, {'preset': 'steering'},
    {'preset': 'steering', 'operators': 'twin'}, {'preset': 'learned'}], ids=str)
def test_the_default_type_of_the_caller_does_not_matter(options):
    # In a process of its own: tensors that are made once would hide it.
    code = f"""
import numpy as np, torch
import steer_depth_ros as sd
rng = np.random.default_rng(0)
frame = (rng.integers(0, 256, (60, 80, 3), np.uint8),
         rng.uniform(0, 59, (300, 2)).astype(np.float32), rng.uniform(1, 5, 300))
torch.set_default_dtype(torch.float64)
found = sd.DepthCompleter(**{options}).complete(*frame)
torch.set_default_dtype(torch.float32)
expected = sd.DepthCompleter(**{options}).complete(*frame)
np.testing.assert_array_equal(found.depth, expected.depth)
np.testing.assert_array_equal(found.confidence, expected.confidence)
"""
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('preset', ['fast', 'steering'])
@pytest.mark.parametrize('scene', ['random', 'scan lines'])
def test_estimates_do_not_depend_on_the_order_of_samples(preset, scene):
    rng = np.random.default_rng(1)
    if scene == 'random':
        uv, depth = rng.random((300, 2)) * (119, 79), rng.uniform(1, 5, 300)
    else:  # whole pixels, some twice, and a background that shows past the rims of things
        v, u = np.mgrid[0:80:5, 0:120:0.75]
        uv = np.stack([u, v], -1).reshape(-1, 2).round()
        depth = np.where((uv[:, 0] // 20 + uv[:, 1] // 15) % 2, 2, 8) + 0.01 * uv[:, 1]
        depth[rng.random(len(depth)) < 0.2] = 9
    uv, depth = uv.astype(np.float32), depth.astype(np.float32)
    completer = sd.DepthCompleter(preset)
    orders = np.arange(len(uv)), np.arange(len(uv))[::-1], rng.permutation(len(uv))
    first, *others = (completer.complete(IMAGE, uv[i], depth[i]) for i in orders)
    for other in others:
        np.testing.assert_array_equal(first.depth, other.depth)
        np.testing.assert_array_equal(first.confidence, other.confidence)


@pytest.mark.parametrize('image, uv, depth, named', [
    (IMAGE.astype(np.float32), np.zeros((3, 2)), np.ones(3), 'image'),
    (IMAGE[..., 0], np.zeros((3, 2)), np.ones(3), 'image'),
    (IMAGE, np.zeros((3, 3)), np.ones(3), 'uv'),
    (IMAGE, np.zeros((3, 2)), np.ones(4), 'depth')])
def test_wrong_shapes_are_named(completer, image, uv, depth, named):
    with pytest.raises(FrameError, match=f'^{named} must'):
        completer.complete(image, uv, depth)


@pytest.mark.parametrize('size', [(2, 32767), (32767, 2)])
def test_images_that_are_too_long_are_named(completer, size):
    with pytest.raises(FrameError, match='at most 32,766 a side can be completed'):
        completer.complete(np.zeros((*size, 3), np.uint8), np.zeros((3, 2)), np.ones(3))


def test_wrong_options_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match='steering'):
        sd.DepthCompleter(preset='nonsense')
    with pytest.raises(ConfigError, match='auto'):
        sd.DepthCompleter(preset='steering', device='gpu')
    for device in ('mps', 'meta', None):
        with pytest.raises(ConfigError, match='device'):
            sd.DepthCompleter(preset='steering', device=device)
    with pytest.raises(WeightsError, match='takes no weights'):
        sd.DepthCompleter(preset='steering', weights=tmp_path / 'w.safetensors')


@pytest.mark.parametrize('there_is_cuda', [False, True])
@pytest.mark.parametrize('preset', ['steering', 'fast'])
def test_auto_leaves_presets_without_a_network_on_the_cpu(preset, there_is_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there_is_cuda)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: int(there_is_cuda))
    for device in ('auto', 'cpu'):
        assert sd.DepthCompleter(preset=preset, device=device).device == torch.device('cpu')
    if there_is_cuda:
        assert sd.DepthCompleter(preset=preset, device='cuda').device == torch.device('cuda')
    else:
        with pytest.raises(ConfigError, match='sees no CUDA device'):
            sd.DepthCompleter(preset=preset, device='cuda')


@pytest.mark.parametrize('options, message', [
    ({'operators': 'triplet'}, "'native' or 'twin'"),
    ({'preset': 'reference', 'weights': 'w', 'operators': 'twin'}, 'use fast, steering or')])
def test_wrong_operators_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        sd.DepthCompleter(**options)


@pytest.mark.parametrize('name', [n for n, p in PRESETS.items() if p.model != 'reference'])
def test_every_preset_that_ships_runs(name):
    completer = sd.DepthCompleter(preset=name, device='cpu')
    assert f'preset {name}' in completer.describe() and 'operator' in completer.describe()
    rng = np.random.default_rng(0)
    uv = (rng.random((400, 2)) * (119, 79)).astype(np.float32)
    result = completer.complete(IMAGE, uv, np.full(400, 2, np.float32))
    assert np.nanmax(np.abs(result.depth - 2)) < 0.2
    assert 0 <= result.confidence.min() and result.confidence.max() <= 1


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory.'), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")])
def test_a_lack_of_memory_is_told_with_size_and_remedy(completer, monkeypatch, error):
    def complete(*_):
        raise error

    monkeypatch.setattr(completer, '_complete', complete)
    uv, depth = np.array([[3, 4]], np.float32), np.array([5], np.float32)
    with pytest.raises(DeviceMemoryError, match='cpu has not enough .* 40 x 30 pix.*image_scale'):
        completer.complete(np.zeros((30, 40, 3), np.uint8), uv, depth)


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(completer, monkeypatch):
    def complete(*_):
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(completer, '_complete', complete)
    with pytest.raises(RuntimeError, match='shapes'):
        completer.complete(np.zeros((30, 40, 3), np.uint8), [[3, 4]], [5])


def test_the_times_of_the_stages_add_up_to_the_call(completer):
    uv = (np.random.default_rng(0).random((300, 2)) * (119, 79)).astype(np.float32)
    started = perf_counter()
    stages = completer.complete(IMAGE, uv, np.full(300, 4, np.float32)).stages
    took = 1e3 * (perf_counter() - started)
    assert set(stages) == {'occlusion', 'normalize', 'hole_filling', 'kernels', 'tuning',
                           'operator', 'second_order_tv', 'confidence', 'rest'}
    assert min(stages.values()) > 0 and 0.5 * took < sum(stages.values()) <= took


def test_about_names_what_runs(completer):
    about = completer.about()
    assert set(about) == {'preset', 'device', 'backend', 'weights'}
    assert about['preset'] == 'steering' and about['device'] == 'cpu'


@pytest.mark.filterwarnings('error')
def test_arrays_that_must_not_be_written_to_are_taken_without_a_word(completer):
    rng = np.random.default_rng(5)
    frame = (rng.integers(0, 255, (60, 80, 3), np.uint8),
             rng.uniform(0, 59, (300, 2)).astype(np.float32),
             rng.uniform(1, 9, 300).astype(np.float32))
    expected = completer.complete(*frame).depth
    for array in frame:
        array.setflags(write=False)
    torch.set_warn_always(True)  # not the first time only, which another test may have had
    try:
        np.testing.assert_array_equal(completer.complete(*frame).depth, expected)
    finally:
        torch.set_warn_always(False)
