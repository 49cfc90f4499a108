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
"""The parameters of the node: one table that declares, checks and documents them."""
from dataclasses import dataclass
import math
from typing import Any, Dict, Optional, Tuple

from steer_depth_ros.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """
    One parameter; its type is that of its default (a float also takes integers).

    low, high: inclusive range. choices: allowed texts. dynamic: may change while the node is
    configured; others are read when it is configured. read_only: fixed at start.
    """

    name: str
    default: Any
    text: str
    low: Optional[float] = None
    high: Optional[float] = None
    choices: Tuple[str, ...] = ()
    dynamic: bool = False
    read_only: bool = False


PARAMETERS = {parameter.name: parameter for parameter in (
    Parameter('autostart', True, 'configure and activate at start, without a lifecycle manager',
              read_only=True),
    Parameter('preset', 'default', 'model preset; '
              '`ros2 run steer_depth_ros steer_depth presets` lists them'),
    Parameter('weights', '', "file of weights; empty: the preset's own"),
    Parameter('device', 'auto', 'auto (CUDA for reference alone), cpu, cuda or cuda:N'),
    Parameter('depth_source', 'points',
              'points: PointCloud2 `points`; depth_image: Image `sparse_depth`',
              choices=('points', 'depth_image')),
    Parameter('points_topics', [''],
              'topics of several LiDARs, the first is paired with the image (empty: `points`)'),
    Parameter('image_compressed', False, 'subscribe to `image/compressed` (CompressedImage)'),
    Parameter('depth_compressed', False, 'subscribe to `sparse_depth/compressedDepth` (PNG, RVL)'),
    Parameter('image_rectified', False,
              'use P of the camera_info and no distortion, as for topics named image_rect'),
    Parameter('image_scale', 1.0,
              'scale the image before completion; outputs have the scaled size',
              0.1, 1.0, dynamic=True),
    Parameter('calibration_file', '',
              'calibration file to use instead of camera_info (empty: none)'),
    Parameter('depth_unit_m', 0.001,
              'meters per count of integer depth images (16UC1)', 1e-6, 10.0, dynamic=True),
    Parameter('points_unit_m', 0.0,
              'meters per unit of a cloud (0: meters or millimeters, inferred)',
              0.0, 10.0, dynamic=True),
    Parameter('depth_image_stride', 1, 'take every n-th pixel of every n-th row of a depth image',
              1, 64, dynamic=True),
    Parameter('min_depth_m', 0.1,
              'meters; nearer measurements are ignored', 0.0, 1000.0, dynamic=True),
    Parameter('max_depth_m', 1000.0,
              'meters; farther measurements are ignored', 0.1, 100000.0, dynamic=True),
    Parameter('sync_mode', 'nearest', 'nearest, or approximate or exact of message_filters',
              choices=('nearest', 'approximate', 'exact')),
    Parameter('slop_s', 0.05,
              'seconds; largest distance between the stamps of a pair', 0.0, 10.0, dynamic=True),
    Parameter('time_offset_s', 0.0, 'seconds added to the stamps of the depth before pairing',
              -1e10, 1e10, dynamic=True),
    Parameter('queue_size', 20, 'messages of each input that may wait for a partner', 1, 1000),
    Parameter('accumulate_s', 0.0,
              'seconds; use all clouds of this time before the image (0: one cloud)',
              0.0, 10.0, dynamic=True),
    Parameter('compensate_point_times', False,
              "compensate the robot's motion by the time of each point; needs fixed_frame",
              dynamic=True),
    Parameter('extrinsics.source', 'auto',
              'auto: TF for clouds and for depth images in another frame, else identity',
              choices=('auto', 'tf', 'parameters', 'identity')),
    Parameter('extrinsics.xyz', [0.0, 0.0, 0.0],
              'meters; position of the depth sensor in the optical frame', dynamic=True),
    Parameter('extrinsics.rpy', [0.0, 0.0, 0.0],
              'radians; roll, pitch, yaw of the depth sensor in the optical frame', dynamic=True),
    Parameter('extrinsics.quaternion', [0.0, 0.0, 0.0, 1.0],
              'x y z w; rotation instead of extrinsics.rpy', dynamic=True),
    Parameter('fixed_frame', '',
              "static frame such as odom, to compensate the robot's motion (empty: none)"),
    Parameter('tf_timeout_s', 0.1, 'seconds to wait for a late transform', 0.0, 5.0, dynamic=True),
    Parameter('depth_encoding', '32FC1', '32FC1: meters, NaN unknown; 16UC1: millimeters, 0 '
              'unknown', choices=('32FC1', '16UC1'), dynamic=True),
    Parameter('min_confidence', 0.0,
              'depth of lower confidence is published as unknown', 0.0, 1.0, dynamic=True),
    Parameter('cloud_rate_hz', 0.0,
              'hertz; largest rate of the cloud (0: as the depth)', 0.0, 1000.0, dynamic=True),
    Parameter('cloud_organized', False, 'keep the image grid, NaN where unknown', dynamic=True),
    Parameter('cloud_stride', 1, 'take every n-th pixel of every n-th row', 1, 64, dynamic=True),
    Parameter('cloud_voxel_m', 0.0,
              'meters; one point per cube of this size, a millimeter at least (0: all points)',
              0.0, 10.0, dynamic=True),
    Parameter('cloud_min_confidence', 0.0,
              'points of lower confidence are left out', 0.0, 1.0, dynamic=True),
    Parameter('cloud_edge_filter', True,
              'leave out flying points between foreground and background', dynamic=True),
    Parameter('debug_rate_hz', 5.0,
              'hertz; largest rate of the images under ~/debug (0: as the depth)',
              0.0, 1000.0, dynamic=True),
    Parameter('save_dir', 'steer_depth_frames',
              'folder of ~/save_frame, relative to ROS_HOME (~/.ros)', dynamic=True),
)}


def check(name: str, value: Any) -> Any:
    """
    Return the value of a parameter in its own type.

    Raise ConfigError, naming parameter, value and what is allowed.
    """
    parameter = PARAMETERS[name]
    default = parameter.default
    if isinstance(default, list):
        return (_texts if isinstance(default[0], str) else _numbers)(parameter, value)
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refusal(parameter, value, 'a number')
        value = float(value)
    elif type(value) is not type(default):
        kinds = {bool: 'true or false', int: 'a whole number', str: 'a text'}
        raise _refusal(parameter, value, kinds[type(default)])
    if parameter.choices and value not in parameter.choices:
        raise _refusal(parameter, value, f'one of {", ".join(parameter.choices)}')
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise _refusal(parameter, value, f'between {parameter.low:g} and {parameter.high:g}')
    return value


def check_together(values: Dict[str, Any]) -> None:
    """Raise ConfigError for parameters that contradict each other."""
    if values['min_depth_m'] >= values['max_depth_m']:
        raise ConfigError(f"min_depth_m ({values['min_depth_m']:g}) must be below max_depth_m "
                          f"({values['max_depth_m']:g})")
    if 0 < values['cloud_voxel_m'] < 1e-3:
        raise ConfigError(f"cloud_voxel_m is {values['cloud_voxel_m']:g} m, less than a "
                          'millimeter; set it to 0 for all points')
    if values['cloud_organized'] and values['cloud_voxel_m'] > 0:
        raise ConfigError('cloud_voxel_m cannot thin out an organized cloud; set cloud_organized '
                          'to false or use cloud_stride')
    if values['sync_mode'] != 'nearest' and values['time_offset_s'] != 0:
        raise ConfigError('time_offset_s works with sync_mode "nearest" only')
    if values['compensate_point_times'] and not values['fixed_frame']:
        raise ConfigError('compensate_point_times needs fixed_frame, e.g. "odom"')
    if any(values['extrinsics.rpy']) and values['extrinsics.quaternion'] != [0, 0, 0, 1]:
        raise ConfigError('extrinsics.rpy and extrinsics.quaternion are both given; keep one')
    if math.hypot(*values['extrinsics.quaternion']) < 1e-6:
        raise ConfigError('extrinsics.quaternion (x y z w) of zeros is no rotation; none is '
                          '[0.0, 0.0, 0.0, 1.0]')


RENAMED = {'cloud_organised': 'cloud_organized'}


class Parameters:
    """
    The declared parameters of a node.

    values: their checked values by name. `changed` is called with the names after a change at
    run time; `configured` tells whether only dynamic ones may change.
    """

    def __init__(self, node, configured, changed):
        self._node, self._configured, self._changed = node, configured, changed
        self.values = {name: _declare(node, p) for name, p in PARAMETERS.items()}
        self._renamed = [old for old in RENAMED if _is_given(node, old)]
        node.add_on_set_parameters_callback(self._on_set)

    def read(self) -> Dict[str, Any]:
        """Return all values checked; raise ConfigError for one that cannot be used."""
        for old in self._renamed:
            raise ConfigError(f'the parameter {old} is now called {RENAMED[old]}; rename it in '
                              'your launch file, parameter file or command')
        values = {name: check(name, _plain(self._node.get_parameter(name).value))
                  for name in PARAMETERS}
        check_together(values)
        self.values = values
        return values

    def _on_set(self, parameters):
        from rcl_interfaces.msg import SetParametersResult
        new = {p.name: _plain(p.value) for p in parameters if p.name in PARAMETERS}
        try:
            new = {name: check(name, value) for name, value in new.items()}
            fixed = sorted(name for name, value in new.items()
                           if not PARAMETERS[name].dynamic and value != self.values[name])
            if fixed and self._configured():
                raise ConfigError(f'{", ".join(fixed)} can change only while the node is '
                                  'unconfigured; deactivate and clean it up first')
            values = {**self.values, **new}
            if self._configured():
                check_together(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.values = values
        if new:
            self._changed(set(new))
        return SetParametersResult(successful=True)


def _declare(node, parameter):
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
    how = ('read only' if parameter.read_only
           else 'dynamic' if parameter.dynamic else 'read when the node is configured')
    descriptor = ParameterDescriptor(
        description=parameter.text, read_only=parameter.read_only,
        additional_constraints='; '.join(
            [how, *([f'one of {", ".join(parameter.choices)}'] if parameter.choices else [])]))
    default = parameter.default
    if isinstance(default, (float, list)):
        descriptor.dynamic_typing = True  # `80` in a YAML file is an integer
    if isinstance(default, float) and parameter.low is not None:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(parameter.low), to_value=float(parameter.high))]
    elif isinstance(default, int) and parameter.low is not None:
        descriptor.integer_range = [
            IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
    try:
        return node.declare_parameter(parameter.name, default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException):
        if parameter.read_only:
            raise
        # Taken as it is, so that configuring fails by one sentence, whatever is wrong with it.
        return node.declare_parameter(parameter.name, default, ParameterDescriptor(
            description=parameter.text, dynamic_typing=True)).value


def _is_given(node, name):
    """Return whether a parameter that the node does not have was given at start."""
    from rcl_interfaces.msg import ParameterDescriptor
    given = node.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
    node.undeclare_parameter(name)
    return given is not None


def _numbers(parameter, value):
    count = len(parameter.default)
    usable = isinstance(value, list) and len(value) == count and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        for v in value)
    if not usable:
        raise _refusal(parameter, value, f'a list of {count} numbers')
    return [float(v) for v in value]


def _texts(parameter, value):
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _refusal(parameter, value, 'a list of texts')
    return value


def _plain(value):
    """Arrays of rclpy parameters come as array.array or ndarray."""
    return value if isinstance(value, (str, bool, int, float, type(None))) else list(value)


def _refusal(parameter, value, wanted):
    return ConfigError(f'{parameter.name} must be {wanted}, not {value!r} ({parameter.text})')
