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
Measure the pose of the depth sensor, and refine it, from a recording without targets.

How it works and what it cannot see: docs/calibration.md.
"""
from pathlib import Path
import sys

import cv2
import numpy as np
from tqdm import tqdm

from steer_depth_ros.calibration import report
from steer_depth_ros.calibration.motion import sensor_twist
from steer_depth_ros.calibration.objective import FEWEST, FrameFit
from steer_depth_ros.calibration.optimize import calibrate
from steer_depth_ros.commands import options
from steer_depth_ros.errors import ConfigError, FrameError
from steer_depth_ros.evaluation.calibration_trials import (
    monitor_summary,
    run_trials,
    summary,
)
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.geometry.projection import project_points
from steer_depth_ros.recordings.bag import is_recording
from steer_depth_ros.recordings.observations import observe_bag, observe_folder

FRAMES = 10
SLOW = 0.2, 0.02  # meters and radians a second; less is no motion
SAME_LEVELS = 1.5  # of brightness between images of one view
LATE_S = 0.003  # between cloud and image, from which on the robot's motion counts


def add_arguments(parser):
    parser.add_argument('source', metavar='BAG|DIR', help='a rosbag2 folder, .mcap or .db3 file, '
                        'or a folder of frames (docs/sensors.md)')
    parser.add_argument('--degrees-of-freedom', choices=('rotation', 'pose'), default='rotation',
                        help='what to refine (%(default)s)')
    parser.add_argument('--time', action='store_true', help='refine the constant time offset '
                        'between the sensors, too; the robot must move')
    parser.add_argument('--frames', type=int, default=FRAMES, metavar='N', help='frames to use, '
                        'spread over the recording (%(default)s)')
    parser.add_argument('--trials', type=int, metavar='N', help='correct nothing, but measure how '
                        'exact this is here: calibrate from N wrong rotations of 0.3 to 2 degrees '
                        'about the extrinsics at hand, which are taken to be right')
    parser.add_argument('--out', metavar='DIR', default='calibration', help='folder for '
                        'parameters.yaml, static_transform.launch.py and before_after.png '
                        '(%(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the figures to a file')
    options.add_topics(parser)
    options.add_calibration(parser, 'instead of a camera_info in BAG')


def run(args):
    """Refine the calibration; exit status 0 also where it stays as it is."""
    if args.frames < 1:
        raise ConfigError(f'--frames must be 1 or more, not {args.frames}')
    if args.trials is not None and args.trials < 1:
        raise ConfigError(f'--trials must be 1 or more, not {args.trials}')
    with tqdm(total=100, unit='%', bar_format='{desc:<10} {bar} {n:3.0f} %') as bar:
        def stage(name, first, last):
            bar.set_description_str(name)

            def progress(share):
                bar.update(first + share * (last - first) - bar.n)
            return progress

        observations, before_s = _observe(args, stage('reading', 0, 10), lambda sentence:
                                          bar.write(f'warning: {sentence}', file=sys.stderr))
        if args.trials:
            return _measure(args, [one.frame for one in observations], stage('trials', 10, 100))
        fits, notes = _fits(args, observations, stage('edges', 10, 40))
        start = _start(observations[0])
        estimate = calibrate(fits, start, args.degrees_of_freedom == 'pose', args.time,
                             progress=stage('fitting', 40, 100))
    estimate.notes += notes
    print('\n'.join(report.describe(estimate)))
    _write(Path(args.out), observations[0], estimate, before_s)
    options.write_json(args.json, report.as_json(estimate, before_s))
    return 0


def _measure(args, frames, progress):
    """Print how far calibration is off when it starts from known errors."""
    trials = run_trials(frames, args.trials, progress=progress)
    figures = {**summary(trials), 'monitor': monitor_summary(frames, args.trials)}
    print(f'{figures["trials"]} wrong rotations, median {figures["median_before_deg"]:.2f} deg: '
          f'{figures["median_after_deg"]:.2f} deg remain (median), '
          f'{100 * figures["changed"]:.0f} % corrected, {100 * figures["worse"]:.0f} % worse than '
          f'before, within two standard deviations in {100 * figures["covered"]:.0f} %')
    print(f'monitor of the node, within 3 s: {100 * figures["monitor"]["wrong"]:.0f} % of errors '
          f'of 1 deg told, {100 * figures["monitor"]["right"]:.0f} % false alarms')
    options.write_json(args.json, figures)
    return 0


def _observe(args, progress, tell):
    if Path(args.source).is_dir() and not is_recording(Path(args.source)):
        return observe_folder(args.source, args.frames, progress), 0.0
    calibration = read_calibration(args.calibration, args.camera) if args.calibration else None
    observations, values = observe_bag(args.source, args.frames, options.topic_options(args),
                                       options.node_parameters(args), calibration, progress, tell)
    return observations, values['time_offset_s']


def _start(observation):
    """Return the extrinsics without the motion between cloud and image."""
    return np.asarray(observation.frame.camera_from_points, np.float64)


def _fits(args, observations, progress):
    """Find the edges of all frames; the notes say what is weak about them."""
    fits, notes, moving = [], [], False
    for number, one in enumerate(observations):
        frame, twist = one.frame, None
        late = 0.0 if one.moved else (one.depth_ns - frame.stamp_ns) * 1e-9
        if one.later is not None and (args.time or abs(late) > LATE_S):
            twist = sensor_twist(frame.points, one.later, (one.later_ns - one.depth_ns) * 1e-9)
        if twist is not None:
            moving |= bool(np.linalg.norm(twist[:3]) > SLOW[0]
                           or np.linalg.norm(twist[3:]) > SLOW[1])
        fits.append(FrameFit(frame.image, frame.camera, frame.points, _start(one), frame.echo,
                             twist, late))
        progress((number + 1) / len(observations))
    if args.time and not moving:
        raise ConfigError('the robot does not move in these frames, or they do not follow each '
                          'other within half a second: the time offset cannot be seen; leave '
                          '--time out, or record while driving and turning')
    edges = sum(len(fit) for fit in fits)
    if edges < FEWEST:
        _refuse(observations, edges)
    if len(fits) == 1:
        notes.append('one frame only: edges of a single view; several frames are surer')
    elif _still([one.frame.image for one in (observations[0], observations[-1])]):
        notes.append('the robot does not move in these frames: all show the same edges, and more '
                     'of them make nothing surer')
    return fits, notes


def _still(images):
    """Return whether two images show the same, but for noise and what moves by itself."""
    first, last = (cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA).astype(float)
                   for image in images)
    return float(np.median(np.abs(first - last))) < SAME_LEVELS


def _refuse(observations, edges):
    """Say why there is nothing to calibrate with."""
    inside = sum(len(project_points(one.frame.points, one.frame.camera, _start(one)))
                 for one in observations)
    if not inside:
        raise FrameError('no point of the cloud lies in the image: the extrinsics are wrong by '
                         'far more than a calibration can find, or sensor and camera look '
                         'elsewhere; start from extrinsics that are right to about 3 degrees')
    raise FrameError(f'only {edges} edges of depth lie in the image ({inside} points do), too few '
                     'to calibrate with: record where things stand before others')


def _write(folder, observation, estimate, before_s):
    frame = observation.frame
    picture = report.before_and_after(frame.image, frame.camera, frame.points, estimate.start,
                                      estimate.pose)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'parameters.yaml').write_text(report.parameters(estimate, before_s))
        (folder / 'static_transform.launch.py').write_text(report.launch_file(
            estimate, frame.frame_id, observation.points_frame))
        encoded = cv2.imencode('.png', picture[..., ::-1])[1]
        (folder / 'before_after.png').write_bytes(encoded.tobytes())
    except OSError as error:
        raise ConfigError(f'cannot write {folder}: {error.strerror}') from None
    print(f'{folder}: parameters.yaml, static_transform.launch.py, before_after.png')
