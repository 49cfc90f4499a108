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
"""The fields of each output message, for the node and the offline tool, and rate limits."""
from typing import Any, Dict

import numpy as np

from steer_depth_ros.geometry.cloud import depth_to_cloud
from steer_depth_ros.ros import messages
from steer_depth_ros.ros.pipeline import Result
from steer_depth_ros.viz import preview
from steer_depth_ros.viz.overlay import draw_overlay

EARLY = 0.9  # of a period: a limit of 5 Hz on 10 Hz images lets every second one through


class RateGate:
    """Limits the rate of stamps; a jump back in time resets it."""

    def __init__(self):
        self._last = None

    def due(self, stamp_ns: int, rate_hz: float) -> bool:
        """Return whether an output with this stamp is due."""
        if self._last is None or rate_hz <= 0 or stamp_ns < self._last:
            return True
        return stamp_ns - self._last >= EARLY * 1e9 / rate_hz

    def passed(self, stamp_ns: int) -> None:
        """Note that the output was published."""
        self._last = stamp_ns


def output_fields(name: str, result: Result, values: Dict[str, Any]) -> Dict[str, Any]:
    """
    Return the fields, without the header, of one output of a result.

    name: depth, camera_info, confidence, cloud, depth_color or overlay. values: parameters of the
    node, see parameters.py.
    """
    return _MAKERS[name](result, values)


def _cloud(result, values):
    cloud = depth_to_cloud(
        result.depth, result.frame.camera, result.frame.image, result.confidence,
        stride=values['cloud_stride'], voxel_m=values['cloud_voxel_m'] or None,
        min_confidence=values['cloud_min_confidence'],
        edge_filter=values['cloud_edge_filter'], organized=values['cloud_organized'])
    if result.frame.shift is not None:
        cloud[..., :3] -= result.frame.shift.astype(np.float32)
    return messages.cloud_fields(cloud)


def _camera_info(result, _):
    fields = messages.camera_info_fields(result.frame.camera)
    if result.frame.shift is not None:
        fields['p'][3], fields['p'][7] = (fields['p'][i] * shift for i, shift in zip(
            (0, 5), result.frame.shift[:2].tolist(), strict=True))
    return fields


def _depth_color(result, _):
    near, far = preview.depth_range(result.sparse.depth)
    return messages.image_fields(preview.color_depth(result.depth, near, far), 'rgb8')


def _overlay(result, _):
    return messages.image_fields(
        draw_overlay(result.frame.image, result.sparse.uv, result.sparse.depth), 'rgb8')


_MAKERS = {
    'depth': lambda result, values: messages.depth_fields(result.depth, values['depth_encoding']),
    'camera_info': _camera_info,
    'confidence': lambda result, _: messages.confidence_fields(result.confidence),
    'cloud': _cloud, 'depth_color': _depth_color, 'overlay': _overlay}
