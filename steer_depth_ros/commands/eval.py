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
"""`steer_depth eval`: accuracy on a data set per preset, sample count and sampling pattern."""
import argparse
from functools import partial
import sys
from typing import Any, List

from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.commands.convert import parse_depth_range
from steer_depth_ros.errors import ConfigError

DATASETS = ('nyu', 'kitti', 'frames', 'bag', 'procedural')
DEFAULT_PATTERN = {'nyu': 'random:500', 'kitti': 'sensor', 'frames': None, 'bag': None,
                   'procedural': 'random:500'}
PROCEDURAL_FRAMES = 100
VALIDATION_SEED = 1_000_003  # not used in training
SHEET_FRAMES = 3
# heading, figure, factor, digits
PAPER_COLUMNS = (('RMSE m', 'rmse', 1, 3), ('REL', 'rel', 1, 4), ('log10', 'log10', 1, 4),
                 ('d1.02', 'delta_1.02', 100, 1), ('d1.05', 'delta_1.05', 100, 1),
                 ('d1.10', 'delta_1.10', 100, 1), ('d1.25', 'delta_1.25', 100, 1),
                 ('d1.25^2', 'delta_1.25^2', 100, 1), ('d1.25^3', 'delta_1.25^3', 100, 1))
KITTI_COLUMNS = (('RMSE mm', 'rmse', 1000, 1), ('MAE mm', 'mae', 1000, 1),
                 ('iRMSE 1/km', 'irmse', 1, 2), ('iMAE 1/km', 'imae', 1, 2),
                 ('REL', 'rel', 1, 4), ('d1.25', 'delta_1.25', 100, 1))


def add_arguments(parser):
    """Declare the options of the subcommand."""
    parser.add_argument('--dataset', required=True, choices=DATASETS)
    parser.add_argument('--data-dir', metavar='DIR',
                        help='folder of the data set; for bag a recording, not for procedural')
    parser.add_argument('--split', default='val', choices=('train', 'val'),
                        help='of nyu and kitti (default %(default)s)')
    parser.add_argument('--preset', default='default', metavar='P[,P...]',
                        help='one or more presets to compare, see `steer_depth presets`')
    parser.add_argument('--device', default='auto',
                        help='auto (CUDA for reference alone), cpu or cuda')
    parser.add_argument('--weights', help='weights file to use instead of that of the preset')
    group = parser.add_argument_group('checkpoints of the 2021 release, for --preset reference')
    group.add_argument('--kernelnet', metavar='K.pth')
    group.add_argument('--resnet', metavar='R.pth')
    group.add_argument('--depth-range', default='0.7,10', metavar='LOW,HIGH',
                       help='meters to which results are clamped, or "none" (%(default)s)')
    parser.add_argument('--samples', metavar='N[,N...]', help='numbers of random pixels')
    parser.add_argument('--pattern', action='append', default=[], metavar='NAME',
                        help='sampling pattern, such as random:500, rows:24, roof:0.4, '
                        'lidar:64+outliers:0.01 or sensor (all measurements); may be repeated')
    study = parser.add_mutually_exclusive_group()
    study.add_argument('--ablation', action='store_true', help='with procedural: the table from '
                       'fixed kernels to the whole model (of --weights, or those of --preset)')
    study.add_argument('--robustness', action='store_true', help='with procedural: the table over '
                       'few samples, beams, outliers and sizes, relative to the first preset')
    study.add_argument('--sensitivity', action='store_true', help='with procedural: what half and '
                       'one and a half times each constant do to presets without weights')
    parser.add_argument('--limit', type=int, metavar='N',
                        help=f'only the first N frames (default for procedural: '
                        f'{PROCEDURAL_FRAMES})')
    parser.add_argument('--kind', metavar='KIND', help='of rendered scenes, as street or queue; '
                        'a mix without it')
    parser.add_argument('--size', default='320x240', metavar='WxH', help='of rendered frames')
    parser.add_argument('--seed', type=int, default=VALIDATION_SEED, help='of frames and samples')
    parser.add_argument('--json', metavar='FILE', help='write all figures to a file')
    parser.add_argument('--sheet', metavar='FILE', help='write a picture sheet (.png)')
    parser.add_argument('--sheet-frames', type=int, default=SHEET_FRAMES, metavar='N',
                        help='frames on the sheet per preset and pattern (%(default)s)')
    parser.add_argument('--reliability', metavar='FILE',
                        help='write reliability diagrams of the confidence (.png)')


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table and write the requested files."""
    from steer_depth_ros.evaluation.evaluate import evaluate
    if args.limit is not None and args.limit < 1:
        raise ConfigError('--limit must be at least 1')
    if args.seed < 0 or args.sheet_frames < 1:
        raise ConfigError('--seed must be at least 0, --sheet-frames at least 1')
    if args.kind and (args.dataset != 'procedural' or args.robustness):
        raise ConfigError('--kind is for --dataset procedural without --robustness')
    if args.ablation or args.robustness or args.sensitivity:
        return run_study(args)
    patterns = parse_patterns(args)
    left_out: List[str] = []
    examples, frames = make_examples(args, patterns, left_out)
    methods = make_methods(args)
    shown = tqdm(examples, total=frames and frames * len(patterns), unit='frame',
                 disable=not sys.stderr.isatty())
    results = evaluate(methods, shown, args.sheet_frames if args.sheet else 0)
    figures = [result.figures() for result in results]
    for line in left_out:
        print(f'left out: {line}', file=sys.stderr)
    print('\n'.join(format_table(figures, args.dataset)))
    options.write_json(args.json, {'dataset': args.dataset, 'data_dir': args.data_dir,
                                   'split': args.split, 'seed': args.seed, 'results': figures,
                                   'left_out': left_out})
    write_pictures(args, results, figures)
    return 0


def run_study(args):
    """Print the table of a study; its figures go to --json."""
    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.evaluation import ablation, evaluate, robustness, sensitivity
    from steer_depth_ros.synthetic.procedural import parse_size
    name = next(n for n in ('ablation', 'robustness', 'sensitivity') if getattr(args, n))
    if args.dataset != 'procedural':
        raise ConfigError(f'--{name} needs --dataset procedural, whose scenes fit every pattern')
    if args.sheet or args.reliability:
        raise ConfigError(f'--{name} gives a table only; leave --sheet and --reliability out')

    def progress(steps, total=None, unit='frame'):
        return tqdm(steps, total=total, unit=unit, disable=not sys.stderr.isatty())

    if args.ablation:
        patterns = parse_patterns(args)
        methods = ablation.ablation_methods(_own_weights(args), find_device(args.device))
        examples, frames = make_examples(args, patterns, [])
        results = evaluate.evaluate(methods, progress(examples, frames * len(patterns)))
        lines = ablation.format_ablation(results)
        figures = [result.figures() for result in results]
    elif args.sensitivity:
        presets = [preset.strip() for preset in args.preset.split(',')]
        if args.pattern or args.samples:
            examples, _ = make_examples(args, parse_patterns(args), [])
        else:
            examples = sensitivity.sensitivity_examples(args.limit or PROCEDURAL_FRAMES, args.seed,
                                                        parse_size(args.size))
        examples = list(progress(examples))
        effects = sensitivity.measure_sensitivity(examples, presets,
                                                  partial(progress, unit='run'))
        lines = sensitivity.format_sensitivity(effects, presets)
        figures = [effect.figures() for effect in effects]
    else:
        if args.samples or args.pattern:
            raise ConfigError('--robustness has its own patterns; leave --samples and --pattern '
                              'out')
        results = robustness.robustness(make_methods(args), args.limit or PROCEDURAL_FRAMES,
                                        args.seed, parse_size(args.size), progress)
        lines = robustness.format_robustness(results)
        figures = [result.figures() for result in results]
    print('\n'.join(lines))
    options.write_json(args.json, {'study': name, 'seed': args.seed, 'size': args.size,
                                   'results': figures})
    return 0


def _own_weights(args):
    """Return the weights file of the option or the preset, None if there is none."""
    from steer_depth_ros.completion.presets import find_preset
    preset = find_preset(args.preset)
    return args.weights or (preset.weights and str(preset.weights_path()))


def parse_patterns(args):
    """Return the requested patterns or the default; raise ConfigError for an unknown pattern."""
    from steer_depth_ros.datasets.base import SENSOR
    from steer_depth_ros.synthetic.sensors import pattern_by_name
    counts = args.samples.split(',') if args.samples else []
    if not all(c.strip().isdigit() and int(c) > 0 for c in counts):
        raise ConfigError(f'--samples {args.samples}: expected whole numbers, such as 50,200,500')
    for name in args.pattern:
        if name != SENSOR or args.dataset == 'procedural':
            pattern_by_name(name)  # raises before the model is loaded
    patterns = [f'random:{int(c)}' for c in counts] + args.pattern
    return patterns or [DEFAULT_PATTERN[args.dataset]]


def make_examples(args, patterns, left_out):
    """Return the examples of the data set and the number of frames, None if unknown."""
    from steer_depth_ros.evaluation import evaluate
    from steer_depth_ros.recordings.frame_folder import find_frames
    from steer_depth_ros.synthetic.procedural import parse_size, ProceduralFrames
    from steer_depth_ros.synthetic.scenes import KINDS
    if args.dataset == 'procedural':
        if args.kind not in (None, *KINDS):
            raise ConfigError(f'--kind {args.kind}: there are {", ".join(KINDS)}')
        frames = ProceduralFrames(args.limit or PROCEDURAL_FRAMES, args.seed,
                                  parse_size(args.size), kind=args.kind)
        return evaluate.procedural_examples(frames, patterns), len(frames)
    if args.data_dir is None:
        raise ConfigError(f'--dataset {args.dataset} needs --data-dir')
    if args.dataset == 'bag':
        return evaluate.bag_examples(args.data_dir, patterns, args.limit, args.seed,
                                     left_out), None
    if args.dataset == 'frames':
        count = len(find_frames(args.data_dir)[:args.limit])
        return evaluate.folder_examples(args.data_dir, patterns, args.limit, args.seed,
                                          left_out), count
    frames = _measured_frames(args)
    return (evaluate.measured_examples(frames, patterns, args.limit),
            min(args.limit or len(frames), len(frames)))


def _measured_frames(args):
    from steer_depth_ros.datasets.kitti import KittiFrames
    from steer_depth_ros.datasets.nyu import NyuFrames
    kind: Any = {'nyu': NyuFrames, 'kitti': KittiFrames}[args.dataset]
    return kind(args.data_dir, args.split, DEFAULT_PATTERN[args.dataset], args.seed)


def make_methods(args):
    """Return a method per preset; `reference` keeps every pixel, as in its release."""
    presets = [name.strip() for name in args.preset.split(',')]
    given = (args.kernelnet is not None) + (args.resnet is not None)
    if given == 1 or (given and ('reference' not in presets or args.weights)):
        raise ConfigError('--kernelnet and --resnet must be given together, with --preset '
                          'reference and without --weights')
    if args.weights and len(presets) > 1:
        raise ConfigError('--weights is for a single preset; evaluate presets one by one')
    return {name: _reference(args) if name == 'reference' else _completer(args, name)
            for name in presets}


def _reference(args):
    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.network.reference import ReferenceModel
    device = find_device(args.device)
    if args.kernelnet:
        model = ReferenceModel.from_release(args.kernelnet, args.resnet, device,
                                            parse_depth_range(args.depth_range))
    else:
        model = ReferenceModel.load(args.weights, device)
    return partial(model.estimate, everywhere=True)  # as the release was evaluated


def _completer(args, preset):
    from steer_depth_ros.completion.completer import DepthCompleter
    completer = DepthCompleter(preset=preset, device=args.device, weights=args.weights)
    print(completer.describe())

    def predict(image, uv, depth):
        result = completer.complete(image, uv, depth)
        return result.depth, result.confidence

    return predict


def format_table(figures, dataset):
    """Return the lines of the table, with delta accuracies and coverage in percent."""
    columns = KITTI_COLUMNS if dataset == 'kitti' else PAPER_COLUMNS
    heading = ['preset', 'pattern', 'frames', 'samples', *(c[0] for c in columns), 'cover', 'ms']
    rows = [heading]
    for f in figures:
        values = [_number(f[key], factor, digits) for _, key, factor, digits in columns]
        rows.append([f['method'], f['pattern'], str(f['frames']), f'{f["samples"]:.0f}', *values,
                     _number(f['coverage'], 100, 1), f'{f["ms"]:.0f}'])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    lines = ['  '.join(cell.ljust(w) if i < 2 else cell.rjust(w)
                       for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    for f in figures:
        if f['confidence']:
            c = f['confidence']
            lines.append(f'{f["method"]} {f["pattern"]}: REL of the most confident half '
                         f'{c["rel_confident_half"]:.4f}, of the rest {c["rel_other_half"]:.4f}, '
                         f'ratio {_number(c["half_ratio"], 1, 2)}')
    return lines


def _number(value, factor, digits):
    return '-' if value is None else f'{value * factor:.{digits}f}'


def write_pictures(args, results, figures):
    """Write the sheet and the reliability diagrams, if requested."""
    import numpy as np

    from steer_depth_ros.evaluation.confidence_report import draw_reliability
    from steer_depth_ros.viz import preview
    if args.sheet:
        rows = [row for result in results for row in result.rows]
        title = f'steer_depth eval: {args.dataset}'
        preview.write_picture(args.sheet, preview.contact_sheet(rows, title))
    if args.reliability:
        plots = [draw_reliability(f['confidence'],
                                  f'{f["method"]}, {args.dataset}, {f["pattern"]}')
                 for f in figures if f['confidence']]
        if not plots:
            raise ConfigError('--reliability: none of these presets has a confidence')
        preview.write_picture(args.reliability, np.concatenate(plots, axis=1))
