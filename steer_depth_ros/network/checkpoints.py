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
"""Reading and writing weights; nothing stored in a file is ever executed."""
import hashlib
import json
import os
from pathlib import Path
import pickle
from typing import Dict, NamedTuple

import torch

from steer_depth_ros.errors import WeightsError

FORMAT = 'steer_depth_ros/1'
NESTINGS = ('state_dict', 'model_state_dict', 'model', 'net')
COUNTER = 'num_batches_tracked'  # unknown before PyTorch 0.4.1, and unused at inference


class WeightsInfo(NamedTuple):
    """Metadata of a weights file; config: the arguments that build the architecture."""

    architecture: str
    config: dict


def read_torch_checkpoint(path) -> Dict[str, torch.Tensor]:
    """
    Read a state dict saved by PyTorch 0.3 to 2.x, in the legacy or the zip format.

    Return tensors on the CPU, floating-point ones as float32, with outer nesting ("state_dict",
    DataParallel's "module." prefix) removed. Only tensors and plain containers are unpickled.
    Raise WeightsError naming the file if it is missing, damaged or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f'checkpoint {path} does not exist; check the path')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from None
    except Exception as error:  # damaged bytes can raise anything inside the unpickler
        raise WeightsError(f'checkpoint {path} is damaged or not a PyTorch file '
                           f'({_first_line(error)}); download it again') from None
    return _tensors(content, path)


def check_state(model: torch.nn.Module, state, source) -> Dict[str, torch.Tensor]:
    """
    Return `state` as `model` expects it, or raise one WeightsError that lists every mismatch.

    state: name to tensor. source: file name for the error message. Batch counters missing from
    old checkpoints are set to 0.
    """
    expected = model.state_dict()
    state = dict(state)
    for name, tensor in expected.items():
        if name.rpartition('.')[2] == COUNTER:
            state.setdefault(name, torch.zeros_like(tensor, device='cpu'))
    mismatches = {
        'missing': [n for n in expected if n not in state],
        'extra': [n for n in state if n not in expected],
        'of another shape': [f'{n} {tuple(t.shape)} instead of {tuple(expected[n].shape)}'
                             for n, t in state.items()
                             if n in expected and t.shape != expected[n].shape],
        'not finite': [n for n, t in state.items() if not torch.isfinite(t).all()],
    }
    if any(mismatches.values()):
        text = '; '.join(f'{len(names)} {kind}: {", ".join(names)}'
                         for kind, names in mismatches.items() if names)
        raise WeightsError(f'{source} does not fit {type(model).__name__}: {text}')
    return {name: state[name].to(tensor.dtype) for name, tensor in expected.items()}


def load_into(model: torch.nn.Module, state, source) -> None:
    """Load `state` into `model` after `check_state`."""
    model.load_state_dict(check_state(model, state, source))


def save_safetensors(path, state, architecture: str, config: dict) -> str:
    """
    Write weights and their metadata atomically: an interrupted write leaves no broken file.

    state: name to tensor. config: JSON-serializable, returned by `load_safetensors`.
    Return the SHA-256 stored in the file. Raise WeightsError if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    metadata = {'format': FORMAT, 'architecture': architecture,
                'config': json.dumps(config, sort_keys=True)}
    metadata['sha256'] = digest(state, metadata)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, str(unfinished), metadata=metadata)
        os.replace(unfinished, path)
    except (SafetensorError, OSError) as error:
        if unfinished.exists():
            unfinished.unlink()
        raise WeightsError(f'cannot write {path}: {_first_line(error)}') from None
    return metadata['sha256']


def load_safetensors(path):
    """
    Read weights that `save_safetensors` wrote.

    Return (state, WeightsInfo), tensors on the CPU. Raise WeightsError naming the file if it is
    missing, damaged, modified or was not written by this package.
    """
    from safetensors import safe_open, SafetensorError
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f'weights {path} do not exist; check the path')
    try:
        with safe_open(str(path), framework='pt') as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'weights {path} are damaged or not a safetensors file '
                           f'({_first_line(error)})') from None
    if metadata.get('format') != FORMAT:
        raise WeightsError(f'weights {path} are not of this package (format '
                           f'{metadata.get("format")}); `steer_depth convert` and `train` '
                           'write files that can be used')
    if metadata.get('sha256') != digest(state, metadata):
        raise WeightsError(f'weights {path} are damaged: the checksum does not match; download '
                           'or write them again')
    try:
        config = json.loads(metadata.get('config', ''))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise WeightsError(f'weights {path} have no configuration; write them again')
    return state, WeightsInfo(metadata.get('architecture', ''), config)


def load_network(path, kinds):
    """
    Build the network that a file of `save_safetensors` describes, and load its weights.

    kinds: {architecture: function from the file's configuration to the network}. WeightsError for
    a file that is missing, damaged, foreign, or states a configuration that cannot be built.
    """
    state, info = load_safetensors(path)
    if info.architecture not in kinds:
        raise WeightsError(f'{path} holds weights of {info.architecture!r}, but only those of '
                           f"{' or '.join(kinds)} can be used here; preset 'reference' takes "
                           'those of the 2021 release')
    make = kinds[info.architecture]
    with torch.device('meta'):  # nothing is allocated before file and configuration agree
        shapes = _built(make, info, path)
    check_state(shapes, state, path)
    net = _built(make, info, path)
    net.load_state_dict(state)
    return net


def _built(make, info, path):
    try:
        return make(info.config).float()  # whatever the default type
    except Exception as error:  # whatever numbers and texts of a file lead to inside the layers
        raise WeightsError(f'{path} states a configuration that cannot be built '
                           f'({type(error).__name__}: {_first_line(error)}); write it '
                           'again') from None


def digest(state, metadata) -> str:
    """Return the SHA-256 of architecture, configuration and every tensor."""
    sha = hashlib.sha256()
    sha.update(f'{metadata.get("architecture")} {metadata.get("config")}\n'.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def _tensors(content, path):
    """Remove outer nesting and check that only named tensors are left."""
    for name in NESTINGS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f'checkpoint {path} holds a {type(content).__name__} instead of a '
                           'state dict; save model.state_dict()')
    others = [str(n) for n, v in content.items()
              if not isinstance(n, str) or not isinstance(v, torch.Tensor)]
    if others:
        raise WeightsError(f'checkpoint {path} holds entries that are not tensors: '
                           f'{", ".join(others)}; save model.state_dict() alone')
    if all(name.startswith('module.') for name in content):
        content = {name[len('module.'):]: tensor for name, tensor in content.items()}
    return {n: t.detach().float() if t.is_floating_point() else t for n, t in content.items()}


def _refusal(path, error):
    text = str(error)
    if 'Unsupported global' in text or 'GLOBAL' in text or 'tar format' in text:
        return (f'checkpoint {path} holds more than tensors, and running code from a file is '
                f'refused ({_reason(text)}); if you trust it, save it again with '
                'torch.save(model.state_dict(), FILE)')
    return (f'checkpoint {path} is damaged or not a PyTorch file ({_reason(text)}); '
            'download it again')


def _reason(text):
    """Return the line that says what the unpickler objected to, without its advice."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith('WeightsUnpickler error:')]
    return (reasons or lines or ['no reason given'])[0][:200]


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
