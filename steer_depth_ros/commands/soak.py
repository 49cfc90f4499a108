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
"""`steer_depth soak`: run the node for minutes or hours; fail if memory or latency grows."""
from pathlib import Path
import tempfile
import time
from typing import Dict, List

from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.errors import ConfigError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import choose_topics, node_values, recorded_pose
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.ros.extrinsics import posed_values
from steer_depth_ros.ros.tools.soak_report import (
    draw,
    judge,
    sample_process,
    summarise,
    too_short,
)
from steer_depth_ros.viz.preview import write_picture

RENDERED_FRAMES = 8
SIZE = 240, 720  # rows, columns; two cores manage 10 Hz with preset fast
START_S = 90.0  # for discovery and loading of the model


def add_arguments(parser):
    parser.add_argument('--minutes', type=float, required=True, metavar='N')
    parser.add_argument('--rate', type=float, default=10.0, metavar='HZ',
                        help='frames per second (%(default)g)')
    parser.add_argument('--bag', metavar='PATH', help='a recording to play repeatedly, instead of '
                        'a rendered drive')
    parser.add_argument('--leave-out', type=int, default=0, metavar='K',
                        help='do not send the depth of every K-th frame, to simulate losses')
    parser.add_argument('--json', metavar='FILE', help='write figures and time series to a file')
    parser.add_argument('--plot', metavar='FILE', help='plot the time series (.png)')
    options.add_completer(parser)
    parser.set_defaults(preset='fast')
    options.add_topics(parser)


def run(args):
    options.need_rclpy('soak runs the real node and')
    if not (args.minutes > 0 and args.rate > 0 and args.leave_out >= 0):
        raise ConfigError('--minutes and --rate must be positive and --leave-out not negative')
    with tempfile.TemporaryDirectory(prefix='steer_depth_soak_') as folder:
        source = Path(args.bag) if args.bag else _rendered(Path(folder))
        report = {**_soak(args, source, Path(folder)), 'rate_asked_hz': args.rate,
                  'preset': args.preset, 'recording': args.bag or 'rendered drive, '
                  f'{SIZE[1]} x {SIZE[0]}'}
    failures = judge(report)
    _print(report)
    options.write_json(args.json, {**report, 'failures': failures})
    if args.plot:
        write_picture(args.plot, draw(report))
    if too_short(report):
        print('too short to tell whether memory or latency grows: that takes 3 minutes')
    if failures:
        print(f'soak failed: {"; ".join(failures)}')
    return 1 if failures else 0


def _rendered(folder):
    from steer_depth_ros.synthetic.drive import drive_frames
    frames = tqdm(drive_frames(RENDERED_FRAMES, size=SIZE), total=RENDERED_FRAMES,
                  unit=' frames', desc='recording')
    frames_to_bag(frames, folder / 'recording.mcap')
    return folder / 'recording.mcap'


def _soak(args, source, folder):
    """Run node and player for the requested time; return the report."""
    import json

    from steer_depth_ros.ros.tools.replay import child_environment, node_arguments, Processes
    with bag.BagReader(source) as recording:
        given = options.node_parameters(args)
        topics = choose_topics(recording, **options.topic_options(args), given=given)
        values = node_values(recording, topics, **given)
        values |= options.completer_options(args)
        pose = recorded_pose(recording, topics, values)
        if pose is not None:  # /tf is not played repeatedly
            values = posed_values(values, pose)
    log, seconds = folder / 'player.json', 60 * args.minutes
    samples: List[Dict[str, float]] = []
    with Processes(folder, child_environment()) as processes, tqdm(
            total=round(seconds), unit=' s', desc='soak') as progress:
        processes.start('node', '--ros-args', *node_arguments(topics, values))
        processes.start('soak_player', str(source), '--image', topics.image, '--camera-info',
                        topics.camera_info, '--depth', topics.depth, '--log', str(log),
                        '--seconds', str(seconds), '--rate', str(args.rate), '--slop',
                        str(values['slop_s']), '--leave-out', str(args.leave_out))

        def watch():
            now = time.monotonic()
            if not samples or now - samples[-1]['t'] >= 1.0:
                samples.append({'t': now, **sample_process(processes.pid('node'))})
                progress.update(min(1, progress.total - progress.n))

        processes.wait('soak_player', time.monotonic() + seconds + START_S, watch)
        processes.stop('node')
    return summarise(samples, json.loads(log.read_text()))


def _print(report):
    print(f'{report["frames"]} frames at {report["rate_hz"]:.2f} Hz in '
          f'{report["seconds"] / 60:.1f} min, {report["left_out"]} left out on purpose, '
          f'{report["dropped"]} dropped')
    print(f'latency p50 {report["latency_p50_ms"]:.1f} ms, p99 {report["latency_p99_ms"]:.1f} ms; '
          f'p99 of the second minute {report["second_minute_p99_ms"]:.1f} ms, of the last '
          f'{report["last_minute_p99_ms"]:.1f} ms')
    print(f'memory {report["rss_mb"]["last_minute"]:.0f} MB (RSS), '
          f'{report["mb_per_1000_frames"]:+.2f} MB per 1000 frames after the first minute; '
          f'{report["handles"]["last_minute"]:.0f} handles, '
          f'{report["threads"]["last_minute"]:.0f} threads')
