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
Dense metric depth from a camera image and the sparse depth of any sensor.

    import steer_depth_ros as sd
    completer = sd.DepthCompleter(preset='default')
    result = completer.complete(image, uv, depth)     # result.depth, result.confidence
"""

__version__ = '0.1.0'
__all__ = ['Completion', 'DepthCompleter', '__version__']


def __getattr__(name):
    # torch takes seconds to import: `steer_depth --help` and the ROS side should not wait for it.
    if name in ('Completion', 'DepthCompleter'):
        from steer_depth_ros.completion import completer
        return getattr(completer, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
