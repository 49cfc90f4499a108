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
// From samples to pixels.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "neighbours.h"
#include "threads.h"

namespace steer {
namespace STEER_ISA {

// Everything about one (sample, tile) pair that both directions need.
struct Pair {
  V y, x, q, half_inverse_square, exponent, slope, keep;
};

template <bool WINDOW>
STEER_FN Pair pair_of(const Problem &p, const Tile &t, const float *r, V keep,
                                                  bool with_slope) {
  Pair a;
  V dx = r[Samples::kU] - t.x, dy = r[Samples::kV] - t.y;
  if (WINDOW) {
    VI inside = (magnitude(dx) <= (float)p.window_cols) & (magnitude(dy) <= (float)p.window_rows);
    a.keep = inside ? broadcast(1.f) : broadcast(0.f);
    a.y = dy * (1.f / std::max(p.window_rows, 1)), a.x = dx * (1.f / std::max(p.window_cols, 1));
  } else {
    a.keep = keep;
    a.y = dy * t.inverse_spacing, a.x = dx * t.inverse_spacing;
  }
  a.half_inverse_square = p.bandwidth_extent == kPerPixel
                              ? t.half_inverse_square
                              : broadcast(r[Samples::kHalfInverseSquare]);
  a.q = (r[Samples::kC11] * a.y + r[Samples::kC12Twice] * a.x) * a.y + r[Samples::kC22] * a.x * a.x;
  a.exponent =
      log_profile(a.q, a.half_inverse_square, p.profile, with_slope ? &a.slope : nullptr);
  if (p.features) {
    V distance = V{};
    for (int f = 0; f < p.features; f++) {
      V d = t.guide[f] - r[Samples::kGuide + f];
      distance += d * d;
    }
    a.exponent -= 0.5f * distance;
  }
  return a;
}

STEER_FN V weight_of(const Pair &a, V shift) {
  V e = larger(a.exponent - shift, broadcast(kExponentFloor));
  return exponential(e) * a.keep;
}

// Sums over the tile's candidates; `shift` is non-zero in lanes whose weights needed rescaling.
template <int ORDER, bool WINDOW>
STEER_FN Sums<V, ORDER> accumulate(const Problem &p, const Samples &s, const Tile &t, V *shift) {
  Sums<V, ORDER> sums;
  sums.clear(V{});
  *shift = V{};
  const int count = t.candidates.size();
  for (int c = 0; c < count; c++) {
    const float *r = s.record(t.candidates[c]);
    const Pair a = pair_of<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
    sums.add(weight_of(a, V{}) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
  }
  VI poor = (sums.m[0] < kMassLow) | ~(sums.m[0] < kMassHigh);
  if (count && any(poor)) {
    V best = broadcast(-kInfinity);
    for (int c = 0; c < count; c++) {
      const float *r = s.record(t.candidates[c]);
      const Pair a = pair_of<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
      best = (a.keep * r[Samples::kScale] > 0.f) ? larger(best, a.exponent) : best;
    }
    *shift = poor & (best > -kInfinity) ? best : *shift;
    sums.clear(V{});
    for (int c = 0; c < count; c++) {
      const float *r = s.record(t.candidates[c]);
      const Pair a = pair_of<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
      sums.add(weight_of(a, *shift) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
    }
  }
  return sums;
}

// `images`: those of the batch, from `first` on, with samples in the same places: one search serves all.
template <int ORDER, bool WINDOW>
void forward_rows(const Problem &p, const std::vector<Samples> &images, int first, int row0, int row1) {
  Tile t;
  const size_t plane = (size_t)p.height * p.width;
  const float nothing = p.profile == kTanh ? 0 : std::numeric_limits<float>::quiet_NaN();
  for (int row = row0; row < row1; row += kTileRows) {
    first_reach(p, images[0], t);
    for (int col = 0; col < p.width; col += kTileCols) {
      place_tile(p, row, col, t);
      select<WINDOW>(p, images[0], t);
      for (size_t b = 0; b < images.size(); b++) {
        const Samples &s = images[b];
        fetch(p, first + b, t);
        V shift;
        const auto sums = accumulate<ORDER, WINDOW>(p, s, t, &shift);
        const auto fit = solve<V, ORDER, false>(sums, t.ridge);
        const V mass = sums.m[0] * exponential(shift);
        const size_t offset = (first + b) * plane;
        for (int l = 0; l < kLanes; l++) {
          if (t.pixel[l] < 0) continue;
          p.dense[offset + t.pixel[l]] = sums.m[0][l] > 0 ? fit.estimate[l] + s.reference : nothing;
          p.mass[offset + t.pixel[l]] = sums.m[0][l] > 0 ? mass[l] : 0;
        }
      }
    }
  }
}

// Tells whether two images of the batch have their samples in the same places.
bool same_positions(const Problem &p, int a, int b) {
  const size_t n = p.samples;
  return !std::memcmp(p.uv + a * n * 2, p.uv + b * n * 2, n * 2 * sizeof(float)) &&
         (!p.valid || !std::memcmp(p.valid + a * n, p.valid + b * n, n * sizeof(*p.valid)));
}

struct Forward {
  const Problem &p;
  template <int ORDER, bool WINDOW>
  void operator()() const {
    const int rows = std::max(kTileRows, 8), bands = (p.height + rows - 1) / rows;
    for (int first = 0, end; first < p.batch; first = end) {
      std::vector<Samples> images;
      for (end = first; end < p.batch && (end == first || same_positions(p, first, end)); end++)
        images.push_back(prepare(p, end));
      parallel(p.threads, bands, [&](int i) {
        forward_rows<ORDER, WINDOW>(p, images, first, i * rows, std::min((i + 1) * rows, p.height));
      });
    }
  }
};

}  // namespace STEER_ISA
}  // namespace steer
