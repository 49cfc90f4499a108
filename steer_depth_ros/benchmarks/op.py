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
Speed of the operator, forward and backward, on every backend, compared with plain torch.

Plain torch processes the image in tiles of the size at which it is fastest on this machine. Its
gradients are computed per tile too, because they need some hundred bytes per pair.
"""
import argparse
import math
import random
import time

import torch

from steer_depth_ros.benchmarks import machine
from steer_depth_ros.commands.options import write_json
from steer_depth_ros.ops import describe_backend, kernel_regression, native, regression_torch

WINDOW = (26, 34)
CASES = {'304x228, 500': ((228, 304), 500), '640x480, 5,000': ((480, 640), 5_000),
         '1216x352, 20,000': ((352, 1216), 20_000), '1920x1200, 60,000': ((1200, 1920), 60_000)}
QUICK = {'96x64, 200': ((64, 96), 200)}
# Floating point operations in the code per pair, and per pixel for the solve, for orders 0 to 2;
# an exponential counts as one. The backward pass recomputes the sums.
FLOP_PER_PAIR, FLOP_PER_PIXEL = (18, 32, 61), (1, 30, 200)
BACKWARD_FLOP_PER_PAIR, BACKWARD_FLOP_PER_PIXEL = (55, 77, 122), (10, 60, 300)
TORCH_TILES = (16, 32, 64)
FEATURES, NEIGHBOURS = 8, 16
SWEEP = (5_000, 10_000, 20_000, 40_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `steer_depth bench op`."""
    parser.add_argument('--quick', action='store_true', help='only a small case, in seconds')
    parser.add_argument('--twin-seconds', type=float, default=10., metavar='S',
                        help='time limit for plain torch per case and order (default 10); '
                        'figures beyond it are extrapolated by the number of pairs and marked')
    parser.add_argument('--json', help='write the figures to this file')


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the report."""
    write_json(args.json, measure(QUICK if args.quick else CASES,
                                  (100, 200) if args.quick else SWEEP, args.twin_seconds))
    return 0


def measure(cases: dict, sweep: tuple, torch_seconds: float) -> dict:
    """Return the report as a dictionary, and print figures as they are measured."""
    report: dict = {'machine': machine.describe(), 'window': WINDOW, 'backends': {}}
    print(', '.join(f'{k} {v}' for k, v in report['machine'].items()))
    devices = ['cpu'] + ['cuda'] * (torch.cuda.is_available() and native.load('cuda') is not None)
    for device in devices:
        peak = machine.peak_gflops(device)
        print(f'\n{describe_backend(device)}: peak of float32 matrix products {peak:.0f} GFLOP/s')
        print(HEADER)
        found = {'backend': describe_backend(device), 'peak_gflops': peak, 'window': [],
                 'neighbours': []}
        report['backends'][device] = found
        for name, (size, count) in cases.items():
            found['window'] += window_case(name, size, count, peak, device, torch_seconds)
        print('share: fraction of the peak. ~: extrapolated from the tiles measured within '
              f'{torch_seconds:g} s.')
        size, count = (cases.get('1216x352, 20,000') or next(iter(cases.values())))
        found['neighbours'] = [neighbours_case(size, count, sectors, device)
                               for sectors in (1, 4, 8)]
        found['exponent'] = exponent(size, sweep, device)
        print(f'time grows as pairs to the power of {found["exponent"]:.2f} (order 1, '
              f'{size[1]}x{size[0]}, {sweep[0]:,} to {sweep[-1]:,} samples)')
    return report


def scene(size, count, features=0, device='cpu'):
    """Return the tensors of a call, with random samples and kernels in a plausible range."""
    g = torch.Generator().manual_seed(0)
    height, width = size

    def rand(*shape):
        return torch.rand(*shape, generator=g)

    data = {'uv': rand(1, count, 2) * torch.tensor([width - 1., height - 1.]),
            'values': rand(1, count) + 1,
            'steering': torch.stack([rand(1, count) + .5, rand(1, count) * math.tau - math.pi,
                                     rand(1, count) + .5], -1)}
    if features:
        data['guide'] = rand(1, features, height, width) * .6 - .3
        data['guide_at_samples'] = rand(1, count, features) * .6 - .3
    return {k: v.to(device) for k, v in data.items()}


def count_pairs(uv, size):
    """Count the (pixel, sample) pairs within the window."""
    total = 1.
    for axis, reach, end in ((0, WINDOW[1], size[1] - 1), (1, WINDOW[0], size[0] - 1)):
        low = (uv[:, axis] - reach).ceil().clamp(min=0)
        high = (uv[:, axis] + reach).floor().clamp(max=end)
        total = total * (high - low + 1).clamp(min=0)
    return int(total.double().sum())


def window_case(name, size, count, peak, device, torch_seconds):
    """Return the figures of all orders, one row per order."""
    rows = []
    data = scene(size, count, device=device)
    pairs, pixels = count_pairs(data['uv'][0].cpu(), size), size[0] * size[1]
    tile = best_tile(data, size)

    def own(order, **data):
        return kernel_regression(size=size, order=order, window=WINDOW, **data)

    for order in (0, 1, 2):
        forward, backward = both_directions(own, data, order, device)
        torch_forward, torch_backward, measured = torch_directions(data, size, order, tile,
                                                                torch_seconds)
        flop = pairs * FLOP_PER_PAIR[order] + pixels * FLOP_PER_PIXEL[order]
        backward_flop = (pairs * BACKWARD_FLOP_PER_PAIR[order]
                         + pixels * BACKWARD_FLOP_PER_PIXEL[order])
        row = {'case': name, 'order': order, 'pairs': pairs,
               'forward_ms': forward, 'forward_share_of_peak': flop / forward / 1e6 / peak,
               'backward_ms': backward,
               'backward_share_of_peak': backward_flop / backward / 1e6 / peak,
               'twin_forward_ms': torch_forward, 'forward_ratio': torch_forward / forward,
               'twin_backward_ms': torch_backward, 'backward_ratio': torch_backward / backward,
               'twin_tile': tile, 'twin_measured': measured, 'twin_extrapolated': measured < 1}
        rows.append(row)
        print(table_row(row))
    return rows


HEADER = (f'{"case":<20}order | forward ms  share  torch ms  ratio'
          ' | backward ms  share  torch ms  ratio')


def table_row(row):
    """Return a row of the table."""
    about = '~' if row['twin_extrapolated'] else ' '

    def half(name):
        return (f' |{row[name + "_ms"]:{len(name) + 4}.2f}{row[name + "_share_of_peak"]:7.0%}'
                f'{about}{row["twin_" + name + "_ms"]:9.1f}{row[name + "_ratio"]:6.0f}x')

    return f'{row["case"]:<20}{row["order"]:5}' + half('forward') + half('backward')


def both_directions(function, data, order, device):
    """Return the milliseconds of the forward pass and of the backward pass."""
    forward = machine.median_ms(lambda: function(order, **data), device)
    wanted = {k: data[k].clone().requires_grad_() for k in data if k != 'uv'}
    dense, mass = function(order, **{**data, **wanted})
    loss = dense.nan_to_num().sum() + mass.sum()
    backward = machine.median_ms(
        lambda: torch.autograd.grad(loss, list(wanted.values()), retain_graph=True), device)
    return forward, backward


def torch_directions(data, size, order, tile, seconds):
    """
    Return milliseconds of plain torch, forward and backward, and the fraction of pairs measured.

    Tiles are processed in random order, up to three times each, for at most `seconds`. The best
    time per tile is used; the time of tiles not measured is extrapolated from their pairs.
    """
    corners = [(top, left) for top in range(0, size[0], tile) for left in range(0, size[1], tile)]
    random.Random(0).shuffle(corners)
    torch_tile(data, size, order, tile, corners[0])
    best = {}
    started = time.perf_counter()
    for corner in corners * 3:
        found = torch_tile(data, size, order, tile, corner)
        best[corner] = tuple(map(min, found, best.get(corner, found)))
        if time.perf_counter() - started > seconds:
            break
    forward, backward, pairs = map(sum, zip(*best.values()))
    measured = 1. if len(best) == len(corners) else pairs / count_pairs(data['uv'][0].cpu(), size)
    return forward / measured, backward / measured, measured


def torch_tile(data, size, order, tile, corner):
    """Return milliseconds of plain torch on a tile, forward and backward, and its pairs."""
    (top, left), device = corner, data['uv'].device.type
    here = (min(tile, size[0] - top), min(tile, size[1] - left))
    uv = data['uv'] - data['uv'].new_tensor([left, top])
    bandwidth = torch.tensor(5., device=device)

    def plain(data):
        return regression_torch.kernel_regression(
            uv, data['values'], data['steering'], here, window=WINDOW, order=order,
            bandwidth=bandwidth, tile=tile)

    forward = machine.once_ms(lambda: plain(data), device)
    wanted = {k: data[k].clone().requires_grad_() for k in ('values', 'steering')}
    dense, mass = plain(wanted)
    loss = dense.nan_to_num().sum() + mass.sum()
    if not loss.requires_grad:  # no sample reaches this tile
        return forward, 0., 0
    backward = machine.once_ms(
        lambda: torch.autograd.grad(loss, list(wanted.values())), device)
    return forward, backward, count_pairs(uv[0].cpu(), here)


def best_tile(data, size):
    """Return the tile size at which plain torch is fastest, on a block that all sizes divide."""
    block = [min(n, 2 * max(TORCH_TILES)) for n in size]
    torch_tile(data, size, 1, max(TORCH_TILES), (0, 0))

    def milliseconds(tile):
        return sum(torch_tile(data, block, 1, tile, (top, left))[0]
                   for top in range(0, block[0], tile) for left in range(0, block[1], tile))

    return min(TORCH_TILES, key=milliseconds)


def neighbours_case(size, count, sectors, device):
    """Measure the mode with the nearest samples and guide features, including the search."""
    data = scene(size, count, FEATURES, device)

    def own(order, **data):
        return kernel_regression(size=size, order=order, neighbours=NEIGHBOURS, sectors=sectors,
                                 bandwidth=1., **data)

    forward, backward = both_directions(own, data, 1, device)
    print(f'neighbours={NEIGHBOURS} sectors={sectors} order 1, {FEATURES} features, '
          f'{size[1]}x{size[0]}, {count:,} samples: forward {forward:.1f} ms, backward '
          f'{backward:.1f} ms')
    return {'neighbours': NEIGHBOURS, 'sectors': sectors, 'order': 1, 'features': FEATURES,
            'size': size, 'samples': count, 'forward_ms': forward, 'backward_ms': backward}


def exponent(size, sweep, device):
    """Return the exponent of milliseconds ~ pairs ** exponent, fitted over sample counts."""
    points = []
    for count in sweep:
        data = scene(size, count, device=device)
        ms = machine.median_ms(
            lambda d=data: kernel_regression(size=size, order=1, window=WINDOW, **d), device)
        points.append((math.log(count_pairs(data['uv'][0].cpu(), size)), math.log(ms)))
    x, y = torch.tensor(points, dtype=torch.float64).T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())
