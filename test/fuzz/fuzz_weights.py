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
"""Checkpoints and weights: tensors or a WeightsError, and nothing in a file is ever executed."""
from contextlib import contextmanager, suppress
import io
import os
import pickle
import struct
import sys
import zipfile

from fuzz_input import Scratch
from safetensors.torch import save
import torch

from steer_depth_ros.completion.refinement import Refinement
from steer_depth_ros.errors import WeightsError
from steer_depth_ros.network import checkpoints
from steer_depth_ros.network.refinement_net import ARCHITECTURE

FILES = Scratch()
STATE = {'inc.weight': torch.arange(6.0).reshape(2, 3), 'inc.bias': torch.zeros(2).half(),
         'bn.num_batches_tracked': torch.tensor(3)}
RAW, PICKLE_OF_ZIP, CONFIG = 0, 1, 1  # the first byte of an input
# What code in a file would have to do to reach anything outside its own process.
FORBIDDEN = ('os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'os.spawn', 'os.startfile',
             'os.remove', 'os.rename', 'os.rmdir', 'os.mkdir', 'os.link', 'os.symlink',
             'os.truncate', 'os.chmod', 'os.kill', 'os.putenv', 'subprocess.', 'socket.',
             'shutil.', 'pty.', 'webbrowser.', 'builtins.input')
_watching = False


class CodeRan(BaseException):
    """Reading a file reached outside; nothing on the way up takes it for a damaged file."""


class Attack:
    """Pickles as a call of some function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def checkpoint(data):
    """Read a file of PyTorch: its bytes, or a sound zip archive around this pickle."""
    body = data[1:]
    if data[:1] and data[0] % 2 == PICKLE_OF_ZIP:
        body = _archive(body)
    path = FILES.write('checkpoint.pth', body)
    with nothing_runs():
        tensors = checkpoints.read_torch_checkpoint(path)
    assert all(isinstance(name, str) and isinstance(value, torch.Tensor)
               for name, value in tensors.items())


def checkpoint_seeds():
    """Give the zip and the legacy format, nested ones, and pickles that call functions."""
    attacks = [{'inc.weight': Attack(os.system, 'true')}, Attack(eval, '1'),
               {'inc.weight': Attack(open, os.devnull, 'w')}]
    contents = [STATE, {'state_dict': STATE, 'epoch': 3},
                {'module.a': torch.nn.Parameter(torch.ones(2, 2))}, *attacks]
    seeds = []
    for content in contents:
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            seeds.append(bytes([RAW]) + file.getvalue())
            if zipped:
                with zipfile.ZipFile(file) as archive:
                    name = next(n for n in archive.namelist() if n.endswith('data.pkl'))
                    seeds.append(bytes([PICKLE_OF_ZIP]) + archive.read(name))
    seeds += [bytes([RAW]) + pickle.dumps(content, 2) for content in attacks]
    return seeds


def safetensors(data):
    """Load a model: from a file's bytes, or from sound weights that state this configuration."""
    signed = data[:1] and data[0] % 2 == CONFIG
    path = FILES.write('weights.safetensors', _signed(data[1:]) if signed else data[1:])
    with nothing_runs():
        Refinement.load(path)


def safetensors_seeds():
    """Give weights as the package writes them, a file of another origin, and configurations."""
    empty = b'{}'
    foreign = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    texts = [b'{"channels":[4,4,4,4],"details":4}', b'[]', b'{"channels":-1}']
    with suppress(WeightsError):  # torch imports parts of itself at first use: let it, unwatched
        Refinement.load(FILES.write('weights.safetensors', _signed(texts[0])))
    return [bytes([RAW]) + _signed(texts[0]), bytes([RAW]) + struct.pack('<Q', 2) + empty,
            bytes([RAW]) + struct.pack('<Q', len(foreign)) + foreign + bytes(4),
            *(bytes([CONFIG]) + text for text in texts)]


@contextmanager
def nothing_runs():
    """Raise CodeRan when what happens inside starts, connects to or writes anything else."""
    global _watching
    _hook()
    _watching = True
    try:
        yield
    finally:
        _watching = False


def _archive(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/byteorder', 'little')
        for key in range(3):
            archive.writestr(f'archive/data/{key}', bytes(24))
        archive.writestr('archive/version', '3\n')
    return file.getvalue()


def _signed(config):
    metadata = {'format': checkpoints.FORMAT, 'architecture': ARCHITECTURE,
                'config': config.decode('utf-8', 'replace')}
    metadata['sha256'] = checkpoints.digest(STATE, metadata)
    return save(STATE, metadata)


def _hook():
    """Watch this process from now on; Python has no way to take an audit hook off."""
    if getattr(sys, '_steer_depth_watched', False):
        return
    sys._steer_depth_watched = True

    def watch(event, arguments):
        if not _watching:
            return
        if event == 'open' and set(str(arguments[1])) & set('wax+'):
            raise CodeRan(f'{event} {arguments}')
        if event.startswith(FORBIDDEN):
            raise CodeRan(f'{event} {arguments}')

    sys.addaudithook(watch)
