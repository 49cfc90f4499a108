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
"""Which native library computes what tensors hold, and how its functions are called."""
import warnings

import torch
from torch import Tensor

from steer_depth_ros.ops import native

OUT_OF_MEMORY = 1  # kOutOfMemory of csrc/kernel_regression/status.h
MOST = 2 ** 31 - 256  # native code counts with 32 bits
DTYPES = {'valid': torch.bool, 'known': torch.bool, 'rejected': torch.bool,
          'queries': torch.int64, 'near': torch.int64}
_operators = torch.library.Library('steer_depth_ros', 'FRAGMENT')
_warned: set[str] = set()


def operator(name):
    """
    Register the decorated function as torch.ops.steer_depth_ros.NAME, for every device.

    `torch.library.custom_op` does so, too, but its first call imports the compiler of torch, which
    takes seconds.
    """
    def register(function):
        _operators.define(torch.library.infer_schema(function, op_name=name, mutates_args=()))
        _operators.impl(name, function, 'CompositeExplicitAutograd')
        return function
    return register


def library_name(device):
    """Return the library that serves float32 on `device`, or None: plain torch does."""
    if device.type == 'cuda':
        return 'cuda' if native.load('cuda') is not None else None
    return native.cpu_name() if device.type == 'cpu' else None


def library_of(tensor):
    """Return (name, library) for inputs like this one; (None, None) means plain torch."""
    if tensor.dtype != torch.float32:
        return None, None
    name = library_name(tensor.device)
    if name is None:
        _warn_once(tensor.device.type)
        return None, None
    return name, native.load(name)


def _warn_once(device):
    if device not in _warned:
        _warned.add(device)
        warnings.warn(f'the compiled operators for {device} are missing; plain torch serves, '
                      'about a hundred times slower. Install g++ (CUDA: nvcc) and reinstall.',
                      RuntimeWarning, stacklevel=5)


def call(library, name, entry, problem, device, workspace=None):
    """
    Call a function of a library with a structure; errors become exceptions.

    workspace: takes the structure and returns the bytes of workspace that CUDA needs; None: none.
    """
    if name != 'cuda':
        status = getattr(library, entry)(problem)
    else:
        with torch.cuda.device(device):
            if workspace is not None:
                memory = torch.empty(workspace(problem), dtype=torch.uint8, device=device)
                problem.workspace = memory.data_ptr()
            status = getattr(library, entry)(problem, torch.cuda.current_stream().cuda_stream)
    if name != 'cuda' and status == OUT_OF_MEMORY:
        raise MemoryError(f'{entry} ran out of memory')
    if status:
        raise RuntimeError(f'{entry} on {device}: {library.steer_error().decode()}')


def require_alike(name_of_like, like, **expected):
    """
    Refuse tensors that do not go with `like`: native code would misread them.

    expected: {name: (tensor, shape)}; tensors may be None, 'N' is any length. ValueError for
    another shape or device, TypeError for another type than that of `like` or of DTYPES.
    """
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a tensor, got {type(tensor).__name__}')
        if len(tensor.shape) != len(shape) or any(
                n != wanted for n, wanted in zip(tensor.shape, shape) if wanted != 'N'):
            raise ValueError(f'{name} must have shape {tuple(shape)}, got '
                             f'{tuple(tensor.shape)}'.replace("'", ''))
        if tensor.device != like.device:
            raise ValueError(f'{name} is on {tensor.device}, but {name_of_like} on {like.device}')
        dtype = DTYPES.get(name, like.dtype)
        if tensor.dtype != dtype:
            raise TypeError(f'{name} must be {dtype}, got {tensor.dtype}')
