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
Fraction of the pairs of a driver that the node receives, by QoS, profile and message size.

Driver and node run in separate processes, with Fast DDS as installed or with
config/fastdds_shm.xml at the driver.
"""
import re
import signal
import subprocess
import sys
import tempfile

from steer_depth_ros.commands.options import write_json
from steer_depth_ros.errors import ConfigError

RATE = 10.0
# Width and height of the image, points of the cloud.
SIZES = {'640x480': 20_000, '1242x375': 115_000, '1920x1080': 115_000}
DRIVERS = 'reliable', 'best_effort'
PROFILES = 'none', 'driver'
# The node used to subscribe best effort; 'auto' adopts the QoS of the driver.
SUBSCRIPTIONS = 'best_effort', 'auto'
POINT_BYTES, PIXEL_BYTES = 16, 3


def add_arguments(parser) -> None:
    """Add the options of `steer_depth bench delivery`."""
    parser.add_argument('--seconds', type=float, default=10.0,
                        help=f'duration of publishing at {RATE:.0f} Hz per figure (default 10)')
    parser.add_argument('--size', action='append', choices=SIZES,
                        help='size of the image (default all)')
    parser.add_argument('--driver', action='append', choices=DRIVERS,
                        help='QoS of the driver (default both)')
    parser.add_argument('--profile', action='append', choices=PROFILES,
                        help='process that uses config/fastdds_shm.xml (default both cases)')
    parser.add_argument('--json', help='write the figures to this file')


def run(args) -> int:
    """Measure and print the table; return 1 if a reliable driver loses more than one in 20."""
    figures, lost = [], False
    for driver in args.driver or DRIVERS:
        for profile in args.profile or PROFILES:
            for size in args.size or SIZES:
                shares = {qos: measure(driver, qos, profile, size, args.seconds)
                          for qos in SUBSCRIPTIONS if qos != driver}
                lost |= driver == 'reliable' and shares['auto'] < 0.95
                # For a best-effort driver both subscriptions are the same.
                shares.setdefault('best_effort', shares['auto'])
                figures.append({'driver': driver, 'profile': profile, 'size': size, **shares})
                print(_row(figures[-1]) if figures[1:] else f'{HEAD}\n{_row(figures[-1])}',
                      flush=True)
    write_json(args.json, {'rate_hz': RATE, 'seconds': args.seconds, 'shares': figures})
    return int(lost)


def measure(driver: str, subscription: str, profile: str, size: str, seconds: float) -> float:
    """
    Return the fraction of pairs that a new node receives.

    driver: QoS of the driver. subscription: 'auto' or 'best_effort'. profile: 'none' or 'driver'.
    Raise ConfigError if node or driver do not run.
    """
    from steer_depth_ros.ros import distro
    from steer_depth_ros.ros.tools.replay import child_environment
    environment = {name: value for name, value in child_environment().items()
                   if name not in distro.PROFILE_VARIABLES}
    profiled = {**environment, **distro.profile_environment(distro.profile_path(), environment)}
    overrides = [f'qos_overrides./{topic}.subscription.reliability:={subscription}'
                 for topic in ('image', 'points')]
    with tempfile.TemporaryFile('w+') as log:
        node = subprocess.Popen(
            [sys.executable, '-m', 'steer_depth_ros.ros.node', '--ros-args',
             *(word for value in ('preset:=steering', 'device:=cpu',
                                  'extrinsics.source:=parameters', *overrides)
               for word in ('-p', value))],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            done = subprocess.run(
                [sys.executable, '-m', 'steer_depth_ros.ros.tools.driver', '--check', '0',
                 '--image-qos', driver, '--size', size, '--points', str(SIZES[size]),
                 '--rate', str(RATE), '--seconds', str(seconds)],
                env=profiled if profile == 'driver' else environment, capture_output=True,
                text=True)
        finally:
            node.send_signal(signal.SIGINT)
            node.wait(30)
        found = re.search(r'(\d+) of (\d+) pairs arrived', done.stdout)
        if not found:
            log.seek(0)
            raise ConfigError(f'the driver failed: {done.stderr[-500:]}; output of the node: '
                              f'{log.read()[-500:]}')
    return int(found[1]) / int(found[2])


HEAD = ('| driver | profile at the driver | image + cloud | best effort always | '
        'as the driver offers |\n|---|---|---|---|---|')


def _row(figure):
    width, height = map(int, figure['size'].split('x'))
    image = PIXEL_BYTES * width * height * 1e-6
    cloud = POINT_BYTES * SIZES[figure['size']] * 1e-6
    return (f'| {figure["driver"].replace("_", " ")} | '
            f'{"none" if figure["profile"] == "none" else "fastdds_shm.xml"} | '
            f'{image:.1f} + {cloud:.1f} MB | {100 * figure["best_effort"]:.0f} % | '
            f'{100 * figure["auto"]:.0f} % |')
