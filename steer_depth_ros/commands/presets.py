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
"""`steer_depth presets`: list presets, requirements and measured figures, without torch."""
from steer_depth_ros.commands import options
from steer_depth_ros.completion.presets import (
    DEFAULT,
    measured_figures,
    PRESETS,
    stored_parameters,
)


def add_arguments(parser):
    parser.add_argument('--json', metavar='FILE', help='write the list to a file')


def run(args):
    measured = measured_figures()
    listed = [describe(preset, measured.get(preset.name, {})) for preset in PRESETS.values()]
    print(f'default: is {DEFAULT}')
    for entry in listed:
        print('\n'.join(format_preset(entry)))
    options.write_json(args.json, listed)
    return 0


def describe(preset, measured):
    """Return a preset as a mapping for JSON; parameters and bytes are None without weights."""
    path = preset.weights_path()
    exists = path is not None and path.exists()
    return {'name': preset.name, 'summary': preset.summary, 'needs': preset.needs,
            'weights': preset.weights, 'parameters': stored_parameters(path) if exists else None,
            'bytes': path.stat().st_size if exists else None, 'measured': measured}


def format_preset(entry):
    """Return the lines about one preset."""
    lines = [f'{entry["name"]}: {entry["summary"]}', f'  needs     {entry["needs"]}']
    if entry['weights']:
        size = 'missing' if entry['bytes'] is None else (
            f'{entry["parameters"]:,} parameters, {entry["bytes"] / 1e6:.2f} MB')
        lines.append(f'  weights   {entry["weights"]} ({size})')
    measured = entry['measured']
    if 'score' in measured:
        lines.append(f'  score     {measured["score"]:.3f} (linear interpolation: 1, lower is '
                     'better)')
    if measured.get('mae_vs_linear'):
        tasks = ', '.join(f'{task} {value:.2f}'
                          for task, value in measured['mae_vs_linear'].items())
        lines.append(f'  MAE relative to linear interpolation: {tasks}')
    if measured.get('of_linear'):
        ratios = ', '.join(f'{ratio:.2f} at {size}'
                           for size, ratio in measured['of_linear'].items())
        lines.append(f'  time      relative to linear interpolation in the same run: {ratios}')
    if measured.get('ms'):
        times = ', '.join(f'{ms:.0f} ms at {size}' for size, ms in measured['ms'].items())
        lines.append(f'            {times}; {measured.get("machine", "machine not stated")}')
    if 'command' in measured:
        lines.append(f'  repeat    {measured["command"]}')
    return lines
