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
"""Errors that a user can cause; each message says what is wrong, where, and what to do."""


class SteerDepthError(Exception):
    """Base class of all errors of this package: one clear sentence, shown without traceback."""


class CalibrationError(SteerDepthError):
    """Camera intrinsics or extrinsics that are missing, contradictory or of an unknown model."""


class MessageError(SteerDepthError):
    """A ROS message whose layout, encoding or size cannot be used."""


class FrameError(SteerDepthError):
    """Arrays or files of a single frame that do not fit together."""


class BagError(SteerDepthError):
    """A recording that is missing, empty, truncated or lacks the requested topics."""


class DiskFullError(BagError):
    """The disk is full; everything recorded before is kept."""


class DatasetError(SteerDepthError):
    """A data set whose files are missing or corrupt; the message names the file."""


class WeightsError(SteerDepthError):
    """Weights that are missing, damaged or for another architecture."""


class ConfigError(SteerDepthError):
    """An option or parameter with a value that cannot be used."""


class NativeLibraryError(SteerDepthError):
    """A compiled library that is damaged or was not built from the sources of this package."""


class DeviceMemoryError(SteerDepthError):
    """A frame for which the device or the host does not have enough free memory."""
