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
"""What a GPU runs, on the CPU: against the native completion, and without reading back."""
import subprocess
import sys

import numpy as np
import pytest
import torch

from steer_depth_ros.benchmarks.model import count_launches
from steer_depth_ros.completion import pipeline
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.maps import torch_on_cpu
from steer_depth_ros.completion.occlusion import remove_occluded, Samples
from steer_depth_ros.completion.presets import PRESETS
from steer_depth_ros.completion.refinement import Refinement
from steer_depth_ros.network.refinement_net import RefinementNet
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
        with torch_on_cpu():
            found, sure = pipeline.complete(*frames[kind], half=half)
    known = np.isfinite(depth)
    assert found.dtype == sure.dtype == np.float32
    assert np.mean(np.isfinite(found) != known) < 1e-3
    apart = np.abs(found - depth)[known & np.isfinite(found)] / depth[known & np.isfinite(found)]
    assert apart.mean() < 0.01 and np.median(apart) < 1e-3
    assert np.abs(sure - confidence).mean() < 0.02


def test_holes_are_filled_alike(frames):
    image, uv, depth = frames['hole']
    expected = pipeline.problem_of(image, Samples(uv, depth))
    with torch_on_cpu():
        found = pipeline.problem_of(image, Samples(uv, depth))
    assert len(found.inverse) > found.frame.count  # or this test shows nothing
    assert torch.equal(found.frame.uv, expected.frame.uv)
    assert ((found.inverse - expected.inverse).abs() / expected.inverse).max() < 0.02


@pytest.mark.parametrize('preset', ['steering', 'fast', 'learned'])
@pytest.mark.parametrize('kind', ['lidar', 'hole', 'few'])
def test_nothing_is_read_back_and_no_shape_depends_on_data(frames, kind, preset):
    """The meta device has no data: whoever asks for a value, or mixes devices, fails."""
    image, uv, depth = frames[kind]
    samples = remove_occluded(uv, depth, SIZE)._replace(has_parallax=True)
    frame = pipeline.prepare(samples, SIZE, preset != 'steering').to('meta')
    refine = Refinement(RefinementNet(), 'meta') if preset == 'learned' else None
    with torch.inference_mode():
        lab = pipeline.analyze(torch.from_numpy(image).to('meta')).result()
        dense, error = pipeline.estimate(lab, frame, refine)
    assert dense.is_meta and error.is_meta
    assert dense.shape == error.shape == SIZE and dense.dtype == torch.float32


@pytest.mark.parametrize('preset, most', [('steering', 148), ('fast', 164), ('learned', 414)])
def test_a_frame_takes_few_launches(preset, most):
    """At a size at which every operator takes as many as at any larger one."""
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (480, 640, 3), np.uint8)
    uv = (rng.random((9000, 2)) * (639, 479)).astype(np.float32)
    launches = count_launches(image, uv, 2 + uv[:, 1] / 100, PRESETS[preset])
    calls = 3 if preset == 'learned' else 4  # the network says which error to expect
    assert launches['kernel_regression'] == 6 * calls  # or they sort at once
    assert launches['distance_to_samples'] == 4
    assert sum(launches.values()) <= most, launches


def test_a_first_frame_does_not_wait_for_the_compiler_of_torch():
    code = """
import sys
import numpy as np
import steer_depth_ros as sd
rng = np.random.default_rng(0)
frame = np.zeros((60, 80, 3), np.uint8), rng.uniform(0, 59, (300, 2)), rng.uniform(1, 5, 300)
for preset in ('fast', 'steering', 'learned'):
    sd.DepthCompleter(preset).complete(*frame)
assert 'torch._dynamo' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('preset', ['fast', 'steering', 'learned'])
def test_a_gpu_completes_as_the_cpu_does(frames, preset):
    expected = DepthCompleter(preset, 'cpu', operators='twin').complete(*frames['lidar'])
    found = DepthCompleter(preset, 'cuda').complete(*frames['lidar'])
    known = np.isfinite(expected.depth)
    assert np.mean(np.isfinite(found.depth) != known) < 1e-3
    assert np.nanmean(np.abs(found.depth - expected.depth) / expected.depth) < 0.01


