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
"""Leave-one-out tuning: native code, also that of a GPU, against the specification in torch."""
import math
import re

import numpy as np
import pytest
from regression_cases import available, backend, CPU_VARIANTS, needs_gpu, ON_HOST
from scipy.spatial import cKDTree
import torch

from steer_depth_ros.ops import leave_one_out_torch, native
from steer_depth_ros.ops.leave_one_out import (
    Constants,
    find_neighbors,
    LeaveOneOut,
    nearest_samples,
    Neighbors,
)
from steer_depth_ros.ops.leave_one_out_torch import Twin

CONSTANTS = Constants(
    aspect=1.6, ridge=0.01, bandwidth=0.7, depth_step=0.15, bandwidth_at_sample=0.25,
    bandwidth_far=1.2, bandwidth_distance=3.0, coarse_neighbors=10, steps=8, rate=0.25,
    newest=0.3, newest_square=0.1, averaged=4, prior=0.01, max_error=1.0)
COMPILED = [*(pytest.param(name, marks=pytest.mark.skipif(
    not available(name), reason='not built, or not for this machine')) for name in CPU_VARIANTS),
    *ON_HOST]
needs_native = pytest.mark.skipif(native.cpu_name() is None, reason='no compiled library')


def samples(count, seed=0, lines=False):
    """Return uv, inverse depth that has steps, colors that tell them, and kernels."""
    g = torch.Generator().manual_seed(seed)
    uv = torch.rand(count, 2, generator=g) * torch.tensor([120.0, 80.0])
    if lines:
        uv[:, 1] = (uv[:, 1] / 8).round() * 8 + torch.rand(count, generator=g)
    wall = (uv[:, 0] / 17).floor() % 2
    inverse = 0.5 + wall * 0.4 + uv[:, 1] / 200 + torch.rand(count, generator=g) * 0.02
    colors = torch.rand(count, 3, generator=g) + wall[:, None] * torch.tensor([2.0, 0.0, 0.3])
    kernels = torch.rand(count, 3, generator=g) * torch.tensor([3.0, 6.0, 1.0]) \
        + torch.tensor([0.5, -3.0, 0.5])
    return uv, inverse, colors, kernels


def problem(count=300, queries=90, neighbors=24, seed=0, lines=False, **more):
    uv, inverse, colors, kernels = samples(count, seed, lines)
    chosen = torch.arange(queries) * (count - 1) // max(queries - 1, 1)
    return LeaveOneOut(uv, inverse, colors, kernels, find_neighbors(
        uv, chosen, neighbors, CONSTANTS.aspect, 2.0 if lines else 0.0), CONSTANTS, **more)


def in_double(each):
    def cast(x):
        return x.double() if torch.is_tensor(x) and x.is_floating_point() else x
    return each._replace(neighbors=each.neighbors._make(map(cast, each.neighbors)), **{
        name: cast(getattr(each, name)) for name in each._fields
        if name not in ('neighbors', 'constants')})


def without(each, seed=1):
    """Return the problem with some samples rejected, and another guide."""
    g = torch.Generator().manual_seed(seed)
    rejected = torch.rand(len(each.uv), generator=g) < 0.2
    guide = each.inverse[each.neighbors.queries] * (
        1 + 0.05 * torch.randn(len(each.neighbors.queries), generator=g))
    return each._replace(guide=guide, rejected=rejected)


@pytest.mark.parametrize('name', [*COMPILED, 'torch'])
@pytest.mark.parametrize('count, neighbors, gap', [
    (400, 24, 0), (400, 24, 2.0), (1500, 16, 3.0), (1500, 16, 12.0), (25, 24, 0),
    (25, 24, 2.0), (40, 5, 0)])
def test_neighbors_are_the_nearest_others(name, count, neighbors, gap):
    uv, *_ = samples(count, lines=gap > 0)
    queries = torch.arange(0, count, 3 if count < 100 else count // 20)
    if name == 'torch':
        near, distance, known = leave_one_out_torch.find_neighbors(
            uv, queries, None, neighbors, 1.6, gap)
    else:
        with backend(name):
            _, near, distance, known = find_neighbors(uv, queries, neighbors, 1.6, gap)
    points = uv.double().numpy() / [1, 1.6]
    apart = np.linalg.norm(points[queries, None] - points, axis=2)
    everyone = np.sort(apart, axis=1)
    apart[np.arange(len(queries)), queries] = np.inf
    if gap:
        apart[(uv[queries, 1, None] - uv[:, 1]).abs().numpy() < gap] = np.inf
    expected = np.sort(apart, axis=1)[:, :neighbors].T
    enough = np.isfinite(expected[-1])
    if 3 * neighbors < count:
        enough &= expected[-1] <= everyone[:, 3 * neighbors - 1]
    np.testing.assert_array_equal(known, enough)
    assert near.shape == distance.shape == (neighbors, len(queries))
    np.testing.assert_allclose(distance[:, known], expected[:, known], rtol=1e-5)
    at = np.take_along_axis(apart, near.numpy().T, 1).T
    np.testing.assert_allclose(at[:, known], expected[:, known], rtol=1e-5)
    assert all(len(set(each)) == neighbors for each in near.T[known].tolist())
    assert (near[:, ~known] == 0).all() and (distance[:, ~known] == 1).all()


@pytest.mark.parametrize('name', [*COMPILED, 'torch'])
@pytest.mark.parametrize('count, neighbors', [(400, 24), (24, 24), (25, 1), (1500, 16)])
def test_the_samples_nearest_to_points(name, count, neighbors):
    """Also to points beyond all samples."""
    uv, *_ = samples(count)
    g = torch.Generator().manual_seed(9)
    points = torch.rand(60, 2, generator=g) * torch.tensor([400.0, 300.0]) - 100
    points[:5] = uv[:5]
    dtype = torch.float64 if name == 'torch' else torch.float32
    with backend('native' if name == 'torch' else name):
        near, distance = nearest_samples(uv.to(dtype), points.to(dtype), neighbors, 1.6)
    scale = torch.tensor([1, 1 / 1.6]).double()
    expected, order = torch.cdist(points * scale, uv * scale).sort()
    torch.testing.assert_close(distance.double(), expected[:, :neighbors].T, rtol=1e-5, atol=1e-5)
    assert torch.equal(near, order[:, :neighbors].T)


@pytest.mark.parametrize('name', COMPILED)
@pytest.mark.parametrize('layout', ['grid', 'one place', 'one row', 'one far away'])
def test_neighbors_where_samples_lie_oddly(name, layout):
    """Of samples as near those of lower index come first, so that everyone finds the same."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(15.0), indexing='ij')
    uv = torch.stack([x.ravel(), y.ravel()], 1)
    if layout == 'one place':
        uv = torch.full_like(uv, 7.0)
    elif layout == 'one row':
        uv[:, 1] = 3.0
    elif layout == 'one far away':
        uv[0] = 1e5
    queries = torch.arange(0, len(uv), 7)
    with backend(name):
        _, near, distance, known = find_neighbors(uv, queries, 24)
    expected = leave_one_out_torch.find_neighbors(uv.double(), queries, None, 24, 1.0, 0)
    if layout == 'one far away':  # from there all others are as near, as far as floats tell
        near, expected = near[:, 1:], [each[:, 1:] for each in expected[:2]]
        distance = distance[:, 1:]
    assert torch.equal(near, expected[0]) and known.all()
    torch.testing.assert_close(distance.double(), expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', COMPILED)
@pytest.mark.parametrize('lines, changed', [(False, False), (True, False), (True, True)])
def test_settings_and_predictions_are_those_of_the_specification(name, lines, changed):
    each = problem(lines=lines)
    if changed:
        each = without(each)
    assert 20 < each.known.sum() < len(each.known) or not changed
    twin = Twin(in_double(each))
    settings = torch.tensor([0.2, -0.3, 0.1, -0.2, 0.3, 0.4])
    with backend(name):
        tuned, at = each.tune(), each.at(settings)
    torch.testing.assert_close(tuned.settings.double(), twin.tune(torch.zeros(6).double()),
                               rtol=0, atol=2e-3)
    assert tuned.settings.abs().min() > 1e-3
    known = each.known
    for found, expected in ((tuned.predicted, twin.predict(tuned.settings.double())),
                            (at.predicted, twin.predict(settings.double())),
                            (tuned.guide, twin.guide)):
        torch.testing.assert_close(found[known].double(), expected[known], rtol=1e-4, atol=0)
    assert torch.equal(at.settings, settings)


@pytest.mark.parametrize('name', ['native', 'cuda on host'])
def test_the_gradient_is_that_of_the_specification(name):
    """
    A first step tells the sign of the gradient alone, to which the prior p adds 2 p s.

    The p that turns the step around says what the gradient was.
    """
    settings = torch.tensor([0.2, -0.3, 0.1, -0.2, 0.3, 0.4])
    each, found = without(problem()), []
    gradient = torch.func.grad(Twin(in_double(each)).loss)(settings.double())
    for i in range(6):
        low, high = -5.0, 5.0
        for _ in range(24):
            middle = (low + high) / 2
            turned = each._replace(constants=each.constants._replace(
                averaged=1, prior=-middle / (2 * settings[i].item())))
            with backend(name):
                after = turned._run(settings, 1).settings
            low, high = (middle, high) if after[i] < settings[i] else (low, middle)
        found.append(middle)
    torch.testing.assert_close(torch.tensor(found).double(), gradient, rtol=1e-3, atol=2e-5)


def test_the_gradient_of_the_specification_is_that_of_its_loss():
    twin = Twin(in_double(without(problem())))
    settings = torch.tensor([0.2, -0.3, 0.1, -0.2, 0.3, 0.4], dtype=torch.float64,
                            requires_grad=True)
    assert torch.autograd.gradcheck(twin.loss, settings, eps=1e-5, atol=1e-4)


@pytest.mark.parametrize('name', ON_HOST)
def test_the_bodies_of_a_gpu_repeat_themselves_and_agree_with_the_cpu(name):
    each = without(problem(1500, 700, lines=True))
    cpu = each.tune()
    with backend(name):
        one, two = each.tune(), each.tune()
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    torch.testing.assert_close(one.settings, cpu.settings, rtol=0, atol=2e-3)


def test_results_do_not_depend_on_the_number_of_threads():
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            each = problem(3000, 600)
            found.append([*each.neighbors, *each.tune()])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize('name', [*COMPILED, 'float64'])
@pytest.mark.parametrize('count, queries', [(1, 1), (2, 2), (24, 24), (60, 0)])
def test_without_neighbors_or_queries_all_settings_are_zero(name, count, queries):
    dtype = torch.float64 if name == 'float64' else torch.float32
    with backend('native' if name == 'float64' else name):
        uv, inverse, colors, kernels = (t.to(dtype) for t in samples(count))
        each = LeaveOneOut(uv, inverse, colors, kernels, find_neighbors(
            uv, torch.arange(queries), 24), CONSTANTS)
        tuned = each.tune()
    assert not each.known.any()
    assert torch.equal(tuned.settings, torch.zeros(6, dtype=dtype))
    assert torch.isfinite(tuned.predicted).all()


@pytest.mark.parametrize('name', COMPILED)
def test_rejected_samples_are_neither_predicted_nor_relied_on(name):
    each = without(problem())
    g = torch.Generator().manual_seed(5)
    limits = each.inverse[~each.rejected].aminmax()
    each = each._replace(inverse=each.inverse.clamp(*limits))
    other = torch.where(each.rejected, torch.rand(len(each.uv), generator=g) * 0.1 + 0.6,
                        each.inverse)
    with backend(name):
        one, two = each.tune(), each._replace(inverse=other).tune()
        assert torch.equal(one.settings, two.settings)
        assert torch.equal(one.predicted[each.known], two.predicted[each.known])
        everything = each._replace(rejected=torch.ones_like(each.rejected)).tune()
    assert not each.known.all()
    assert torch.equal(everything.settings, torch.zeros(6))


def test_shapes_are_known_without_data():
    """The meta device has no data: whoever asks for a value fails."""
    each = without(problem())
    moved = LeaveOneOut(*(t.to('meta') for t in each[:4]), Neighbors(
        *(t.to('meta') for t in each.neighbors)), CONSTANTS, *(t.to('meta') for t in each[6:]))
    found = find_neighbors(moved.uv, moved.neighbors.queries, 24)
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in each.neighbors]
    assert [t.shape for t in moved.tune()] == [t.shape for t in each.tune()]
    with torch.inference_mode():
        assert Twin(moved).tune(torch.zeros(6, device='meta')).shape == (6,)


def test_the_operators_are_registered_as_torch_wants_them():
    each = without(problem(60, 20))
    torch.library.opcheck(
        torch.ops.steer_depth_ros.leave_one_out_neighbors.default,
        (each.uv, each.neighbors.queries, None, 24, 1.6, 0.0))
    torch.library.opcheck(
        torch.ops.steer_depth_ros.leave_one_out_tune.default,
        (*each[:4], *each.neighbors, each.guide, each.rejected, torch.zeros(6),
         [float(c) for c in CONSTANTS]))


@pytest.mark.parametrize('count', [0, 65])
def test_more_neighbors_than_are_held_are_an_error(count):
    uv = samples(100)[0]
    with pytest.raises(ValueError, match=f'1 to 64, got {count}'):
        find_neighbors(uv, torch.arange(5), count)
    with pytest.raises(ValueError, match=f'1 to 64 and at most the 100 samples, got {count}'):
        nearest_samples(uv, uv[:5], count)
    with pytest.raises(ValueError, match='at most the 20 samples, got 24'):
        nearest_samples(uv[:20], uv[:5], 24)


def test_another_type_or_device_is_an_error():
    each = problem(60, 20)
    with pytest.raises(TypeError, match='settings must be torch.float32, got torch.float64'):
        each.at(torch.zeros(6).double())
    with pytest.raises(TypeError, match='rejected must be torch.bool, got torch.float32'):
        each._replace(rejected=torch.ones(60)).tune()
    with pytest.raises(ValueError, match='colors is on meta, but inverse on cpu'):
        each._replace(colors=each.colors.to('meta')).tune()
    with pytest.raises(TypeError, match='points must be torch.float32, got torch.float64'):
        nearest_samples(each.uv, each.uv.double(), 24)
    with pytest.raises(TypeError, match='queries must be torch.int64, got torch.int32'):
        find_neighbors(each.uv, each.neighbors.queries.int(), 24)


@pytest.mark.parametrize('name, wrong, expected', [
    ('uv', (59, 2), (60, 2)), ('inverse', (60, 1), (60,)), ('colors', (60, 4), (60, 3)),
    ('kernels', (40, 3), (60, 3)), ('guide', (19,), (20,)), ('rejected', (20,), (60,)),
    ('near', (24, 19), (24, 20)), ('near', (0, 20), (1, 20)), ('near', (65, 20), (64, 20)),
    ('distance', (23, 20), (24, 20)), ('known', (60,), (20,))])
def test_what_would_be_read_out_of_bounds_is_an_error(name, wrong, expected):
    each = problem(60, 20)
    kinds = {'rejected': torch.bool, 'known': torch.bool, 'near': torch.int64}
    tensor = torch.ones(wrong, dtype=kinds.get(name, torch.float32))
    if name in each.neighbors._fields:
        each = each._replace(neighbors=each.neighbors._replace(**{name: tensor}))
    else:
        each = each._replace(**{name: tensor})
    with pytest.raises(ValueError, match=re.escape(f'{name} must have shape {expected}, got')):
        each.tune()


def test_wrong_shapes_of_positions_and_queries_are_an_error():
    uv, queries = samples(60)[0], torch.arange(20)
    with pytest.raises(ValueError, match=r'uv must have shape \(N, 2\)'):
        find_neighbors(uv[:, :1], queries, 24)
    with pytest.raises(ValueError, match=r'queries must have shape \(N,\)'):
        find_neighbors(uv, queries[:, None], 24)
    with pytest.raises(TypeError, match='queries must be a tensor, got ndarray'):
        find_neighbors(uv, queries.numpy(), 24)
    for aspect in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match='aspect must be 0.01 to 100'):
            find_neighbors(uv, queries, 24, aspect)


@needs_native
@pytest.mark.parametrize('at', [0, 7])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_positions_that_are_not_finite_are_an_error(at, value):
    uv = samples(60)[0].clone()
    uv[at, 1] = value
    with pytest.raises(RuntimeError, match='uv holds values that are not finite'):
        find_neighbors(uv, torch.arange(20), 24)


@needs_native
@pytest.mark.parametrize('index', [-1, 60])
def test_samples_that_do_not_exist_are_an_error(index):
    each = problem(60, 20)
    queries, near = each.neighbors.queries.clone(), each.neighbors.near.clone()
    queries[3], near[2, 4] = index, index
    for changed in ({'queries': queries}, {'near': near}):
        with pytest.raises(RuntimeError, match='must be numbers of samples'):
            each._replace(neighbors=each.neighbors._replace(**changed)).tune()
    with pytest.raises(RuntimeError, match='must be numbers of samples'):
        find_neighbors(each.uv, queries, 24)


def test_it_agrees_with_the_search_tree_on_many_samples():
    uv, *_ = samples(20_000)
    _, near, distance, known = find_neighbors(uv, torch.arange(0, 20_000, 40), 24, 2.0)
    points = uv.numpy() * np.float32([1, 0.5])
    expected, _ = cKDTree(points).query(points[::40], 25)
    np.testing.assert_allclose(distance.T, expected[:, 1:], rtol=1e-4)
    assert known.all()


@needs_gpu
@pytest.mark.parametrize('lines', [False, True])
def test_on_a_gpu(lines):
    each = without(problem(3000, 600, lines=lines))
    cpu = each.tune()
    moved = LeaveOneOut(*(t.cuda() for t in each[:4]), find_neighbors(
        each.uv.cuda(), each.neighbors.queries.cuda(), 24, CONSTANTS.aspect,
        2.0 if lines else 0.0), CONSTANTS, *(t.cuda() for t in each[6:]))
    for found, expected in zip(moved.neighbors, each.neighbors):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=0)
    found = moved.tune()
    torch.testing.assert_close(found.settings.cpu(), cpu.settings, rtol=0, atol=5e-3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = moved.tune()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, found))
