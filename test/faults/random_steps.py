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
Thousands of random faults against one node: `cd test; python -m faults.random_steps --help`.

Each step injects one fault, now and then two, or moves the sensors against each other in time;
then healthy pairs follow until one is answered. Every output is checked. The same seed gives the
same faults.
"""
import argparse
from collections import Counter
import json
import os
from pathlib import Path
import platform
import random
import sys
import time

import dds
import numpy as np

SECOND_FAULT = 0.2  # share of the steps
PHASE_CHANGE = 0.05
RARE_EVERY = 1000  # steps
PHASES_NS = 0, 20_000_000, -15_000_000
SETTLE_S = 0.3
TWO_PERIODS_MS = 200.0
SLOW_MS = 1000.0  # told one by one


class Record:
    """What was injected and what came of it."""

    def __init__(self):
        self.drops, self.milliseconds = Counter(), []
        self.faults, self.events, self.slow = {}, [], []
        self.crashes = self.hangs = 0

    def injected(self, names, recovery):
        frames, milliseconds, paused = recovery
        self.milliseconds.append(milliseconds)
        if milliseconds > SLOW_MS or frames > 2:
            self.slow.append({'faults': names, 'pair': frames, 'ms': round(milliseconds),
                              'tester_paused_ms': round(paused)})
        for name in names:
            entry = self.faults.setdefault(name, {
                'injected': 0, 'first_pair': 0, 'second_pair': 0, 'later': 0, 'worst_ms': 0.0})
            entry['injected'] += 1
            entry[('first_pair', 'second_pair', 'later')[min(frames, 3) - 1]] += 1
            entry['worst_ms'] = max(entry['worst_ms'], round(milliseconds, 1))


def usable(rig, faults, rare):
    """Give the names of the faults that this machine can inject."""
    return [name for name, fault in faults.items()
            if fault.rare == rare and (rig.tf_kind or not fault.tf)]


def step(rig, faults, names, rng, record):
    """Inject and recover; a node that died or hangs is counted and started anew."""
    if any(faults[name].rare for name in names):
        record.drops.update(rig.drops())  # a new process counts from zero
    try:
        for name in names:
            faults[name].inject(rig, rng)
        record.injected(names, rig.recover())
    except AssertionError as error:
        dead = rig.process.poll() is not None
        record.crashes, record.hangs = record.crashes + dead, record.hangs + (not dead)
        record.events.append(f'{"+".join(names)}: {error}')
        rig.tell()
        rig.restart()


def random_steps(rig, faults, steps, seed, progress=lambda done: None):
    """Inject `steps` times; give the Record."""
    rng, record = np.random.default_rng(seed), Record()
    common, rare = usable(rig, faults, False), usable(rig, faults, True)
    for number in range(1, steps + 1):
        count = 2 if rng.random() < SECOND_FAULT else 1
        names = [str(name) for name in rng.choice(common, count, replace=False)]
        if number % RARE_EVERY == 0:
            names = [str(rng.choice(rare))]
        if rng.random() < PHASE_CHANGE:
            rig.lag_ns = PHASES_NS[rng.integers(len(PHASES_NS))]
        step(rig, faults, names, rng, record)
        progress(number)
    rig.lag_ns = 0
    rig.spin(SETTLE_S)
    record.drops.update(rig.drops())
    return record


def one_by_one(rig, faults, name, count, rng):
    """
    Inject one fault `count` times, alone; give what the node said and what was lost.

    drops: growth of the counters by cause. pairs, lost: healthy pairs sent, and not answered.
    """
    record, before = Record(), rig.drops()
    pairs, wrong = len(rig.pairs), len(rig.wrong)
    lost = len(rig.pairs - rig.answered)
    for _ in range(count):
        step(rig, faults, [name], rng, record)
    rig.spin(SETTLE_S)
    after = rig.drops()
    if faults[name].rare:
        before = Counter()
    return {**record.faults.get(name, {}), 'pairs': len(rig.pairs) - pairs,
            'lost': len(rig.pairs - rig.answered) - lost, 'wrong': len(rig.wrong) - wrong,
            'crashes': record.crashes, 'hangs': record.hangs,
            'drops': {cause: n - before[cause] for cause, n in sorted(after.items())
                      if n > before[cause]}}


def summary(rig, record):
    """Give the figures of a random run for the JSON file."""
    times = np.percentile(record.milliseconds, [50, 99, 100]).round(1).tolist()
    totals = {key: sum(entry[key] for entry in record.faults.values())
              for key in ('injected', 'first_pair', 'second_pair', 'later')}
    return {**totals, 'messages_checked': rig.came, 'depth_images_checked': len(rig.answered),
            'wrong': len(rig.wrong), 'crashes': record.crashes, 'hangs': record.hangs,
            'events': record.events[:20], 'wrong_outputs': rig.wrong[:20],
            'healthy_pairs': len(rig.pairs), 'lost': len(rig.pairs - rig.answered),
            'recovery_ms': dict(zip(('p50', 'p99', 'max'), times, strict=True)),
            'over_two_periods': int(np.sum(np.array(record.milliseconds) > TWO_PERIODS_MS)),
            'slow': record.slow, 'drops': dict(sorted(record.drops.items())),
            'faults': record.faults}


def main(argv=None):
    args = _arguments(argv)
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
    os.environ.update(dds.ENVIRONMENT)
    import rclpy
    rclpy.init()
    from .catalogue import FAULTS
    from .rig import FaultRig
    result = {'command': f'python -m faults.random_steps --steps {args.steps} --seed {args.seed} '
                         f'--each {args.each}',
              'machine': f'{os.cpu_count()} cores, {platform.machine()}, Python '
                         f'{platform.python_version()}'}
    rig = FaultRig()
    try:
        rig.open()
        rng = np.random.default_rng(args.seed)
        result['each'] = {
            name: {'text': FAULTS[name].text, **one_by_one(
                rig, FAULTS, name, 3 if FAULTS[name].rare else args.each, rng)}
            for name in [*usable(rig, FAULTS, False), *usable(rig, FAULTS, True)]}
        rig.forget()
        begun, memory = time.monotonic(), rig.memory_mb()
        record = random_steps(rig, FAULTS, args.steps, args.seed, _progress(args.steps))
        result['random'] = {'steps': args.steps, 'seed': args.seed,
                            'seconds': round(time.monotonic() - begun, 1), **summary(rig, record)}
        result['random']['memory_mb'] = [round(memory, 1), round(rig.memory_mb(), 1)]
    finally:
        status, log = rig.close()
        rclpy.shutdown()
    result['exit_status'], result['tracebacks'] = status, log.count('Traceback')
    Path(args.json).write_text(json.dumps(result, indent=1) + '\n')
    shown = {key: value for key, value in result['random'].items() if key != 'faults'}
    print(json.dumps(shown, indent=1))
    bad = ('wrong', 'crashes', 'hangs', 'later')
    return int(any(result['random'][key] for key in bad) or status != 0)


def _progress(steps):
    def tell(done):
        if done % 500 == 0:
            print(f'{done} of {steps} steps', file=sys.stderr, flush=True)
    return tell


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--each', type=int, default=20, help='of every fault alone, before')
    parser.add_argument('--json', default='faults.json')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
