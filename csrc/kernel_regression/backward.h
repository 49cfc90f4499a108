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
// From gradients of the pixels to gradients of all that they were made of.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "forward.h"

namespace steer {
namespace STEER_ISA {

// Turns COUNT vectors into one whose lane l < COUNT is the sum over the lanes of vector l.
template <int COUNT>
STEER_FN V sum_lanes(V *v) {
#pragma GCC unroll 8
  for (int bit = 1; bit < kLanes; bit *= 2) {
    VI straight, crossed;
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; l++) {
      straight[l] = (l & bit ? kLanes : 0) + l;
      crossed[l] = (l & bit ? kLanes : 0) + (l ^ bit);
    }
    if (bit >= COUNT) {
      v[0] += __builtin_shuffle(v[0], v[0], crossed & (kLanes - 1));
      continue;
    }
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; i += 2 * bit)
      v[i] = __builtin_shuffle(v[i], v[i + bit], straight) +
             __builtin_shuffle(v[i], v[i + bit], crossed);
  }
  return v[0];
}

// Adds the sums over lanes of `stride` (a multiple of 8) vectors to as many floats.
STEER_FN void add_sums(V *lanes, int stride, float *out) {
  int k = 0;
  for (; k + kLanes <= stride; k += kLanes) {
    V sum = load(out + k) + sum_lanes<kLanes>(lanes + k);
    std::memcpy(out + k, &sum, sizeof sum);
  }
  if (k < stride) {
    const V sum = sum_lanes<8>(lanes + k);
    for (int l = 0; l < 8; l++) out[k + l] += sum[l];
  }
}

// Per record: dL/dvalue, dL/dq y^2, 2 y x, x^2, dL/d|gamma|, then the guide's.
enum { kGradValue, kGrad11, kGrad12, kGrad22, kGradScale, kGradGuide };

// A tile's fit in the form that gradients need, and the gradients of its pixels' own inputs.
template <int ORDER>
struct Adjoint {
  Tile t;
  V influence[terms(ORDER)];     // dL/d estimate included
  V coefficients[terms(ORDER)];
  V common, shift;               // dL/dw apart from the estimate; as in weight_of
  V ridge, bandwidth;            // dL/d...
  std::vector<V> guide;
};

template <int ORDER, bool WINDOW>
void differentiate(const Problem &p, const Samples &s, int batch, int row, int col,
                   Adjoint<ORDER> &own) {
  Tile &t = own.t;
  const size_t offset = (size_t)batch * p.height * p.width;
  place_tile(p, row, col, t);
  fetch(p, batch, t);
  V g, g_mass;
  for (int l = 0; l < kLanes; l++) {
    g[l] = t.pixel[l] < 0 ? 0 : p.grad_dense[offset + t.pixel[l]];
    g_mass[l] = t.pixel[l] < 0 ? 0 : p.grad_mass[offset + t.pixel[l]];
  }
  own.ridge = own.bandwidth = V{};
  own.guide.assign(p.features, V{});
  t.candidates.clear();
  if (any((g != 0.f) | (g_mass != 0.f))) select<WINDOW>(p, s, t);
  const auto sums = accumulate<ORDER, WINDOW>(p, s, t, &own.shift);
  const auto fit = solve<V, ORDER, true>(sums, t.ridge);
  const VI some = sums.m[0] > 0.f;
  V curvature = V{};  // sum of z_k beta_k over the terms that the ridge holds down
  for (int k = 0; k < terms(ORDER); k++) {
    own.influence[k] = some ? g * fit.influence[k] : V{};
    own.coefficients[k] = some ? fit.coefficients[k] : V{};
    if (k + 1 < terms(ORDER)) curvature += own.influence[k] * own.coefficients[k];
  }
  own.ridge = -sums.m[0] * curvature;
  own.common = (some ? g_mass : V{}) * exponential(own.shift) - t.ridge * curvature;
}

// Adds dL/d... of a sample to `lanes`, and to the pixels' own gradients.
template <int ORDER, bool WINDOW>
STEER_FN void add_pair(const Problem &p, const float *r, V keep,
                                                    Adjoint<ORDER> &own, V *lanes) {
  const Pair a = pair_of<WINDOW>(p, own.t, r, keep, true);
  const V unscaled = weight_of(a, own.shift), w = unscaled * r[Samples::kScale];
  const V influence = evaluate<V, ORDER>(own.influence, a.y, a.x);
  const V residual = r[Samples::kValue] - evaluate<V, ORDER>(own.coefficients, a.y, a.x);
  const V g_weight = influence * residual + own.common;
  const V g_exponent = g_weight * w, g_q = g_exponent * a.slope;
  lanes[kGradValue] += w * influence;
  lanes[kGrad11] += g_q * a.y * a.y;
  lanes[kGrad12] += 2.f * g_q * a.y * a.x;
  lanes[kGrad22] += g_q * a.x * a.x;
  lanes[kGradScale] += g_weight * unscaled;
  own.bandwidth += g_q * a.q;
  for (int f = 0; f < p.features; f++) {
    const V d = g_exponent * (own.t.guide[f] - r[Samples::kGuide + f]);
    lanes[kGradGuide + f] += d;
    own.guide[f] -= d;
  }
}

template <int ORDER>
void write_own(const Problem &p, int batch, const Adjoint<ORDER> &own) {
  const Tile &t = own.t;
  const size_t plane = (size_t)p.height * p.width, offset = (size_t)batch * plane;
  for (int l = 0; l < kLanes; l++) {
    if (t.pixel[l] < 0) continue;
    const size_t at = offset + t.pixel[l];
    if (p.grad_ridge) p.grad_ridge[at] = own.ridge[l];
    if (p.grad_bandwidth && p.bandwidth_extent == kPerPixel)
      p.grad_bandwidth[at] = own.bandwidth[l] * -2.f / t.bandwidth[l];
    for (int f = 0; f < p.features && p.grad_guide; f++)
      p.grad_guide[((size_t)batch * p.features + f) * plane + t.pixel[l]] = own.guide[f][l];
  }
}

// Sums over the lanes cost more than a pair: with a window, where neighbouring tiles share nearly
// all samples, several tiles are added up before.
template <int ORDER, bool WINDOW>
void backward_rows(const Problem &p, const Samples &s, int batch, int row0, int row1, int stride,
                   float *gradients) {
  constexpr int kGroup = WINDOW ? 8 : 1;
  Adjoint<ORDER> own[kGroup];
  Tile all;
  std::vector<V> lanes(stride);
  for (int row = row0; row < row1; row += kTileRows) {
    first_reach(p, s, own[0].t);
    for (int col = 0; col < p.width; col += kGroup * kTileCols) {
      const int members = std::min(kGroup, (p.width - col + kTileCols - 1) / kTileCols);
      for (int j = 0; j < members; j++)
        differentiate<ORDER, WINDOW>(p, s, batch, row, col + j * kTileCols, own[j]);
      const Tile &first = own[0].t;
      bool wanted = false;
      for (int j = 0; j < members; j++) wanted |= !own[j].t.candidates.empty();
      if (WINDOW && wanted) {
        all.x0 = first.x0, all.x1 = own[members - 1].t.x1, all.y0 = first.y0, all.y1 = first.y1;
        select_window(p, s, all);
      }
      const List &candidates = WINDOW ? all.candidates : first.candidates;
      for (int c = 0; wanted && c < candidates.size(); c++) {
        for (auto &v : lanes) v = V{};
        for (int j = 0; j < members; j++)
          add_pair<ORDER, WINDOW>(p, s.record(candidates[c]), WINDOW ? V{} : first.keep[c], own[j],
                                  lanes.data());
        add_sums(lanes.data(), stride, gradients + (size_t)candidates[c] * stride);
      }
      for (int j = 0; j < members; j++) write_own(p, batch, own[j]);
    }
  }
}

struct Backward {
  const Problem &p;
  template <int ORDER, bool WINDOW>
  void operator()() const {
    // Each band sums into a buffer of its own; the buffers are added in order, so that the result
    // does not depend on the number of threads.
    const int bands = std::min(16, (p.height + 7) / 8);
    const int rows = ((p.height + bands - 1) / bands + kTileRows - 1) / kTileRows * kTileRows;
    const int stride = (kGradGuide + p.features + 7) / 8 * 8;
    for (int b = 0; b < p.batch; b++) {
      const Samples s = prepare(p, b);
      const size_t size = (size_t)s.count * stride;
      std::vector<float> buffers(size * bands, 0.f);
      parallel(p.threads, bands, [&](int i) {
        if (i * rows < p.height)
          backward_rows<ORDER, WINDOW>(p, s, b, i * rows, std::min((i + 1) * rows, p.height), stride,
                                       buffers.data() + size * i);
      });
      parallel(p.threads, 16, [&](int part) {
        const size_t from = size * part / 16, to = size * (part + 1) / 16;
        for (int i = 1; i < bands; i++)
          for (size_t k = from; k < to; k++) buffers[k] += buffers[size * i + k];
      });
      finish(s, b, stride, buffers.data());
    }
  }

  // From records (a sample and its mirror images) to samples, and through the steering.
  void finish(const Samples &s, int batch, int stride, const float *gradients) const {
    const int n = p.samples;
    std::vector<double> total((size_t)n * (kGradGuide + p.features), 0.);
    const int width = kGradGuide + p.features;
    for (int i = 0; i < s.count; i++)
      for (int k = 0; k < width; k++)
        total[(size_t)s.origin[i] * width + k] += gradients[(size_t)i * stride + k];
    const bool window = p.neighbours == 0;
    const double sy = window ? std::max(p.window_rows, 1) : 1, sx = window ? std::max(p.window_cols, 1) : 1;
    for (int i = 0; i < n; i++) {
      const double *g = &total[(size_t)i * width];
      const size_t at = (size_t)batch * n + i;
      const float *st = p.steering + at * 3;
      const double g11 = g[kGrad11] * sy * sy, g12 = g[kGrad12] * sy * sx, g22 = g[kGrad22] * sx * sx;
      p.grad_values[at] = (float)g[kGradValue];
      const bool used = !p.valid || p.valid[at];
      float *out = p.grad_steering + at * 3;
      out[0] = out[1] = out[2] = 0;
      if (used) steering_gradient(st[0], st[1], st[2], p.profile, g11, g12, g22, g[kGradScale], out);
      if (p.grad_bandwidth && p.bandwidth_extent == kPerSample) {
        const Steering k = steering_of(st[0], st[1], st[2], p.profile);
        p.grad_bandwidth[at] =
            used ? (float)(-2 / p.bandwidth[at] * (k.c11 * g11 + k.c12 * g12 + k.c22 * g22)) : 0;
      }
      for (int f = 0; f < p.features && p.grad_guide_at_samples; f++)
        p.grad_guide_at_samples[at * p.features + f] = (float)g[kGradGuide + f];
    }
  }
};

}  // namespace STEER_ISA
}  // namespace steer
