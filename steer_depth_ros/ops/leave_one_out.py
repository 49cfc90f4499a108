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
Settings of kernel regression found by leave-one-out cross-validation of the samples.

Samples are predicted from their neighbors without themselves, as `kernel_regression` (order 1)
would predict them; the settings that do so best are found by gradient descent. Neither search nor
tuning reads a value back from a GPU, and no shape depends on the data.
"""
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from steer_depth_ros.ops import leave_one_out_torch, libraries, native
from steer_depth_ros.ops.constants import number
from steer_depth_ros.ops.timing import stage

MOST_NEIGHBORS = 64  # kMostNeighbors of csrc/leave_one_out/problem.h


class Neighbors(NamedTuple):
    """
    Q samples (indices, int64) that are left out, and the K nearest others of each.

    near: (K, Q) samples, nearest first. distance: (K, Q), rows divided by the aspect. known: (Q,)
    bool; where it is false there are too few, and `near` and `distance` say nothing.
    """

    queries: Tensor
    near: Tensor
    distance: Tensor
    known: Tensor


class Constants(NamedTuple):
    """
    What the predictions and the tuning depend on, but do not change.

    aspect: rows are divided by it. ridge, bandwidth, depth_step: what settings of 0 mean.
    bandwidth_at_sample, bandwidth_far: factors on the bandwidth on a sample, and at most;
    bandwidth_distance: pixels to a sample at which the factor is 1. coarse_neighbors: samples
    that a first guide is estimated from. steps, rate, newest, newest_square: of Adam, with the
    weights of the newest gradient and of its square in their means; averaged: last steps whose
    mean is taken. prior: draws settings to 0. max_error: log depth; more counts no more.
    """

    aspect: float
    ridge: float
    bandwidth: float
    depth_step: float
    bandwidth_at_sample: float
    bandwidth_far: float
    bandwidth_distance: float
    coarse_neighbors: int
    steps: int
    rate: float
    newest: float
    newest_square: float
    averaged: int
    prior: float
    max_error: float


class Tuned(NamedTuple):
    """
    Settings (6,) and the inverse depth (Q,) that they predict at the samples.

    settings: logarithms of factors on the steps of the four features, on bandwidth and ridge.
    guide: (Q,) inverse depth that the samples were guided by. Where a sample is not known,
    `predicted` and `guide` are numbers that mean nothing.
    """

    settings: Tensor
    predicted: Tensor
    guide: Tensor


class LeaveOneOut(NamedTuple):
    """
    N samples, and what some of them are predicted from: tensors of one device and float type.

    uv: (N, 2) pixels. inverse: (N,) inverse depth, > 0. colors: (N, 3), in units of their step.
    kernels: (N, 3), as steering of `kernel_regression`. guide: (Q,) inverse depth that the queries
    are taken for; None: a coarse estimate without each. rejected: (N,) bool, samples that are
    neither predicted nor relied on.
    """

    uv: Tensor
    inverse: Tensor
    colors: Tensor
    kernels: Tensor
    neighbors: Neighbors
    constants: Constants
    guide: Optional[Tensor] = None
    rejected: Optional[Tensor] = None

    @property
    def known(self):
        """Which queries are predicted, bool (Q,)."""
        known = self.neighbors.known
        return known if self.rejected is None else known & ~self.rejected[self.neighbors.queries]

    @property
    def target(self):
        """The logarithm of the measured inverse depth of the queries, (Q,)."""
        return self.inverse[self.neighbors.queries].log()

    def tune(self) -> Tuned:
        """
        Find settings that predict the samples well; zeros where none is known.

        TypeError for a tensor of another type, ValueError for another shape, or one on another
        device than `inverse`; on the CPU RuntimeError for indices of samples that do not exist.
        """
        zeros = number((0.0,) * 6, self.inverse.device, self.inverse.dtype)
        return self._run(zeros, self.constants.steps)

    def at(self, settings) -> Tuned:
        """Predict the samples with these settings (6,). TypeError or ValueError as `tune`."""
        return self._run(settings, 0)

    def _run(self, settings, steps):
        queries, near, distance, known = self.neighbors
        samples, asked = len(self.inverse), len(queries)
        found = min(max(len(near), 1), MOST_NEIGHBORS), asked
        libraries.require_alike(
            'inverse', self.inverse, inverse=(self.inverse, (samples,)),
            uv=(self.uv, (samples, 2)), colors=(self.colors, (samples, 3)),
            kernels=(self.kernels, (samples, 3)), queries=(queries, (asked,)), near=(near, found),
            distance=(distance, found), known=(known, (asked,)), guide=(self.guide, (asked,)),
            rejected=(self.rejected, (samples,)), settings=(settings, (6,)))
        constants = self.constants._replace(steps=steps)
        return Tuned(*torch.ops.steer_depth_ros.leave_one_out_tune(
            self.uv, self.inverse, self.colors, self.kernels, *self.neighbors, self.guide,
            self.rejected, settings, [float(c) for c in constants]))


def find_neighbors(uv, queries, count, aspect=1.0, line_gap=0.0) -> Neighbors:
    """
    Find the `count` nearest others of some samples.

    uv: (N, 2) pixels; rows are divided by `aspect` before distances are taken. queries: (Q,)
    int64. line_gap: pixels; samples whose rows are nearer than that are of the same scan line and
    left out with the query. Of samples as near, those of lower index come first. A query is not
    known, either, whose neighbors are not all among the 3 * count nearest of its line and others:
    they are of another place. ValueError and TypeError for tensors that do not fit; on the CPU
    RuntimeError for positions that are not finite, or queries that do not exist.
    """
    if not 1 <= count <= MOST_NEIGHBORS:
        raise ValueError(f'count must be 1 to {MOST_NEIGHBORS}, got {count}')
    _require_aspect(aspect)
    libraries.require_alike('uv', uv, uv=(uv, ('N', 2)), queries=(queries, ('N',)))
    return Neighbors(queries, *torch.ops.steer_depth_ros.leave_one_out_neighbors(
        uv, queries, None, count, float(aspect), float(line_gap)))


def nearest_samples(uv, points, count, aspect=1.0):
    """
    Return the `count` samples nearest to points, nearest first, and their distances, (count, M).

    uv: (N, 2) pixels, points: (M, 2); rows are divided by `aspect` before distances are taken. Of
    samples as near, those of lower index come first.
    """
    if not 1 <= count <= min(MOST_NEIGHBORS, len(uv)):
        raise ValueError(f'count must be 1 to {MOST_NEIGHBORS} and at most the {len(uv)} samples, '
                         f'got {count}')
    _require_aspect(aspect)
    libraries.require_alike('uv', uv, uv=(uv, ('N', 2)), points=(points, ('N', 2)))
    return torch.ops.steer_depth_ros.leave_one_out_neighbors(
        uv, None, points, count, float(aspect), 0.0)[:2]


def _require_aspect(aspect):
    if not 0.01 <= aspect <= 100:
        raise ValueError(f'aspect must be 0.01 to 100, got {aspect}')


@libraries.operator('leave_one_out_neighbors')
def _neighbors(uv: Tensor, queries: Optional[Tensor], points: Optional[Tensor], count: int,
               aspect: float, line_gap: float) -> tuple[Tensor, Tensor, Tensor]:
    name, library = libraries.library_of(uv)
    with stage('tuning', uv.device):
        if library is None:
            return leave_one_out_torch.find_neighbors(
                uv, queries, points, count, aspect, line_gap)
        near, distance, known = _no_neighbors(uv, queries, points, count, aspect, line_gap)
        uv, queries, points = uv.contiguous(), *(each if each is None else each.contiguous()
                                                 for each in (queries, points))
        libraries.call(library, name, 'steer_leave_one_out_neighbors', native.problem(
            native.LeaveOneOut, samples=len(uv), queries=len(known), neighbors=count,
            aspect=aspect, line_gap=line_gap, uv=uv, query=queries, at=points, near=near,
            distance=distance, known=known), uv.device)
        return near, distance, known


@torch.library.register_fake('steer_depth_ros::leave_one_out_neighbors')
def _no_neighbors(uv, queries, points, count, aspect, line_gap):
    asked = len(queries if points is None else points)
    return (uv.new_empty(count, asked, dtype=torch.int64), uv.new_empty(count, asked),
            uv.new_empty(asked, dtype=torch.bool))


@libraries.operator('leave_one_out_tune')
def _tune(uv: Tensor, inverse: Tensor, colors: Tensor, kernels: Tensor, queries: Tensor,
          near: Tensor, distance: Tensor, known: Tensor, guide: Optional[Tensor],
          rejected: Optional[Tensor], settings: Tensor,
          constants: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    name, library = libraries.library_of(inverse)
    c = Constants._make(constants)
    c = c._replace(**{f: int(getattr(c, f)) for f in ('coarse_neighbors', 'steps', 'averaged')})
    with stage('tuning', inverse.device):
        if library is None:
            twin = leave_one_out_torch.Twin(LeaveOneOut(
                uv, inverse, colors, kernels, Neighbors(queries, near, distance, known), c, guide,
                rejected))
            tuned = twin.tune(settings) if c.steps else settings.clone()
            return tuned, twin.predict(tuned), twin.guide
        tensors = {field: None if tensor is None else tensor.contiguous()
                   for field, tensor in dict(
                       uv=uv, inverse=inverse, colors=colors, kernels=kernels, query=queries,
                       near=near, distance=distance, known=known, guide=guide, rejected=rejected,
                       start=settings).items()}
        tuned, predicted, guide_used = _nothing(inverse, queries, settings)
        libraries.call(library, name, 'steer_leave_one_out_tune', native.problem(
            native.LeaveOneOut, samples=len(uv), queries=len(queries), neighbors=len(near),
            **c._asdict(), **tensors, settings=tuned, predicted=predicted,
            guide_used=guide_used), inverse.device,
            lambda p: library.steer_leave_one_out_workspace(p))
        return tuned, predicted, guide_used


def _nothing(inverse, queries, settings):
    return (torch.empty_like(settings), inverse.new_empty(len(queries)),
            inverse.new_empty(len(queries)))


@torch.library.register_fake('steer_depth_ros::leave_one_out_tune')
def _tune_fake(uv, inverse, colors, kernels, queries, near, distance, known, guide, rejected,
               settings, constants):
    return _nothing(inverse, queries, settings)
