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
"""Explain errors in the command line or the parameter file in one sentence."""
from pathlib import Path
import re

import yaml

LEVELS = 'debug, info, warn, error or fatal'
LISTS = 'write every number of a list with a decimal point, such as [0.0, 0.1, -0.2]'


def explain(error: Exception) -> str:
    """Return a sentence, with the remedy, for an error of rcl about its arguments."""
    text = re.sub(r', at /\S+:\d+', '', str(error)).removeprefix('failed to initialize rcl: ')
    file = re.search(r"'--params-file (.*?)'", text)
    rule = re.search(r"'(-p|--param|-r|--remap) (.*?)'", text)
    level = re.search(r"'--log-level (.*?)'", text)
    if 'should be of same type' in text:
        names = mixed_lists(file[1]) if file else [rule[2].partition(':=')[0]] if rule else []
        place = f'{file[1]}: ' if file else ''
        return (f'{place}{", ".join(names) or "a list"} mixes whole numbers with others (or with '
                f'text); {LISTS}')
    if file and 'before ros__parameters' in text:
        return (f'{file[1]}: parameters stand below two lines, `/**:` and, indented, '
                '`ros__parameters:`; see the files in config/')
    if file and 'opening YAML file' in text:
        return f'{file[1]} cannot be opened; check the path of the parameter file'
    if file and (line := re.search(r'near line (\d+)', text)):
        return f'{file[1]} is not valid YAML near line {line[1]}'
    if level:
        return f'the log level "{level[1]}" does not exist; use {LEVELS}'
    if rule:
        form = 'NAME:=VALUE' if rule[1] in ('-p', '--param') else 'FROM:=TO'
        return f'"{rule[1]} {rule[2]}" cannot be read; write {rule[1]} {form}'
    return text


def mixed_lists(file: str) -> list:
    """Return the parameters of a file that are lists of mixed types."""
    try:
        tree = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [name.partition('ros__parameters.')[2] or name for name in _mixed(tree, '')]


def _mixed(tree, path):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _mixed(value, f'{path}.{key}' if path else str(key))
    elif isinstance(tree, list) and len({type(value) for value in tree}) > 1:
        yield path
