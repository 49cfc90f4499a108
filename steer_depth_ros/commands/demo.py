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
"""`steer_depth demo`: play a recording through the node; show the result as figures and sheet."""
from pathlib import Path

import numpy as np
from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.errors import BagError, ConfigError
from steer_depth_ros.evaluation.metrics import average, measure
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import (
    choose_topics,
    node_values,
    read_truth,
    recorded_pose,
    run_pipeline,
)
from steer_depth_ros.recordings.bag_tools import frames_to_bag, OUTPUTS
from steer_depth_ros.recordings.frame_folder import find_frames, read_frames
from steer_depth_ros.ros import distro
from steer_depth_ros.ros.extrinsics import posed_values
from steer_depth_ros.ros.message_types import message_class
from steer_depth_ros.viz import preview

RENDERED_FRAMES = 8
SHOWN_FRAMES = 3
ERRORS = ('mae', 'rmse', 'rel')


def add_arguments(parser):
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--frames', metavar='DIR', help='a folder of recorded frames, instead of '
                        'a rendered street')
    source.add_argument('--bag', metavar='PATH', help='a recording: rosbag2 folder, .mcap, .db3')
    parser.add_argument('--out', default='out/demo', metavar='DIR',
                        help='folder for the results (%(default)s)')
    parser.add_argument('--rate', type=float, default=1.0, metavar='X', help='playback speed '
                        '(%(default)s)')
    parser.add_argument('--real-time', action='store_true', help='do not wait for the node: it '
                        'drops frames that it has no time for, as on a robot')
    parser.add_argument('--json', metavar='FILE', help='write the figures to a file')
    options.add_completer(parser)
    options.add_topics(parser)


def run(args):
    options.need_rclpy('the demo runs the real node and')
    if not args.rate > 0:
        raise ConfigError(f'--rate must be positive, not {args.rate}')
    from steer_depth_ros.ros.tools.replay import log_end, replay, ReplayError
    out = Path(args.out)
    source = _recording(args, out)
    with bag.BagReader(source) as recording:
        given = options.node_parameters(args)
        topics = choose_topics(recording, **options.topic_options(args), given=given)
        values = node_values(recording, topics, **given)
        values |= options.completer_options(args)
        pose = recorded_pose(recording, topics, values)  # tells at once when there is none
        if pose is not None and message_class(bag.TF_MESSAGE) is None:
            print('no message type tf2_msgs: the node gets the recorded extrinsics as parameters')
            values = posed_values(values, pose)
    print(f'playing {source} through the node ({topics.image}, {topics.depth}) ...')
    log = replay(source, topics, values, out, args.rate, wait=not args.real_time)
    if not _completed_anything(out / 'completed.mcap'):
        raise ReplayError(f'the node published nothing on {OUTPUTS["depth"][0]}; '
                          + log_end(out / 'node.log'))
    figures = summarise(source, topics, values, out / 'completed.mcap', log, out / 'sheet.png')
    _print(figures, source, out)
    options.write_json(args.json, figures)
    return 0 if figures['frames_out'] == figures['frames_in'] else 1


def summarise(source, topics, values, completed, log, sheet) -> dict:
    """
    Compare output with input, draw the contact sheet and return the figures.

    source, completed: recordings of the input and the output. topics, values: topics and node
    parameters that were used. log: log of the player. sheet: path of the picture.
    """
    expected = log['expected']
    picks = np.linspace(0, len(expected) - 1, min(SHOWN_FRAMES, len(expected))).round()
    shown = {expected[int(i)] for i in picks}
    errors: list = []
    latencies, rows = [], []
    with bag.BagReader(source) as recording, bag.BagReader(completed) as result:
        truths = read_truth(recording)
        depths, confidences = (_by_stamp(result, OUTPUTS[name][0])
                               for name in ('depth', 'confidence'))
        inputs = run_pipeline(recording, topics, values)
        for given in tqdm(inputs, total=len(expected), unit=' frames', desc='comparing'):
            stamp = given.frame.stamp_ns
            if stamp not in depths:
                continue
            latencies.append((depths[stamp][1] - log['published_ns'][str(stamp)]) / 1e6)
            depth, truth = _image(result, depths, stamp), truths.get(stamp)
            if truth is not None:
                errors.append(measure(depth, truth))
            if stamp in shown and stamp in confidences:
                caption = f'frame {expected.index(stamp) + 1} of {len(expected)}'
                rows.append(_row(given, depth, _image(result, confidences, stamp), truth, caption))
    preview.write_picture(sheet, preview.contact_sheet(rows, subtitle=_subtitle(log, values)))
    p50, p99 = np.percentile(latencies, [50, 99])
    figures: dict = {'frames_in': len(expected), 'frames_out': len(latencies),
               'drops': len(expected) - len(latencies), 'latency_p50_ms': float(p50),
               'latency_p99_ms': float(p99)}
    if errors:
        figures['errors'] = average(errors)
    return figures


def _by_stamp(recording, topic):
    """Return topic and time of arrival of the messages of a topic, by their stamps."""
    return {bag.cdr_stamp_ns(record.raw): (topic, record.log_ns)
            for record in recording.messages(topic)}


def _image(recording, arrivals, stamp_ns):
    """Return the depth or confidence image of a stamp, float32 (H, W)."""
    message = recording.decode(recording.at(*arrivals[stamp_ns], stamp_ns))
    return np.frombuffer(message.data, np.float32).reshape(message.height, message.width)


def _completed_anything(path):
    try:
        with bag.BagReader(path) as completed:
            return OUTPUTS['depth'][0] in completed.topics
    except BagError:
        return False


def _recording(args, out):
    """Return the recording to play, which is first made from frames or rendered if needed."""
    if args.bag:
        return Path(args.bag)
    target = out / 'recording.mcap'
    if args.frames:
        frames, total = read_frames(args.frames), len(find_frames(args.frames))
    else:
        from steer_depth_ros.synthetic.drive import drive_frames
        frames, total = drive_frames(RENDERED_FRAMES), RENDERED_FRAMES
    frames_to_bag(tqdm(frames, total=total, unit=' frames', desc='recording'), target,
                  overwrite=True)
    return target


def _row(given, depth, confidence, truth, caption):
    frame = given.frame
    if truth is not None:
        found = measure(depth, truth)
        caption += f'     MAE {found["mae"]:.2f} m     RMSE {found["rmse"]:.2f} m'
    caption += f'     {100 * np.isfinite(depth).mean():.0f} % of the pixels completed'
    return preview.SheetRow(frame.image, given.sparse.uv, given.sparse.depth, depth, confidence,
                            frame.camera, caption, truth)


def _subtitle(log, values):
    return f'preset {values["preset"]}     {len(log["expected"])} frames through the ROS 2 node'


def _print(figures, source, out):
    print(f'frames in {figures["frames_in"]}, out {figures["frames_out"]}, '
          f'dropped {figures["drops"]}')
    print(f'latency, image published to depth received: p50 {figures["latency_p50_ms"]:.0f} ms, '
          f'p99 {figures["latency_p99_ms"]:.0f} ms')
    if 'errors' in figures:
        mae, rmse, rel = (figures['errors'][name] for name in ERRORS)
        print(f'errors over the frames with truth: MAE {mae:.3f} m, RMSE {rmse:.3f} m, '
              f'REL {100 * rel:.1f} %')
    print(f'{out / "completed.mcap"}: the completed recording')
    print(f'{out / "sheet.png"}: the contact sheet')
    print(f'Rerun: steer_depth view {source} {out / "completed.mcap"}')
    print('Foxglove: open completed.mcap with the layout '
          f'{distro.config_file(distro.FOXGLOVE)}')
