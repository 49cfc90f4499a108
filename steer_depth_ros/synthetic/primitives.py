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
"""
Ray casting of analytic solids: planes, boxes, ellipsoids, frustums, rounded and bumpy blocks.

Rays are (3, M) tensors, one row per axis, because rows are contiguous. A solid is defined in its
own frame, where it fills the box of half sizes `half`; `rot` rotates it into the common frame.
"""
from dataclasses import dataclass, field
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor

PLANE, BOX, ELLIPSOID, FRUSTUM, ROUNDED = range(5)
SOLID, OPEN_TOP, FOLIAGE, BARS, GRID = range(5)  # which parts of the surface are cut away
NEAR = 1e-3  # meters; rays start here, so that a surface does not occlude itself
MARCH_STEPS = 12
BUMP_AXES = ((0.8, 0.5, -0.1), (-0.3, 1.1, 0.4), (0.35, -0.4, 0.9))  # askew, so no lattice shows


@dataclass
class Solid:
    """
    One solid; lengths in meters.

    kind: PLANE (a rectangle in its local xy plane), BOX, ELLIPSOID, FRUSTUM (round about z, the
    top has `taper` of the radius of the bottom) or ROUNDED (a block with edges of radius
    `taper` * min(half) and bumps of relative height `bump`).
    cut: SOLID, OPEN_TOP (no cover at +z), FOLIAGE (holes), BARS or GRID (slits), with the parts
    cut away sized by `cut_scale` meters.
    """

    kind: int
    center: np.ndarray
    rot: np.ndarray
    half: np.ndarray
    material: int
    taper: float = 1.0
    bump: float = 0.0
    cut: int = SOLID
    cut_scale: float = 0.1
    cut_level: float = 0.5
    radius: float = field(init=False)

    def __post_init__(self):
        self.radius = float(np.linalg.norm(self.half))


class Solids:
    """Solids in one frame, as tensors on a device; `cast` finds the first one along each ray."""

    def __init__(self, solids: List[Solid], device: str):
        self.items = solids
        self.device = device
        self.center = self._tensor([s.center for s in solids])
        self.rot = self._tensor([s.rot for s in solids])
        self.half = self._tensor([s.half for s in solids])
        self.kind = torch.tensor([s.kind for s in solids], device=device)
        self.material = torch.tensor([s.material for s in solids], device=device)
        self.taper = self._tensor([s.taper for s in solids])
        self.bump = self._tensor([s.bump for s in solids])
        self.radius = self._tensor([s.radius for s in solids])
        self._to_local = self.rot.transpose(1, 2).contiguous()

    def _tensor(self, rows):
        return torch.as_tensor(np.array(rows), dtype=torch.float32, device=self.device)

    def cast(self, origins: Tensor, directions: Tensor, skip=()) -> Tuple[Tensor, Tensor]:
        """
        Find the first solid along each ray.

        origins: (3, M) or (3, 1); directions: (3, M), any length; skip: indices of solids that
        are ignored. Return t (M,) in units of the direction, inf without a hit, and the index of
        the solid, int64 (M,), -1 without a hit.
        """
        count = directions.shape[1]
        best = torch.full((count,), torch.inf, device=self.device)
        index = torch.full((count,), -1, dtype=torch.long, device=self.device)
        near = self._near_rays(origins, directions)
        pairs = near.nonzero()
        rays = pairs[:, 1].split(near.sum(1).tolist())
        for k, chosen in enumerate(rays):
            if len(chosen) == 0 or k in skip:
                continue
            if len(chosen) == count:
                t = self.intersect(k, origins, directions)
                self._keep(best, index, t, k)
            else:
                start = origins if origins.shape[1] == 1 else origins[:, chosen]
                t = self.intersect(k, start, directions[:, chosen])
                part, owner = best[chosen], index[chosen]
                self._keep(part, owner, t, k)
                best[chosen], index[chosen] = part, owner
        return best, index

    def cast_image(self, directions: Tensor, rectangles: List[Tuple[int, int, int, int]],
                   skip=()) -> Tuple[Tensor, Tensor]:
        """
        Find the first solid along the rays of an image from the origin.

        directions: (3, H, W); rectangles: (v0, v1, u0, u1) per solid, which bound its image.
        Return t and index as `cast`, (H, W).
        """
        size = directions.shape[1:]
        best = torch.full(size, torch.inf, device=self.device)
        index = torch.full(size, -1, dtype=torch.long, device=self.device)
        origin = directions.new_zeros(3, 1)
        for k, (v0, v1, u0, u1) in enumerate(rectangles):
            if v0 >= v1 or u0 >= u1 or k in skip:
                continue
            rays = directions[:, v0:v1, u0:u1]
            t = self.intersect(k, origin, rays.reshape(3, -1)).reshape(rays.shape[1:])
            self._keep(best[v0:v1, u0:u1], index[v0:v1, u0:u1], t, k)
        return best, index

    @staticmethod
    def _keep(best, index, t, k):
        index.masked_fill_(t < best, k)
        torch.minimum(best, t, out=best)

    def _near_rays(self, origins, directions):
        """Return which rays pass through which bounding spheres, bool (K, M)."""
        unit = directions / length(directions)
        along = torch.addmm(-(origins * unit).sum(0), self.center, unit)
        # The squared distance from the ray to the center, less the center's own square.
        apart = torch.addmm((origins ** 2).sum(0), self.center, origins.expand_as(unit), alpha=-2)
        apart.addcmul_(along, along, value=-1)
        radius = self.radius[:, None] * 1.01 + 0.02  # float32 cancels far from the origin
        limit = radius ** 2 - (self.center ** 2).sum(1, keepdim=True)
        return (apart <= limit) & (along > -radius)

    def intersect(self, k: int, origins: Tensor, directions: Tensor) -> Tensor:
        """Return t (M,) of the first visible surface of solid k, inf if there is none."""
        solid = self.items[k]
        o = self._to_local[k] @ (origins - self.center[k, :, None])
        d = self._to_local[k] @ directions + 1e-9  # no division by zero along an axis
        half = self.half[k, :, None]
        if solid.kind == ROUNDED:
            return _march(solid, o, d, half)
        if solid.kind == PLANE:
            enter, leave = _plane(o, d, half)
        elif solid.kind == BOX:
            enter, leave = _box(o, d, half)
        elif solid.kind == ELLIPSOID:
            enter, leave = _sphere(o / half, d / half)
        else:
            enter, leave = _frustum(o / half, d / half, solid.taper)
        if solid.cut == SOLID:
            return torch.where(enter > NEAR, enter, _after(leave))
        first = _after(enter).masked_fill_(self._cut_away(solid, o, d, enter), torch.inf)
        second = _after(leave).masked_fill_(self._cut_away(solid, o, d, leave), torch.inf)
        return torch.minimum(first, second)

    @staticmethod
    def _cut_away(solid, o, d, t):
        x, y, z = o + d * t.clamp(-1e6, 1e6)
        if solid.cut == OPEN_TOP:
            level = 0.999 if solid.kind != ELLIPSOID else 2 * solid.cut_level - 1
            return z > level * float(solid.half[2])
        if solid.cut == FOLIAGE:
            return _leaf_gaps(torch.stack([x, y, z]), solid.cut_scale) > 3 * solid.cut_level - 1.2
        slit = torch.remainder(x / solid.cut_scale, 1.0) > solid.cut_level
        if solid.cut == GRID:
            slit &= torch.remainder(y / solid.cut_scale, 1.0) > solid.cut_level
        return slit

    def normals(self, points: Tensor, index: Tensor) -> Tuple[Tensor, Tensor]:
        """
        Return outward unit normals at surface points.

        points: (3, M); index: int64 (M,) of their solids. Return the points and the normals in
        the frames of the solids, (3, M) each.
        """
        offset = points - self.center[index].T
        to_local = self._to_local[index]
        local = (to_local * offset.T[:, None]).sum(2).T.contiguous()
        half = self.half[index].T
        relative = local / half
        kind = self.kind[index]
        size = relative.abs()
        normal = torch.where(size == size.amax(0), relative.sign(), 0.0)
        normal = torch.where(kind == PLANE, normal.new_tensor([[0.], [0.], [1.]]), normal)
        normal = torch.where(kind == ELLIPSOID, relative / half, normal)
        slope = (self.taper[index] - 1) / 2
        wall = relative / half
        reach = (relative[:2] ** 2).sum(0).sqrt()
        wall[2] = -slope * reach / half[2]
        on_wall = (reach - (1 + slope + slope * relative[2])).abs() < 1 - size[2]
        normal = torch.where((kind == FRUSTUM) & on_wall, wall, normal)
        cap = torch.stack([torch.zeros_like(slope), torch.zeros_like(slope), relative[2]])
        normal = torch.where((kind == FRUSTUM) & ~on_wall, cap, normal)
        if (self.kind == ROUNDED).any():
            edge = self.taper[index] * half.min(0).values
            rounded = (local.abs() - (half - edge)).clamp(min=0) * local.sign()
            w = _bump_frequency(half.min(0).values)
            skew = local.new_tensor(BUMP_AXES)
            wave = w * (skew @ local)
            sine = torch.sin(wave)
            slope = skew.T @ (torch.cos(wave) * sine.roll(1, 0) * sine.roll(2, 0))
            bumpy = rounded / edge + self.bump[index] * edge * w * slope
            normal = torch.where(kind == ROUNDED, bumpy, normal)
        return local, normal / length(normal).clamp(min=1e-9)

    def to_camera(self, vectors: Tensor, index: Tensor) -> Tensor:
        """Return vectors (3, M), given in the frames of their solids, in the common frame."""
        return (self.rot[index] * vectors.T[:, None]).sum(2).T


def length(v: Tensor) -> Tensor:
    """Return the lengths (M,) of vectors (3, M); torch's norm is slow along the first axis."""
    return (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt_()


def _leaf_gaps(p, scale):
    """Return waves of two lengths in warped space, which hides the period; about -2 to 2."""
    w = 2 * np.pi / scale
    p = w * p + 1.6 * torch.sin(0.37 * w * p.roll(1, 0)) + 0.9 * torch.sin(0.83 * w * p.roll(2, 0))
    x, y, z = p
    return (torch.sin(x + 0.4 * y) * torch.sin(1.13 * y - 0.5 * z)
            + torch.sin(0.9 * z + 0.6 * x) + 0.7 * torch.sin(2.3 * x + 1.9 * y - 2.6 * z))


def _after(t):
    return torch.where(t > NEAR, t, torch.inf)


def _interval(near, far):
    miss = ~(near <= far)
    return near.masked_fill(miss, torch.inf), far.masked_fill(miss, torch.inf)


def _plane(o, d, half):
    t = -o[2] / d[2]
    miss = ((o[0] + t * d[0]).abs() > half[0]) | ((o[1] + t * d[1]).abs() > half[1])
    t = t.masked_fill(miss, torch.inf)
    return t, t


def _box(o, d, half):
    inverse = 1 / d
    middle = -o * inverse
    reach = half * inverse.abs()
    return _interval((middle - reach).amax(0), (middle + reach).amin(0))


def _sphere(o, d):
    a = (d * d).sum(0)
    b = (o * d).sum(0) / a
    # The distance from the center to the ray: stable where b * b - c would cancel.
    across = o - b * d
    root = ((1 - (across * across).sum(0)) / a).sqrt()  # NaN without a hit
    return _interval(-b - root, -b + root)


def _frustum(o, d, taper):
    b = (taper - 1) / 2
    r0, rd = 1 + b + b * o[2], b * d[2]
    qa = d[0] * d[0] + d[1] * d[1] - rd * rd
    qb = (o[0] * d[0] + o[1] * d[1] - r0 * rd) / qa
    qc = (o[0] * o[0] + o[1] * o[1] - r0 * r0) / qa
    root = (qb * qb - qc).sqrt()
    candidates = []
    for t in (-qb - root, -qb + root):
        candidates.append((t, (o[2] + t * d[2]).abs() <= 1))
    inverse = 1 / d[2]
    for side in (-1.0, 1.0):
        t = (side - o[2]) * inverse
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        candidates.append((t, x * x + y * y <= (1 + b + b * side) ** 2))
    near = torch.stack([torch.where(ok, t, torch.inf) for t, ok in candidates]).amin(0)
    far = torch.stack([torch.where(ok, t, -torch.inf) for t, ok in candidates]).amax(0)
    return _interval(near, far)


def _bump_frequency(smallest):
    return 5.0 / smallest


def _march(solid, o, d, half):
    """Return t of the hit on a rounded, bumpy block, by sphere tracing; inf without a hit."""
    out = d.new_full((d.shape[1],), torch.inf)
    enter, leave = _box(o, d, half)
    chosen = (leave > NEAR).logical_and_(enter < torch.inf).nonzero()[:, 0]
    d = d[:, chosen]
    o = o[:, chosen] if o.shape[1] > 1 else o
    t, leave = enter[chosen].clamp(min=NEAR), leave[chosen]
    smallest = float(np.min(solid.half))
    edge = solid.taper * smallest
    bump = solid.bump * edge
    frequency, axes = _bump_frequency(smallest), d.new_tensor(BUMP_AXES)
    # Bumps make the distance function steeper; smaller steps avoid passing through the surface.
    pace = 1 / (length(d) * (1 + solid.bump * 5 * solid.taper))
    for _ in range(MARCH_STEPS if bump == 0 else 2 * MARCH_STEPS):
        p = o + t * d
        q = p.abs() - (half - edge)
        distance = length(q.clamp(min=0)) + q.amax(0).clamp(max=0) - edge
        if bump:
            sx, sy, sz = torch.sin(frequency * (axes @ p))
            distance += bump * (1 + sx * sy * sz)
        t = t + distance * pace
    hit = (distance < 0.01 * smallest) & (t > NEAR) & (t <= leave * 1.001)
    out[chosen] = torch.where(hit, t, torch.inf)
    return out
