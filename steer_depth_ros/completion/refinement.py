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
"""The preset `learned`: a trained network refines what `fast` finds."""
import torch

from steer_depth_ros.completion import maps
from steer_depth_ros.network.checkpoints import load_network
from steer_depth_ros.network.refinement_net import (
    ARCHITECTURE,
    RefinementInputs,
    RefinementNet,
)
from steer_depth_ros.ops.constants import full_float32
from steer_depth_ros.ops.timing import stage


class Refinement:
    """The trained network; what it is given is on `device`, and so is what it returns."""

    def __init__(self, net, device='cpu'):
        self.net = net.eval().to(device)

    @classmethod
    def load(cls, path, device='cpu'):
        """Read a safetensors file; WeightsError where it is missing, damaged or foreign."""
        return cls(load_network(path, {ARCHITECTURE: RefinementNet.of}).fused(), device)

    @stage('network')
    def __call__(self, problem, found):
        """Return inverse depth and expected relative error, (h, w) each; see `estimate`."""
        with full_float32(problem.lab.device):
            log_inverse, log_error = self.net(refinement_inputs(problem, found))
        return log_inverse[0].exp(), log_error[0].exp()


def refinement_inputs(problem, found) -> RefinementInputs:
    """Prepare for the network a KernelProblem of half the resolution and its Estimates."""
    frame, start = problem.frame, found.inverse.log()
    count, size = frame.count, frame.size
    low, high = problem.limits
    surface = (found.kernels * found.correction.exp()).clamp(low, high).log()
    others = torch.stack([found.kernels.log(), surface, problem.log_depth, found.coarse]) - start
    off = problem.inverse[:count].log() - maps.sample(start, frame.uv[:count])
    here = torch.stack([torch.ones_like(off), off, off.abs()])
    if problem.valid is not None:
        here = torch.where(problem.measured_valid, here, 0.)
    left_out = problem.left_out
    error = (found.tuned.predicted.log() - left_out.target).abs().clamp(max=1)
    predicted = torch.where(left_out.known, torch.stack([torch.ones_like(error), error]), 0.)
    facts = [start.new_full((1,), float(fact)) for fact in  # which uploads nothing
             (frame.mean_spacing, frame.aspect, frame.has_parallax)]
    return RefinementInputs(
        problem.lab[None], start[None, None], others[None], problem.distance[None, None],
        maps.add_at(frame.uv[:count], here, size)[None],
        maps.add_at(frame.uv[frame.queries], predicted, size)[None],
        torch.cat([*facts, found.tuned.settings, torch.stack([low, high])])[None])
