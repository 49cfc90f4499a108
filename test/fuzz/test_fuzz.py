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
"""A short replay of every fuzz target, and proof that no file of weights runs code."""
import io
import json
import os
import subprocess
import sys
import zipfile

from fuzz_weights import Attack, CodeRan, nothing_runs
import fuzzing
import pytest
import torch

from steer_depth_ros.completion.refinement import Refinement
from steer_depth_ros.errors import SteerDepthError, WeightsError
from steer_depth_ros.network import checkpoints

# The unpickler doubts protocols of damaged pickles.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
EXECUTIONS = 2000
SLOW = {'sqlite': 500, 'folder': 40, 'safetensors': 700}  # executions of the costly ones


@pytest.mark.parametrize('target', fuzzing.TARGETS.values(), ids=lambda t: t.name)
def test_only_own_errors_escape(target):
    fuzzing.replay(target, SLOW.get(target.name, EXECUTIONS))


def test_every_target_accepts_a_seed_and_refuses_another():
    for target in fuzzing.TARGETS.values():
        function, seeds = target.load()
        outcomes = set()
        for data in [*seeds, b'']:
            try:
                function(data)
                outcomes.add('accepted')
            except SteerDepthError:
                outcomes.add('refused')
        # The smallest weights of a real model would be too large for a seed.
        assert outcomes == {'accepted', 'refused'} or target.name == 'safetensors', target.name


def test_with_atheris(tmp_path):
    pytest.importorskip('atheris', reason='atheris is not installed')
    report = tmp_path / 'fuzz.json'
    done = subprocess.run([sys.executable, fuzzing.__file__, 'image', '--executions', '3000',
                           '--json', str(report), '--findings', str(tmp_path)],
                          env={**os.environ, 'PYTHONPATH': str(fuzzing.ROOT)},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())['targets']['image']
    assert figures['executions'] >= 3000 and figures['edges'] > 10 and not figures['crashes']


def payloads(target):
    """Give pickles that create a file: name to bytes, each with another opcode for the call."""
    command = f'touch {target}'.encode()
    length = bytes([len(command)])
    return {
        'reduce': b"cos\nsystem\n(S'" + command + b"'\ntR.",
        'inst': b"(S'" + command + b"'\nios\nsystem\n.",
        'obj': b"(cos\nsystem\nS'" + command + b"'\no.",
        'stack global': b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c' + length + command + b'\x85R.',
        'newobj': b'\x80\x02cos\nsystem\nX' + length + b'\0\0\0' + command + b'\x85\x81.',
        'build': b"\x80\x02ccollections\nOrderedDict\n)R(dS'__setstate__'\ncos\nsystem\nsbS'"
                 + command + b"'\nb.",
        'eval': b"cbuiltins\neval\n(S'__import__(\"os\").system(\"" + command + b"\")'\ntR.",
        'import': b"cbuiltins\n__import__\n(S'antigravity'\ntR.",
        'nested load': b"ctorch\nload\n(S'" + str(target).encode() + b"'\ntR.",
    }


def in_zip(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/version', '3\n')
    return file.getvalue()


@pytest.mark.parametrize('name', payloads('x'))
@pytest.mark.parametrize('wrap', [bytes, in_zip], ids=['bare', 'zip'])
def test_no_payload_runs(tmp_path, name, wrap):
    target = tmp_path / 'ran'
    path = tmp_path / 'weights.pth'
    path.write_bytes(wrap(payloads(target)[name]))
    for read in (checkpoints.read_torch_checkpoint, checkpoints.load_safetensors,
                 Refinement.load):
        with nothing_runs(), pytest.raises(WeightsError, match='weights.pth'):
            read(path)
    assert not target.exists()


def test_the_watch_notices_code_that_runs(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'a': Attack(os.system, 'true')}, path)
    with pytest.raises(CodeRan), nothing_runs():
        torch.load(path, weights_only=False)
    with pytest.raises(CodeRan), nothing_runs():
        open(path, 'a')
