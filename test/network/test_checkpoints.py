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
"""Checkpoints of all PyTorch versions are read, no code runs, and every mismatch is listed."""
from collections import OrderedDict
import io
import json
import os
import pickle

import pytest
from release_checkpoint import KERNELNET, release_state, RESNET
import torch

from steer_depth_ros.cli import main
from steer_depth_ros.completion.refinement import Refinement
from steer_depth_ros.errors import WeightsError
from steer_depth_ros.network import checkpoints, reference

MAGIC, PROTOCOL = 0x1950a86a20f9469cfc6c, 1001  # of PyTorch's own format before the zip format


class Storage:
    """Stands for a storage in a pickle stream; PyTorch wrote those as persistent ids."""

    def __init__(self, tensor):
        self.tensor = tensor.contiguous()
        self.key = str(id(tensor))


class OldTensor:
    """Pickles as a tensor did in PyTorch 0.3."""

    def __init__(self, tensor):
        self.tensor, self.storage = tensor, Storage(tensor)

    def __reduce__(self):
        return torch._utils._rebuild_tensor, (
            self.storage, 0, tuple(self.tensor.shape), tuple(self.tensor.stride()))


class OldPickler(pickle.Pickler):
    """Writes storages as the persistent ids of PyTorch 0.3, saved from a GPU."""

    storages: list

    def persistent_id(self, value):
        if isinstance(value, Storage):
            self.storages.append(value)
            return ('storage', torch.cuda.FloatStorage, value.key, 'cuda:0',
                    value.tensor.numel(), None)
        return None


class Python2Pickler(pickle._Pickler):
    """The same under Python 2, whose strings were byte strings."""

    storages: list
    persistent_id = OldPickler.persistent_id
    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text):
        self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode())
        self.memoize(text)

    dispatch[str] = save_bytes


def save_as_pytorch_0_3(state, path, pickler=OldPickler):
    """Write the file that torch.save of PyTorch 0.3 wrote for a state dict on a GPU."""
    with open(path, 'wb') as file:
        pickle.dump(MAGIC, file, protocol=2)
        pickle.dump(PROTOCOL, file, protocol=2)
        pickle.dump({'protocol_version': PROTOCOL, 'little_endian': True,
                     'type_sizes': {'short': 2, 'int': 4, 'long': 4}}, file, protocol=2)
        pickler = pickler(file, protocol=2)
        pickler.storages = []
        pickler.dump(OrderedDict((name, OldTensor(tensor)) for name, tensor in state.items()))
        stored = {s.key: s.tensor for s in pickler.storages}
        pickle.dump(sorted(stored), file, protocol=2)
        for key in sorted(stored):
            file.write(stored[key].numel().to_bytes(8, 'little'))
            file.write(stored[key].numpy().tobytes())


def with_versions(state):
    """Return a state dict as state_dict() returns it since PyTorch 0.4."""
    state = OrderedDict(state)
    state._metadata = OrderedDict({'': {'version': 1}})
    return state


SAVERS = {
    '0.3': save_as_pytorch_0_3,
    '0.3, Python 2': lambda s, p: save_as_pytorch_0_3(s, p, Python2Pickler),
    'with versions': lambda s, p: torch.save(with_versions(s), p,
                                             _use_new_zipfile_serialization=False),
    'legacy': lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    'zip': torch.save,
    'nested': lambda s, p: torch.save({'epoch': 3, 'state_dict': s}, p),
    'parallel': lambda s, p: torch.save({f'module.{n}': t for n, t in s.items()}, p),
    'parameters': lambda s, p: torch.save(
        {n: torch.nn.Parameter(t) for n, t in s.items()}, p),
    'double': lambda s, p: torch.save({n: t.double() for n, t in s.items()}, p),
}


@pytest.mark.parametrize('saver', SAVERS)
def test_checkpoints_of_every_version_and_nesting_are_read(saver, tmp_path):
    state = {'inc.weight': torch.randn(4, 3, 2), 'inc.bias': torch.randn(4)}
    path = tmp_path / 'a.pth'
    SAVERS[saver](state, path)
    read = checkpoints.read_torch_checkpoint(path)
    assert set(read) == set(state)
    for name, tensor in state.items():
        assert read[name].dtype == torch.float32 and not read[name].requires_grad
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


class Attack:
    """Runs a command when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f'touch {self.target}',)


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(zipped, tmp_path):
    path, target = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save({'inc.weight': Attack(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match='evil.pth.*running code from a file is refused'):
        checkpoints.read_torch_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the attack is a real one
    assert target.exists()


def test_a_whole_module_is_refused(tmp_path):
    path = tmp_path / 'module.pth'
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r'module.pth.*torch.save\(model.state_dict'):
        checkpoints.read_torch_checkpoint(path)


def damaged_files():
    buffer = io.BytesIO()
    torch.save({'a': torch.zeros(1000)}, buffer)
    zipped = buffer.getvalue()
    buffer = io.BytesIO()
    torch.save({'a': torch.zeros(1000)}, buffer, _use_new_zipfile_serialization=False)
    legacy = buffer.getvalue()
    return {'empty': b'', 'text': b'not a checkpoint\n', 'zeros': bytes(4096),
            'zip cut': zipped[:len(zipped) // 2], 'legacy cut': legacy[:len(legacy) // 2],
            'legacy head': legacy[:40], 'pickle cut': b'\x80\x02}q\x00X\n\x00\x00',
            'html': b'<!DOCTYPE html><html></html>'}


@pytest.mark.parametrize('kind', damaged_files())
def test_damaged_files_are_named(kind, tmp_path):
    path = tmp_path / 'broken.pth'
    path.write_bytes(damaged_files()[kind])
    with pytest.raises(WeightsError, match='broken.pth'):
        checkpoints.read_torch_checkpoint(path)
    with pytest.raises(WeightsError, match='broken.pth'):
        checkpoints.load_safetensors(path)


@pytest.mark.parametrize('content, message', [
    ([1, 2], 'a list instead of a state dict'), ({}, 'a dict instead of a state dict'),
    ({'a': torch.zeros(1), 'lr': 0.1}, 'not tensors: lr')])
def test_other_content_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=message):
        checkpoints.read_torch_checkpoint(tmp_path / 'a.pth')


def test_missing_file_is_named(tmp_path):
    for read in (checkpoints.read_torch_checkpoint, checkpoints.load_safetensors):
        with pytest.raises(WeightsError, match='nowhere'):
            read(tmp_path / 'nowhere')


def test_one_error_lists_all_mismatches():
    state = release_state(KERNELNET, 0)
    del state['inc.conv.conv.0.bias'], state['outc.conv.weight']
    state['fc.weight'] = torch.zeros(2)
    state['outc.conv.bias'] = torch.zeros(4)
    state['up3.conv.conv.0.bias'][3] = torch.nan
    with pytest.raises(WeightsError) as caught:
        checkpoints.check_state(reference.KernelNet(), state, 'k.pth')
    text = str(caught.value)
    for part in ('k.pth', 'KernelNet', '2 missing: inc.conv.conv.0.bias, outc.conv.weight',
                 '1 extra: fc.weight', 'outc.conv.bias (4,) instead of (3,)',
                 '1 not finite: up3.conv.conv.0.bias'):
        assert part in text


@pytest.mark.parametrize('counters', [False, True])
@pytest.mark.parametrize('blocks, model', [(KERNELNET, reference.KernelNet),
                                           (RESNET, reference.ResidualUNet)])
def test_release_names_fit_with_and_without_counters(blocks, model, counters):
    model = model()
    state = release_state(blocks, 0, counters)
    checkpoints.load_into(model, state, 'release')
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_safetensors_keep_everything_and_notice_changes(tmp_path):
    path = tmp_path / 'sub' / 'w.safetensors'
    state = {'a': torch.randn(3, 2).T, 'n': torch.tensor(5), 'h': torch.randn(4).half()}
    checkpoints.save_safetensors(path, state, 'fast', {'width': 8})
    read, info = checkpoints.load_safetensors(path)
    assert info == ('fast', {'width': 8})
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert os.listdir(path.parent) == ['w.safetensors']
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match='w.safetensors.*checksum'):
        checkpoints.load_safetensors(path)
    path.write_bytes(bytes(content).replace(b'\\"width\\": 8', b'\\"width\\": 9'))
    with pytest.raises(WeightsError, match='checksum'):
        checkpoints.load_safetensors(path)


def test_foreign_safetensors_and_unwritable_target_are_named(tmp_path):
    from safetensors.torch import save_file
    save_file({'a': torch.zeros(1)}, tmp_path / 'foreign.safetensors')
    with pytest.raises(WeightsError, match='foreign.safetensors are not of this package'):
        checkpoints.load_safetensors(tmp_path / 'foreign.safetensors')
    (tmp_path / 'file').write_text('')
    with pytest.raises(WeightsError, match='cannot write'):
        checkpoints.save_safetensors(tmp_path / 'file' / 'w', {}, 'fast', {})


@pytest.mark.parametrize('config', ['[]', '{', '{"features": 1}', '{"channels": 4}', '[' * 9999,
                                    '{"channels": [4, 4, 4, 1e400]}', '{"channels": [4, 4]}',
                                    '{"channels": [9999999, 9999999, 9999999, 9999999]}'])
def test_a_configuration_that_cannot_be_built_is_named(config, tmp_path):
    from safetensors.torch import save_file
    path, state = tmp_path / 'w.safetensors', {'a': torch.zeros(2)}
    metadata = {'format': checkpoints.FORMAT, 'architecture': 'refinement_net', 'config': config}
    save_file(state, path, {**metadata, 'sha256': checkpoints.digest(state, metadata)})
    with pytest.raises(WeightsError, match='w.safetensors'):
        Refinement.load(path)


@pytest.mark.parametrize('depth_range', [5, 'far', [1], [2, 1], ['a', 'b'], {}, [0, None]])
def test_an_impossible_depth_range_is_named(depth_range, tmp_path):
    path = tmp_path / 'w.safetensors'
    checkpoints.save_safetensors(path, {'a': torch.zeros(1)}, reference.ARCHITECTURE,
                                 {'depth_range': depth_range})
    with pytest.raises(WeightsError, match='w.safetensors states the depth range'):
        reference.ReferenceModel.load(path)


def test_convert_command(tmp_path, capsys):
    kernelnet, resnet = release_state(KERNELNET, 1), release_state(RESNET, 2, counters=True)
    save_as_pytorch_0_3(kernelnet, tmp_path / 'k.pth')
    torch.save(resnet, tmp_path / 'r.pth', _use_new_zipfile_serialization=False)
    arguments = ['convert', '--kernelnet', str(tmp_path / 'k.pth'), '--resnet']
    out = ['--out', str(tmp_path / 'ref.safetensors')]
    assert main([*arguments, str(tmp_path / 'r.pth'), *out, '--depth-range', '0,80',
                 '--json', str(tmp_path / 'c.json')]) == 0
    assert json.loads((tmp_path / 'c.json').read_text())['depth_range'] == [0, 80]
    loaded = reference.ReferenceModel.load(tmp_path / 'ref.safetensors')
    assert loaded.model.depth_range == (0, 80)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[f'kernelnet.{n}'], t) for n, t in kernelnet.items())
    assert all(torch.equal(state[f'resnet.{n}'], t) for n, t in resnet.items())
    capsys.readouterr()
    # Swapped files, a typical slip.
    assert main([*arguments, str(tmp_path / 'k.pth'), *out]) == 2
    assert 'k.pth does not fit ResidualUNet' in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / 'r.pth'), *out, '--depth-range', '5,1']) == 2
    assert '--depth-range 5,1' in capsys.readouterr().err
