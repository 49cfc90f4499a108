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
"""What a calibration came to: sentences, numbers, parameters, a launch file and a picture."""
from typing import Any, Dict, List

import numpy as np
import yaml

from steer_depth_ros.calibration.optimize import Estimate, NAMES, ROTATION, TIME, UNITS
from steer_depth_ros.geometry.projection import project_points
from steer_depth_ros.geometry.transforms import quaternion_from
from steer_depth_ros.viz.overlay import draw_overlay, stacked

AXES = ('about x (right)', 'about y (down)', 'about z (forward)', 'along x (right)',
        'along y (down)', 'along z (forward)', 'time offset')
REMEDIES = {
    'pitch': 'show it things whose upper edges stand out: cars, signs, walls against the sky',
    'yaw': 'show it upright edges: poles, corners of buildings, cars from behind',
    'roll': 'show it edges at the left and the right of the image',
    'x': 'show it upright edges near by and far away at once',
    'y': 'show it lying edges near by and far away at once',
    'z': 'show it edges near by at the sides of the image',
    'time': 'drive and turn: while the robot stands, or drives straight and slowly, the time '
            'offset is not seen'}
LAUNCH = """from launch import LaunchDescription
from launch_ros.actions import Node


def generate_launch_description():
    return LaunchDescription([Node(
        package='tf2_ros', executable='static_transform_publisher', arguments=[
            '--frame-id', '{parent}', '--child-frame-id', '{child}',
            '--x', '{x:.6f}', '--y', '{y:.6f}', '--z', '{z:.6f}',
            '--qx', '{qx:.9f}', '--qy', '{qy:.9f}', '--qz', '{qz:.9f}', '--qw', '{qw:.9f}'])])
"""


def describe(estimate: Estimate) -> List[str]:
    """Return the lines for the terminal."""
    lines = [f'{estimate.features} edges of depth in {estimate.frames} '
             f'frame{"s" if estimate.frames != 1 else ""}']
    for index in np.flatnonzero(estimate.free):
        value, sigma = estimate.correction[index], estimate.sigma[index]
        name = f'{NAMES[index]:>6}, {AXES[index] + ":":<20}'
        if estimate.observable[index]:
            lines.append(f'{name} {_shown(index, value, "+")} +- {_shown(index, sigma)}')
        else:
            lines.append(f'{name} not observable here (+- {_shown(index, sigma)}): '
                         f'{REMEDIES[NAMES[index]]}')
    if not estimate.observable.any():
        lines.append('nothing is observable in these frames: the calibration stays as it is')
    elif estimate.changed:
        lines.append('the calibration is off by more than its uncertainty: corrected')
    else:
        lines.append('the calibration is right within the uncertainty: it stays as it is')
    return lines + estimate.notes


def _shown(index, value, sign=''):
    unit = UNITS[index]
    if unit == 'm':
        return f'{1e3 * value:{sign}.0f} mm'
    if unit == 's':
        return f'{1e3 * value:{sign}.1f} ms'
    return f'{value:{sign}.2f} deg'


def as_json(estimate: Estimate, time_offset_s: float = 0.0) -> Dict[str, Any]:
    """
    Return the figures.

    T_cam_lidar: 16 numbers row by row. rotation_sigma_deg, translation_sigma_m, time_sigma_s:
    standard deviations about and along the camera's axes, null for what was not asked for.
    time_offset_s: the parameter of the node; that of the recording was `time_offset_s`.
    observable: by degree of freedom that was asked for.
    """
    sigma = [None if np.isnan(one) else float(one) for one in estimate.sigma]
    return {'T_cam_lidar': estimate.pose.ravel().tolist(), 'rotation_sigma_deg': sigma[:3],
            'translation_sigma_m': sigma[3:6], 'time_sigma_s': sigma[6],
            'time_offset_s': offset(estimate, time_offset_s),
            'observable': {NAMES[i]: bool(estimate.observable[i])
                           for i in np.flatnonzero(estimate.free)},
            'changed': estimate.changed,
            'correction_deg': estimate.correction[ROTATION].tolist(),
            'correction_m': estimate.correction[3:6].tolist(),
            'correction_s': float(estimate.correction[TIME]),
            'frames': estimate.frames, 'features': estimate.features}


def offset(estimate: Estimate, before_s: float) -> float:
    """Return the parameter time_offset_s after the correction."""
    return before_s + (float(estimate.correction[TIME]) if estimate.changed else 0.0)


def parameters(estimate: Estimate, time_offset_s: float = 0.0) -> str:
    """Return a parameter file of the node, which `params_override` takes, too."""
    values: Dict[str, Any] = {
        'extrinsics': {'source': 'parameters',
                       'xyz': np.round(estimate.pose[:3, 3], 6).tolist(),
                       'quaternion': np.round(quaternion_from(estimate.pose), 9).tolist()}}
    if estimate.free[TIME]:
        values['time_offset_s'] = round(offset(estimate, time_offset_s), 5)
    return yaml.safe_dump({'/**': {'ros__parameters': values}}, default_flow_style=None)


def launch_file(estimate: Estimate, camera_frame: str, points_frame: str) -> str:
    """Return a launch file that publishes the pose of the depth sensor in the camera's frame."""
    x, y, z = estimate.pose[:3, 3]
    qx, qy, qz, qw = quaternion_from(estimate.pose)
    return LAUNCH.format(parent=camera_frame, child=points_frame, x=x, y=y, z=z, qx=qx, qy=qy,
                         qz=qz, qw=qw)


def before_and_after(image, camera, points, start, pose) -> np.ndarray:
    """Draw the edges of depth over those of the image with both poses; uint8 (H, W, 3) RGB."""
    sparse = [project_points(points, camera, matrix) for matrix in (start, pose)]
    return stacked([draw_overlay(image, one.uv, one.depth) for one in sparse],
                   ['before', 'after: edges of depth (pink) should lie on edges of the image'])
