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
"""The operator's values: against brute force, between backends, and what they must satisfy."""
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from regression_cases import (
    available,
    backend,
    BACKENDS,
    CPU_VARIANTS,
    run_native,
    run_twin,
    scene,
)
import regression_oracle as oracle
import torch

SIZE = (41, 57)
MODES = [dict(window=(9, 13)), dict(window=(9, 13), border='mirror'),
         dict(window=(9, 13), profile='tanh'), dict(neighbours=12), dict(neighbours=16),
         dict(neighbours=19), dict(neighbours=24),
         dict(neighbours=32, sectors=4), dict(neighbours=32, sectors=8, aspect=0.5),
         dict(neighbours=16, aspect=3.)]
VARIANTS = [pytest.param(name, marks=pytest.mark.skipif(
    not available(name), reason=f'no {name} library, or a machine without it'))
    for name in CPU_VARIANTS] + [*BACKENDS[1:], 'cuda on host, warps']


def check_pixels(data, size, pixels, mass_tolerance=1e-4, **options):
    """Compare values and masses at random pixels; return how many had a condition under 1e4."""
    dense, mass = run_native(data, size, **options)
    rng = np.random.default_rng(0)
    bandwidth = data.get('bandwidth', 5.)
    checked = 0
    for _ in range(pixels):
        b, y, x = (rng.integers(n) for n in (len(data['uv']), *size))
        arrays = {k: data[k][b].numpy() for k in ('uv', 'values', 'steering')}
        h = bandwidth if not torch.is_tensor(bandwidth) or bandwidth.dim() == 0 else (
            bandwidth[b].numpy() if bandwidth.dim() == 2 else bandwidth[b, y, x].item())
        if 'guide' in data:
            arrays['guide'] = data['guide'][b, :, y, x].numpy()
            arrays['guide_at_samples'] = data['guide_at_samples'][b].numpy()
        expected, m, condition = oracle.estimate((y, x), size=size, bandwidth=h, **arrays,
                                                 **options)
        assert mass[b, y, x].item() == pytest.approx(m, rel=mass_tolerance)
        if condition < 1e4:
            checked += 1
            tolerance = max(1e-4, 2e-7 * condition)
            # Values are 1 to 4: rounding is a share of these, also where their fit comes near 0.
            rounding = max(2e-6, 2e-7 * condition)
            assert dense[b, y, x].item() == pytest.approx(expected, rel=tolerance,
                                                          abs=rounding), condition
    return checked


@pytest.mark.parametrize('order', [0, 1, 2])
@pytest.mark.parametrize('profile', ['gaussian', 'tanh'])
@pytest.mark.parametrize('border', ['none', 'mirror'])
def test_matches_brute_force_with_the_papers_window(order, profile, border):
    size = (60, 80)
    data = scene(1, 120, size, seed=order)
    assert check_pixels(data, size, 25, order=order, profile=profile, border=border) >= 20


@pytest.mark.parametrize('options', MODES)
@pytest.mark.parametrize('order', [0, 1, 2])
def test_matches_brute_force_with_guide(options, order):
    data = scene(2, 250, SIZE, features=3, margin=4.)
    spread = torch.rand(2, 250, generator=torch.Generator().manual_seed(order))
    data['bandwidth'] = spread.double() + (4. if 'window' in options else 1.)
    assert check_pixels(data, SIZE, 30, order=order, **options) >= (15 if order == 2 else 28)


@pytest.mark.parametrize('size', [(7, 9), (2, 30), (1, 20), (1, 1)])
def test_mirror_reflects_as_often_as_the_window_reaches(size, each_backend):
    data = scene(1, 6, size)
    data['uv'] = data['uv'].round()
    assert check_pixels(data, size, 20, order=0, border='mirror') == 20


def test_ridge_and_bandwidth_per_pixel(each_backend):
    data = scene(1, 80, SIZE)
    data['bandwidth'] = torch.rand(1, *SIZE).double() * 5 + 3
    assert check_pixels(data, SIZE, 30, order=2, ridge=0.05) == 30


@pytest.mark.parametrize('name', VARIANTS)
@pytest.mark.parametrize('options', MODES)
@pytest.mark.parametrize('order', [0, 1, 2])
def test_backends_agree_with_the_twin(name, options, order):
    data = scene(2, 150, SIZE, features=3, padding=0.1, seed=3, margin=6.)
    data['ridge'] = torch.tensor(0.01)
    if 'neighbours' in options:
        data['bandwidth'] = 1.5
    expected, expected_mass = run_twin(data, SIZE, order=order, **options)
    with backend(name):
        dense, mass = run_native(data, SIZE, order=order, **options)
    torch.testing.assert_close(mass.double(), expected_mass, rtol=2e-5, atol=1e-30)
    # The ridge bounds the condition number, so no pixel falls back and rounding stays small.
    torch.testing.assert_close(dense.double(), expected, rtol=1e-3, atol=0.)


def layouts(size):
    """Sample positions that are hard to search: name -> (N, 2)."""
    g = torch.Generator().manual_seed(0)
    height, width = size

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    extent = torch.tensor([width - 1., height - 1.], dtype=torch.float64)
    lines = torch.stack([rand(300) * width, torch.randint(0, 5, (300,), generator=g) * 8.3], -1)
    grid = torch.stack(torch.meshgrid(torch.arange(0., width, 4), torch.arange(0., height, 4),
                                      indexing='xy'), -1).reshape(-1, 2).double()
    return {'uniform': rand(400, 2) * extent, 'few': rand(20, 2) * extent, 'lines': lines,
            'integer grid': grid, 'cluster': rand(200, 2) * 6 + torch.tensor([40., 3.]),
            'cluster and rest': torch.cat([rand(300, 2) * 3 + 20, rand(30, 2) * extent]),
            'outside': rand(100, 2) * extent * 3 - extent, 'left of it': rand(60, 2) * 30 - 60,
            'repeated': (rand(60, 2) * extent).repeat(3, 1)}


@pytest.fixture(params=BACKENDS)
def each_backend(request):
    """Run a test on the CPU library, on the CUDA code built for the host, and on a GPU."""
    with backend(request.param):
        yield


@pytest.mark.parametrize('layout', layouts(SIZE))
@pytest.mark.parametrize('sectors', [1, 4, 8])
def test_neighbours_are_the_nearest(layout, sectors, each_backend):
    uv = layouts(SIZE)[layout].float().double()[None]
    data = scene(1, uv.shape[1], SIZE)
    data['uv'], data['bandwidth'] = uv, 1.5
    # Two a sector, and every sample there three times: all are K-th, and weigh nothing.
    expected_count = 0 if layout == 'repeated' and sectors == 8 else 20
    assert check_pixels(data, SIZE, 20, 1e-3, order=0, neighbours=16,
                        sectors=sectors) == expected_count
    dense, mass = run_native(data, SIZE, order=0, neighbours=16, sectors=sectors)
    expected, expected_mass = run_twin(data, SIZE, order=0, neighbours=16, sectors=sectors)
    torch.testing.assert_close(mass.double(), expected_mass, rtol=1e-2, atol=1e-30)
    torch.testing.assert_close(dense.double(), expected, rtol=1e-4, atol=0., equal_nan=True)


def test_neighbours_of_a_wide_image(each_backend):
    # Wide enough that searches of neighbouring tiles start from each other's radii.
    size = (24, 400)
    data = scene(1, 500, size)
    data['uv'][0, :, 0] = data['uv'][0, :, 0] ** 2 / 399  # dense on the left, sparse on the right
    data['uv'], data['bandwidth'] = data['uv'].float().double(), 1.
    for sectors in (1, 8):
        expected, mass = run_twin(data, size, order=0, neighbours=16, sectors=sectors)
        got = run_native(data, size, order=0, neighbours=16, sectors=sectors)
        torch.testing.assert_close(got[1].double(), mass, rtol=1e-4, atol=1e-30)
        torch.testing.assert_close(got[0].double(), expected, rtol=1e-4, atol=0.)


@pytest.mark.parametrize('order', [0, 1])
def test_neighbours_are_continuous(order):
    data = scene(1, 200, SIZE)
    data['bandwidth'] = 1.

    def jump(step):
        moved = dict(data, uv=data['uv'] + step)
        options = dict(order=order, neighbours=8, ridge=torch.tensor(0.05).double())
        return (run_twin(moved, SIZE, **options)[0]
                - run_twin(data, SIZE, **options)[0]).abs().max().item()

    # A sample that came or went with weight would leave a jump of the same size at any step.
    assert jump(1e-2) < 0.3
    assert jump(1e-4) < 0.05 * jump(1e-2)


def test_a_plane_is_reproduced_by_order_1_and_a_quadric_by_order_2():
    data = scene(1, 300, SIZE)
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in SIZE), indexing='ij')
    u, v = data['uv'][0].T
    for order, surface in ((1, lambda y, x: 2 + .03 * y - .02 * x),
                           (2, lambda y, x: 3 + .03 * y - .02 * x * y / 20 + .001 * x * x)):
        data['values'] = surface(v, u)[None]
        for options in (dict(), dict(neighbours=48)):
            data['bandwidth'] = 5. if not options else 1.5
            dense, _ = run_native(data, SIZE, order=order, **options)
            torch.testing.assert_close(dense[0].double(), surface(y, x), rtol=1e-3, atol=0.)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100.), shift=st.integers(-40, 40),
       mode=st.sampled_from([dict(window=(9, 13)), dict(neighbours=12, sectors=4)]),
       order=st.integers(0, 2))
def test_symmetries(seed, factor, shift, mode, order):
    size, more = (17, 23), dict(mode, order=order, ridge=0.02)
    data = scene(1, 60, size, seed=seed)
    dense, mass = run_native(data, size, **more)

    scaled, _ = run_native(dict(data, values=data['values'] * factor), size, **more)
    torch.testing.assert_close(scaled, dense * factor, rtol=1e-3, atol=1e-5 * factor,
                               equal_nan=True)

    lifted, _ = run_native(dict(data, values=data['values'] + shift), size, **more)
    torch.testing.assert_close(lifted, dense + shift, rtol=1e-3, atol=1e-3, equal_nan=True)

    order_of = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    shuffled = {k: v[:, order_of] for k, v in data.items()}
    again, mass_again = run_native(shuffled, size, **more)
    torch.testing.assert_close(again, dense, rtol=1e-3, atol=1e-3, equal_nan=True)
    torch.testing.assert_close(mass_again, mass, rtol=1e-4, atol=1e-30)

    # Samples moved by whole pixels move the result along.
    moved, _ = run_native(dict(data, uv=data['uv'] + torch.tensor([3., 2.])), size, **more)
    torch.testing.assert_close(moved[:, 2:, 3:], dense[:, :-2, :-3], rtol=1e-3, atol=1e-3,
                               equal_nan=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
       mode=st.sampled_from(MODES), order=st.integers(0, 2), features=st.integers(0, 2))
def test_a_batch_is_its_frames_one_by_one(seed, counts, mode, order, features):
    size, most = (13, 19), max(counts)
    data = scene(len(counts), most, size, features, seed)
    data['valid'] = torch.arange(most) < torch.tensor(counts)[:, None]
    options = dict(mode, order=order, ridge=0.02)
    dense, mass = run_native(data, size, **options)
    for b, count in enumerate(counts):
        alone = {k: v[b:b + 1] if k == 'guide' else v[b:b + 1, :count] for k, v in data.items()
                 if k != 'valid'}
        expected, expected_mass = run_native(alone, size, **options)
        torch.testing.assert_close(mass[b], expected_mass[0], rtol=1e-4, atol=1e-30)
        torch.testing.assert_close(dense[b], expected[0], rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize('mode', MODES, ids=str)
def test_images_with_samples_in_the_same_places_share_a_search(mode, each_backend):
    """Guides, values, kernels, bandwidths and ridges are still each image's own."""
    data = scene(3, 90, SIZE, features=2, seed=5)
    data['uv'][1] = data['uv'][0]
    data['valid'] = torch.ones(3, 90, dtype=torch.bool)
    data['valid'][2, 80:] = False
    data['bandwidth'] = torch.linspace(.8, 1.6, 3)[:, None, None].expand(3, *SIZE)
    ridge = torch.linspace(.01, .3, 3)[:, None, None].expand(3, *SIZE)
    dense, mass = run_native(data, SIZE, order=1, ridge=ridge, **mode)
    for b in range(3):
        alone = {k: v[b:b + 1] for k, v in data.items()}
        expected, expected_mass = run_native(alone, SIZE, order=1, ridge=ridge[b:b + 1], **mode)
        assert torch.equal(dense[b:b + 1], expected) and torch.equal(mass[b:b + 1], expected_mass)
