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
What the stages of `make gpu` measure on the GPU, each in a process of its own.

Results are lines of JSON in the file that STEER_DEPTH_RESULTS names, written as they are found.
"""
from collections import defaultdict
import ctypes
import json
import os
from pathlib import Path
import statistics
import sys
import tempfile
import time

import torch

from steer_depth_ros.benchmarks import machine, op
from steer_depth_ros.completion.config import CONFIG
from steer_depth_ros.errors import SteerDepthError
from steer_depth_ros.ops import kernel_regression, native
from steer_depth_ros.ops.leave_one_out import Constants, find_neighbors, LeaveOneOut
from steer_depth_ros.ops.surface import surface_step

CASES = {name: case for name, case in op.CASES.items() if '1920' not in name}
ROUNDS, REPLAYS, CALLS = 15, 20, 40
SMALL = (41, 57)
SMALL_MODES = (dict(window=(9, 13), order=2), dict(neighbours=32, sectors=4, aspect=2., order=1),
               dict(window=(9, 13), border='mirror', profile='tanh', order=0),
               dict(neighbours=16, order=2))


def report(**result):
    """Write one result, and show it."""
    print(result, flush=True)
    path = os.environ.get('STEER_DEPTH_RESULTS')
    if path:
        with open(path, 'a') as file:
            file.write(json.dumps(result) + '\n')


def small(device='cuda'):
    """Run all kernels on small cases, forward and backward: work for compute-sanitizer."""
    # Many in one cell take another way through the sorting, in one block and in several.
    cases = [(150, mode, 1.) for mode in SMALL_MODES] + [(0, mode, 1.) for mode in SMALL_MODES]
    cases += [(1500, SMALL_MODES[3], .02), (2600, SMALL_MODES[0], .02)]
    for count, mode, spread in cases:
        data = op.scene(SMALL, count, 9 if count == 150 else 0)
        data['uv'] = data['uv'] * spread
        data['valid'] = torch.arange(count)[None] % 7 != 3
        data = {k: v.to(device) for k, v in data.items()}
        data['bandwidth'] = torch.full((1, *SMALL), 2., device=device)
        wanted = {k: v.requires_grad_() for k, v in data.items() if k not in ('uv', 'valid')}
        dense, mass = kernel_regression(size=SMALL, **data, **mode)
        loss = dense.nan_to_num().sum() + mass.sum()
        torch.autograd.grad(loss, list(wanted.values()))
        report(total=loss.item(), small=f'{count} samples, {mode}')
    uv = torch.rand(300, 2, device=device) * 40
    surface = surface_step(torch.ones(SMALL, device=device), torch.rand(3, *SMALL, device=device),
                           uv, uv[:, 0] + 1, uv[:, 1] > 5, 4, CONFIG)
    report(total=surface.sum().item(), small='surface step')
    neighbors = find_neighbors(uv, torch.arange(0, 300, 5, device=device), 16, 1.5, 2.0)
    tuned = LeaveOneOut(uv, uv[:, 0] + 1, torch.rand(300, 3, device=device),
                        torch.rand(300, 3, device=device) + 0.5, neighbors, Constants(
                            1.5, 0.01, 0.7, 0.15, 0.25, 1.2, 3.0, 10, 2, 0.25, 0.3, 0.1, 1, 0.01,
                            1.0), rejected=uv[:, 1] > 35).tune()
    report(total=tuned.settings.sum().item(), small='leave-one-out tuning')


def operator():
    """Measure the operator on its cases: by events, as a graph, with copies."""
    copy, flops = copy_rate(), machine.peak_gflops('cuda', 4096)
    report(machine=machine.describe(), copy_gb_s=copy, gflop_s=flops)
    plans = [(name, order, False) for name in CASES for order in (2, 1, 0)]
    plans += [(name, 2, True) for name in CASES]
    for name, order, backward in plans:
        size, count = CASES[name]
        measure(name, size, op.scene(size, count), dict(order=order, window=op.WINDOW), backward,
                copy, flops)
    name, (size, count) = list(CASES.items())[-1]
    for sectors, backward in ((1, False), (4, False), (1, True)):
        measure(f'{name}, nearest 16, {sectors} sectors, {op.FEATURES} features', size,
                op.scene(size, count, op.FEATURES),
                dict(order=1, neighbours=op.NEIGHBOURS, sectors=sectors), backward, copy, flops)


def measure(name, size, data, options, backward, copy, flops):
    """Measure one case and report it."""
    order = options['order']
    # A tensor, not a number, which would cost a launch to fill it.
    data = {**data, 'bandwidth': torch.tensor(5. if 'window' in options else 1.)}
    on_host = {k: v.pin_memory() for k, v in data.items()}
    data = {k: v.cuda() for k, v in data.items()}
    wanted = {k: v.requires_grad_() for k, v in data.items()
              if backward and k not in ('uv', 'bandwidth')}

    def call():
        dense, mass = kernel_regression(size=size, **data, **options)
        if not backward:
            return dense, mass
        return torch.autograd.grad(dense.nan_to_num().sum() + mass.sum(), list(wanted.values()))

    back = [torch.empty(t.shape, dtype=t.dtype).pin_memory() for t in call()]

    def call_with_copies():
        with torch.no_grad():
            for k, tensor in on_host.items():
                data[k].copy_(tensor, non_blocking=True)
        for there, here in zip(back, call()):
            there.copy_(here.detach(), non_blocking=True)

    result = {'case': name, 'order': order,
              'direction': 'forward and backward' if backward else 'forward',
              'events_us': event_us(call), 'copies_us': event_us(call_with_copies)}
    graph_us, launches, kernels = as_graph(call)
    least = sum(t.numel() * t.element_size() for t in (*data.values(), *back))
    result.update(graph_us=graph_us, launches=launches, kernels=kernels, least_bytes=least)
    best = graph_us or result['events_us']
    result['bandwidth_share'] = least / best / 1e3 / copy
    result['float32_share'] = None
    if 'window' in options:
        pairs, pixels = op.count_pairs(data['uv'][0].detach().cpu(), size), size[0] * size[1]
        flop = pairs * op.FLOP_PER_PAIR[order] + pixels * op.FLOP_PER_PIXEL[order]
        if backward:
            flop += (pairs * op.BACKWARD_FLOP_PER_PAIR[order]
                     + pixels * op.BACKWARD_FLOP_PER_PIXEL[order])
        result.update(pairs=pairs, gflop=flop / 1e9, float32_share=flop / best / 1e3 / flops)
    report(**result)


def event_us(call):
    """Return the median microseconds of a call between two events, launches included."""
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    return 1e3 * statistics.median(machine.once_ms(call, 'cuda') for _ in range(CALLS))


def as_graph(call):
    """
    Capture a call; return the microseconds of a replay, its launches and its kernels.

    None and [] where this version of torch cannot capture, count or profile.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    try:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
    except TypeError:  # before torch 2.8
        graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f'not captured: {error}', flush=True)
        return None, None, []
    for _ in range(3):
        graph.replay()

    def replays():
        for _ in range(REPLAYS):
            graph.replay()

    torch.cuda.synchronize()
    rounds = [machine.once_ms(replays, 'cuda') for _ in range(ROUNDS)]
    kernels = profiled(graph.replay)
    return 1e3 * statistics.median(rounds) / REPLAYS, node_count(graph), kernels


def node_count(graph):
    """Return the nodes of a captured graph: its kernels, copies and fills."""
    if not hasattr(graph, 'raw_cuda_graph'):
        return None
    count = ctypes.c_size_t()
    status = ctypes.CDLL('libcuda.so.1').cuGraphGetNodes(
        ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count))
    return count.value if status == 0 else None


def profiled(call):
    """Return name, calls and microseconds of the kernels of a call, longest first."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        total: dict = defaultdict(lambda: [0, 0.0])
        for event in profile.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                entry = total[readable(event.name)]
                entry[0] += 1
                entry[1] += event.time_range.elapsed_us()
    except (RuntimeError, AttributeError) as error:
        print(f'not profiled: {error}', flush=True)
        return []
    found = [{'name': name, 'calls': calls, 'us': us} for name, (calls, us) in total.items()]
    return sorted(found, key=lambda kernel: -kernel['us'])


def readable(name):
    """Shorten a kernel's name: without namespaces, qualifiers and arguments."""
    name = name.replace('steer::device::', '').removeprefix('void ')
    return name.split('(')[0][:60]


def copy_rate(megabytes=1024):
    """Return the rate of copies on the device in GB/s, bytes read and written."""
    a = torch.rand(megabytes * 2 ** 18, device='cuda')
    b = torch.empty_like(a)
    best = min(machine.once_ms(lambda: b.copy_(a), 'cuda') for _ in range(20))
    return 2 * a.numel() * a.element_size() / best / 1e6


def model():
    """Measure the presets, on the GPU where they run there."""
    from steer_depth_ros.benchmarks import model as cpu
    from steer_depth_ros.completion.completer import DepthCompleter
    from steer_depth_ros.completion.presets import PRESETS
    with tempfile.TemporaryDirectory() as folder:
        for case in (cpu.CASES[1], cpu.CASES[0]):
            frame = cpu.read_frame(cpu.rendered(Path(folder), *case))
            linear = cpu.linear_ms(*frame)
            for preset in PRESETS.values():
                weights = (cpu.random_reference(folder) if preset.model == 'reference' else None)
                for device in ('cuda', 'cpu'):
                    try:
                        completer = DepthCompleter(preset.name, device, weights)
                        measure_model(completer, frame, linear)
                    except (SteerDepthError, RuntimeError) as error:
                        report(left_out=f'`{preset.name}` on {device}',
                               why=str(error).splitlines()[0])
                        continue
                    if not preset.without_network:
                        break


def measure_model(completer, frame, linear):
    """Measure one preset on one frame (image, uv, depth)."""
    def call():
        completer.complete(*frame)

    for _ in range(3):
        call()
    times = []
    for _ in range(20 if completer.device.type == 'cuda' else 8):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    kernels = profiled(call) if completer.device.type == 'cuda' else []
    result = {'preset': completer.preset.name, 'device': completer.device.type,
              'size': [frame[0].shape[1], frame[0].shape[0]], 'samples': len(frame[2]),
              'median_ms': statistics.median(times), 'max_ms': max(times),
              'of_linear': statistics.median(times) / linear, 'linear_ms': linear}
    if kernels:
        result.update(device_ms=sum(k['us'] for k in kernels) / 1e3,
                      launches=sum(k['calls'] for k in kernels), kernels=kernels[:12])
    report(**result)


def node():
    """Measure the node around the model where rclpy is installed, and say so where it is not."""
    from steer_depth_ros.benchmarks import node as around_model
    try:
        report(stages_ms=around_model.measure(40))
    except SteerDepthError as error:
        report(why=str(error))


if __name__ == '__main__':
    if native.load('cuda') is None:
        sys.exit('the CUDA library is not built; see the stage before')
    {f.__name__: f for f in (small, operator, model, node)}[sys.argv[1]]()
