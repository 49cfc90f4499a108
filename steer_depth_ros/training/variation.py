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
Variations of rendered frames: other colors, and other depths behind the same image.

A network must not learn what things look like in the renderer. The color of an image says little,
and one image may belong to many geometries (as in PacGDC, ICCV 2025): an affine change of inverse
depth keeps planes plane and edges where they are, but changes every depth and slope.
"""
import cv2
import numpy as np


def vary(image, depth, sparse, rng):
    """
    Return other colors and other depths for a frame; what of them is drawn from `rng`.

    image: uint8 (H, W, 3). depth: (H, W) meters, inf or NaN where unknown. sparse: (N,) meters.
    """
    image = _colors(image, rng) if rng.random() < 0.7 else image
    if rng.random() < 0.6 and len(sparse):
        depth, sparse = _depths(depth, sparse, rng)
    return image, depth, sparse


def _colors(image, rng):
    """Mix channels, and change brightness, contrast, gamma, sharpness and noise."""
    light = image.astype(np.float32) * np.float32(1 / 255)
    if rng.random() < 0.5:
        mix = np.eye(3) + rng.normal(0, 0.35, (3, 3))
        mix /= mix.sum(1, keepdims=True).clip(0.3)
        light = light @ mix.T.astype(np.float32)
    if rng.random() < 0.15:
        light = light.mean(2, keepdims=True).repeat(3, 2)
    light = np.clip(light, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.35)))
    light = (light - 0.5) * np.float32(rng.uniform(0.5, 1.2)) + np.float32(rng.uniform(0.35, 0.65))
    if rng.random() < 0.3:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.4:
        light = light * np.exp(_noise(light.shape[:2], rng) * rng.uniform(0.05, 0.3))[..., None]
    if rng.random() < 0.4:
        light = light + rng.normal(0, rng.uniform(0.005, 0.05), light.shape).astype(np.float32)
    if rng.random() < 0.5:
        light = _shifted(light, rng)
    colored = (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
        colored = cv2.imdecode(cv2.imencode('.jpg', colored, quality)[1], cv2.IMREAD_COLOR)
    return colored


def _noise(size, rng):
    """Return smooth noise of several scales, (H, W), about -1 to 1: texture without geometry."""
    total = np.zeros(size, np.float32)
    for cell in (4, 10, 30):
        small = rng.normal(0, 0.5, [-(-n // cell) + 1 for n in size]).astype(np.float32)
        total += cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
    return total


def _shifted(light, rng):
    """Move the image by up to 1.5 pixels, here more and there less: no calibration is exact."""
    height, width = light.shape[:2]
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    strength = rng.uniform(0, 1.5)
    move = [cv2.resize(rng.uniform(-1, 1, (3, 4)).astype(np.float32), (width, height)) * strength
            for _ in range(2)]
    return cv2.remap(light, u + move[0], v + move[1], cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


def _depths(depth, sparse, rng):
    """Move inverse depth by a constant: nearly flat, or with the farthest much farther."""
    seen = np.isfinite(depth) & (depth > 0)
    inverse, measured = 1 / depth[seen], 1 / sparse
    least = min(inverse.min(), measured.min())
    if rng.random() < 0.5:
        shift = rng.uniform(0, 1) * np.median(measured)
    else:
        shift = -rng.uniform(0, 0.8) * least
    varied = depth.copy()
    varied[seen] = 1 / (inverse + shift)
    return varied, (1 / (measured + shift)).astype(sparse.dtype)
