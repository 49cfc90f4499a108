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

import yaml

from steer_depth_ros.errors import ConfigError


def add_completer(parser):
    """Add what chooses and places the model."""
    parser.add_argument('--preset', help='see `steer_depth presets`')
    parser.add_argument('--device', help='auto, cpu or cuda (presets with a network)')
    parser.add_argument('--weights', help="a checkpoint instead of the preset's own")


def completer_options(args):
    """Give the options that were set, as keyword arguments of DepthCompleter."""
    chosen = {name: getattr(args, name) for name in ('preset', 'device', 'weights')}
    return {name: value for name, value in chosen.items() if value is not None}


def make_completer(args):
    """Make the DepthCompleter and say on the terminal which one it is."""
    from steer_depth_ros.completion.completer import DepthCompleter
    completer = DepthCompleter(**completer_options(args))
    print(completer.describe())
    return completer


def add_topics(parser):
    """Add the topics of a recording and the parameters of the node."""
    group = parser.add_argument_group('topics, found by message type where not given')
    for role in ('image', 'camera-info', 'points', 'sparse-depth'):
        group.add_argument(f'--{role}', metavar='TOPIC')
    parser.add_argument('--param', action='append', default=[], metavar='NAME=VALUE',
                        help='a parameter of the node, such as slop_s=0.1; may be repeated')


def topic_options(args):
    """Give the topics that were named, as keyword arguments of choose_topics."""
    return {role: getattr(args, role) for role in ('image', 'camera_info', 'points',
                                                   'sparse_depth')}


def node_parameters(args):
    """Give the parameters set with --param as a dict; ConfigError when one has no value."""
    values = {}
    for entry in args.param:
        name, equals, text = entry.partition('=')
        if not equals:
            raise ConfigError(f'--param takes NAME=VALUE, not {entry}')
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f'--param {entry}: the value is no number, text or list') from None
    return values


def write_json(path, figures):
    """Write figures to a JSON file, if one was asked for."""
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(figures, indent=2) + '\n')
    except OSError as error:
        raise ConfigError(f'cannot write {path}: {error.strerror}') from None
