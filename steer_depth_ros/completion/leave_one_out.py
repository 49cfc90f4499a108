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

from steer_depth_ros.completion import steering

FEWEST = 60  # samples, below which the constants stay as they are
QUERIES = 600  # samples that are predicted; more tell little more
ITERATIONS, RATE, DECAY = 8, 0.25, (0.7, 0.9)  # of Adam
AVERAGED = 4  # last iterations whose mean is taken: a single one hangs on the samples chosen
PRIOR = 0.01  # holds settings that the samples say nothing about
LINES = 1.3  # aspect from which on samples lie on scan lines
LARGEST_ERROR = 1.0  # log depth; outliers count no more than that
TINY = np.float32(1e-12)  # what is divided by, at least
COLOUR, STEP, BANDWIDTH, RIDGE = slice(0, 3), 3, 4, 5  # places in the settings
SETTINGS = 6


class LeaveOneOut:
    """
    Samples, each with the neighbours that the operator would give it without itself.

    inputs: steering.Inputs. kernels: (1, N, 3), elongation, rotation and scaling of all samples.
    found: what `neighbours` gives, which is asked if None.
    The Q samples that have neighbours enough stand in `chosen` (Q,), indices of samples; `truth`
    (Q,) is the logarithm of their inverse depth, `guess` (Q,) what the guide takes it for.
    """

    def __init__(self, inputs, kernels, found=None):
        self.chosen, near, distance = found or neighbours(inputs)
        if len(self.chosen) == 0:
            return
        # Neighbours first, (K, Q): sums over them then run along the samples.
        near, distance = near.T.copy(), distance.T.copy()
        uv, radius = inputs.uv[0].numpy(), distance[-1]
        offset = uv[near] - uv[self.chosen]
        rows, columns = offset[..., 1] / np.float32(inputs.aspect), offset[..., 0]
        values = inputs.inverse[0].numpy()
        self.values, self.truth = values[near], np.log(values[self.chosen])
        self.range = values.min(), values.max()

        # One plane a feature: colour, then depth, as squared differences.
        self.apart = np.empty((4, *near.shape), np.float32)
        for plane, feature in zip(self.apart, inputs.colours(inputs.uv).T):
            np.square(feature[near] - feature[self.chosen], out=plane)
        self.guide_by(_first_estimate(rows, columns, distance, self.values))
        spacing = _spacing(radius, inputs.neighbours, 0.5)
        self.y, self.x = rows / spacing, columns / spacing
        gamma, form = _quadratic_form(kernels[0].numpy()[near], self.y, self.x)
        self.taper = _taper(distance / radius) * gamma
        nearest = np.sqrt(np.square(offset).sum(2).min(0))
        self.form = form / np.square(steering.bandwidths(inputs, nearest))

    def guide_by(self, inverse):
        """Let the guide take the samples for `inverse` (Q,), as a pixel takes an estimate."""
        self.guess = np.log(np.clip(inverse, *self.range))
        np.square((np.log(self.values) - self.guess) / np.float32(steering.STEP),
                  out=self.apart[3])

    def predict(self, settings):
        """
        Return inverse depth of the samples, (Q,), with the clamps of the preset.

        settings: (6,) logarithms of factors on COLOUR (for L, a and b), STEP, BANDWIDTH, RIDGE.
        """
        return np.clip(self._fit(np.exp(settings, dtype=np.float32))[0], *self.range)

    def log_errors(self, settings):
        """Return the logarithm of predicted over measured inverse depth, (Q,)."""
        return np.log(self.predict(settings)) - self.truth

    def loss(self, settings):
        """Return the logarithm of the error, between its mean and its root mean square."""
        return _loss(np.minimum(np.abs(self.log_errors(settings)), LARGEST_ERROR))[0]

    def loss_and_gradient(self, settings):
        """Return `loss`, and its derivatives with respect to the settings (6,)."""
        factors = np.exp(settings, dtype=np.float32)
        found, weight, by_weight, by_ridge = self._fit(factors)
        inside = (found > self.range[0]) & (found < self.range[1])
        found = np.clip(found, *self.range)
        off = np.log(found) - self.truth
        size = np.abs(off)
        inside &= size < LARGEST_ERROR
        loss, by_size = _loss(np.minimum(size, LARGEST_ERROR))
        by_found = np.where(inside, by_size * np.sign(off) / found, np.float32(0))
        by_exponent = (by_found * by_weight * weight).ravel()
        gradient = np.empty(SETTINGS, np.float32)
        gradient[:4] = self.apart.reshape(4, -1) @ by_exponent / np.square(factors[:4])
        gradient[BANDWIDTH] = self.form.ravel() @ by_exponent / np.square(factors[BANDWIDTH])
        gradient[RIDGE] = by_found @ by_ridge
        return loss, gradient

    def _fit(self, factors):
        """Return the plane's constant (Q,), weights, and its derivatives by weight and ridge."""
        scale = -0.5 / np.square(factors)
        exponent = np.tensordot(scale[:4], self.apart, 1)
        exponent += scale[BANDWIDTH] * self.form
        exponent -= exponent.max(0)
        weight = np.exp(exponent, out=exponent)
        weight *= self.taper
        return _plane(weight, self.y, self.x, self.values,
                      np.float32(steering.RIDGE) * factors[RIDGE])


def tune(left_out):
    """Return settings (6,) that predict the samples of a LeaveOneOut well; 0: the constants."""
    settings = np.zeros(SETTINGS, np.float32)
    if len(left_out.chosen) < FEWEST // 2:
        return settings
    mean, square, total = np.zeros((3, SETTINGS))
    for step in range(1, ITERATIONS + 1):
        _, gradient = left_out.loss_and_gradient(settings)
        gradient = gradient + 2 * PRIOR * settings
        mean += (1 - DECAY[0]) * (gradient - mean)
        square += (1 - DECAY[1]) * (np.square(gradient) - square)
        change = mean / (1 - DECAY[0] ** step) / (
            np.sqrt(square / (1 - DECAY[1] ** step)) + 1e-8)
        settings = (settings - RATE * change).astype(np.float32)
        if step > ITERATIONS - AVERAGED:
            total += settings / AVERAGED
    return total.astype(np.float32)


def neighbours(inputs, queries=QUERIES):
    """
    Choose samples to leave out, spread over all of them, and look for their neighbours.

    Return those of them that have enough, (Q,), the neighbours and their distances, (Q, K).
    """
    uv, count = inputs.uv[0].numpy(), inputs.neighbours
    chosen = np.unique(np.linspace(0, len(uv) - 1, min(queries, len(uv))).astype(int))
    lines = inputs.aspect > LINES
    if len(uv) < max(FEWEST, count + 1):
        return chosen[:0], None, None
    asked = min(3 * count if lines else count + 1, len(uv))
    distance, near = inputs.tree.query(inputs.tree.data[chosen], asked)
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
    distance = distance[:count]
    radius = distance[-1]
    spacing = _spacing(radius, count, 1.0)  # half a pixel of half the resolution
    y, x = rows[:count] / spacing, columns[:count] / spacing
    weight = np.exp((y * y + x * x) * np.float32(-0.5 / steering.BANDWIDTH ** 2))
    return _plane(weight * _taper(distance / radius), y, x, values[:count], steering.RIDGE)[0]


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
    weight = weight / np.maximum(weight.sum(0), TINY)
    wy, wx = weight * y, weight * x
    mass, y0, x0 = weight.sum(0), wy.sum(0), wx.sum(0)
    yy = (wy * y).sum(0) + ridge * mass
    xx = (wx * x).sum(0) + ridge * mass
    yx = (wy * x).sum(0)
    v, yv, xv = ((w * values).sum(0) for w in (weight, wy, wx))
    # Elimination with the constant last; p, q: the row of the inverse that gives the constant.
    det = np.maximum(yy * xx - yx * yx, TINY)
    p, q = (yx * x0 - xx * y0) / det, (yx * y0 - yy * x0) / det
    rest = np.maximum(mass + p * y0 + q * x0, TINY)
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
