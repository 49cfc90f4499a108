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
"""Style: the checks of ament_copyright, ament_flake8 and ament_pep257 without these tools."""
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for folder in ('steer_depth_ros', 'test', 'launch')
                 for p in (ROOT / folder).rglob('*.py'))
LICENSED = ROOT / 'steer_depth_ros' / 'errors.py'


def test_ruff_finds_nothing():
    pytest.importorskip('ruff', reason='ruff is not installed')
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', str(ROOT)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_mypy_finds_nothing():
    pytest.importorskip('mypy', reason='mypy is not installed')
    done = subprocess.run([sys.executable, '-m', 'mypy'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_has_the_license_header():
    header = LICENSED.read_text().split('"""')[0]
    assert 'http://www.apache.org/licenses/LICENSE-2.0' in header
    assert [str(p) for p in SOURCES if not p.read_text().startswith(header)] == []


def test_no_file_names_a_path_of_the_development_machine():
    suspects = [p for p in ROOT.rglob('*') if p.suffix in ('.py', '.md', '.yaml', '.h', '.cpp')
                and not {'.venv', 'build', 'out'} & set(p.relative_to(ROOT).parts)
                and re.search(r'/(work|root)/', p.read_text(errors='replace'))
                and p != Path(__file__)]
    assert not suspects


@pytest.mark.parametrize('linter, arguments', [
    ('copyright', ['steer_depth_ros', 'test', 'launch']),
    ('flake8', ['--linelength', '99', 'steer_depth_ros', 'test', 'launch', 'setup.py']),
    ('pep257', ['steer_depth_ros', 'test', 'launch']), ('xmllint', ['package.xml'])])
def test_linters_of_ament(linter, arguments, monkeypatch):
    module = pytest.importorskip(f'ament_{linter}.main', reason=f'ament_{linter} comes with ROS')
    monkeypatch.chdir(ROOT)
    assert module.main(argv=arguments) == 0


def test_manifest_is_well_formed():
    xmllint = shutil.which('xmllint')
    if xmllint is None:
        from xml.etree import ElementTree
        ElementTree.parse(ROOT / 'package.xml')
    else:
        subprocess.run([xmllint, '--noout', str(ROOT / 'package.xml')], check=True)
