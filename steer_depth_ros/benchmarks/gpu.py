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
What a GPU must show, in one command: `make gpu`.

Builds for the GPU at hand alone, runs the tests of marker `gpu`, compute-sanitizer on small cases,
then the measurements of `on_gpu`, and writes docs/benchmarks/gpu_NAME.json and .md. Every stage is
a process with a time limit; one that fails costs its own results only. Nothing needs a network.
"""
import argparse
from datetime import datetime, timezone
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / 'docs' / 'benchmarks'
SECONDS = 225  # all stages together
TESTS = ('test/ops', 'test/completion', 'test/network', 'test/synthetic')
SANITIZERS = ('memcheck', 'racecheck')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m steer_depth_ros.benchmarks.gpu`."""
    parser.add_argument('--out', type=Path, default=REPORTS,
                        help='folder for the report (default docs/benchmarks)')


def run(args: argparse.Namespace) -> int:
    """Run all stages and write the report; return 0 if every stage did what it should."""
    name = gpu_name()
    if name is None:
        print('No GPU here: nvidia-smi finds none, and everything that `make gpu` does needs one.',
              file=sys.stderr)
        return 1
    report = {'gpu': name, 'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
              'stages': []}
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f'gpu_{short_name(name)}.json'
    ends = time.monotonic() + SECONDS
    for group in stages():
        for found in run_together(group, ends):
            report['stages'].append(found)
            print(f'{found["stage"]}: {found["outcome"]} ({found["seconds"]:.0f} s)', flush=True)
        # After every group: what is there by then is kept, whatever comes.
        target.write_text(json.dumps(report, indent=1) + '\n')
        target.with_suffix('.md').write_text(markdown(report))
    print(f'\n{markdown(report)}\nwritten: {target} and {target.with_suffix(".md").name}')
    return int(not all(stage['ok'] for stage in report['stages']))


def gpu_name():
    """Return the name of the first GPU, or None."""
    if shutil.which('nvidia-smi') is None:
        return None
    done = subprocess.run(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'],
                          capture_output=True, text=True)
    names = done.stdout.strip().splitlines()
    return names[0].strip() if done.returncode == 0 and names else None


def short_name(name):
    """Return a GPU's name for a file: 'NVIDIA H100 80GB HBM3' -> 'h100_80gb_hbm3'."""
    words = re.findall(r'[a-z0-9]+', name.lower())
    return '_'.join(word for word in words if word not in ('nvidia', 'geforce')) or 'unknown'


def stages():
    """Return groups of stages (name, command, seconds); those of a group run at the same time."""
    python = sys.executable

    def measure(*what):
        return [python, '-m', 'steer_depth_ros.benchmarks.on_gpu', *what]

    workers = (['-n', '4'] if importlib.util.find_spec('xdist') and (os.cpu_count() or 1) >= 8
               else [])
    tests = [python, '-m', 'pytest', '-m', 'gpu', '-q', '-rfEs', '--tb=short', '-p',
             'no:cacheprovider', '--continue-on-collection-errors', *workers, *TESTS]
    # Files are compiled anew: those that lie there may be for another GPU.
    build = [python, 'setup.py', '-q', 'build_ext', '--inplace', '--force']
    return [
        [('build', build, 100)],
        [('tests', tests, 95),
         *((tool, ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9', '--print-limit',
                   '10', *measure('small')], 95) for tool in SANITIZERS)],
        [('operator', measure('operator'), 50)],
        [('model', measure('model'), 80)],
        [('node', measure('node'), 25)],
    ]


def run_together(group, ends):
    """Run the stages of a group, and return what each gave, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        started = [Stage(name, command, seconds, Path(folder), ends)
                   for name, command, seconds in group]
        return [stage.finish() for stage in started]


class Stage:
    """One stage: a process whose output and results are files, and that is killed when late."""

    def __init__(self, name, command, seconds, folder, ends):
        self.name, self.began = name, time.monotonic()
        self.seconds = max(0.0, min(seconds, ends - self.began))
        self.log, self.results = folder / f'{name}.log', folder / f'{name}.jsonl'
        self.process, self.why = None, ''
        if shutil.which(command[0]) is None:
            self.why = f'{command[0]} is not installed'
            return
        environment = {**os.environ, 'STEER_DEPTH_RESULTS': str(self.results),
                       'OMP_NUM_THREADS': '2' if name in ('tests', *SANITIZERS) else '8'}
        environment.pop('STEER_DEPTH_CUDA_ARCHS', None)
        environment.pop('STEER_DEPTH_CUDA', None)
        if name in SANITIZERS:  # allocations of their own, so that every overrun is seen
            environment['PYTORCH_NO_CUDA_MEMORY_CACHING'] = '1'
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True)

    def finish(self):
        """Wait, and return outcome, seconds and results."""
        status = None
        if self.process is not None:
            try:
                status = self.process.wait(max(0.0, self.began + self.seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                self.why = f'stopped after {self.seconds:.0f} s'
        log = self.log.read_text(errors='replace') if self.log.exists() else ''
        found = {'stage': self.name, 'ok': status == 0,
                 'seconds': time.monotonic() - self.began, 'results': read_lines(self.results)}
        found['outcome'] = '; '.join(filter(None, (self.why, outcome(self.name, status, log))))
        if not found['ok']:
            found['log'] = log.splitlines()[-40:]
        return found


def read_lines(path):
    """Return the JSON of every whole line of a file, [] where there is none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith('\n')]


def outcome(name, status, log):
    """Say in one line what a stage's output states."""
    if name == 'tests':
        counts = re.findall(r'\d+ (?:passed|failed|skipped|errors?)\b', log)
        reasons = sorted(set(re.findall(r'^SKIPPED \[\d+\] [^ ]+ (.*)$', log, re.MULTILINE)))
        failed = re.findall(r'^(?:FAILED|ERROR) (\S+)', log, re.MULTILINE)
        return '; '.join(filter(None, (', '.join(dict.fromkeys(counts)), ', '.join(failed),
                                       'skipped: ' * bool(reasons) + ', '.join(reasons))))
    if name in SANITIZERS:
        errors = re.findall(r'(?:ERROR|RACECHECK) SUMMARY: (.*)$', log, re.MULTILINE)
        return errors[-1] if errors else f'no summary (status {status})'
    if status == 0:
        return 'done'
    last = [line for line in log.splitlines() if line.strip()]
    return f'status {status}: {last[-1].strip() if last else "no output"}'


def markdown(report):
    """Return the report as a page with tables."""
    results = {stage['stage']: stage['results'] for stage in report['stages']}
    operator = results.get('operator', [])
    lines = [f'# {report["gpu"]}', '', f'`make gpu`, {report["date"]}.', '']
    for machine in (r for r in operator if 'machine' in r):
        lines += [', '.join(f'{k} {v}' for k, v in machine['machine'].items() if v is not None),
                  '', f'Measured: copies {machine["copy_gb_s"]:,.0f} GB/s (read and written), '
                  f'float32 matrix products {machine["gflop_s"] / 1e3:,.1f} TFLOP/s.', '']
    lines += ['| stage | outcome | s |', '|---|---|---|']
    lines += [f'| {stage["stage"]} | {" ".join(stage["outcome"].split()).replace("|", "/")} | '
              f'{stage["seconds"]:.0f} |' for stage in report['stages']]
    rows = [r for r in operator if 'case' in r]
    if rows:
        lines += ['', '## Operator', '',
                  'Median device time of a call: by events (as Python launches it), and replayed '
                  'as a CUDA graph; with copies: from and to pinned host memory. Shares are of '
                  'the measured rates above, by the least operations and bytes of the case.', '',
                  '| case | order | | events us | graph us | with copies us | launches | '
                  'float32 | bandwidth |', '|---|---|---|---|---|---|---|---|---|']
        lines += [operator_row(row) for row in rows]
        slowest = [row for row in rows if row.get('kernels')]
        if slowest:
            lines += ['', '| case | kernel | calls | us |', '|---|---|---|---|']
            lines += [f'| {row["case"]}, order {row["order"]}, {row["direction"]} | `{k["name"]}` '
                      f'| {k["calls"]} | {k["us"]:.1f} |' for row in slowest
                      for k in row['kernels'] if k['name'].startswith('run')]
    rows = [r for r in results.get('model', []) if 'preset' in r]
    if rows:
        lines += ['', '## Completion', '',
                  'Milliseconds from NumPy to NumPy (median), and relative to Delaunay-linear '
                  "interpolation (scipy) of the same frame in the same run on the machine's CPU.",
                  '', '| preset | device | size | samples | ms | of linear | device ms | launches '
                  '|', '|---|---|---|---|---|---|---|---|']
        lines += [f'| {r["preset"]} | {r["device"]} | {r["size"][0]} x {r["size"][1]} | '
                  f'{r["samples"]:,} | {r["median_ms"]:.2f} | {r["of_linear"]:.3f} | '
                  f'{number(r.get("device_ms"), 2)} | {number(r.get("launches"), 0)} |'
                  for r in rows]
    left_out = [f'- {r["left_out"]}: {r["why"]}' for r in results.get('model', [])
                if 'left_out' in r]
    lines += ['', *dict.fromkeys(left_out)] if left_out else []
    for r in results.get('node', []):
        lines += ['', '## Node without the model', '']
        lines += ([r['why']] if 'why' in r else
                  ['| stage | ms |', '|---|---|',
                   *(f'| {name} | {ms:.2f} |' for name, ms in r['stages_ms'].items())])
    return '\n'.join(lines) + '\n'


def operator_row(row):
    """Return a row of the operator's table."""
    return (f'| {row["case"]} | {row["order"]} | {row["direction"]} | {row["events_us"]:.0f} | '
            f'{number(row["graph_us"], 0)} | {number(row["copies_us"], 0)} | '
            f'{number(row["launches"], 0)} | {share(row["float32_share"])} | '
            f'{share(row["bandwidth_share"])} |')


def number(value, digits):
    """Write a figure; '-' where none was measured."""
    return '-' if value is None else f'{value:,.{digits}f}'


def share(value):
    """Write a fraction as per cent; '-' where none was measured."""
    return '-' if value is None else f'{value:.1%}'


if __name__ == '__main__':
    arguments = argparse.ArgumentParser(description=__doc__)
    add_arguments(arguments)
    sys.exit(run(arguments.parse_args()))
