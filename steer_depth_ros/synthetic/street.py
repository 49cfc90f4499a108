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
"""Streets: road, curbs, facades, cars, trees, poles, people, and the sky."""
import numpy as np

from steer_depth_ros.synthetic.builder import Builder, rotation
from steer_depth_ros.synthetic.layout import field_of_view, Layout, Light, look
from steer_depth_ros.synthetic.outdoors import (
    bicycle,
    car,
    fence,
    foliage,
    hedge,
    person,
    pole,
    tree,
)
from steer_depth_ros.synthetic.primitives import BARS, BOX, ELLIPSOID, PLANE


def street(rng):
    """Build a street: road, curbs, facades, cars, trees, poles, people, and the sky."""
    b = Builder(rng)
    road_half, walk = rng.uniform(3, 9), rng.uniform(0.5, 5)
    curb = road(b, road_half)
    leaves = [foliage(b) for _ in range(2)]
    for side in (-1, 1):
        roadside(b, side, road_half, walk, curb, leaves)
    for _ in range(int(rng.integers(0, 5))):  # traffic
        car(b, rng.uniform(7, 60), rng.uniform(-0.8, 0.8) * road_half, 0,
            rng.choice([0, np.pi]) + rng.normal(0, 0.05))
    for _ in range(int(rng.integers(0, 4))):
        person(b, rng.uniform(4, 30), rng.uniform(-1, 1) * (road_half + walk), 0)
    if rng.random() < 0.2:  # a bridge or a gantry
        at, height = rng.uniform(15, 50), rng.uniform(4.5, 7)
        b.add(BOX, (at, 0, height), (rng.uniform(0.2, 4), road_half + 8, rng.uniform(0.2, 0.8)),
              b.any_material())
        b.add(BOX, (at, road_half + 0.5, height / 2), (0.3, 0.3, height / 2), b.plain())
    if rng.random() < 0.6:  # what closes the view
        b.add(ELLIPSOID, (rng.uniform(70, 130), rng.uniform(-40, 40), -5),
              (15, rng.uniform(30, 90), rng.uniform(12, 25)), leaves[0])
    lights = [sun(rng)]
    eye = np.array([0.0, rng.uniform(-0.7, 0.7) * road_half, rng.uniform(1.2, 2.0)])
    target = eye + rotation(rng.normal(0, 0.25), rng.normal(0.02, 0.06)) @ (20, 0, 0)
    if rng.random() < 0.15:  # looks to the side, as the other cameras of a car do
        target = eye + rotation(rng.uniform(0, 6.3), 0.05) @ (20, 0, 0)
    return Layout(b, eye, look(eye, target, rng.normal(0, 0.015)), field_of_view(rng, 40, 90),
                  lights, rng.uniform(0.12, 0.6) * np.array([0.9, 1.0, 1.12]), 120.0, True)


def sun(rng):
    """Draw the sun: its direction and strength."""
    at = rotation(rng.uniform(0, 2 * np.pi), -np.deg2rad(rng.uniform(15, 75))) @ (1, 0, 0)
    return Light(at, rng.uniform(0.2, 2.2) * np.array([1, 0.97, 0.9]), True)


def road(b, road_half):
    """Lay a road along x with its markings; return the height of the ground beside it."""
    rng = b.rng
    gray = rng.uniform(0.12, 0.5) * (1 + rng.normal(0, 0.06, 3))
    asphalt = b.material('grain', base=gray if rng.random() < 0.8 else b.color(),
                         contrast=rng.uniform(0.2, 0.8), tile=rng.uniform(2, 8))
    ground = b.material('grain', 'foliage', 'fractal', 'bricks', tile=rng.uniform(1, 6),
                        base=b.color(0.1, 0.5))
    b.add(PLANE, (100, 0, 0), (150, road_half, 1), asphalt)
    curb = rng.choice([0.0, 0.12, 0.18])
    for side in (-1, 1):
        b.add(PLANE, (100, side * (road_half + 60), curb), (150, 60, 1), ground)
        if curb:
            stone = ground if rng.random() < 0.5 else b.plain(base=b.color(0.4, 0.8))
            b.add(BOX, (100, side * (road_half + 0.1), curb / 2), (150, 0.15, curb / 2), stone)
    paint = b.plain(base=(0.85, 0.85, 0.8))
    for line in rng.uniform(-0.9, 0.9, int(rng.integers(0, 3))) * road_half:
        if rng.random() < 0.5:
            b.add(PLANE, (60, line, 0.004), (80, 0.07, 1), paint)
        else:
            b.add(PLANE, (60, line, 0.004), (80, 0.07, 1), paint, cut=BARS,
                  cut_scale=rng.uniform(3, 9), cut_level=rng.uniform(0.3, 0.6))
    return curb


def roadside(b, side, road_half, walk, curb, leaves):
    """Line one side of the road with buildings, walls, hedges, trees, parked cars and poles."""
    rng = b.rng
    edge = road_half + walk
    at, built = rng.uniform(-25, 0), rng.random()
    while at < 110:
        length = rng.uniform(4, 20)
        middle = at + length / 2
        if rng.random() < built:
            wall = b.material('windows', 'bricks', 'grain', 'planks', tile=rng.uniform(3, 9),
                              base=b.color(0.15, 0.8), contrast=rng.uniform(0.5, 1.3))
            deep, tall = rng.uniform(4, 8), rng.uniform(2, 9)
            front = side * (edge + deep + rng.choice([0, rng.uniform(0, 4)]))
            b.add(BOX, (middle, front, tall), (length / 2, deep, tall), wall)
            if rng.random() < 0.5:
                b.add(BOX, (middle, front, 2 * tall), (length / 2 + 0.3, deep + 0.3, 0.4),
                      b.plain())
            for _ in range(int(rng.integers(0, 4))):  # balconies and bays
                b.add(BOX, (rng.uniform(at, at + length), front - side * deep,
                            rng.uniform(1, 2 * tall)),
                      (rng.uniform(0.4, 1.5), rng.uniform(0.1, 0.8), rng.uniform(0.2, 1.0)),
                      wall if rng.random() < 0.5 else b.any_material())
        elif rng.random() < 0.4:
            half = np.array([length / 2, rng.uniform(0.4, 1.5), rng.uniform(0.4, 1.8)])
            hedge(b, middle, side * (edge + half[1]), curb, half, leaves[0])
        elif rng.random() < 0.5:
            fence(b, middle, side * edge, curb, 0, length / 2, rng.uniform(0.7, 2.0))
        elif rng.random() < 0.4:  # a bank
            b.add(ELLIPSOID, (middle, side * (edge + 6), 0), (length, 6, rng.uniform(1, 4)),
                  leaves[1])
        at += length + rng.choice([0, rng.uniform(0, 8)])
    for x in np.sort(rng.uniform(2, 70, int(rng.integers(0, 7)))):
        y = side * (road_half + walk * rng.uniform(0.3, 2.5))
        tree(b, x, y, curb, leaves[rng.integers(2)])
    for x in rng.uniform(4, 20, int(rng.choice([0, 0, 1, 5]))):
        bicycle(b, x, side * edge * 0.97, curb, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.2))
    for x in rng.uniform(3, 50, int(rng.integers(0, 6))):
        pole(b, x, side * (road_half + walk * rng.uniform(0.1, 0.9)), curb)
    if rng.random() < 0.6:
        at = rng.uniform(5, 15)  # not where the camera's own car is
        for _ in range(int(rng.integers(1, 7))):
            car(b, at, side * (road_half - 1.1), 0, rng.choice([0, np.pi]))
            at += rng.uniform(5, 12)
