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
The preset `learned`: a network mixes kernels around those that the tuning finds.

The operator evaluates several kernels in one search: as tuned, color counting more or less, steps
of depth harder or softer, wider and rounder. The guide's estimates and second-order total
variation join them, and the network weighs all by maps that are computed here.
"""
import cv2
import numpy as np
import torch

from steer_depth_ros.completion import config, maps
from steer_depth_ros.completion.kernels import interpolate_coarse, SETTINGS
from steer_depth_ros.completion.occlusion import Samples
from steer_depth_ros.completion.pipeline import problem_of, second_pass
from steer_depth_ros.completion.second_order_tv import Level, log_correction
from steer_depth_ros.network.checkpoints import load_network
from steer_depth_ros.network.mixture_net import ARCHITECTURE, MixtureInputs, MixtureNet, TESTED
from steer_depth_ros.ops.timing import stage

TV_LEVELS = Level(4, 2, 40), Level(2, 1, 20)


class MixtureModel:
    """The trained mixture of kernels; only the weighing runs on `device`."""

    def __init__(self, net, device='cpu'):
        self.net, self.device = net.eval().to(device), torch.device(device)

    @classmethod
    def load(cls, path, device='cpu'):
        """Read a safetensors file; WeightsError where it is missing, damaged or foreign."""
        return cls(load_network(path, {ARCHITECTURE: MixtureNet.of}), device)

    def estimate(self, image, uv, depth, has_parallax=False):
        """Return depth (meters) and expected relative error, float32 (H, W)."""
        inputs = mixture_inputs(image, uv, depth, has_parallax).to(self.device)
        with stage('network', self.device):
            log_inverse, log_error, tuned = self.net(inputs)
            # Where there is a sample, nothing is better than the tuned kernels.
            log_inverse = torch.where(inputs.sampled, tuned, log_inverse)
            dense = inputs.median / log_inverse[0].exp()
            error = log_error[0].clamp(-9, 2).exp()
        return dense.cpu().numpy(), error.cpu().numpy()


@stage('mixture')
def mixture_inputs(image, uv, depth, has_parallax=False) -> MixtureInputs:
    """Prepare for the network an image uint8 (H, W, 3) and Samples."""
    problem = problem_of(image, Samples(uv, depth, has_parallax), queries=config.MIXTURE_QUERIES)
    frame, first = problem.frame, problem.left_out.tune()
    guided, tuned = second_pass(problem, first)
    settings = tuned.settings + torch.tensor(config.MIXTURE_KERNELS, dtype=torch.float32)
    inverse, mass = guided.regress(settings)
    log_inverse = inverse.log()
    refined = log_inverse[0] + log_correction(guided, inverse[0], TV_LEVELS, len(frame.uv))
    low, high = guided.limits
    estimates = torch.cat([log_inverse, torch.stack(
        [guided.log_depth, problem.log_depth, refined.clamp(low.log(), high.log())])])
    left_out = guided.left_out
    predictions = [*(left_out.at(each).predicted for each in settings), first.predicted,
                   first.guide]
    log_errors, known = torch.stack(predictions).log() - left_out.target, left_out.known
    half = (frame.size[0] + 1) // 2, (frame.size[1] + 1) // 2
    scales = dict(zip(SETTINGS, tuned.settings.tolist()))
    found = torch.cat([
        _differences(estimates, half),
        _surroundings(problem, log_inverse[0], half),
        maps.area((mass + 1e-4).log() / 4, half), _contrast(problem.lab, frame.mean_spacing),
        _errors(frame, frame.uv[frame.queries[known]], log_errors[:, known], half),
        _everywhere(half, [np.log(frame.mean_spacing) - 2, (frame.aspect - 1) / 2,
                           *(scales[name] for name in SETTINGS[2:])])])
    return MixtureInputs(found[None], estimates[None], (problem.distance == 0)[None],
                         frame.median)


def _everywhere(size, numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, *size)


def _differences(estimates, half):
    """Return how each estimate differs from the first, compressed, (MIXED - 1, h, w)."""
    apart = maps.area(estimates[1:] - estimates[0], half)
    return ((apart.abs() * 100).log1p() / 3).copysign(apart)


def _surroundings(problem, log_inverse, half):
    """Return slope of depth, edges of the image, misfit and distance of samples, (4, h, w)."""
    def slope(plane):
        return torch.hypot(*maps.sobel(plane, 1 / 8))

    frame, spacing = problem.frame, problem.frame.mean_spacing
    lightness = maps.upsample(problem.lab[0], frame.size)
    spread = interpolate_coarse(frame, problem.log_residual.abs(), 0)
    return maps.area(torch.stack([
        (slope(log_inverse) * spacing + 1e-3).log() / 3 + 1,
        (slope(lightness / 100) + 1e-3).log() / 3 + 1.5,
        (spread.clamp(min=0) + 1e-3).log() / 3 + 1.5,
        (problem.distance / spacing).clamp(max=3)]), half)


def _contrast(lab, spacing):
    """Return how colors differ from those around, (3, h, w): nothing is known by its color."""
    window = (2 * round(spacing / 2) + 3,) * 2
    around = torch.stack([torch.from_numpy(cv2.blur(plane, window)) for plane in lab.numpy()])
    return ((lab - around) / config.MIXTURE_CONTRAST).clamp(-2, 2)


def _errors(frame, uv, log_errors, half):
    """Return how well each kernel predicts the samples, near by and on the whole."""
    if len(uv) == 0:
        return log_errors.new_zeros(2 * TESTED, *half)
    error = log_errors.abs().clamp(max=1)
    mean, cell = error.mean(1), config.MIXTURE_CELL
    cells = tuple(-(-n // cell) for n in frame.size)
    # The cell of a sample is the pixel of a map of the cells' size.
    total = maps.add_at((uv / cell).floor(), torch.cat([error, torch.ones_like(error[:1])]), cells)
    total = maps.blur(total, max(2 * frame.mean_spacing / cell, 1.0))
    count, prior = total[-1], 0.05 * total[-1].max()
    near = ((total[:-1] + prior * mean[:, None, None]) / (count + prior) + 1e-4).log()
    near, whole = maps.resize(near, half), (mean + 1e-4).log()
    return torch.cat([
        2 * (near[1:] - near[:1]), near[:1] / 2 + 1.5,
        _everywhere(half, [*(2 * (whole[1:] - whole[0])), whole[0] / 2 + 1.5])])
