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
from typing import Optional

from steer_depth_ros.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """One way to complete depth; `weights` is a file of the package, None where none is needed."""

    name: str
    model: str  # steering, learned or reference
    summary: str
    weights: Optional[str] = None
    needs: str = 'nothing'


PRESETS = {p.name: p for p in (
    Preset('default', 'steering', 'the best that ships; at present the same as `steering`'),
    Preset('steering', 'steering', 'kernels from the image structure, no weights'),
    Preset('reference', 'reference', 'the network of the 2021 paper',
           needs='--weights: checkpoints of the release, through `steer_depth convert`'),
)}


def find_preset(name):
    """Return the Preset; ConfigError lists the names that exist."""
    if name not in PRESETS:
        raise ConfigError(f'unknown preset {name!r}; there are {", ".join(PRESETS)}')
    return PRESETS[name]
