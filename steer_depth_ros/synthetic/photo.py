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
"""Simulated camera: defocus, motion blur, exposure, noise, color and compression."""
import cv2
import numpy as np


def develop(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Return the image that a camera takes of linear light.

    radiance: float32 (H, W, 3), RGB, not negative. Return uint8 (H, W, 3) RGB.
    """
    light = _blur(radiance, rng)
    light = light * (_exposure(light, rng) * _white_balance(rng)) * _vignette(light.shape, rng)
    light = _noise(light, rng)
    image = _tone(light, rng)
    if rng.random() < 0.08:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 98))]
        image = cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image)


def _blur(light, rng):
    """Blur slightly, as every lens does, and sometimes strongly."""
    width = light.shape[1] / 320
    sigma = rng.uniform(0.35, 0.6) if rng.random() < 0.85 else rng.uniform(0.6, 1.5) * width
    light = cv2.GaussianBlur(light, (0, 0), sigma)
    if rng.random() < 0.07:
        length = max(2, int(rng.uniform(2, 7) * width))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        middle = (length - 1) / 2
        reach = middle * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(round(c)) for c in middle + s * reach) for s in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0)
        light = cv2.filter2D(light, -1, kernel / kernel.sum())
    return light


def _exposure(light, rng):
    """Return an exposure for the median brightness, with a random error."""
    gray = float(np.median(light.mean(2))) + 1e-3
    automatic = 0.25 / gray
    return float(np.clip(automatic, 0.3, 6.0) ** rng.uniform(0.4, 1.0) * 2 ** rng.normal(0, 0.6))


def _white_balance(rng):
    return np.exp(rng.normal(0, 0.09, 3)).astype(np.float32)


def _vignette(shape, rng):
    if rng.random() < 0.5:
        return np.float32(1)
    h, w = shape[:2]
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, w, dtype=np.float32)[None]
    return (1 - np.float32(rng.uniform(0, 0.35)) * (x * x + y * y) / 2)[..., None]


def _noise(light, rng):
    """Add shot noise (grows with the light), read noise and blotches of color."""
    level = np.exp(rng.uniform(np.log(0.0003), np.log(0.012)))
    sigma = np.sqrt(level ** 2 + np.maximum(light, 0) * level * 0.15)
    light = light + sigma * rng.standard_normal(light.shape, dtype=np.float32)
    if rng.random() < 0.2:
        h, w = light.shape[:2]
        blotches = rng.standard_normal((h // 3 + 1, w // 3 + 1, 3), dtype=np.float32)
        light = light + np.float32(2 * level) * cv2.resize(blotches, (w, h))
    return light


def _tone(light, rng):
    gamma = np.float32(1 / rng.uniform(1.7, 2.6))
    image = np.clip(light, 0, 4)
    if rng.random() < 0.5:  # a soft shoulder instead of clipping
        image = image * (1 + image / 6) / (1 + image * 0.8)
    image = image ** gamma
    saturation = np.float32(rng.uniform(0.6, 1.3))
    return image.mean(2, keepdims=True) * (1 - saturation) + image * saturation
