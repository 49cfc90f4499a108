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
"""Tables of docs/reliability.md from a recorded run: `cd test; python -m faults.report JSON`."""
import json
from pathlib import Path
import sys

HEAD = ('| fault | injected alone + at random | the node counted (alone) | healthy pairs lost '
        '(alone) | answered again: 1st, 2nd, later pair |\n|---|---|---|---|---|')


def table(recorded):
    """Return the lines of the table."""
    lines = [HEAD]
    for name, alone in recorded['each'].items():
        mixed = recorded['random']['faults'].get(name, {})

        def both(key, alone=alone, mixed=mixed):
            return alone[key] + mixed.get(key, 0)

        counted = ', '.join(f'{cause} {n}' for cause, n in alone['drops'].items()) or 'nothing'
        lines.append(
            f'| {alone["text"]} | {alone["injected"]} + {mixed.get("injected", 0)} | {counted} | '
            f'{alone["lost"]} of {alone["pairs"]} | {both("first_pair")}, {both("second_pair")}, '
            f'{both("later")} |')
    return '\n'.join(lines)


def totals(recorded):
    """Return the sentences on the random run."""
    run = recorded['random']
    times = run['recovery_ms']
    return (f'{run["steps"]:,} random steps (seed {run["seed"]}) with {run["injected"]:,} faults: '
            f'{run["crashes"]} crashes, {run["hangs"]} hangs, {run["wrong"]} wrong outputs of '
            f'{run["messages_checked"]:,} checked ({run["depth_images_checked"]:,} depth images). '
            f'The node answered the first healthy pair after {run["first_pair"]:,} faults, the '
            f'second after {run["second_pair"]:,}, a later one after {run["later"]:,}. Time from '
            f'that first pair to the answer: p50 {times["p50"]} ms, p99 {times["p99"]} ms, '
            f'maximum {times["max"]} ms; more than two periods in {run["over_two_periods"]:,} of '
            f'{run["steps"]:,} steps, on a machine that was busy otherwise.')


if __name__ == '__main__':
    run = json.loads(Path(sys.argv[1]).read_text())
    print(totals(run) + '\n\n' + table(run))
