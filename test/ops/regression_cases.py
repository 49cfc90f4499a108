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
"""Random problems for the tests of the operator, and the backends to run them on."""
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
import shutil
import subprocess
import tempfile
from unittest import mock

import pytest
import torch

from steer_depth_ros.ops import kernel_regression, libraries, native, regression_torch

CPU_VARIANTS = ('generic', 'avx2', 'avx512')
CUDA_SOURCES = sorted(Path(__file__).parents[2].glob('csrc/*/*.cu'))
# Marks of what `make gpu` runs.
ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available() or native.load('cuda') is None,
    reason='needs a GPU, a torch with CUDA, and the package built with nvcc'))
# The CUDA code built by g++: a block is one thread, or as many threads in warps of 32 lanes.
ON_HOST = {'cuda on host': ('-DSTEER_FEW=64',),
           'cuda on host, warps': ('-DSTEER_EMULATED_WARPS', f'-I{Path(__file__).parent}')}
BACKENDS = ('native', 'cuda on host', pytest.param('gpu', marks=ON_GPU))
_call = libraries.call
_on_gpu = False  # whether run_native moves its inputs there, and its results back


def scene(batch=2, samples=150, size=(41, 57), features=0, seed=0, padding=0., margin=0.):
    """Return the tensors of a random call, float64; `margin`: pixels outside the image."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    height, width = size
    extent = torch.tensor([width - 1., height - 1.], dtype=torch.float64)
    data = {
        'uv': rand(batch, samples, 2) * (extent + 2 * margin) - margin,
        'values': rand(batch, samples) * 3 + 1,
        'steering': torch.stack([rand(batch, samples) * 3 + .3, rand(batch, samples) * 6 - 3,
                                 rand(batch, samples) * 2 + .3], -1),
    }
    if features:
        data['guide'] = rand(batch, features, height, width) * 2 - 1
        data['guide_at_samples'] = rand(batch, samples, features) * 2 - 1
    if padding:
        data['valid'] = rand(batch, samples) > padding
    # What float32 cannot hold would count as an error of the backends.
    return {k: v if v.dtype == torch.bool else v.float().double() for k, v in data.items()}


def cast(data, dtype):
    """Return the tensors of a call in another float type."""
    return {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in data.items()}


def run_twin(data, size, dtype=torch.float64, **options):
    """Run the torch twin."""
    data = {'bandwidth': torch.tensor(5.), **cast(data, dtype)}
    data['bandwidth'] = torch.as_tensor(data['bandwidth'], dtype=dtype)
    return regression_torch.kernel_regression(size=size, **data, **options)


def run_native(data, size, **options):
    """Run the public function in float32, on the GPU where `backend` says so."""
    data = cast(data, torch.float32)
    if not _on_gpu:
        return kernel_regression(size=size, **data, **options)
    data, options = ({k: v.cuda() if torch.is_tensor(v) else v for k, v in each.items()}
                     for each in (data, options))
    dense, mass = kernel_regression(size=size, **data, **options)
    assert dense.is_cuda  # or the CPU would be tested
    return dense.cpu(), mass.cpu()


def available(name):
    """Tell whether the CPU library `name` is built and runs on this machine."""
    widest = native.cpu_name()
    return (native.load(name) is not None and widest is not None
            and CPU_VARIANTS.index(name) <= CPU_VARIANTS.index(widest))


def needs_gpu(test):
    """Mark a test that runs on a GPU."""
    for mark in ON_GPU:
        test = mark(test)
    return test


@contextmanager
def backend(name):
    """
    Send float32 calls through one library.

    name: a CPU library, one of ON_HOST, 'native' (what users of the CPU get) or 'gpu', on which
    `run_native` then computes.
    """
    if name in ('native', 'gpu'):
        with mock.patch(f'{__name__}._on_gpu', name == 'gpu'):
            yield
        return
    on_host = name in ON_HOST
    library = cuda_on_host(name) if on_host else native.load(name)

    def choose(values):
        return (name, library) if values.dtype == torch.float32 else (None, None)

    with mock.patch(f'{__name__}._on_gpu', False), \
            mock.patch.object(libraries, 'library_of', choose), \
            mock.patch.object(libraries, 'call', _call_on_host if on_host else _call):
        yield


@lru_cache
def cuda_on_host(name):
    """Build what nvcc compiles with g++; see csrc/kernel_regression/lanes.h."""
    if shutil.which('g++') is None or not CUDA_SOURCES:
        pytest.skip('needs g++ and the sources')
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / 'cuda_on_host.so'
        subprocess.run(['g++', '-x', 'c++', '-O2', '-std=c++17', '-Wall', '-Wextra', '-Werror',
                        *ON_HOST[name], '-shared', '-fPIC', *CUDA_SOURCES, '-o', target],
                       check=True)
        return native.open_library(target, 'cuda')


def _call_on_host(library, name, entry, problem, device, workspace=None):
    if workspace is not None:
        # Filled with NaN and far-off indices: nothing may be read before it is written.
        memory = torch.full((workspace(problem),), 255, dtype=torch.uint8)
        problem.workspace = memory.data_ptr()
    assert getattr(library, entry)(problem, None) == 0
