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
"""Camera intrinsics: project and unproject with the distortion models of ROS and OpenCV."""
from dataclasses import dataclass, replace
from functools import cached_property
import re
from typing import Optional, Sequence, Tuple

import numpy as np

from steer_depth_ros.errors import CalibrationError

MODELS = ('pinhole', 'plumb_bob', 'rational_polynomial', 'equidistant')
COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (5, 8, 12, 14), 'equidistant': (4,)}
BROWN_COUNTS = (4, 5, 8, 12, 14)  # the counts by which OpenCV tells these models apart
# Names in use, spelled as `_plain` gives them. Brown: the radial and tangential family.
FAMILIES = {
    'brown': ('', 'plumb_bob', 'plumbbob', 'radtan', 'rad_tan', 'radtan4', 'radtan5', 'radtan8',
              'radial_tangential', 'brown', 'brown_conrady', 'opencv', 'full_opencv', 'pinhole',
              'pinhole_radtan', 'rational', 'rational_polynomial', 'rational_8',
              'thin_prism', 'perspective'),
    'equidistant': ('equidistant', 'equidist', 'equi', 'pinhole_equi', 'fisheye',
                    'opencv_fisheye', 'fisheye_opencv', 'kannala_brandt', 'kannala_brandt4',
                    'kannalabrandt', 'kannalabrandt4', 'kb', 'kb4'),
    # No distortion; the last two only if their coefficients are zero.
    'flat': ('none', 'ideal', 'no_distortion', 'undistorted', 'rectified',
             'modified_brown_conrady', 'inverse_brown_conrady')}
FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}
MIN_Z = 1e-6  # meters; points closer to the camera plane than this are not projected
WIDEST_ANGLE = np.pi / 2 - 1e-3  # largest radius of a ray with z = 1, whatever the field of view
TABLE_SIZE = 2048
NEWTON_STEPS = 12
LARGEST_COEFFICIENT = 1e6  # of distortion coefficients; real lenses stay below a thousand
NEGLIGIBLE = 1e-60  # a coefficient that no power of max_radius makes felt
CONVERGED = 1e-9  # in normalized image coordinates, about 1e-6 pixels


@dataclass(frozen=True)
class Camera:
    """
    Intrinsics of one image; pixel (0, 0) has its center at u = 0, v = 0 (the OpenCV convention).

    width, height: image size in pixels.
    fx, fy, cx, cy: focal lengths and principal point in pixels.
    model: 'pinhole' (no distortion), 'plumb_bob', 'rational_polynomial' or 'equidistant'
    (fisheye).
    distortion: coefficients in OpenCV's order, as many as the model takes.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = 'pinhole'
    distortion: Tuple[float, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, 'distortion', tuple(float(d) for d in self.distortion))
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(
                f'the calibration is for an image of {self.width} x {self.height} pixels; '
                'width and height must be those of the image')
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise CalibrationError(
                f'focal lengths fx={self.fx}, fy={self.fy} must be positive and every intrinsic '
                'finite; calibrate the camera')
        if max(map(abs, self.distortion), default=0.0) > LARGEST_COEFFICIENT:
            raise CalibrationError(
                f'distortion coefficients {list(self.distortion)} do not describe a real lens; '
                'calibrate the camera')
        _check_model(self.model, self.distortion)

    @classmethod
    def from_calibration(cls, width: int, height: int, k: Sequence[float], d: Sequence[float],
                         model_name: str, p: Optional[Sequence[float]] = None,
                         rectified: bool = False) -> 'Camera':
        """
        Build a camera from the numbers of a sensor_msgs/CameraInfo.

        k: 9 numbers, row-major; d: coefficients of `model_name`; p: 12 numbers, row-major.
        model_name: the ROS name or a common synonym (radtan, Brown-Conrady, fisheye,
        Kannala-Brandt, none, ...); if empty, the model follows from the number of coefficients.
        rectified: the image is rectified, so use P and ignore D.
        Raise CalibrationError if the camera is uncalibrated, the model unknown, or the numbers
        do not fit the model.
        """
        if rectified:
            matrix = _matrix(p, 12, 'P', 'a rectified image needs P; fill it in the camera_info, '
                             'or use the raw image')
            return cls(width, height, matrix[0], matrix[5], matrix[2], matrix[6])
        matrix = _matrix(k, 9, 'K', 'the camera is uncalibrated; calibrate it and let its driver '
                         'publish the result in camera_info')
        return cls(width, height, matrix[0], matrix[4], matrix[2], matrix[5],
                   *_lens(model_name, tuple(d)))

    def project(self, points_cam: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """
        Project points into the image.

        points_cam: (N, 3) meters in the optical frame (x right, y down, z forward).
        Return uv float64 (N, 2), NaN where invalid, and valid bool (N,). A point is valid when it
        is finite, in front of the camera and within the field of view where the distortion model
        is monotonic; it may still lie outside the image.
        """
        points = np.asarray(points_cam, dtype=np.float64)
        with np.errstate(all='ignore'):
            valid = (points[:, 2] > MIN_Z) & np.isfinite(points).all(axis=1)
            z = np.where(valid, points[:, 2], 1.0)
            uv, inside = self.project_normalized(points[:, 0] / z, points[:, 1] / z)
        valid &= inside & np.isfinite(uv).all(axis=1)  # a product beyond float64
        uv[~valid] = np.nan
        return uv, valid

    def project_normalized(self, x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """
        Project normalized coordinates x / z, y / z (float64 (N,) each); depth is not checked.

        Return uv float64 (N, 2) and bool (N,), false outside the monotonic field of view.
        """
        uv = np.empty((len(x), 2))
        if self.model == 'pinhole':
            xd, yd, inside = x, y, np.ones(len(x), bool)
        else:
            inside = x * x + y * y < self.max_radius ** 2
            xd, yd = self._distort(x, y)
        uv[:, 0] = xd * self.fx + self.cx
        uv[:, 1] = yd * self.fy + self.cy
        return uv, inside

    def unproject(self, uv: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """
        Return the ray of each pixel position.

        uv: (N, 2) pixels. Return rays float64 (N, 3) with z = 1, NaN where invalid, and valid
        bool (N,): false outside the field of view, and for fisheye rays with z <= 0.
        """
        uv = np.asarray(uv, dtype=np.float64)
        rays = np.ones((len(uv), 3))
        with np.errstate(all='ignore'):
            xd = (uv[:, 0] - self.cx) / self.fx
            yd = (uv[:, 1] - self.cy) / self.fy
            if self.model == 'pinhole':
                rays[:, 0], rays[:, 1] = xd, yd
                valid = np.isfinite(xd) & np.isfinite(yd)
            else:
                rays[:, 0], rays[:, 1], valid = self._undistort(xd, yd)
        rays[~valid] = np.nan
        return rays, valid

    def rays(self) -> np.ndarray:
        """Return the ray of every pixel, float32 (H, W, 3), z = 1, NaN where none; cached."""
        return self._rays

    def scaled(self, width: int, height: int) -> 'Camera':
        """Return the camera after resizing the image to width x height pixels."""
        return self._resampled(width, height, width / self.width, height / self.height)

    def binned(self, bx: int, by: int) -> 'Camera':
        """Return the camera after binning bx x by pixels into one."""
        bx, by = max(bx, 1), max(by, 1)  # ROS writes 0 for "not binned"
        return self._resampled(self.width // bx, self.height // by, 1.0 / bx, 1.0 / by)

    def cropped(self, x: int, y: int, width: int, height: int) -> 'Camera':
        """Return the camera of a crop of width x height pixels with top left corner (x, y)."""
        return replace(self, width=width, height=height, cx=self.cx - x, cy=self.cy - y)

    @cached_property
    def max_radius(self) -> float:
        """Return the largest sqrt(x^2 + y^2) / z up to which the distortion is monotonic."""
        widest = np.tan(WIDEST_ANGLE)
        if self.model == 'pinhole':
            return np.inf
        if self.model == 'equidistant':
            odd = (1.0, *(c * (2 * i + 3) for i, c in enumerate(self.distortion)))
            return float(np.tan(min(np.sqrt(_first_root(odd)), WIDEST_ANGLE)))
        above, below = self._radial
        slope = np.polynomial.polynomial.polymul(above, below)
        bend = np.polynomial.polynomial.polysub(
            np.polynomial.polynomial.polymul(np.polynomial.polynomial.polyder(above), below),
            np.polynomial.polynomial.polymul(above, np.polynomial.polynomial.polyder(below)))
        slope = np.polynomial.polynomial.polyadd(slope, np.concatenate([[0.0], 2.0 * bend]))
        return float(min(np.sqrt(min(_first_root(slope), _first_root(below))), widest))

    @cached_property
    def bounds(self) -> Tuple[float, float, float, float]:
        """Return the bounds (x_min, x_max, y_min, y_max) of x / z, y / z over the image."""
        u = np.linspace(-1.0, self.width, 4 * 64 + 1)
        v = np.linspace(-1.0, self.height, 4 * 64 + 1)
        border = np.concatenate([
            np.stack([u, np.full_like(u, -1.0)], 1), np.stack([u, np.full_like(u, v[-1])], 1),
            np.stack([np.full_like(v, -1.0), v], 1), np.stack([np.full_like(v, u[-1]), v], 1)])
        rays, valid = self.unproject(border)
        if not valid.all():
            return -self.max_radius, self.max_radius, -self.max_radius, self.max_radius
        return (float(rays[:, 0].min()), float(rays[:, 0].max()),
                float(rays[:, 1].min()), float(rays[:, 1].max()))

    @cached_property
    def _rays(self):
        rays = np.empty((self.height, self.width, 3), np.float32)
        u = np.arange(self.width, dtype=np.float64)
        for v in range(self.height):  # row by row, so that the iteration stays in the cache
            rays[v] = self.unproject(np.stack([u, np.full_like(u, v)], 1))[0]
        rays.setflags(write=False)
        return rays

    def _resampled(self, width, height, sx, sy):
        return replace(self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy,
                       cx=(self.cx + 0.5) * sx - 0.5, cy=(self.cy + 0.5) * sy - 0.5)

    @cached_property
    def _radial(self):
        """Return numerator and denominator of the radial factor as polynomials in r^2."""
        k = np.zeros(8)
        k[:min(len(self.distortion), 8)] = self.distortion[:8]
        return np.array([1.0, k[0], k[1], k[4]]), np.array([1.0, k[5], k[6], k[7]])

    @cached_property
    def _brown(self):
        """Return tangential p1, p2, thin prism s1 .. s4, and the tilt homography, if any."""
        k = np.zeros(14)
        k[:len(self.distortion)] = self.distortion
        return k[2:4], k[8:12], _tilt(*k[12:]) if np.any(k[12:]) else None

    def _distort(self, x, y):
        if self.model == 'equidistant':
            r = np.sqrt(x * x + y * y)
            factor = self._distorted_angle(np.arctan(r)) / np.maximum(r, 1e-12)
            factor = np.where(r > 1e-9, factor, 1.0)
            return x * factor, y * factor
        xd, yd = self._distort_brown(x, y)
        tilt = self._brown[2]
        return (xd, yd) if tilt is None else _apply(tilt, xd, yd)

    def _distorted_angle(self, theta):
        k1, k2, k3, k4 = self.distortion
        t2 = theta * theta
        return theta * (1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))

    def _distort_brown(self, x, y):
        (p1, p2), (s1, s2, s3, s4), _ = self._brown
        above, below = self._radial
        r2 = x * x + y * y
        radial = _polynomial(above, r2)
        if below[1:].any():
            radial = radial / _polynomial(below, r2)
        xy2 = 2.0 * x * y
        return (x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x) + r2 * (s1 + s2 * r2),
                y * radial + p2 * xy2 + p1 * (r2 + 2 * y * y) + r2 * (s3 + s4 * r2))

    def _brown_jacobian(self, x, y):
        """Return the derivatives of _distort_brown: dxd/dx, dxd/dy, dyd/dx, dyd/dy."""
        (p1, p2), (s1, s2, s3, s4), _ = self._brown
        (_, a1, a2, a3), (_, b1, b2, b3) = self._radial
        r2 = x * x + y * y
        below = 1.0 + r2 * (b1 + r2 * (b2 + r2 * b3))
        radial = (1.0 + r2 * (a1 + r2 * (a2 + r2 * a3))) / below
        slope = 2.0 * (a1 + r2 * (2 * a2 + r2 * 3 * a3)
                       - radial * (b1 + r2 * (2 * b2 + r2 * 3 * b3))) / below
        sx, sy = 2.0 * (s1 + 2.0 * s2 * r2), 2.0 * (s3 + 2.0 * s4 * r2)
        cross = slope * x * y + 2.0 * (p1 * x + p2 * y)
        return (radial + slope * x * x + 2 * p1 * y + 6 * p2 * x + sx * x, cross + sx * y,
                cross + sy * x, radial + slope * y * y + 2 * p2 * x + 6 * p1 * y + sy * y)

    @cached_property
    def _inverse_table(self):
        """Return a table of distorted radii and their radii (for a fisheye: angles)."""
        angle = np.linspace(0.0, np.arctan(self.max_radius), TABLE_SIZE)
        if self.model == 'equidistant':
            return self._distorted_angle(angle), angle
        r = np.tan(angle) * (1.0 - 1e-9)  # the last radius may be a pole
        above, below = self._radial
        return r * _polynomial(above, r * r) / _polynomial(below, r * r), r

    def _undistort(self, xd, yd):
        if self.model == 'equidistant':
            return self._undistort_fisheye(xd, yd)
        tilt = self._brown[2]
        if tilt is not None:
            xd, yd = _apply(np.linalg.inv(tilt), xd, yd)
        return self._undistort_brown(xd, yd)

    def _undistort_fisheye(self, xd, yd):
        rd = np.sqrt(xd * xd + yd * yd)
        distorted, angles = self._inverse_table
        valid = rd < distorted[-1]
        theta = np.interp(rd, distorted, angles)
        k1, k2, k3, k4 = self.distortion
        for _ in range(4):
            t2 = theta * theta
            slope = 1.0 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
            step = (self._distorted_angle(theta) - rd) / np.maximum(slope, 1e-6)
            theta = np.clip(theta - step, 0.0, angles[-1])
        factor = np.where(rd > 1e-9, np.tan(theta) / np.maximum(rd, 1e-12), 1.0)
        return xd * factor, yd * factor, valid

    def _undistort_brown(self, xd, yd):
        """Undistort by Newton's method, starting from the inverse of the radial part."""
        rd = np.sqrt(xd * xd + yd * yd)
        distorted, radii = self._inverse_table
        factor = np.where(rd > 1e-9, np.interp(rd, distorted, radii) / np.maximum(rd, 1e-12), 1.0)
        x, y = xd * factor, yd * factor
        for _ in range(NEWTON_STEPS):
            ex, ey = self._distort_brown(x, y)
            ex, ey = ex - xd, ey - yd
            if not (np.abs(ex) + np.abs(ey) > CONVERGED).any():
                break
            a, b, c, d = self._brown_jacobian(x, y)
            det = a * d - b * c
            det = np.where(np.abs(det) > 1e-9, det, 1e-9)
            x = x - np.clip((d * ex - b * ey) / det, -0.5, 0.5)
            y = y - np.clip((a * ey - c * ex) / det, -0.5, 0.5)
        ex, ey = self._distort_brown(x, y)
        error = np.abs(ex - xd) + np.abs(ey - yd)
        return x, y, (error < 1e3 * CONVERGED) & (x * x + y * y < self.max_radius ** 2)


def _lens(name, d):
    """Return (model, coefficients) for any of a model's names."""
    family = FAMILY_OF.get(re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_'))
    if family is None:
        raise CalibrationError(_unknown(name))
    # Equidistant with zero coefficients is still a fisheye; only an empty list means pinhole.
    if not d or (family != 'equidistant' and not np.any(d)):
        return 'pinhole', ()
    if family == 'flat':
        raise CalibrationError(
            f'distortion model "{name}" came with the coefficients {list(d)}, which are not '
            'applied; name their model in the camera_info (plumb_bob, rational_polynomial or '
            'equidistant), or leave them 0 and rectify the image')
    used = max((i + 1 for i, value in enumerate(d) if value != 0), default=0)
    if family == 'equidistant':
        return family, d[:4] if used <= 4 <= len(d) else d
    if len(d) in COEFFICIENTS.get(name, ()):
        return name, d
    count = next((c for c in BROWN_COUNTS if used <= c <= len(d)), len(d))
    if count not in BROWN_COUNTS:
        return name if name in COEFFICIENTS else 'plumb_bob', d
    return 'plumb_bob' if count <= 5 else 'rational_polynomial', d[:count]


def _check_model(model, distortion):
    if model not in MODELS:
        raise CalibrationError(_unknown(model))
    allowed = COEFFICIENTS.get(model, (0,))
    if len(distortion) not in allowed:
        raise CalibrationError(
            f'distortion model "{model}" came with {len(distortion)} coefficients but takes '
            f'{" or ".join(map(str, allowed))}; correct D or the model in the camera_info')


def _unknown(model):
    return (f'unknown distortion model "{model}"; supported are plumb_bob (radtan, '
            'Brown-Conrady), rational_polynomial, equidistant (fisheye, Kannala-Brandt) and none: '
            'recalibrate with one of these or rectify the image first')


def _matrix(numbers, count, name, remedy):
    numbers = [] if numbers is None else [float(n) for n in numbers]
    if len(numbers) != count or numbers[0] == 0.0:
        what = f'{name}[0] is 0' if len(numbers) == count else f'{name} has {len(numbers)} numbers'
        raise CalibrationError(f'the calibration cannot be used, {what}: {remedy}')
    return numbers


def _first_root(coefficients):
    """Return the smallest positive real root of a polynomial, lowest power first, or inf."""
    coefficients = np.array(coefficients, np.float64)
    coefficients[np.abs(coefficients) < NEGLIGIBLE] = 0.0  # as the leading one it would overflow
    roots = np.roots(np.trim_zeros(coefficients, 'b')[::-1])
    real = roots.real[(np.abs(roots.imag) < 1e-9 * (1.0 + np.abs(roots))) & (roots.real > 0)]
    return float(real.min()) if len(real) else np.inf


def _polynomial(coefficients, t):
    total = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = total * t + c
    return total


def _tilt(tau_x, tau_y):
    """Return the homography of a sensor tilted against the lens, as OpenCV defines it."""
    cx, sx, cy, sy = np.cos(tau_x), np.sin(tau_x), np.cos(tau_y), np.sin(tau_y)
    rotation = (np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
                @ np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]]))
    along = rotation[2, 2]
    return np.array([[along, 0, -rotation[0, 2]], [0, along, -rotation[1, 2]],
                     [0, 0, 1]]) @ rotation


def _apply(homography, x, y):
    w = homography[2, 0] * x + homography[2, 1] * y + homography[2, 2]
    return ((homography[0, 0] * x + homography[0, 1] * y + homography[0, 2]) / w,
            (homography[1, 0] * x + homography[1, 1] * y + homography[1, 2]) / w)
