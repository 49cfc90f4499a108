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

from steer_depth_ros.completion import config
from steer_depth_ros.completion.kernels import interpolate_coarse, LogScales
from steer_depth_ros.completion.normalize import normalize
from steer_depth_ros.completion.pipeline import describe, refine_guide, remove_bleed_through
from steer_depth_ros.completion.resample import as_batch_tensor, upsample
from steer_depth_ros.completion.second_order_tv import Level, log_correction
from steer_depth_ros.completion.tuning import tune
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
    """Prepare for the network what `normalize` takes."""
    frame = normalize(image, uv, depth, has_parallax)
    problem = describe(frame, config.MIXTURE_QUERIES)
    first = tune(problem.left_out)
    guided = remove_bleed_through(refine_guide(problem, first))
    tuned = tune(guided.left_out)
    settings = [LogScales(*row) for row in
                np.array(tuned) + np.array(config.MIXTURE_KERNELS, np.float32)]
    inverse, mass = guided.regress(settings)
    refined = np.log(inverse[0]) + log_correction(guided.filled, inverse[0], TV_LEVELS)
    refined = np.clip(refined, *np.log(frame.range, dtype=np.float32))
    estimates = np.stack([*np.log(inverse), *(p.guide.depth * frame.config.depth_step
                                              for p in (guided, problem)), refined])
    before, queries = problem.left_out, guided.left_out.queries
    kept = np.isin(before.queries, queries)  # those that were not rejected since
    log_errors = [*(guided.left_out.log_errors(each) for each in settings),
                  before.log_errors(first)[kept], (before.guide_log_depth - before.target)[kept]]
    maps = np.concatenate([
        _differences(estimates),
        _surroundings(frame, estimates[0], problem.log_residual, problem.distance),
        _half(np.log(mass + 1e-4) / 4), _contrast(frame),
        _errors(frame, queries, log_errors),
        _everywhere(frame.size, [np.log(frame.mean_spacing) - 2, (frame.aspect - 1) / 2,
                                 tuned.yellow_blue, tuned.depth_step, tuned.bandwidth,
                                 tuned.ridge])], 2)
    return MixtureInputs(as_batch_tensor(maps.transpose(2, 0, 1)), as_batch_tensor(estimates),
                         torch.from_numpy(problem.distance == 0)[None], frame.median)


def _half(maps):
    """Average maps (H, W) over 2 x 2 pixels and stack them, (h, w, C)."""
    height, width = maps[0].shape
    half = ((width + 1) // 2, (height + 1) // 2)
    return cv2.merge([cv2.resize(each, half, interpolation=cv2.INTER_AREA) for each in maps])


def _everywhere(size, numbers):
    shape = ((size[0] + 1) // 2, (size[1] + 1) // 2, len(numbers))
    return np.broadcast_to(np.array(numbers, np.float32), shape)


def _differences(estimates):
    """Return how each estimate differs from the first, compressed, (h, w, MIXED - 1)."""
    apart = _half([e - estimates[0] for e in estimates[1:]])
    return np.copysign(np.log1p(np.abs(apart) * 100) / 3, apart)


def _surroundings(frame, inverse, log_residual, distance):
    """Return slope of depth, edges of the image, misfit and distance of samples, (h, w, 4)."""
    def slope(field):
        return np.hypot(cv2.Sobel(field, cv2.CV_32F, 1, 0, scale=1 / 8),
                        cv2.Sobel(field, cv2.CV_32F, 0, 1, scale=1 / 8))

    lightness = upsample(cv2.extractChannel(frame.lab, 0), frame.size)
    spread = interpolate_coarse(frame, as_batch_tensor(np.abs(log_residual)), 0, 4)
    return _half([np.log(slope(inverse) * frame.mean_spacing + 1e-3) / 3 + 1,
                  np.log(slope(lightness / 100) + 1e-3) / 3 + 1.5,
                  np.log(np.maximum(spread, 0) + 1e-3) / 3 + 1.5,
                  np.minimum(distance / frame.mean_spacing, 3)])


def _contrast(frame):
    """Return how colors differ from those around, (h, w, 3): nothing is known by its color."""
    around = cv2.blur(frame.lab, (2 * round(frame.mean_spacing / 2) + 3,) * 2)
    return np.clip((frame.lab - around) / config.MIXTURE_CONTRAST, -2, 2)


def _errors(frame, queries, log_errors):
    """Return how well each kernel predicts the samples, near by and on the whole."""
    height, width = frame.size
    half = ((width + 1) // 2, (height + 1) // 2)
    if len(queries) == 0:
        return np.zeros((half[1], half[0], 2 * TESTED), np.float32)
    error = np.minimum(np.abs(np.stack(log_errors, 1)), 1)
    mean, cell = error.mean(0), config.MIXTURE_CELL
    cells = -(-height // cell), -(-width // cell)
    place = np.clip(frame.uv[0].numpy()[queries] / cell, 0,
                    (cells[1] - 0.01, cells[0] - 0.01)).astype(int)
    total = np.zeros((*cells, TESTED + 1), np.float32)
    np.add.at(total, (place[:, 1], place[:, 0]), np.c_[error, np.ones(len(error), np.float32)])
    sigma = max(2 * frame.mean_spacing / cell, 1.0)
    total = np.dstack([cv2.GaussianBlur(part, (0, 0), sigma)
                       for part in np.moveaxis(total, 2, 0)])
    prior = 0.05 * total[..., -1:].max()
    near = np.log((total[..., :-1] + prior * mean) / (total[..., -1:] + prior) + 1e-4)
    near = np.dstack([cv2.resize(part, half) for part in np.moveaxis(near, 2, 0)])
    whole = np.log(mean + 1e-4)
    return np.concatenate([
        2 * (near[..., 1:] - near[..., :1]), near[..., :1] / 2 + 1.5,
        _everywhere(frame.size, [*(2 * (whole[1:] - whole[0])), whole[0] / 2 + 1.5])], 2)
