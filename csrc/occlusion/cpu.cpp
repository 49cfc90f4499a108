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
// Which samples others occlude, on CPU cores: steer_depth_ros/ops/occlusion.py is the specification. The
// nearest sample of each cell is in a grid, and those around a sample lie in an ellipse of cells.

#include <math.h>
#include <stddef.h>

#include <algorithm>
#include <vector>

#include "../kernel_regression/problem.h"
#include "../kernel_regression/status.h"
#include "../kernel_regression/threads.h"

namespace steer {

struct Occlusion {
  int samples, rows, columns, threads;  // rows, columns: of the grid
  float cell, reach_u, reach_v;         // pixels; cells
  float nearer, share;                  // an occluder is nearer by that factor; where its surface begins
  const float *uv, *depth;              // (N,2), (N)
  uint8_t *occluded;                    // (N)
};

namespace STEER_ISA {
namespace {

constexpr int kSectors = 16;  // of the circle around a sample

STEER_FN int extent(float reach) { return (int)ceilf(reach); }

struct Grid {
  float *nearness;  // (rows, columns) 1 / depth of the nearest sample of a cell, 0 where none is
  int *half_width;  // (extent(reach_v) + 1) cells left and right, by distance from the row of the sample
};

STEER_FN float nearness_of(float depth) { return depth > 0 ? 1 / fmaxf(depth, 1e-6f) : 0; }

STEER_FN int row_of(const Occlusion &p, int i) {
  return index_along(rintf(p.uv[2 * (size_t)i + 1] / p.cell), p.rows);
}
STEER_FN int column_of(const Occlusion &p, int i) {
  return index_along(rintf(p.uv[2 * (size_t)i] / p.cell), p.columns);
}

// A little more than the ellipse, so that all decide alike where it ends on a cell.
STEER_FN int half_width(const Occlusion &p, int dv) {
  const float y = dv / p.reach_v, rest = 1 - y * y;
  return rest < -1e-5f ? -1 : (int)(p.reach_u * sqrtf(fmaxf(rest, 0)) + 1e-4f);
}

// The sector of a direction, as a bit: sectors are counted from left over above and right to below.
STEER_FN unsigned sector_of(float y, float x) {
  int quarter = 0;  // turned into the one right of and below the sample
  if (y < 0 || (y == 0 && x < 0)) quarter = 2, y = -y, x = -x;
  if (x <= 0) {
    const float turned = -x;
    quarter++, x = y, y = turned;
  }
  const int within = (y >= .41421356f * x) + (y >= x) + (y >= 2.41421356f * x);
  return 1u << ((quarter + 2) % 4 * 4 + within);
}

// Whether half of the circle, or more, has no occupied sector.
STEER_FN bool half_is_empty(unsigned sectors) {
  unsigned empty = ~sectors & 0xffff;
  empty |= empty << kSectors;
  empty &= empty >> 1, empty &= empty >> 2, empty &= empty >> 4;
  return empty != 0;
}

// Calls take(nearness, dv, du) for the cells of the ellipse whose rows are `first` to `last`, until it
// returns true; returns whether it did.
template <class Take>
STEER_FN bool any_around(const Occlusion &p, const Grid &grid, int row, int column, int first, int last,
                         Take take) {
  if (first < -row) first = -row;
  if (last > p.rows - 1 - row) last = p.rows - 1 - row;
  for (int dv = first; dv <= last; dv++) {
    const float *cells = grid.nearness + (size_t)(row + dv) * p.columns + column;
    const int half = grid.half_width[dv < 0 ? -dv : dv];
    const int left = half < column ? half : column;
    const int right = half < p.columns - 1 - column ? half : p.columns - 1 - column;
    for (int du = -left; du <= right; du++)
      if (take(cells[du], dv, du)) return true;
  }
  return false;
}

STEER_FN bool is_occluded(const Occlusion &p, const Grid &grid, int i) {
  const float own = nearness_of(p.depth[i]), least = own * p.nearer;
  const int row = row_of(p, i), column = column_of(p, i), reach = extent(p.reach_v);
  const auto occludes = [=](float nearness, int, int) { return nearness > least; };
  // Few have nearer ones both above and below.
  if (!any_around(p, grid, row, column, -reach, 0, occludes)) return false;
  if (!any_around(p, grid, row, column, 0, reach, occludes)) return false;
  float nearest = 0;
  any_around(p, grid, row, column, -reach, reach, [&](float nearness, int dv, int du) {
    if (dv || du) nearest = fmaxf(nearest, nearness);
    return false;
  });
  // The occluder is the nearest surface: ground between it and the sample does not count.
  const float surface = fmaxf(least, own + p.share * (nearest - own));
  unsigned sectors = 0;
  any_around(p, grid, row, column, -reach, reach, [&](float nearness, int dv, int du) {
    if (nearness > surface && (dv || du)) sectors |= sector_of(dv * p.reach_u, du * p.reach_v);
    return false;
  });
  return !half_is_empty(sectors);
}

void find_occluded(const Occlusion &p) {
  // Kept: fetching two megabytes anew takes as long as all the rest.
  static thread_local std::vector<float> nearness;
  nearness.assign((size_t)p.rows * p.columns, 0.f);
  std::vector<int> half_widths(extent(p.reach_v) + 1);
  for (int i = 0; i < p.samples; i++) {
    float &nearest = nearness[(size_t)row_of(p, i) * p.columns + column_of(p, i)];
    nearest = std::max(nearest, nearness_of(p.depth[i]));
  }
  for (size_t dv = 0; dv < half_widths.size(); dv++) half_widths[dv] = half_width(p, (int)dv);
  const Grid grid{nearness.data(), half_widths.data()};
  // Waiting for a second thread takes longer than what is less, where cores are busy.
  constexpr int kPart = 1 << 15;
  parallel(p.threads, (p.samples + kPart - 1) / kPart, [&](int part) {
    for (int i = part * kPart; i < std::min((part + 1) * kPart, p.samples); i++)
      p.occluded[i] = is_occluded(p, grid, i);
  });
}

}  // namespace
}  // namespace STEER_ISA
}  // namespace steer

STEER_EXPORT int steer_occlusion(const steer::Occlusion *p) {
  return steer::STEER_ISA::status_of([=] { steer::STEER_ISA::find_occluded(*p); });
}
