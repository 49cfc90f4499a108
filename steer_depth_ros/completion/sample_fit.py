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
"""What was computed at half of the resolution is fitted to the samples at full resolution."""
import math

import torch

from steer_depth_ros.completion import maps
from steer_depth_ros.ops.constants import number
from steer_depth_ros.ops.timing import stage


@stage('sample_fit')
def fit_to_samples(depth, given, config):
    """
    Return depth (H, W) pulled to the Given samples, within a share of their spacing.

    The pixels next to a sample should say what it says. Nothing leaves the range of the samples.
    """
    sigma = max(config.pull_radius * given.spacing, config.pull_min_radius)
    residual = (given.depth / maps.sample(depth, given.uv) - 1).clamp(
        -config.pull_max, config.pull_max)
    one = number(1.0, depth.device)
    sums = maps.add_at(given.uv, torch.stack([residual, one.expand_as(residual)]), depth.shape)
    total, count = maps.blur(sums, sigma, math.ceil(2 * sigma))
    pull = torch.addcdiv(one, total, count.add_(config.pull_prior))
    return pull.mul_(depth).clamp_(*torch.aminmax(given.depth))
