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
"""Package definition; also builds the native operator library (C ABI, no torch headers)."""
from glob import glob
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PACKAGE = 'steer_depth_ros'
CXX_FLAGS = ['-O3', '-std=c++17', '-fPIC', '-fvisibility=hidden', '-fno-math-errno',
             '-ffp-contract=fast', '-fopenmp-simd', '-Wall', '-Wextra', '-Wno-psabi',
             '-Wno-ignored-attributes']
# One library an instruction set; the best that the machine has is picked at run time.
X86 = platform.machine().lower() in ('x86_64', 'amd64')
CPU_VARIANTS = {'generic': []} if not X86 else {
    'generic': [],
    'avx2': ['-mavx2', '-mfma'],
    'avx512': ['-mavx512f', '-mavx512dq', '-mavx512vl', '-mavx512bw', '-mfma',
               '-mprefer-vector-width=512'],
}
CUDA_ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100)


class BuildOperator(build_ext):
    """Compile csrc/ with g++, and with nvcc where there is one (STEER_DEPTH_CUDA=0 skips it)."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        newest = max(map(os.path.getmtime, [*ext.sources, *glob('csrc/*/*.h'), 'setup.py']))
        if target.exists() and not self.force and target.stat().st_mtime > newest:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if ext.sources[0].endswith('.cu'):
            self.build_cuda(ext.sources, target)
        else:
            self.build_cpu(ext.sources, target)

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split('.')) + '.so'

    def build_cpu(self, sources, target):
        compiler = os.environ.get('CXX', 'g++')
        if shutil.which(compiler) is None:
            print(f'warning: {compiler} not found, so the operator falls back to plain torch, '
                  'which is far slower. Install g++ (apt install g++) and reinstall.',
                  file=sys.stderr)
            return
        isa = target.stem.rsplit('_', 1)[1]
        subprocess.check_call([
            compiler, *CXX_FLAGS, *CPU_VARIANTS[isa], f'-DSTEER_ISA={isa}',
            f'-DSTEER_ISA_{isa.upper()}', '-shared', '-pthread', *sources, '-o', str(target)])

    def build_cuda(self, sources, target):
        nvcc = shutil.which('nvcc')
        listed = subprocess.check_output([nvcc, '--list-gpu-arch'], text=True)
        known = {int(n) for n in re.findall(r'compute_(\d+)', listed)}
        wanted = [a for a in CUDA_ARCHITECTURES if a in known]
        codes = [f'-gencode=arch=compute_{a},code=sm_{a}' for a in wanted]
        codes.append(f'-gencode=arch=compute_{wanted[-1]},code=compute_{wanted[-1]}')
        # Not --threads: the links of several architectures at once read half-written files.
        subprocess.check_call([nvcc, '-O3', '-std=c++17', '--shared',
                               '-Xcompiler', '-fPIC,-fvisibility=hidden', '-cudart', 'static',
                               *codes, *sources, '-o', str(target)])


def extensions():
    """Return the operator's libraries: one a CPU instruction set, and CUDA where nvcc is."""
    found = [Extension(f'{PACKAGE}.ops.libkernel_regression_{isa}',
                       sorted(glob('csrc/*/*.cpp')))
             for isa in CPU_VARIANTS]
    if shutil.which('nvcc') and os.environ.get('STEER_DEPTH_CUDA') != '0':
        found.append(Extension(f'{PACKAGE}.ops.libkernel_regression_cuda',
                               ['csrc/kernel_regression/cuda.cu']))
    return found


def data_files():
    """Ament index marker, manifest, launch files and configuration, as colcon expects them."""
    share = f'share/{PACKAGE}'
    return [('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
            (share, ['package.xml']),
            (f'{share}/launch', sorted(glob('launch/*.launch.py'))),
            (f'{share}/config', sorted(p for p in glob('config/*') if os.path.isfile(p))),
            (f'{share}/config/train', sorted(glob('config/train/*')))]


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Dense metric depth from an image and sparse depth, for ROS 2',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(exclude=['test', 'test.*']),
    package_data={PACKAGE: ['weights/*']},
    data_files=data_files(),
    ext_modules=extensions(),
    cmdclass={'build_ext': BuildOperator},
    zip_safe=False,
    install_requires=[
        'setuptools',
        'numpy>=1.21',
        'opencv-python-headless>=4.5',
        'pyyaml',
        'rosbags>=0.11',
        'safetensors>=0.4',
        'scipy',
        'torch>=2.4',
        'tqdm',
    ],
    extras_require={
        # rclpy, FastDDS and the standard messages as wheels, where no ROS is installed
        'ros': ['ros-jazzy-rclpy', 'ros-jazzy-rmw-fastrtps-cpp', 'ros-jazzy-sensor-msgs',
                'ros-jazzy-diagnostic-msgs', 'ros-jazzy-std-srvs', 'ros-jazzy-lifecycle-msgs'],
        'train': ['h5py', 'tensorboard'],
        'fuzz': ['atheris'],
        'test': ['hypothesis', 'mypy', 'pytest', 'pytest-cov', 'ruff'],
    },
    entry_points={'console_scripts': [
        'steer_depth = steer_depth_ros.cli:main',
        'completion_node = steer_depth_ros.ros.node:main',
    ]},
)
