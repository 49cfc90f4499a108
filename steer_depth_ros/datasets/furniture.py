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
"""A builder of scenes and the things that scenes are made of, from bottles to cars."""
from dataclasses import dataclass, field
from typing import List

import numpy as np

from steer_depth_ros.datasets import textures
from steer_depth_ros.datasets.primitives import (
    BARS,
    BOX,
    ELLIPSOID,
    FOLIAGE,
    FRUSTUM,
    GRID,
    OPEN_TOP,
    PLANE,
    ROUNDED,
    Solid,
)

NORMAL, BLACK, GLASS = range(3)  # what a depth sensor gets back from a surface


@dataclass
class Material:
    """
    The look of a surface: colour = base + contrast * mix @ (texture - 0.5).

    tile: metres that one repeat of the texture covers; angle: its rotation; specular, gloss:
    strength and exponent of the highlight; glow: emitted light; echo: NORMAL, BLACK or GLASS;
    clear: share of the light that passes straight through.
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
    """Build the matrix that rolls about x, pitches about y, then yaws about z (radians)."""
    cz, sz, cy, sy, cx, sx = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    return (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
            @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))


def random_rotation(rng):
    """Draw a rotation, all orientations alike."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


@dataclass
class Builder:
    """Collects solids and materials; z is up, `group` gives a builder with a frame of its own."""

    rng: np.random.Generator
    solids: List[Solid] = field(default_factory=list)
    materials: List[Material] = field(default_factory=list)
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))
    rot: np.ndarray = field(default_factory=lambda: np.eye(3))

    def group(self, x, y, z, yaw=0.0, rot=None):
        """Give a builder at (x, y, z) of this one's frame, turned by `yaw` or `rot`."""
        rot = rotation(yaw) if rot is None else rot
        return Builder(self.rng, self.solids, self.materials,
                       self.origin + self.rot @ np.array([x, y, z]), self.rot @ rot)

    def add(self, kind, centre, half, material, rot=None, **shape):
        """Add a solid; centre (3,), half (3,) metres in this builder's frame."""
        rot = self.rot if rot is None else self.rot @ rot
        self.solids.append(Solid(kind, self.origin + self.rot @ np.asarray(centre, float), rot,
                                 np.maximum(np.asarray(half, float), 1e-3), material, **shape))

    def colour(self, dark=0.05, light=0.85):
        """Draw a base colour; most things are not very colourful."""
        grey = self.rng.uniform(dark, light)
        return np.clip(grey + self.rng.normal(0, 1, 3) * grey * self.rng.beta(1, 3), 0.02, 0.95)

    def material(self, *families, base=None, contrast=None, tile=None, **look):
        """Add a material with a texture out of `families` (any without); return its index."""
        rng = self.rng
        base = self.colour() if base is None else np.asarray(base, float)
        if contrast is None:
            contrast = 0.0 if rng.random() < 0.15 else rng.uniform(0.2, 1.4)
        colourful = rng.beta(1.2, 1.2)
        mix = colourful * np.eye(3)[rng.permutation(3)] + (1 - colourful) / 3
        tile = np.exp(rng.uniform(np.log(0.1), np.log(2.0))) if tile is None else tile
        if rng.random() < 0.25 and 'specular' not in look:
            look.update(specular=rng.uniform(0.1, 0.8), gloss=np.exp(rng.uniform(1.5, 5)))
        look.setdefault('angle', rng.choice([0, np.pi / 2, rng.uniform(0, 2 * np.pi)]))
        self.materials.append(Material(textures.pick(rng, *families), base, contrast * mix, tile,
                                       **look))
        return len(self.materials) - 1

    def plain(self, **look):
        """Add a material that has one colour all over."""
        return self.material(contrast=0.0, **look)

    def any_material(self):
        """Use one of the last few materials again, at times, or a new one."""
        rng = self.rng
        if self.materials and rng.random() < 0.3:
            return int(rng.integers(max(0, len(self.materials) - 6), len(self.materials)))
        odd = rng.random()
        if odd < 0.06:
            return self.plain(base=self.colour(0.01, 0.05), echo=BLACK, specular=0.4)
        if odd < 0.2:
            return self.material('text', 'poster', 'leaves', contrast=rng.uniform(0.7, 1.3),
                                 tile=np.exp(rng.uniform(np.log(0.05), np.log(0.6))))
        return self.material(tile=np.exp(self.rng.uniform(np.log(0.03), np.log(1.0))))


def table(b, x, y, z, yaw, material=None):
    """Put up a table; return its half sizes and the height of its top."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    hx, hy, top = rng.uniform(0.3, 1.0), rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.8)
    wood = b.material('planks', 'fractal', 'grain') if material is None else material
    thick = rng.uniform(0.01, 0.04)
    kind = FRUSTUM if rng.random() < 0.2 else BOX
    g.add(kind, (0, 0, top - thick), (hx, hy, thick), wood)
    leg = wood if rng.random() < 0.6 else b.plain()
    r = rng.uniform(0.012, 0.04)
    kind = FRUSTUM if rng.random() < 0.5 else BOX
    if rng.random() < 0.8:
        for sx in (-0.85, 0.85):
            for sy in (-0.8, 0.8):
                g.add(kind, (sx * hx, sy * hy, top / 2 - thick), (r, r, top / 2 - thick), leg)
    else:
        g.add(FRUSTUM, (0, 0, top / 2 - thick), (3 * r, 3 * r, top / 2 - thick), leg)
    return hx, hy, top


def chair(b, x, y, z, yaw, material=None):
    """Put up a chair with a solid or barred back."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    frame = b.any_material() if material is None else material
    seat, half, back = rng.uniform(0.38, 0.5), rng.uniform(0.18, 0.26), rng.uniform(0.2, 0.35)
    cushion = frame if rng.random() < 0.5 else b.material()
    kind = ROUNDED if rng.random() < 0.4 else BOX
    g.add(kind, (0, 0, seat), (half, half, 0.03), cushion, taper=0.8)
    for sx in (-1, 1):
        for sy in (-1, 1):
            g.add(BOX, (sx * half * 0.9, sy * half * 0.9, seat / 2), (0.015, 0.015, seat / 2),
                  frame)
        g.add(BOX, (sx * half * 0.9, half * 0.95, seat + back), (0.018, 0.015, back), frame)
    if rng.random() < 0.5:
        g.add(BOX, (0, half * 0.95, seat + back * 1.2), (half * 0.9, 0.008, back * 0.7), frame,
              cut=BARS, cut_scale=rng.uniform(0.05, 0.12), cut_level=rng.uniform(0.3, 0.6))
    else:
        g.add(kind, (0, half * 0.95, seat + back * 1.2), (half, 0.02, back * 0.8), cushion,
              taper=0.8)


def shelf(b, x, y, z, yaw):
    """Put up an open shelf with boards and things; its front looks along -y."""
    rng = b.rng
    wide, deep, tall = rng.uniform(0.3, 0.8), rng.uniform(0.12, 0.25), rng.uniform(0.5, 1.1)
    g = b.group(x, y, z + tall, yaw)
    wood = b.material('planks', 'grain', 'gradient')
    # The open side is the solid's own +z, turned to the front.
    g.add(BOX, (0, 0, 0), (wide, tall, deep), wood, rot=rotation(roll=np.pi / 2), cut=OPEN_TOP)
    boards = int(rng.integers(2, 6))
    for i in range(boards):
        level = -tall + 2 * tall * (i + 1) / boards
        if i + 1 < boards:
            g.add(BOX, (0, 0, level), (wide, deep, 0.012), wood)
        bottom = -tall + 2 * tall * i / boards + 0.012
        at = -wide + 0.03
        room = 2 * tall / boards - 0.03
        while at < wide - 0.06 and rng.random() < 0.93:
            width, height = rng.uniform(0.015, 0.09), room * rng.uniform(0.4, 0.98)
            g.add(BOX, (at + width, rng.uniform(-0.05, 0.03), bottom + height / 2),
                  (width * 0.95, deep * rng.uniform(0.5, 0.85), height / 2), b.any_material())
            at += 2 * width + (rng.uniform(0, 0.3) if rng.random() < 0.2 else 0)


def sofa(b, x, y, z, yaw):
    """Put up a sofa or an armchair."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    cloth = b.material()
    half = rng.uniform(0.3, 1.0)
    edge = rng.uniform(0.3, 0.9)
    g.add(ROUNDED, (0, 0, 0.22), (half, 0.4, 0.22), cloth, taper=edge)
    g.add(ROUNDED, (0, 0.35, 0.5), (half, 0.13, 0.38), cloth, taper=edge)
    for side in (-1, 1):
        g.add(ROUNDED, (side * half, 0, 0.33), (0.12, 0.42, 0.3), cloth, taper=edge)
    for _ in range(int(rng.integers(0, 4))):
        g.add(ROUNDED, (rng.uniform(-half, half) * 0.8, 0.15, 0.55), (0.2, 0.09, 0.18),
              b.material(), rot=rotation(rng.normal(0, 0.3), rng.normal(0, 0.3), 0.3), taper=0.95)


def thing(b, x, y, z, size, material=None):
    """Put something of about `size` metres on a table; many shapes, upright or fallen."""
    rng = b.rng
    look = b.any_material() if material is None else material
    s = size * rng.uniform(0.4, 1.0)
    yaw = rng.uniform(0, 2 * np.pi)
    g = b.group(x, y, z, yaw)
    shape = rng.integers(10)
    if material is None and shape in (1, 2, 3, 4) and rng.random() < 0.15:  # of glass
        look = b.plain(base=b.colour(0.3, 0.9), specular=0.9, gloss=80.0, echo=GLASS,
                       clear=rng.uniform(0.5, 0.95))
    if shape == 0:  # carton
        half = s * rng.uniform(0.25, 1.0, 3)
        g.add(BOX, (0, 0, half[2]), half, look)
    elif shape == 1:  # can, standing or lying
        r, h = s * rng.uniform(0.25, 0.5), s * rng.uniform(0.3, 0.9)
        if rng.random() < 0.3:
            g.add(FRUSTUM, (0, 0, r), (r, r, h), look, rot=rotation(pitch=np.pi / 2))
        else:
            g.add(FRUSTUM, (0, 0, h), (r, r, h), look)
    elif shape == 2:  # bottle, standing or lying
        r, h = s * rng.uniform(0.2, 0.35), s * rng.uniform(0.5, 0.9)
        lying = rng.random() < 0.35
        g = b.group(x, y, z + r * lying, rot=rotation(yaw, np.pi / 2 if lying else 0))
        g.add(FRUSTUM, (0, 0, h), (r, r, h), look)
        g.add(FRUSTUM, (0, 0, 2.3 * h), (r, r, 0.3 * h), look, taper=rng.uniform(0.25, 0.5))
        g.add(FRUSTUM, (0, 0, 2.7 * h), (0.4 * r, 0.4 * r, 0.15 * h), b.any_material())
    elif shape == 3:  # mug or cup
        r, h = s * rng.uniform(0.3, 0.5), s * rng.uniform(0.3, 0.7)
        g.add(FRUSTUM, (0, 0, h), (r, r, h), look, taper=rng.uniform(1, 1.5), cut=OPEN_TOP)
        if rng.random() < 0.6:
            g.add(ROUNDED, (1.25 * r, 0, h), (0.35 * r, 0.12 * r, 0.6 * h), look, taper=1.0)
    elif shape == 4:  # bowl or plate
        r = s * rng.uniform(0.5, 1.0)
        h = r * rng.uniform(0.15, 1.0)
        g.add(ELLIPSOID, (0, 0, h), (r, r, h), look, cut=OPEN_TOP, cut_level=rng.uniform(.3, .6))
    elif shape == 5:  # fruit, ball
        r = s * rng.uniform(0.25, 0.6)
        half = r * rng.uniform(0.8, 1.2, 3)
        g.add(ELLIPSOID, (0, 0, half[2]), half, look)
    elif shape == 6:  # paper, booklet
        g.add(BOX, (0, 0, 0.02 * s), (s, s * rng.uniform(0.5, 0.9), 0.02 * s),
              b.material('text', 'poster', 'leaves', tile=2 * s))
    elif shape == 7:  # bag, cushion, stone
        half = s * rng.uniform(0.3, 0.8, 3)
        g.add(ROUNDED, (0, 0, half[2]), half, look, taper=rng.uniform(0.4, 1.0),
              bump=rng.choice([0.0, 0.15, 0.3]))
    elif shape == 8:  # tool: a long part with a head across
        r = s * rng.uniform(0.06, 0.15)
        g.add(ROUNDED, (0, 0, r), (s, r, r), look, taper=1.0)
        g.add(ROUNDED, (s * 0.8, 0, 1.5 * r), (2 * r, 0.35 * s, 1.5 * r), b.any_material(),
              taper=0.6)
    else:  # tub with a lid of another colour
        half = s * np.array([rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.6), rng.uniform(.15, .4)])
        g.add(ROUNDED, (0, 0, half[2]), half, look, taper=0.6)
        g.add(ROUNDED, (0, 0, 2 * half[2]), half * (1.03, 1.03, 0.2), b.any_material(), taper=0.9)


def car(b, x, y, z, yaw):
    """Park a car, van or truck."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    dark = rng.random() < 0.3
    paint = b.plain(base=b.colour(0.02, 0.06) if dark else b.colour(), specular=0.7, gloss=60.0,
                    echo=BLACK if dark and rng.random() < 0.5 else NORMAL)
    pane = b.plain(base=b.colour(0.02, 0.15), specular=0.9, gloss=90.0, echo=GLASS)
    tyre = b.plain(base=(0.03, 0.03, 0.03))
    wide = rng.uniform(0.8, 1.0)
    if rng.random() < 0.25:  # van, lorry, bus
        long, tall = rng.uniform(2.2, 6.0), rng.uniform(0.9, 1.6)
        wide *= 1.2
        g.add(ROUNDED, (0, 0, 0.4 + tall), (long, wide, tall), paint, taper=0.3)
        g.add(BOX, (0, 0, 0.4 + 1.4 * tall), (long * 0.9, wide * 1.01, tall * 0.25), pane)
        g.add(BOX, (0, 0, 0.4 + 1.4 * tall), (long * 1.01, wide * 0.8, tall * 0.25), pane)
    else:
        long, waist = rng.uniform(1.7, 2.4), rng.uniform(0.85, 1.0)
        g.add(ROUNDED, (0, 0, 0.25 + waist / 3), (long, wide, waist / 3), paint, taper=0.7)
        back = rng.uniform(-0.5, 0.1)
        g.add(ROUNDED, (back, 0, waist), (long * 0.6, wide * 0.86, 0.5), pane, taper=0.8)
        g.add(ROUNDED, (back, 0, waist + 0.42), (long * 0.4, wide * 0.8, 0.12), paint, taper=0.9)
        for side in (-0.8, 0.8):
            g.add(BOX, (long * 0.98, side * wide * 0.8, 0.7), (0.06, 0.15, 0.07),
                  b.plain(base=(0.8, 0.1, 0.1) if rng.random() < 0.5 else (0.9, 0.9, 0.85)))
    for sx in (-0.62, 0.62):
        for sy in (-0.92, 0.92):
            g.add(FRUSTUM, (sx * long, sy * wide, 0.32), (0.32, 0.32, 0.1), tyre,
                  rot=rotation(roll=np.pi / 2))


def tree(b, x, y, z, leaf):
    """Grow a tree: a trunk and a crown with holes that one sees through."""
    rng = b.rng
    bark = b.material('fractal', 'grain', base=b.colour(0.05, 0.35), tile=0.5)
    height, r = rng.uniform(1.2, 4.0), rng.uniform(0.05, 0.25)
    b.add(FRUSTUM, (x, y, z + height / 2), (r, r, height / 2 + 0.4), bark, taper=0.7,
          rot=rotation(0, rng.normal(0, 0.05), rng.normal(0, 0.05)))
    crown = rng.uniform(0.8, 2.6)
    for _ in range(int(rng.integers(4, 13))):
        at = rng.normal(0, 0.5, 3) * crown
        half = crown * rng.uniform(0.25, 0.7) * rng.uniform(0.7, 1.1, 3)
        b.add(ELLIPSOID, (x + at[0], y + at[1], z + height + crown * 0.6 + at[2]), half, leaf,
              rot=rotation(rng.uniform(0, 6)), cut=FOLIAGE, cut_scale=rng.uniform(0.2, 0.7),
              cut_level=rng.uniform(0.45, 0.9))


def hedge(b, x, y, z, half, leaf):
    """Grow a hedge or bushes: a core with leaves round it; half (3,) metres."""
    rng = b.rng
    b.add(ROUNDED, (x, y, z + half[2] * 0.9), half * (1, 0.8, 0.9), leaf, taper=0.6)
    for _ in range(int(rng.integers(2, 7))):
        bush = half[1:].mean() * rng.uniform(0.8, 1.4, 3) * (1.5, 1, 1)
        at = (x + rng.uniform(-1, 1) * half[0], y, z + half[2] * rng.uniform(0.8, 1.3))
        b.add(ELLIPSOID, at, bush, leaf, cut=FOLIAGE, cut_scale=rng.uniform(0.15, 0.4),
              cut_level=rng.uniform(0.4, 0.8))


def bicycle(b, x, y, z, yaw):
    """Park a bicycle: spoked wheels and a thin frame."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    paint, black = b.plain(), b.plain(base=(0.04, 0.04, 0.04))
    for side in (-0.5, 0.5):
        g.add(PLANE, (side, 0, 0.33), (0.33, 0.33, 1), black, rot=rotation(roll=np.pi / 2),
              cut=BARS, cut_scale=0.11, cut_level=rng.uniform(0.1, 0.3))
        g.add(FRUSTUM, (side * 0.6, 0, 0.65), (0.02, 0.02, 0.4), paint, rot=rotation(pitch=0.3))
    g.add(BOX, (0, 0, 0.8), (0.3, 0.02, 0.02), paint)
    g.add(BOX, (0.35, 0, 1.05), (0.02, 0.28, 0.02), black)
    g.add(ROUNDED, (-0.35, 0, 1.0), (0.13, 0.08, 0.04), black, taper=1.0)


def foliage(b):
    """Add the material of leaves; return its index."""
    green = np.array([0.6, 1.0, 0.35]) if b.rng.random() < 0.8 else np.array([1.0, 0.6, 0.3])
    return b.material('foliage', 'fractal', base=green * b.rng.uniform(0.1, 0.4),
                      contrast=b.rng.uniform(0.3, 0.7), tile=b.rng.uniform(0.4, 1.5))


def person(b, x, y, z):
    """Stand a person up."""
    rng = b.rng
    tall = rng.uniform(0.85, 1.05)
    g = b.group(x, y, z, rng.uniform(0, 6))
    cloth, legs, skin = b.any_material(), b.plain(), b.plain(base=(0.6, 0.4, 0.3))
    stride = rng.uniform(0.02, 0.3)
    for side in (-1, 1):
        g.add(ROUNDED, (side * stride * 0.6, side * 0.1, 0.42 * tall), (.08, .09, .45 * tall),
              legs, taper=1.0, rot=rotation(0, -side * stride))
        g.add(ROUNDED, (side * 0.08, side * 0.27, 1.1 * tall), (0.06, 0.06, 0.33 * tall), cloth,
              taper=1.0, rot=rotation(0, side * stride))
    g.add(ROUNDED, (0, 0, 1.15 * tall), (0.14, 0.22, 0.33 * tall), cloth, taper=0.9)
    g.add(ELLIPSOID, (0, 0, 1.62 * tall), (0.1, 0.09, 0.13), skin)


def pole(b, x, y, z):
    """Put up a lamp, a sign or a bollard."""
    rng = b.rng
    metal = b.any_material() if rng.random() < 0.3 else b.plain()
    tall = rng.choice([rng.uniform(0.5, 1.2), rng.uniform(2, 3.5), rng.uniform(5, 9)])
    r = rng.uniform(0.02, 0.15)
    b.add(FRUSTUM, (x, y, z + tall / 2), (r, r, tall / 2), metal, taper=rng.uniform(0.6, 1))
    if tall > 5:
        arm = rng.uniform(0.5, 2.5) * rng.choice([-1, 1])
        b.add(BOX, (x, y + arm / 2, z + tall), (0.04, abs(arm) / 2, 0.04), metal)
        b.add(BOX, (x, y + arm, z + tall - 0.1), (0.15, 0.3, 0.08), b.plain())
    elif tall > 1.5:
        sign = b.material('poster', 'text', 'checker', 'dots', tile=0.8)
        half = rng.uniform(0.2, 0.5)
        yaw = rng.normal(0, 0.4)
        if rng.random() < 0.5:
            b.add(FRUSTUM, (x - 0.1, y, z + tall), (half, half, 0.02), sign,
                  rot=rotation(yaw) @ rotation(pitch=np.pi / 2))
        else:
            b.add(BOX, (x - 0.1, y, z + tall), (0.02, half * rng.uniform(0.7, 2), half), sign,
                  rot=rotation(yaw))


def fence(b, x, y, z, yaw, length, tall):
    """Put up a railing or a mesh that one sees through."""
    rng = b.rng
    step = rng.uniform(0.08, 0.4)
    metal = b.any_material()
    g = b.group(x, y, z, yaw)
    g.add(PLANE, (0, 0, tall / 2), (length, tall / 2, 1), metal, rot=rotation(roll=np.pi / 2),
          cut=GRID if rng.random() < 0.3 else BARS, cut_scale=step,
          cut_level=rng.uniform(0.12, 0.4))
    g.add(BOX, (0, 0, tall), (length, 0.03, 0.03), metal)
