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
"""Objects in rooms and on tables, from bottles to sofas."""
import numpy as np

from steer_depth_ros.synthetic.builder import GLASS, rotation
from steer_depth_ros.synthetic.primitives import BARS, BOX, ELLIPSOID, FRUSTUM, OPEN_TOP, ROUNDED


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
    """Put an object of about `size` meters on a table, of many shapes, upright or fallen."""
    rng = b.rng
    look = b.any_material() if material is None else material
    s = size * rng.uniform(0.4, 1.0)
    yaw = rng.uniform(0, 2 * np.pi)
    g = b.group(x, y, z, yaw)
    shape = rng.integers(10)
    if material is None and shape in (1, 2, 3, 4) and rng.random() < 0.15:  # of glass
        look = b.plain(base=b.color(0.3, 0.9), specular=0.9, gloss=80.0, echo=GLASS,
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
    else:  # tub with a lid of another color
        half = s * np.array([rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.6), rng.uniform(.15, .4)])
        g.add(ROUNDED, (0, 0, half[2]), half, look, taper=0.6)
        g.add(ROUNDED, (0, 0, 2 * half[2]), half * (1.03, 1.03, 0.2), b.any_material(), taper=0.9)
