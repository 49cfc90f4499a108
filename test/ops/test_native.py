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
import os
import subprocess
import sys

import pytest

from steer_depth_ros.ops import native

WITHOUT_TORCH = """
import ctypes, importlib.util, sys, types
import numpy as np

sys.modules['torch'] = types.SimpleNamespace(Tensor=type(None))
spec = importlib.util.spec_from_file_location('native', sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
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
                             sectors=4, order=1, bandwidth_extent=native.ONE,
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
    done = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, native.__file__],
                          capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == 'same\n', done.stderr
