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
"""Layouts: rooms, corridors, stairs, table tops, streets and floating clutter."""
from typing import Tuple

import numpy as np

from steer_depth_ros.synthetic.builder import (
    BLACK,
    Builder,
    GLASS,
    NORMAL,
    random_rotation,
    rotation,
)
from steer_depth_ros.synthetic.furniture import chair, shelf, sofa, table, thing
from steer_depth_ros.synthetic.layout import ambient, field_of_view, lamps, Layout, look
from steer_depth_ros.synthetic.outdoors import fence, foliage, person
from steer_depth_ros.synthetic.primitives import (
    BARS,
    BOX,
    ELLIPSOID,
    FOLIAGE,
    FRUSTUM,
    OPEN_TOP,
    PLANE,
    ROUNDED,
)
from steer_depth_ros.synthetic.street import street
from steer_depth_ros.synthetic.traffic import queue


def _shell(b, x, y, z, floor, wall):
    """Enclose 0..x, -y..y, 0..z by floor, walls and ceiling."""
    b.add(PLANE, (x / 2, 0, 0), (x / 2, y, 1), floor)
    b.add(PLANE, (x / 2, 0, z), (x / 2, y, 1), b.plain(base=b.color(0.5, 0.95)))
    for side in (-1, 1):
        b.add(PLANE, (x / 2, side * y, z / 2), (x / 2, z / 2, 1), wall,
              rot=rotation(roll=np.pi / 2))
    other = wall if b.rng.random() < 0.6 else b.material()
    for end in (0, x):
        b.add(PLANE, (end, 0, z / 2), (z / 2, y, 1), other, rot=rotation(pitch=np.pi / 2))


def _wall_things(b, x, y, z):
    """Hang pictures, windows, doors, cupboards and mirrors on the walls."""
    rng = b.rng
    for _ in range(int(rng.integers(2, 9))):
        end = rng.random() < 0.5
        side = rng.choice([-1, 1])
        depth = rng.choice([0.005, 0.02, 0.05])
        kind = rng.integers(5)
        half = rng.uniform(0.15, 0.6, 2)
        height = rng.uniform(1.0, z - 0.6)
        if kind == 0:
            picture = b.material('poster', 'leaves', 'text', 'fractal', tile=rng.uniform(0.3, 1.5))
        elif kind == 1:  # window
            picture = b.material('windows', 'gradient', 'foliage', tile=1.0, specular=0.5,
                                 glow=rng.uniform(0, 1.5), echo=rng.choice([NORMAL, GLASS]))
        elif kind == 2:  # door
            picture, half, height = b.material('planks', 'gradient'), np.array([0.45, 1.0]), 1.0
        elif kind == 3:  # cupboard
            picture, depth = b.any_material(), rng.uniform(0.12, 0.3)
        else:  # screen
            picture = b.plain(base=(0.03, 0.03, 0.03), specular=0.8, gloss=80., echo=BLACK)
        along = rng.uniform(0.3, x - 0.3) if not end else x - depth
        across = side * (y - depth) if not end else rng.uniform(-y, y) * 0.9
        size = (depth, half[0], half[1]) if end else (half[0], depth, half[1])
        b.add(BOX, (along, across, height), size, picture)


def room(rng):
    """Furnish a room."""
    b = Builder(rng)
    x, y, z = rng.uniform(3.0, 8.0), rng.uniform(1.4, 3.5), rng.uniform(2.3, 3.2)
    _shell(b, x, y, z, b.material('planks', 'checker', 'bricks', 'grain', 'weave', 'fractal'),
           b.material('grain', 'gradient', 'stripes', 'bricks', 'fractal',
                      contrast=rng.choice([0.0, 0.1, 0.6]), tile=rng.uniform(0.5, 3)))
    _wall_things(b, x, y, z)
    shared = b.any_material() if rng.random() < 0.4 else None
    for _ in range(int(rng.integers(4, 13))):
        px, py, yaw = rng.uniform(1.2, x - 0.4), rng.uniform(-y, y) * 0.8, rng.uniform(0, 6.3)
        kind = rng.choice(7, p=[0.25, 0.2, 0.12, 0.12, 0.16, 0.08, 0.07])
        if kind == 0:
            hx, hy, top = table(b, px, py, 0, yaw, shared)
            g = b.group(px, py, top, yaw)
            for _ in range(int(rng.integers(1, 7))):
                thing(g, rng.uniform(-hx, hx) * .8, rng.uniform(-hy, hy) * .8, 0, 0.15)
            for _ in range(int(rng.integers(0, 4))):
                side = rng.choice([-1, 1])
                chair(b.group(px, py, 0, yaw), rng.uniform(-hx, hx), side * (hy + 0.25), 0,
                      rng.normal(0, 0.3) + (0 if side > 0 else np.pi), shared)
        elif kind == 1:
            chair(b, px, py, 0, yaw, shared)
        elif kind == 2:
            side = rng.choice([-1, 1])
            shelf(b, px, side * (y - 0.26), 0, 0 if side > 0 else np.pi)
        elif kind == 3:
            sofa(b, px, py, 0, rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + rng.normal(0, 0.1))
        elif kind == 4:
            half = rng.uniform(0.2, 0.6, 3) * (1, 1, rng.uniform(0.6, 2.0))
            b.add(BOX, (px, py, half[2]), half, b.any_material(), rot=rotation(yaw))
            thing(b, px, py, 2 * half[2], 0.3)
        elif kind == 5:  # lamp
            b.add(FRUSTUM, (px, py, 0.7), (0.015, 0.015, 0.7), b.plain())
            b.add(FRUSTUM, (px, py, 1.5), (0.2, 0.2, 0.15), b.plain(glow=0.8), taper=0.6)
        else:  # plant
            b.add(FRUSTUM, (px, py, 0.2), (0.18, 0.18, 0.2), b.any_material(), taper=1.3)
            leaf = foliage(b)
            for _ in range(int(rng.integers(3, 9))):
                at = np.array([px, py, 0.8]) + rng.normal(0, 0.15, 3)
                b.add(ELLIPSOID, at, rng.uniform(0.08, 0.25, 3), leaf, cut=FOLIAGE,
                      cut_scale=rng.uniform(0.06, 0.15), cut_level=rng.uniform(0.4, 0.8))
    if rng.random() < 0.3:  # curtain
        cloth, wall = b.material(), rng.uniform(0.6 * x, x)
        for i in range(int(rng.integers(4, 12))):
            b.add(FRUSTUM, (wall - 0.08 * i, y - 0.08, z / 2), (0.06, 0.06, z / 2.2), cloth)
    if rng.random() < 0.5:
        b.add(BOX, (x / 2, 0, 0.005), (x / 4, y / 2, 0.005), b.material())
    eye = np.array([rng.uniform(0.15, 0.35 * x), rng.uniform(-y, y) * 0.8, rng.uniform(0.5, 1.9)])
    target = np.array([rng.uniform(0.6, 1.0) * x, rng.uniform(-y, y) * 0.7, rng.uniform(0.2, 1.6)])
    return Layout(b, eye, look(eye, target, rng.normal(0, 0.06)),
                  field_of_view(rng, 45, 85),
                  lamps(rng, (0.2, -y * 0.9, z - 0.8), (x, y * 0.9, z - 0.05)), ambient(rng),
                  30.0, False)


def corridor(rng):
    """Build a corridor, at times with stairs at its end."""
    b = Builder(rng)
    x, y, z = rng.uniform(6, 25), rng.uniform(0.8, 2.0), rng.uniform(2.2, 3.5)
    _shell(b, x, y, z, b.material('checker', 'grain', 'bricks', 'planks', tile=rng.uniform(1, 4)),
           b.material('bricks', 'grain', 'gradient', 'stripes', tile=rng.uniform(0.5, 3)))
    wood, at = b.any_material(), 0.5
    while at < x:
        for side in (-1, 1):
            kind = rng.integers(6)
            if kind == 0:
                b.add(BOX, (at, side * y, 1.0), (0.45, 0.03, 1.0), wood)
            elif kind == 1:
                b.add(BOX, (at, side * y, z / 2), (0.2, 0.2, z / 2), b.any_material())
            elif kind == 2:
                b.add(FRUSTUM, (at, side * y * 0.85, z / 2), (0.1, 0.1, z / 2), b.any_material())
            elif kind == 3:
                thing(b, at, side * y * 0.8, 0, 0.6)
            elif kind == 4:
                b.add(BOX, (at, side * y, 1.5), (0.4, 0.01, 0.3), b.material('poster', 'text'))
        if rng.random() < 0.6:
            b.add(BOX, (at, 0, z), (0.5, 0.15, 0.02), b.plain(base=(0.9, 0.9, 0.9), glow=1.0))
        at += rng.uniform(0.8, 2.5)
    if rng.random() < 0.5:
        _stairs(b, x * rng.uniform(0.3, 0.7), y, z)
    if rng.random() < 0.4:
        person(b, rng.uniform(2, x), rng.uniform(-y, y) * 0.6, 0)
    eye = np.array([0.2, rng.uniform(-y, y) * 0.7, rng.uniform(0.3, 1.8)])
    target = np.array([x * 0.6, rng.uniform(-y, y) * 0.8, rng.uniform(0.5, 1.8)])
    return Layout(b, eye, look(eye, target, rng.normal(0, 0.04)), field_of_view(rng),
                  lamps(rng, (0.5, -y * 0.8, z - 0.5), (x, y * 0.8, z - 0.1), (2, 3)),
                  ambient(rng), 60.0, False)


def _stairs(b, start, y, z):
    rng = b.rng
    stone = b.any_material() if rng.random() < 0.5 else b.material('grain', 'bricks', 'stripes')
    rise, run = rng.uniform(0.13, 0.2), rng.uniform(0.24, 0.4)
    for i in range(int(min(15, z / rise - 1))):
        b.add(BOX, (start + run * (i + 5), 0, rise * (i + 0.5)), (run * 5, y, rise / 2), stone)
    fence(b, start, rng.uniform(-0.9, 0.9) * y, 0, 0, 1.5, 1.0)


def tabletop(rng):
    """Scatter or pile small things on a table or in a bin, seen from near by."""
    b = Builder(rng)
    size = rng.uniform(0.25, 0.8)
    floor = rng.uniform(-0.8, -0.3)
    top = b.material('planks', 'grain', 'fractal', 'gradient', 'weave', 'leaves', 'checker')
    round_top = rng.random() < 0.15
    b.add(FRUSTUM if round_top else BOX, (0, 0, -0.02), (size * 1.3, size * 1.3, 0.02) if round_top
          else (size * rng.uniform(1, 2), size * rng.uniform(0.8, 1.5), 0.02), top)
    b.add(PLANE, (0, 0, floor), (6, 6, 1), b.any_material())
    back = rng.uniform(0.6, 4.0)
    b.add(PLANE, (back, 0, 0), (3, 6, 1), b.any_material(), rot=rotation(pitch=np.pi / 2))
    b.add(PLANE, (0, rng.choice([-1, 1]) * back, 0), (6, 3, 1), b.any_material(),
          rot=rotation(roll=np.pi / 2))
    for _ in range(int(rng.integers(0, 4))):
        chair(b, rng.uniform(0.3, back), rng.uniform(-2, 2), floor, rng.uniform(0, 6))
    bin_ = rng.random() < 0.2
    if bin_:
        wall = b.plain(base=b.color(0.02, 0.5))
        b.add(BOX, (0, 0, 0.1), (size * 0.8, size * 0.8, 0.1), wall, cut=OPEN_TOP)
    count = int(np.exp(rng.uniform(np.log(5), np.log(36))))
    small = size * rng.uniform(0.12, 0.4)
    same = top if rng.random() < 0.12 else None  # everything of the table's own material
    for _ in range(count):
        px, py = rng.uniform(-0.7, 0.7, 2) * size
        if bin_ or rng.random() < 0.15:  # piled up, in any orientation
            rot = random_rotation(rng)
            g = b.group(px, py, rng.uniform(0.3, 1.2) * small, rot=rot)
            thing(g, 0, 0, -0.3 * small, small, same)
        else:
            thing(b, px, py, 0, small, same)
    distance = size * rng.uniform(1.0, 2.2)
    pitch, yaw = np.deg2rad(rng.uniform(20, 88)), rng.normal(0, 0.5)
    target = np.array([rng.uniform(-0.2, 0.2) * size, rng.uniform(-0.2, 0.2) * size, 0.0])
    eye = target + distance * np.array([-np.cos(pitch) * np.cos(yaw),
                                        -np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    eye[2] = max(eye[2], 0.15)
    return Layout(b, eye, look(eye, target, rng.normal(0, 0.1)), field_of_view(rng, 40, 80),
                  lamps(rng, (-1.5, -1.5, 0.8), (1.0, 1.5, 2.5)), ambient(rng), 20.0, False)


def floating(rng):
    """Place random solids of every kind in front of a few large surfaces."""
    b = Builder(rng)
    scale = np.exp(rng.uniform(np.log(0.15), np.log(4.0)))
    for _ in range(int(rng.integers(1, 4))):
        b.add(PLANE, (rng.uniform(6, 14) * scale, 0, 0), (40 * scale, 40 * scale, 1),
              b.any_material(), rot=rotation(rng.normal(0, 0.5), np.pi / 2 + rng.normal(0, 0.5)))
    b.add(PLANE, (0, 0, -rng.uniform(1, 3) * scale), (30 * scale, 30 * scale, 1), b.any_material())
    if rng.random() < 0.3:  # a big curved face
        b.add(ELLIPSOID, (9 * scale, 0, -2 * scale), rng.uniform(2, 6, 3) * scale,
              b.any_material())
    for _ in range(int(rng.integers(5, 60))):
        distance = np.exp(rng.uniform(np.log(1.5), np.log(11))) * scale
        center = np.array([1, rng.uniform(-0.9, 0.9), rng.uniform(-0.7, 0.7)]) * distance
        half = np.exp(rng.uniform(np.log(0.05), np.log(0.8), 3)) * scale
        if rng.random() < 0.12:  # a pole
            half = half.min() * np.array([1, 1, rng.uniform(5, 30)])
        kind = int(rng.choice([PLANE, BOX, ELLIPSOID, FRUSTUM, ROUNDED]))
        cut = rng.random()
        shape = {'taper': rng.uniform(0.2, 1.0)}
        if kind == ROUNDED:
            shape['bump'] = rng.choice([0, 0.2])
        elif cut < 0.12:
            shape.update(cut=FOLIAGE, cut_scale=half.max() * rng.uniform(0.2, 0.8))
        elif cut < 0.2:
            shape.update(cut=BARS, cut_scale=half.max() * rng.uniform(0.05, 0.4))
        elif cut < 0.35 and kind != PLANE:
            shape.update(cut=OPEN_TOP)
        b.add(kind, center, half, b.any_material(), rot=random_rotation(rng), **shape)
    eye = np.zeros(3)
    return Layout(b, eye, look(eye, (1.0, 0, 0), rng.normal(0, 0.3)), field_of_view(rng, 40, 110),
                  lamps(rng, np.array([-2, -3, -1]) * scale, np.array([4, 3, 4]) * scale),
                  ambient(rng), 30 * scale, scale > 1.5)


# Function and probability in the mix; layouts with probability 0 are drawn only by name.
LAYOUTS = {'room': (room, 0.28), 'corridor': (corridor, 0.08), 'tabletop': (tabletop, 0.24),
           'street': (street, 0.28), 'floating': (floating, 0.12), 'queue': (queue, 0.0)}
KINDS: Tuple[str, ...] = tuple(LAYOUTS)


def draw_layout(rng: np.random.Generator, kind=None) -> Layout:
    """Draw a layout of the kind given, or of a random one."""
    if kind is None:
        kind = rng.choice(KINDS, p=[weight for _, weight in LAYOUTS.values()])
    return LAYOUTS[kind][0](rng)
