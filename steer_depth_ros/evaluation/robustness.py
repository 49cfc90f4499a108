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
"""Accuracy of presets with few samples, few beams, outliers and other image sizes."""
from typing import Dict, List

from steer_depth_ros.evaluation.ablation import quotient
from steer_depth_ros.evaluation.evaluate import (
    evaluate,
    Predict,
    procedural_examples,
    Result,
)
from steer_depth_ros.synthetic.procedural import ProceduralFrames

PATTERNS = ('random:50', 'random:200', 'random:500', 'random:5000',
            'lidar:4', 'lidar:8', 'lidar:16', 'lidar:32', 'lidar:64', 'lidar:128',
            'random:500+outliers:0.01', 'random:500+outliers:0.05',
            'lidar:64+outliers:0.01', 'lidar:64+outliers:0.05')
RESIZED_PATTERNS = ('random:500', 'lidar:64')
SIZE_FACTORS = {'half': 0.5, 'double': 2.0}
WORSE_RATIO = 1.005  # above this a difference is more than rounding


def robustness(methods: Dict[str, Predict], frames, seed, size, progress) -> List[Result]:
    """
    Evaluate every method on rendered scenes under all conditions.

    frames: number of scenes. size: (H, W); half and twice that size are evaluated too. progress:
    function of an iterable and the `total` number of examples that returns the iterable.
    """
    results = _evaluate(methods, frames, seed, size, PATTERNS, progress)
    for name, factor in SIZE_FACTORS.items():
        size_now = tuple(round(side * factor) for side in size)
        resized = _evaluate(methods, frames, seed, size_now, RESIZED_PATTERNS, progress)
        for result in resized:
            result.pattern += f', {name} size'
        results += resized
    return results


def _evaluate(methods, frames, seed, size, patterns, progress):
    examples = procedural_examples(ProceduralFrames(frames, seed, size), patterns)
    return evaluate(methods, progress(examples, total=frames * len(patterns)))


def format_robustness(results: List[Result]) -> List[str]:
    """
    Return the lines of the table: MAE of the first preset in meters, and of all relative to it.

    Ratios are geometric means over frames. The last line lists where a preset is worse.
    """
    presets = list(dict.fromkeys(r.method for r in results))
    rows: Dict[str, Dict[str, Result]] = {}
    for result in results:
        rows.setdefault(result.pattern, {})[result.method] = result
    lines = [f'{"condition":<32}{"samples":>9}{"MAE m":>9}'
             + ''.join(f'{preset:>12}' for preset in presets)]
    worse = []
    for condition, row in rows.items():
        base = row[presets[0]]
        quotients = {preset: quotient(row[preset], base, 'mae') for preset in presets}
        worse += [f'{p} with {condition}' for p, q in quotients.items() if q > WORSE_RATIO]
        figures = base.figures()
        mae = figures['mae']
        lines.append(f'{condition:<32}{figures["samples"]:>9.0f}'
                     + (f'{mae:>9.3f}' if mae is not None else f'{"-":>9}')
                     + ''.join(f'{q:>12.3f}' for q in quotients.values()))
    return lines + [f'worse than {presets[0]}: {", ".join(worse) or "nowhere"}']
