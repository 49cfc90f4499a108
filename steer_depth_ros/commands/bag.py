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
"""Complete recordings offline, through the same code as the node."""
from functools import partial
from pathlib import Path
import sys

from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.errors import ConfigError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.recordings.bag_tools import complete_bag
from steer_depth_ros.recordings.many import complete_many, find_recordings, targets


def add_arguments(parser):
    parser.add_argument('paths', nargs='+', metavar='PATH', help='IN OUT: a rosbag2 folder, .mcap '
                        'or .db3 file, and what to write (.mcap, .db3, or a folder with sqlite3); '
                        'with --out any number of recordings, folders of them, and globs')
    parser.add_argument('--out', metavar='DIR', help='complete many recordings into this folder, '
                        'NAME.mcap each; what is there already is not done again')
    parser.add_argument('--workers', type=int, default=1, metavar='N', help='processes that '
                        'share many recordings, or the parts of long ones (%(default)s)')
    parser.add_argument('--ray', metavar='ADDRESS', help='share them over a Ray cluster instead, '
                        'such as auto or HOST:6379; its machines must see the same files')
    parser.add_argument('--overwrite', action='store_true', help='replace what is there')
    parser.add_argument('--outputs-only', action='store_true', help='leave the image, its '
                        'camera_info and the transforms out of OUT, which a viewer needs')
    parser.add_argument('--overlay', metavar='VIDEO', help='write edges of depth over edges of '
                        'the image of one recording, IN OUT, to a video (.mp4, .avi)')
    parser.add_argument('--json', metavar='FILE', help='write the figures to a file')
    options.add_completer(parser)
    options.add_topics(parser)
    options.add_calibration(parser, 'instead of a camera_info in IN')


def run(args):
    values = options.node_parameters(args)
    calibration = read_calibration(args.calibration, args.camera) if args.calibration else None
    given = {'topics': options.topic_options(args), 'values': values,
             'keep_inputs': not args.outputs_only, 'calibration': calibration}
    if args.out and args.overlay:
        raise ConfigError('--overlay is for one recording: IN OUT')
    if args.out:
        return _many(args, values, given)
    if len(args.paths) != 2:
        raise ConfigError('bag takes IN OUT, or any number of recordings with --out DIR')
    if args.workers != 1 or args.ray:
        raise ConfigError('--workers and --ray share recordings with --out DIR; bag IN OUT '
                          'completes one in this process')
    source, target = args.paths
    completer = options.make_completer(args, values)
    with tqdm(unit=' frames') as bar:
        def progress(number, images):
            bar.total = images
            bar.update(number - bar.n)

        figures = complete_bag(
            source, target, completer, overwrite=args.overwrite, progress=progress, **given,
            overlay=args.overlay,
            tell=lambda sentence: bar.write(f'warning: {sentence}', file=sys.stderr))
    dropped = ', '.join(f'{name} {count}' for name, count in figures['dropped'].items())
    print(f'{target}: {figures["frames"]} frames completed of {figures["images"]} images; '
          f'dropped: {dropped or "none"}')
    options.write_json(args.json, figures)
    return 0


def _many(args, values, given):
    """Complete many recordings; exit status 1 when one of them could not be."""
    if args.workers < 1:
        raise ConfigError(f'--workers must be 1 or more, not {args.workers}')
    from steer_depth_ros.completion.completer import DepthCompleter
    make_completer = partial(DepthCompleter, **options.completer_options(args, values))
    jobs = targets(find_recordings(args.paths), Path(args.out))
    with tqdm(total=len(jobs), bar_format='{l_bar}{bar}| {n:.1f} of {total} recordings '
              '[{elapsed}<{remaining}]') as bar:
        outcomes = complete_many(jobs, make_completer, args.workers, args.overwrite, bar.update,
                                 ray=args.ray, **given)
    failed = [outcome for outcome in outcomes if outcome.error]
    skipped = sum(outcome.skipped for outcome in outcomes)
    frames = sum(outcome.figures.get('frames', 0) for outcome in outcomes)
    print(f'{args.out}: {len(jobs) - len(failed) - skipped} recordings completed ({frames} '
          f'frames), {skipped} were there, {len(failed)} failed')
    for outcome in failed:
        print(f'  {outcome.source}: {outcome.error}')
    options.write_json(args.json, [
        {'source': str(o.source), 'target': str(o.target), 'skipped': o.skipped,
         'error': o.error, **o.figures} for o in outcomes])
    return 1 if failed else 0
