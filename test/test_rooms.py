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
"""Which part of the package may import which: the table of docs/design.md, and no circles."""
import ast
from graphlib import TopologicalSorter
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'steer_depth_ros'
EVERYWHERE = {'errors', 'image_decode'}  # modules of the package root, of use to every room


def allowed():
    """Read the table: {room: rooms that it may import}."""
    text = (ROOT / 'docs' / 'design.md').read_text()
    table = text.split('## Rooms')[1].split('\n## ')[0]
    rooms: dict = {}
    for room, names in re.findall(r'^\| `([a-z/]+)/` \| [^|]* \| ([^|]*) ?\|$', table,
                                  re.MULTILINE):
        rooms[room] = (set(rooms) if names.strip() == 'all above'
                       else set(re.findall(r'`([a-z/]+)/`', names)))
    return rooms


def module_name(path):
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    return name.removesuffix('.__init__')


MODULES = {module_name(path): path for path in (ROOT / PACKAGE).rglob('*.py')}


def room_of(module):
    """Return the room of a module; None for one of the package root."""
    parts = module.split('.')[1:]
    if parts[:2] == ['ros', 'tools']:
        return 'ros/tools'
    path = MODULES[module]
    return parts[0] if len(parts) > 1 or path.name == '__init__.py' and parts else None


def imports(module, lazy=True):
    """Return the modules of the package that a module imports; lazy: those in functions too."""
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    nodes = ast.walk(tree) if lazy else _at_import(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == PACKAGE:
            for name in node.names:
                below = f'{node.module}.{name.name}'
                found.add(below if below in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in MODULES}
    return found - {module}


def _at_import(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield child
            yield from _at_import(child)


def test_every_room_stands_in_the_table():
    rooms = {room_of(module) for module in MODULES} - {None}
    assert rooms == set(allowed())
    assert all(names <= rooms for names in allowed().values())


@pytest.mark.parametrize('room', sorted(allowed()))
def test_a_room_imports_only_what_the_table_allows(room):
    may = allowed()[room] | {room}
    wrong = [f'{module} imports {other}' for module in MODULES if room_of(module) == room
             for other in sorted(imports(module))
             if (room_of(other) or other.rpartition('.')[2]) not in may | EVERYWHERE
             and other != PACKAGE]
    assert not wrong


def test_no_circle_of_rooms():
    order = list(TopologicalSorter(allowed()).static_order())  # CycleError names a circle
    assert order.index('geometry') < order.index('ros') < order.index('commands')


def test_no_circle_of_modules():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_the_package_root_is_small():
    assert len(list((ROOT / PACKAGE).glob('*.py'))) <= 6


def test_a_robot_loads_neither_renderer_nor_training():
    loaded, waiting = set(), [f'{PACKAGE}.ros.node', f'{PACKAGE}.completion.completer']
    while waiting:
        module = waiting.pop()
        if module not in loaded:
            loaded.add(module)
            waiting += imports(module)
    rooms = {room_of(module) for module in loaded}
    assert 'completion' in rooms
    assert not rooms & {'training', 'synthetic', 'datasets', 'evaluation', 'commands',
                        'benchmarks'}
