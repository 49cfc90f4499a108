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
bandwidth (but for the learned ones, which choose their own), so that a row differs from the one
above it by what its name says. Whether the refinement adds a residual or predicts depth itself
takes trainings of its own, which are compared by their weights.
"""
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch

from steer_depth_ros.completion import leave_one_out, steering
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.completion.steering import SteeringModel
from steer_depth_ros.completion.visibility import without_hidden
from steer_depth_ros.errors import ConfigError, WeightsError
from steer_depth_ros.evaluation.evaluate import Predict, Result
from steer_depth_ros.network import absolute
from steer_depth_ros.network.checkpoints import load_into, load_safetensors
from steer_depth_ros.network.learned import LearnedModel
from steer_depth_ros.network.mixture_net import MixtureNet
from steer_depth_ros.network.steering_net import ARCHITECTURE, net_inputs
from steer_depth_ros.ops import kernel_regression
from steer_depth_ros.training.losses import make_objective, OPTIONS

FIXED = 'fixed kernels, order 1'
TUNED = '  + tuned to each frame'
TWICE = '  + a second time, guided by the first'
STEERING = '  + thin plate (preset steering)'
MIXTURE = '  + learned mixture of kernels'
ORDERS = (0, 1, 2)
REFINEMENTS = {ARCHITECTURE: 'residual', absolute.ARCHITECTURE: 'absolute'}


def ablation_methods(weights=None, device='cpu', compared=()) -> Dict[str, Predict]:
    """
    Return the methods by name, fixed kernels among them.

    weights: a safetensors file of a network that mixes kernels, None for that of the package.
    compared: files of further trainings, of kernels learned through the operator, with the skip
    or without. Raise WeightsError for a file that cannot be used.
    """
    methods = {f'fixed kernels, order {order}': _weight_free(order, False, False)
               for order in ORDERS}
    methods['image-structure kernels, order 1'] = _weight_free(1, True, False)
    methods.update({f'  + colour and depth guide, order {order}': _weight_free(order, True, True)
                    for order in ORDERS})
    methods[TUNED], methods[TWICE] = _tuned(twice=False), _tuned(twice=True)
    methods[STEERING] = _estimated(SteeringModel())
    model = LearnedModel.load(weights or find_preset('default').weights_path(), device)
    if not isinstance(model.net, MixtureNet):
        raise WeightsError(f'{weights} holds no network that mixes kernels; give it as --compare')
    methods[MIXTURE] = _estimated(model)
    for path in compared:
        rows = _compared(path, device)
        if rows.keys() & methods.keys():
            raise ConfigError(f'{path}: another training of the table has its name '
                              f'({next(iter(rows))}); give their configurations different ones')
        methods.update(rows)
    return methods


def _compared(path, device):
    """Name the steps of a training by its configuration and how long it was."""
    state, info = load_safetensors(path)
    if info.architecture not in REFINEMENTS:
        raise WeightsError(f'{path} holds weights of {info.architecture!r}; the ablation compares '
                           f'those of {" and ".join(REFINEMENTS)}')
    options = {key: info.config[key] for key in OPTIONS[info.architecture] if key in info.config}
    net = make_objective({'architecture': info.architecture, **options}).model.eval()
    load_into(net, state, path)
    name = info.config.get('training', {}).get('name', Path(path).stem)
    step = f', step {info.config["step"]}' if 'step' in info.config else ''
    refinement = f'  + {REFINEMENTS[info.architecture]} refinement ({name})'
    return {f'{name}{step}': _learned(net.to(device), device, refined=False),
            refinement: _learned(net, device, refined=True)}


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


def _learned(net, device, refined):
    def predict(image, uv, depth):
        with torch.inference_mode():
            inputs = net_inputs(image, *without_hidden(uv, depth, image.shape[:2])).to(device)
            final, _, kernel = net(inputs)
            inverse = (final if refined else kernel)[0].exp()
            return (inputs.median / inverse).cpu().numpy(), None
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
