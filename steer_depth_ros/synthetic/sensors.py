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
Simulated depth sensors: functions from a rendered scene to samples.

A sensor takes (scene, rng) and returns Samples; a modifier takes (samples, scene, rng) and returns
Samples; so a pattern is a sensor followed by modifiers. Scenes must have some surface in view.
"""
from functools import partial
from typing import Callable, Optional, Tuple

import cv2
import numpy as np
import torch

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.geometry.projection import SparseDepth as Samples
from steer_depth_ros.synthetic.builder import BLACK, GLASS, NORMAL, rotation
from steer_depth_ros.synthetic.modifiers import (
    calibration_error,
    drop_regions,
    noise,
    outliers,
    to_pixels,
)
from steer_depth_ros.synthetic.renderer import Scene

MIN_SAMPLES = 20
PASSED_PANES, LOST_IN_GLASS = 0.8, 0.3  # share of the panes that let beams through; of the beams


def _depth(scene: Scene) -> np.ndarray:
    return scene.depth.cpu().numpy()


def _at_pixels(scene: Scene, v, u, depth=None) -> Samples:
    depth = _depth(scene) if depth is None else depth
    return Samples(np.stack([u, v], 1).astype(np.float32), depth[v, u].astype(np.float32))


def random_samples(scene: Scene, rng, n: int = 500) -> Samples:
    """Draw `n` random pixels, or all pixels with a surface if there are fewer."""
    v, u = np.nonzero(np.isfinite(_depth(scene)))
    chosen = rng.choice(len(u), min(n, len(u)), replace=False)
    return _at_pixels(scene, v[chosen], u[chosen])


def image_features(scene: Scene, rng, n: int = 300) -> Samples:
    """Take up to `n` strongest corners at subpixel positions, as in visual odometry."""
    gray = cv2.cvtColor(scene.image.cpu().numpy(), cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(gray, n, rng.uniform(0.002, 0.02), rng.uniform(2, 8))
    if corners is None:
        return random_samples(scene, rng, n)
    uv = corners.reshape(-1, 2) + rng.uniform(-0.5, 0.5, (len(corners), 2))
    return _measure(scene, uv)


def _measure(scene: Scene, uv) -> Samples:
    """Measure at subpixel positions (N, 2), without those where there is no surface."""
    camera = scene.camera
    rays = np.stack([(uv[:, 0] - camera.cx) / camera.fx, (uv[:, 1] - camera.cy) / camera.fy,
                     np.ones(len(uv))], 1).astype(np.float32)
    depth = scene.cast(torch.zeros(3), torch.from_numpy(rays)).cpu().numpy()
    keep = depth < scene.far
    return Samples(uv[keep].astype(np.float32), depth[keep])


def image_rows(scene: Scene, rng, rows: int = 24, step: Optional[int] = None) -> Samples:
    """Take `rows` equally spaced rows of the image, every `step`-th pixel (1 to 8 by default)."""
    depth = _depth(scene)
    h = len(depth)
    step = int(rng.choice([1, 2, 2, 3, 4, 8])) if step is None else step
    spacing = max(1, h // rows)
    v, u = np.mgrid[int(rng.integers(spacing)):h:spacing, 0:depth.shape[1]:step].reshape(2, -1)
    keep = np.isfinite(depth[v, u])
    return _at_pixels(scene, v[keep], u[keep])


def baseline(scene: Scene, rng) -> np.ndarray:
    """Draw the position of a LiDAR, (3,) meters from the camera, mostly above or below."""
    depth = _depth(scene)
    median = float(np.median(depth[np.isfinite(depth)]))
    reach = rng.uniform(0.1, 1.0) if scene.outdoor else rng.uniform(0.01, 0.06) * median
    direction = rng.standard_normal(3) * (0.7, 1.0, 0.6)
    if scene.outdoor:
        direction[1] = -abs(direction[1])  # on the roof
    return reach * direction / np.linalg.norm(direction)


def _scan(scene: Scene, rng, directions, offset, tilt, through_glass=False) -> Samples:
    """
    Return the samples of a scanner with rays (M, 3), in its own frame with camera axes.

    through_glass: beams pass through most clear solids and measure the surface behind.
    """
    directions = (directions @ tilt.T).astype(np.float32)
    rays = torch.from_numpy(np.asarray(offset, np.float32)), torch.from_numpy(directions)
    t, echo = (each.cpu().numpy() for each in scene.trace(*rays))
    chance = np.where(echo == BLACK, 0.9, np.where(echo == GLASS, 0.7, 0.0))
    if through_glass:
        panes = [solid for solid in sorted(scene.clear) if rng.random() < PASSED_PANES]
        beyond, echo = (each.cpu().numpy() for each in scene.trace(*rays, skip=panes))
        passed = np.where(echo == BLACK, 0.9, np.where(echo == GLASS, 0.7, LOST_IN_GLASS))
        t, chance = beyond, np.where(beyond > t, passed, chance)
    lost = rng.random(len(t)) < chance
    points = directions * np.where(np.isfinite(t), t, 0)[:, None] + offset
    z = np.maximum(points[:, 2], 1e-3)
    camera = scene.camera
    u = points[:, 0] / z * camera.fx + camera.cx
    v = points[:, 1] / z * camera.fy + camera.cy
    keep = (points[:, 2] > 0.05) & (t < scene.far) & ~lost
    keep &= (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
    return Samples(np.stack([u, v], 1)[keep].astype(np.float32),
                   points[keep, 2].astype(np.float32))


def _view_angles(scene: Scene) -> Tuple[float, float, float]:
    """Return half the horizontal field of view and the elevations of top and bottom row."""
    camera = scene.camera
    half = np.arctan(max(camera.cx, camera.width - camera.cx) / camera.fx)
    return half, np.arctan(camera.cy / camera.fy), -np.arctan(
        (camera.height - camera.cy) / camera.fy)


def lidar_lines(scene: Scene, rng, beams: int = 64, fov: Optional[Tuple[float, float]] = None,
                step: Optional[float] = None, offset: Optional[np.ndarray] = None,
                paired: bool = False, through_glass: bool = False) -> Samples:
    """
    Scan with a spinning LiDAR beside the camera, with bleed-through of occluded points.

    beams: number of beams within `fov`, the elevations (low, high) in radians in the frame of the
    sensor; by default part of the view of the camera, mostly without its top. step: azimuth
    between returns in radians, by default finer than the beams. offset: (3,) meters from the
    camera. paired: drop every other pair of beams. through_glass: see `_scan`.
    """
    half, top, bottom = _view_angles(scene)
    if fov is None:
        share = rng.choice([rng.uniform(0.55, 0.75), rng.uniform(0.8, 1.1)])
        fov = (bottom - rng.uniform(0, 0.1), bottom + (top - bottom) * share)
    offset = baseline(scene, rng) if offset is None else np.asarray(offset, float)
    tilt = rotation(*rng.normal(0, 0.03, 3))
    spacing = (fov[1] - fov[0]) / max(1, beams)
    if step is None:
        step = max(spacing * rng.uniform(0.1, 0.7), 2 * half / scene.camera.width)
    elevation = fov[0] + (np.arange(beams) + rng.uniform(0, 1)) * spacing
    if rng.random() < 0.3:  # beams are not equally spaced in every sensor
        elevation = elevation + rng.normal(0, 0.15 * spacing, beams)
    if paired:
        elevation = elevation[np.arange(beams) % 4 < 2]
    wide = 1.15 * half + 0.05
    azimuth = np.arange(-wide, wide, step)
    azimuth = azimuth[None] + rng.uniform(0, step, (len(elevation), 1))
    e = np.broadcast_to(elevation[:, None], azimuth.shape)
    x, z = np.sin(azimuth) * np.cos(e), np.cos(azimuth) * np.cos(e)
    return _scan(scene, rng, np.stack([x, -np.sin(e), z], -1).reshape(-1, 3), offset, tilt,
                 through_glass)


def on_roof(rng) -> np.ndarray:
    """Draw the position of a LiDAR on a roof, (3,) meters from the camera."""
    return rng.uniform((-0.5, -0.8, -0.6), (0.5, -0.1, 0.3))


def roof_lidar(scene: Scene, rng, degrees: float = 0.4,
               offset: Optional[np.ndarray] = None) -> Samples:
    """
    Scan from the roof of a car, above and beside the camera, through windows.

    degrees: angle between two beams.
    """
    low, high = np.deg2rad((-25.0, rng.uniform(2, 15)))
    offset = on_roof(rng) if offset is None else offset
    return lidar_lines(scene, rng, round((high - low) / np.deg2rad(degrees)), (low, high),
                       np.deg2rad(rng.uniform(0.1, 0.3)), offset, through_glass=True)


def rosette(scene: Scene, rng, n: int = 6000,
            offset: Optional[np.ndarray] = None) -> Samples:
    """Scan `n` rays in the rosette pattern of a prism scanner, within a cone."""
    half, _, _ = _view_angles(scene)
    cone = half * rng.uniform(0.6, 1.2)
    time = np.arange(n) / n * rng.uniform(40, 400)
    ratio = rng.uniform(0.55, 0.95)
    spiral = np.exp(1j * time * 2 * np.pi) + np.exp(-1j * time * 2 * np.pi * ratio)
    x, y = spiral.real / 2 * np.tan(cone), spiral.imag / 2 * np.tan(cone)
    directions = np.stack([x, y, np.ones(n)], 1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    offset = baseline(scene, rng) if offset is None else offset
    return _scan(scene, rng, directions, offset,
                 rotation(*rng.normal(0, 0.03, 3)))


def depth_camera(scene: Scene, rng, stride: Optional[int] = None) -> Samples:
    """
    Measure like a stereo depth camera, with its holes.

    Holes are black, glossy and glass surfaces, areas that the second imager cannot see, a border,
    depths out of range, and specks; the disparity is quantized. stride: sampling step in pixels
    (1, 2 or 4 by default, sometimes only along the rows).
    """
    depth, echo = _depth(scene), scene.echo.cpu().numpy()
    if scene.behind is not None and rng.random() < 0.6:  # it measures what lies behind glass
        clear = _blotches(rng, depth.shape, 0.05) > rng.normal()
        behind = scene.behind.cpu().numpy()
        echo = np.where(clear & (behind != depth), NORMAL, echo)
        depth = np.where(clear, behind, depth)
    h, w = depth.shape
    median = float(np.median(depth[np.isfinite(depth)]))
    shift = rng.uniform(0.02, 0.08) * median * scene.camera.fx  # baseline times focal length
    disparity = shift / np.where(np.isfinite(depth), depth, np.inf)
    valid = np.isfinite(depth) & ~_stereo_shadow(disparity, rng.choice([-1, 1]))
    valid &= depth > np.percentile(depth[np.isfinite(depth)], rng.choice([0, 0, 3]))
    valid &= depth < median * rng.uniform(1.5, 6)
    blotches = _blotches(rng, (h, w), rng.uniform(0.02, 0.1))
    valid &= (echo == NORMAL) | (blotches > np.quantile(blotches, rng.uniform(0.5, 1)))
    dark = scene.image.cpu().numpy().max(2) < rng.uniform(0, 35)
    valid &= ~(dark & (blotches > 0))
    valid &= blotches < np.quantile(blotches, rng.choice([1.0, rng.uniform(0.8, 1.0)]))
    valid &= rng.random((h, w)) > rng.uniform(0, 0.05)
    if rng.random() < 0.5:
        valid = cv2.erode(valid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    border = int(rng.choice([0, rng.integers(0, 1 + w // 16)]))
    valid[:, :border] = False
    # Steps as of a camera 640 pixels wide, whatever the size of the scene's image.
    grain = rng.choice([0.0, 1 / 32, 1 / 8]) * w / 640
    if grain:
        measured = np.round((disparity + rng.normal(0, grain, (h, w))) / grain) * grain
        depth = shift / np.maximum(measured, 1e-3)
    rows = stride
    if stride is None:
        rows, stride = [(1, 1), (2, 2), (2, 2), (4, 4), (1, 4)][rng.integers(5)]
    v, u = np.mgrid[int(rng.integers(rows)):h:rows, int(rng.integers(stride)):w:stride]
    v, u = v.ravel(), u.ravel()
    keep = valid[v, u]
    return _at_pixels(scene, v[keep], u[keep], depth)


def _stereo_shadow(disparity, side):
    """Return which pixels are occluded in the second imager, beside this one."""
    h, w = disparity.shape
    if side < 0:
        return _stereo_shadow(disparity[:, ::-1], 1)[:, ::-1]
    at = np.arange(w) - disparity
    # From right to left: a pixel is covered where one to its right falls left of it.
    after = np.minimum.accumulate(at[:, ::-1], 1)[:, ::-1]
    covered = np.zeros((h, w), bool)
    covered[:, :-1] = after[:, 1:] < at[:, :-1] - 0.5
    return covered


def _blotches(rng, size, scale):
    """Draw smooth noise of unit variance; scale: size of its blobs over that of the image."""
    h, w = size
    small = rng.standard_normal((max(3, int(1 / scale)), max(3, int(w / h / scale))))
    return cv2.resize(small.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)


def semi_dense(scene: Scene, rng, density: Optional[float] = None) -> Samples:
    """
    Take samples as of accumulated scans: dense lines with gaps, and nothing above them.

    density: fraction of samples within the lines, random from 0.08 to 1 by default.
    """
    depth = _depth(scene)
    h, w = depth.shape
    lines = h / rng.uniform(3, 8)
    v, u = np.mgrid[:h, :w]
    bend = rng.normal(0, 0.15) * lines * ((u / w - 0.5) ** 2)
    phase = (v / h * lines + bend + 0.4 * _blotches(rng, (h, w), 0.15)) % 1
    keep = (phase < rng.uniform(0.3, 0.8)) & np.isfinite(depth)
    keep &= v > h * rng.choice([0.0, rng.uniform(0.1, 0.4)])
    edge = cv2.morphologyEx(np.where(np.isfinite(depth), depth, 1e3), cv2.MORPH_GRADIENT,
                            np.ones((3, 3)))
    keep &= (edge < 0.1 * depth) | (rng.random((h, w)) < 0.3)
    echo = scene.echo.cpu().numpy()
    keep &= (echo == NORMAL) | (rng.random((h, w)) < 0.3)
    density = np.exp(rng.uniform(np.log(0.08), np.log(1.0))) if density is None else density
    keep &= rng.random((h, w)) < density
    v, u = np.nonzero(keep)
    return _at_pixels(scene, v, u)


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_sensor(scene, rng):
    """Draw a sensor with random settings; return samples, its name, and where a LiDAR is."""
    kind = rng.choice(['random', 'rows', 'lidar', 'depth', 'semi', 'features', 'rosette'],
                      p=[0.25, 0.12, 0.30, 0.15, 0.10, 0.04, 0.04])
    if kind == 'random':
        n = int(_log_uniform(rng, 50, 20000))
        return random_samples(scene, rng, n), f'random:{n}', None
    if kind == 'rows':
        rows = int(_log_uniform(rng, 8, 64))
        return image_rows(scene, rng, rows), f'rows:{rows}', None
    if kind == 'features':
        n = int(_log_uniform(rng, 80, 1000))
        return image_features(scene, rng, n), f'features:{n}', None
    if kind == 'lidar' and scene.outdoor and rng.random() < 0.3:
        degrees, offset = float(rng.choice([0.2, 0.4, 0.4, 0.8, 1.33])), on_roof(rng)
        return roof_lidar(scene, rng, degrees, offset), f'roof:{degrees}', offset
    if kind == 'lidar':
        beams = int(rng.choice([4, 8, 16, 24, 32, 40, 64, 64, 128]))
        paired, offset = beams >= 16 and rng.random() < 0.2, baseline(scene, rng)
        samples = lidar_lines(scene, rng, beams, offset=offset, paired=paired)
        return samples, f'lidar:{beams}', offset
    if kind == 'rosette':
        n, offset = int(_log_uniform(rng, 1000, 12000)), baseline(scene, rng)
        return rosette(scene, rng, n, offset), f'rosette:{n}', offset
    return (depth_camera if kind == 'depth' else semi_dense)(scene, rng), str(kind), None


def random_pattern(scene: Scene, rng) -> Tuple[Samples, str, Optional[np.ndarray]]:
    """
    Draw a sensor and its measurement errors.

    Return the samples, the name of the pattern and the position of a LiDAR, (3,) meters from the
    camera, or None of another sensor.
    """
    samples, name, offset = _draw_sensor(scene, rng)
    dense, scans = name in ('depth', 'semi'), offset is not None
    if rng.random() < 0.2:
        samples, name = drop_regions(samples, scene, rng, int(rng.integers(1, 6))), name + '+holes'
    if scans and rng.random() < 0.4:
        samples = calibration_error(samples, scene, rng, rng.uniform(0, 0.25))
        name += '+calibration'
    if scans and rng.random() < 0.5:
        samples, name = to_pixels(samples, scene, rng), name + '+pixels'
    if rng.random() < (0.2 if dense else 0.4):
        samples, name = noise(samples, scene, rng, _log_uniform(rng, 0.001, 0.03)), name + '+noise'
    if rng.random() < 0.3:
        fraction = _log_uniform(rng, 0.001, 0.05)
        samples, name = outliers(samples, scene, rng, fraction), name + '+outliers'
    if len(samples) < MIN_SAMPLES:  # too few to learn from, such as of a scanner that misses all
        return random_samples(scene, rng, 200), 'random:200', None
    return samples, name, offset


def seen_from(scene: Scene, position: np.ndarray) -> np.ndarray:
    """Return which of the camera's pixels show what is seen from there, too, bool (H, W)."""
    depth, camera = _depth(scene), scene.camera
    v, u = np.mgrid[0:depth.shape[0]:2, 0:depth.shape[1]:2]  # one of 2 x 2 pixels says it for all
    z = depth[::2, ::2]
    known = np.isfinite(z)
    points = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z],
                      -1)[known]
    origin = np.asarray(position, np.float32)
    reached = scene.cast(torch.from_numpy(origin),
                         torch.from_numpy((points - origin).astype(np.float32)))
    seen = np.zeros(z.shape, bool)
    seen[known] = reached.cpu().numpy() > 0.985  # of the way
    return seen.repeat(2, 0).repeat(2, 1)[:depth.shape[0], :depth.shape[1]]


# name: function, argument for the number, its type, minimum, maximum
SENSORS = {'random': (random_samples, 'n', int, 1, 10 ** 7),
           'features': (image_features, 'n', int, 1, 10 ** 7),
           'rows': (image_rows, 'rows', int, 1, 10 ** 4),
           'lidar': (lidar_lines, 'beams', int, 1, 1024),
           'roof': (roof_lidar, 'degrees', float, 0.05, 10),
           'rosette': (rosette, 'n', int, 1, 10 ** 7),
           'depth': (depth_camera, 'stride', int, 1, 64),
           'semi': (semi_dense, 'density', float, 0.001, 1)}
MODIFIERS = {'holes': (drop_regions, 'count', int, 0, 1000),
             'outliers': (outliers, 'fraction', float, 0, 1),
             'noise': (noise, 'relative', float, 0, 1),
             'calibration': (calibration_error, 'degrees', float, 0, 45),
             'pixels': (to_pixels, None, None, 0, 0)}


def pattern_by_name(name: str) -> Callable[[Scene, np.random.Generator], Samples]:
    """
    Return the pattern of a name: a sensor and modifiers, each with an optional number.

    Examples: 'random:500', 'lidar:64', 'rows:24+outliers:0.05', 'depth:2+noise:0.01', 'mixed' (a
    random one). The result is a function of (scene, rng) that returns Samples. Raise ConfigError
    for a name that does not exist or a number that is not valid.
    """
    if name == 'mixed':
        return lambda scene, rng: random_pattern(scene, rng)[0]
    first, *rest = name.split('+')
    sensor = _named(first, SENSORS, name)
    changes = [_named(part, MODIFIERS, name) for part in rest]

    def pattern(scene, rng):
        samples = sensor(scene, rng)
        for change in changes:
            samples = change(samples, scene, rng)
        return samples

    return pattern


def _named(part, table, name):
    key, _, value = part.partition(':')
    if key not in table:
        raise ConfigError(f"sampling pattern '{name}': '{key}' is not one of "
                          f"{', '.join(table)}; a pattern is a sensor followed by modifiers, "
                          "as in 'lidar:64+outliers:0.01'")
    function, argument, kind, least, most = table[key]
    if not value:
        return function
    if argument is None:
        raise ConfigError(f"sampling pattern '{name}': '{key}' takes no number")
    try:
        number = kind(value)
    except ValueError:
        number = float('nan')
    if not least <= number <= most:
        raise ConfigError(f"sampling pattern '{name}': '{value}' is not a valid number for {key} "
                          f'({argument}, {kind.__name__}, {least:g} to {most:g})')
    return partial(function, **{argument: number})
