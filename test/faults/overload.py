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
"""Twice the load that the node can carry: `cd test; python -m faults.overload --json FILE`."""
import argparse
import json
import os
from pathlib import Path
import random
import sys
import time

import dds
import numpy as np

PROCESSING_S = 0.1  # of the slowed model
PERIOD_S = 0.05  # of the sensors: twice what the model can carry


def measure(rig, seconds):
    """
    Send pairs in real time for a while.

    Give capacity_hz (one frame after the other), rate_hz of the outputs, age_ms (from the
    sending of the pair to the arrival of its depth: p50, p90 and max), and bound_ms: two frame
    times and the processing time.
    """
    processing = float(np.median([_alone(rig) for _ in range(10)]))
    sent, ages, drops = {}, [], rig.drops()['busy']
    begun = time.monotonic()
    for number in range(1, round(seconds / PERIOD_S) + 1):
        sent[rig.pair(wait=0)] = time.monotonic()
        while (left := begun + number * PERIOD_S - time.monotonic()) > 0:
            if rig.spin_until(lambda: rig.answered & sent.keys(), left):
                ages += [time.monotonic() - sent.pop(stamp)
                         for stamp in rig.answered & sent.keys()]
    took = time.monotonic() - begun
    p50, p90, worst = np.percentile(ages, [50, 90, 100]) * 1e3
    return {'sent_hz': round(1 / PERIOD_S, 1), 'capacity_hz': round(1 / processing, 2),
            'rate_hz': round(len(ages) / took, 2), 'dropped_as_busy': rig.drops()['busy'] - drops,
            'pairs': round(seconds / PERIOD_S), 'outputs': len(ages),
            'age_ms': {'p50': round(p50, 1), 'p90': round(p90, 1), 'max': round(worst, 1)},
            'bound_ms': round(1e3 * (2 * PERIOD_S + processing), 1)}


def _alone(rig):
    rig.tell(f'slow {PROCESSING_S}')
    begun = time.monotonic()
    assert rig.answers(rig.pair(wait=0), 5.0)
    return time.monotonic() - begun


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--json', required=True)
    args = parser.parse_args(argv)
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
    os.environ.update(dds.ENVIRONMENT)
    import rclpy
    rclpy.init()
    from .rig import FaultRig
    rig = FaultRig()
    try:
        rig.open()
        found = measure(rig, args.seconds)
        wrong = rig.wrong
    finally:
        rig.close()
        rclpy.shutdown()
    found = {'command': f'python -m faults.overload --seconds {args.seconds:g}', **found,
             'wrong': len(wrong)}
    Path(args.json).write_text(json.dumps(found, indent=1) + '\n')
    print(json.dumps(found, indent=1))
    return int(bool(wrong) or found['age_ms']['p90'] > found['bound_ms'])


if __name__ == '__main__':
    sys.exit(main())
