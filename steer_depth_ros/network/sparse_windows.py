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
D~ of the 2021 release where a window holds too few samples to fit a quadric.

The operator falls back to a plane or a mean there. The release inverts the singular normal matrix
by SVD without singular values up to 1e-5: this is the minimum-norm solution, whose constant term,
the depth, is close to 0. The refinement of the release was trained on these values.
"""
import torch
from torch.nn import functional

# A quadric has 6 coefficients, but mirror images of a sample add fewer constraints than samples.
MIN_SAMPLES = 16
MAX_DROPPED_SINGULAR_VALUE = 1e-5
SIGMA_OFFSET = 1e-5
PIXELS_PER_BATCH = 512  # in row order, so that they share most of their samples


def fit_sparse_windows(dense, pixel, depth, steering, valid, bandwidth, window):
    """
    Return dense (B, H, W) with the values of the release where a window holds 1 to 15 samples.

    pixel: int64 (B, N), distinct flat indices. depth: (B, N). steering: (B, N, 3). valid:
    bool (B, N) or None. bandwidth, window: as in the operator.
    """
    result = []
    for b, image in enumerate(dense):
        used = slice(None) if valid is None else valid[b]
        result.append(_fit(image, pixel[b][used], depth[b][used], steering[b][used], bandwidth,
                           window))
    return torch.stack(result)


def _fit(image, pixel, depth, steering, bandwidth, window):
    sample_map = _mirrored_sample_map(image.shape, pixel, window)
    counts = (sample_map >= 0).float()[None]
    for kernel in ((2 * window[0] + 1, 1), (1, 2 * window[1] + 1)):
        counts = functional.avg_pool2d(counts, kernel, stride=1, divisor_override=1)
    sparse = (counts[0] > 0) & (counts[0] < MIN_SAMPLES)
    sparse.view(-1)[pixel] = False  # sampled pixels keep their measurement
    if not sparse.any():
        return image
    samples = (sample_map >= 0).nonzero() - torch.tensor(window, device=image.device)
    index = sample_map[sample_map >= 0]
    values = []
    for part in sparse.nonzero().split(PIXELS_PER_BATCH):
        near = ((samples[:, 0] >= part[0, 0] - window[0])
                & (samples[:, 0] <= part[-1, 0] + window[0]))
        values.append(_solve(part, samples[near], index[near], depth, steering, bandwidth, window))
    return image.masked_scatter(sparse, torch.cat(values).to(image.dtype))


def _mirrored_sample_map(size, pixel, window):
    """Return the sample index of every pixel, -1 for none, mirrored at the border by `window`."""
    sample_map = torch.full(size, -1, dtype=torch.long, device=pixel.device)
    sample_map.view(-1)[pixel] = torch.arange(len(pixel), device=pixel.device)
    for axis, (length, reach) in enumerate(zip(size, window)):
        around = torch.arange(-reach, length + reach, device=pixel.device)
        period = 2 * (length - 1)
        sample_map = sample_map.index_select(axis, torch.minimum(around % period,
                                                                 -around % period))
    return sample_map


def _solve(pixels, samples, index, depth, steering, bandwidth, window):
    """Return the constant term at `pixels` (P, 2) from samples (M, 2) with indices (M,)."""
    offset = samples[None] - pixels[:, None]
    inside = (offset.abs() <= torch.tensor(window, device=pixels.device)).all(2)
    count = min(MIN_SAMPLES - 1, len(samples))
    inside, chosen = inside.to(torch.uint8).topk(count)
    dy, dx = offset.gather(1, chosen[..., None].expand(-1, -1, 2)).double().unbind(2)
    sigma, theta, gamma = steering[index[chosen]].double().unbind(2)
    weight = inside * _weight(dy, dx, sigma + SIGMA_OFFSET, theta, gamma, bandwidth)
    basis = torch.stack([torch.ones_like(dy), dy, dx, dy * dy, dy * dx, dx * dx], 2)
    weighted = basis * weight[..., None]
    inverse = torch.linalg.pinv(weighted.mT @ basis, atol=MAX_DROPPED_SINGULAR_VALUE, rtol=0.0,
                                hermitian=True)
    return (inverse[:, :1] @ (weighted.mT @ depth[index[chosen]].double()[..., None]))[:, 0, 0]


def _weight(dy, dx, sigma, theta, gamma, bandwidth):
    sin, cos = theta.sin(), theta.cos()
    q = gamma * ((sigma * cos * cos + sin * sin / sigma) * dy * dy
                 + 2 * (1 / sigma - 1) * sin * cos * dy * dx
                 + (sigma * sin * sin + cos * cos / sigma) * dx * dx)
    return gamma.abs() * torch.exp(2 * torch.tanh(-q / (2 * bandwidth ** 2)))
