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
"""Our model with a refinement that predicts depth itself: the paper's other choice, to compare."""
from steer_depth_ros.network.steering_net import SteeringNet

ARCHITECTURE = 'absolute_net'
SCALE = 10.0  # the head's output counts a tenth in a residual


class AbsoluteNet(SteeringNet):
    """
    SteeringNet without the skip from the interpolation to the result.

    Everything else, parameters included, is the same: the refinement still sees the interpolated
    depth, but has to put out the whole of it. It starts at the median of the samples.
    """

    def forward(self, frame, features=None):
        """Return what SteeringNet returns; the first map is the refinement's output alone."""
        refined, error, kernel = super().forward(frame, features)
        return SCALE * (refined - kernel), error, kernel
