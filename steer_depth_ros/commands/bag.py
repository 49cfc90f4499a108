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
"""Complete a recording offline, through the same code as the node."""
import sys

from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.recordings.bag_tools import complete_bag


def add_arguments(parser):
    parser.add_argument('source', metavar='IN', help='a rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('target', metavar='OUT', help='.mcap, .db3, or a folder with sqlite3')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT')
    parser.add_argument('--outputs-only', action='store_true', help='leave the image, its '
                        'camera_info and the transforms out of OUT, which a viewer needs')
    parser.add_argument('--json', metavar='FILE', help='write the figures to a file')
    options.add_completer(parser)
    options.add_topics(parser)
    options.add_calibration(parser, 'instead of a camera_info in IN')


def run(args):
    values = options.node_parameters(args)
    calibration = None
    if args.calibration:
        calibration = read_calibration(args.calibration, args.camera)
    completer = options.make_completer(args, values)
    with tqdm(unit=' frames') as bar:
        def progress(number, images):
            bar.total = images
            bar.update(number - bar.n)

        figures = complete_bag(
            args.source, args.target, completer, topics=options.topic_options(args),
            values=values, overwrite=args.overwrite, progress=progress,
            keep_inputs=not args.outputs_only, calibration=calibration,
            tell=lambda sentence: bar.write(f'warning: {sentence}', file=sys.stderr))
    dropped = ', '.join(f'{name} {count}' for name, count in figures['dropped'].items())
    print(f'{args.target}: {figures["frames"]} frames completed of {figures["images"]} images; '
          f'dropped: {dropped or "none"}')
    options.write_json(args.json, figures)
