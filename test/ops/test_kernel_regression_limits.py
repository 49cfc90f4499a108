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
"""The operator's limits: few, many, coinciding and padded samples, tiny images, bad arguments."""
import math
from unittest import mock

import pytest
from regression_cases import backend, BACKENDS, cast, run_native, run_twin, scene
import torch

from steer_depth_ros.ops import kernel_regression, regression

SIZE = (15, 21)
MODES = [dict(window=(4, 6)), dict(window=(4, 6), border='mirror'),
         dict(window=(4, 6), profile='tanh'), dict(neighbours=8),
         dict(neighbours=16, sectors=8)]


@pytest.fixture(params=BACKENDS, autouse=True)
def each_backend(request):
    """Run every test on the CPU library, on the CUDA code built for the host, and on a GPU."""
    with backend(request.param):
        yield


def assert_like_twin(data, size, rtol=1e-3, **options):
    expected = run_twin(data, size, **options)
    found = run_native(data, size, **options)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.double(), b, rtol=rtol, atol=1e-30, equal_nan=True)
    return found


@pytest.mark.parametrize('options', MODES)
def test_no_sample(options):
    data = scene(2, 0, SIZE, features=1)
    dense, mass = assert_like_twin(data, SIZE, **options)
    assert (dense == 0).all() if options.get('profile') == 'tanh' else dense.isnan().all()
    assert (mass == 0).all()


@pytest.mark.parametrize('options', MODES)
def test_one_sample_gives_its_value_where_it_reaches(options):
    data = scene(1, 1, SIZE)
    dense, mass = assert_like_twin(data, SIZE, **options)
    assert torch.allclose(dense[mass > 0], data['values'].float())
    if 'neighbours' in options:
        assert (mass > 0).all()


@pytest.mark.parametrize('options', MODES)
def test_all_samples_in_one_pixel(options):
    data = scene(1, 50, SIZE)
    data['uv'] = (data['uv'] % 0.8 + torch.tensor([9., 5.])).float().double()
    # Far away all are nearly as far as the K-th, and tapers are small differences.
    dense, mass = assert_like_twin(data, SIZE, rtol=.05, order=0, **options)
    assert mass[0, 5, 9] > 0 and 1 <= dense[0, 5, 9] <= 4


def test_samples_at_the_very_same_place():
    data = scene(1, 20, SIZE)
    data['uv'] = torch.full_like(data['uv'], 7.)
    dense, mass = assert_like_twin(data, SIZE, order=2)
    assert dense.isfinite().all()
    # All are the K-th neighbour, whose weight is zero, but for the pixel that they lie on.
    dense, mass = assert_like_twin(data, SIZE, order=2, neighbours=8)
    assert mass.count_nonzero() == 1 and mass[0, 7, 7] > 0


@pytest.mark.parametrize('size', [(1, 30), (30, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize('options', MODES)
def test_thin_images(size, options):
    data = scene(2, 12, size, features=1)
    data['ridge'] = torch.tensor(.05)
    for order in (0, 1, 2):
        assert_like_twin(data, size, order=order, **options)


def test_thousands_of_samples_in_one_window():
    data = scene(1, 5000, SIZE)
    for order in (0, 2):
        dense, mass = assert_like_twin(data, SIZE, order=order, window=(26, 34))
    assert (mass > 100).all()


def test_samples_outside_the_image_count_where_they_reach():
    data = scene(1, 4, SIZE)
    data['uv'] = torch.tensor([[[-3., 5.], [24., 8.], [10., -2.], [500., -500.]]]).double()
    dense, mass = assert_like_twin(data, SIZE, order=0, window=(4, 6))
    assert mass[0, 5, 0] > 0 and mass[0, 8, -1] > 0 and mass[0, 0, 10] > 0
    assert mass[0, 7, 10] == 0


def test_a_window_of_one_pixel():
    data = scene(1, 60, SIZE)
    data['uv'] = data['uv'].round()
    dense, mass = assert_like_twin(data, SIZE, order=2, window=(0, 0))
    assert (mass > 0).sum() == len(data['uv'][0].unique(dim=0))


@pytest.mark.parametrize('options', MODES)
def test_padding_may_hold_anything(options):
    data = cast(scene(2, 40, SIZE, features=2), torch.float32)
    data['bandwidth'] = torch.full((2, 40), 4.)
    data['valid'] = torch.arange(40).expand(2, 40) < torch.tensor([[25], [40]])
    for name in ('uv', 'values', 'steering', 'guide_at_samples', 'bandwidth'):
        data[name][0, 25:] = math.nan
    options = dict(options, order=1, ridge=.05)
    dense, mass = run_native(data, SIZE, **options)
    for b, count in enumerate((25, 40)):
        alone = {k: v[b:b + 1] if k == 'guide' else v[b:b + 1, :count] for k, v in data.items()
                 if k != 'valid'}
        expected, expected_mass = run_native(alone, SIZE, **options)
        torch.testing.assert_close(dense[b], expected[0], rtol=2e-3, atol=0., equal_nan=True)
        torch.testing.assert_close(mass[b], expected_mass[0], rtol=1e-5, atol=1e-30)

    values = data['values'].clone().requires_grad_()
    steering = data['steering'].clone().requires_grad_()
    dense, _ = run_native(dict(data, values=values, steering=steering), SIZE, **options)
    dense.nan_to_num().sum().backward()
    assert (values.grad[0, 25:] == 0).all() and (steering.grad[0, 25:] == 0).all()
    assert values.grad.isfinite().all() and steering.grad.isfinite().all()


@pytest.mark.parametrize('order', [0, 1, 2])
def test_weights_that_underflow_keep_the_estimate(order):
    # Exponents down to -3000: without scaling by the largest weight nothing would be left.
    data = scene(1, 30, SIZE)
    data['bandwidth'], data['ridge'] = 0.3, torch.tensor(.05)
    dense, mass = run_native(data, SIZE, order=order)
    expected, _ = run_twin(data, SIZE, order=order)
    assert dense.isfinite().all()
    torch.testing.assert_close(dense.double(), expected, rtol=5e-3, atol=0.)
    if order == 0:
        assert (dense >= 1).all() and (dense <= 4).all()


def test_huge_and_tiny_gamma():
    for gamma in (1e-18, 1e18):
        data = scene(1, 60, SIZE)
        data['steering'][..., 2] = gamma
        data['bandwidth'] = 5 * gamma ** .5
        dense, mass = run_native(data, SIZE, order=1)
        data['steering'][..., 2] = 1.
        data['bandwidth'] = 5.
        expected, _ = run_twin(data, SIZE, order=1)
        torch.testing.assert_close(dense.double(), expected, rtol=1e-3, atol=0.)


def test_zero_gamma_weighs_nothing():
    data = scene(1, 60, SIZE)
    data['steering'][..., 2] = 0.
    dense, mass = assert_like_twin(data, SIZE)
    assert dense.isnan().all() and (mass == 0).all()


def test_exact_at_samples():
    data = scene(2, 40, SIZE, padding=.2)
    dense, _ = run_native(data, SIZE, order=1, exact_at_samples=True)
    plain, _ = run_native(data, SIZE, order=1)
    carried = torch.zeros_like(plain, dtype=torch.bool)
    for b in range(2):
        uv, values = data['uv'][b][data['valid'][b]], data['values'][b][data['valid'][b]]
        for u, v in uv.round().long().tolist():
            carried[b, v, u] = True
            here = (uv.round().long() == torch.tensor([u, v])).all(1).nonzero()[:, 0]
            off = (uv[here] - torch.tensor([u, v])).norm(dim=1)
            assert dense[b, v, u] == values[here[off.argmin()]].float()
    assert torch.equal(dense[~carried], plain[~carried])


def test_exact_at_samples_passes_gradients_to_the_sample():
    data = scene(1, 3, SIZE)
    data['uv'] = torch.tensor([[[3., 4.], [3.2, 4.2], [60., 4.]]]).double()
    values = data['values'].float().requires_grad_()
    dense, _ = run_native(dict(data, values=values), SIZE, order=0, exact_at_samples=True)
    dense[0, 4, 3].backward()
    assert values.grad.tolist() == [[1., 0., 0.]]
    none, _ = run_native(scene(1, 0, SIZE), SIZE, exact_at_samples=True)
    assert none.isnan().all()


@pytest.mark.parametrize('options', MODES)
def test_invalid_positions_that_are_not_checked_do_not_crash(options):
    # The data cannot be checked while a graph is captured or compiled.
    data = scene(1, 30, SIZE)
    data['uv'][0, :5], data['uv'][0, 5:9], data['uv'][0, 9:12] = math.nan, math.inf, -1e30
    with mock.patch.object(regression, '_require_sound', lambda *_, **__: None):
        dense, mass = run_native(data, SIZE, **options)
    assert (mass > 0).any() and dense[mass > 0].isfinite().all()


def call(**changes):
    data = cast(scene(2, 10, SIZE, features=2), torch.float32)
    return kernel_regression(**{**data, 'size': SIZE, **changes})


@pytest.mark.parametrize('changes, error, names', [
    (dict(uv=torch.zeros(2, 10, 3)), ValueError, 'uv'),
    (dict(uv=[[0., 0.]]), TypeError, 'uv'),
    (dict(uv=torch.zeros(2, 10, 2, dtype=torch.long)), TypeError, 'uv'),
    (dict(values=torch.zeros(2, 9)), ValueError, 'values'),
    (dict(values=torch.full((2, 10), math.nan)), ValueError, 'values'),
    (dict(values=torch.zeros(2, 10, dtype=torch.int32)), TypeError, 'values'),
    (dict(steering=torch.zeros(2, 10, 2)), ValueError, 'steering'),
    (dict(steering=torch.full((2, 10, 3), math.inf)), ValueError, 'steering'),
    (dict(steering=torch.zeros(2, 10, 3)), ValueError, 'steering'),
    (dict(steering=torch.ones(2, 10, 3, device='meta')), ValueError, 'steering'),
    (dict(size=(0, 5)), ValueError, 'size'),
    (dict(size=(4.5, 5)), ValueError, 'size'),
    (dict(size=7), ValueError, 'size'),
    (dict(values=[1.]), TypeError, 'values'),
    (dict(bandwidth=None), TypeError, 'bandwidth'),
    (dict(bandwidth='wide'), TypeError, 'bandwidth'),
    (dict(window=5), ValueError, 'window'),
    (dict(window=(1, 2, 3)), ValueError, 'window'),
    (dict(valid=[True]), TypeError, 'valid'),
    (dict(valid=torch.ones(2, 10, dtype=torch.bool, device='meta')), ValueError, 'valid'),
    (dict(valid=torch.ones(2, 10)), TypeError, 'valid'),
    (dict(valid=torch.ones(2, 9, dtype=torch.bool)), ValueError, 'valid'),
    (dict(guide=None), ValueError, 'guide'),
    (dict(guide=torch.zeros(2, 2, 4, 4)), ValueError, 'guide'),
    (dict(guide_at_samples=torch.zeros(2, 10, 3)), ValueError, 'guide_at_samples'),
    (dict(bandwidth=torch.ones(3)), ValueError, 'bandwidth'),
    (dict(bandwidth=0.), ValueError, 'bandwidth'),
    (dict(bandwidth=-1.), ValueError, 'bandwidth'),
    (dict(bandwidth=math.nan), ValueError, 'bandwidth'),
    (dict(bandwidth=torch.zeros(2, *SIZE)), ValueError, 'bandwidth'),
    (dict(ridge=-.1), ValueError, 'ridge'),
    (dict(ridge=torch.ones(2, 10)), ValueError, 'ridge'),
    (dict(window=(-1, 4)), ValueError, 'window'),
    (dict(neighbours=3), ValueError, 'neighbours'),
    (dict(neighbours=65), ValueError, 'neighbours'),
    (dict(neighbours=18, sectors=4), ValueError, 'sectors'),
    (dict(neighbours=16, sectors=3), ValueError, 'sectors'),
    (dict(neighbours=16, border='mirror'), ValueError, 'border'),
    (dict(order=3), ValueError, 'order'),
    (dict(profile='box'), ValueError, 'profile'),
    (dict(border='wrap'), ValueError, 'border'),
])
def test_errors_name_the_argument(changes, error, names):
    with pytest.raises(error, match=rf'\b{names}\b'):
        call(**changes)


@pytest.mark.parametrize('shape, size, options, named', [
    ((1, 70_000_000), (8, 8), {}, 'samples times 32'),
    ((1, 1_000_000), (2, 2), {'window': (26, 34), 'border': 'mirror'}, 'reflections'),
    ((1, 1), (50_000, 50_000), {}, ' pixels,'),
    ((1, 1), (8, 8), {'window': (50_000, 50_000)}, 'window around')])
def test_what_cannot_be_counted_is_refused(shape, size, options, named):
    data = {'uv': torch.zeros(1, 1, 1).expand(*shape, 2),
            'values': torch.zeros(1, 1).expand(shape),
            'steering': torch.ones(1, 1, 1).expand(*shape, 3)}
    with pytest.raises(ValueError, match=f'are too many: .*{named}.*split the batch'):
        kernel_regression(size=size, **data, **options)


def test_an_8k_image_can_be_counted_also_with_a_sample_a_pixel():
    regression._require_countable(1, 7680 * 4320, 4320, 7680, (26, 34), 'none')
    with pytest.raises(ValueError, match='samples times 32'):
        regression._require_countable(3, 7680 * 4320, 4320, 7680, (26, 34), 'none')
