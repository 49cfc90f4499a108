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

How much a difference of color says about depth, and how wide kernels should be, differs from
scene to scene: painted walls and cast shadows, gray boxes on gray tables. The samples know: each
is predicted from its neighbors without itself, and the settings that do so best are used, the
classic way of choosing bandwidths in kernel regression. Of scan lines the whole line of a sample
is left out, for what lies between lines is the question that completion has to answer.
"""
import copy
import math
from typing import NamedTuple

import numpy as np

from steer_depth_ros.completion.kernels import bandwidth_at, LogScales
from steer_depth_ros.ops.timing import stage

EPS = np.float32(1e-12)  # what is divided by, at least


class Neighbors(NamedTuple):
    """Q samples that are left out (indices), with K others (Q, K) and their distances (Q, K)."""

    queries: np.ndarray
    near: np.ndarray
    distance: np.ndarray


def find_neighbors(frame, queries=None) -> Neighbors:
    """
    Choose samples to leave out, spread over all of them, that have neighbors enough.

    queries: how many; None: those of the config.
    """
    config, uv, count = frame.config, frame.uv[0].numpy(), frame.neighbors
    if len(uv) <= count:
        return Neighbors(np.empty(0, int), np.empty((0, count), int),
                         np.empty((0, count), np.float32))
    asked = min(queries or config.tuning_queries, len(uv))
    chosen = np.unique(np.linspace(0, len(uv) - 1, asked).astype(int))
    lines = frame.aspect > config.tuning_line_aspect
    asked = min(3 * count if lines else count + 1, len(uv))
    distance, near = frame.tree.query(frame.tree.data[chosen], asked)
    left_out = near == chosen[:, None]
    if lines:
        left_out |= np.abs(uv[near, 1] - uv[chosen, 1][:, None]) < frame.row_spacing / 2
    distance = np.where(left_out, np.inf, distance)
    order = np.argsort(distance, axis=1, kind='stable')[:, :count]
    distance = np.take_along_axis(distance, order, 1).astype(np.float32)
    enough = np.isfinite(distance[:, -1])
    near = np.take_along_axis(near, order, 1)
    return Neighbors(chosen[enough], near[enough], distance[enough])


class LeaveOneOut:
    """
    Samples, each with the neighbors that the operator would give it without itself.

    frame: NormalizedFrame. kernels: (1, N, 3), elongation, rotation and scaling of all samples.
    neighbors: of `find_neighbors`. `queries` (Q,) are the indices of the samples that are
    predicted, `target` (Q,) the logarithm of their inverse depth, `guide_log_depth` (Q,) what the
    guide takes it for.
    """

    @stage('tuning')
    def __init__(self, frame, kernels, neighbors):
        self.config, self.queries = frame.config, neighbors.queries
        # Neighbors first, (K, Q): sums over them then run along the samples.
        near, distance = neighbors.near.T.copy(), neighbors.distance.T.copy()
        self._near = near
        uv, radius = frame.uv[0].numpy(), distance[-1]
        offset = uv[near] - uv[self.queries]
        rows, columns = offset[..., 1] / np.float32(frame.aspect), offset[..., 0]
        inverse = frame.inverse[0].numpy()
        self._inverse, self.target = inverse[near], np.log(inverse[self.queries])
        self._range = inverse.min(), inverse.max()

        spacing = _spacing(radius, frame.neighbors, 0.5)
        self._y, self._x = rows / spacing, columns / spacing
        gamma, mahalanobis = _quadratic_form(kernels[0].numpy()[near], self._y, self._x)
        self._taper = _taper(distance / radius) * gamma
        nearest = np.sqrt(np.square(offset).sum(2).min(0))
        self._mahalanobis = mahalanobis / np.square(bandwidth_at(frame, nearest))

        # One plane a feature: color, then depth.
        self._sq_feature_distance = np.zeros((4, *near.shape), np.float32)
        for plane, feature in zip(self._sq_feature_distance, frame.colors(frame.uv).T):
            np.square(feature[near] - feature[self.queries], out=plane)
        self._guide_by(_coarse_estimate(self.config, rows, columns, distance, self._inverse))

    def _guide_by(self, inverse):
        self.guide_log_depth = np.log(np.clip(inverse, *self._range))
        np.square((np.log(self._inverse) - self.guide_log_depth)
                  / np.float32(self.config.depth_step), out=self._sq_feature_distance[3])

    def with_guide(self, inverse):
        """Return the same samples, guided by estimates (Q,) of their inverse depth."""
        other = copy.copy(self)
        other._sq_feature_distance = self._sq_feature_distance.copy()
        other._guide_by(inverse)
        return other

    def without(self, rejected):
        """Return the same without the `rejected` samples, bool (N,), to predict and to rely on."""
        other, keep = copy.copy(self), ~rejected[self.queries]
        other.queries, other.target = self.queries[keep], self.target[keep]
        other.guide_log_depth = self.guide_log_depth[keep]
        for name in ('_near', '_inverse', '_y', '_x', '_taper', '_mahalanobis'):
            setattr(other, name, getattr(self, name)[:, keep])
        other._sq_feature_distance = self._sq_feature_distance[:, :, keep]
        other._taper = np.where(rejected[other._near], np.float32(0), other._taper)
        return other

    def predict(self, settings):
        """Return inverse depth of the samples, (Q,), for LogScales, within the sample range."""
        return np.clip(self._fit(settings.factors())[0], *self._range)

    def log_errors(self, settings):
        """Return the logarithm of predicted over measured inverse depth, (Q,)."""
        return np.log(self.predict(settings)) - self.target

    def loss(self, settings):
        """Return the logarithm of the error, between its mean and its root mean square."""
        size = np.abs(self.log_errors(settings))
        return _loss(np.minimum(size, self.config.tuning_max_error))[0]

    def loss_and_gradient(self, settings):
        """Return `loss`, and its derivatives with respect to the settings (6,)."""
        factors = settings.factors()
        inverse, weight, by_weight, by_ridge = self._fit(factors)
        inside = (inverse > self._range[0]) & (inverse < self._range[1])
        inverse = np.clip(inverse, *self._range)
        log_error = np.log(inverse) - self.target
        size = np.abs(log_error)
        inside &= size < self.config.tuning_max_error
        loss, by_size = _loss(np.minimum(size, self.config.tuning_max_error))
        by_inverse = np.where(inside, by_size * np.sign(log_error) / inverse, np.float32(0))
        by_exponent = (by_inverse * by_weight * weight).ravel()
        by_features = (self._sq_feature_distance.reshape(4, -1) @ by_exponent
                       / np.square(factors.features))
        by_bandwidth = self._mahalanobis.ravel() @ by_exponent / np.square(factors.bandwidth)
        return loss, np.array([*by_features, by_bandwidth, by_inverse @ by_ridge], np.float32)

    def _fit(self, factors):
        """Return the plane's constant (Q,), weights, and its derivatives by weight and ridge."""
        exponent = np.tensordot(-0.5 / np.square(factors.features), self._sq_feature_distance, 1)
        exponent += np.float32(-0.5) / np.square(factors.bandwidth) * self._mahalanobis
        exponent -= exponent.max(0)
        weight = np.exp(exponent, out=exponent)
        weight *= self._taper
        return _plane(weight, self._y, self._x, self._inverse,
                      np.float32(self.config.ridge) * factors.ridge)


@stage('tuning')
def tune(left_out: LeaveOneOut) -> LogScales:
    """Return settings that predict the samples well; those of the config where none is."""
    config = left_out.config
    if len(left_out.queries) == 0:
        return LogScales()
    settings = np.zeros(len(LogScales._fields), np.float32)
    mean, square, total = np.zeros((3, len(settings)))
    decay, decay_square = 1 - config.tuning_newest, 1 - config.tuning_newest_square
    for step in range(1, config.tuning_steps + 1):  # Adam
        _, gradient = left_out.loss_and_gradient(LogScales(*settings))
        gradient = gradient + 2 * config.tuning_prior * settings
        mean += (1 - decay) * (gradient - mean)
        square += (1 - decay_square) * (np.square(gradient) - square)
        change = mean / (1 - decay ** step) / (
            np.sqrt(square / (1 - decay_square ** step)) + 1e-8)
        settings = (settings - config.tuning_rate * change).astype(np.float32)
        if step > config.tuning_steps - config.tuning_averaged:
            total += settings / config.tuning_averaged
    return LogScales(*total.astype(np.float32))


def _coarse_estimate(config, rows, columns, distance, inverse):
    """Return what `kernels.interpolate_coarse` would say without the sample, (Q,)."""
    count = config.coarse_neighbors
    distance = distance[:count]
    radius = distance[-1]
    spacing = _spacing(radius, count, 1.0)  # half a pixel of half the resolution
    y, x = rows[:count] / spacing, columns[:count] / spacing
    weight = np.exp((y * y + x * x) * np.float32(-0.5 / config.bandwidth ** 2))
    return _plane(weight * _taper(distance / radius), y, x, inverse[:count], config.ridge)[0]


def _spacing(radius, count, least):
    return np.maximum(radius * np.float32(math.sqrt(math.pi / count)), np.float32(least))


def _taper(share):
    return np.square(1 - np.square(np.square(np.minimum(share, 1))))


def _quadratic_form(kernels, y, x):
    """Return gamma and the quadratic form of (K, Q, 3) kernels, as the operator has it."""
    sigma, theta, gamma = np.moveaxis(kernels, 2, 0)
    cos, sin = np.cos(theta), np.sin(theta)
    form = gamma * ((sigma * cos ** 2 + sin ** 2 / sigma) * y ** 2
                    + 2 * (1 / sigma - sigma) * sin * cos * y * x
                    + (sigma * sin ** 2 + cos ** 2 / sigma) * x ** 2)
    return gamma, form


def _plane(weight, y, x, values, ridge):
    """
    Fit planes to (K, Q) values by weighted least squares; order 1 of the operator.

    Return their constants (Q,), the weights as shares of their sum, and the derivatives of the
    constants with respect to these (K, Q) and to the logarithm of the ridge (Q,).
    """
    weight = weight / np.maximum(weight.sum(0), EPS)
    wy, wx = weight * y, weight * x
    mass, y0, x0 = weight.sum(0), wy.sum(0), wx.sum(0)
    yy = (wy * y).sum(0) + ridge * mass
    xx = (wx * x).sum(0) + ridge * mass
    yx = (wy * x).sum(0)
    v, yv, xv = ((w * values).sum(0) for w in (weight, wy, wx))
    # Elimination with the constant last; p, q: the row of the inverse that gives the constant.
    det = np.maximum(yy * xx - yx * yx, EPS)
    p, q = (yx * x0 - xx * y0) / det, (yx * y0 - yy * x0) / det
    rest = np.maximum(mass + p * y0 + q * x0, EPS)
    constant = (v + p * yv + q * xv) / rest
    # Slopes, for the residuals.
    ty, tx = yv - y0 * constant, xv - x0 * constant
    slope_y, slope_x = (xx * ty - yx * tx) / det, (yy * tx - yx * ty) / det
    held = p * slope_y + q * slope_x
    residual = values - constant - slope_y * y - slope_x * x
    by_weight = ((1 + p * y + q * x) * residual - ridge * held) / rest
    return constant, weight, by_weight, -ridge * mass * held / rest


def _loss(size):
    """Return the loss of absolute errors (Q,), and its derivative with respect to each."""
    mean, square = size.mean() + 1e-4, np.square(size).mean() + 1e-7
    loss = (math.log(mean) + math.log(square) / 2) / 2
    return loss, (1 / mean + size / square) / (2 * len(size))
