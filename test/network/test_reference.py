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
"""The network of the paper against a slow float64 evaluation in plain numpy, step by step."""
import math

import numpy as np
import pytest
from release_checkpoint import KERNELNET, release_state, RESNET
import torch

from steer_depth_ros.errors import FrameError, WeightsError
from steer_depth_ros.network import reference
from steer_depth_ros.network.checkpoints import save_safetensors
from steer_depth_ros.network.sparse_windows import fit_sparse_windows

HEIGHT, WIDTH = 38, 50  # odd sizes on the way down: 19, 9, 4, 2 and 25, 12, 6, 3


@pytest.fixture(scope='module')
def states():
    return release_state(KERNELNET, 1), release_state(RESNET, 2)


@pytest.fixture(scope='module')
def model(states):
    model = reference.SteeringKernelNet()
    kernelnet, resnet = states
    prefixed = {**{f'kernelnet.{name}': tensor for name, tensor in kernelnet.items()},
                **{f'resnet.{name}': tensor for name, tensor in resnet.items()}}
    reference.checkpoints.load_into(model, prefixed, 'test')
    return model.eval()


def make_frame(samples):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    chosen = rng.choice(HEIGHT * WIDTH, samples, replace=False)
    uv = np.stack([chosen % WIDTH, chosen // WIDTH], 1).astype(np.float32)
    depth = rng.uniform(1, 9, samples).astype(np.float32)
    return image, uv, depth


@pytest.fixture(scope='module')
def frame():
    return make_frame(60)


def double_conv(x, state, name):
    for convolution, norm in ((0, 1), (3, 4)):
        weight = state[f'{name}.{convolution}.weight'].double().numpy()
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        patches = np.stack([padded[:, i:i + x.shape[1], j:j + x.shape[2]]
                            for i in range(3) for j in range(3)], 1)
        flat = weight.reshape(len(weight), -1) @ patches.reshape(-1, x.shape[1] * x.shape[2])
        x = flat.reshape(-1, *x.shape[1:])
        x = x + state[f'{name}.{convolution}.bias'].double().numpy()[:, None, None]
        mean, var, scale, shift = (
            state[f'{name}.{norm}.{part}'].double().numpy()[:, None, None]
            for part in ('running_mean', 'running_var', 'weight', 'bias'))
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)
    return x


def head(x, state, name):
    weight = state[f'{name}.conv.weight'].double().numpy()[:, :, 0, 0]
    return (np.einsum('oc,chw->ohw', weight, x)
            + state[f'{name}.conv.bias'].double().numpy()[:, None, None])


def down(x, state, name):
    height, width = x.shape[1] // 2, x.shape[2] // 2
    pooled = x[:, :2 * height, :2 * width].reshape(-1, height, 2, width, 2).max((2, 4))
    return double_conv(pooled, state, f'{name}.mpconv.1.conv')


def stretch(length):
    """Return the matrix that interpolates linearly to twice the length, with aligned ends."""
    matrix = np.zeros((2 * length, length))
    for row in range(2 * length):
        position = row * (length - 1) / (2 * length - 1)
        low = min(int(position), length - 1)
        matrix[row, low] += 1 - (position - low)
        matrix[row, min(low + 1, length - 1)] += position - low
    return matrix


def up(x, skip, state, name):
    x = stretch(x.shape[1]) @ x @ stretch(x.shape[2]).T
    padded = np.zeros((len(x), *skip.shape[1:]))
    padded[:, :x.shape[1], :x.shape[2]] = x
    return double_conv(np.concatenate([skip, padded]), state, f'{name}.conv.conv')


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_kernels(image, state):
    skip = double_conv(image, state, 'inc.conv.conv')
    raw = sigmoid(head(up(down(skip, state, 'down1'), skip, state, 'up3'), state, 'outc'))
    return 6 * raw[0], 2 * math.pi * raw[1] - math.pi, 6 * raw[2]


def slow_regression(sparse, sigma, theta, gamma):
    """Mirror, then fit one weighted quadric per pixel with the pseudo-inverse."""
    margin = ((26, 26), (34, 34))
    sparse, sigma, theta, gamma = (np.pad(m, margin, mode='reflect')
                                   for m in (sparse, sigma, theta, gamma))
    sigma = sigma + 1e-5
    sin, cos = np.sin(theta), np.cos(theta)
    c11 = gamma * (sigma * cos ** 2 + sin ** 2 / sigma)
    c12 = gamma * (1 / sigma - 1) * sin * cos
    c22 = gamma * (sigma * sin ** 2 + cos ** 2 / sigma)
    dense = np.zeros((HEIGHT, WIDTH))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            window = np.s_[y:y + 53, x:x + 69]
            rows, columns = np.nonzero(sparse[window] > 0)
            a, b, c, g, d = (m[window][rows, columns] for m in (c11, c12, c22, gamma, sparse))
            dy, dx = rows - 26.0, columns - 34.0
            q = a * dy ** 2 + 2 * b * dy * dx + c * dx ** 2
            w = np.abs(g) * np.exp(2 * np.tanh(-q / (2 * 5.0 ** 2)))
            basis = np.stack([np.ones_like(dy), dy, dx, dy ** 2, dy * dx, dx ** 2], 1)
            u, s, vt = np.linalg.svd(basis.T @ (w[:, None] * basis))
            inverse = vt.T @ np.diag(np.where(s > 1e-5, 1 / np.maximum(s, 1e-5), 0)) @ u.T
            dense[y, x] = inverse[0] @ (basis.T @ (w * d))
    measured = sparse[26:-26, 34:-34]
    return np.where(measured > 0, measured, dense)


def slow_residual(image, interpolated, state):
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    depth = (np.clip(interpolated, 0, 80) - 3.01047486221) / 1.07943839977
    x = np.concatenate([(image - mean) / std, depth[None]])
    x1 = double_conv(x, state, 'inc1.conv.conv')
    x2 = down(x1, state, 'down1')
    x3 = down(x2, state, 'down2')
    x4 = down(x3, state, 'down3')
    x = up(down(x4, state, 'down4'), x4, state, 'up1')
    x = up(up(up(x, x3, state, 'up2'), x2, state, 'up3'), x1, state, 'up4')
    logits = head(x, state, 'outc')
    probability = np.exp(logits - logits.max(0))
    probability /= probability.sum(0)
    expectation = sum(p * (-4 + 8 * k / 400) for k, p in enumerate(probability))
    return expectation + 0.08 * sigmoid(head(x, state, 'outsign')[0]) - 0.04


def sparse_map(uv, depth):
    sparse = np.zeros((HEIGHT, WIDTH))
    sparse[uv[:, 1].astype(int), uv[:, 0].astype(int)] = depth
    return sparse


@pytest.mark.parametrize('samples', [60, 4])
def test_forward_equals_the_slow_evaluation(samples, model, states):
    image, uv, depth = make_frame(samples)
    channels = image.transpose(2, 0, 1).astype(np.float64) / 255
    kernels = slow_kernels(channels, states[0])
    sparse = sparse_map(uv, depth)
    interpolated = slow_regression(sparse, *kernels)
    residual = slow_residual(channels, interpolated, states[1])
    expected = np.clip(np.where(sparse > 0, sparse, interpolated + residual), 0.7, 10)

    with torch.no_grad():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        output = model.stages(batch, torch.from_numpy(uv)[None], torch.from_numpy(depth)[None])
    np.testing.assert_allclose(output.steering[0].numpy(), np.stack(kernels), atol=2e-5)
    np.testing.assert_allclose(output.interpolated[0].numpy(), interpolated, atol=1e-4)
    np.testing.assert_allclose(output.depth[0].numpy(), expected, atol=1e-4)
    # The comparison says something only while every stage matters.
    assert np.ptp(kernels[0]) > 1 and np.ptp(kernels[1]) > 1 and np.ptp(residual) > 0.1


def test_gradient_where_a_window_holds_few_samples():
    rng = torch.Generator().manual_seed(4)
    pixel = torch.tensor([[3, 17, 40, 66]])
    dense = torch.zeros(1, 8, 9, dtype=torch.float64)
    depth = 1 + torch.rand(1, 4, dtype=torch.float64, generator=rng)
    steering = 0.5 + torch.rand(1, 4, 3, dtype=torch.float64, generator=rng)

    def fit(depth, steering):
        return fit_sparse_windows(dense, pixel, depth, steering, None, 5.0, (3, 4))

    assert fit(depth, steering).count_nonzero() > 60
    assert torch.autograd.gradcheck(fit, (depth.requires_grad_(), steering.requires_grad_()))


def test_complete_is_the_forward_pass_of_the_used_samples(model, frame):
    image, uv, depth = frame
    wrapper = reference.ReferenceModel(model)
    dense, confidence = wrapper.estimate(image, uv, depth)
    assert dense.dtype == np.float32 and dense.shape == (HEIGHT, WIDTH) and confidence is None
    unusable = np.array([[-3, 5], [5, 5], [6, 6], [WIDTH, 2]], np.float32)
    values = np.array([2, np.nan, 0, 3], np.float32)
    again, _ = wrapper.estimate(image, np.concatenate([unusable, uv]),
                                np.concatenate([values, depth]))
    np.testing.assert_array_equal(again, dense)


def test_the_nearest_of_several_samples_in_a_pixel_is_used(model, frame):
    image, uv, depth = frame
    wrapper = reference.ReferenceModel(model)
    plain, _ = wrapper.estimate(image, uv, depth)
    behind, _ = wrapper.estimate(image, np.concatenate([uv + 0.3, uv]),
                                 np.concatenate([depth + 2, depth]))
    np.testing.assert_array_equal(behind, plain)


def test_only_pixels_without_samples_in_their_window_are_unknown(model):
    image = np.full((40, 120, 3), 128, np.uint8)
    dense, _ = reference.ReferenceModel(model).estimate(
        image, np.array([[5, 20]], np.float32), np.array([2.0], np.float32))
    known = np.isfinite(dense)
    assert known[20, 5] and dense[20, 5] == 2.0
    assert known[:, :39].all() and not known[:, 41:].any()
    guessed, _ = reference.ReferenceModel(model).estimate(
        image, np.array([[5, 20]], np.float32), np.array([2.0], np.float32), everywhere=True)
    assert np.isfinite(guessed).all() and np.array_equal(guessed[known], dense[known])
    nothing, _ = reference.ReferenceModel(model).estimate(
        image, np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    assert np.isnan(nothing).all()


def test_padding_in_a_batch_does_not_change_the_result(model, frame):
    image, uv, depth = frame
    batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    uv, depth = torch.from_numpy(uv)[None], torch.from_numpy(depth)[None]
    more_uv = torch.cat([uv, torch.zeros(1, 5, 2)], 1)
    more_depth = torch.cat([depth, torch.zeros(1, 5)], 1)
    valid = torch.arange(65)[None] < 60
    with torch.no_grad():
        torch.testing.assert_close(model(batch, more_uv, more_depth, valid),
                                   model(batch, uv, depth))


def test_loss_reaches_every_weight_and_falls(model, frame):
    image, uv, depth = frame
    trained = reference.SteeringKernelNet(depth_range=None)
    trained.load_state_dict(model.state_dict())
    batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    samples = torch.from_numpy(uv)[None], torch.from_numpy(depth)[None]
    truth = torch.full((1, HEIGHT, WIDTH), 3.0)
    truth[0, :5] = math.nan
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = reference.reference_loss(trained.stages(batch, *samples), truth)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    silent = [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert reference.reference_loss(trained.stages(batch, *samples), truth * math.nan) == 0


def test_without_weights_the_error_says_how_to_get_them():
    with pytest.raises(WeightsError, match='steer_depth convert'):
        reference.ReferenceModel.load(None)


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / 'other.safetensors'
    save_safetensors(path, {'a': torch.zeros(1)}, 'fast', {})
    with pytest.raises(WeightsError, match='other.safetensors.*"fast".*"reference"'):
        reference.ReferenceModel.load(path)


@pytest.mark.parametrize('image, uv, depth, message', [
    (np.zeros((40, 40), np.uint8), np.zeros((1, 2)), np.ones(1), 'image must be'),
    (np.zeros((40, 40, 3), np.uint8), np.zeros((2, 2)), np.ones(1), 'samples must be'),
    (np.zeros((40, 8, 3), np.uint8), np.zeros((1, 2)), np.ones(1), 'too small')])
def test_arrays_that_do_not_fit_are_refused(model, image, uv, depth, message):
    with pytest.raises(FrameError, match=message):
        reference.ReferenceModel(model).estimate(image, uv, depth)
