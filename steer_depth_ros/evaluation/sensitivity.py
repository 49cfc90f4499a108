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
"""What the constants of the completion are worth: the error with half of each, and 1.5 times."""
from dataclasses import dataclass, fields, replace
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch

from steer_depth_ros.completion import pipeline
from steer_depth_ros.completion.confidence import CLOSE
from steer_depth_ros.completion.config import CONFIG, Config
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.datasets.base import Example
from steer_depth_ros.errors import ConfigError
from steer_depth_ros.evaluation.evaluate import procedural_examples
from steer_depth_ros.synthetic.procedural import ProceduralFrames

PATTERNS = ('random:500', 'random:5000', 'rows:24', 'depth:1+holes:3', 'lidar:16', 'lidar:64')
TRAFFIC = {'kind': 'queue', 'pattern': 'roof:0.4'}  # where samples bleed through at rims
FACTORS = (0.5, 1.5)
FIGURES = ('MAE', 'RMSE', 'confidence')  # of the latter the Brier score of being within 5 %
NOTHING = 0.001  # relative change from which on a constant does something


@dataclass
class Effect:
    """Change of every figure, log of the quotient by preset, factor and (pattern, figure)."""

    name: str
    changes: Dict[Tuple[str, float], Dict[Tuple[str, str], float]]

    def figures(self):
        """Return all changes, ready for JSON."""
        return {'name': self.name, 'value': getattr(CONFIG, self.name), 'changes': [
            {'preset': preset, 'factor': factor, 'pattern': pattern, 'figure': figure,
             'log_quotient': change}
            for (preset, factor), by_place in self.changes.items()
            for (pattern, figure), change in by_place.items()]}

    def mean(self, preset, factor):
        """Return the mean change of MAE and RMSE over the patterns."""
        return float(np.mean([change for (_, figure), change
                              in self.changes[preset, factor].items() if figure in FIGURES[:2]]))

    def largest(self):
        """Return the change of largest size, and its (pattern, figure)."""
        every = [(change, place) for by_place in self.changes.values()
                 for place, change in by_place.items()]
        return max(every, key=lambda each: abs(each[0]))


def sensitivity_examples(frames, seed, size):
    """Render that many scenes of all kinds with PATTERNS, and of TRAFFIC: (pattern, example)."""
    yield from procedural_examples(ProceduralFrames(frames, seed, size), PATTERNS)
    kind, pattern = TRAFFIC['kind'], TRAFFIC['pattern']
    for _, example in procedural_examples(ProceduralFrames(frames, seed, size, kind=kind),
                                          [pattern]):
        yield f'{kind} {pattern}', example


def measure_sensitivity(examples: Sequence[Tuple[str, Example]], presets: Sequence[str],
                        progress) -> List[Effect]:
    """
    Complete every example with each constant of the Config halved and half as much again.

    examples: pairs of the pattern's name and the example. presets: those without weights.
    progress: wraps an iterable of `total` runs. ConfigError for a preset with weights.
    """
    chosen = {name: find_preset(name) for name in presets}
    for name, preset in chosen.items():
        if not preset.without_network:
            raise ConfigError(f'--sensitivity is for presets without weights, not for {name}')
    names = [constant.name for constant in fields(Config)]
    runs = [(preset, name, factor) for preset in chosen for name in [None, *names]
            for factor in (FACTORS if name else (1.0,))]
    effects = {name: Effect(name, {}) for name in names}
    for preset, name, factor in progress(runs, total=len(runs)):
        found = _log_figures(examples, chosen[preset].half,
                             varied(name, factor) if name else CONFIG)
        if name is None:
            base = found
            continue
        effects[name].changes[preset, factor] = {
            place: float(np.mean(found[place] - base[place])) for place in base}
    return list(effects.values())


def varied(name, factor) -> Config:
    """Return the constants with one of them multiplied; whole numbers change by 1 at least."""
    value = getattr(CONFIG, name)
    other = value * factor
    if isinstance(value, int):
        other = min(round(other), value - 1) if factor < 1 else max(round(other), value + 1)
    return replace(CONFIG, **{name: other})


def _log_figures(examples, half, config):
    """Return the logarithms of the figures of all frames, by pattern and figure."""
    logs: Dict[Tuple[str, str], List[float]] = {}
    for pattern, example in examples:
        with torch.inference_mode():
            depth, confidence = pipeline.complete(example.image, example.uv, example.sparse, half,
                                                  config=config)
        known = np.isfinite(example.truth) & (example.truth > 0)
        truth, estimate = example.truth[known], depth[known]
        # Where nothing is stated, the median of the samples is as good as anything.
        error = np.abs(np.where(np.isnan(estimate), np.median(example.sparse), estimate) - truth)
        brier = np.square(confidence[known] - (error < CLOSE * truth)).mean()
        figures = error.mean(), np.sqrt(np.square(error).mean()), brier
        for figure, value in zip(FIGURES, figures, strict=True):
            logs.setdefault((pattern, figure), []).append(np.log(value + 1e-9))
    return {place: np.array(values) for place, values in logs.items()}


def format_sensitivity(effects: Sequence[Effect], presets: Sequence[str]) -> List[str]:
    """Return a Markdown table of the constants; its last line names those that do nothing."""
    about = {constant.name: constant for constant in fields(Config)}
    columns = [(preset, factor) for preset in presets for factor in FACTORS]
    lines = ['| constant | value | unit | effect | chosen on | '
             + ' | '.join(f'{preset} {factor - 1:+.0%}' for preset, factor in columns)
             + ' | largest change |', '|---|---|---|---|---|' + '---|' * (len(columns) + 1)]
    for effect in effects:
        constant = about[effect.name].metadata
        change, (pattern, figure) = effect.largest()
        means = ' | '.join(f'{effect.mean(*column):+.1%}' for column in columns)
        lines.append(f'| `{effect.name}` | {getattr(CONFIG, effect.name):.4g} | '
                     f'{constant["unit"]} | {constant["effect"]} | {constant["chosen"]} | {means} '
                     f'| {change:+.1%} {figure}, {pattern} |')
    nothing = [effect.name for effect in effects if abs(effect.largest()[0]) < NOTHING]
    return lines + ['', f'No figure changes by {NOTHING:.1%}: {", ".join(nothing) or "none"}.']
