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
Leave-one-out tuning in plain torch, for any device and float type: the specification.

What cannot be predicted, or must not be relied on, keeps its place and weighs nothing: no shape
depends on the data, and nothing is read back from a GPU.
"""
import math

import torch

EPS = 1e-12  # what is divided by, at least
FAR = 1e25  # the quadratic form of what does not count


def find_neighbors(uv, queries, at, count, aspect, line_gap):
    """Do what `leave_one_out.find_neighbors` does; or `nearest_samples`, without queries."""
    scale = uv.new_tensor([1, 1 / aspect])
    at = uv[queries] if at is None else at
    distance = far = torch.cdist(at * scale, uv * scale,
                                 compute_mode='donot_use_mm_for_euclid_dist')
    if queries is not None:
        itself = torch.arange(len(uv), device=uv.device) == queries[:, None]
        same_line = (uv[:, 1] - at[:, 1:]).abs() < line_gap
        distance = torch.where(itself | same_line, math.inf, far)
    distance, near = distance.sort(stable=True)
    missing = max(count - len(uv), 0)
    distance = torch.nn.functional.pad(distance[:, :count], (0, missing), value=math.inf)
    near = torch.nn.functional.pad(near[:, :count], (0, missing))
    nearer = (far < distance[:, -1:]).sum(1)
    known = distance[:, -1].isfinite() & (nearer < 3 * count)
    return (torch.where(known[:, None], near, 0).T.contiguous(),
            torch.where(known[:, None], distance, 1.0).T.contiguous(), known)


class Twin:
    """The predictions of a `leave_one_out.LeaveOneOut`, and settings (6,) that make them good."""

    def __init__(self, problem):
        p, self.c, self.known = problem, problem.constants, problem.known
        queries, near, distance, _ = p.neighbors
        relied_on = torch.ones_like(distance) if p.rejected is None else ~p.rejected[near]
        radius = distance[-1]
        offset = p.uv[near] - p.uv[queries]
        rows, columns = offset[..., 1] / self.c.aspect, offset[..., 0]
        self.values, self.target = p.inverse[near], p.target
        self.range = p.inverse.min(), p.inverse.max()
        self.taper = _taper(distance, radius) * p.kernels[near, 2] * relied_on
        spacing = _spacing(radius, len(near), 0.5)
        self.y, self.x = rows / spacing, columns / spacing
        nearest = offset.square().sum(2).amin(0).sqrt()
        form = _quadratic_form(p.kernels[near], self.y, self.x)
        # The largest exponent is to be that of a sample which counts.
        form = torch.where(self.taper > 0, form, FAR)
        self.form = form / self._bandwidth_at(nearest).square()
        guide = p.guide
        if guide is None:
            guide = self._coarse_estimate(rows, columns, distance, relied_on)
        self.guide = guide.clamp(*self.range)
        apart = (self.values.log() - self.guide.log()) / self.c.depth_step
        color = (p.colors[near] - p.colors[queries]).permute(2, 0, 1)
        self.features = torch.cat([color, apart[None]]).square()

    def predict(self, settings):
        """Return inverse depth of the samples, (Q,), within the range of all samples."""
        factors = settings.exp()
        exponent = torch.tensordot(-0.5 / factors[:4].square(), self.features, 1)
        exponent = exponent - 0.5 / factors[4].square() * self.form
        weight = (exponent - exponent.amax(0)).exp() * self.taper
        return _plane(weight, self.y, self.x, self.values, self.c.ridge * factors[5]).clamp(
            *self.range)

    def loss(self, settings):
        """Return the logarithm of the error, between its mean and its root mean square."""
        error = (self.predict(settings).log() - self.target).abs().clamp(max=self.c.max_error)
        error, count = torch.where(self.known, error, 0.0), self.known.sum().clamp(min=1)
        mean, square = error.sum() / count + 1e-4, error.square().sum() / count + 1e-7
        return (mean.log() + square.log() / 2) / 2

    def tune(self, settings):
        """Return better settings than these, by some steps of Adam; zeros where none is known."""
        c, gradient_of = self.c, torch.func.grad(self.loss)
        mean, square, total = torch.zeros_like(settings.expand(3, -1))
        decay, decay_square = 1 - c.newest, 1 - c.newest_square
        for step in range(1, c.steps + 1):
            gradient = gradient_of(settings) + 2 * c.prior * settings
            mean = mean + (1 - decay) * (gradient - mean)
            square = square + (1 - decay_square) * (gradient.square() - square)
            change = mean / (1 - decay ** step) / (
                (square / (1 - decay_square ** step)).sqrt() + 1e-8)
            settings = settings - c.rate * change
            if step > c.steps - c.averaged:
                total = total + settings / c.averaged
        return torch.where(self.known.any(), total, 0.0)

    def _bandwidth_at(self, distance):
        c = self.c
        factor = c.bandwidth_at_sample + (1 - c.bandwidth_at_sample) / c.bandwidth_distance \
            * distance
        return c.bandwidth * factor.clamp(c.bandwidth_at_sample, c.bandwidth_far)

    def _coarse_estimate(self, rows, columns, distance, relied_on):
        """Return what the coarse estimate would say without the sample, (Q,)."""
        count = min(self.c.coarse_neighbors, len(distance))
        radius = distance[count - 1]
        spacing = _spacing(radius, count, 1.0)  # half a pixel of half the resolution
        y, x = rows[:count] / spacing, columns[:count] / spacing
        weight = ((y * y + x * x) * (-0.5 / self.c.bandwidth ** 2)).exp()
        weight = weight * _taper(distance[:count], radius) * relied_on[:count]
        return _plane(weight, y, x, self.values[:count], self.c.ridge)


def _spacing(radius, count, least):
    return (radius * math.sqrt(math.pi / count)).clamp(min=least)


def _taper(distance, radius):
    share = distance / radius.clamp(min=EPS)
    return (1 - share.clamp(max=1).square().square()).square()


def _quadratic_form(kernels, y, x):
    """Return that of (K, Q, 3) kernels, as the operator has it."""
    sigma, theta, gamma = kernels.unbind(2)
    cos, sin = theta.cos(), theta.sin()
    return gamma * ((sigma * cos ** 2 + sin ** 2 / sigma) * y ** 2
                    + 2 * (1 / sigma - sigma) * sin * cos * y * x
                    + (sigma * sin ** 2 + cos ** 2 / sigma) * x ** 2)


def _plane(weight, y, x, values, ridge):
    """Fit planes to (K, Q) values by weighted least squares; return their constants (Q,)."""
    weight = weight / weight.sum(0).clamp(min=EPS)
    wy, wx = weight * y, weight * x
    mass, y0, x0 = weight.sum(0), wy.sum(0), wx.sum(0)
    yy, xx, yx = (wy * y).sum(0), (wx * x).sum(0), (wy * x).sum(0)
    yy, xx = yy + ridge * mass, xx + ridge * mass
    v, yv, xv = ((each * values).sum(0) for each in (weight, wy, wx))
    # Elimination with the constant last; p, q: the row of the inverse that gives the constant.
    det = (yy * xx - yx * yx).clamp(min=EPS)
    p, q = (yx * x0 - xx * y0) / det, (yx * y0 - yy * x0) / det
    return (v + p * yv + q * xv) / (mass + p * y0 + q * x0).clamp(min=EPS)
