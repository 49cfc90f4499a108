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
Fuzz the parsers of foreign bytes: only the package's own errors may escape.

    python test/fuzz/fuzzing.py all --executions 1000000 --json docs/reliability/fuzz.json

needs atheris (pip install "steer_depth_ros[fuzz]"). Each target runs in a process of its own, on
seeds that it makes itself; a finding stays in a file that `--replay` runs again.
"""
import argparse
import importlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time
from types import FunctionType
from typing import NamedTuple

from fuzz_input import mutants

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'steer_depth_ros'
LONGEST_INPUT = 16384  # bytes; recordings get longer ones
HANG_S, MEMORY_MB = 20, 2048
LOG_LINES = 30
ROUND = 250_000  # executions of one process: atheris itself takes a little memory for each


class Target(NamedTuple):
    """A parser: `module`.`name` takes bytes, `name`_seeds gives what to start from."""

    name: str
    module: str
    longest: int = LONGEST_INPUT
    also: tuple = ()  # modules of others that are instrumented for guidance

    def load(self):
        """Return (function of bytes, list of seeds)."""
        module = importlib.import_module(self.module)
        return getattr(module, self.name), getattr(module, f'{self.name}_seeds')()


TARGETS = {t.name: t for t in (
    Target('point_cloud', 'fuzz_messages', 4096),
    Target('image', 'fuzz_messages', 4096),
    Target('compressed_image', 'fuzz_messages', 4096),
    Target('compressed_depth', 'fuzz_messages', 4096),
    Target('camera_info', 'fuzz_messages', 512),
    Target('cdr', 'fuzz_bags', 4096),
    Target('mcap', 'fuzz_bags', 32768, ('rosbags.rosbag2.storage_mcap',)),
    Target('sqlite', 'fuzz_bags', 65536),
    Target('folder', 'fuzz_bags', 65536),
    Target('checkpoint', 'fuzz_weights', 8192, ('torch._weights_only_unpickler',)),
    Target('safetensors', 'fuzz_weights', 4096),
    Target('frame_folder', 'fuzz_frames', 4096),
)}


def replay(target, executions, seed=0):
    """Run a target without atheris, on its seeds and changed copies of them."""
    from steer_depth_ros.errors import SteerDepthError
    function, seeds = target.load()
    for data in mutants(seeds, executions, seed):
        try:
            function(data)
        except SteerDepthError:
            pass
        except Exception as error:
            raise AssertionError(f'{target.name} let {error!r} out for {data!r}') from error


def fuzz(target, executions, findings) -> dict:
    """Run a target under atheris, in rounds with other random numbers; return the figures."""
    findings.mkdir(parents=True, exist_ok=True)
    figures: dict = {'executions': 0, 'seconds': 0.0, 'edges': 0, 'crashes': []}
    for number, begin in enumerate(range(0, executions, ROUND), 1):
        began = time.monotonic()
        count = min(ROUND, executions - begin)
        done = subprocess.run(
            [sys.executable, __file__, target.name, '--executions', str(count), '--inside',
             str(number), '--findings', str(findings)], stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE, text=True, errors='replace',
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})
        ran = re.findall(r'stat::number_of_executed_units:\s*(\d+)', done.stdout)
        edges = re.findall(r'cov: (\d+) ft:', done.stdout)
        figures['executions'] += int(ran[-1]) if ran else 0
        figures['seconds'] = round(figures['seconds'] + time.monotonic() - began, 1)
        figures['edges'] = max(figures['edges'], *map(int, edges)) if edges else figures['edges']
        figures['crashes'] = sorted(p.name for p in findings.glob(f'{target.name}-*'))
        if done.returncode or figures['crashes']:
            print('\n'.join(done.stdout.splitlines()[-LOG_LINES:]), file=sys.stderr)
            figures['status'] = done.returncode
            break
    return figures


def inside(target, executions, findings, seed):
    """Fuzz in this process, which ends with it."""
    import atheris
    for name in target.also:
        for each in functions(importlib.import_module(name)):
            atheris.instrument_func(each)
    with atheris.instrument_imports(include=[PACKAGE], enable_loader_override=False):
        from steer_depth_ros.errors import SteerDepthError
        function, seeds = target.load()
    for each in getattr(sys.modules[target.module], 'generated', list)():
        atheris.instrument_func(each)

    def once(data):
        try:
            function(data)
        except SteerDepthError:
            pass

    with tempfile.TemporaryDirectory() as corpus:
        for index, data in enumerate(seeds):
            once(data)  # what is imported late is not the input's doing
            Path(corpus, str(index)).write_bytes(data)
        atheris.Setup([sys.argv[0], f'-runs={executions}', f'-seed={seed}', f'-timeout={HANG_S}',
                       '-keep_seed=1',  # the insides of numpy and OpenCV show no coverage
                       f'-max_len={target.longest}', f'-rss_limit_mb={MEMORY_MB}',
                       f'-artifact_prefix={findings}/{target.name}-', '-print_final_stats=1',
                       '-close_fd_mask=2',  # without what libraries print about each picture
                       corpus], once)
        atheris.Fuzz()


def functions(module):
    """Give the functions of a module and of its classes."""
    scopes = [module, *(c for c in vars(module).values() if isinstance(c, type)
                        and c.__module__ == module.__name__)]
    return [f for scope in scopes for f in vars(scope).values()
            if isinstance(f, FunctionType) and f.__module__ == module.__name__]


def main(argv=None) -> int:
    """Fuzz; 0 when nothing was found."""
    args = _arguments(argv)
    chosen = [TARGETS[n] for n in (TARGETS if args.targets == ['all'] else args.targets)]
    if args.inside or args.replay:
        target, = chosen
        if args.inside:
            inside(target, args.executions, args.findings, args.inside)
        target.load()[0](args.replay.read_bytes())
        return 0
    failed = 0
    for target in chosen:
        figures = fuzz(target, args.executions, args.findings)
        failed += 'status' in figures
        print(f'{target.name}: {figures["executions"]:,} executions in {figures["seconds"]:.0f} s,'
              f' {figures["edges"]} edges, {len(figures["crashes"])} crashes', flush=True)
        if args.json and figures['executions']:
            record(args.json, target, figures)
    return int(failed > 0)


def record(path, target, figures):
    """Put the figures of one target into the report, beside those of earlier runs."""
    from steer_depth_ros.benchmarks.machine import describe
    report = json.loads(path.read_text()) if path.exists() else {'targets': {}}
    about = describe()
    report |= {name: about[name] for name in ('processor', 'cores', 'python')}
    report['targets'][target.name] = {**figures, 'date': about['date']}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + '\n')


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('targets', nargs='+', choices=('all', *TARGETS), metavar='TARGET',
                        help=f'all, or some of {", ".join(TARGETS)}')
    parser.add_argument('--executions', type=int, default=100_000)
    parser.add_argument('--json', type=Path, help='figures; targets not run keep theirs')
    parser.add_argument('--findings', type=Path, default=Path('out/fuzz'),
                        help='folder for inputs that went wrong (%(default)s)')
    parser.add_argument('--replay', type=Path, metavar='FILE', help='run one such input again')
    parser.add_argument('--inside', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
