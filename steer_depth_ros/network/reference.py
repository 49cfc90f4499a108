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
The network of the 2021 paper (preset `reference`): KernelNet, kernel regression, residual U-Net.

Modules are named and nested as in the checkpoints of the 2021 release, so that converted
checkpoints load key by key. Constants without a comment are settings of that release.
"""
import math
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from steer_depth_ros.errors import FrameError, WeightsError
from steer_depth_ros.geometry import projection
from steer_depth_ros.network import checkpoints
from steer_depth_ros.network.sparse_windows import fit_sparse_windows
from steer_depth_ros.ops import kernel_regression, regression
from steer_depth_ros.ops.pixels import pixel_index
from steer_depth_ros.ops.timing import stage

ARCHITECTURE = 'reference'
BANDWIDTH = 5.0  # h of the paper, pixels
WINDOW = (26, 34)  # rows and columns on either side
DEPTH_RANGE = (0.7, 10.0)  # meters; NYUv2
RESIDUAL_LIMIT = 4.0  # meters
BINS = 401
SIGN_LIMIT = 0.04  # meters
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
DEPTH_MEAN = 3.01047486221
DEPTH_STD = 1.07943839977
MIN_SIDE = 16  # pixels; one is left after halving four times
DEPTH_LIMITS = (0.0, 80.0)  # meters; input range of the refinement


class ReferenceOutput(NamedTuple):
    """
    The results of all stages of one forward pass.

    steering: (B, 3, H, W), sigma, theta (radians) and gamma of every pixel.
    interpolated, mass: (B, H, W), D~ in meters and the sum of its kernel weights, 0 where no
    sample is in range.
    logits: (B, 401, H, W), scores of the residual bins. sign: (B, H, W) meters.
    residual: (B, H, W) meters, the expectation over the bins plus `sign`.
    depth: (B, H, W) meters, with the samples written back, clamped.
    """

    steering: torch.Tensor
    interpolated: torch.Tensor
    mass: torch.Tensor
    logits: torch.Tensor
    sign: torch.Tensor
    residual: torch.Tensor
    depth: torch.Tensor


class DoubleConv(nn.Module):
    """Two blocks of 3 x 3 convolution with bias, batch norm and ReLU."""

    def __init__(self, inputs, outputs):
        super().__init__()
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs),
                       nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.conv(x)


class Entry(nn.Module):
    """The input block."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = DoubleConv(inputs, outputs)

    def forward(self, x):
        return self.conv(x)


class Down(nn.Module):
    """Halve the resolution by max pooling, then convolve."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.mpconv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs))

    def forward(self, x):
        return self.mpconv(x)


class Up(nn.Module):
    """Double the resolution with aligned corners, concatenate the skip, then convolve."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = DoubleConv(inputs, outputs)

    def forward(self, x, skip):
        x = functional.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(torch.cat([skip, x], dim=1))


class Head(nn.Module):
    """A 1 x 1 convolution."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.conv(x)


class KernelNet(nn.Module):
    """Predict the kernel's elongation, rotation and scaling at every pixel of the image."""

    def __init__(self):
        super().__init__()
        self.inc = Entry(3, 64)
        self.down1 = Down(64, 512)
        self.up3 = Up(512 + 64, 64)
        self.outc = Head(64, 3)

    def forward(self, image):
        """Map an image (B, 3, H, W) in [0, 1] to (B, 3, H, W): sigma, theta (radians), gamma."""
        skip = self.inc(image)
        raw = torch.sigmoid(self.outc(self.up3(self.down1(skip), skip)))
        scale = raw.new_tensor([6.0, 2 * math.pi, 6.0])[:, None, None]
        shift = raw.new_tensor([0.0, -math.pi, 0.0])[:, None, None]
        return raw * scale + shift


class ResidualUNet(nn.Module):
    """Predict the residual of the interpolation: a distribution over bins, and a fine offset."""

    def __init__(self):
        super().__init__()
        self.inc1 = Entry(4, 64)
        self.down1, self.down2 = Down(64, 128), Down(128, 256)
        self.down3, self.down4 = Down(256, 512), Down(512, 512)
        self.up1, self.up2 = Up(1024, 256), Up(512, 128)
        self.up3, self.up4 = Up(256, 64), Up(128, 64)
        self.outc = Head(64, BINS)
        self.outsign = Head(64, 1)

    def forward(self, image, interpolated):
        """
        Map an image (B, 3, H, W) in [0, 1] and D~ (B, H, W) meters to logits and sign.

        Return logits (B, 401, H, W) over `residual_bins` and sign (B, H, W) meters.
        """
        x1 = self.inc1(torch.cat([standardize_image(image), standardize_depth(interpolated)], 1))
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up4(self.up3(self.up2(x, x3), x2), x1)
        sign = 2 * SIGN_LIMIT * torch.sigmoid(self.outsign(x)) - SIGN_LIMIT
        return self.outc(x), sign[:, 0]


class SteeringKernelNet(nn.Module):
    """
    The assembled model.

    depth_range: (low, high) meters to which the result is clamped; None does not clamp.
    """

    def __init__(self, depth_range: Optional[Tuple[float, float]] = DEPTH_RANGE):
        super().__init__()
        self.depth_range = depth_range
        self.kernelnet = KernelNet()
        self.resnet = ResidualUNet()

    def forward(self, image, uv, depth, valid=None):
        """Complete a batch; arguments as in `stages`. Return depth (B, H, W) meters."""
        return self.stages(image, uv, depth, valid).depth

    def stages(self, image, uv, depth, valid=None) -> ReferenceOutput:
        """
        Complete a batch and return the result of every stage, for training and figures.

        image: float (B, 3, H, W) in [0, 1], RGB. uv: (B, N, 2), column and row, rounded to the
        nearest pixel; at most one sample per pixel. depth: (B, N) meters. valid: bool (B, N),
        False for padding; None if there is none.
        """
        size = image.shape[2:]
        steering = self.kernelnet(image)
        pixel = pixel_index(uv, size)
        at_samples = steering.flatten(2).gather(2, pixel[:, None].expand(-1, 3, -1))
        at_samples = at_samples.transpose(1, 2).contiguous()
        interpolated, mass = kernel_regression(
            uv, depth, at_samples, tuple(size), valid=valid, bandwidth=BANDWIDTH, window=WINDOW,
            order=2, profile='tanh', border='mirror', exact_at_samples=True)
        interpolated = fit_sparse_windows(interpolated, pixel, depth, at_samples, valid,
                                          BANDWIDTH, WINDOW)
        logits, sign = self.resnet(image, interpolated)
        residual = expected_residual(logits) + sign
        result = regression.overwrite(interpolated + residual, uv, depth, valid)
        if self.depth_range is not None:
            result = result.clamp(*self.depth_range)
        return ReferenceOutput(steering, interpolated, mass, logits, sign, residual, result)


def residual_bins(device=None) -> torch.Tensor:
    """Return the residual of every bin in meters, float32 (401,): -4 + 8 k / 400."""
    return torch.linspace(-RESIDUAL_LIMIT, RESIDUAL_LIMIT, BINS, device=device)


def expected_residual(logits):
    """Return the expectation (B, H, W) in meters of scores (B, 401, H, W) over the bins."""
    bins = residual_bins(logits.device).to(logits.dtype)
    return torch.einsum('bkhw,k->bhw', logits.softmax(1), bins)


def reference_loss(output: ReferenceOutput, truth):
    """
    Return the paper's loss: cross-entropy over the residual bins plus L1 on the refined depth.

    truth: (B, H, W) meters, 0 or NaN where unknown. The loss is 0 if no truth is known.
    """
    known = torch.isfinite(truth) & (truth > 0)
    residual = (torch.where(known, truth, 0) - output.interpolated)[known]
    step = 2 * RESIDUAL_LIMIT / (BINS - 1)
    target = ((residual.detach() + RESIDUAL_LIMIT) / step).round().clamp(0, BINS - 1).long()
    logits = output.logits.permute(0, 2, 3, 1)[known]
    count = max(len(target), 1)
    classification = functional.cross_entropy(logits, target, reduction='sum')
    return (classification + (residual - output.residual[known]).abs().sum()) / count


def standardize_image(image):
    """Shift and scale RGB in [0, 1], (B, 3, H, W), to the statistics of the release."""
    mean, std = (image.new_tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    return (image - mean) / std


def standardize_depth(depth):
    """Clamp and scale depth (B, H, W) meters to the input of the refinement (B, 1, H, W)."""
    return ((depth.clamp(*DEPTH_LIMITS) - DEPTH_MEAN) / DEPTH_STD)[:, None]


def read_release(kernelnet, resnet):
    """
    Read the release's two checkpoint files into one state dict for `SteeringKernelNet`.

    Raise WeightsError that names the file and lists tensors that are missing, extra or of
    another shape.
    """
    parts = (('kernelnet', KernelNet(), kernelnet), ('resnet', ResidualUNet(), resnet))
    return {f'{prefix}.{name}': tensor for prefix, part, path in parts
            for name, tensor in checkpoints.check_state(
                part, checkpoints.read_torch_checkpoint(path), path).items()}


class ReferenceModel:
    """The assembled model with weights, for numpy arrays, one frame at a time."""

    def __init__(self, model: SteeringKernelNet, device: str = 'cpu'):
        self.device = self.operator_device = torch.device(device)
        self.model = model.eval().to(self.device)

    @classmethod
    def load(cls, path=None, device='cpu') -> 'ReferenceModel':
        """
        Load weights that `steer_depth convert` wrote.

        Raise WeightsError if no file is given or if it does not fit.
        """
        if path is None:
            raise WeightsError(
                'preset reference ships without weights: convert the checkpoints of the 2021 '
                'release with `steer_depth convert --kernelnet kernelnet_model.pth --resnet '
                'resnet_model.pth --out reference.safetensors` and pass that file as the weights')
        state, info = checkpoints.load_safetensors(path)
        if info.architecture != ARCHITECTURE:
            raise WeightsError(f'{path} holds weights of "{info.architecture}", not of '
                               f'"{ARCHITECTURE}"; choose the preset that fits the file')
        model = SteeringKernelNet(_depth_range(info.config, path))
        checkpoints.load_into(model, state, path)
        return cls(model, device)

    @classmethod
    def from_release(cls, kernelnet, resnet, device='cpu',
                     depth_range=DEPTH_RANGE) -> 'ReferenceModel':
        """Load the two checkpoint files of the release; see `SteeringKernelNet`."""
        model = SteeringKernelNet(depth_range)
        model.load_state_dict(read_release(kernelnet, resnet))
        return cls(model, device)

    def estimate(self, image, uv, depth, everywhere=False):
        """
        Complete one frame.

        image: uint8 (H, W, 3) RGB. uv: float32 (N, 2), column and row. depth: float32 (N,)
        meters; samples that are not finite, not positive or outside the image are dropped.
        everywhere: keep the output of the refinement where no sample is in a pixel's window, as
        the release does; otherwise such pixels are NaN.
        Return depth float32 (H, W) meters, and None: this network has no confidence. Raise
        FrameError for arrays of other shapes.
        """
        image, uv, depth = checked_frame(image, uv, depth)
        if not len(depth):
            return np.full(image.shape[:2], np.nan, np.float32), None
        with torch.inference_mode():
            batch = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
            with stage('network', self.device):
                output = self.model.stages(batch, torch.from_numpy(uv).to(self.device)[None],
                                           torch.from_numpy(depth).to(self.device)[None])
            known = (output.mass > 0) | everywhere
            dense = torch.where(known, output.depth, torch.nan)[0]
        return dense.float().cpu().numpy(), None


def _depth_range(config, path):
    values = config.get('depth_range', DEPTH_RANGE)
    if values is None:
        return None
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise WeightsError(f'{path} states the depth range {values}; expected two increasing '
                           'numbers in meters: convert the checkpoints again')
    return low, high


def checked_frame(image, uv, depth):
    """
    Return image, uv float32 (N, 2) and depth float32 (N,) as the release prepares them.

    Samples are rounded to whole pixels, the nearest per pixel, sorted by position. Raise
    FrameError for arrays of other shapes.
    """
    image = np.ascontiguousarray(image)
    uv, depth = np.asarray(uv, np.float32), np.asarray(depth, np.float32)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise FrameError(f'the image must be uint8 (H, W, 3), got {image.dtype} {image.shape}')
    if min(image.shape[:2]) < MIN_SIDE:
        raise FrameError(f'an image of {image.shape[1]} x {image.shape[0]} pixels is too small: '
                         f'the network halves it four times and needs {MIN_SIDE}')
    if depth.ndim != 1 or uv.shape != (len(depth), 2):
        raise FrameError(f'samples must be uv (N, 2) and depth (N,), got {uv.shape} and '
                         f'{depth.shape}')
    limits = np.array([image.shape[1], image.shape[0]]) - 0.5
    with np.errstate(invalid='ignore'):
        usable = np.isfinite(depth) & (depth > 0) & (uv >= -0.5).all(1) & (uv < limits).all(1)
    # The release reads samples from a depth image: whole pixels, one depth per pixel.
    row, column = projection.pixel_of(uv[usable], image.shape)
    pixels, depth = np.stack([column, row], 1), depth[usable]
    order = np.argsort(depth, kind='stable')
    first = np.unique(pixels[order], axis=0, return_index=True)[1]
    kept = order[first]
    return image, np.ascontiguousarray(pixels[kept], np.float32), depth[kept].copy()
