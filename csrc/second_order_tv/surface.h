// Copyright 2026 The steer_depth_ros contributors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.
//
// One step of second-order total variation: what both backends compute, and the call as it crosses the
// C ABI. ops/surface.py says it in torch, which is the specification.
//
// `V` is float (one pixel, a CUDA thread) or a SIMD vector (one pixel a lane, a CPU core); the only
// operations used on it are arithmetic, comparison, `mask ? a : b`, `exponential(V)` and
// `square_root(V)`.
#pragma once

#include <math.h>

#include "../kernel_regression/problem.h"

namespace steer {

// One call: native.Surface has the same fields. float32, C-contiguous.
struct Surface {
  int height, width, samples, steps, threads;
  float smoothness, flat, misfit, edge, floor;  // tv_* of the config
  const float *start;                           // (H,W)
  const float *lab;                             // (3,H,W)
  const float *uv, *measured;                   // (N,2), (N)
  const uint8_t *valid;                         // (N) or null
  float *solution;                              // (H,W)
  void *workspace;                              // CUDA only: steer_surface_workspace() bytes
};

// --- Second differences and their transpose -------------------------------------------------------

template <class V>
STEER_FN V bend(V before, V here, V after) {
  return before - 2.f * here + after;
}

template <class V>
STEER_FN V twist(V here, V right, V below, V opposite) {
  return here - right - below + opposite;
}

// What weighed second differences around a pixel do to it: along x and y, and the twists of which it
// is one corner.
template <class V>
STEER_FN V force(V left, V along_x, V right, V above, V along_y, V below, V twist_here, V twist_left,
                 V twist_above, V twist_corner) {
  return bend(left, along_x, right) + bend(above, along_y, below) +
         twist(twist_here, twist_left, twist_above, twist_corner);
}

// The diagonal of the system, from the weights of the same second differences.
template <class V>
STEER_FN V diagonal(V left, V along_x, V right, V above, V along_y, V below, V twist_here,
                    V twist_left, V twist_above, V twist_corner) {
  return 4.f * (along_x + along_y) + left + right + above + below + twist_here + twist_left +
         twist_above + twist_corner;
}

// --- How much of the smoothness image and estimate leave -------------------------------------------

template <class V>
STEER_FN V larger_of(V a, V b) {
  return a > b ? a : b;
}

template <class V>
STEER_FN V distance(V a, V b) {
  return a > b ? a - b : b - a;
}

// Differences of color around a pixel: to the next ones, and from those to the one beside and below.
template <class V>
struct Colors {
  V left, right, above, below, below_right, right_below;

  STEER_FN void clear() {
    left = right = above = below = below_right = right_below = V{};
  }

  STEER_FN void add(V here, V at_left, V at_right, V at_above, V at_below, V opposite) {
    left += distance(here, at_left), right += distance(here, at_right);
    above += distance(here, at_above), below += distance(here, at_below);
    below_right += distance(at_below, opposite), right_below += distance(at_right, opposite);
  }

  STEER_FN V along_x() const { return larger_of(left, right); }
  STEER_FN V along_y() const { return larger_of(above, below); }
  STEER_FN V across() const {
    return larger_of(larger_of(right, below_right), larger_of(below, right_below));
  }
};

// The weight of a squared second difference, so that it costs what its absolute does at the start.
// inverse_square: 1 / start^2. color: a difference of Colors.
template <class V>
STEER_FN V bending_weight(const Surface &p, V second_difference, V inverse_square, V color) {
  const V square = second_difference * second_difference * inverse_square + p.flat * p.flat;
  return exponential(color * (-1.f / p.edge)) * p.smoothness * inverse_square / square_root(square);
}

template <class V>
STEER_FN V inverse_square(const Surface &p, V start) {
  const V least = V{} + p.floor, base = start > least ? start : least;
  return 1.f / (base * base);
}

// --- Samples ----------------------------------------------------------------------------------------

STEER_FN int row_of(const Surface &p, int sample) {
  return pixel_along(p.uv[2 * (size_t)sample + 1], p.height);
}

STEER_FN int column_of(const Surface &p, int sample) {
  return pixel_along(p.uv[2 * (size_t)sample], p.width);
}

// Reads the start between pixels; beyond the border it is what it is there.
STEER_FN float read_start(const Surface &p, float u, float v) {
  u = !(u > 0) ? 0 : u < p.width - 1 ? u : p.width - 1;
  v = !(v > 0) ? 0 : v < p.height - 1 ? v : p.height - 1;
  const int x = (int)u, y = (int)v, right = x + 1 < p.width, below = y + 1 < p.height;
  const float *here = p.start + (size_t)y * p.width + x, *next = here + (size_t)below * p.width;
  const float upper = here[0] + (u - x) * (here[right] - here[0]);
  const float lower = next[0] + (u - x) * (next[right] - next[0]);
  return upper + (v - y) * (lower - upper);
}

// What a sample adds to its pixel: its weight, and its weight times its residual. On a slope the
// residual of the pixel itself would be wrong.
struct Pull {
  float weight, force;
};

STEER_FN Pull pull_of(const Surface &p, int sample) {
  const float *uv = p.uv + 2 * (size_t)sample, measured = p.measured[sample];
  const float scale = measured > p.floor ? measured : p.floor;
  const float residual = measured - read_start(p, uv[0], uv[1]);
  const float weight = 1.f / (scale * hypotf(residual, p.misfit * scale));
  return {weight, weight * residual};
}

}  // namespace steer
