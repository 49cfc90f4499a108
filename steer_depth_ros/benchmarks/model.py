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
Speed and memory of the presets on rendered frames, by stage.

Milliseconds depend on the machine, so every row also states the ratio to Delaunay-linear
interpolation (scipy) of the same frame, measured in the same process right afterwards.
"""
from collections import Counter
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from steer_depth_ros.benchmarks import machine
from steer_depth_ros.commands.options import write_json
from steer_depth_ros.errors import ConfigError, SteerDepthError
from steer_depth_ros.ops.timing import waiting_for_device
from steer_depth_ros.ros import process_tuning

LIDAR, RANDOM = 'lidar', 'random'
# width, height, samples, how they lie
CASES = ((1242, 375, 17_000, LIDAR), (1216, 352, 20_000, LIDAR), (640, 480, 5_000, RANDOM))
REFERENCE_CASES = ((304, 228, 500, RANDOM),)
SEED = 77
WARM_UP = 2
# Columns of the table; the rest is what other stages of `Completion.stages` take.
STAGES = ('occlusion', 'kernels', 'tuning', 'operator', 'second_order_tv', 'network')


def add_arguments(parser) -> None:
    """Add the options of `steer_depth bench model`."""
    parser.add_argument('--preset', action='append', help='may be repeated; all by default')
    parser.add_argument('--weights', help="a file instead of the preset's own")
    parser.add_argument('--device', default='auto',
                        help='auto (CUDA for reference alone), cpu or cuda')
    parser.add_argument('--size', metavar='WxH', help='one case instead of the usual ones')
    parser.add_argument('--samples', type=int, default=5000, metavar='N', help='with --size: '
                        'that many pixels at random (%(default)s)')
    parser.add_argument('--launches', action='store_true', help='count what a GPU would launch '
                        'per frame instead (all but reference; needs no GPU)')
    parser.add_argument('--frames', type=int, default=20, help='to measure (%(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the figures to this file')


def run(args) -> int:
    """Measure every preset on every case, each in a process of its own, and print a table."""
    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.completion.presets import find_preset, PRESETS
    if args.frames < 1 or args.samples < 1:
        raise ConfigError('--frames and --samples must be at least 1')
    if args.weights and len(args.preset or ()) != 1:
        raise ConfigError('--weights fits one preset; name it with --preset')
    presets = [find_preset(name) for name in args.preset or PRESETS]
    if args.launches:
        return _launches(args, presets)
    about = machine.describe()
    device = find_device(args.device)
    process_tuning.prepare()  # the children, which import torch first of all, run as the node does
    print(', '.join(f'{k} {v}' for k, v in about.items()))
    print(f'{"preset":<12}{"size":>10}{"samples":>9}{"of linear":>11}'
          f'{"median ms":>11}{"p90 ms":>9}'
          + ''.join(f'{s:>16}' for s in (*STAGES, 'rest')) + f'{"operator %":>12}{"peak MB":>9}')
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in presets:
            weights = args.weights
            if preset.model == 'reference' and weights is None:
                weights = random_reference(folder)
            for case in _cases(args, preset):
                frame = rendered(Path(folder), *case)
                found = _in_a_child({'preset': preset.name, 'weights': weights, 'frame': frame,
                                     'device': args.device, 'frames': args.frames})
                results.append(found)
                print(_row(found), flush=True)
    write_json(args.json, {'machine': about, 'device': str(device), 'results': results})
    return 0


def _launches(args, presets):
    """Print how often a GPU is launched per frame, by preset and case."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in [p for p in presets if p.model != 'reference']:
            for width, height, count, kind in _cases(args, preset):
                image, uv, depth = read_frame(rendered(Path(folder), width, height, count, kind))
                launches = count_launches(image, uv, depth, preset)
                results.append({'preset': preset.name, 'size': [width, height],
                                'samples': count, 'launches': sum(launches.values()),
                                'by_operation': launches})
                most = ', '.join(f'{name} {n}' for name, n in list(launches.items())[:6])
                print(f'{preset.name:<12}{f"{width}x{height}":>10}{count:>9}'
                      f'{sum(launches.values()):>8} launches: {most}, ...', flush=True)
    write_json(args.json, {'results': results})
    return 0


def count_launches(image, uv, depth, preset):
    """
    Count the launches of a frame on a device, {operation: number}, most frequent first.

    Counted on the meta device, which has no data; views launch nothing and do not count, unless
    what they return is a copy.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    from steer_depth_ros.completion import pipeline
    from steer_depth_ros.completion.occlusion import remove_occluded
    from steer_depth_ros.completion.refinement import Refinement
    found: Counter = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if 'empty' not in func.name() and not (func.is_view and _shares(result, args[0])):
                name = func.name().split('::')[1].split('.')[0]
                found[name] += LAUNCHES.get(name, _one)(*args)
            return result

    size = image.shape[:2]
    frame = pipeline.prepare(remove_occluded(uv, depth, size), size, preset.half).to('meta')
    refine = preset.weights and Refinement.load(preset.weights_path(), 'meta')
    image = torch.from_numpy(image).to('meta')

    def run():
        return pipeline.estimate(pipeline.analyze(image).result(), frame, refine)

    with torch.inference_mode():
        run()  # constants are made once
        with Counting():
            run()
    return dict(found.most_common())


def _shares(result, source):
    """Return whether the result of a view, a tensor or several, lies where its source does."""
    one = result if torch.is_tensor(result) else result[0]
    return one.untyped_storage()._cdata == source.untyped_storage()._cdata


def _one(*_):
    return 1


def _launches_of_regression(uv, values, steering, valid, *_):
    """Count as csrc/kernel_regression/cuda.cu: few samples are sorted at once."""
    return 2 if uv.shape[1] <= 2048 else 6 + (valid is not None)


# Of operators of ours that are more than one.
LAUNCHES = {'kernel_regression': _launches_of_regression, 'distance_to_samples': lambda *_: 4}


def _cases(args, preset):
    if args.size:
        from steer_depth_ros.synthetic.procedural import parse_size
        height, width = parse_size(args.size)
        return [(width, height, args.samples, RANDOM)]
    return REFERENCE_CASES if preset.model == 'reference' else CASES


def _row(found):
    width, height = found['size']
    columns = [found['stages_ms'].get(name, 0.0) for name in STAGES]
    columns.append(sum(found['stages_ms'].values()) - sum(columns))
    return (f'{found["preset"]:<12}{f"{width}x{height}":>10}{found["samples"]:>9}'
            f'{found["of_linear"]:>11.3f}{found["median_ms"]:>11.1f}{found["p90_ms"]:>9.1f}'
            + ''.join(f'{column:>16.1f}' for column in columns)
            + f'{100 * found["operator_share"]:>12.1f}{found["peak_mb"]:>9.0f}')


def random_reference(folder):
    """Write weights for the paper's network: speed does not depend on their values."""
    from steer_depth_ros.network.checkpoints import save_safetensors
    from steer_depth_ros.network.reference import ARCHITECTURE, SteeringKernelNet
    path = str(Path(folder, 'reference.safetensors'))
    save_safetensors(path, SteeringKernelNet().state_dict(), ARCHITECTURE, {})
    return path


def rendered(folder, width, height, count, kind):
    """
    Render a frame with `count` samples into an npz file of a folder; return its name.

    In a file, so that the memory of the process that measures is the model's alone.
    """
    from steer_depth_ros.synthetic.procedural import ProceduralFrames
    from steer_depth_ros.synthetic.sensors import lidar_lines, random_samples
    path = folder / f'{width}x{height}_{count}_{kind}.npz'
    if not path.exists():
        scene = ProceduralFrames(1, SEED, (height, width)).scene(0)
        rng = np.random.default_rng(SEED)
        samples = (random_samples(scene, rng, count) if kind == RANDOM
                   else lidar_lines(scene, rng, 64))
        keep = np.sort(rng.permutation(len(samples))[:count])
        np.savez(path, image=scene.image.numpy(), uv=samples.uv[keep], depth=samples.depth[keep])
    return str(path)


def _in_a_child(task):
    done = subprocess.run([sys.executable, '-m', 'steer_depth_ros.benchmarks.model',
                           json.dumps(task)], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def read_frame(file):
    """Return image, uv and depth of an npz file."""
    with np.load(file) as data:
        return data['image'], data['uv'], data['depth']


def linear_ms(image, uv, depth, runs=7, seconds=4.0):
    """
    Return the least milliseconds of Delaunay-linear interpolation (scipy) of a frame.

    The least of up to `runs` within `seconds`, at least three: on scan lines scipy's search for
    triangles takes up to twenty times as long in some runs, and that is not to flatter the ratio.
    """
    from scipy.interpolate import griddata
    rows, columns = np.mgrid[:image.shape[0], :image.shape[1]]
    times: list = []
    while len(times) < 3 or len(times) < runs and sum(times) < 1e3 * seconds:
        start = time.perf_counter()
        griddata(uv, 1 / depth, (columns, rows), method='linear')
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def linear_of_a_lidar_frame():
    """Return `linear_ms` of the first of CASES."""
    with tempfile.TemporaryDirectory() as folder:
        return linear_ms(*read_frame(rendered(Path(folder), *CASES[0])))


def measure(preset, weights, frame, device, frames):
    """
    Measure one preset on one frame; the figures of this process's memory are part of it.

    frame: an npz file with image, uv and depth. frames: how often it is completed.
    """
    from steer_depth_ros.completion.completer import DepthCompleter
    completer = DepthCompleter(preset, device, weights)
    device = str(completer.device)
    image, uv, depth = read_frame(frame)
    for _ in range(WARM_UP):
        completer.complete(image, uv, depth)
    times = []
    for _ in range(frames):
        start = time.perf_counter()
        completer.complete(image, uv, depth)
        times.append(1e3 * (time.perf_counter() - start))
    with waiting_for_device():
        laps = [completer.complete(image, uv, depth).stages for _ in range(frames)]
    stages = {name: float(np.median([lap.get(name, 0.0) for lap in laps])) for name in laps[-1]}
    result = {'preset': preset, 'size': [image.shape[1], image.shape[0]], 'samples': len(depth),
              'frames': frames, 'median_ms': float(np.median(times)),
              'p90_ms': float(np.percentile(times, 90)), 'stages_ms': stages,
              'operator_share': stages['operator'] / sum(stages.values()),
              'peak_mb': _peak_mb()}
    if device.startswith('cuda'):
        result['peak_gpu_mb'] = torch.cuda.max_memory_allocated() / 2 ** 20
    result['linear_ms'] = linear_ms(image, uv, depth)
    result['of_linear'] = result['median_ms'] / result['linear_ms']
    return result


def _peak_mb():
    """Return the most memory that this process held; ru_maxrss would count its parent's too."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024


if __name__ == '__main__':
    process_tuning.prepare()
    try:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
    except SteerDepthError as error:
        sys.exit(str(error))
