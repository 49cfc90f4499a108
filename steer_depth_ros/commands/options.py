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
"""Options that several subcommands share."""
import json
from pathlib import Path

from steer_depth_ros.bag_frames import SLOP_S
from steer_depth_ros.errors import ConfigError
from steer_depth_ros.transforms import matrix_from


def add_completer(parser):
    """Add what chooses and places the model."""
    parser.add_argument('--preset', help='see `steer_depth presets`')
    parser.add_argument('--device', help='auto, cpu or cuda')
    parser.add_argument('--weights', help="a checkpoint instead of the preset's own")


def completer_options(args):
    """Give the options that were set, as keyword arguments of DepthCompleter."""
    chosen = {name: getattr(args, name) for name in ('preset', 'device', 'weights')}
    return {name: value for name, value in chosen.items() if value is not None}


def make_completer(args):
    """Make the DepthCompleter and say on the terminal which one it is."""
    from steer_depth_ros.completer import DepthCompleter
    completer = DepthCompleter(**completer_options(args))
    print(completer.describe())
    return completer


def add_topics(parser):
    """Add the topics of a recording, and how its messages belong together."""
    group = parser.add_argument_group('topics, found by message type where not given')
    for role in ('image', 'camera-info', 'points', 'sparse-depth'):
        group.add_argument(f'--{role}', metavar='TOPIC')
    group.add_argument('--rectified', action='store_true',
                       help='the images are rectified: use P of camera_info, no distortion')
    group.add_argument('--slop', type=float, default=SLOP_S, metavar='S',
                       help='largest time between an image and its depth (%(default)s s)')
    group.add_argument('--xyz', type=float, nargs=3, metavar=('X', 'Y', 'Z'),
                       help='pose of the LiDAR in the optical frame of the camera, metres, '
                       'instead of the recorded /tf')
    group.add_argument('--quaternion', type=float, nargs=4, metavar=('X', 'Y', 'Z', 'W'))


def topic_options(args):
    """Give the topics that were named, as keyword arguments of choose_topics."""
    return {role: getattr(args, role) for role in ('image', 'camera_info', 'points',
                                                   'sparse_depth')}


def extrinsics(args):
    """Give the (4, 4) from the cloud to the optical frame, or None; ConfigError if half given."""
    if (args.xyz is None) != (args.quaternion is None):
        raise ConfigError('--xyz and --quaternion belong together; give both or neither')
    return None if args.xyz is None else matrix_from(args.xyz, args.quaternion)


def write_json(path, figures):
    """Write figures to a JSON file, if one was asked for."""
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(figures, indent=2) + '\n')
    except OSError as error:
        raise ConfigError(f'cannot write {path}: {error.strerror}') from None
