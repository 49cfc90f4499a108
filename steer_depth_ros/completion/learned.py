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
"""
Networks for the preset `learned`: the mixture that ships, and learned kernels.

The latter corrects the kernels and the surface of `steering` (network/kernel_net.py). It ships
when it is better than the mixture on recordings; until then `--weights` takes it.
"""
import numpy as np
import torch

from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.completion.maps import downsample2
from steer_depth_ros.completion.mixture import MixtureModel
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.pipeline import problem_of, second_pass
from steer_depth_ros.network import kernel_net, mixture_net
from steer_depth_ros.network.checkpoints import load_network
from steer_depth_ros.network.kernel_net import Constants, KernelInputs, KernelNet
from steer_depth_ros.ops.constants import full_float32
from steer_depth_ros.ops.timing import stage


def load_model(path, device='cpu'):
    """Read weights of either architecture; WeightsError where none of them can be used."""
    net = load_network(path, {kernel_net.ARCHITECTURE: KernelNet.of,
                              mixture_net.ARCHITECTURE: mixture_net.MixtureNet.of})
    if isinstance(net, KernelNet):
        return KernelModel(net.fused(), device)
    return MixtureModel(net, device)


def constants(config=CONFIG):
    """Return those of the config that the network starts from."""
    return Constants(*(getattr(config, name) for name in Constants._fields))


class KernelModel:
    """The trained network; what it starts from is found on the CPU, the rest runs on `device`."""

    def __init__(self, net, device='cpu'):
        self.net, self.device = net.eval().to(device), torch.device(device)

    def estimate(self, image, uv, depth, has_parallax=False):
        """Return depth (meters) and expected relative error, float32 (H, W)."""
        inputs = kernel_inputs(image, uv, depth, has_parallax).to(self.device)
        with stage('network', self.device), full_float32(self.device):
            found = self.net(inputs)
            dense = inputs.median[:, None, None] / found.refined.exp()
            error = found.log_error.exp()
        return dense[0].cpu().numpy(), error[0].cpu().numpy()


def kernel_inputs(image, uv, depth, has_parallax=False) -> KernelInputs:
    """Prepare for the network an image uint8 (H, W, 3) and Samples."""
    problem = problem_of(image, Samples(uv, depth, has_parallax))
    frame, coarse = problem.frame, downsample2(problem.log_depth)
    problem, tuned = second_pass(problem, problem.left_out.tune())
    count = len(problem.inverse)
    there = torch.ones(count, dtype=torch.bool) if problem.valid is None else problem.valid
    numbers = torch.tensor([frame.aspect, frame.mean_spacing], dtype=torch.float32)
    return KernelInputs(
        image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None],
        lab=problem.lab[None],
        first=problem.log_depth[None, None], coarse=coarse[None, None],
        bandwidth=problem.bandwidth[None], distance=problem.distance[None, None],
        uv=frame.uv[there][None], inverse=problem.inverse[there][None],
        kernels=problem.kernels[there][None], valid=there[there][None],
        measured=(torch.arange(count) < frame.count)[there][None],
        numbers=torch.cat([numbers, torch.stack(problem.limits), tuned.settings])[None],
        median=torch.tensor([frame.median], dtype=torch.float32))
