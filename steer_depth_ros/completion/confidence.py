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
"""The error to expect of an estimate, and the confidence that follows from it."""
from steer_depth_ros.completion.kernels import interpolate_coarse
from steer_depth_ros.completion.maps import line
from steer_depth_ros.ops.timing import stage

CLOSE = 0.05  # confidence is the probability of a relative error under this


@stage('confidence')
def expected_error(frame, log_residual, distance, valid=None):
    """
    Return the relative error to expect, (H, W): bad fits around and far samples raise it.

    log_residual: (M,) of the coarse estimate at the measured samples, of which those that are
    `valid` count. distance: (H, W) pixels to them.
    """
    config = frame.config
    spread = interpolate_coarse(frame, log_residual.abs(), 0, valid)
    return line(spread, config.error_per_residual, config.error_floor).add_(
        distance, alpha=config.error_per_distance / frame.mean_spacing)


@stage('confidence')
def confidence_of(error):
    """Return the probability that the relative error is under 5 %, for its expected value."""
    return 1 - (-CLOSE / error.clamp(min=1e-6)).exp_()
