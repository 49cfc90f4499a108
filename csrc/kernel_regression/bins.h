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
// The samples of an image and their reflections, sorted into grid cells.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "simd.h"  // first: fit.h calls its functions

#include "fit.h"

namespace steer {
namespace STEER_ISA {

// The samples of one image, sorted into grid cells, one record each.
struct Samples {
  enum { kU, kV, kValue, kC11, kC12Twice, kC22, kScale, kHalfInverseSquare, kGuide };
  int count = 0, stride = 0;
  std::vector<float> records;
  std::vector<int> origin;  // index of the sample that a record (or its mirror image) came from
  float left = 0, top = 0, cell = 1;
  int cols = 1, rows = 1;
  std::vector<int> start;  // first record of a cell, row by row, one past the end last
  std::vector<float> u, v;  // of the records, padded to whole vectors
  float first_u = kInfinity, last_u = -kInfinity, first_v = kInfinity, last_v = -kInfinity;
  float reference = 0;     // subtracted from the values, added to the estimates

  const float *record(int i) const { return &records[(size_t)i * stride]; }
  int column(float u) const { return clamp_cell((u - left) / cell, cols); }
  int row(float v) const { return clamp_cell((v - top) / cell, rows); }

 private:
  static int clamp_cell(float x, int n) {  // NaN, where nothing checked the positions: 0
    return !(x > 0) ? 0 : x >= n - 1 ? n - 1 : (int)x;
  }
};

// `x` and its reflections over 0 and `last`, again and again, as far as `reach` beyond the border; the
// edge itself is not repeated. What lies outside the image is not reflected.
void mirror_images(float x, float last, float reach, bool mirror, std::vector<float> &images) {
  images.assign(1, x);
  if (!mirror || x < 0 || x > last || last == 0) return;
  const int turns = (int)(reach / (2 * last)) + 1;
  for (int k = -turns; k <= turns; k++) {
    if (k) images.push_back(2 * k * last + x);
    if (x > 0 && x < last) images.push_back(2 * k * last - x);
  }
}

Samples prepare(const Problem &p, int batch) {
  Samples s;
  const int n = p.samples;
  const float *uv = p.uv + (size_t)batch * n * 2, *values = p.values + (size_t)batch * n;
  const bool window = p.neighbours == 0, mirror = p.border == kMirror;
  const float reach_y = p.window_rows, reach_x = p.window_cols;
  const float last_y = p.height - 1, last_x = p.width - 1;

  struct Placed { float u, v; int origin; };
  std::vector<Placed> placed;
  placed.reserve(n);
  std::vector<float> us, vs;
  for (int i = 0; i < n; i++) {
    if (p.valid && !p.valid[(size_t)batch * n + i]) continue;
    mirror_images(uv[2 * i], last_x, reach_x, mirror, us);
    mirror_images(uv[2 * i + 1], last_y, reach_y, mirror, vs);
    for (float v : vs)
      for (float u : us)
        if (!window || (u >= -reach_x && u <= last_x + reach_x && v >= -reach_y &&
                        v <= last_y + reach_y))
          placed.push_back({u, window ? v : v * p.row_scale, i});
  }
  s.count = (int)placed.size();
  s.stride = Samples::kGuide + p.features;
  if (s.count) s.reference = values[placed[0].origin];

  s.left = window ? -reach_x : 0, s.top = window ? -reach_y : 0;
  const float span_x = window ? last_x + 2 * reach_x + 1 : p.width;
  const float span_y = window ? last_y + 2 * reach_y + 1 : p.height * p.row_scale;
  // Window: cells small against the window. Neighbours: about two samples a cell.
  s.cell = window ? std::max(2.f, std::min(reach_x, reach_y) / 4)
                  : std::max(2.f, std::sqrt(2.f * span_x * span_y / std::max(s.count, 1)));
  s.cols = std::max(1, (int)std::ceil(span_x / s.cell));
  s.rows = std::max(1, (int)std::ceil(span_y / s.cell));

  s.start.assign((size_t)s.rows * s.cols + 1, 0);
  std::vector<int> cells(s.count);
  for (int i = 0; i < s.count; i++) {
    cells[i] = s.row(placed[i].v) * s.cols + s.column(placed[i].u);
    s.start[cells[i] + 1]++;
  }
  for (size_t i = 1; i < s.start.size(); i++) s.start[i] += s.start[i - 1];

  s.records.resize((size_t)s.count * s.stride);
  s.origin.resize(s.count);
  s.u.resize(s.count + kLanes), s.v.resize(s.count + kLanes);
  std::vector<int> fill(s.start.begin(), s.start.end() - 1);
  // In window mode q is taken of coordinates scaled by the window, as the fit is.
  const float scale_y = window ? std::max(reach_y, 1.f) : 1, scale_x = window ? std::max(reach_x, 1.f) : 1;
  for (int i = 0; i < s.count; i++) {
    const int at = fill[cells[i]]++, from = placed[i].origin;
    const size_t global = (size_t)batch * n + from;
    s.origin[at] = from;
    float *r = &s.records[(size_t)at * s.stride];
    const float *steering = p.steering + global * 3;
    const Steering k = steering_of(steering[0], steering[1], steering[2], p.profile);
    r[Samples::kU] = s.u[at] = placed[i].u, r[Samples::kV] = s.v[at] = placed[i].v;
    s.first_u = std::min(s.first_u, s.u[at]), s.last_u = std::max(s.last_u, s.u[at]);
    s.first_v = std::min(s.first_v, s.v[at]), s.last_v = std::max(s.last_v, s.v[at]);
    r[Samples::kValue] = values[from] - s.reference;
    r[Samples::kC11] = k.c11 * scale_y * scale_y;
    r[Samples::kC12Twice] = 2 * k.c12 * scale_y * scale_x;
    r[Samples::kC22] = k.c22 * scale_x * scale_x;
    r[Samples::kScale] = k.scale;
    if (p.bandwidth_extent != kPerPixel) {
      const float h = p.bandwidth[p.bandwidth_extent == kPerSample ? global : 0];
      r[Samples::kHalfInverseSquare] = 1 / (2 * h * h);
    }
    for (int f = 0; f < p.features; f++)
      r[Samples::kGuide + f] = p.guide_at_samples[global * p.features + f];
  }
  return s;
}

}  // namespace STEER_ISA
}  // namespace steer
