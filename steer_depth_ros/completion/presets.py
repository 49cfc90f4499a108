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
"""The presets: what runs, what it needs, and what was measured."""
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Optional

from steer_depth_ros.errors import ConfigError

WEIGHTS = Path(__file__).parents[1] / 'weights'
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')  # of batch norm: not trained


@dataclass(frozen=True)
class Preset:
    """One way to complete depth; `weights` is a file of the package, None where none is needed."""

    name: str
    model: str  # steering, or reference for the network of the paper
    summary: str
    weights: Optional[str] = None
    needs: str = 'nothing'
    half: bool = False  # works at half the resolution of the image

    @property
    def without_network(self):
        """Return whether there is no network in it."""
        return self.model == 'steering' and self.weights is None

    def weights_path(self):
        """Return where the package keeps the preset's weights; None where it has none."""
        return WEIGHTS / self.weights if self.weights else None


PRESETS = {p.name: p for p in (
    Preset('fast', 'steering', '`steering` at half the resolution, in a fraction of the time',
           half=True),
    Preset('steering', 'steering', 'kernels from the image structure, tuned to each frame, no '
           'weights'),
    Preset('learned', 'steering', '`fast`, refined by a trained network', half=True,
           weights='learned.safetensors'),
    Preset('reference', 'reference', 'the network of the 2021 paper',
           needs='--weights: checkpoints of the release, through `steer_depth convert`'),
)}

DEFAULT = 'fast'


def find_preset(name):
    """Return the Preset, DEFAULT for 'default'; ConfigError lists the names that exist."""
    name = DEFAULT if name == 'default' else name
    if name not in PRESETS:
        raise ConfigError(f'unknown preset {name!r}; there are default, {", ".join(PRESETS)}')
    return PRESETS[name]


def measured_figures():
    """
    Return what was measured of each preset, {} where nothing was.

    weights/presets.json: {preset: {score, mae_vs_linear: {task: quotient}, of_linear: {WxH: time
    relative to linear interpolation in the same run}, ms: {WxH: median}, machine, command}}, each
    entry optional; `command` repeats the measurement.
    """
    path = WEIGHTS / 'presets.json'
    return json.loads(path.read_text()) if path.exists() else {}


def stored_parameters(path):
    """Return how many trained numbers a safetensors file holds, from its header alone."""
    with open(path, 'rb') as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
    total = 0
    for name, entry in header.items():
        if name != '__metadata__' and name.rpartition('.')[2] not in STATISTICS:
            total += math.prod(entry['shape'])
    return total
