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
Ablation study: how much each step from fixed kernels to the full method contributes.

All steps interpolate inverse depth from the same samples with the same neighbors, aspect and
bandwidth, so that consecutive rows differ only in the step that they name.
"""
from typing import Dict, List

import numpy as np
import torch

from steer_depth_ros.completion import kernels, pipeline
from steer_depth_ros.completion.occlusion import remove_occluded
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.completion.refinement import Refinement
from steer_depth_ros.evaluation.evaluate import Predict, Result

FIXED = 'fixed kernels, order 1'
TUNED = '  + tuned to each frame'
TWICE = '  + a second time, guided by the first'
STEERING = '  + second-order TV (preset steering)'
FAST = 'preset fast'
LEARNED = 'preset learned'
ORDERS = (0, 1, 2)


def ablation_methods(weights=None, device='cpu') -> Dict[str, Predict]:
    """
    Return the methods of the study by name, in the order of the table.

    weights: safetensors file of a refinement; None for the one in the package.
    Raise WeightsError if the file cannot be used.
    """
    methods = {f'fixed kernels, order {order}': _weight_free(order, False, False)
               for order in ORDERS}
    methods['image-structure kernels, order 1'] = _weight_free(1, True, False)
    methods.update({f'  + color and depth guide, order {order}': _weight_free(order, True, True)
                    for order in ORDERS})
    methods[TUNED], methods[TWICE] = _tuned(twice=False), _tuned(twice=True)
    refine = Refinement.load(weights or find_preset('learned').weights_path(), device)
    methods[STEERING], methods[FAST] = _preset(half=False), _preset(half=True)
    methods[LEARNED] = _preset(half=True, refine=refine, device=device)
    return {name: torch.inference_mode()(method) for name, method in methods.items()}


def _preset(**settings):
    return lambda image, uv, depth: (
        pipeline.complete(image, uv, depth, reach=np.inf, **settings)[0], None)


def _described(image, uv, depth):
    return pipeline.problem_of(image, remove_occluded(uv, depth, image.shape[:2]))


def _weight_free(order, structure, guided):
    """Return a method without weights; structure: image kernels; guided: with the guide."""
    def predict(image, uv, depth):
        problem = _described(image, uv, depth)
        frame, count, guide = problem.frame, problem.frame.count, {}
        uv = frame.uv[:count]  # the steps before holes were filled
        if guided:
            features = torch.cat([problem.color, problem.log_depth[None]])
            guide = {'guide': (features * problem.per_step[:, None, None])[None],
                     'at_samples': (problem.at_samples[:count] * problem.per_step)[None]}
        dense, _ = kernels.interpolate(
            uv, frame.inverse, frame.size, problem.kernels[:count] if structure else None,
            **guide, bandwidth=kernels.bandwidth_at(frame, problem.distance)[None],
            ridge=frame.config.ridge, neighbours=frame.neighbor_count, order=order,
            aspect=frame.aspect)
        return (frame.median / dense[0].clamp(*torch.aminmax(frame.inverse))).numpy(), None
    return predict


def _tuned(twice):
    """Return the first pass of `steering` at full resolution; twice: the second pass."""
    def predict(image, uv, depth):
        problem = _described(image, uv, depth)
        tuned = problem.left_out.tune()
        if twice:
            problem, tuned = pipeline.second_pass(problem, tuned)
        dense, _ = problem.regress(tuned.settings[None])
        return (problem.frame.median / dense[0]).numpy(), None
    return predict


def format_ablation(results: List[Result]) -> List[str]:
    """
    Return the lines of a table: errors relative to fixed kernels, and time per frame.

    Ratios are geometric means over the frames, so that near and far scenes count alike.
    """
    fixed = {r.pattern: r for r in results if r.method == FIXED}
    width = max(len(r.method) for r in results) + 2
    lines = [f'{"method":<{width}}{"pattern":<20}{"MAE / fixed":>12}{"RMSE / fixed":>13}{"ms":>8}']
    for pattern in fixed:
        lines += [f'{r.method:<{width}}{r.pattern:<20}{quotient(r, fixed[pattern], "mae"):>12.3f}'
                  f'{quotient(r, fixed[pattern], "rmse"):>13.3f}'
                  f'{1e3 * np.median(r.seconds):>8.0f}' for r in results if r.pattern == pattern]
    return lines


def quotient(result: Result, base: Result, figure: str) -> float:
    """Return the geometric mean over the frames of a figure relative to `base`; NaN if none."""
    pairs = [(f[figure], b[figure]) for f, b in zip(result.frames, base.frames)]
    logs = [np.log(f / b) for f, b in pairs if f and b]
    return float(np.exp(np.mean(logs))) if logs else float('nan')
