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
"""Workflows, images and the sdist: parsed here, and run as far as this machine can."""
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted(ROOT.glob('.github/workflows/*.yml'))
DOCKERFILES = sorted(ROOT.glob('docker/Dockerfile*'))
DISTRIBUTIONS = {'humble', 'jazzy', 'lyrical', 'rolling'}
PYTHONS = ['3.10', '3.11', '3.12', '3.13', '3.14']


def jobs(path):
    return yaml.safe_load(path.read_text())['jobs']


def steps():
    """Give (workflow, name, script) of every step that runs a script."""
    return [(path.name, step['name'], step['run']) for path in WORKFLOWS
            for job in jobs(path).values() for step in job['steps'] if 'run' in step]


def instructions(path):
    """Give (word, rest) of each instruction of a Dockerfile, continued lines joined."""
    lines = re.sub(r'^#.*\n', '', path.read_text(), flags=re.MULTILINE).replace('\\\n', ' ')
    return [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]


def check_syntax(script):
    # Expressions of the workflow are replaced before the shell sees them.
    script = re.sub(r'\$\{\{.*?\}\}', 'value', script)
    done = subprocess.run(['bash', '-n'], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def sources(tmp_path):
    """Copy what git tracks, as a checkout gives it."""
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('not a git checkout')
    for name in filter(None, listed.stdout.split('\0')):
        target = tmp_path / 'sources' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target)
    return tmp_path / 'sources'


def run_step(name, folder):
    """Run a step of a workflow as it stands, with this Python as `python`."""
    script = next(script for _, step, script in steps() if step == name)
    path = folder.parent / 'bin'
    path.mkdir(exist_ok=True)
    (path / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (path / 'python').chmod(0o755)
    done = subprocess.run(['bash', '-e', '-c', f'PATH={path}:$PATH\n{script}'], cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_is_whole(path):
    for job in jobs(path).values():
        assert job['runs-on'] and job['steps']
        for step in job['steps']:
            assert ('run' in step) != ('uses' in step), step
            assert 'uses' not in step or re.fullmatch(r'[\w-]+/[\w-]+@v\d+[\d.]*', step['uses'])
        used = set(re.findall(r'matrix\.(\w+)', yaml.dump(job)))
        assert used == set(job.get('strategy', {}).get('matrix', {}))


def test_versions_are_those_that_the_documents_name():
    [python] = [job['strategy']['matrix']['python'] for path in WORKFLOWS
                for job in jobs(path).values() if 'python' in str(job.get('strategy'))]
    assert python == PYTHONS
    [names] = [job['strategy']['matrix']['distribution'] for path in WORKFLOWS
               for job in jobs(path).values() if 'distribution' in str(job.get('strategy'))]
    assert set(names) == DISTRIBUTIONS
    for name in ('README.md', 'docs/node.md'):
        text = (ROOT / name).read_text()
        assert 'Kilted' not in text and 'Lyrical' in text


@pytest.mark.parametrize('workflow, name, script', steps())
def test_a_step_is_a_script_whose_files_and_targets_exist(workflow, name, script):
    check_syntax(script)
    for target in re.findall(r'\bmake (\w+)', script):
        made = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    for path in re.findall(r'src/steer_depth_ros/([\w/.]+)', script):
        assert (ROOT / path).exists(), path
    for launch in re.findall(r'[\w]+\.launch\.py', script):
        assert (ROOT / 'launch' / launch).exists()
    for command in re.findall(r'(?:bin/|steer_depth_ros )steer_depth ([a-z-]+)', script):
        from steer_depth_ros.cli import COMMANDS
        assert command in COMMANDS


def test_containers_are_set_up_as_the_readme_says():
    readme = (ROOT / 'README.md').read_text().split('## On a robot')[1].split('\n## ')[0]
    said = [part.strip() for line in re.findall(r'^    (.+)$', readme, re.MULTILINE)[:4]
            for part in line.split('&&')]
    done = '\n'.join(script for workflow, _, script in steps() if workflow == 'ros.yml')
    for command in said:
        command = command.removeprefix('sudo ').removeprefix('cd ~/ws')
        command = command.removeprefix('apt install').strip()
        assert command in done, command


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda p: p.name)
def test_a_dockerfile_copies_and_runs_what_exists(path):
    found = instructions(path)
    words = [word for word, _ in found]
    assert words.count('FROM') == 1 and 'ENTRYPOINT' in words
    assert set(words) <= {'ARG', 'FROM', 'SHELL', 'ENV', 'WORKDIR', 'RUN', 'COPY', 'ENTRYPOINT',
                          'CMD'}
    for word, rest in found:
        if word == 'RUN':
            check_syntax(rest)
        elif word == 'COPY':
            assert (ROOT / rest.split()[0]).exists(), rest
    declared = {rest.split('=')[0] for word, rest in found if word == 'ARG'}
    assert declared & set(re.findall(r'\$\{(\w+)\}', found[1][1]))  # of the base image


def test_the_entrypoint_runs_a_command_in_the_workspace(tmp_path):
    for name in ('venv/bin/activate', 'install/setup.bash'):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f'export SEEN="$SEEN {name}"\n')
    done = subprocess.run(
        ['bash', str(ROOT / 'docker' / 'entrypoint.sh'), 'sh', '-c', 'echo "$0$SEEN"'],
        env={'WORKSPACE': str(tmp_path), 'PATH': '/usr/bin:/bin'}, capture_output=True, text=True)
    assert done.stdout == 'sh venv/bin/activate install/setup.bash\n', done.stderr


def test_the_sdist_step_packs_what_a_build_needs(sources):
    pytest.importorskip('build', reason='build is not installed; pip install .[test]')
    run_step('sdist', sources)
    [archive] = sources.glob('dist/*.tar.gz')
    with tarfile.open(archive) as tar:
        packed = {name.partition('/')[2] for name in tar.getnames()}
    needed = [p.relative_to(sources).as_posix() for pattern in (
        'csrc/**/*.*', 'config/*.*', 'config/train/*', 'launch/*', 'steer_depth_ros/**/*.py',
        'steer_depth_ros/weights/*', 'resource/*') for p in sources.glob(pattern)]
    missing = {*needed, 'package.xml', 'setup.cfg', 'pyproject.toml', 'LICENSE'} - packed
    assert len(needed) > 150 and not missing
    assert not [name for name in packed if name.endswith('.so')]


def test_issue_forms_ask_for_the_doctor():
    for path in sorted(ROOT.glob('.github/ISSUE_TEMPLATE/*.yml')):
        form = yaml.safe_load(path.read_text())
        assert form['name'] and form['description']
        labels = [field['attributes']['label'] for field in form['body']]
        assert any('steer_depth doctor' in label for label in labels)


def test_the_changelog_has_the_form_that_release_tools_read():
    lines = (ROOT / 'CHANGELOG.rst').read_text().splitlines()
    assert lines[0] == lines[2] == '^' * len(lines[1])
    assert lines[1] == 'Changelog for package steer_depth_ros'
    heads = [lines[i - 1] for i, line in enumerate(lines) if line and not line.strip('-')]
    assert heads[0] == 'Forthcoming'
    assert all(re.fullmatch(r'\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)', head) for head in heads[1:])
    version = re.search(r'<version>(.*)</version>', (ROOT / 'package.xml').read_text())
    assert version and heads[1].startswith(version[1])
