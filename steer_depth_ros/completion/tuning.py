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
Kernels tuned to the frame at hand by leave-one-out cross-validation.

How much a difference of color says about depth, and how wide kernels should be, differs from
scene to scene: painted walls and cast shadows, gray boxes on gray tables. The samples know: each
is predicted from its neighbors without itself, and the settings that do so best are used, the
classic way of choosing bandwidths in kernel regression. Of scan lines the whole line of a sample
is left out, for what lies between lines is the question that completion has to answer.
"""
import numpy as np
import torch

from steer_depth_ros.ops import leave_one_out
from steer_depth_ros.ops.leave_one_out import Constants, LeaveOneOut, Neighbors


def choose_queries(frame):
    """
    Choose measured samples of the frame to leave out, spread over all of them, int64 (Q,).

    There are none where all samples together are fewer than a pixel takes.
    """
    asked = min(frame.config.tuning_queries, frame.count)
    chosen = np.unique(np.linspace(0, frame.count - 1, asked).astype(int))
    return torch.from_numpy(chosen[:0] if frame.count <= frame.neighbor_count else chosen)


def find_neighbors(uv, frame) -> Neighbors:
    """Find the neighbors of the queries of a frame among its measured samples uv (M, 2)."""
    lines = frame.aspect > frame.config.tuning_line_aspect
    return leave_one_out.find_neighbors(
        uv, frame.queries, frame.neighbor_count, frame.aspect, frame.row_spacing / 2 * lines)


def left_out_of(frame, colors, kernels, neighbors) -> LeaveOneOut:
    """
    Return what the kernels of the frame are tuned on.

    colors: (N, 3) CIELab at the samples. kernels: (N, 3), elongation, rotation and scaling.
    """
    config, count = frame.config, frame.count
    return LeaveOneOut(
        frame.uv[:count], frame.inverse, colors[:count] / config.color_step, kernels[:count],
        neighbors, Constants(
            frame.aspect, config.ridge, config.bandwidth, config.depth_step,
            config.bandwidth_at_sample, config.bandwidth_far,
            config.bandwidth_distance * frame.mean_spacing, config.coarse_neighbors,
            config.tuning_steps, config.tuning_rate, config.tuning_newest,
            config.tuning_newest_square, config.tuning_averaged, config.tuning_prior,
            config.tuning_max_error))
