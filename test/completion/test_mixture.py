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
"""The network that mixes kernels: sound on any frame, between its kernels, and able to learn."""
import numpy as np
import pytest
from sample_frames import frame
import torch

from steer_depth_ros.completion import pipeline
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.completion.mixture import mixture_inputs, MixtureModel
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.evaluation.evaluate import procedural_examples
from steer_depth_ros.evaluation.metrics import measure
from steer_depth_ros.network.mixture_net import CHANNELS, MIXED, MixtureNet
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.training.losses import make_objective


@pytest.mark.parametrize('height, width, count', [
    (48, 64, 300), (51, 73, 300), (1, 40, 12), (40, 1, 12), (33, 47, 1), (33, 47, 25),
    (33, 47, 59), (64, 64, 5000)])
def test_any_size_and_any_number_of_samples(height, width, count):
    inputs = mixture_inputs(*frame(height, width, count))
    assert inputs.maps.shape == (1, CHANNELS, (height + 1) // 2, (width + 1) // 2)
    assert inputs.estimates.shape == (1, MIXED, height, width)
    assert inputs.maps.isfinite().all() and inputs.estimates.isfinite().all()
    mixed, error, first = MixtureNet()(inputs)
    assert mixed.shape == error.shape == first.shape == (1, height, width)
    assert mixed.isfinite().all()


def test_the_first_estimate_is_the_preset_steering():
    image, uv, depth = frame(60, 80, 400)
    dense = DepthCompleter('steering', 'cpu', drop_hidden=False, reach=1000).complete(
        image, uv, depth).depth
    inputs = mixture_inputs(image, uv, depth)
    ours = inputs.median / inputs.first[0].exp().numpy()
    # It is tuned on more samples, so not the same to the bit.
    assert np.median(np.abs(ours / dense - 1)) < 0.01


def test_results_lie_between_those_of_the_kernels():
    inputs = mixture_inputs(*frame())
    net = MixtureNet()
    torch.nn.init.normal_(net.head.weight, std=3)
    mixed = net(inputs)[0]
    low, high = inputs.estimates.amin(1), inputs.estimates.amax(1)
    assert ((mixed >= low - 1e-5) & (mixed <= high + 1e-5)).all()
    assert ((mixed - inputs.first).abs() > 1e-3).any()


def test_rejected_samples_leave_the_features_too():
    image, uv, depth = frame(60, 80, 400)
    depth[::20] *= 4
    inputs = mixture_inputs(image, uv, depth, has_parallax=True)
    assert inputs.maps.shape[1] == CHANNELS and inputs.maps.isfinite().all()
    assert (inputs.estimates != mixture_inputs(image, uv, depth).estimates).any()  # some went


def test_results_scale_with_depth():
    image, uv, depth = frame(60, 80, 400)
    model = MixtureModel.load(find_preset('learned').weights_path())
    with torch.inference_mode():
        one, error = model.estimate(image, uv, depth)
        eight, same = model.estimate(image, uv, 8 * depth)
    # A power of two rounds nothing, so there is nothing that could tip a balance.
    np.testing.assert_allclose(eight, 8 * one, rtol=1e-6)
    np.testing.assert_allclose(same, error, rtol=1e-6)


def test_a_pixel_with_a_sample_is_that_of_the_tuned_kernels():
    image, uv, depth = frame(60, 80, 400)
    model = MixtureModel.load(find_preset('learned').weights_path())
    with torch.inference_mode():
        inputs = mixture_inputs(image, uv, depth)
        dense, _ = model.estimate(image, uv, depth)
    u, v = np.rint(uv).astype(int).T
    first = inputs.median / inputs.first[0].exp().numpy()
    np.testing.assert_allclose(dense[v, u], first[v, u], rtol=1e-6)
    assert np.abs(dense / first - 1).max() > 0.01


def test_it_learns_which_kernel_is_right():
    """The truth is the estimate that the network begins with the least weight on."""
    inputs = mixture_inputs(*frame(48, 64, 60))
    truth = inputs.estimates[:, MIXED - 1]
    objective = make_objective({'architecture': 'mixture_net', 'channels': [8, 8, 8, 8]})
    adam = torch.optim.Adam(objective.parameters(), 0.02)
    losses = []
    for _ in range(40):
        loss, _ = objective([(inputs, truth)])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_shipped_weights_beat_the_kernels_that_they_mix():
    model = MixtureModel.load(find_preset('learned').weights_path())
    quotients = []
    for _, one in procedural_examples(ProceduralFrames(8, 78, (120, 160)),
                                      ['random:500', 'lidar:32']):
        with torch.inference_mode():
            mixed, _ = model.estimate(one.image, one.uv, one.sparse)
            tuned, _ = pipeline.complete(one.image, one.uv, one.sparse, drop_hidden=False,
                                         reach=np.inf)
        quotients.append(measure(mixed, one.truth)['mae'] / measure(tuned, one.truth)['mae'])
    assert np.exp(np.mean(np.log(quotients))) < 0.98
