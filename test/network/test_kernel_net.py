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
"""The network of learned kernels: what it does with zero, scaled, mirrored and odd inputs."""
import numpy as np
import pytest
from sample_frames import frame
import torch

from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.learned import constants, kernel_inputs, KernelModel, load_model
from steer_depth_ros.completion.mixture import MixtureModel
from steer_depth_ros.errors import WeightsError
from steer_depth_ros.network.checkpoints import save_safetensors
from steer_depth_ros.network.kernel_net import ARCHITECTURE, KernelNet, MARGIN, stack
from steer_depth_ros.network.mixture_net import ARCHITECTURE as MIXTURE
from steer_depth_ros.network.mixture_net import MixtureNet
from steer_depth_ros.training.losses import kernel_example, make_objective

SMALL = (8, 8, 12)


def network(scale=0.0, seed=0):
    """Return a network; scale: of random numbers in its last layers, 0 switches it off."""
    torch.manual_seed(seed)
    net = KernelNet(constants(), SMALL).eval()
    for layer in (net.gains, net.pixels, net.samples[-1], net.bending, net.last):
        torch.nn.init.normal_(layer.weight, std=scale) if scale else torch.nn.init.zeros_(
            layer.weight)
    return net


@pytest.mark.parametrize('size', [(60, 80), (51, 73)])
def test_switched_off_it_is_the_preset_steering(size):
    image, uv, depth = frame(*size, 400)
    dense = DepthCompleter('steering', 'cpu', drop_hidden=False, reach=1000).complete(
        image, uv, depth).depth
    with torch.inference_mode():
        ours, _ = KernelModel(network()).estimate(image, uv, depth)
    apart = np.abs(ours / dense - 1)
    assert np.median(apart) < 1e-5 and np.quantile(apart, 0.99) < 2e-3


@pytest.mark.parametrize('height, width, count', [
    (48, 64, 300), (1, 40, 12), (40, 1, 12), (33, 47, 1), (33, 47, 25), (64, 64, 5000)])
def test_any_size_and_any_number_of_samples(height, width, count):
    with torch.inference_mode():
        found = network(0.5)(kernel_inputs(*frame(height, width, count)))
    assert all(e.shape == (1, height, width) and e.isfinite().all() for e in found)


def test_results_scale_with_depth():
    image, uv, depth = frame()
    model = KernelModel(network(0.3))
    with torch.inference_mode():
        expected, error = model.estimate(image, uv, depth)
        for factor in (0.125, 8):  # powers of two round nothing
            dense, other = model.estimate(image, uv, depth * np.float32(factor))
            assert np.array_equal(dense, expected * np.float32(factor))
            assert np.array_equal(other, error)
        for factor in (0.1, 10):
            dense, _ = model.estimate(image, uv, depth * np.float32(factor))
            assert np.quantile(np.abs(dense / (expected * factor) - 1), 0.9) < 1e-3


def test_results_stay_in_the_range_of_the_samples_and_a_margin():
    image, uv, depth = frame()
    with torch.inference_mode():
        dense, _ = KernelModel(network(3.)).estimate(image, uv, depth)
    beyond = np.exp(MARGIN) * 1.0001
    assert dense.min() >= depth.min() / beyond and dense.max() <= depth.max() * beyond


def test_a_batch_gives_what_its_frames_give():
    frames = [kernel_inputs(*frame(count=count, seed=count)) for count in (60, 200)]
    net = network(0.3)
    with torch.inference_mode():
        together, alone = net(stack(frames)), [net(f) for f in frames]
    for i, one in enumerate(alone):
        apart = (together.refined[i] - one.refined[0]).abs()  # rounding, which the net enlarges
        assert apart.median() < 1e-5 and apart.quantile(0.99) < 1e-3


def test_mirrored_frames_give_mirrored_results():
    inputs = kernel_inputs(*frame(48, 64))
    net = network()
    with torch.inference_mode():
        found, expected = net(inputs.mirrored()), net(inputs)
    # Equally far neighbors may change places, and curvature across is taken at one corner.
    for name, limit in (('tuned', 1e-4), ('refined', 1e-2)):
        apart = (getattr(found, name).flip(-1) - getattr(expected, name)).abs()
        assert apart.quantile(0.95) < limit, name
    back = inputs.mirrored().mirrored()
    assert torch.equal(back.image, inputs.image) and torch.allclose(back.uv, inputs.uv, atol=1e-4)


def test_folded_batch_norms_change_nothing():
    net = network(0.3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    inputs = kernel_inputs(*frame())
    with torch.inference_mode():
        assert torch.allclose(net.fused()(inputs).refined, net(inputs).refined, atol=1e-3)


def test_every_layer_learns():
    torch.manual_seed(0)
    image, uv, depth = frame(48, 64)
    item = {'image': image, 'uv': uv, 'sparse': depth, 'depth': 2 + image[..., 0] / 50,
            'name': 'steps'}
    objective = make_objective({'architecture': ARCHITECTURE, 'channels': SMALL})
    optimizer = torch.optim.AdamW(objective.parameters(), 2e-3)
    batch = [(inputs.to('cpu'), truth) for inputs, truth in
             objective.collate([kernel_example(item, flip) for flip in (False, True)])]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, (row,) = objective(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.)
        assert norm < 100
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and row['refined mae'] > 0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_weights_of_either_architecture_load(tmp_path):
    net, path = network(0.1), tmp_path / 'net.safetensors'
    save_safetensors(path, net.state_dict(), ARCHITECTURE, net.config)
    image, uv, depth = frame()
    completer = DepthCompleter('learned', 'cpu', path, drop_hidden=False, reach=1000)
    with torch.inference_mode():
        expected, _ = KernelModel(net).estimate(image, uv, depth)
    np.testing.assert_allclose(completer.complete(image, uv, depth).depth, expected, rtol=1e-3)
    other = MixtureNet()
    save_safetensors(path, other.state_dict(), MIXTURE, other.config)
    assert isinstance(load_model(path), MixtureModel)


@pytest.mark.parametrize('change, message', [
    ({'channels': 7}, 'states a configuration that cannot be built'),
    ({'features': 5}, 'does not fit KernelNet')])
def test_foreign_weights_are_one_sentence(tmp_path, change, message):
    net, path = network(), tmp_path / 'net.safetensors'
    save_safetensors(path, net.state_dict(), ARCHITECTURE, {**net.config, **change})
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def test_the_weights_to_go_on_from_load():
    model = load_model('docs/training/kernel_net.safetensors')
    image, uv, depth = frame()
    with torch.inference_mode():
        dense, error = model.estimate(image, uv, depth)
    assert np.isfinite(dense).all() and (error > 0).all()
