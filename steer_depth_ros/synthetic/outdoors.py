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
"""Objects in streets, from bollards to trucks."""
import numpy as np

from steer_depth_ros.synthetic.builder import BLACK, GLASS, NORMAL, rotation
from steer_depth_ros.synthetic.primitives import (
    BARS,
    BOX,
    ELLIPSOID,
    FOLIAGE,
    FRUSTUM,
    GRID,
    PLANE,
    ROUNDED,
)


def car(b, x, y, z, yaw):
    """Park a car, van or truck."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    dark = rng.random() < 0.3
    paint = b.plain(base=b.color(0.02, 0.06) if dark else b.color(), specular=0.7, gloss=60.0,
                    echo=BLACK if dark and rng.random() < 0.5 else NORMAL)
    pane = b.plain(base=b.color(0.02, 0.15), specular=0.9, gloss=90.0, echo=GLASS)
    tire = b.plain(base=(0.03, 0.03, 0.03))
    wide = rng.uniform(0.8, 1.0)
    if rng.random() < 0.25:  # van, truck, bus
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
            g.add(FRUSTUM, (sx * long, sy * wide, 0.32), (0.32, 0.32, 0.1), tire,
                  rot=rotation(roll=np.pi / 2))


def tree(b, x, y, z, leaf):
    """Grow a tree: a trunk and a crown with holes to see through."""
    rng = b.rng
    bark = b.material('fractal', 'grain', base=b.color(0.05, 0.35), tile=0.5)
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
    """Grow a hedge or bushes: a core with leaves round it; half (3,) meters."""
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
    """Put up a railing or a mesh that can be seen through."""
    rng = b.rng
    step = rng.uniform(0.08, 0.4)
    metal = b.any_material()
    g = b.group(x, y, z, yaw)
    g.add(PLANE, (0, 0, tall / 2), (length, tall / 2, 1), metal, rot=rotation(roll=np.pi / 2),
          cut=GRID if rng.random() < 0.3 else BARS, cut_scale=step,
          cut_level=rng.uniform(0.12, 0.4))
    g.add(BOX, (0, 0, tall), (length, 0.03, 0.03), metal)
