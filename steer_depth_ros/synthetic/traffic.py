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
"""Dense traffic: queues of cars with windows through which camera and LiDAR beams can see."""
import numpy as np

from steer_depth_ros.synthetic.builder import Builder, GLASS, rotation
from steer_depth_ros.synthetic.layout import field_of_view, Layout, look
from steer_depth_ros.synthetic.outdoors import car, foliage, person
from steer_depth_ros.synthetic.primitives import BOX, ELLIPSOID, FRUSTUM, PLANE, ROUNDED
from steer_depth_ros.synthetic.street import road, roadside, sun


def queue(rng):
    """Build lanes of cars in front of and beside the camera, with a far view above the roofs."""
    b = Builder(rng)
    lanes, lane = int(rng.integers(1, 5)), rng.uniform(2.9, 3.6)
    road_half, walk = lanes * lane / 2 + rng.uniform(2.2, 4), rng.uniform(0.5, 5)
    curb = road(b, road_half)
    leaves = [foliage(b) for _ in range(2)]
    for side in (-1, 1):
        roadside(b, side, road_half, walk, curb, leaves)
    _far_view(b, leaves[0])
    own = int(rng.integers(lanes))
    middles = (np.arange(lanes) + 0.5) * lane - lanes * lane / 2
    for k, middle in enumerate(middles):
        if k == own:
            _line_up(b, middle, rng.uniform(5, 14), 0)
        elif rng.random() < 0.75:  # on the left, some come towards us
            yaw = np.pi if k > own and rng.random() < 0.5 else 0
            _line_up(b, middle, rng.uniform(2, 12), yaw)
    for _ in range(int(rng.integers(0, 3))):
        person(b, rng.uniform(4, 30), rng.choice([-1, 1]) * (road_half + walk / 2), curb)
    eye = np.array([0.0, middles[own] + rng.normal(0, 0.3), rng.uniform(1.2, 1.9)])
    target = eye + rotation(rng.normal(0, 0.2), rng.normal(0.03, 0.04)) @ (20, 0, 0)
    return Layout(b, eye, look(eye, target, rng.normal(0, 0.015)), field_of_view(rng, 40, 90),
                  [sun(rng)], rng.uniform(0.2, 0.6) * np.array([0.9, 1.0, 1.12]), 120.0, True)


def _far_view(b, leaf):
    """Close the far end of the street with houses or a hill, or sometimes with nothing."""
    rng = b.rng
    if rng.random() < 0.7:
        at, y = rng.uniform(55, 105), -70.0
        while y < 70:
            wide, tall = rng.uniform(4, 12), rng.uniform(2, 12)
            wall = b.material('windows', 'bricks', 'grain', tile=rng.uniform(3, 9),
                              base=b.color(0.15, 0.8), contrast=rng.uniform(0.5, 1.3))
            b.add(BOX, (at + 6, y + wide, tall), (6, wide, tall), wall)
            y += 2 * wide + rng.choice([0, rng.uniform(0, 10)])
    elif rng.random() < 0.7:
        b.add(ELLIPSOID, (rng.uniform(70, 130), rng.uniform(-40, 40), -5),
              (15, rng.uniform(30, 90), rng.uniform(12, 25)), leaf)


def _line_up(b, y, x, yaw):
    """Fill a lane with vehicles starting at x, most of them bumper to bumper."""
    rng = b.rng
    while x < 60:
        if x > 20 and rng.random() < 0.2:  # a van, truck or bus
            half = 6.2
            car(b, x + half, y, 0, yaw)
        else:
            half = rng.uniform(1.8, 2.4)
            glazed_car(b, x + half, y + rng.normal(0, 0.15), 0, yaw + rng.normal(0, 0.03), half)
        x += 2 * half + (rng.uniform(6, 20) if rng.random() < 0.25 else rng.uniform(1.2, 5))


def glazed_car(b, x, y, z, yaw, long):
    """Add a car of half length `long` meters with windows, seats and perhaps people."""
    rng = b.rng
    g = b.group(x, y, z, yaw)
    paint = b.plain(base=b.color(0.03, 0.9), specular=0.7, gloss=60.0)
    black = b.plain(base=(0.03, 0.03, 0.035))
    wide, tall = rng.uniform(0.82, 0.95), rng.uniform(1.42, 1.85)
    belt = tall * rng.uniform(0.58, 0.64)
    boot, rake = (0.8, 0.6) if rng.random() < 0.3 else (0.08, rng.uniform(0.1, 0.5))
    back, front = -long + boot, rng.uniform(0.75, 0.95)  # ends of the windows, at the belt
    roof = back + rake, front - rng.uniform(0.5, 0.8)  # and of the roof
    low, high = 0.93 * wide, rng.uniform(0.72, 0.82) * wide  # half widths there
    _body(g, paint, black, long, wide, belt, front)
    middle, half = sum(roof) / 2, (roof[1] - roof[0]) / 2
    g.add(ROUNDED, (middle, 0, tall - 0.05), (half + 0.06, high + 0.05, 0.05), paint, taper=0.7)
    tint = rng.uniform(0.4, 0.9)
    corners = [((back, s * low, belt), (roof[0], s * high, tall - 0.06)) for s in (-1, 1)]
    corners += [((front, s * low, belt), (roof[1], s * high, tall - 0.06)) for s in (-1, 1)]
    for (foot, head), thick in zip(corners, (0.09, 0.09, 0.04, 0.04)):
        _bar(g, foot, head, thick, paint)
    for s in (-1, 1):
        _bar(g, (middle, s * low, belt), (middle, s * high, tall - 0.06), 0.05, black)
    rise = tall - 0.06 - belt
    for end, top in ((back, roof[0]), (front, roof[1])):
        pane = _glass(b, tint)
        g.add(PLANE, ((end + top) / 2, 0, belt + rise / 2),
              (np.hypot(top - end, rise) / 2, (low + high) / 2, 1), pane,
              rot=rotation(pitch=np.arctan2(-rise, top - end)))
    for s in (-1, 1):
        pane = _glass(b, tint)
        g.add(PLANE, ((back + front + sum(roof)) / 4, s * (low + high) / 2, belt + rise / 2),
              ((front - back + roof[1] - roof[0]) / 4, np.hypot(low - high, rise) / 2, 1), pane,
              rot=rotation(roll=np.arctan2(rise, s * (high - low))))
    _inside(g, black, back, roof[0] + 0.15, front, 0.9 * low, belt)


def _glass(b, clear):
    """Add the material of a pane, dark or bright as if reflecting the sky."""
    return b.plain(base=b.color(0.02, 0.5), specular=0.9, gloss=90.0, echo=GLASS, clear=clear)


def _body(g, paint, black, long, wide, belt, front):
    """Add the parts below the windows: body, bumpers, lamps, license plates and wheels."""
    rng = g.rng
    g.add(ROUNDED, (0, 0, 0.22 + 0.4 * belt), (long, wide, 0.4 * belt), paint, taper=0.4)
    half = (front + 0.1 + long) / 2
    g.add(ROUNDED, (front + 0.1 - half, 0, belt - 0.25), (half, wide * 0.97, 0.25), paint,
          taper=0.3)
    red, white = g.plain(base=(0.7, 0.05, 0.04)), g.plain(base=(0.9, 0.9, 0.85))
    plate = g.material('text', base=(0.85, 0.85, 0.7), tile=0.5)
    height = rng.uniform(0.7, 0.85) * belt
    for end, lamp in ((-1, red), (1, white)):
        g.add(BOX, (end * long, 0, 0.42), (0.04, 0.9 * wide, 0.1), black)
        g.add(BOX, (end * (long + 0.01), 0, 0.62 * belt), (0.02, 0.26, 0.06), plate)
        for s in (-1, 1):
            g.add(BOX, (end * (long - 0.04), s * 0.8 * wide, height), (0.06, 0.13, 0.08), lamp)
    for axle in (-0.62, 0.6):
        for side in (-0.92, 0.92):
            g.add(FRUSTUM, (axle * long, side * wide, 0.32), (0.32, 0.32, 0.1), black,
                  rot=rotation(roll=np.pi / 2))


def _bar(g, foot, head, thick, material):
    """Add a bar from foot to head (3,), `thick` meters to both sides."""
    foot, head = np.array(foot), np.array(head)
    x, y, z = head - foot
    turn = rotation(np.arctan2(y, x), -np.arctan2(z, np.hypot(x, y)))
    g.add(BOX, (foot + head) / 2, (np.linalg.norm(head - foot) / 2, thick, 0.03), material,
          rot=turn)


def _inside(g, black, back, seat, front, wide, belt):
    """Add the interior: a shelf, seats with head rests, people."""
    rng = g.rng
    g.add(BOX, ((back + front) / 2, 0, belt), ((front - back) / 2, wide, 0.012), black)
    cloth = g.plain(base=g.color(0.03, 0.4))
    g.add(ROUNDED, (seat, 0, belt), (0.07, wide * 0.9, rng.uniform(0.03, 0.15)), cloth, taper=0.5)
    driver = front - rng.uniform(0.85, 1.05)
    for x, chance in ((seat, 0.15), (driver, 0.5)):
        for s in (-1, 1):
            y = s * 0.45 * wide
            g.add(ROUNDED, (x, y, belt + 0.24), (0.05, 0.12, 0.08), cloth, taper=0.8)
            if x == driver:
                g.add(ROUNDED, (x, y, belt), (0.07, 0.24, 0.16), cloth, taper=0.6)
            if rng.random() < (1.0 if x == driver and s > 0 else chance):  # they drive on the left
                g.add(ROUNDED, (x + 0.14, y, belt - 0.02), (0.1, 0.21, 0.15),
                      g.any_material(), taper=0.9)
                g.add(ELLIPSOID, (x + 0.14, y, belt + 0.24), (0.1, 0.085, 0.13),
                      g.plain(base=g.color(0.05, 0.6)))
