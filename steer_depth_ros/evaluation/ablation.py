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
What each part of the method is worth: the steps from fixed kernels to the whole model.

All steps interpolate inverse depth from the same samples with the same neighbours, aspect and
bandwidth, so that a row differs from the one above it by what its name says.
"""
from typing import Dict, List

import numpy as np
import torch

from steer_depth_ros.completion import leave_one_out, steering
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.completion.steering import SteeringModel
from steer_depth_ros.completion.visibility import without_hidden
from steer_depth_ros.evaluation.evaluate import Predict, Result
from steer_depth_ros.network.learned import LearnedModel
from steer_depth_ros.ops import kernel_regression

FIXED = 'fixed kernels, order 1'
TUNED = '  + tuned to each frame'
TWICE = '  + a second time, guided by the first'
STEERING = '  + thin plate (preset steering)'
MIXTURE = '  + learned mixture of kernels'
ORDERS = (0, 1, 2)


def ablation_methods(weights=None, device='cpu') -> Dict[str, Predict]:
    """
    Return the methods by name, fixed kernels among them.

    weights: a safetensors file of a network that mixes kernels, None for that of the package.
    Raise WeightsError for a file that cannot be used.
    """
    methods = {f'fixed kernels, order {order}': _weight_free(order, False, False)
               for order in ORDERS}
    methods['image-structure kernels, order 1'] = _weight_free(1, True, False)
    methods.update({f'  + colour and depth guide, order {order}': _weight_free(order, True, True)
                    for order in ORDERS})
    methods[TUNED], methods[TWICE] = _tuned(twice=False), _tuned(twice=True)
    methods[STEERING] = _estimated(SteeringModel())
    model = LearnedModel.load(weights or find_preset('learned').weights_path(), device)
    methods[MIXTURE] = _estimated(model)
    return methods


def _estimated(model):
    def predict(image, uv, depth):
        with torch.inference_mode():
            return model.estimate(image, *without_hidden(uv, depth, image.shape[:2]))[0], None
    return predict


def _weight_free(order, structure, guided):
    """Interpolate without weights; structure and guided: with image kernels, with the guide."""
    def predict(image, uv, depth):
        with torch.inference_mode():
            inputs = steering.prepare(image, *without_hidden(uv, depth, image.shape[:2]))
            kernels = steering.round_kernels(inputs.inverse)
            if structure:
                kernels = steering.image_steering(inputs)
            guide = {}
            if guided:
                maps, at, _ = steering.guides(inputs)
                guide = {'guide': steering.batch(maps),
                         'guide_at_samples': steering.batch(at)}
            width = steering.bandwidths(inputs, steering.sample_distance(inputs))
            dense, _ = kernel_regression(
                inputs.uv, inputs.inverse, kernels.contiguous(), inputs.size, **guide,
                neighbours=inputs.neighbours, order=order, bandwidth=steering.batch(width),
                ridge=steering.RIDGE, aspect=inputs.aspect)
            return inputs.median / np.clip(dense[0].numpy(), *inputs.range), None
    return predict


def _tuned(twice):
    """Interpolate at full resolution as the preset `steering` does the first or second time."""
    def predict(image, uv, depth):
        with torch.inference_mode():
            inputs = steering.prepare(image, *without_hidden(uv, depth, image.shape[:2]))
            frame = steering.analyse(inputs)
            if twice:
                settings = steering.tuned_guide(frame)
            else:
                settings = leave_one_out.tune(frame.left_out)
            dense, _ = steering.regress(frame, settings[None])
            return inputs.median / dense[0], None
    return predict


def format_ablation(results: List[Result]) -> List[str]:
    """
    Return the table: error over that of fixed kernels, and time.

    The quotient is the geometric mean over the frames, so that near and far ones count alike.
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
    """Return the geometric mean over the frames of a figure over that of `base`; NaN if none."""
    pairs = [(f[figure], b[figure]) for f, b in zip(result.frames, base.frames)]
    logs = [np.log(f / b) for f, b in pairs if f and b]
    return float(np.exp(np.mean(logs))) if logs else float('nan')
