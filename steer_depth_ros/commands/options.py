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
import importlib.util
import json
from pathlib import Path

import yaml

from steer_depth_ros.errors import ConfigError

NODE = 'depth_completion'
ROS_PARAMETERS = ('use_sim_time', 'qos_overrides', 'start_type_description_service')


def add_completer(parser):
    """Add what chooses and places the model."""
    parser.add_argument('--preset', help='see `steer_depth presets`')
    parser.add_argument('--device', help='auto (CUDA for reference alone), cpu or cuda')
    parser.add_argument('--weights', help="a checkpoint instead of the preset's own")


def completer_options(args, values=None):
    """
    Return the options that were set, as keyword arguments of DepthCompleter.

    values: parameters of the node, which count where an option was not given.
    """
    names = ('preset', 'device', 'weights')
    chosen = {name: getattr(args, name) for name in names}
    given = {name: values[name] or None for name in names if name in (values or {})}
    return {name: value for name, value in (
        (n, given.get(n) if chosen[n] is None else chosen[n]) for n in names) if value is not None}


def make_completer(args, values=None):
    """Make the DepthCompleter and say on the terminal which one it is."""
    from steer_depth_ros.completion.completer import DepthCompleter
    completer = DepthCompleter(**completer_options(args, values))
    print(completer.describe())
    return completer


def add_topics(parser):
    """Add the topics of a recording and the parameters of the node."""
    group = parser.add_argument_group('topics, found by message type where not given')
    for role in ('image', 'camera-info', 'points', 'sparse-depth'):
        group.add_argument(f'--{role}', metavar='TOPIC')
    parser.add_argument('--param', '-p', action='append', default=[], metavar='NAME=VALUE',
                        help='a parameter of the node, such as slop_s=0.1 or slop_s:=0.1; may be '
                        'repeated')
    parser.add_argument('--params', metavar='FILE', help='a parameter file of the node; --param '
                        'goes before')


def add_calibration(parser, why):
    """Add a file with the calibration of the camera."""
    parser.add_argument('--calibration', metavar='FILE', help=f'calibration {why}: YAML of '
                        'camera_calibration, OpenCV or Kalibr, calib files of KITTI, a camera '
                        'matrix as text, or JSON with fx, fy, cx, cy and T_cam_lidar')
    parser.add_argument('--camera', metavar='NAME', help='which camera of a file that has '
                        'several: a number of KITTI (default 2), a name of Kalibr (cam0)')


def topic_options(args):
    """Return the topics that were named, as keyword arguments of choose_topics."""
    return {role: getattr(args, role) for role in ('image', 'camera_info', 'points',
                                                   'sparse_depth')}


def node_parameters(args):
    """Return the parameters set with --params and --param; ConfigError for what is none."""
    values = read_parameter_file(args.params) if args.params else {}
    for entry in args.param:
        name, equals, text = entry.partition('=')
        if not equals:
            raise ConfigError(f'--param takes NAME=VALUE, not {entry}')
        try:
            values[name.removesuffix(':')] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f'--param {entry}: the value is no number, text or list') from None
    return values


def read_parameter_file(path):
    """
    Read the parameters of the node from a file as `ros2 run --params-file` takes it.

    Those of any node (/**) count, and those of depth_completion in whatever namespace before
    them. What ROS itself takes (use_sim_time, qos_overrides) is left out.
    Raise ConfigError naming the file.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f'cannot read {path}: {error.strerror}') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path} is no YAML: {" ".join(str(error).split())}') from None
    sections = list(_sections(data, '')) if isinstance(data, dict) else []
    ours = [(name, given) for name, given in sections if name.split('/')[-1] in ('**', '*', NODE)]
    named = [name for name, _ in ours if name.endswith(NODE)]
    if not ours or len(named) > 1:
        what = f'several: {", ".join(named)}; leave one' if named else (
            f'only those of {", ".join(name for name, _ in sections) or "no node"}')
        raise ConfigError(f'{path} must hold ros__parameters of {NODE} or /**, and holds {what}')
    values = {}
    for _, given in sorted(ours, key=lambda entry: entry[0].endswith(NODE)):
        values.update(_flat(given, ''))
    return {name: value for name, value in values.items()
            if name.split('.')[0] not in ROS_PARAMETERS}


def _sections(data, name):
    """Yield (node, parameters) of a file; namespaces may be keys of their own."""
    for key, value in data.items():
        if key == 'ros__parameters' and isinstance(value, dict):
            yield name, value
        elif isinstance(value, dict):
            yield from _sections(value, f'{name}/{str(key).strip("/")}')


def _flat(values, prefix):
    """Yield parameters by their names with dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def need_rclpy(what):
    """Raise ConfigError, a sentence that begins with `what`, where ROS is not installed."""
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError(f'{what} needs rclpy: pip install "steer_depth_ros[ros]", or source a '
                          'ROS 2 installation')


def write_json(path, figures):
    """Write figures to a JSON file, if one was asked for."""
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(figures, indent=2) + '\n')
    except OSError as error:
        raise ConfigError(f'cannot write {path}: {error.strerror}') from None
