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
"""Distance to samples: the CUDA body, built by g++ or on a GPU, and torch, against all pairs."""
import numpy as np
import pytest
from regression_cases import backend, needs_gpu, ON_HOST
import torch

from steer_depth_ros.ops.distance import distance_to_samples


def expected(uv, valid, size):
    """Measure from every pixel to every one that holds a valid sample."""
    uv = uv.numpy() if valid is None else uv[valid].numpy()
    column, row = np.clip(np.floor(uv + 0.5), 0, (size[1] - 1, size[0] - 1)).T
    y, x = np.mgrid[:size[0], :size[1]]
    apart = np.hypot(x - column[:, None, None], y - row[:, None, None])
    return apart.min(0, initial=2 * sum(size))


def samples(count, size):
    """Return uv, some of them beyond the border, and which of them are valid."""
    g = torch.Generator().manual_seed(count)
    uv = torch.rand(count, 2, generator=g) * (torch.tensor(size[::-1]) + 3.0) - 2
    return uv, torch.rand(count, generator=g) < 0.6


@pytest.mark.parametrize('rejecting', [False, True], ids=['all', 'rejecting'])
@pytest.mark.parametrize('size', [(23, 31), (1, 40), (40, 1), (1, 1), (57, 8)])
@pytest.mark.parametrize('count', [0, 1, 3, 60])
@pytest.mark.parametrize('name', [*ON_HOST, 'torch'])
def test_is_that_to_the_nearest_of_all(name, count, size, rejecting):
    uv, valid = samples(count, size)
    valid = valid if rejecting else None
    with backend('native' if name == 'torch' else name):
        found = distance_to_samples(uv, valid, size)
    np.testing.assert_allclose(found, expected(uv, valid, size), rtol=1e-6)


@pytest.mark.parametrize('name', [*ON_HOST, 'torch'])
def test_samples_on_the_border_and_none_that_counts(name):
    size, uv = (9, 14), torch.tensor([[-0.5, -0.5], [13.49, 8.49], [13.0, 0.0]])
    with backend('native' if name == 'torch' else name):
        np.testing.assert_allclose(distance_to_samples(uv, None, size), expected(uv, None, size))
        nothing = distance_to_samples(uv, torch.zeros(3, dtype=torch.bool), size)
    assert (nothing == 2 * (9 + 14)).all()


def test_without_data_and_what_does_not_fit():
    uv, valid = samples(9, (20, 30))
    assert distance_to_samples(uv.to('meta'), valid.to('meta'), (20, 30)).shape == (20, 30)
    torch.library.opcheck(torch.ops.steer_depth_ros.distance_to_samples.default,
                          (uv, valid, 20, 30))
    with pytest.raises(ValueError, match=r'uv must have shape \(N, 2\)'):
        distance_to_samples(uv.T, valid, (20, 30))
    with pytest.raises(ValueError, match=r'valid must have shape \(9,\)'):
        distance_to_samples(uv, valid[:4], (20, 30))
    with pytest.raises(ValueError, match='valid is on meta'):
        distance_to_samples(uv, valid.to('meta'), (20, 30))
    with pytest.raises(TypeError, match='valid must be torch.bool'):
        distance_to_samples(uv, valid.int(), (20, 30))


@needs_gpu
@pytest.mark.parametrize('size', [(375, 1242), (23, 31)])
def test_a_gpu_finds_the_same(size):
    uv, valid = samples(500, size)
    found = distance_to_samples(uv.cuda(), valid.cuda(), size)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), distance_to_samples(uv, valid, size))
