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

import cv2
import numpy as np

from steer_depth_ros.completion.resample import as_batch_tensor, sample_bilinear
from steer_depth_ros.completion.spacing import sample_spacing
from steer_depth_ros.geometry.projection import pixel_of
from steer_depth_ros.ops.timing import stage


@stage('sample_fit')
def fit_to_samples(depth, uv, measured, config):
    """
    Return depth (H, W) pulled to the measured (N,) at uv (N, 2), within a share of their spacing.

    The pixels next to a sample should say what it says. Nothing leaves the range of the samples.
    """
    height, width = depth.shape
    spacing = math.sqrt(math.prod(sample_spacing(uv, depth.shape, config)))
    sigma = max(config.pull_radius * spacing, config.pull_min_radius)
    window = (2 * math.ceil(2 * sigma) + 1,) * 2
    residual = measured / sample_bilinear(depth[..., None], as_batch_tensor(uv))[:, 0] - 1
    residual = residual.clip(-config.pull_max, config.pull_max)
    pixel = pixel_of(uv, depth.shape)
    total, count = np.zeros((2, height, width), np.float32)
    total[pixel], count[pixel] = residual, 1
    total, count = (cv2.GaussianBlur(each, window, sigma) for each in (total, count))
    count += np.float32(config.pull_prior)
    total /= count
    total += 1
    total *= depth
    return np.clip(total, measured.min(), measured.max(), out=total)
