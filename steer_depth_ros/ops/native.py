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
"""Loads the native libraries of csrc/ (a C ABI, called through ctypes). Needs no torch."""
import ctypes
from functools import lru_cache
from pathlib import Path
import re

from steer_depth_ros.errors import NativeLibraryError

LIBRARIES = Path(__file__).parent
ABI_VERSION = 8  # kAbiVersion of csrc/kernel_regression/problem.h
PROFILES = ('gaussian', 'tanh')
BORDERS = ('none', 'mirror')
SCALAR, PER_SAMPLE, PER_PIXEL, ABSENT = range(4)

_INTS = ('batch', 'samples', 'height', 'width', 'features', 'window_rows', 'window_cols',
         'neighbours', 'sectors', 'order', 'profile', 'border', 'bandwidth_extent',
         'ridge_extent', 'threads')
_FLOATS = ('row_scale',)
_POINTERS = ('uv', 'values', 'steering', 'valid', 'guide', 'guide_at_samples', 'bandwidth',
             'ridge', 'dense', 'mass', 'grad_dense', 'grad_mass', 'grad_values', 'grad_steering',
             'grad_guide', 'grad_guide_at_samples', 'grad_bandwidth', 'grad_ridge', 'workspace')


def _fields(ints, floats, pointers):
    return ([(name, ctypes.c_int) for name in ints] + [(name, ctypes.c_float) for name in floats]
            + [(name, ctypes.c_void_p) for name in pointers])


class Problem(ctypes.Structure):
    """`steer::Problem` of csrc/kernel_regression/problem.h, field by field."""

    _fields_ = _fields(_INTS, _FLOATS, _POINTERS)


class Surface(ctypes.Structure):
    """`steer::Surface` of csrc/second_order_tv/surface.h, field by field."""

    _fields_ = _fields(
        ('height', 'width', 'samples', 'steps', 'threads'),
        ('smoothness', 'flat', 'misfit', 'edge', 'floor'),
        ('start', 'lab', 'uv', 'measured', 'valid', 'solution', 'workspace'))


class LeaveOneOut(ctypes.Structure):
    """`steer::LeaveOneOut` of csrc/leave_one_out/problem.h, field by field."""

    _fields_ = _fields(
        ('samples', 'queries', 'neighbors', 'coarse_neighbors', 'steps', 'averaged'),
        ('aspect', 'line_gap', 'ridge', 'bandwidth', 'bandwidth_at_sample', 'bandwidth_far',
         'bandwidth_distance', 'depth_step', 'rate', 'newest', 'newest_square', 'prior',
         'max_error'),
        ('uv', 'inverse', 'colors', 'kernels', 'query', 'at', 'rejected', 'guide', 'start', 'near',
         'distance', 'known', 'settings', 'predicted', 'guide_used', 'workspace'))


class Distance(ctypes.Structure):
    """`steer::distance::Distance` of csrc/distance/cuda.cu, field by field."""

    _fields_ = _fields(('samples', 'height', 'width'), (),
                       ('uv', 'valid', 'distance', 'workspace'))


class Occlusion(ctypes.Structure):
    """`steer::Occlusion` of csrc/occlusion/cpu.cpp, field by field."""

    _fields_ = _fields(('samples', 'rows', 'columns', 'threads'),
                       ('cell', 'reach_u', 'reach_v', 'nearer', 'share'),
                       ('uv', 'depth', 'occluded'))


_PROBLEM, _SURFACE = ctypes.POINTER(Problem), ctypes.POINTER(Surface)
_LEAVE_ONE_OUT, _DISTANCE = ctypes.POINTER(LeaveOneOut), ctypes.POINTER(Distance)
_CPU_FUNCTIONS = {
    'steer_forward': (ctypes.c_int, [_PROBLEM]),
    'steer_backward': (ctypes.c_int, [_PROBLEM]),
    'steer_error': (ctypes.c_char_p, []),
    'steer_flying_points': (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]),
    'steer_surface': (ctypes.c_int, [_SURFACE]),
    'steer_leave_one_out_neighbors': (ctypes.c_int, [_LEAVE_ONE_OUT]),
    'steer_leave_one_out_tune': (ctypes.c_int, [_LEAVE_ONE_OUT]),
    'steer_occlusion': (ctypes.c_int, [ctypes.POINTER(Occlusion)]),
}
_CUDA_FUNCTIONS = {
    'steer_forward': (ctypes.c_int, [_PROBLEM, ctypes.c_void_p]),
    'steer_backward': (ctypes.c_int, [_PROBLEM, ctypes.c_void_p]),
    'steer_workspace': (ctypes.c_size_t, [_PROBLEM, ctypes.c_int]),
    'steer_surface': (ctypes.c_int, [_SURFACE, ctypes.c_void_p]),
    'steer_surface_workspace': (ctypes.c_size_t, [_SURFACE]),
    'steer_error': (ctypes.c_char_p, []),
    'steer_leave_one_out_neighbors': (ctypes.c_int, [_LEAVE_ONE_OUT, ctypes.c_void_p]),
    'steer_leave_one_out_tune': (ctypes.c_int, [_LEAVE_ONE_OUT, ctypes.c_void_p]),
    'steer_leave_one_out_workspace': (ctypes.c_size_t, [_LEAVE_ONE_OUT]),
    'steer_distance': (ctypes.c_int, [_DISTANCE, ctypes.c_void_p]),
    'steer_distance_workspace': (ctypes.c_size_t, [_DISTANCE]),
}


def problem(structure=Problem, **fields):
    """Fill a structure from numbers and (contiguous) tensors; tensors must outlive the call."""
    return structure(**{name: value.data_ptr() if hasattr(value, 'data_ptr') else value
                        for name, value in fields.items() if value is not None})


@lru_cache
def load(name):
    """
    Return the library built for `name` (generic, avx2, avx512, cuda), or None where none is.

    NativeLibraryError for one that cannot be loaded or does not fit this Python code.
    """
    path = LIBRARIES / f'libkernel_regression_{name}.so'
    return open_library(path, name) if path.exists() else None


def open_library(path, name):
    """Load a library from a file, and check that it takes what Python will hand it."""
    functions = dict(_CUDA_FUNCTIONS if name == 'cuda' else _CPU_FUNCTIONS)
    if name == 'generic':
        functions['steer_machine'] = (ctypes.c_char_p, [])
    try:
        library = ctypes.CDLL(str(path))
        library.steer_abi.restype = ctypes.c_char_p
        difference = _difference(library.steer_abi().decode())
        for entry, (result, arguments) in functions.items() if difference is None else ():
            function = getattr(library, entry)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError, ValueError) as error:
        difference = str(error)
    if difference is not None:
        raise NativeLibraryError(
            f'{path} does not belong to this version of the package ({difference}); rebuild: '
            'pip install -e . (or colcon build)')
    return library


def _difference(abi):
    """Return where a library's view of Problem and version differ from Python's, or None."""
    version, size, layout = abi.split(';', 2)
    if int(version) != ABI_VERSION:
        return f'its interface has version {version}, expected {ABI_VERSION}'
    fields = [(kind if kind in ('int', 'float') and '*' not in name else 'pointer',
               name.strip(' *'))
              for kind, names in re.findall(r'(?:const )?(\w+) ([^;]+);', layout)
              for name in names.split(',')]
    kinds = {ctypes.c_int: 'int', ctypes.c_float: 'float', ctypes.c_void_p: 'pointer'}
    expected = [(kinds[kind], name) for name, kind in Problem._fields_]
    for found, wanted in zip(fields, expected):
        if found != wanted:
            return 'a field of its Problem is {} {}, expected {} {}'.format(*found, *wanted)
    if len(fields) != len(expected) or int(size) != ctypes.sizeof(Problem):
        return (f'its Problem has {len(fields)} fields in {size} bytes, expected {len(expected)} '
                f'in {ctypes.sizeof(Problem)}')
    return None


@lru_cache
def cpu_name():
    """Return the widest CPU variant that is built and that this machine can run, or None."""
    generic = load('generic')
    if generic is None:
        return None
    order = ('avx512', 'avx2', 'generic')
    machine = generic.steer_machine().decode()
    return next(n for n in order[order.index(machine):] if load(n) is not None)
