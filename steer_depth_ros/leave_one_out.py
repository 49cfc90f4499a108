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
Kernels tuned to the frame at hand by leave-one-out cross-validation.

How much a difference of colour says about depth, and how wide kernels should be, differs from
scene to scene: painted walls and cast shadows, grey boxes on grey tables. The samples know: each
is predicted from its neighbours without itself, and the settings that do so best are used, the
classic way of choosing bandwidths in kernel regression. Of scan lines the whole line of a sample
is left out, for what lies between lines is the question that completion has to answer.
"""
import math

import numpy as np
from scipy.spatial import cKDTree
import torch

from steer_depth_ros import steering

FEWEST = 60  # samples, below which the constants stay as they are
QUERIES = 600  # samples that are predicted; more tell little more
ITERATIONS, RATE, DECAY = 8, 0.25, (0.7, 0.9)  # of Adam
PRIOR = 0.01  # holds settings that the samples say nothing about
LINES = 1.3  # aspect from which on samples lie on scan lines
LARGEST_ERROR = 1.0  # log depth; outliers count no more than that
COLOUR, STEP, BANDWIDTH, RIDGE = slice(0, 3), 3, 4, 5  # places in the settings
SETTINGS = 6


class LeaveOneOut:
    """
    Samples, each with the neighbours that the operator would give it without itself.

    inputs: steering.Inputs. kernels: (1, N, 3), elongation, rotation and scaling of all samples.
    The Q samples that have neighbours enough stand in `chosen` (Q,), indices of samples.
    """

    @torch.inference_mode(False)  # its tensors take part in gradients
    def __init__(self, inputs, kernels, queries=QUERIES):
        uv, count = inputs.uv[0].numpy(), inputs.uv.shape[1]
        chosen = np.unique(np.linspace(0, count - 1, min(queries, count)).astype(int))
        self.chosen, near, distance = _neighbours(inputs, uv, chosen)
        if len(self.chosen) == 0:
            return
        near, radius = torch.from_numpy(near), torch.from_numpy(distance[:, -1:])
        offset = torch.from_numpy(uv[near] - uv[self.chosen, None])
        rows, columns = offset[..., 1] / inputs.aspect, offset[..., 0]
        lab = torch.from_numpy(steering.at_samples(inputs.lab, inputs.uv))
        values = inputs.inverse[0].clone()
        self.values, truth = values[near], values[self.chosen]
        self.range, self.truth = (values.min(), values.max()), truth.log()

        rough = _first_estimate(rows, columns, distance, self.values).clamp(*self.range).log()
        self.first = rough - self.truth
        self.apart = torch.cat([(lab[near] - lab[self.chosen][:, None]) / steering.COLOUR,
                                (self.values.log() - rough[:, None])[..., None] / steering.STEP],
                               2).square()
        spacing = _spacing(radius, steering.NEIGHBOURS, 0.5)
        self.y, self.x = rows / spacing, columns / spacing
        self.taper = _taper(torch.from_numpy(distance) / radius)
        self.gamma, self.form = _quadratic_form(kernels[0][near], self.y, self.x)
        nearest = offset.square().sum(2).amin(1).sqrt().numpy()
        self.bandwidth = torch.from_numpy(steering.bandwidths(inputs, nearest))[:, None]

    def log_errors(self, settings):
        """
        Return log of predicted over measured inverse depth, (Q,), with the clamps of the preset.

        settings: (6,) logarithms of factors on COLOUR (for L, a and b), STEP, BANDWIDTH, RIDGE.
        """
        factors = settings.exp()
        exponent = (-self.form / (2 * (self.bandwidth * factors[BANDWIDTH]).square())
                    - (self.apart / factors[:4].square()).sum(2) / 2)
        weight = (exponent - exponent.amax(1, keepdim=True).detach()).exp()
        found = _plane(weight * self.taper * self.gamma, self.y, self.x, self.values,
                       steering.RIDGE * factors[RIDGE])
        return found.nan_to_num(1.0).clamp(*self.range).log() - self.truth

    def loss(self, settings):
        """Return the logarithm of the error, between its mean and its root mean square."""
        off = self.log_errors(settings).abs().clamp(max=LARGEST_ERROR)
        return ((off.mean() + 1e-4).log() + (off.square().mean() + 1e-7).log() / 2) / 2


def tune(left_out):
    """Return settings (6,) that predict the samples of a LeaveOneOut best; 0: the constants."""
    settings = torch.zeros(SETTINGS)
    if len(left_out.chosen) < FEWEST // 2:
        return settings
    best, lowest = settings.clone(), math.inf
    with torch.inference_mode(False), torch.enable_grad():
        settings = torch.zeros(SETTINGS, requires_grad=True)
        adam = torch.optim.Adam([settings], lr=RATE, betas=DECAY)
        for _ in range(ITERATIONS):
            loss = left_out.loss(settings) + PRIOR * settings.square().sum()
            if loss.item() < lowest:
                best, lowest = settings.detach().clone(), loss.item()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return best


def _neighbours(inputs, uv, chosen):
    """Return the samples that have enough neighbours, and these and their distances, (Q, K)."""
    count = steering.NEIGHBOURS
    points = uv / np.array([1, inputs.aspect], np.float32)
    lines = inputs.aspect > LINES
    if len(uv) < max(FEWEST, count + 1):
        return chosen[:0], None, None
    asked = min(3 * count if lines else count + 1, len(uv))
    distance, near = cKDTree(points).query(points[chosen], asked)
    left_out = near == chosen[:, None]
    if lines:
        left_out |= np.abs(uv[near, 1] - uv[chosen, 1][:, None]) < inputs.rows / 2
    distance = np.where(left_out, np.inf, distance)
    order = np.argsort(distance, axis=1, kind='stable')[:, :count]
    distance = np.take_along_axis(distance, order, 1).astype(np.float32)
    enough = np.isfinite(distance[:, -1])
    near = np.take_along_axis(near, order, 1)
    return chosen[enough], near[enough], distance[enough]


def _first_estimate(rows, columns, distance, values):
    """Return what `steering.rough` would say without the sample, (Q,)."""
    count = steering.ROUGH_NEIGHBOURS
    distance = torch.from_numpy(distance[:, :count])
    radius = distance[:, -1:]
    spacing = _spacing(radius, count, 1.0)  # half a pixel of half the resolution
    y, x = rows[:, :count] / spacing, columns[:, :count] / spacing
    weight = (-(y * y + x * x) / (2 * steering.BANDWIDTH ** 2)).exp() * _taper(distance / radius)
    return _plane(weight, y, x, values[:, :count], steering.RIDGE)


def _spacing(radius, count, least):
    return (radius * math.sqrt(math.pi / count)).clamp(min=least)


def _taper(share):
    return (1 - share.clamp(max=1).pow(4)).square()


def _quadratic_form(kernels, y, x):
    """Return gamma and the quadratic form of (Q, K, 3) kernels, as the operator has it."""
    sigma, theta, gamma = kernels.clone().unbind(-1)
    cos, sin = theta.cos(), theta.sin()
    form = gamma * ((sigma * cos ** 2 + sin ** 2 / sigma) * y ** 2
                    + 2 * (1 / sigma - sigma) * sin * cos * y * x
                    + (sigma * sin ** 2 + cos ** 2 / sigma) * x ** 2)
    return gamma, form


def _plane(weight, y, x, values, ridge):
    """Return the constant of the weighted plane through (Q, K) values; order 1 of the operator."""
    mass = weight.sum(1)
    wy, wx = weight * y, weight * x
    yy, xx = (wy * y).sum(1) + ridge * mass, (wx * x).sum(1) + ridge * mass
    yx, y0, x0 = (wy * x).sum(1), wy.sum(1), wx.sum(1)
    yv, xv, v = (wy * values).sum(1), (wx * values).sum(1), (weight * values).sum(1)
    turn = yx / yy
    xx, x0, xv = xx - turn * yx, x0 - turn * y0, xv - turn * yv
    return ((v - y0 / yy * yv - x0 / xx * xv)
            / (mass - y0 / yy * y0 - x0 / xx * x0))
