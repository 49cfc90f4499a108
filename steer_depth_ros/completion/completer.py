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
"""DepthCompleter: the one call behind the node, the bag tool, the commands and the evaluation."""
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Dict

import numpy as np
import torch

from steer_depth_ros.completion import maps, pipeline
from steer_depth_ros.completion.presets import find_preset
from steer_depth_ros.errors import (
    ConfigError,
    DeviceMemoryError,
    FrameError,
    WeightsError,
)
from steer_depth_ros.ops import describe_backend
from steer_depth_ros.ops.timing import measured_stages, stage

DEPTH_RANGE = 1e-9, 1e9  # meters; squares of ratios of depths stay within float32
MOST_PIXELS = 32766  # along a side; OpenCV takes no more


@dataclass
class Completion:
    """
    Dense depth of one image.

    depth: float32 (H, W) meters along the optical axis, NaN where nothing supports an estimate.
    confidence: float32 (H, W) in [0, 1], the estimated probability that the relative error is
    under 5 %; 0 where depth is NaN.
    stages: milliseconds by stage, named as the modules of `completion`, with `operator`, `network`
    and `rest`, on a GPU also `on_device`: the orders it is given and the wait for its result;
    together the whole call.
    """

    depth: np.ndarray
    confidence: np.ndarray
    stages: Dict[str, float] = field(default_factory=dict)


class DepthCompleter:
    """
    Completes sparse depth with the help of the image.

    preset: a name of `steer_depth presets`. device: 'auto' (CUDA where there is one), 'cpu',
    'cuda' or 'cuda:1'; 'auto' leaves all but `reference` on the CPU. weights: a safetensors file
    instead of the preset's own. drop_hidden: leave out samples of the background that nearer
    objects occlude. reach: how far in pixels depth goes on beyond the outermost samples; None: a
    tenth of the image height, or three scan lines where that is more. operators: 'native', or
    'twin' for what a GPU runs, on the CPU: to compare, it is slower.

    ConfigError for a preset or device that is unknown or cannot be had, WeightsError for weights
    that cannot be used.
    """

    def __init__(self, preset='default', device='auto', weights=None, drop_hidden=True,
                 reach=None, operators='native'):
        self.preset = find_preset(preset)
        self.device = find_device(device, auto_cpu=self.preset.model != 'reference')
        if operators not in ('native', 'twin'):
            raise ConfigError(f"operators must be 'native' or 'twin', got {operators!r}")
        if operators == 'twin' and self.preset.model == 'reference':
            raise ConfigError(f'preset {self.preset.name!r} is a network, so there are no '
                              "operators='twin' of it; use fast, steering or learned")
        self._operators = maps.torch_on_cpu if operators == 'twin' else nullcontext
        self.drop_hidden, self.reach = drop_hidden, reach
        self.weights = weights
        self._complete = self._load()

    def _load(self):
        preset, refine = self.preset, None
        if preset.model == 'reference':
            from steer_depth_ros.network.reference import ReferenceModel
            network = ReferenceModel.load(self.weights, self.device)
            return partial(pipeline.complete_with, network.estimate, reach=self.reach)
        if preset.weights is not None:
            from steer_depth_ros.completion.refinement import Refinement
            refine = Refinement.load(self.weights or preset.weights_path(), self.device)
        elif self.weights is not None:
            raise WeightsError(f'preset {preset.name!r} takes no weights, but {self.weights} was '
                               'given; leave it out')
        return partial(pipeline.complete, half=preset.half, device=self.device, refine=refine,
                       drop_hidden=self.drop_hidden, reach=self.reach)

    def describe(self):
        """One line for start-up: preset, device, operator backend and weights."""
        return 'preset {preset} on {device}, operator {backend}, {weights}'.format(**self.about())

    def about(self):
        """Return texts for preset, device, backend (of the operator) and weights."""
        device = self.device.type
        if device == 'cuda':
            device = f'{self.device} ({torch.cuda.get_device_name(self.device)})'
        return {'preset': self.preset.name, 'device': device,
                'backend': describe_backend(self.device),
                'weights': str(self.weights or self.preset.weights or 'no weights')}

    def complete(self, image, uv, depth):
        """
        Complete one frame.

        image: uint8 (H, W, 3) RGB. uv: (N, 2) pixels, u = column, v = row, sub-pixel; samples
        outside the image, and depths that are not finite or outside DEPTH_RANGE, are left out.
        depth: (N,) meters. FrameError where shapes do not fit or a side of the image is longer
        than MOST_PIXELS, DeviceMemoryError where memory does not last.
        """
        image, uv, depth = _checked(image, uv, depth)
        size = image.shape[:2]
        if len(depth) == 0:
            return Completion(np.full(size, np.nan, np.float32), np.zeros(size, np.float32))
        with (torch.inference_mode(), self._operators(), self._enough_memory(size, len(depth)),
              measured_stages() as seconds, stage('rest')):
            dense, confidence = self._complete(image, uv, depth)
        return Completion(dense, confidence, {name: 1e3 * s for name, s in seconds.items()})

    @contextmanager
    def _enough_memory(self, size, samples):
        """Turn a lack of memory into a sentence."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DeviceMemoryError(
                f'{self.device} has not enough memory for an image of {size[1]} x {size[0]} '
                f'pixels and {samples} samples ({reason}); make the image smaller (image_scale), '
                'take a smaller preset or another device') from None


def find_device(name, auto_cpu=False):
    """
    Return the torch device of a name, 'auto' among them; ConfigError if it cannot be used.

    auto_cpu: 'auto' is the CPU also where there is a GPU.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() and not auto_cpu else 'cpu')
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"unknown device {name!r}; use 'auto', 'cpu' or 'cuda'") from None
    if device.type not in ('cpu', 'cuda'):
        raise ConfigError(f"device {name!r} cannot be used; use 'auto', 'cpu' or 'cuda'")
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no CUDA device; use "
                          "'auto' or 'cpu', or install a CUDA build of torch")
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {name!r} does not exist; torch sees '
                          f'{torch.cuda.device_count()}, from cuda:0 on')
    return device


def _out_of_memory(error):
    """Return whether this is what torch, numpy or the operator raise when no memory is left."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        "can't allocate memory" in str(error))  # torch's CPU allocator has no class of its own


def _checked(image, uv, depth):
    image = np.require(image, requirements=['C', 'W'])  # torch warns of memory it may not write
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f'image must be uint8 (H, W, 3) RGB, got {image.dtype} '
                         f'{tuple(image.shape)}')
    if max(image.shape[:2]) > MOST_PIXELS:
        raise FrameError(f'image has {image.shape[1]} x {image.shape[0]} pixels, at most '
                         f'{MOST_PIXELS:,} a side can be completed; make it smaller (image_scale) '
                         'or cut it')
    try:
        uv, depth = np.asarray(uv, np.float32), np.asarray(depth, np.float32)
    except (TypeError, ValueError) as error:
        raise FrameError(f'uv and depth must be numbers ({error})') from None
    if uv.size == 0 and depth.size == 0:
        uv, depth = uv.reshape(0, 2), depth.reshape(0)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise FrameError(f'uv must have shape (N, 2), got {tuple(uv.shape)}')
    if depth.shape != uv.shape[:1]:
        raise FrameError(f'depth must have shape ({len(uv)},) as uv has {len(uv)} samples, got '
                         f'{tuple(depth.shape)}')
    height, width = image.shape[:2]
    # A comparison with NaN is false, so this also drops samples that are not finite.
    good = ((uv[:, 0] >= -0.5) & (uv[:, 0] <= width - 0.5) & (uv[:, 1] >= -0.5)
            & (uv[:, 1] <= height - 0.5) & (depth >= DEPTH_RANGE[0]) & (depth <= DEPTH_RANGE[1]))
    return (image, uv, depth) if good.all() else (image, uv[good], depth[good])
