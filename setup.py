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
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.develop import develop

PACKAGE = 'steer_depth_ros'
# colcon runs a link to this file in its own folder, without csrc/ beside it.
ROOT = Path(__file__).resolve().parent
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
# Of STEER_DEPTH_CUDA_ARCHS=all. Without a GPU to ask: code that the driver compiles at first use.
CUDA_ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100)
PORTABLE_ARCHITECTURES = (80, 90)
OPENCV = ['opencv-python-headless>=4.5']


class BuildOperator(build_ext):
    """Compile csrc/ with g++, and with nvcc where there is one (STEER_DEPTH_CUDA=0 skips it)."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        sources = [ROOT / source for source in ext.sources]
        newest = max(path.stat().st_mtime for path in [
            *sources, *ROOT.glob('csrc/*/*.h'), ROOT / 'setup.py'])
        if target.exists() and not self.force and target.stat().st_mtime > newest:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if sources[0].suffix == '.cu':
            self.build_cuda(sources, target)
        else:
            self.build_cpu(sources, target)

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split('.')) + '.so'

    def build_cpu(self, sources, target):
        isa = target.stem.rsplit('_', 1)[1]
        subprocess.check_call([
            compiler(), *CXX_FLAGS, *CPU_VARIANTS[isa], f'-DSTEER_ISA={isa}',
            f'-DSTEER_ISA_{isa.upper()}', '-shared', '-pthread', *sources, '-o', target])

    def build_cuda(self, sources, target):
        targets, meaning = cuda_targets()
        print(f'compiling the CUDA operator for {meaning}', file=sys.stderr)
        # Not --threads: the links of several architectures at once read half-written files.
        command = ['nvcc', '-O3', '-std=c++17', '--shared', '-cudart', 'static', *targets,
                   '-Xcompiler', '-fPIC,-fvisibility=hidden', *sources, '-o', target]
        if subprocess.call(command):
            sys.exit('error: nvcc failed (see above); STEER_DEPTH_CUDA=0 builds without CUDA')


class DevelopAnywhere(develop):
    """Start scripts as setup.cfg says, which `colcon build --symlink-install` does not ask."""

    def write_script(self, script_name, contents, mode='t', *blockers):
        lines = contents.split('\n')
        lines[0] = f'#!{self.get_finalized_command("build_scripts").executable}'
        super().write_script(script_name, '\n'.join(lines), mode, *blockers)


def compiler():
    """Return the C++ compiler."""
    return os.environ.get('CXX', 'g++')


def cuda_targets():
    """
    Return nvcc's flags for the GPUs to build for, and what they are in words.

    STEER_DEPTH_CUDA_ARCHS is 'all' or a list like '75,86'; without it, the GPUs of this machine.
    """
    listed = subprocess.check_output(['nvcc', '--list-gpu-arch'], text=True)
    known = sorted({int(n) for n in re.findall(r'compute_(\d+)', listed)})
    asked = os.environ.get('STEER_DEPTH_CUDA_ARCHS', '')
    if asked == 'all':
        wanted = [a for a in CUDA_ARCHITECTURES if a in known]
        return codes(wanted, wanted[-1:]), f'architectures {wanted}'
    if asked:
        wanted = sorted({int(a) for a in re.findall(r'\d+', asked)})
        if not wanted or not set(wanted) <= set(known):
            sys.exit(f'error: STEER_DEPTH_CUDA_ARCHS={asked}: must be "all" or some of '
                     f'{",".join(map(str, known))}, which this nvcc knows')
        return codes(wanted, wanted[-1:]), f'architectures {wanted}'
    present = gpus()
    if present and set(present) <= set(known):
        return codes(present, []), (f'the GPU here, architecture {present} '
                                    '(STEER_DEPTH_CUDA_ARCHS=all: for all)')
    portable = [a for a in PORTABLE_ARCHITECTURES if a in known] or known[-1:]
    return codes([], portable), (f'architectures from {portable[0]} on, finished at first use '
                                 '(STEER_DEPTH_CUDA_ARCHS=86, say, finishes it now)')


def codes(machine, portable):
    """Return nvcc's flags for machine code, and for portable code (PTX)."""
    return ([f'-gencode=arch=compute_{a},code=sm_{a}' for a in machine]
            + [f'-gencode=arch=compute_{a},code=compute_{a}' for a in portable])


def gpus():
    """Return the architectures of the GPUs in this machine, e.g. [86]; empty where unknown."""
    if shutil.which('nvidia-smi') is None:
        return []
    done = subprocess.run(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader'],
                          stdout=subprocess.PIPE, text=True)
    found = re.findall(r'^(\d+)\.(\d)$', done.stdout, re.MULTILINE)
    return sorted({10 * int(major) + int(minor) for major, minor in found})


def extensions():
    """Return the operator's libraries: one a CPU instruction set, and CUDA where nvcc is."""
    if shutil.which(compiler()) is None:
        print(f'warning: {compiler()} not found, so the operator falls back to plain torch, '
              'which is far slower. Install g++ (apt install g++) and reinstall.',
              file=sys.stderr)
        return []
    found = [Extension(f'{PACKAGE}.ops.libkernel_regression_{isa}',
                       files('csrc/*/*.cpp'))
             for isa in CPU_VARIANTS]
    if shutil.which('nvcc') and os.environ.get('STEER_DEPTH_CUDA') != '0':
        found.append(Extension(f'{PACKAGE}.ops.libkernel_regression_cuda',
                               files('csrc/*/*.cu')))
    return found


def files(pattern):
    """Return the files that match, relative to the package: colcon takes no others."""
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(pattern) if p.is_file())


def data_files():
    """Ament index marker, manifest, launch files and configuration, as colcon expects them."""
    share = f'share/{PACKAGE}'
    return [('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
            (share, ['package.xml']),
            (f'{share}/launch', files('launch/*.launch.py')),
            (f'{share}/config', files('config/*')),
            (f'{share}/config/train', files('config/train/*'))]


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
    cmdclass={'build_ext': BuildOperator, 'develop': DevelopAnywhere},
    zip_safe=False,
    # OpenCV is an extra: beside ROS a second one would break cv_bridge (see entry_points.py).
    install_requires=[
        'backports.zstd; python_version < "3.14"',
        'lz4',
        'numpy>=1.21',
        'pyyaml',
        'rosbags>=0.11',
        'safetensors>=0.4',
        'scipy',
        'torch>=2.5',
        'tqdm',
    ],
    extras_require={
        'opencv': OPENCV,
        # rclpy, FastDDS and the standard messages as wheels, where no ROS is installed
        'ros': [*OPENCV, 'ros-jazzy-rclpy', 'ros-jazzy-rmw-fastrtps-cpp', 'ros-jazzy-sensor-msgs',
                'ros-jazzy-diagnostic-msgs', 'ros-jazzy-std-srvs', 'ros-jazzy-lifecycle-msgs'],
        'train': ['h5py', 'tensorboard'],
        'view': ['rerun-sdk>=0.39'],
        'files': ['laspy[lazrs]', 'plyfile'],  # clouds as .las, .laz and .ply
        'ray': ['ray>=2.40'],
        'fuzz': ['atheris'],
        'test': [*OPENCV, 'build', 'hypothesis', 'laspy[lazrs]', 'mcap', 'mypy', 'plyfile',
                 'psutil', 'pytest', 'pytest-cov', 'ray>=2.40; python_version < "3.14"',
                 'rerun-sdk>=0.39', 'ruff', 'wheel'],
    },
    entry_points={'console_scripts': [
        'steer_depth = steer_depth_ros.entry_points:steer_depth',
        'completion_node = steer_depth_ros.entry_points:completion_node',
    ]},
)
