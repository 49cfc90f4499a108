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
// Kernel regression on CPU cores: a tile of pixels is one SIMD vector, the samples near the tile are
// broadcast to its lanes. Compiled into one library an instruction set (STEER_ISA): objects of several
// sets must not share a library, or the linker may keep the AVX copy of a std:: template for all.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <thread>
#include <vector>

#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
#include <immintrin.h>
#endif

namespace steer {
namespace STEER_ISA {

#if defined(STEER_ISA_AVX512)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kTileCols = 4, kTileRows = kLanes / kTileCols;
typedef float V __attribute__((vector_size(4 * kLanes), aligned(4 * kLanes)));
typedef int32_t VI __attribute__((vector_size(4 * kLanes), aligned(4 * kLanes)));

inline __attribute__((always_inline)) V broadcast(float x) { return x - V{}; }

// exp(x) to 1 ulp or so for x in [-87, 88]; the argument is clamped to that range.
inline __attribute__((always_inline)) V exponential(V x) {
  x = x < broadcast(-87.f) ? broadcast(-87.f) : x;
  x = x > broadcast(88.f) ? broadcast(88.f) : x;
  const V shift = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  V n = x * 1.44269504f + shift;
  VI exponent = ((VI)n - (VI)shift + 127) << 23;
  n -= shift;
  V r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * (V)exponent;
}

inline __attribute__((always_inline)) V larger(V a, V b) { return a > b ? a : b; }
inline __attribute__((always_inline)) V smaller(V a, V b) { return a < b ? a : b; }
inline __attribute__((always_inline)) V magnitude(V a) { return (V)((VI)a & 0x7fffffff); }

inline __attribute__((always_inline)) bool any(VI mask) {
#if defined(STEER_ISA_AVX512)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(STEER_ISA_AVX2)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t all = 0;
  for (int l = 0; l < kLanes; l++) all |= mask[l];
  return all != 0;
#endif
}

}  // namespace STEER_ISA
}  // namespace steer

namespace steer {
using STEER_ISA::exponential;
}
#include "kernel_regression.h"

namespace steer {
namespace STEER_ISA {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Runs job(0..count-1) on `threads` threads; jobs are handed out in order.
template <class Job>
void parallel(int threads, int count, Job job) {
  std::atomic<int> next{0};
  auto work = [&] {
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040);  // denormals cost a hundred cycles each
#endif
    for (int i; (i = next.fetch_add(1)) < count;) job(i);
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    _mm_setcsr(state);
#endif
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < std::min(threads, count); t++) pool.emplace_back(work);
  work();
  for (auto &t : pool) t.join();
}

// The samples of one image, sorted into grid cells, one record each.
struct Samples {
  enum { kU, kV, kValue, kC11, kC12Twice, kC22, kScale, kHalfInverseSquare, kGuide };
  int count = 0, stride = 0;
  std::vector<float> records;
  std::vector<int> origin;  // index of the sample that a record (or its mirror image) came from
  float left = 0, top = 0, cell = 1;
  int cols = 1, rows = 1;
  std::vector<int> start;  // first record of a cell, row by row, one past the end last
  std::vector<int> below;  // summed-area table of counts, (rows + 1) x (cols + 1)
  float reference = 0;     // subtracted from the values, added to the estimates

  const float *record(int i) const { return &records[(size_t)i * stride]; }
  int column(float u) const { return clamp_cell((u - left) / cell, cols); }
  int row(float v) const { return clamp_cell((v - top) / cell, rows); }
  int within(int r0, int r1, int c0, int c1) const {  // samples in the cells [r0..r1] x [c0..c1]
    const int w = cols + 1;
    return below[(r1 + 1) * w + c1 + 1] - below[r0 * w + c1 + 1] - below[(r1 + 1) * w + c0] +
           below[r0 * w + c0];
  }

 private:
  static int clamp_cell(float x, int n) {
    return x <= 0 ? 0 : x >= n - 1 ? n - 1 : (int)x;
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
  s.below.assign((size_t)(s.rows + 1) * (s.cols + 1), 0);
  for (int r = 0; r < s.rows; r++)
    for (int c = 0, along = 0; c < s.cols; c++) {
      along += s.start[r * s.cols + c + 1];
      s.below[(r + 1) * (s.cols + 1) + c + 1] = s.below[r * (s.cols + 1) + c + 1] + along;
    }
  for (size_t i = 1; i < s.start.size(); i++) s.start[i] += s.start[i - 1];

  s.records.resize((size_t)s.count * s.stride);
  s.origin.resize(s.count);
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
    r[Samples::kU] = placed[i].u, r[Samples::kV] = placed[i].v;
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

// A block of pixels, one a lane, with the samples that can matter to it.
struct Tile {
  V x, y;
  float x0, x1, y0, y1;     // extreme pixel centres
  int pixel[kLanes];        // offset in the image, or -1 for a lane beyond its edge
  V half_inverse_square, ridge, bandwidth;
  V inverse_spacing;         // neighbours: 1 / local spacing
  V inverse_radius2[8];      // neighbours: by sector, of the K-th neighbour; 0: no taper
  std::vector<V> guide;
  std::vector<int> candidates;
};

struct Scratch {
  Tile tile;
  std::vector<int> seen;          // tile in which a sample was last taken
  std::vector<std::pair<int, float>> found;
  int tile_id = 0;
};

// SIMD side of the search: distances of the K nearest per sector, per lane.
struct Ranking {
  int sectors, each;
  V nearest[64];

  void clear() {
    for (int i = 0; i < sectors * each; i++) nearest[i] = broadcast(kInfinity);
  }

  inline __attribute__((always_inline)) void insert(int sector, V d2) {
    V *list = nearest + sector * each;
    if (!any(d2 < list[each - 1])) return;
    for (int i = 0; i < each; i++) {
      V low = smaller(list[i], d2);
      d2 = larger(list[i], d2);
      list[i] = low;
    }
  }
};

// Which sectors a sample can lie in, seen from the pixels of a tile.
struct SectorRange {
  int low_y, high_y, low_x, high_x;  // possible values of (dy >= 0) and (dx >= 0)

  SectorRange(const Tile &t, float u, float v)
      : low_y(v >= t.y1), high_y(v >= t.y0), low_x(u >= t.x1), high_x(u >= t.x0) {}
};

inline __attribute__((always_inline)) VI in_sector(int sectors, int sector, V dy, V dx) {
  VI down = dy >= 0.f, right = dx >= 0.f;
  VI match = ((sector & 2) ? down : ~down) & ((sector & 1) ? right : ~right);
  if (sectors == 8) {
    VI steep = magnitude(dy) > magnitude(dx);
    match &= (sector & 4) ? steep : ~steep;
  }
  return match;
}

// Calls visit(sector) for every sector that a sample can lie in for some pixel of the tile.
template <class Visit>
inline __attribute__((always_inline)) void for_sectors(int sectors, const SectorRange &r, Visit visit) {
  for (int sy = r.low_y; sy <= r.high_y; sy++)
    for (int sx = r.low_x; sx <= r.high_x; sx++) {
      visit(sy * 2 + sx);
      if (sectors == 8) visit(4 + sy * 2 + sx);
    }
}

void select_window(const Problem &p, const Samples &s, Tile &t) {
  t.candidates.clear();
  const float u0 = t.x0 - p.window_cols, u1 = t.x1 + p.window_cols;
  const float v0 = t.y0 - p.window_rows, v1 = t.y1 + p.window_rows;
  const int c0 = s.column(u0), c1 = s.column(u1);
  for (int r = s.row(v0), r1 = s.row(v1); r <= r1; r++) {
    const int end = s.start[r * s.cols + c1 + 1];
    for (int i = s.start[r * s.cols + c0]; i < end; i++) {
      const float *q = s.record(i);
      if (q[Samples::kU] >= u0 && q[Samples::kU] <= u1 && q[Samples::kV] >= v0 &&
          q[Samples::kV] <= v1)
        t.candidates.push_back(i);
    }
  }
}

// Collects every sample that is among the `each` nearest of some pixel of the tile, in one quadrant
// (down, right given) or all around (everywhere). `each`-th smallest distance from the tile's centre
// plus the tile's diameter bounds the search, so the result is exact.
void gather(const Samples &s, Scratch &scratch, int each, int sectors, bool everywhere, bool down,
            bool right) {
  Tile &t = scratch.tile;
  auto &found = scratch.found;
  found.clear();
  const float cx = (t.x0 + t.x1) / 2, cy = (t.y0 + t.y1) / 2;
  const float diameter = std::hypot(t.x1 - t.x0, t.y1 - t.y0);
  const bool grow_up = everywhere || !down, grow_down = everywhere || down;
  const bool grow_left = everywhere || !right, grow_right = everywhere || right;
  const int parts = everywhere || sectors == 4 ? 1 : 2;
  float nearest[2][64];
  int have[2] = {0, 0};

  auto take = [&](int r, int c0, int c1) {
    const int end = s.start[r * s.cols + c1 + 1];
    for (int i = s.start[r * s.cols + c0]; i < end; i++) {
      const float *q = s.record(i);
      const float u = q[Samples::kU], v = q[Samples::kV];
      bool strict = true;
      int part = 0;
      if (!everywhere) {
        if ((down ? v < t.y0 : v >= t.y1) || (right ? u < t.x0 : u >= t.x1)) continue;
        strict = (down ? v >= t.y1 : v < t.y0) && (right ? u >= t.x1 : u < t.x0);
        if (parts == 2) {
          const float near_y = down ? v - t.y1 : t.y0 - v, far_y = down ? v - t.y0 : t.y1 - v;
          const float near_x = right ? u - t.x1 : t.x0 - u, far_x = right ? u - t.x0 : t.x1 - u;
          part = near_y > far_x;
          strict = strict && (part || far_y <= near_x);
        }
      }
      const float d = std::hypot(u - cx, v - cy);
      found.emplace_back(i, d);
      if (!strict) continue;
      float *list = nearest[part];
      int &count = have[part];
      if (count == each && d >= list[each - 1]) continue;
      int at = count < each ? count++ : each - 1;
      for (; at > 0 && list[at - 1] > d; at--) list[at] = list[at - 1];
      list[at] = d;
    }
  };

  int r0 = s.row(t.y0), r1 = s.row(t.y1), c0 = s.column(t.x0), c1 = s.column(t.x1);
  const int top = grow_up ? 0 : r0, bottom = grow_down ? s.rows - 1 : r1;
  const int first = grow_left ? 0 : c0, last = grow_right ? s.cols - 1 : c1;
  const int total = s.within(top, bottom, first, last);
  for (int r = r0; r <= r1; r++) take(r, c0, c1);
  int seen = s.within(r0, r1, c0, c1);
  float bound = kInfinity;
  while (seen < total) {
    if (have[0] == each && (parts == 1 || have[1] == each)) {
      bound = nearest[0][each - 1];
      if (parts == 2) bound = std::max(bound, nearest[1][each - 1]);
      bound += diameter;
      float covered = kInfinity;  // nothing unseen is nearer than this
      if (grow_up && r0 > 0) covered = std::min(covered, cy - (s.top + r0 * s.cell));
      if (grow_down && r1 < s.rows - 1) covered = std::min(covered, s.top + (r1 + 1) * s.cell - cy);
      if (grow_left && c0 > 0) covered = std::min(covered, cx - (s.left + c0 * s.cell));
      if (grow_right && c1 < s.cols - 1)
        covered = std::min(covered, s.left + (c1 + 1) * s.cell - cx);
      if (covered >= bound) break;
    }
    const int q0 = std::max(r0 - 1, top), q1 = std::min(r1 + 1, bottom);
    const int d0 = std::max(c0 - 1, first), d1 = std::min(c1 + 1, last);
    const int now = s.within(q0, q1, d0, d1);
    if (now > seen) {
      for (int r = q0; r <= q1; r++) {
        if (r < r0 || r > r1) {
          take(r, d0, d1);
        } else {
          if (d0 < c0) take(r, d0, d0);
          if (d1 > c1) take(r, d1, d1);
        }
      }
      seen = now;
    }
    r0 = q0, r1 = q1, c0 = d0, c1 = d1;
  }
  if (have[0] == each && (parts == 1 || have[1] == each)) {
    bound = nearest[0][each - 1];
    if (parts == 2) bound = std::max(bound, nearest[1][each - 1]);
    bound += diameter;
  } else {
    bound = kInfinity;
  }
  for (const auto &f : found)
    if (f.second <= bound && scratch.seen[f.first] != scratch.tile_id) {
      scratch.seen[f.first] = scratch.tile_id;
      t.candidates.push_back(f.first);
    }
}

void select_neighbours(const Problem &p, const Samples &s, Scratch &scratch) {
  Tile &t = scratch.tile;
  t.candidates.clear();
  scratch.tile_id++;
  const int each = p.neighbours / p.sectors;
  if (p.sectors == 1) {
    gather(s, scratch, each, 1, true, false, false);
  } else {
    for (int quadrant = 0; quadrant < 4; quadrant++)
      gather(s, scratch, each, p.sectors, false, quadrant & 2, quadrant & 1);
  }
  Ranking ranking;
  ranking.sectors = p.sectors, ranking.each = each;
  ranking.clear();
  const V infinity = broadcast(kInfinity);
  for (int i : t.candidates) {
    const float *q = s.record(i);
    V dx = q[Samples::kU] - t.x, dy = q[Samples::kV] - t.y, d2 = dx * dx + dy * dy;
    if (p.sectors == 1) {
      ranking.insert(0, d2);
    } else {
      for_sectors(p.sectors, SectorRange(t, q[Samples::kU], q[Samples::kV]), [&](int sector) {
        ranking.insert(sector, in_sector(p.sectors, sector, dy, dx) ? d2 : infinity);
      });
    }
  }
  // Local spacing: geometric mean of the sectors' radii, as if K samples filled a disc of it.
  V log_sum = V{}, filled = V{};
  for (int sector = 0; sector < p.sectors; sector++) {
    const V *list = ranking.nearest + sector * each;
    V radius2 = list[each - 1];
    VI full = radius2 < infinity;
    t.inverse_radius2[sector] = full ? 1.f / larger(radius2, broadcast(1e-12f)) : broadcast(0.f);
    for (int i = each - 2; i >= 0; i--)
      radius2 = radius2 < infinity ? radius2 : list[i];  // too few samples: the farthest one
    V logs;
    for (int l = 0; l < kLanes; l++) logs[l] = radius2[l] < kInfinity ? std::log(radius2[l]) : 0;
    log_sum += logs;
    filled += radius2 < infinity ? broadcast(1.f) : broadcast(0.f);
  }
  for (int l = 0; l < kLanes; l++) {
    const float spacing =
        filled[l] > 0 ? std::exp(0.5f * log_sum[l] / filled[l]) * std::sqrt(kPi / p.neighbours) : 1;
    t.inverse_spacing[l] = 1 / std::max(spacing, kSmallestSpacing);
  }
}

void place(const Problem &p, int batch, int row, int col, Tile &t) {
  const size_t plane = (size_t)p.height * p.width, offset = (size_t)batch * plane;
  t.x0 = col, t.x1 = std::min(col + kTileCols, p.width) - 1;
  const float row_scale = p.neighbours ? p.row_scale : 1;
  t.y0 = row * row_scale, t.y1 = (std::min(row + kTileRows, p.height) - 1) * row_scale;
  t.guide.resize(p.features);
  for (int l = 0; l < kLanes; l++) {
    const int y = row + l / kTileCols, x = col + l % kTileCols;
    const int cy = std::min(y, p.height - 1), cx = std::min(x, p.width - 1), at = cy * p.width + cx;
    t.pixel[l] = y < p.height && x < p.width ? at : -1;
    t.x[l] = cx, t.y[l] = cy * row_scale;
    if (p.bandwidth_extent == kPerPixel) t.bandwidth[l] = p.bandwidth[offset + at];
    t.ridge[l] = p.ridge_extent == kPerPixel ? p.ridge[offset + at]
                 : p.ridge_extent == kOne    ? p.ridge[0]
                                             : 0;
    for (int f = 0; f < p.features; f++)
      t.guide[f][l] = p.guide[((size_t)batch * p.features + f) * plane + at];
  }
  if (p.bandwidth_extent == kPerPixel) t.half_inverse_square = 0.5f / (t.bandwidth * t.bandwidth);
}

// Everything about one (sample, tile) pair that both directions need.
struct Pair {
  V y, x, q, half_inverse_square, exponent, slope, keep;
};

template <bool WINDOW>
inline __attribute__((always_inline)) Pair relate(const Problem &p, const Tile &t, const float *r,
                                                  bool with_slope) {
  Pair a;
  V dx = r[Samples::kU] - t.x, dy = r[Samples::kV] - t.y;
  if (WINDOW) {
    VI inside = (magnitude(dx) <= (float)p.window_cols) & (magnitude(dy) <= (float)p.window_rows);
    a.keep = inside ? broadcast(1.f) : broadcast(0.f);
    a.y = dy * (1.f / std::max(p.window_rows, 1)), a.x = dx * (1.f / std::max(p.window_cols, 1));
  } else {
    V inverse_radius2 = t.inverse_radius2[0];
    if (p.sectors > 1)
      for_sectors(p.sectors, SectorRange(t, r[Samples::kU], r[Samples::kV]), [&](int sector) {
        inverse_radius2 = in_sector(p.sectors, sector, dy, dx) ? t.inverse_radius2[sector]
                                                               : inverse_radius2;
      });
    a.keep = taper(dx * dx + dy * dy, inverse_radius2);
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

inline __attribute__((always_inline)) V weight_of(const Pair &a, V shift) {
  V e = larger(a.exponent - shift, broadcast(kExponentFloor));
  return exponential(e) * a.keep;
}

// Sums over the tile's candidates; `shift` is non-zero in lanes whose weights needed rescaling.
template <int ORDER, bool WINDOW>
inline __attribute__((always_inline)) Sums<V, ORDER> accumulate(const Problem &p, const Samples &s, const Tile &t, V *shift) {
  Sums<V, ORDER> sums;
  sums.clear(V{});
  *shift = V{};
  for (int i : t.candidates) {
    const float *r = s.record(i);
    const Pair a = relate<WINDOW>(p, t, r, false);
    sums.add(weight_of(a, V{}) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
  }
  VI poor = (sums.m[0] < kMassLow) | ~(sums.m[0] < kMassHigh);
  if (!t.candidates.empty() && any(poor)) {
    V best = broadcast(-kInfinity);
    for (int i : t.candidates) {
      const float *r = s.record(i);
      const Pair a = relate<WINDOW>(p, t, r, false);
      best = (a.keep * r[Samples::kScale] > 0.f) ? larger(best, a.exponent) : best;
    }
    *shift = poor & (best > -kInfinity) ? best : *shift;
    sums.clear(V{});
    for (int i : t.candidates) {
      const float *r = s.record(i);
      const Pair a = relate<WINDOW>(p, t, r, false);
      sums.add(weight_of(a, *shift) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
    }
  }
  return sums;
}

void select(const Problem &p, const Samples &s, Scratch &scratch, bool window) {
  if (window)
    select_window(p, s, scratch.tile);
  else
    select_neighbours(p, s, scratch);
}

template <int ORDER, bool WINDOW>
void forward_rows(const Problem &p, const Samples &s, int batch, int row0, int row1) {
  Scratch scratch;
  scratch.seen.assign(s.count, 0);
  Tile &t = scratch.tile;
  const size_t offset = (size_t)batch * p.height * p.width;
  const float nothing = p.profile == kTanh ? 0 : std::numeric_limits<float>::quiet_NaN();
  for (int row = row0; row < row1; row += kTileRows)
    for (int col = 0; col < p.width; col += kTileCols) {
      place(p, batch, row, col, t);
      select(p, s, scratch, WINDOW);
      V shift;
      const auto sums = accumulate<ORDER, WINDOW>(p, s, t, &shift);
      const auto fit = solve<V, ORDER, false>(sums, t.ridge);
      const V mass = sums.m[0] * exponential(shift);
      for (int l = 0; l < kLanes; l++) {
        if (t.pixel[l] < 0) continue;
        p.dense[offset + t.pixel[l]] = sums.m[0][l] > 0 ? fit.estimate[l] + s.reference : nothing;
        p.mass[offset + t.pixel[l]] = sums.m[0][l] > 0 ? mass[l] : 0;
      }
    }
}

// Turns kLanes vectors into one whose lane l is the sum over the lanes of vector l.
inline __attribute__((always_inline)) V sum_lanes(V *v) {
#pragma GCC unroll 8
  for (int bit = 1; bit < kLanes; bit *= 2) {
    VI straight, crossed;
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; l++) {
      straight[l] = (l & bit ? kLanes : 0) + l;
      crossed[l] = (l & bit ? kLanes : 0) + (l ^ bit);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i += 2 * bit)
      v[i] = __builtin_shuffle(v[i], v[i + bit], straight) +
             __builtin_shuffle(v[i], v[i + bit], crossed);
  }
  return v[0];
}

// Per record: dL/dvalue, dL/dq y^2, 2 y x, x^2, dL/d|gamma|, then the guide's.
enum { kGradValue, kGrad11, kGrad12, kGrad22, kGradScale, kGradGuide };

template <int ORDER, bool WINDOW>
void backward_rows(const Problem &p, const Samples &s, int batch, int row0, int row1, int stride,
                   float *gradients) {
  Scratch scratch;
  scratch.seen.assign(s.count, 0);
  Tile &t = scratch.tile;
  const size_t plane = (size_t)p.height * p.width, offset = (size_t)batch * plane;
  std::vector<V> guide_gradient(p.features), lanes(stride);
  for (int row = row0; row < row1; row += kTileRows)
    for (int col = 0; col < p.width; col += kTileCols) {
      place(p, batch, row, col, t);
      V g, g_mass;
      for (int l = 0; l < kLanes; l++) {
        g[l] = t.pixel[l] < 0 ? 0 : p.grad_dense[offset + t.pixel[l]];
        g_mass[l] = t.pixel[l] < 0 ? 0 : p.grad_mass[offset + t.pixel[l]];
      }
      V g_bandwidth = V{}, g_ridge = V{};
      for (auto &v : guide_gradient) v = V{};
      if (any((g != 0.f) | (g_mass != 0.f))) {
        select(p, s, scratch, WINDOW);
        V shift;
        const auto sums = accumulate<ORDER, WINDOW>(p, s, t, &shift);
        const auto fit = solve<V, ORDER, true>(sums, t.ridge);
        VI empty = ~(sums.m[0] > 0.f);
        g = empty ? V{} : g;
        g_mass = (empty ? V{} : g_mass) * exponential(shift);
        V curvature = V{};  // sum of z_k beta_k over the terms that the ridge holds down
        for (int k = 0; k + 1 < terms(ORDER); k++) curvature += fit.influence[k] * fit.coefficients[k];
        curvature = empty ? V{} : curvature;
        g_ridge = -g * sums.m[0] * curvature;
        const V common = g_mass - g * t.ridge * curvature;
        for (int i : t.candidates) {
          const float *r = s.record(i);
          const Pair a = relate<WINDOW>(p, t, r, true);
          const V unscaled = weight_of(a, shift), w = unscaled * r[Samples::kScale];
          V influence = evaluate<V, ORDER>(fit.influence, a.y, a.x);
          influence = empty ? V{} : influence;
          V residual = r[Samples::kValue] - evaluate<V, ORDER>(fit.coefficients, a.y, a.x);
          residual = empty ? V{} : residual;
          const V g_weight = g * influence * residual + common;
          const V g_exponent = g_weight * w, g_q = g_exponent * a.slope;
          lanes[kGradValue] = g * w * influence;
          lanes[kGrad11] = g_q * a.y * a.y;
          lanes[kGrad12] = 2.f * g_q * a.y * a.x;
          lanes[kGrad22] = g_q * a.x * a.x;
          lanes[kGradScale] = g_weight * unscaled;
          for (int f = 0; f < p.features; f++) {
            V d = g_exponent * (t.guide[f] - r[Samples::kGuide + f]);
            lanes[kGradGuide + f] = d;
            guide_gradient[f] -= d;
          }
          for (int k = kGradGuide + p.features; k < stride; k++) lanes[k] = V{};
          g_bandwidth += g_q * a.q;
          float *out = gradients + (size_t)i * stride;
          for (int k = 0; k < stride; k += kLanes) {
            V old;
            std::memcpy(&old, out + k, sizeof old);
            old += sum_lanes(&lanes[k]);
            std::memcpy(out + k, &old, sizeof old);
          }
        }
        if (p.bandwidth_extent == kPerPixel) g_bandwidth *= -2.f / t.bandwidth;
      }
      for (int l = 0; l < kLanes; l++) {
        if (t.pixel[l] < 0) continue;
        const size_t at = offset + t.pixel[l];
        if (p.grad_bandwidth && p.bandwidth_extent == kPerPixel) p.grad_bandwidth[at] = g_bandwidth[l];
        if (p.grad_ridge) p.grad_ridge[at] = g_ridge[l];
        if (p.grad_guide)
          for (int f = 0; f < p.features; f++)
            p.grad_guide[((size_t)batch * p.features + f) * plane + t.pixel[l]] = guide_gradient[f][l];
      }
    }
}

template <class Run>
void dispatch(const Problem &p, Run run) {
  const bool window = p.neighbours == 0;
  if (p.order == 0) window ? run.template operator()<0, true>() : run.template operator()<0, false>();
  if (p.order == 1) window ? run.template operator()<1, true>() : run.template operator()<1, false>();
  if (p.order == 2) window ? run.template operator()<2, true>() : run.template operator()<2, false>();
}

struct Forward {
  const Problem &p;
  template <int ORDER, bool WINDOW>
  void operator()() const {
    const int rows = std::max(kTileRows, 8), bands = (p.height + rows - 1) / rows;
    for (int b = 0; b < p.batch; b++) {
      const Samples s = prepare(p, b);
      parallel(p.threads, bands, [&](int i) {
        forward_rows<ORDER, WINDOW>(p, s, b, i * rows, std::min((i + 1) * rows, p.height));
      });
    }
  }
};

struct Backward {
  const Problem &p;
  template <int ORDER, bool WINDOW>
  void operator()() const {
    // Each band sums into a buffer of its own; the buffers are added in order, so that the result
    // does not depend on the number of threads.
    const int bands = std::min(16, (p.height + 7) / 8);
    const int rows = ((p.height + bands - 1) / bands + kTileRows - 1) / kTileRows * kTileRows;
    const int stride = (kGradGuide + p.features + kLanes - 1) / kLanes * kLanes;
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

int forward(const Problem *p) {
  try {
    dispatch(*p, Forward{*p});
    return 0;
  } catch (const std::exception &) {  // out of memory or threads
    return 1;
  }
}

int backward(const Problem *p) {
  try {
    dispatch(*p, Backward{*p});
    return 0;
  } catch (const std::exception &) {
    return 1;
  }
}

}  // namespace STEER_ISA
}  // namespace steer

#define STEER_EXPORT extern "C" __attribute__((visibility("default")))
STEER_EXPORT int steer_forward(const steer::Problem *p) { return steer::STEER_ISA::forward(p); }
STEER_EXPORT int steer_backward(const steer::Problem *p) { return steer::STEER_ISA::backward(p); }

#if defined(STEER_ISA_GENERIC)
// The widest instruction set that this machine has, of those that the package is built for.
STEER_EXPORT const char *steer_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "generic";
}
#endif
