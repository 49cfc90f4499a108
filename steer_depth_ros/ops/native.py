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
"""Loads the native libraries of csrc/ (a C ABI, called through ctypes)."""
import ctypes
from functools import lru_cache
from pathlib import Path

import torch

PROFILES = ('gaussian', 'tanh')
BORDERS = ('none', 'mirror')
ONE, PER_SAMPLE, PER_PIXEL, ABSENT = range(4)

_INTS = ('batch', 'samples', 'height', 'width', 'features', 'window_rows', 'window_cols',
         'neighbours', 'sectors', 'order', 'profile', 'border', 'bandwidth_extent',
         'ridge_extent', 'threads')
_FLOATS = ('row_scale',)
_POINTERS = ('uv', 'values', 'steering', 'valid', 'guide', 'guide_at_samples', 'bandwidth',
             'ridge', 'dense', 'mass', 'grad_dense', 'grad_mass', 'grad_values', 'grad_steering',
             'grad_guide', 'grad_guide_at_samples', 'grad_bandwidth', 'grad_ridge', 'workspace')


class Problem(ctypes.Structure):
    """`steer::Problem` of csrc/kernel_regression.h, field by field."""

    _fields_ = ([(name, ctypes.c_int) for name in _INTS]
                + [(name, ctypes.c_float) for name in _FLOATS]
                + [(name, ctypes.c_void_p) for name in _POINTERS])


def problem(**fields):
    """Fill a Problem from ints and (contiguous) tensors; tensors must outlive the call."""
    return Problem(**{name: value.data_ptr() if isinstance(value, torch.Tensor) else value
                      for name, value in fields.items() if value is not None})


@lru_cache
def load(name):
    """Return the library built for `name` (generic, avx2, avx512, cuda), or None."""
    path = Path(__file__).with_name(f'libkernel_regression_{name}.so')
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    for entry in ('steer_forward', 'steer_backward'):
        function = getattr(library, entry)
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.POINTER(Problem)] + [ctypes.c_void_p] * (name == 'cuda')
    if name == 'cuda':
        library.steer_workspace.restype = ctypes.c_size_t
        library.steer_workspace.argtypes = [ctypes.POINTER(Problem), ctypes.c_int]
        library.steer_error.restype = ctypes.c_char_p
    else:
        library.steer_flying_points.restype = None
        library.steer_flying_points.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
                                                ctypes.c_void_p]
        library.steer_thin_plate.restype = ctypes.c_int
        library.steer_thin_plate.argtypes = ([ctypes.c_void_p] * 3 + [ctypes.c_int] * 3
                                             + [ctypes.c_void_p])
    return library


@lru_cache
def cpu_name():
    """Return the widest CPU variant that is built and that this machine can run, or None."""
    generic = load('generic')
    if generic is None:
        return None
    generic.steer_machine.restype = ctypes.c_char_p
    machine = generic.steer_machine().decode()
    order = ('avx512', 'avx2', 'generic')
    return next(n for n in order[order.index(machine):] if load(n) is not None)
