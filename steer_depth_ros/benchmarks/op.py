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
"""Speed of the operator, both directions, every backend, against plain torch in the same run."""
import argparse
import json
import math
from pathlib import Path

import torch

from steer_depth_ros.benchmarks import machine
from steer_depth_ros.ops import describe_backend, kernel_regression, native, twin

WINDOW = (26, 34)
CASES = {'304x228, 500': ((228, 304), 500), '640x480, 5,000': ((480, 640), 5_000),
         '1216x352, 20,000': ((352, 1216), 20_000), '1920x1200, 60,000': ((1200, 1920), 60_000)}
QUICK = {'96x64, 200': ((64, 96), 200)}
# Operations of the code, an exponential counted as one: a pair's, and a pixel's solve.
FLOP_PER_PAIR, FLOP_PER_PIXEL = (18, 32, 61), (1, 30, 200)
TWIN_TILES = (16, 32, 64)
# Plain torch keeps some hundred numbers a pair for its gradient, so it gets the image in bands.
TWIN_BYTES_PER_PAIR, TWIN_BYTES = 600, 1e9
FEATURES, NEIGHBOURS = 8, 16
SWEEP = (5_000, 10_000, 20_000, 40_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `steer_depth bench op`."""
    parser.add_argument('--quick', action='store_true', help='a small case only, in seconds')
    parser.add_argument('--twin-seconds', type=float, default=20., metavar='S',
                        help='plain torch is measured where a pass takes less (default 20)')
    parser.add_argument('--json', type=Path, help='write the figures to this file')


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the report."""
    report = measure(QUICK if args.quick else CASES, (100, 200) if args.quick else SWEEP,
                     args.twin_seconds)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + '\n')
    return 0


def measure(cases: dict, sweep: tuple, twin_seconds: float) -> dict:
    """Return the report as one dictionary; prints as it goes."""
    report = {'machine': machine.describe(), 'window': WINDOW, 'backends': {}}
    print(', '.join(f'{k} {v}' for k, v in report['machine'].items()))
    devices = ['cpu'] + ['cuda'] * (torch.cuda.is_available() and native.load('cuda') is not None)
    for device in devices:
        peak = machine.peak_gflops(device)
        print(f'\n{describe_backend(device)}: peak of a float32 matrix product {peak:.0f} GFLOP/s')
        print(f'{"case":<20}order  forward ms  share   twin ms  ratio'
              ' | backward ms   twin ms  ratio')
        found = {'backend': describe_backend(device), 'peak_gflops': peak, 'window': [],
                 'neighbours': []}
        report['backends'][device] = found
        twin_rate = 0.
        for name, (size, count) in cases.items():
            pairs = count_pairs(scene(size, count)['uv'][0], size)
            use_twin = twin_rate * pairs < twin_seconds * 1e3
            rows = window_case(name, size, count, pairs, peak, device, use_twin)
            found['window'] += rows
            if use_twin:
                twin_rate = rows[1]['twin_forward_ms'] / pairs
        size, count = (cases.get('1216x352, 20,000') or next(iter(cases.values())))
        found['neighbours'] = [neighbours_case(size, count, sectors, device)
                               for sectors in (1, 4, 8)]
        found['exponent'] = exponent(size, sweep, device)
        print(f'cost grows with the pairs to the power of {found["exponent"]:.2f} (order 1, '
              f'{size[1]}x{size[0]}, {sweep[0]:,} to {sweep[-1]:,} samples)')
    return report


def scene(size, count, features=0, device='cpu'):
    """Return the tensors of a call: samples anywhere, kernels of a plausible range."""
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
        total = total * (high - low + 1)
    return int(total.double().sum())


def window_case(name, size, count, pairs, peak, device, use_twin):
    """Measure all orders; return the rows."""
    rows = []
    data = scene(size, count, device=device)
    bandwidth = torch.tensor(5., device=device)

    def own(order, **data):
        return kernel_regression(size=size, order=order, window=WINDOW, **data)

    tile = best_tile(data, size, bandwidth, device) if use_twin else None

    for order in (0, 1, 2):
        forward, backward = both_directions(own, data, order, device)
        flop = pairs * FLOP_PER_PAIR[order] + size[0] * size[1] * FLOP_PER_PIXEL[order]
        row = {'case': name, 'order': order, 'pairs': pairs, 'forward_ms': forward,
               'backward_ms': backward, 'share_of_peak': flop / forward / 1e6 / peak}
        if use_twin:
            row['twin_tile'] = tile
            row['twin_forward_ms'], row['twin_backward_ms'] = twin_directions(
                data, size, order, bandwidth, tile, pairs, device)
        rows.append(row)
        print(table_row(row))
    return rows


def table_row(row):
    """Format a row of the table."""
    def against(ms, twin_ms):
        return f'{twin_ms:9.1f}{twin_ms / ms:6.0f}x' if twin_ms else f'{"-":>9}{"-":>7}'

    return (f'{row["case"]:<20}{row["order"]:5}{row["forward_ms"]:12.2f}'
            f'{row["share_of_peak"]:7.0%}{against(row["forward_ms"], row.get("twin_forward_ms"))}'
            f' |{row["backward_ms"]:12.2f} '
            f'{against(row["backward_ms"], row.get("twin_backward_ms"))}')


def both_directions(function, data, order, device):
    """Return the milliseconds of the forward and of the backward pass alone."""
    forward = machine.median_ms(lambda: function(order, **data), device)
    wanted = {k: data[k].clone().requires_grad_() for k in data if k != 'uv'}
    dense, mass = function(order, **{**data, **wanted})
    loss = dense.nan_to_num().sum() + mass.sum()
    backward = machine.median_ms(
        lambda: torch.autograd.grad(loss, list(wanted.values()), retain_graph=True), device)
    return forward, backward


def twin_directions(data, size, order, bandwidth, tile, pairs, device):
    """Return the twin's milliseconds, forward and backward; the latter band by band, once."""
    def plain(data, size):
        return twin.kernel_regression(size=size, order=order, window=WINDOW, bandwidth=bandwidth,
                                      tile=tile, **data)

    forward = machine.median_ms(lambda: plain(data, size), device, runs=3)
    rows = max(1, int(size[0] * min(1., TWIN_BYTES / (pairs * TWIN_BYTES_PER_PAIR))))
    backward = 0.
    for top in range(0, size[0], rows):
        wanted = {k: v.clone().requires_grad_() for k, v in data.items() if k != 'uv'}
        dense, mass = plain({**wanted, 'uv': data['uv'] - data['uv'].new_tensor([0., top])},
                            (min(rows, size[0] - top), size[1]))
        loss = dense.nan_to_num().sum() + mass.sum()
        backward += machine.once_ms(
            lambda loss=loss, wanted=wanted: torch.autograd.grad(loss, list(wanted.values())),
            device)
    return forward, backward


def best_tile(data, size, bandwidth, device):
    """Find the tile size at which the twin is fastest."""
    times = {tile: machine.once_ms(lambda tile=tile: twin.kernel_regression(
        size=size, order=1, window=WINDOW, bandwidth=bandwidth, tile=tile, **data), device)
        for tile in TWIN_TILES}
    return min(times, key=times.get)


def neighbours_case(size, count, sectors, device):
    """Measure the nearest samples with guide features, search included."""
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
    """Fit milliseconds ~ pairs ** exponent over numbers of samples."""
    points = []
    for count in sweep:
        data = scene(size, count, device=device)
        ms = machine.median_ms(
            lambda d=data: kernel_regression(size=size, order=1, window=WINDOW, **d), device)
        points.append((math.log(count_pairs(data['uv'][0].cpu(), size)), math.log(ms)))
    x, y = torch.tensor(points, dtype=torch.float64).T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())
