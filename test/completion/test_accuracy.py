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
"""Accuracy that must not get lost: error over that of linear interpolation, on rendered scenes."""
import numpy as np
import pytest
from scipy.interpolate import griddata

from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.evaluation.evaluate import procedural_examples
from steer_depth_ros.synthetic.procedural import ProceduralFrames

SEED, SCENES, SIZE = 4242, 3, (120, 160)
MARGIN = 1.03
# Geometric mean over the scenes of MAE over that of linear interpolation, as measured.
FIGURES = {'fast': {'random:500': 0.730, 'lidar:16': 0.786, 'lidar:64': 0.846},
           'steering': {'random:500': 0.624, 'lidar:16': 0.751, 'lidar:64': 0.795}}


def linear(uv, depth, size):
    """Interpolate inverse depth between the samples (Delaunay), the nearest one outside."""
    at = tuple(np.mgrid[:size[0], :size[1]])
    inside, nearest = (griddata(uv[:, ::-1], 1 / depth, at, method)
                       for method in ('linear', 'nearest'))
    return 1 / np.where(np.isnan(inside), nearest, inside)


@pytest.fixture(scope='module')
def frames():
    """Return examples and the error of linear interpolation, by pattern."""
    found: dict = {}
    scenes = ProceduralFrames(SCENES, SEED, SIZE)
    for pattern, one in procedural_examples(scenes, list(FIGURES['fast'])):
        known = np.isfinite(one.truth)
        error = np.abs(linear(one.uv, one.sparse, SIZE) - one.truth)[known].mean()
        found.setdefault(pattern, []).append((one, known, error))
    return found


@pytest.mark.parametrize('preset, pattern', [
    (preset, pattern) for preset, row in FIGURES.items() for pattern in row])
def test_error_stays_below_what_was_measured(frames, preset, pattern):
    completer = DepthCompleter(preset, 'cpu', reach=np.inf)
    logs = []
    for one, known, error in frames[pattern]:
        depth = completer.complete(one.image, one.uv, one.sparse).depth
        logs.append(np.log(np.abs(depth - one.truth)[known].mean() / error))
    quotient = np.exp(np.mean(logs))
    assert quotient < MARGIN * FIGURES[preset][pattern], f'{quotient:.4f} of linear'
