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
"""`steer_depth convert`: convert the two checkpoints of the 2021 release to a safetensors file."""
import argparse
from pathlib import Path

from steer_depth_ros.commands import options
from steer_depth_ros.errors import ConfigError


def add_arguments(parser):
    """Declare the options of the subcommand."""
    parser.add_argument('--kernelnet', required=True, metavar='K.pth',
                        help='checkpoint of KernelNet (kernelnet_model.pth)')
    parser.add_argument('--resnet', required=True, metavar='R.pth',
                        help='checkpoint of the residual U-Net (resnet_model.pth)')
    parser.add_argument('--out', required=True, metavar='F.safetensors', help='file to write')
    parser.add_argument('--depth-range', default='0.7,10', metavar='LOW,HIGH',
                        help='meters to which results are clamped, or "none" '
                             '(default %(default)s, as the release does on NYUv2)')
    parser.add_argument('--json', metavar='FILE', help='write a summary as JSON')


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoints and print a summary."""
    from steer_depth_ros.network import checkpoints, reference
    depth_range = parse_depth_range(args.depth_range)
    state = reference.read_release(args.kernelnet, args.resnet)
    config = {'depth_range': depth_range}
    checksum = checkpoints.save_safetensors(args.out, state, reference.ARCHITECTURE, config)
    report = {'out': str(args.out), 'bytes': Path(args.out).stat().st_size,
              'tensors': len(state), 'parameters': sum(t.numel() for t in state.values()),
              'sha256': checksum, 'depth_range': depth_range}
    print(f'{args.out}: {report["tensors"]} tensors, {report["parameters"] / 1e6:.1f} M numbers, '
          f'sha256 {checksum[:16]}')
    options.write_json(args.json, report)
    return 0


def parse_depth_range(text):
    """Return [low, high] in meters, or None for "none"; raise ConfigError otherwise."""
    if text == 'none':
        return None
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError:
        low = high = 0.0
    if not 0 <= low < high < float('inf'):
        raise ConfigError(f'--depth-range {text}: expected LOW,HIGH in meters with '
                          '0 <= LOW < HIGH, or "none"')
    return [low, high]
