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
"""
The message type of /tf for tests over DDS, generated where no tf2_msgs is installed.

rclpy takes only classes with a compiled type support. ROS 2 from Python wheels has all that it
takes to make one, but no tf2_msgs. With g++ the type is built in a few seconds, once, and kept in
the user's cache.
"""
import importlib
from importlib import metadata
import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any, List

PACKAGE = 'tf2_msgs'
IDL = """#include "geometry_msgs/msg/TransformStamped.idl"

module tf2_msgs {
  module msg {
    struct TFMessage {
      sequence<geometry_msgs::msg::TransformStamped> transforms;
    };
  };
};
"""
SUPPORTS = ('rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_introspection_c')
DEPENDENCIES = ('geometry_msgs', 'std_msgs', 'builtin_interfaces')
RUNTIME = ('rosidl_runtime_c', 'rosidl_typesupport_c', 'rosidl_typesupport_fastrtps_c',
           'rosidl_typesupport_fastrtps_cpp', 'rosidl_typesupport_introspection_c', 'fastcdr',
           'rcutils')


def tf_message() -> Any:
    """Give the class tf2_msgs/msg/TFMessage; raise ImportError with the reason where it cannot."""
    try:
        return importlib.import_module('tf2_msgs.msg').TFMessage
    except ImportError:
        pass
    folder = _cache()
    if not folder.is_dir():
        _build(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        inherited = os.environ.get('PYTHONPATH')  # the processes of the tests import it, too
        os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [inherited, str(folder)]))
    importlib.invalidate_caches()
    return importlib.import_module('tf2_msgs.msg').TFMessage


def _cache():
    root = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    # Another environment has another ABI.
    key = sysconfig.get_config_var('EXT_SUFFIX').strip('.').replace('.', '-')
    try:
        version = metadata.version('ros-rclpy')
    except metadata.PackageNotFoundError:  # an installation, not wheels: it can install more
        raise ImportError('tf2_msgs is not installed; install ros-$ROS_DISTRO-tf2-msgs') from None
    return root / 'steer_depth_ros' / f'{PACKAGE}-{version}-{key}'


def _build(folder):
    """Generate and compile beside `folder`, then move there: a half-built one is never seen."""
    if shutil.which('g++') is None:
        raise ImportError('tf2_msgs is not installed, and building it needs g++')
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _generate(work)
        _compile(work, work / PACKAGE)
        os.rename(work, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        if folder.is_dir():  # another process was faster
            return
        reason = (getattr(error, 'stderr', '') or str(error)).strip().splitlines()[-1]
        raise ImportError(f'tf2_msgs is not installed, and building it failed: {reason}') from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _generate(work):
    """Write the sources of the type into work/tf2_msgs."""
    environment = {**os.environ, 'AMENT_PREFIX_PATH': sys.prefix}
    subprocess.run([sys.executable, '-c', 'import sys, tf_types; tf_types.generate(sys.argv[1])',
                    str(work)], check=True, capture_output=True, text=True, env=environment,
                   cwd=Path(__file__).parent)


def generate(work: str) -> None:
    """Run the generators of rosidl; in a process of its own, as they read the environment."""
    from ament_index_python import get_package_share_directory
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    source, out = Path(work) / 'idl' / 'msg', Path(work) / PACKAGE
    source.mkdir(parents=True)
    out.mkdir()
    (source / 'TFMessage.idl').write_text(IDL)
    arguments = (PACKAGE, [f'{source.parent}:msg/TFMessage.idl'],
                 [get_package_share_directory(name) for name in DEPENDENCIES], out)
    hashes = HashTypeDescription('hash').generate_type_hashes(*arguments)
    GenerateC('c').generate(*arguments, hashes)
    GenerateFastRTPSCTypesupport('fastrtps').generate(*arguments)
    GenerateIntrospectionCTypesupport('introspection').generate(*arguments)
    GenerateCTypesupport('dispatch', typesupport_implementations=SUPPORTS).generate(*arguments)
    GeneratePython('python', typesupport_implementations=['rosidl_typesupport_c']).generate(
        *arguments)
    (out / '__init__.py').touch()


def _compile(work, out):
    detail = out / 'msg' / 'detail'
    fastrtps, introspection = (f'lib{PACKAGE}__{support}.so' for support in SUPPORTS)
    _link(work, out / fastrtps, [detail / 'tf_message__type_support_c.cpp',
                                 detail / 'tf_message__description.c',
                                 detail / 'tf_message__functions.c'])
    _link(work, out / introspection, [detail / 'tf_message__type_support.c'], [fastrtps])
    # As dependencies both are loaded by the time the dispatch looks for them by name.
    _link(work, out / f'{PACKAGE}_s__rosidl_typesupport_c{sysconfig.get_config_var("EXT_SUFFIX")}',
          [out / f'_{PACKAGE}_s.ep.rosidl_typesupport_c.c', out / 'msg' / '_tf_message_s.c',
           out / 'msg' / 'tf_message__type_support.cpp'], [fastrtps, introspection])


def _link(work, target, sources: List[Path], libraries=()):
    import numpy
    include = Path(sys.prefix) / 'include'
    flags = [f'-I{path}' for path in (work, include, *include.iterdir(), numpy.get_include(),
                                      sysconfig.get_path('include'))]
    flags += ['-O1', '-fPIC', f'-DROS_PACKAGE_NAME="{PACKAGE}"']
    objects = []
    for source in sources:
        objects.append(work / f'{target.stem}-{source.name}.o')
        compiler = ['g++', '-std=c++17'] if source.suffix == '.cpp' else ['gcc']
        _run([*compiler, *flags, '-c', str(source), '-o', str(objects[-1])])
    names = [*RUNTIME, *(f'geometry_msgs__{part}' for part in (
        'rosidl_generator_c', 'rosidl_generator_py', 'rosidl_typesupport_c', *SUPPORTS))]
    _run(['g++', '-shared', '-o', str(target), f'-Wl,-soname,{target.name}',
          '-Wl,-rpath,$ORIGIN', '-Wl,--no-as-needed', *map(str, objects), f'-L{target.parent}',
          f'-L{sys.prefix}/lib', *(f'-l:{name}' for name in libraries),
          *(f'-l{name}' for name in names)])


def _run(command):
    subprocess.run(command, check=True, capture_output=True, text=True)
