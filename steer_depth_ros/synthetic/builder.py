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
"""Collects the solids and materials of a scene, in nested coordinate frames."""
from dataclasses import dataclass, field
from typing import List

import numpy as np

from steer_depth_ros.synthetic import textures
from steer_depth_ros.synthetic.primitives import Solid

NORMAL, BLACK, GLASS = range(3)  # kinds of echo that a depth sensor gets from a surface


@dataclass
class Material:
    """
    The appearance of a surface: color = base + contrast * mix @ (texture - 0.5).

    tile: meters per repeat of the texture; angle: its rotation; specular, gloss: strength and
    exponent of the highlight; glow: emitted light; echo: NORMAL, BLACK or GLASS; clear: fraction
    of the light that passes straight through.
    """

    texture: int
    base: np.ndarray
    mix: np.ndarray
    tile: float = 1.0
    angle: float = 0.0
    specular: float = 0.0
    gloss: float = 20.0
    glow: float = 0.0
    echo: int = NORMAL
    clear: float = 0.0


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
    """Return the matrix that rolls about x, pitches about y, then yaws about z (radians)."""
    cz, sz, cy, sy, cx, sx = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    return (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
            @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))


def random_rotation(rng):
    """Draw a rotation, uniform over all orientations."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


@dataclass
class Builder:
    """Collects solids and materials; z is up; `group` returns a builder with its own frame."""

    rng: np.random.Generator
    solids: List[Solid] = field(default_factory=list)
    materials: List[Material] = field(default_factory=list)
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))
    rot: np.ndarray = field(default_factory=lambda: np.eye(3))

    def group(self, x, y, z, yaw=0.0, rot=None):
        """Return a builder at (x, y, z) in the frame of this one, rotated by `yaw` or `rot`."""
        rot = rotation(yaw) if rot is None else rot
        return Builder(self.rng, self.solids, self.materials,
                       self.origin + self.rot @ np.array([x, y, z]), self.rot @ rot)

    def add(self, kind, center, half, material, rot=None, **shape):
        """Add a solid; center (3,), half (3,) meters in this builder's frame."""
        rot = self.rot if rot is None else self.rot @ rot
        self.solids.append(Solid(kind, self.origin + self.rot @ np.asarray(center, float), rot,
                                 np.maximum(np.asarray(half, float), 1e-3), material, **shape))

    def color(self, dark=0.05, light=0.85):
        """Draw a base color, mostly of low saturation."""
        gray = self.rng.uniform(dark, light)
        return np.clip(gray + self.rng.normal(0, 1, 3) * gray * self.rng.beta(1, 3), 0.02, 0.95)

    def material(self, *families, base=None, contrast=None, tile=None, **look):
        """Add a material with a texture of `families` (default any); return its index."""
        rng = self.rng
        base = self.color() if base is None else np.asarray(base, float)
        if contrast is None:
            contrast = 0.0 if rng.random() < 0.15 else rng.uniform(0.2, 1.4)
        colorful = rng.beta(1.2, 1.2)
        mix = colorful * np.eye(3)[rng.permutation(3)] + (1 - colorful) / 3
        tile = np.exp(rng.uniform(np.log(0.1), np.log(2.0))) if tile is None else tile
        if rng.random() < 0.25 and 'specular' not in look:
            look.update(specular=rng.uniform(0.1, 0.8), gloss=np.exp(rng.uniform(1.5, 5)))
        look.setdefault('angle', rng.choice([0, np.pi / 2, rng.uniform(0, 2 * np.pi)]))
        self.materials.append(Material(textures.pick(rng, *families), base, contrast * mix, tile,
                                       **look))
        return len(self.materials) - 1

    def plain(self, **look):
        """Add a material of uniform color."""
        return self.material(contrast=0.0, **look)

    def any_material(self):
        """Return the index of a new material, or sometimes of one of the last few."""
        rng = self.rng
        if self.materials and rng.random() < 0.3:
            again = int(rng.integers(max(0, len(self.materials) - 6), len(self.materials)))
            if not self.materials[again].clear:
                return again
        odd = rng.random()
        if odd < 0.06:
            return self.plain(base=self.color(0.01, 0.05), echo=BLACK, specular=0.4)
        if odd < 0.2:
            return self.material('text', 'poster', 'leaves', contrast=rng.uniform(0.7, 1.3),
                                 tile=np.exp(rng.uniform(np.log(0.05), np.log(0.6))))
        return self.material(tile=np.exp(self.rng.uniform(np.log(0.03), np.log(1.0))))
