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
Kernel regression by brute force: numpy, float64, one pixel at a time, from the formulas.

Shares nothing with the package. v = (dy, dx) runs from pixel to sample and
q = C11 dy^2 + 2 C12 dy dx + C22 dx^2.
"""
import numpy as np


def reflections(x, last, reach):
    """Return the positions that np.pad(mode='reflect') gives to position `x` of 0..last."""
    if last == 0 or not 0 <= x <= last:  # what lies outside the image is not reflected
        return [x]
    found = {x}
    for turn in range(-int(reach), int(reach) + 1):
        found.update((2 * last * turn + x, 2 * last * turn - x))
    return sorted(p for p in found if -reach <= p <= last + reach)


def mirrored(uv, size, window):
    """Return the positions (M, 2) of samples and reflections, and whose each is (M,)."""
    places = [(u, v, i) for i, (x, y) in enumerate(uv)
              for v in reflections(y, size[0] - 1, window[0])
              for u in reflections(x, size[1] - 1, window[1])]
    return np.array([p[:2] for p in places]), np.array([p[2] for p in places])


def log_weight(v, steering, bandwidth, profile):
    """Logarithm of |gamma| times the profile, for offsets v (M, 2: dy, dx)."""
    sigma, theta, gamma = steering.T
    if profile == 'tanh':
        sigma = sigma + 1e-5
    s, c = np.sin(theta), np.cos(theta)
    c11 = gamma * (sigma * c * c + s * s / sigma)
    c22 = gamma * (sigma * s * s + c * c / sigma)
    c12 = gamma * (1 / sigma - (1 if profile == 'tanh' else sigma)) * s * c
    dy, dx = v.T
    t = -(c11 * dy ** 2 + 2 * c12 * dy * dx + c22 * dx ** 2) / (2 * bandwidth ** 2)
    return np.log(np.abs(gamma)) + (2 * np.tanh(t) if profile == 'tanh' else t)


def nearest(v, neighbours, sectors):
    """Taper (M,) and local spacing of the `neighbours` nearest of the offsets v (M, 2)."""
    dy, dx = v.T
    sector = np.zeros(len(v), int)
    if sectors > 1:
        sector = 2 * (dy >= 0) + (dx >= 0)
    if sectors == 8:
        sector = sector + 4 * (np.abs(dy) > np.abs(dx))
    distance, each = np.hypot(dy, dx), neighbours // sectors
    taper, radii = np.zeros(len(v)), []
    for s in range(sectors):
        mine = np.flatnonzero(sector == s)
        mine = mine[np.argsort(distance[mine])][:each]
        if len(mine) == 0:
            continue
        radii.append(distance[mine[-1]])
        t = distance[mine] / radii[-1] if len(mine) == each and radii[-1] > 0 else 0. * mine
        taper[mine] = (1 - t ** 4) ** 2
    with np.errstate(divide='ignore'):
        spacing = np.exp(np.mean(np.log(radii))) * np.sqrt(np.pi / neighbours)
    return taper, max(spacing, 0.5)


def estimate(pixel, uv, values, steering, size, bandwidth, order, profile='gaussian',
             border='none', window=(26, 34), neighbours=None, sectors=1, guide=None,
             guide_at_samples=None, ridge=0., aspect=1.):
    """
    Evaluate one pixel (y, x).

    Returns the value, the mass, and the condition number of the normal matrix in coordinates
    scaled by the window (or the local spacing); infinite where the samples do not carry a fit.
    """
    index = np.arange(len(uv))
    if border == 'mirror':
        uv, index = mirrored(uv, size, window)
    v = uv[:, ::-1] - np.asarray(pixel, float)
    if neighbours is None:
        keep = (np.abs(v) <= window).all(1)
        v, index = v[keep], index[keep]
        scaled, taper = v / np.maximum(window, 1), 1.
        kernel_v = v
    else:
        v = v / (aspect, 1.)
        taper, spacing = nearest(v, neighbours, sectors)
        keep = taper > 0
        scaled = kernel_v = v[keep] / spacing
        taper, index = taper[keep], index[keep]
    if len(index) == 0:
        return np.nan, 0., np.inf
    h = bandwidth[index] if np.ndim(bandwidth) else bandwidth
    log_w = log_weight(kernel_v, steering[index], h, profile)
    if guide is not None:
        log_w = log_w - ((guide - guide_at_samples[index]) ** 2).sum(1) / 2
    mass = (np.exp(log_w) * taper).sum()
    w = np.exp(log_w - log_w.max()) * taper
    y, x = scaled.T
    basis = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x][:(1, 3, 6)[order]], 1)
    normal = basis.T @ (w[:, None] * basis)
    normal += np.diag([0.] + [ridge * w.sum()] * (basis.shape[1] - 1))
    condition = np.linalg.cond(normal)
    if not condition < 1e13:
        return np.nan, mass, np.inf
    return np.linalg.solve(normal, basis.T @ (w * values[index]))[0], mass, condition
