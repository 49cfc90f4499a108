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
Refinement without weights: half of the way to a thin plate that bends where the image does.

Kernels see a pixel's nearest samples, each pixel for itself; a plate through the samples sees the
whole of a surface. In inverse depth, where planes are linear, it minimises

    sum over samples of |z - measured| + STIFFNESS * sum over pixels of edge * |curvature|

of second differences along x, y and across, all relative to z, like total generalised variation
(Ferstl et al., "Image guided depth upsampling using anisotropic total generalized variation",
ICCV 2013). It starts from the kernels' estimate, by iteratively reweighted least squares: where
that has steps and creases the plate may bend. A quarter of the resolution comes before half of
it. The errors of plate and kernels have little in common, so their mean is better than either.
"""
import cv2
import numpy as np

from steer_depth_ros.completion import steering
from steer_depth_ros.ops import native

# Shrinking of the image, reweightings, and steps of each: for sensor rate, and for the network.
QUICK, THOROUGH = ((4, 1, 40), (2, 1, 15)), ((4, 2, 40), (2, 1, 20))
STIFFNESS = 0.05
FLAT = 1e-3  # curvature, a share of z, that counts as none
LOOSE = 0.01  # relative misfit from which on a sample pulls no stronger
EDGE = 6.0  # change of L + a + b, CIELab, that lowers the stiffness to 1 / e
SHARE, RAMP = 0.5, 4.0  # of the way that is gone, and pixels to a sample from which on
NEAREST = np.float32(0.05)  # what relative differences are taken of, at least


def refined(inputs, inverse, distance):
    """
    Return inverse depth (H, W), as `steering.Inputs` has it, moved towards the plate.

    distance: (H, W) pixels to the nearest sample, where kernels at full resolution know better.
    """
    share = np.float32(SHARE)
    if not inputs.half:
        share = share * np.minimum(distance / np.float32(RAMP), 1)
    moved = inverse * np.exp(share * change(inputs, inverse))
    return np.clip(moved, *inputs.range)


def change(inputs, inverse, levels=QUICK):
    """Return the logarithm (H, W) of the plate over inverse depth (H, W), from which it starts."""
    measured = inputs.inverse[0].numpy()
    starts = {2: inverse if inputs.half else steering.halved(inverse)}
    starts[4] = steering.halved(starts[2])
    found = None
    for shrink, reweightings, steps in levels:
        plate = starts[shrink].copy()
        if found is not None:
            plate *= np.exp(steering.enlarged(found, plate.shape))
        colours = inputs.lab if shrink == 2 else steering.halved(inputs.lab)
        solve(plate, steering.shrunk(inputs.uv, shrink // 2 if inputs.half else shrink), measured,
              _edges(colours), reweightings, steps)
        np.clip(plate, *inputs.range, out=plate)
        found = np.log(plate / starts[shrink])
    return found if inputs.half else steering.enlarged(found, inverse.shape)


def solve(plate, uv, measured, edges, reweightings, steps):
    """
    Bend `plate` (h, w) in place, towards what was measured (N,) at uv (1, N, 2).

    edges: (3, h, w), the share of STIFFNESS along x, along y and across.
    """
    at = np.ravel_multi_index(steering.nearest_pixels(uv[0].numpy(), plate.shape), plate.shape)
    scale = np.maximum(measured, NEAREST)
    for _ in range(reweightings):
        off = measured - steering.at_samples(plate[..., None], uv)[:, 0]
        weight = 1 / (scale * np.hypot(off, LOOSE * scale))
        held = np.bincount(at, weight, plate.size).astype(np.float32).reshape(plate.shape)
        pull = np.bincount(at, weight * off, plate.size).astype(np.float32).reshape(plate.shape)
        bend(plate, _stiffness(plate, edges), held, pull, steps)


def _edges(colours):
    """Return how much of the stiffness the image leaves, (3, h, w); 0 beyond the border."""
    height, width = colours.shape[:2]
    along_x, along_y = np.zeros((2, height, width), np.float32)  # to the next pixel
    along_x[:, :-1] = np.add.reduce(cv2.split(cv2.absdiff(colours[:, 1:], colours[:, :-1])))
    along_y[:-1] = np.add.reduce(cv2.split(cv2.absdiff(colours[1:], colours[:-1])))
    edges = np.full((3, height, width), np.inf, np.float32)
    np.maximum(along_x[:, 1:-1], along_x[:, :-2], out=edges[0, :, 1:-1])
    np.maximum(along_y[1:-1], along_y[:-2], out=edges[1, 1:-1])
    edges[2, :-1, :-1] = np.maximum(np.maximum(along_x[:-1, :-1], along_x[1:, :-1]),
                                    np.maximum(along_y[:-1, :-1], along_y[:-1, 1:]))
    edges *= np.float32(-1 / EDGE)
    return np.exp(edges, out=edges)


def _stiffness(plate, edges):
    """Weigh curvatures (3, h, w) so that their squares cost what their absolutes do."""
    square = np.square(np.maximum(plate, NEAREST))
    stiffness = curvatures(plate)
    np.square(stiffness, out=stiffness)
    stiffness /= square
    stiffness += np.float32(FLAT * FLAT)
    np.sqrt(stiffness, out=stiffness)
    stiffness *= square
    return np.divide(edges * np.float32(STIFFNESS), stiffness, out=stiffness)


def curvatures(shape):
    """Return second differences of a map (h, w): along x, along y and across, (3, h, w)."""
    found = np.zeros((3, *shape.shape), np.float32)
    found[0, :, 1:-1] = shape[:, :-2] - 2 * shape[:, 1:-1] + shape[:, 2:]
    found[1, 1:-1] = shape[:-2] - 2 * shape[1:-1] + shape[2:]
    found[2, :-1, :-1] = shape[:-1, :-1] - shape[:-1, 1:] - shape[1:, :-1] + shape[1:, 1:]
    return found


def bend(plate, stiffness, held, pull, steps):
    """
    Move a plate (h, w) in place by `steps` of conjugate gradients.

    stiffness: (3, h, w) of the springs that hold its curvatures at 0, which are zero where a
    difference would leave the map. held, pull: (h, w), springs of the samples, and their force
    where the plate begins. All float32 and contiguous. MemoryError where memory does not last.
    """
    name = native.cpu_name()
    if name is None:
        _bend(plate, stiffness, held, pull, steps)
        return
    fields = (field.ctypes.data for field in (stiffness, held, pull))
    if native.load(name).steer_thin_plate(*fields, *plate.shape, steps, plate.ctypes.data):
        raise MemoryError(f'thin plate: no memory for {plate.shape} pixels')


def _bend(plate, stiffness, held, pull, steps):
    """Do what csrc/thin_plate.cpp does, where no compiler was at hand."""
    force = pull - _springs(curvatures(plate) * stiffness)
    scale = 1 / (_diagonal(stiffness) + held + np.float32(1e-9))
    direction = scale * force
    power = np.vdot(force, direction)
    for _ in range(steps):
        bent = held * direction + _springs(curvatures(direction) * stiffness)
        work = np.vdot(direction, bent)
        if not (power > 0 and work > 0):
            break
        plate += power / work * direction
        force -= power / work * bent
        direction *= np.vdot(force, scale * force) / power
        direction += scale * force
        power = np.vdot(force, scale * force)


def _springs(bent):
    """Return the forces (h, w) of bent springs (3, h, w): `curvatures`, transposed."""
    x, y, across = bent
    force = -2 * (x + y) + across
    force[:, :-1] += x[:, 1:]
    force[:, 1:] += x[:, :-1] - across[:, :-1]
    force[:-1] += y[1:]
    force[1:] += y[:-1] - across[:-1]
    force[1:, 1:] += across[:-1, :-1]
    return force


def _diagonal(stiffness):
    """Return the diagonal (h, w) of curvatures, weighed, curvatures transposed."""
    x, y, across = stiffness
    diagonal = 4 * (x + y) + across
    diagonal[:, :-1] += x[:, 1:]
    diagonal[:, 1:] += x[:, :-1] + across[:, :-1]
    diagonal[:-1] += y[1:]
    diagonal[1:] += y[:-1] + across[:-1]
    diagonal[1:, 1:] += across[:-1, :-1]
    return diagonal
