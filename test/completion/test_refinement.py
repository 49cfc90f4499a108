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
"""The preset `learned`: what the network is given, what it may do, and that it learns."""
import numpy as np
import pytest
from sample_frames import frame
import torch

from steer_depth_ros.completion import maps, pipeline
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.completion.refinement import Refinement, refinement_inputs
from steer_depth_ros.errors import WeightsError
from steer_depth_ros.evaluation.evaluate import procedural_examples
from steer_depth_ros.evaluation.metrics import measure
from steer_depth_ros.network.checkpoints import save_safetensors
from steer_depth_ros.network.refinement_net import (
    ARCHITECTURE,
    DETAILS,
    ESTIMATES,
    MAPS,
    MARGIN,
    RefinementNet,
)
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.training.losses import make_objective, refinement_example

SMALL = (8, 8, 12)


def network(scale=0.0, seed=0):
    """Return a network; scale: of random numbers in its last layer, 0 switches it off."""
    torch.manual_seed(seed)
    net = RefinementNet(SMALL, 8).eval()
    if scale:
        torch.nn.init.normal_(net.last.weight, std=scale)
    return net


def inputs_of(image, uv, depth, has_parallax=False):
    frame = pipeline.prepare(Samples(uv, depth, has_parallax), image.shape[:2], half=True)
    lab = pipeline.analyze(torch.from_numpy(image))
    with torch.inference_mode():
        return refinement_inputs(*pipeline.estimates(lab.result(), frame))


def complete(net, image, uv, depth, **settings):
    with torch.inference_mode():
        return pipeline.complete(image, uv, depth, half=True, drop_hidden=False, reach=1000,
                                 refine=net and Refinement(net), **settings)


@pytest.mark.parametrize('size', [(60, 80), (51, 73)])
def test_switched_off_it_is_the_preset_fast(size):
    given = frame(*size, 400)
    dense, _ = complete(None, *given)
    ours, confidence = complete(network(), *given)
    np.testing.assert_allclose(ours, dense, rtol=1e-5)
    assert ((confidence > 0) & (confidence <= 1)).all()


@pytest.mark.parametrize('height, width, count', [
    (48, 64, 300), (51, 73, 300), (1, 40, 12), (40, 1, 12), (33, 47, 1), (33, 47, 25),
    (33, 47, 59), (64, 64, 5000)])
def test_any_size_and_any_number_of_samples(height, width, count):
    inputs = inputs_of(*frame(height, width, count))
    size = (height + 1) // 2, (width + 1) // 2
    assert inputs.others.shape == (1, ESTIMATES, *size) and inputs.lab.shape == (1, 3, *size)
    assert all(each.isfinite().all() for each in inputs)
    with torch.inference_mode():
        log_inverse, log_error = network(0.5)(inputs)
    assert log_inverse.shape == log_error.shape == (1, *size)
    assert log_inverse.isfinite().all() and log_error.isfinite().all()


def test_the_network_reads_as_many_maps_as_it_says():
    read = {}
    net = network()
    for name in ('stem', 'details'):
        getattr(net, name).register_forward_pre_hook(
            lambda _, given, name=name: read.__setitem__(name, given[0].shape[1]))
    with torch.inference_mode():
        net(inputs_of(*frame()))
    assert read == {'stem': MAPS, 'details': DETAILS}


def test_results_scale_with_depth():
    image, uv, depth = frame(60, 80, 400)
    net = network(0.3)
    expected, confidence = complete(net, image, uv, depth)
    for factor in (0.125, 8):  # powers of two round nothing
        dense, same = complete(net, image, uv, depth * np.float32(factor))
        np.testing.assert_allclose(dense, expected * np.float32(factor), rtol=1e-6)
        np.testing.assert_allclose(same, confidence, rtol=1e-5)
    for factor in (0.1, 10):
        dense, _ = complete(net, image, uv, depth * np.float32(factor))
        assert np.quantile(np.abs(dense / (expected * factor) - 1), 0.9) < 1e-3


def test_results_stay_in_the_range_of_the_samples_and_a_margin():
    inputs = inputs_of(*frame())
    with torch.inference_mode():
        log_inverse, _ = network(30.)(inputs)
    low, high = inputs.numbers[0, -2:].log()
    assert (log_inverse >= low - MARGIN).all() and (log_inverse <= high + MARGIN).all()
    assert (log_inverse - inputs.start[:, 0]).abs().max() > 0.1


def test_samples_that_bleed_through_are_not_shown():
    image, uv, depth = frame(120, 160, 800)
    depth[:] = 5
    depth[::20] = 20
    kept, all_of_them = (inputs_of(image, uv, depth, parallax) for parallax in (True, False))
    assert kept.samples[:, 0].sum() < all_of_them.samples[:, 0].sum()


def test_left_out_samples_are_where_they_were_measured():
    image, uv, depth = frame(60, 80, 400)
    inputs = inputs_of(image, uv, depth)
    tested, samples = inputs.left_out[0, 0], inputs.samples[0, 0]
    assert tested.sum() > 100 and (tested <= samples).all()
    assert (inputs.left_out[0, 1][tested == 0] == 0).all()


def test_a_batch_gives_what_its_frames_give():
    frames = [inputs_of(*frame(count=count, seed=count)) for count in (60, 200)]
    net = network(0.3)
    with torch.inference_mode():
        together, _ = net(type(frames[0])(*map(torch.cat, zip(*frames))))
        alone = torch.cat([net(one)[0] for one in frames])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_folded_batch_norms_change_nothing():
    net = network(0.3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    inputs = inputs_of(*frame())
    with torch.inference_mode():
        torch.testing.assert_close(net.fused()(inputs), net(inputs), rtol=1e-3, atol=1e-3)


def test_torch_and_opencv_give_the_same():
    given, net = frame(60, 80, 400), network(0.3)
    native, _ = complete(net, *given)
    with maps.torch_on_cpu():
        twin, _ = complete(net, *given)
    assert np.median(np.abs(twin / native - 1)) < 5e-3


def test_every_layer_learns():
    torch.manual_seed(0)
    image, uv, depth = frame(48, 64)
    item = {'image': image, 'uv': uv, 'sparse': depth, 'depth': 2 + image[..., 0] / 50,
            'name': 'steps'}
    objective = make_objective({'architecture': ARCHITECTURE, 'channels': SMALL, 'details': 8})
    optimizer = torch.optim.AdamW(objective.parameters(), 5e-3)
    batch = [(inputs.to('cpu'), truth) for inputs, truth in objective.collate(
        [refinement_example(item, flip) for flip in (False, True)], np.random.default_rng(0))]
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss, (row,) = objective(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02 and 0 < row['mae'] < 1
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_truth_of_a_scanner_leaves_out_the_background_close_to_a_rim():
    image, uv, depth = frame(48, 64)
    truth = np.full((48, 64), 10.0)
    truth[:, 32:] = 5
    item = {'image': image, 'uv': uv, 'sparse': depth, 'depth': truth, 'name': 'step'}
    _, whole = refinement_example(item, False)
    _, scanned = refinement_example({**item, 'scanned': True}, False)
    gone = (whole.isfinite() & ~scanned.isfinite())[0]
    assert gone.any(0)[:32].any() and not gone[:, 32:].any() and not gone[:, :10].any()


def test_shipped_weights_beat_what_they_start_from():
    refine = Refinement.load(find_preset('learned').weights_path())
    quotients = []
    for _, one in procedural_examples(ProceduralFrames(8, 78, (240, 320)),
                                      ['random:500', 'lidar:32']):
        given = one.image, one.uv, one.sparse
        with torch.inference_mode():
            fast, learned = (pipeline.complete(*given, half=True, reach=np.inf, refine=each)[0]
                             for each in (None, refine))
        ours, base = measure(learned, one.truth), measure(fast, one.truth)
        quotients.append([ours[name] / base[name] for name in ('mae', 'rmse')])
    assert (np.exp(np.mean(np.log(quotients), 0)) < 0.98).all()


def test_weights_load(tmp_path):
    net, path = network(0.1), tmp_path / 'net.safetensors'
    save_safetensors(path, net.state_dict(), ARCHITECTURE, net.config)
    given = frame()
    completer = DepthCompleter('learned', 'cpu', path, drop_hidden=False, reach=1000)
    np.testing.assert_allclose(completer.complete(*given).depth, complete(net, *given)[0],
                               rtol=1e-3)


@pytest.mark.parametrize('change, message', [
    ({'channels': 7}, 'states a configuration that cannot be built'),
    ({'details': 5}, 'does not fit RefinementNet')])
def test_foreign_weights_are_one_sentence(tmp_path, change, message):
    net, path = network(), tmp_path / 'net.safetensors'
    save_safetensors(path, net.state_dict(), ARCHITECTURE, {**net.config, **change})
    with pytest.raises(WeightsError, match=message):
        Refinement.load(path)
