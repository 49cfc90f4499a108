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
Completion without weights: steering kernels from the image structure.

Takeda, Farsiu, Milanfar, "Kernel regression for image processing and reconstruction", TIP 2007:
at each sample the structure tensor of the image gives elongation, rotation and scaling of its
kernel. Depth is interpolated as a local plane in INVERSE depth, exact on planes at any distance.
A first rough estimate joins the colour as a guide, so that a pixel takes its depth from samples
of its own surface.
"""
from dataclasses import dataclass, replace
from functools import cached_property
import math

import cv2
import numpy as np
from scipy.spatial import cKDTree
import torch

from steer_depth_ros.completion import gaps, leave_one_out, thin_plate
from steer_depth_ros.completion.aside import aside
from steer_depth_ros.completion.spacing import kernel_aspect, sample_spacing
from steer_depth_ros.ops import kernel_regression

COLOUR = 8.0  # CIELab difference that lowers a sample's weight to exp(-1/2)
COLOUR_BLUR = 2.0  # pixels of the camera; texture finer than that says nothing about depth
STEP = 0.15  # the same for the logarithm of depth
STRUCTURE_BLUR = 1.5  # pixels; the window of the structure tensor
REGULARISATION = 0.01  # lambda': elongation where the image is flat goes to 1
LARGEST_ELONGATION = 4.0
SCALING_EXPONENT = 0.2  # alpha
NEIGHBOURS, HALF_NEIGHBOURS, ROUGH_NEIGHBOURS = 24, 16, 16  # half: for images at half size
BANDWIDTH = 0.7  # local spacings
RIDGE = 0.01
# Share of the bandwidth on a sample and far from any, and where it is 1, in sample spacings.
NARROWEST, WIDEST, HALFWAY = 0.25, 1.2, 0.45
# Of `fit_to_samples`: no sample pulls by more than the furthest, a share of its depth.
PULL, PULL_PIXELS, PULL_PRIOR, FURTHEST = 0.1, (0.5, 3.0), 0.02, 0.2
# Of `seen`, in logarithms of depth, as a share of the samples and a quotient.
BEHIND, FAR_BEHIND, MANY, ONE_SIDED = 0.05, 0.2, 0.005, 2.5
# Expected relative error: Laplace maximum likelihood on rendered scenes; the floor is that of
# a real sensor. Distances in sample spacings.
ERROR_FLOOR, ERROR_PER_SPREAD, ERROR_PER_SPACING = 0.004, 1.15, 0.0098


@dataclass
class Inputs:
    """
    A frame as the interpolation sees it, free of metric scale.

    image: uint8 (H, W, 3). uv: (1, N, 2). inverse: (1, N) median depth / depth. median: metres.
    aspect: of the operator. spacing: mean distance of samples in pixels, rows: that of scan lines.
    half: the image comes at half of the resolution, smooth enough as it is.
    past_edges: some samples are of background that is hidden from the camera.
    """

    image: np.ndarray
    uv: torch.Tensor
    inverse: torch.Tensor
    median: float
    aspect: float
    spacing: float
    rows: float
    half: bool
    past_edges: bool

    @property
    def size(self):
        return self.image.shape[:2]

    @property
    def range(self):
        """Smallest and largest inverse depth of the samples."""
        return self.inverse.min().item(), self.inverse.max().item()

    @property
    def neighbours(self):
        """How many samples a pixel is computed from."""
        return HALF_NEIGHBOURS if self.half else NEIGHBOURS

    @property
    def shrink(self):
        """How much smaller than the image the analysis of its colours is."""
        return 1 if self.half else 2

    @cached_property
    def lab(self):
        """The image in CIELab, smoothed and of 1 / shrink of the size, float32 (h, w, 3)."""
        small = self.image if self.half else halved(self.image)
        smooth = cv2.GaussianBlur(small, (0, 0), COLOUR_BLUR / 2)
        return cv2.cvtColor(smooth.astype(np.float32) * (1 / 255), cv2.COLOR_RGB2Lab)

    def colours(self, uv):
        """Return CIELab at uv (1, N, 2), in units of COLOUR, (N, 3)."""
        return at_samples(self.lab, shrunk(uv, self.shrink)) * (1 / COLOUR)

    def with_samples(self, uv, inverse):
        """Return the same frame with other samples."""
        other = replace(self, uv=uv, inverse=inverse)
        other.lab = self.lab  # not computed twice
        return other

    def choose(self, some):
        """Return the same frame with some of the samples, by index."""
        return self.with_samples(self.uv[:, some], self.inverse[:, some])

    @property
    def metric(self):
        """Factors on (u, v), after which the operator measures distances."""
        return np.array([1, 1 / self.aspect], np.float32)

    @cached_property
    def tree(self):
        """The samples in that metric, to look up neighbours."""
        return cKDTree(self.uv[0].numpy() * self.metric, balanced_tree=False, compact_nodes=False)


def prepare(image, uv, depth, past_edges=False, half=False):
    """Normalise image uint8 (H, W, 3), uv float32 (N, 2) and depth float32 (N,); see Inputs."""
    median = float(np.median(depth))
    across, rows = sample_spacing(uv, image.shape[:2])
    inputs = Inputs(image, batch(uv), batch(median / depth), median, kernel_aspect(across, rows),
                    math.sqrt(across * rows), rows, half, past_edges)
    return without_shining(inputs) if past_edges and not half else inputs


def at_samples(maps, uv):
    """Read maps (H, W, C) at uv (1, N, 2), bilinear; returns (N, C)."""
    height, width = maps.shape[:2]
    grid = uv[0, :, None].numpy()
    # cv2.remap takes no more than 32767 rows.
    parts = [cv2.remap(maps, np.ascontiguousarray(part[..., 0]),
                       np.ascontiguousarray(part[..., 1]), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)
             for part in np.array_split(grid, len(grid) // 30000 + 1)]
    return np.concatenate(parts).reshape(grid.shape[0], -1)


def image_steering(inputs):
    """Return (1, N, 3) elongation, rotation and scaling of the kernels at the samples."""
    light = cv2.extractChannel(inputs.lab, 0)
    dy = cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=0.01 / 16)
    dx = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=0.01 / 16)
    tensor = cv2.GaussianBlur(cv2.merge([dy * dy, dy * dx, dx * dx]), (0, 0), STRUCTURE_BLUR / 2)
    a, b, c = at_samples(tensor, shrunk(inputs.uv, inputs.shrink)).T
    middle, half = (a + c) / 2, np.hypot((a - c) / 2, b)
    strong, weak = np.sqrt(middle + half), np.sqrt(np.maximum(middle - half, 0))
    elongation = np.minimum((strong + REGULARISATION) / (weak + REGULARISATION),
                            LARGEST_ELONGATION)
    rotation = np.arctan2(2 * b, a - c) / 2
    scaling = (strong * weak + 1e-4) ** SCALING_EXPONENT
    scaling /= np.median(scaling)
    return batch(np.stack([elongation, rotation, scaling], 1))


def round_kernels(values):
    """Return (1, N, 3) kernels without direction for values (1, N)."""
    return torch.tensor([1.0, 0.0, 1.0]).expand(*values.shape, 3)


def rough(inputs, values, order, shrink=2):
    """Interpolate values (1, N) with round kernels at 1 / shrink of the size; returns (H, W)."""
    height, width = inputs.size
    small = -(-height // shrink), -(-width // shrink)
    uv = shrunk(inputs.uv, shrink)
    if inputs.half and values.numel() > small[0] * small[1]:
        some = one_a_pixel(uv[0].numpy(), small)
        uv, values = uv[:, some], values[:, some]
    dense, _ = kernel_regression(uv, values, round_kernels(values), small,
                                 neighbours=ROUGH_NEIGHBOURS, order=order, bandwidth=BANDWIDTH,
                                 ridge=RIDGE, aspect=inputs.aspect)
    return enlarged(dense[0].numpy(), inputs.size, shrink)


def one_a_pixel(uv, size):
    """Choose of samples at uv (N, 2) one for each pixel of `size` (H, W); returns indices."""
    sample = np.full(size, -1)
    sample[nearest_pixels(uv, size)] = np.arange(len(uv))
    return np.sort(sample[sample >= 0])


def nearest_pixels(uv, size):
    """Return rows and columns (N,) of the pixels nearest to uv (N, 2), inside `size` (H, W)."""
    column, row = np.clip(np.rint(uv).astype(int), 0, (size[1] - 1, size[0] - 1)).T
    return row, column


def shrunk(uv, factor):
    """Move pixel coordinates to an image of 1 / factor of the size."""
    return (uv + 0.5) / factor - 0.5


def halved(image):
    """Average an image (H, W, ...) over 2 x 2 pixels; the last row and column count double."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def enlarged(small, size, factor=2):
    """Bring a map of 1 / factor of the resolution back to `size` (H, W)."""
    height, width = size
    full = cv2.resize(small, (factor * small.shape[1], factor * small.shape[0]))
    return np.ascontiguousarray(full[:height, :width])


def guides(inputs):
    """
    Return the guide (4, H, W), its values at the samples (N, 4), and `off` (N,).

    Colour, and the logarithm of a first rough estimate, each in units of the change that lowers a
    weight to exp(-1/2). off: log depth by which the rough estimate misses a sample.
    """
    values = inputs.inverse[0].numpy()
    guide = np.empty((4, *inputs.size), np.float32)
    for plane, channel in zip(guide, cv2.split(inputs.lab * np.float32(1 / COLOUR))):
        plane[:] = enlarged(channel, inputs.size, inputs.shrink)
    first = np.log(np.clip(rough(inputs, inputs.inverse, 1, 4), values.min(), values.max()))
    np.multiply(first, np.float32(1 / STEP), out=guide[3])
    measured = np.log(values)
    at = np.column_stack([inputs.colours(inputs.uv), measured / STEP])
    return guide, at.astype(np.float32), at_samples(first[..., None], inputs.uv)[:, 0] - measured


def sample_distance(inputs):
    """Return the distance of every pixel to the nearest sample, (H, W) pixels."""
    empty = np.ones(inputs.size, np.uint8)
    empty[nearest_pixels(inputs.uv[0].numpy(), inputs.size)] = 0
    return cv2.distanceTransform(empty, cv2.DIST_L2, 3)


def bandwidths(inputs, distance):
    """Return the operator's bandwidth (H, W): narrow near a sample, which then counts most."""
    share = distance * (1 / (HALFWAY * inputs.spacing))
    return BANDWIDTH * np.clip(NARROWEST + (1 - NARROWEST) * share, NARROWEST, WIDEST)


@dataclass
class Analysis:
    """
    What the completion of a frame rests on.

    inputs: the samples, N with those that bridge wide gaps; the measured M come first.
    guide (4, H, W), at (N, 4), off (M,): see `guides`. distance: (H, W), to the measured samples.
    kernels: (1, N, 3), of `image_steering`. bandwidth: (H, W). left_out: LeaveOneOut.
    """

    inputs: Inputs
    guide: np.ndarray
    at: np.ndarray
    off: np.ndarray
    distance: np.ndarray
    kernels: torch.Tensor
    bandwidth: np.ndarray
    left_out: 'leave_one_out.LeaveOneOut'


def analyse(measured, queries=None):
    """Return the Analysis of Inputs. queries: samples that are predicted, see LeaveOneOut."""
    inputs, count = gaps.bridged(measured), measured.uv.shape[1]
    found = aside(leave_one_out.neighbours, measured, queries or leave_one_out.QUERIES)
    distance = aside(sample_distance, measured)
    kernels = image_steering(inputs)
    guide, at, off = guides(inputs)
    left_out = leave_one_out.LeaveOneOut(measured, kernels[:, :count], found.result())
    to_any = distance.result() if inputs is measured else sample_distance(inputs)
    return Analysis(inputs, guide, at, off[:count], distance.result(), kernels,
                    bandwidths(inputs, to_any), left_out)


def regress(frame, settings, half=False):
    """
    Return inverse depth inside the range of the samples, and the sums of weights: (S, H, W) each.

    frame: Analysis. settings: (S, 6), see `leave_one_out`; one search for neighbours serves them
    all. half: all that is returned has half the resolution.
    """
    inputs, guide, bandwidth = frame.inputs, frame.guide, frame.bandwidth
    uv, size = inputs.uv, inputs.size
    if half:
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
        uv = shrunk(uv, 2)
        *guide, bandwidth = (cv2.resize(plane, size[::-1]) for plane in (*guide, bandwidth))
    count = len(settings)
    factors = np.exp(settings, dtype=np.float32)
    scale = 1 / factors[:, :4]
    ridge = torch.from_numpy(RIDGE * factors[:, leave_one_out.RIDGE, None, None])
    ridge = ridge.reshape(()) if count == 1 else ridge.expand(count, *size)
    dense, mass = kernel_regression(
        uv.expand(count, -1, -1), inputs.inverse.expand(count, -1),
        frame.kernels.expand(count, -1, -1), size,
        guide=torch.from_numpy(guide * scale[:, :, None, None]),
        guide_at_samples=torch.from_numpy(frame.at * scale[:, None]), neighbours=inputs.neighbours,
        order=1, ridge=ridge, aspect=inputs.aspect,
        bandwidth=torch.from_numpy(bandwidth * factors[:, leave_one_out.BANDWIDTH, None, None]))
    return dense.clamp_(*inputs.range).numpy(), mass.numpy()


def tuned_guide(frame, misses=None):
    """
    Complete once at half the resolution, and let the result be the guide's depth.

    It follows edges better than the rough estimate, so that samples of the wrong surface drop
    out the second time (Takeda et al. steer iteratively, too). Return the settings (6,) that
    predict the samples best with the new guide.

    frame: Analysis. misses: a list to which the log errors of the old and of the new guide at the
    left out samples are added.
    """
    left_out = frame.left_out
    settings = first_guide(frame)
    if frame.inputs.past_edges:
        keep = seen(frame)
        frame.inputs = frame.inputs.choose(keep)
        frame.kernels, frame.at = frame.kernels[:, keep], frame.at[keep]
    if len(left_out.chosen) == 0:
        return settings
    if misses is not None:
        misses += [left_out.guess - left_out.truth, left_out.log_errors(settings)]
    left_out.guide_by(left_out.predict(settings))
    return leave_one_out.tune(left_out)


def first_guide(frame):
    """Let what kernels tuned with the rough guide say at half resolution be the guide."""
    settings = leave_one_out.tune(frame.left_out)
    first, _ = regress(frame, settings[None], half=True)
    np.multiply(np.log(enlarged(first[0], frame.inputs.size)), np.float32(1 / STEP),
                out=frame.guide[3])
    return settings


def seen(frame):
    """
    Find the samples that are not behind the surface that the guide sees; returns indices.

    A LiDAR beside the camera measures background that nearer things hide from the camera;
    `visible` finds what they surround, not what shines through their rim. The guide, smoothed
    over the samples around, misses some on both sides of an edge: where many lie far behind it
    and few in front, all that are behind it go; otherwise none.
    """
    inputs, count = frame.inputs, len(frame.off)
    guide = at_samples(frame.guide[3][..., None], inputs.uv[:, :count])[:, 0] * np.float32(STEP)
    behind = guide - np.log(inputs.inverse[0, :count].numpy())
    before = np.count_nonzero(behind < -FAR_BEHIND)
    keep = np.ones(inputs.uv.shape[1], bool)
    if np.count_nonzero(behind > FAR_BEHIND) > max(MANY * count, ONE_SIDED * before):
        keep[:count] = behind <= BEHIND
    return np.flatnonzero(keep)


def without_shining(inputs):
    """Return Inputs with the `seen` samples only; half of the resolution tells them best."""
    half = replace(inputs, image=halved(inputs.image), uv=shrunk(inputs.uv, 2), half=True,
                   spacing=inputs.spacing / 2, rows=inputs.rows / 2)
    half.lab = inputs.lab
    frame = analyse(half)
    first_guide(frame)
    keep = seen(frame)
    chosen = inputs.choose(keep[keep < inputs.uv.shape[1]])
    chosen.past_edges = False
    return chosen


def interpolate(inputs):
    """Return inverse depth (median / depth) and the expected relative error, both (H, W)."""
    frame = analyse(inputs)
    dense, _ = regress(frame, tuned_guide(frame)[None])
    return (thin_plate.refined(frame.inputs, dense[0], frame.distance),
            expected_error(inputs, frame.off, frame.distance))


def fit_to_samples(depth, uv, measured):
    """
    Pull depth (H, W) towards the measured (N,) at uv (N, 2), within a share of their spacing.

    For what was computed at a lower resolution: the pixels next to a sample should say what it
    says. Nothing leaves the range of the samples.
    """
    height, width = depth.shape
    spacing = math.sqrt(math.prod(sample_spacing(uv, depth.shape)))
    blur = float(np.clip(PULL * spacing, *PULL_PIXELS))
    size = (2 * math.ceil(2 * blur) + 1,) * 2
    off = measured / at_samples(depth[..., None], batch(uv))[:, 0] - 1
    off = off.clip(-FURTHEST, FURTHEST)  # what is off further lies on another surface
    at = nearest_pixels(uv, depth.shape)
    total, count = np.zeros((2, height, width), np.float32)
    total[at], count[at] = off, 1
    total, count = (cv2.GaussianBlur(each, size, blur) for each in (total, count))
    count += np.float32(PULL_PRIOR)
    total /= count
    total += 1
    total *= depth
    return np.clip(total, measured.min(), measured.max(), out=total)


def expected_error(inputs, off, distance):
    """Return the relative error to expect, (H, W): bad fits around and far samples raise it."""
    spread = rough(inputs, batch(np.abs(off)), 0, 4)
    return (ERROR_FLOOR + ERROR_PER_SPREAD * spread
            + ERROR_PER_SPACING / inputs.spacing * distance)


class SteeringModel:
    """
    The preset `steering` as the completer calls it; all of it runs on the CPU.

    half: images come at half of the resolution, smoothed enough as they are.
    """

    operator_device = torch.device('cpu')

    def __init__(self, half=False):
        self.half = half

    def estimate(self, image, uv, depth, past_edges=False):
        """Return depth (metres) and expected relative error, float32 (H, W)."""
        inputs = prepare(image, uv, depth, past_edges, self.half)
        inverse, error = interpolate(inputs)
        return inputs.median / inverse, error


def batch(array):
    """Make a float32 tensor with a leading dimension of 1."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
