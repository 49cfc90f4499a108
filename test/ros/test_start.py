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
"""What is wrong at start is said in one sentence; interrupts end the node without a trace."""
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import dds
import pytest

from steer_depth_ros.ros.start_errors import explain, mixed_lists

BELOW = '/**:\n  ros__parameters:\n    '


def start(*arguments, code=None, **environment):
    how = ['-c', code] if code else ['-m', 'steer_depth_ros.ros.node']
    return subprocess.Popen(
        [sys.executable, *how, '--ros-args', *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, **dds.ENVIRONMENT, 'ROS_DOMAIN_ID': str(os.getpid() % 100 + 1),
             **environment})


def run(*arguments, code=None):
    process = start(*arguments, code=code)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.parametrize('arguments, text, words', [
    (('-p', 'extrinsics.xyz:=[0.0, 0.1, 1]'), None, 'extrinsics.xyz mixes whole numbers'),
    (('--params-file', '{}'), BELOW + 'extrinsics:\n      xyz: [0, 0.1, -0.2]\n',
     'extrinsics.xyz mixes whole numbers with others (or with text); write every number of a '
     'list with a decimal point'),
    (('--params-file', '{}'), 'preset: fast\n', '`/**:` and, indented, `ros__parameters:`'),
    (('--params-file', '{}'), BELOW + 'preset: [fast\n', 'is not valid YAML near line'),
    (('--params-file', '/nowhere.yaml'), None, '/nowhere.yaml cannot be opened'),
    (('--log-level', 'loud'), None, '"loud" does not exist; use debug, info, warn'),
    (('-p', 'slop_s'), None, 'write -p NAME:=VALUE'), (('-r', 'image'), None, '-r FROM:=TO'),
    (('-p', 'autostart:=maybe'), None, 'autostart'),
], ids=['mixed list', 'mixed list in a file', 'no root', 'no YAML', 'no file', 'log level',
        'no value', 'no target', 'read only'])
def test_wrong_arguments_end_it_with_one_sentence(tmp_path, arguments, text, words):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    file = tmp_path / 'parameters.yaml'
    file.write_text(text or '')
    done = run(*(word.format(file) for word in arguments))
    lines = [line for line in done.stderr.splitlines() if '[rcl]' not in line]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith('completion_node: error: ') and words in lines[0], lines


def test_all_mixed_lists_of_a_file_are_named(tmp_path):
    file = tmp_path / 'parameters.yaml'
    file.write_text(BELOW + 'extrinsics: {xyz: [1, 0.1, 2], rpy: [0.0, 0.0, 0.0]}\n'
                    '    other: [1, b]\n')
    assert mixed_lists(str(file)) == ['extrinsics.xyz', 'other']
    assert mixed_lists(str(tmp_path / 'none')) == []


def test_an_unknown_error_is_passed_on_without_source_locations():
    error = RuntimeError('failed to initialize rcl: no memory, at /src/rcl/init.c:22')
    assert explain(error) == 'no memory'


SECOND = """
import os, signal, sys
from steer_depth_ros.ros import node
def spin(_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)  # as if it came before the tidying up
        print('the second one is ignored', flush=True)
        raise
node.rclpy.spin = spin
sys.exit(node.main())
"""
TERMINATED = """
import os, signal, sys, time
from steer_depth_ros.ros import node
def load(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    while node.rclpy.ok():
        time.sleep(0.01)
    raise node.ConfigError('interrupted')
node.CompletionNode._load = load
sys.exit(node.main())
"""


def test_a_second_interrupt_cannot_break_the_cleanup():
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    done = run('-p', 'preset:=steering', '-p', 'device:=cpu', code=SECOND)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert 'the second one is ignored' in done.stdout


def test_termination_while_configuring_is_not_an_error():
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    done = run(code=TERMINATED)
    assert done.returncode == 0, done.stderr
    assert 'cannot configure' not in done.stderr and 'Traceback' not in done.stderr


LATE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int rcl_trigger_guard_condition(void *guard) {
  int (*trigger)(void *) = dlsym(dlopen(getenv("RCL"), RTLD_LAZY), "rcl_trigger_guard_condition");
  if (gettid() != getpid()) usleep(500000);
  return trigger(guard);
}
"""


@pytest.mark.skipif(not shutil.which('cc'), reason='needs a C compiler')
def test_an_answer_to_an_interrupt_that_comes_late_finds_no_freed_memory(tmp_path):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    (tmp_path / 'late.c').write_text(LATE)
    late = tmp_path / 'late.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-w', '-o', late, tmp_path / 'late.c', '-ldl'],
                   check=True)
    library, = {line.split()[-1] for line in Path('/proc/self/maps').read_text().splitlines()
                if line.endswith('/librcl.so')}
    process = start('-p', 'preset:=fast', '-p', 'device:=cpu', LD_PRELOAD=str(late), RCL=library)
    for line in process.stderr:
        if 'preset fast' in line:
            break
    time.sleep(2)  # it spins by then
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 0, rest
