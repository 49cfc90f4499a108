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
Rendered frames for training and tests: an image, its exact depth and simulated samples.

Scenes are determined by a seed. numpy draws the layout on the CPU, so it is the same for all
devices; torch casts and shades the rays.
"""
from dataclasses import dataclass
from typing import Collection, FrozenSet, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.synthetic import photo, textures
from steer_depth_ros.synthetic.builder import Material
from steer_depth_ros.synthetic.layout import Layout
from steer_depth_ros.synthetic.primitives import length, NEAR, PLANE, Solid, Solids
from steer_depth_ros.synthetic.scenes import draw_layout

SUN_STEP, LAMP_STEP = 2, 3  # shadows are cast for every 2nd or 3rd pixel, which softens them
OCCLUSION_STEP = 4


@dataclass
class Scene:
    """
    A rendered frame that can be measured again from anywhere.

    image: uint8 (H, W, 3) RGB. depth: float32 (H, W) meters along the optical axis, inf for sky.
    solid: int64 (H, W), index of the solid seen, -1 for sky. echo: int64 (H, W), what a depth
    sensor gets back (builder.NORMAL, BLACK or GLASS). All tensors on one device.
    camera: pinhole intrinsics. solids: the geometry in the camera's optical frame (x right,
    y down, z forward). far: meters, where the sky begins. outdoor: a scene in which sensors sit
    further apart. behind: depth as if clear things were not there, None where there are none.
    clear: the solids of glass that light passes.
    """

    image: Tensor
    depth: Tensor
    solid: Tensor
    camera: Camera
    solids: Solids
    echo_of_solid: Tensor
    far: float
    outdoor: bool
    behind: Optional[Tensor] = None
    clear: FrozenSet[int] = frozenset()

    @property
    def echo(self) -> Tensor:
        """Return the kind of echo per pixel, int64 (H, W); NORMAL for the sky."""
        return self.echo_of_solid[self.solid.clamp(min=0)] * (self.solid >= 0)

    def cast(self, origins: Tensor, directions: Tensor) -> Tensor:
        """
        Measure along rays, in camera coordinates.

        origins: float32 (M, 3) or (3,) meters; directions: float32 (M, 3). Return float32 (M,):
        how many times its direction a ray goes until the first surface, which is meters for unit
        directions and depth for z = 1 from the camera; inf where there is none.
        """
        return self.trace(origins, directions)[0]

    def trace(self, origins: Tensor, directions: Tensor,
              skip: Collection[int] = ()) -> Tuple[Tensor, Tensor]:
        """
        Return the result of `cast` and the echo of the surface, int64 (M,).

        skip: indices of solids that are ignored.
        """
        device = self.solids.device
        o = torch.as_tensor(origins, dtype=torch.float32, device=device).reshape(-1, 3).T
        d = torch.as_tensor(directions, dtype=torch.float32, device=device).T.contiguous()
        t, index = self.solids.cast(o, d, skip)
        return t, self.echo_of_solid[index.clamp(min=0)] * (index >= 0)


def render_scene(seed, size: Tuple[int, int] = (240, 320), device: str = 'cpu',
                 kind: Optional[str] = None, moved: Sequence[float] = (0.0, 0.0, 0.0)) -> Scene:
    """
    Render one scene.

    seed: int or sequence of ints, as for numpy's default_rng. size: (H, W) pixels. kind: one of
    scenes.KINDS, or None for a random one. moved: offset of the camera in meters (right, down,
    forward) from its position in the layout. The same seed, size and device give the same scene.
    """
    rng = np.random.default_rng(seed)
    layout = draw_layout(rng, kind)
    layout.eye = layout.eye + layout.world_from_cam @ np.asarray(moved, float)
    camera = _camera(layout, size, rng)
    solids = _solids_in_camera(layout, device)
    rays = camera_rays(camera, device)
    depth, index = solids.cast_image(rays, _rectangles(solids.items, camera))
    beyond = ~(depth < layout.far)
    depth.masked_fill_(beyond, torch.inf)
    index.masked_fill_(beyond, -1)
    light = _sky(layout, rays, rng)
    _shade(light, layout, solids, camera, rays, depth, index)
    share = np.array([layout.builder.materials[s.material].clear for s in solids.items])
    clear = frozenset(np.flatnonzero(share).tolist())
    behind = _see_through(light, layout, solids, camera, rays, depth, index, share)
    image = photo.develop(light.permute(1, 2, 0).cpu().numpy(), rng)
    echo = torch.tensor([m.echo for m in layout.builder.materials], device=device)
    return Scene(torch.from_numpy(image).to(device), depth, index, camera, solids,
                 echo[solids.material], layout.far, layout.outdoor, behind, clear)


def camera_rays(camera: Camera, device: str) -> Tensor:
    """Return the ray of every pixel of a pinhole camera, float32 (3, H, W), z = 1."""
    u = (torch.arange(camera.width, device=device) - camera.cx) / camera.fx
    v = (torch.arange(camera.height, device=device) - camera.cy) / camera.fy
    rays = torch.ones(3, camera.height, camera.width, device=device)
    rays[0], rays[1] = u[None], v[:, None]
    return rays


def _camera(layout: Layout, size, rng) -> Camera:
    h, w = size
    focal = w / 2 / np.tan(layout.hfov / 2)
    cx = (w - 1) / 2 + rng.normal(0, 0.02) * w
    cy = (h - 1) / 2 + rng.normal(0, 0.02) * h
    return Camera(w, h, float(focal), float(focal * rng.uniform(0.98, 1.02)), float(cx), float(cy))


def _solids_in_camera(layout: Layout, device) -> Solids:
    turn = layout.world_from_cam.T
    moved = []
    for s in layout.builder.solids:
        inside = np.abs(s.rot.T @ (layout.eye - s.center)) < 1.05 * s.half + 0.03
        if s.kind != PLANE and inside.all():
            continue  # the camera is inside it
        moved.append(Solid(s.kind, turn @ (s.center - layout.eye), turn @ s.rot, s.half,
                           s.material, s.taper, s.bump, s.cut, s.cut_scale, s.cut_level))
    return Solids(moved, device)


CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def _rectangles(items, camera: Camera):
    """Return a rectangle around the image of the box of every solid: v0, v1, u0, u1."""
    half = np.array([s.half for s in items]) * 1.001
    half[:, :2] *= np.maximum(1, [s.taper for s in items])[:, None]  # a top wider than its foot
    corners = np.einsum('kij,kcj->kci', np.array([s.rot for s in items]),
                        CORNERS * half[:, None]) + np.array([s.center for s in items])[:, None]
    z = corners[..., 2]
    behind = (z < 0.05).any(1)
    z = np.maximum(z, 0.05)
    u = corners[..., 0] / z * camera.fx + camera.cx
    v = corners[..., 1] / z * camera.fy + camera.cy
    whole = np.array([0, camera.height, 0, camera.width])
    bound = np.stack([v.min(1) - 1, v.max(1) + 2, u.min(1) - 1, u.max(1) + 2], 1)
    bound[behind] = whole
    bound[(corners[..., 2] < 0).all(1)] = 0
    limit = np.array([camera.height, camera.height, camera.width, camera.width])
    return [tuple(r) for r in np.clip(bound, 0, limit).astype(int)]


def _see_through(light, layout, solids, camera, rays, depth, index, clear):
    """
    Mix what lies behind clear solids into `light`; return its depth, None without any.

    clear: (K,) the share of the light that passes each solid.
    """
    clear_solids = set(np.nonzero(clear)[0].tolist()) & set(index.unique().tolist())
    if not clear_solids:
        return None
    share = torch.as_tensor(clear, dtype=torch.float32, device=light.device)
    share = share[index.clamp(min=0)] * (index >= 0)
    v, u = share.nonzero().T
    window = (int(v.min()), int(v.max()) + 1, int(u.min()), int(u.max()) + 1)
    rows, columns = slice(*window[:2]), slice(*window[2:])
    t, seen = depth.clone(), index.clone()
    rectangles = [(max(r[0], window[0]), min(r[1], window[1]), max(r[2], window[2]),
                   min(r[3], window[3])) for r in _rectangles(solids.items, camera)]
    through, owner = solids.cast_image(rays, rectangles, skip=clear_solids)
    t[rows, columns] = torch.where(through < layout.far, through, torch.inf)[rows, columns]
    seen[rows, columns] = torch.where(through < layout.far, owner, -1)[rows, columns]
    t, seen = torch.where(share > 0, t, depth), torch.where(share > 0, seen, index)
    beyond = light.clone()
    _shade(beyond, layout, solids, camera, rays, t, torch.where(share > 0, seen, -1))
    light.lerp_(beyond, share)
    return t


def _shade(light, layout, solids, camera, rays, depth, index):
    """Shade every pixel with a solid in `light`, float32 (3, H, W), in place."""
    seen = index >= 0
    at = seen.flatten().nonzero()[:, 0]
    pick, t = index.flatten()[at], depth.flatten()[at]
    view = rays.flatten(1)[:, at]
    points = view * t
    local, normal = solids.normals(points, pick)
    facing = solids.to_camera(normal, pick)
    slant = (facing * view).sum(0) / length(view)
    facing = torch.where(slant > 0, -facing, facing)  # inside of something open
    materials = _Materials(layout.builder.materials, solids.device)
    what = solids.material[pick]
    footprint = t / camera.fx / slant.abs().clamp(min=0.1) ** 0.7
    albedo = materials.color(what, local, normal, solids, pick, footprint)
    lit = _direct_light(layout, solids, depth.shape, at, points, facing, view, what, materials)
    open_ = _openness(solids, rays, depth, facing, at)
    ambient = torch.as_tensor(layout.ambient, dtype=torch.float32, device=solids.device)
    up = torch.as_tensor(layout.world_from_cam[2], dtype=torch.float32, device=solids.device)
    sky_share = 0.75 + 0.25 * (up @ facing)
    diffuse, gloss = lit
    color = albedo * (diffuse + ambient[:, None] * sky_share * open_
                       + materials.glow[what]) + gloss
    light.flatten(1)[:, at] = color


def _direct_light(layout, solids, size, at, points, facing, view, what, materials):
    """Return diffuse and glossy light (3, M), summed over all lights with their shadows."""
    diffuse, gloss = torch.zeros_like(points), torch.zeros_like(points)
    turn = layout.world_from_cam.T
    away = view / length(view)
    mirror = away - 2 * (away * facing).sum(0) * facing
    for light in layout.lights:
        where = turn @ (light.at if light.distant else light.at - layout.eye)
        where = torch.as_tensor(where, dtype=torch.float32, device=points.device)[:, None]
        to_light = where.expand_as(points) if light.distant else where - points
        color = torch.as_tensor(light.color, dtype=torch.float32, device=points.device)[:, None]
        distance = length(to_light)
        unit = to_light / distance
        fade = 1.0 if light.distant else 4 / (1 + distance / distance.median()) ** 2
        shadow = _shadow(solids, size, at, points, facing, to_light, light.distant)
        strength = shadow * fade
        diffuse += color * ((unit * facing).sum(0).clamp(min=0) * strength)
        shine = (unit * mirror).sum(0).clamp(min=0) ** materials.gloss[what]
        gloss += color * (materials.specular[what] * shine * strength)
    return diffuse, gloss


def _shadow(solids, size, at, points, facing, to_light, distant):
    """Return how much of a light arrives, float32 (M,) in 0..1, cast on a coarse grid."""
    h, w = size
    v, u = at // w, at % w
    step = SUN_STEP if distant else LAMP_STEP
    chosen = ((v % step == 0) & (u % step == 0)).nonzero()[:, 0]
    start = points[:, chosen]
    start = start + facing[:, chosen] * (0.002 * start[2] + 2 * NEAR)
    t, _ = solids.cast(start, to_light[:, chosen])
    lit = (t > 1.0 if not distant else ~(t < torch.inf)).float()
    grid = lit.new_ones((h + step - 1) // step, (w + step - 1) // step)
    grid[v[chosen] // step, u[chosen] // step] = lit
    if not distant:  # lamps are wide
        grid = functional.avg_pool2d(grid[None], 3, 1, 1, count_include_pad=False)[0]
    return _enlarge(grid, h, w, step).flatten()[at]


def _enlarge(grid, h, w, step):
    """Return a grid of every step-th pixel bilinearly upsampled to (h, w), aligned at (0, 0)."""
    y = torch.arange(h, device=grid.device) / step
    x = torch.arange(w, device=grid.device) / step
    rows, columns = grid.shape
    y0, x0 = y.long(), x.long()
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    y1, x1 = (y0 + 1).clamp(max=rows - 1), (x0 + 1).clamp(max=columns - 1)
    top, bottom = grid[y0], grid[y1]
    return ((top[:, x0] * (1 - fx) + top[:, x1] * fx) * (1 - fy)
            + (bottom[:, x0] * (1 - fx) + bottom[:, x1] * fx) * fy)


def _openness(solids, rays, depth, facing, at):
    """Return ambient occlusion by the solids, taken as spheres; float32 (M,) in 0.35..1."""
    h, w = depth.shape
    normals = torch.zeros(3, h * w, device=depth.device)
    normals[:, at] = facing
    step = OCCLUSION_STEP
    normals = normals.reshape(3, h, w)[:, ::step, ::step]
    grid = normals.shape[1:]
    points = (rays * depth.nan_to_num(posinf=0.0))[:, ::step, ::step].flatten(1)
    normals = normals.flatten(1)
    size = solids.half.min(1).values  # slabs hide little of the sky
    weight = (size / solids.radius > 0.15).float() * size ** 2
    squared = ((solids.center ** 2).sum(1)[:, None] + (points ** 2).sum(0)
               - 2 * solids.center @ points).clamp(min=1e-6)
    facing_it = solids.center @ normals - (points * normals).sum(0)
    share = weight[:, None] * (facing_it / squared.sqrt()).clamp(min=0) / squared
    share *= squared > (0.9 * size ** 2)[:, None]
    open_ = torch.exp(-share.sum(0)).clamp(min=0.35).reshape(grid)
    return _enlarge(open_, h, w, step).flatten()[at]


def _sky(layout, rays, rng):
    """Return a sky, brighter and whiter towards the horizon, sometimes with clouds."""
    device = rays.device
    up = torch.as_tensor(layout.world_from_cam[2], dtype=torch.float32, device=device)
    view = rays / length(rays)
    height = (view * up[:, None, None]).sum(0).clamp(0, 1) ** 0.5
    bright = rng.uniform(0.6, 2.5)
    horizon = torch.tensor([1.0, 1.0, 1.0], device=device) * bright
    blue = rng.uniform(0.0, 1.0)
    zenith = torch.tensor([1 - 0.65 * blue, 1 - 0.4 * blue, 1.0], device=device) * bright
    out = horizon[:, None, None] + height * (zenith - horizon)[:, None, None]
    cover = rng.uniform(0, 0.6) if rng.random() < 0.5 else 0.0
    texture = textures.pick(rng, 'fractal')
    if cover and layout.outdoor:
        flat = view.flatten(1)
        uv = torch.stack([flat[0], flat[1]]) * 0.5
        index = torch.full((uv.shape[1],), texture, device=device)
        cloud = textures.sample(index, uv, torch.full_like(uv[0], 0.004)).mean(0)
        cloud = ((cloud - 0.4) * 3).clamp(0, 1).reshape(height.shape) * cover
        out = out * (1 - cloud) + 0.95 * bright * cloud
    return out


class _Materials:
    """The materials of a scene as tensors."""

    def __init__(self, materials: Sequence[Material], device):
        def tensor(name, dtype=torch.float32):
            rows = np.array([getattr(m, name) for m in materials])
            return torch.as_tensor(rows, dtype=dtype, device=device)

        self.texture = tensor('texture', torch.long)
        self.base, self.mix = tensor('base'), tensor('mix')
        self.tile, self.angle = tensor('tile'), tensor('angle')
        self.specular, self.gloss, self.glow = tensor('specular'), tensor('gloss'), tensor('glow')

    def color(self, what, local, normal, solids, pick, footprint):
        """Return the albedo (3, M) of surface points in the frames of their solids."""
        x, y, z = local
        nx, ny, nz = normal.abs()
        u = torch.where((nx >= ny) & (nx >= nz), y, x)
        v = torch.where((nz > nx) & (nz > ny), y, z)
        tile, angle = self.tile[what], self.angle[what]
        cos, sin = torch.cos(angle), torch.sin(angle)
        # Every solid shows another part of the texture.
        shift = pick * 0.377
        uv = torch.stack([u * cos - v * sin, u * sin + v * cos]) / tile + shift
        color = textures.sample(self.texture[what], uv, footprint / tile) - 0.5
        mixed = (self.mix[what] * color.T[:, None]).sum(2)
        return (self.base[what] + mixed).clamp_(0.01, 1.0).T
