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
"""The C ABI on its own: in a process without torch, and so without torch's OpenMP."""
import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from steer_depth_ros.errors import NativeLibraryError
from steer_depth_ros.ops import native

SIZE = ctypes.sizeof(native.Problem)
WITHOUT_TORCH = """
import ctypes, sys
import numpy as np
from steer_depth_ros.ops import native

assert 'torch' not in sys.modules
assert not hasattr(ctypes.CDLL(None), 'GOMP_parallel')

rng = np.random.default_rng(0)
count, height, width = 200, 40, 60
arrays = {'uv': rng.random((count, 2)) * [width, height], 'values': rng.random(count) + 1,
          'steering': rng.random((count, 3)) + .5, 'bandwidth': np.array(1.)}
arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
results = []
for threads in (1, 4):
    out = {k: np.zeros((height, width), np.float32) for k in ('dense', 'mass')}
    fields = {k: v.ctypes.data for k, v in {**arrays, **out}.items()}
    problem = native.problem(batch=1, samples=count, height=height, width=width, neighbours=16,
                             sectors=4, order=1, bandwidth_extent=native.SCALAR,
                             ridge_extent=native.ABSENT, row_scale=1., threads=threads, **fields)
    assert native.load(native.cpu_name()).steer_forward(problem) == 0
    results.append(np.stack(list(out.values())))
assert np.isfinite(results[0]).all() and results[0].min() > 0
assert np.array_equal(*results)
print('same')
"""


@pytest.mark.skipif(native.cpu_name() is None, reason='needs the compiled library')
def test_threads_of_its_own():
    environment = {k: v for k, v in os.environ.items() if k != 'LD_PRELOAD'}
    done = subprocess.run([sys.executable, '-c', WITHOUT_TORCH], capture_output=True, text=True,
                          timeout=60, env=environment)
    assert done.stdout == 'same\n', done.stderr


FEW_THREADS = """
import resource, sys
import numpy as np
from steer_depth_ros.ops import native

rng = np.random.default_rng(0)
count, height, width = 500, 1000, 40
arrays = {'uv': rng.random((count, 2)) * [width, height], 'values': rng.random(count) + 1,
          'steering': rng.random((count, 3)) + .5, 'bandwidth': np.array(1.)}
arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
library = native.load(native.cpu_name())

def run(threads, samples=count):
    dense, mass = np.zeros((2, height, width), np.float32)
    fields = {k: v.ctypes.data for k, v in dict(arrays, dense=dense, mass=mass).items()}
    problem = native.problem(batch=1, samples=samples, height=height, width=width, neighbours=16,
                             sectors=1, order=1, bandwidth_extent=native.SCALAR,
                             ridge_extent=native.ABSENT, row_scale=1., threads=threads, **fields)
    return library.steer_forward(problem), dense

status, expected = run(1)
assert status == 0
held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (60 << 20), resource.RLIM_INFINITY))
status, dense = run(100)  # stacks of 8 MB: most threads cannot start
assert status == 0 and np.array_equal(dense, expected)
status, _ = run(1, samples=1 << 26)
assert status == 1, status
status, _ = run(1, samples=-1)
assert status == 2 and b'reserve' in library.steer_error(), library.steer_error()
print('same')
"""


@pytest.mark.skipif(native.cpu_name() is None or sys.platform != 'linux',
                    reason='needs the compiled library and /proc')
def test_threads_that_do_not_start_and_what_went_wrong():
    done = subprocess.run([sys.executable, '-c', FEW_THREADS], capture_output=True, text=True,
                          timeout=60)
    assert done.stdout == 'same\n', (done.returncode, done.stderr)


IMPORTS = """
import sys
import steer_depth_ros.geometry.cloud
assert 'torch' not in sys.modules
import steer_depth_ros.ops.regression_torch
import steer_depth_ros.ops.regression
from steer_depth_ros.ops import describe_backend, kernel_regression
assert callable(kernel_regression) and callable(describe_backend)
"""


def test_clouds_need_no_torch_and_the_operator_is_a_function_whatever_was_imported():
    subprocess.run([sys.executable, '-c', IMPORTS], check=True, timeout=60)


def stand_in(path, text):
    """Build a library named as the package's own from a line of C++."""
    if shutil.which('g++') is None:
        pytest.skip('needs g++')
    subprocess.run(['g++', '-x', 'c++', '-', '-shared', '-fPIC', '-o', path],
                   input='extern "C" ' + text, text=True, check=True)


def abi(version=native.ABI_VERSION, size=SIZE, fields=None):
    """Return the C++ of a library that states this layout of Problem, the right one by default."""
    kinds = {ctypes.c_int: 'int {}', ctypes.c_float: 'float {}', ctypes.c_void_p: 'float *{}'}
    fields = fields or [kinds[kind].format(name) for name, kind in native.Problem._fields_]
    return f'const char *steer_abi() {{ return "{version};{size};{"; ".join(fields)};"; }}'


RIGHT = abi().split('"')[1].split(';', 2)[2].strip(';').split('; ')


@pytest.mark.parametrize('text, difference', [
    ('int steer_forward() { return 0; }', 'steer_abi'),
    (abi(version=0), 'version 0'),
    (abi(fields=[RIGHT[1], RIGHT[0], *RIGHT[2:]]), 'is int samples, expected int batch'),
    (abi(fields=['long batch', *RIGHT[1:]]), 'expected int batch'),
    (abi(size=12, fields=RIGHT[:3]), '3 fields in 12 bytes'),
    (abi(), 'steer_forward'),
])
def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch, text, difference):
    monkeypatch.setattr(native, 'LIBRARIES', tmp_path)
    assert native.load.__wrapped__('avx2') is None
    stand_in(tmp_path / 'libkernel_regression_avx2.so', text)
    with pytest.raises(NativeLibraryError, match=r'rebuild: pip install -e \.') as error:
        native.load.__wrapped__('avx2')
    assert difference in str(error.value)


def test_a_damaged_library_is_refused(tmp_path):
    path = tmp_path / 'libkernel_regression_generic.so'
    path.write_bytes(b'no library')
    with pytest.raises(NativeLibraryError, match='rebuild'):
        native.open_library(path, 'generic')
