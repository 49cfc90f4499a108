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
The operator in plain torch: the specification that the native backends are tested against.

Any device, float32 or float64, differentiable by autograd. Pixels are worked off in tiles, each
against the samples that can reach it; that is the fastest form in plain torch that was found.
"""
import math

import torch

PIVOT_TOLERANCE = 2e-5
TANH_SIGMA_OFFSET = 1e-5
SMALLEST_SPACING = 0.5
# Exponents of (dy, dx) of the basis; the constant stands last, so elimination alone gives it.
BASIS = {0: ((0, 0),),
         1: ((1, 0), (0, 1), (0, 0)),
         2: ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (0, 0))}


def kernel_regression(uv, values, steering, size, valid=None, guide=None, guide_at_samples=None,
                      bandwidth=None, window=(26, 34), neighbours=None, sectors=1, order=2,
                      profile='gaussian', border='none', ridge=None, aspect=1.0, tile=32):
    """
    Evaluate the kernel regression; arguments as `steer_depth_ros.ops.kernel_regression`.

    `bandwidth` and `ridge` are tensors here: of shape (), (B, N) or (B, H, W).
    """
    rows = []
    for b in range(uv.shape[0]):
        keep = slice(None) if valid is None else valid[b].nonzero()[:, 0]
        per_sample = bandwidth[b][keep] if bandwidth.dim() == 2 else None
        samples = _Samples(uv[b][keep], values[b][keep], steering[b][keep], per_sample,
                           None if guide is None else guide_at_samples[b][keep])
        if border == 'mirror':
            samples = samples.mirrored(size, window)
        rows.append(_image(samples, size, None if guide is None else guide[b],
                           bandwidth if bandwidth.dim() == 0 else
                           bandwidth[b] if bandwidth.dim() == 3 else None,
                           ridge if ridge is None or ridge.dim() == 0 else ridge[b],
                           window, neighbours, sectors, order, profile, aspect, tile))
    dense, mass = zip(*rows)
    return torch.stack(dense), torch.stack(mass)


class _Samples:
    """The samples of one image: uv (N, 2), values (N,), steering (N, 3), and what goes along."""

    def __init__(self, uv, values, steering, bandwidth, guide):
        self.uv, self.values, self.steering = uv, values, steering
        self.bandwidth, self.guide = bandwidth, guide

    def __getitem__(self, index):
        return _Samples(*(None if t is None else t[index] for t in (
            self.uv, self.values, self.steering, self.bandwidth, self.guide)))

    def mirrored(self, size, window):
        """
        Add the reflections over the border, without repeating the edge row.

        They go on as far as the window reaches; samples outside the image are not reflected.
        """
        last = self.uv.new_tensor([size[1] - 1, size[0] - 1])
        reach = self.uv.new_tensor([window[1], window[0]])
        index, uv = torch.arange(len(self.uv), device=self.uv.device), self.uv
        for axis in (0, 1):
            end = size[1 - axis] - 1
            turns = window[1 - axis] // (2 * end) + 1 if end else -1
            x = uv[:, axis]
            inside, between = (x >= 0) & (x <= end), (x > 0) & (x < end)
            images = [(torch.ones_like(inside), x)]
            for k in range(-turns, turns + 1):
                if k:
                    images.append((inside, 2 * k * end + x))
                images.append((between, 2 * k * end - x))
            at = torch.cat([taken.nonzero()[:, 0] for taken, _ in images])
            moved = torch.cat([image[taken] for taken, image in images])
            index, uv = index[at], uv[at].clone()
            uv[:, axis] = moved
        near = ((uv >= -reach) & (uv <= last + reach)).all(1)
        result = self[index[near]]
        result.uv = uv[near]
        return result


def _image(samples, size, guide, bandwidth, ridge, window, neighbours, sectors, order, profile,
           aspect, tile):
    height, width = size
    uv, bands = samples.uv, []
    for top in range(0, height, tile):
        band = []
        for left in range(0, width, tile):
            y = torch.arange(top, min(top + tile, height), dtype=uv.dtype, device=uv.device)
            x = torch.arange(left, min(left + tile, width), dtype=uv.dtype, device=uv.device)
            here = (slice(top, top + tile), slice(left, left + tile))
            candidates = samples
            if neighbours is None:
                near = ((uv[:, 1] >= top - window[0]) & (uv[:, 1] <= y[-1] + window[0])
                        & (uv[:, 0] >= left - window[1]) & (uv[:, 0] <= x[-1] + window[1]))
                candidates = samples[near.nonzero()[:, 0]]
            pixel = torch.stack([t.reshape(-1) for t in torch.meshgrid(y, x, indexing='ij')], 1)
            per_pixel = [None if t is None else t if t.dim() == 0 else t[here].reshape(-1, 1)
                         for t in (bandwidth, ridge)]
            g = None if guide is None else guide[:, here[0], here[1]].reshape(len(guide), -1).T
            d, m = _pixels(pixel, candidates, g, *per_pixel, window, neighbours, sectors, order,
                           profile, aspect)
            band.append((d.reshape(len(y), len(x)), m.reshape(len(y), len(x))))
        bands.append([torch.cat(parts, 1) for parts in zip(*band)])
    return [torch.cat(parts, 0) for parts in zip(*bands)]


def _pixels(pixel, samples, guide, bandwidth, ridge, window, neighbours, sectors, order, profile,
            aspect):
    """Dense value and mass at P pixels (P, 2: y, x) from N candidate samples."""
    count = len(samples.uv)
    empty = pixel.new_full((len(pixel),), 0. if profile == 'tanh' else math.nan)
    if count == 0:
        return empty, torch.zeros_like(empty)
    dy = samples.uv[None, :, 1] - pixel[:, :1]
    dx = samples.uv[None, :, 0] - pixel[:, 1:]
    if neighbours is None:
        inside = (dy.abs() <= window[0]) & (dx.abs() <= window[1])
        keep = inside.to(dy.dtype)
        y, x = dy / max(window[0], 1), dx / max(window[1], 1)
        kernel_y, kernel_x = dy, dx
    else:
        dy = dy / aspect
        keep, spacing = _neighbours(dy, dx, neighbours, sectors)
        y, x = dy / spacing, dx / spacing
        kernel_y, kernel_x = y, x

    sigma, theta, gamma = samples.steering.unbind(1)
    if profile == 'tanh':
        sigma = sigma + TANH_SIGMA_OFFSET
    cos, sin = theta.cos(), theta.sin()
    cross = 1 / sigma - 1 if profile == 'tanh' else 1 / sigma - sigma
    q = (gamma * (sigma * cos ** 2 + sin ** 2 / sigma) * kernel_y ** 2
         + 2 * gamma * cross * sin * cos * kernel_y * kernel_x
         + gamma * (sigma * sin ** 2 + cos ** 2 / sigma) * kernel_x ** 2)
    h = samples.bandwidth if samples.bandwidth is not None else bandwidth
    exponent = -q / (2 * h ** 2)
    if profile == 'tanh':
        exponent = 2 * exponent.tanh()
    if guide is not None:
        exponent = exponent - (guide[:, None] - samples.guide[None]).pow(2).sum(-1) / 2

    # Weights relative to the largest one, so that none that matters underflows.
    shift = torch.where(keep * gamma.abs() > 0, exponent, -math.inf).detach().amax(1)
    shift = torch.where(shift.isfinite(), shift, torch.zeros_like(shift))
    weight = torch.where(keep > 0, (exponent - shift[:, None]).clamp(max=80), -math.inf).exp()
    weight = weight * keep * gamma.abs()
    reference = samples.values[:1].detach()
    dense = _fit(weight, y, x, samples.values - reference, ridge, order) + reference
    mass = weight.sum(1) * shift.exp()
    some = weight.sum(1) > 0
    return torch.where(some, dense, empty), torch.where(some, mass, torch.zeros_like(mass))


def _neighbours(dy, dx, neighbours, sectors):
    """Taper (P, N) and local spacing (P, 1) of the `neighbours` nearest, shared by sector."""
    each = neighbours // sectors
    distance2 = dy ** 2 + dx ** 2
    sector = (dy >= 0).long() * 2 + (dx >= 0).long()
    if sectors == 8:
        sector = sector + (dy.abs() > dx.abs()).long() * 4
    keep = torch.zeros_like(distance2)
    logs, filled = 0, 0
    for s in range(sectors):
        mine = torch.ones_like(sector, dtype=torch.bool) if sectors == 1 else sector == s
        inside = torch.where(mine, distance2, math.inf)
        ranked = inside.topk(min(each, inside.shape[1]), dim=1, largest=False).values
        full = ranked[:, -1:].isfinite() & (ranked.shape[1] == each)
        # With fewer samples than asked for there is no K-th to taper to.
        radius2 = torch.where(full, ranked[:, -1:],
                              torch.where(ranked.isfinite(), ranked, -1.).amax(1, keepdim=True))
        t = torch.where(full, inside / radius2.clamp(min=1e-12), 0.)
        keep = keep + torch.where(mine, (1 - t ** 2).clamp(min=0) ** 2, 0.)
        some = radius2 >= 0
        logs = logs + torch.where(some, radius2, 1.).log() / 2
        filled = filled + some.to(dy.dtype)
    spacing = (logs / filled).exp() * math.sqrt(math.pi / neighbours)
    return keep, spacing.clamp(min=SMALLEST_SPACING)


def _fit(weight, y, x, values, ridge, order):
    """
    Solve the weighted least squares; the constant term of the highest order that is sound.

    Symmetric elimination with the constant last. A pivot at or under PIVOT_TOLERANCE of its
    diagonal entry ends the fit at the order below (2 -> 1 -> 0).
    """
    basis = BASIS[order]
    last = len(basis) - 1
    mass = weight.sum(1)
    safe_mass = torch.where(mass > 0, mass, torch.ones_like(mass))
    estimate = (weight * values).sum(1) / safe_mass
    if order == 0:
        return estimate
    phi = [y ** a * x ** b for a, b in basis]
    weighted = [weight * f for f in phi]
    a = {(i, j): (weighted[i] * phi[j]).sum(1)
         for i in range(last + 1) for j in range(i, last + 1)}
    b = [(w * values).sum(1) for w in weighted]
    if ridge is not None:
        for k in range(last):
            a[k, k] = a[k, k] + ridge.reshape(-1) * mass
    diagonal = [a[k, k] for k in range(last)]
    good = mass > 0
    for k in range(last):
        sound = a[k, k] > PIVOT_TOLERANCE * diagonal[k]
        good = good & sound
        pivot = torch.where(sound, a[k, k], torch.ones_like(mass))
        for i in range(k + 1, last + 1):
            factor = a[k, i] / pivot
            for j in range(i, last + 1):
                a[i, j] = a[i, j] - factor * a[k, j]
            b[i] = b[i] - factor * b[k]
        if k in (1, last - 1):  # a fit of order 1 or 2 is complete
            accept = good & (a[last, last] > PIVOT_TOLERANCE * mass)
            constant = b[last] / torch.where(accept, a[last, last], torch.ones_like(mass))
            estimate = torch.where(accept, constant, estimate)
    return estimate
