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
Kernels tuned to the frame by leave-one-out, as `tuning` does it, in torch on any device.

What cannot be predicted, or must not be relied on, keeps its place and weighs nothing: no shape
depends on the data, and nothing is read back from a GPU.
"""
import copy
import math

import numpy as np
import torch

from steer_depth_ros.completion.tuning import EPS


def find_neighbors(uv, frame):
    """
    Choose samples to leave out: return queries (Q,), neighbors and distances (K, Q), known (Q,).

    uv: (N, 2), the positions of the NormalizedFrame `frame`, N more than it takes neighbors.
    known: whether a sample has neighbors enough.
    """
    config, count, total = frame.config, frame.neighbors, len(uv)
    asked = min(config.tuning_queries, total)
    chosen = torch.from_numpy(np.unique(np.linspace(0, total - 1, asked).astype(int))).to(
        uv.device)
    lines = frame.aspect > config.tuning_line_aspect
    asked = min(3 * count if lines else count + 1, total)
    points = uv * torch.tensor([1, 1 / frame.aspect], dtype=torch.float32, device=uv.device)
    far = torch.cdist(points[chosen], points, compute_mode='donot_use_mm_for_euclid_dist')
    distance, near = far.topk(asked, largest=False)
    left_out = near == chosen[:, None]
    if lines:
        rows = uv[:, 1]
        left_out |= (rows[near] - rows[chosen][:, None]).abs() < frame.row_spacing / 2
    distance = torch.where(left_out, math.inf, distance)
    distance, order = distance.sort(dim=1, stable=True)
    distance, order = distance[:, :count], order[:, :count]
    known = distance[:, -1].isfinite()
    distance = torch.where(known[:, None], distance, 1.0)
    return chosen, near.gather(1, order).T.contiguous(), distance.T.contiguous(), known


class LeaveOneOut:
    """`tuning.LeaveOneOut` in torch; settings are (6,), as LogScales."""

    def __init__(self, frame, uv, inverse, colors, kernels, neighbors):
        self.config = frame.config
        self.queries, near, distance, self.known = neighbors
        self._near, radius = near, distance[-1]
        offset = uv[near] - uv[self.queries]
        rows, columns = offset[..., 1] / frame.aspect, offset[..., 0]
        self._inverse, self.target = inverse[near], inverse[self.queries].log()
        self.range = inverse.min(), inverse.max()
        spacing = _spacing(radius, frame.neighbors, 0.5)
        y, x = rows / spacing, columns / spacing
        self._moments = _moments(y, x, self._inverse)
        gamma, mahalanobis = _quadratic_form(kernels[near], y, x)
        self._taper = _taper(distance / radius) * gamma * self.known
        nearest = offset.square().sum(2).min(0).values.sqrt()
        self._mahalanobis = mahalanobis / bandwidth_at(frame, nearest).square()
        color = (colors[near] - colors[self.queries]).square().permute(2, 0, 1)
        self._sq_features = torch.cat([color, torch.zeros_like(color[:1])])
        self.guide_log_depth = None
        self._guide_by(_coarse_estimate(self.config, rows, columns, distance, self._inverse))

    def _guide_by(self, inverse):
        self.guide_log_depth = inverse.clamp(*self.range).log()
        depth = ((self._inverse.log() - self.guide_log_depth) / self.config.depth_step).square()
        self._sq_features = torch.cat([self._sq_features[:3], depth[None]])

    def with_guide(self, inverse):
        """Return the same samples, guided by estimates (Q,) of their inverse depth."""
        other = copy.copy(self)
        other._guide_by(inverse)
        return other

    def without(self, rejected):
        """Return the same without the `rejected` samples, bool (N,), to predict and to rely on."""
        other = copy.copy(self)
        other.known = self.known & ~rejected[self.queries]
        other._taper = torch.where(rejected[self._near], 0.0, self._taper)
        return other

    def predict(self, settings):
        """Return inverse depth of the samples, (Q,), within the sample range."""
        return self._fit(settings.exp())[0].clamp(*self.range)

    def gradient(self, settings):
        """Return the derivatives of the loss with respect to the settings, (6,)."""
        factors = settings.exp()
        inverse, weight, by_weight, by_ridge = self._fit(factors)
        low, high = self.range
        inside = (inverse > low) & (inverse < high) & self.known
        inverse = inverse.clamp(low, high)
        log_error = inverse.log() - self.target
        size = log_error.abs()
        inside &= size < self.config.tuning_max_error
        count = self.known.sum().clamp(min=1)
        size = torch.where(self.known, size.clamp(max=self.config.tuning_max_error), 0.0)
        mean, square = size.sum() / count + 1e-4, size.square().sum() / count + 1e-7
        by_size = (1 / mean + size / square) / (2 * count)
        by_inverse = torch.where(inside, by_size * log_error.sign() / inverse, 0.0)
        by_exponent = (by_inverse * by_weight * weight).ravel()
        by_features = (self._sq_features.reshape(4, -1) @ by_exponent) / factors[:4].square()
        by_bandwidth = (self._mahalanobis.ravel() @ by_exponent) / factors[4].square()
        return torch.cat([by_features, by_bandwidth[None], (by_inverse @ by_ridge)[None]])

    def _fit(self, factors):
        exponent = torch.tensordot(-0.5 / factors[:4].square(), self._sq_features, 1)
        exponent = exponent - 0.5 / factors[4].square() * self._mahalanobis
        weight = (exponent - exponent.max(0).values).exp() * self._taper
        return _plane(weight, self._moments, self.config.ridge * factors[5])


def tune(left_out):
    """Return settings (6,) that predict the samples well; zeros where there is none."""
    config = left_out.config
    settings = torch.zeros(6, device=left_out.target.device)
    mean, square, total = torch.zeros(3, 6, device=settings.device)
    decay, decay_square = 1 - config.tuning_newest, 1 - config.tuning_newest_square
    for step in range(1, config.tuning_steps + 1):  # Adam
        gradient = left_out.gradient(settings) + 2 * config.tuning_prior * settings
        mean = mean + (1 - decay) * (gradient - mean)
        square = square + (1 - decay_square) * (gradient.square() - square)
        change = mean / (1 - decay ** step) / (
            (square / (1 - decay_square ** step)).sqrt() + 1e-8)
        settings = settings - config.tuning_rate * change
        if step > config.tuning_steps - config.tuning_averaged:
            total = total + settings / config.tuning_averaged
    return torch.where(left_out.known.any(), total, 0.0)


def bandwidth_at(frame, distance):
    """Return the bandwidth at these distances (pixels) to the nearest sample."""
    config = frame.config
    share = distance * (1 / (config.bandwidth_distance * frame.mean_spacing))
    factor = config.bandwidth_at_sample + (1 - config.bandwidth_at_sample) * share
    return config.bandwidth * factor.clamp(config.bandwidth_at_sample, config.bandwidth_far)


def _coarse_estimate(config, rows, columns, distance, inverse):
    count = config.coarse_neighbors
    distance = distance[:count]
    radius = distance[-1]
    spacing = _spacing(radius, count, 1.0)
    y, x = rows[:count] / spacing, columns[:count] / spacing
    weight = ((y * y + x * x) * (-0.5 / config.bandwidth ** 2)).exp()
    moments = _moments(y, x, inverse[:count])
    return _plane(weight * _taper(distance / radius), moments, config.ridge)[0]


def _spacing(radius, count, least):
    return (radius * math.sqrt(math.pi / count)).clamp(min=least)


def _taper(share):
    return (1 - share.clamp(max=1).square().square()).square()


def _quadratic_form(kernels, y, x):
    sigma, theta, gamma = kernels.unbind(2)
    cos, sin = theta.cos(), theta.sin()
    form = gamma * ((sigma * cos ** 2 + sin ** 2 / sigma) * y ** 2
                    + 2 * (1 / sigma - sigma) * sin * cos * y * x
                    + (sigma * sin ** 2 + cos ** 2 / sigma) * x ** 2)
    return gamma, form


def _moments(y, x, values):
    """Return what `_plane` sums over the neighbors, weighed, (9, K, Q)."""
    return torch.stack([torch.ones_like(y), y, x, y * y, x * x, y * x, values, y * values,
                        x * values])


def _plane(weight, moments, ridge):
    """Do what `tuning._plane` does, with the `_moments` of y, x and values."""
    least, y, x, values = float(EPS), moments[1], moments[2], moments[6]
    weight = weight / weight.sum(0).clamp(min=least)
    mass, y0, x0, yy, xx, yx, v, yv, xv = (weight * moments).sum(1).unbind()
    held = ridge * mass
    yy, xx = yy + held, xx + held
    det = (yy * xx - yx * yx).clamp(min=least)
    p, q = (yx * x0 - xx * y0) / det, (yx * y0 - yy * x0) / det
    rest = (mass + p * y0 + q * x0).clamp(min=least)
    constant = (v + p * yv + q * xv) / rest
    ty, tx = yv - y0 * constant, xv - x0 * constant
    slope_y, slope_x = (xx * ty - yx * tx) / det, (yy * tx - yx * ty) / det
    pulled = p * slope_y + q * slope_x
    residual = values - constant - slope_y * y - slope_x * x
    by_weight = ((1 + p * y + q * x) * residual - ridge * pulled) / rest
    return constant, weight, by_weight, -held * pulled / rest
