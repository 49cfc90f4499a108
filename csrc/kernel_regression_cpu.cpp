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
#include <new>
#include <thread>
#include <vector>

#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
#include <immintrin.h>
#endif

// OpenMP, if torch brought it into the process: its threads keep a core busy for some milliseconds
// after every torch operation, so they had better do the work than slow down threads of our own.
extern "C" void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags)
    __attribute__((weak));

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

// log(x) to 2 ulp or so for positive normal x.
inline __attribute__((always_inline)) V logarithm(V x) {
  VI bits = (VI)x;
  VI exponent = ((bits - 0x3f3504f3) >> 23);  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  V f = (V)(bits - (exponent << 23)) - 1.f;
  V n = __builtin_convertvector(exponent, V);
  V p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  V ff = f * f;
  return n * 0.693359375f + (f + (p * f * ff - 0.5f * ff + n * -2.12194440e-4f));
}

inline __attribute__((always_inline)) V larger(V a, V b) { return a > b ? a : b; }
inline __attribute__((always_inline)) V smaller(V a, V b) { return a < b ? a : b; }
inline __attribute__((always_inline)) V magnitude(V a) { return (V)((VI)a & 0x7fffffff); }

inline __attribute__((always_inline)) unsigned lanes_of(VI mask) {
#if defined(STEER_ISA_AVX512)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(STEER_ISA_AVX2)
  return _mm256_movemask_ps((__m256)mask);
#else
  unsigned bits = 0;
  for (int l = 0; l < kLanes; l++) bits |= (unsigned)(mask[l] & 1) << l;
  return bits;
#endif
}

inline __attribute__((always_inline)) bool any(VI mask) {
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
  return lanes_of(mask) != 0;
#else
  int32_t all = 0;
  for (int l = 0; l < kLanes; l++) all |= mask[l];
  return all != 0;
#endif
}

inline __attribute__((always_inline)) float largest(V x) {
  float most = x[0];
  for (int l = 1; l < kLanes; l++) most = std::max(most, x[l]);
  return most;
}

inline __attribute__((always_inline)) V load(const float *p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
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
  std::atomic<bool> failed{false};
  auto work = [&] {
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040);  // denormals cost a hundred cycles each
#endif
    try {
      for (int i; (i = next.fetch_add(1)) < count && !failed;) job(i);
    } catch (const std::exception &) {  // must not leave its thread
      failed = true;
    }
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    _mm_setcsr(state);
#endif
  };
  if (threads < 2 || count < 2) {
    work();
  } else if (GOMP_parallel) {
    GOMP_parallel([](void *w) { (*(decltype(work) *)w)(); }, &work, threads, 0);
  } else {
    std::vector<std::thread> pool;
    for (int t = 1; t < std::min(threads, count); t++) pool.emplace_back(work);
    work();
    for (auto &t : pool) t.join();
  }
  if (failed) throw std::bad_alloc();
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

// A growing list of integers, filled by the vector.
class List {
 public:
  void clear() { count_ = 0; }

  // Adds first + the number of every bit of `hits`.
  inline __attribute__((always_inline)) void add(int first, unsigned hits) {
    if (items_.size() < (size_t)count_ + kLanes) items_.resize(2 * items_.size() + kLanes);
    int *to = items_.data() + count_;
    count_ += __builtin_popcount(hits);
#if defined(STEER_ISA_AVX512)
    VI number;
    for (int l = 0; l < kLanes; l++) number[l] = first + l;
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(hits, (__m512i)number));
#else
    for (; hits; hits &= hits - 1) *to++ = first + __builtin_ctz(hits);
#endif
  }

  void resize(int count) { count_ = count; }  // never more than were added
  bool empty() const { return count_ == 0; }
  int size() const { return count_; }
  int &operator[](int i) { return items_[i]; }
  int operator[](int i) const { return items_[i]; }
  const int *begin() const { return items_.data(); }
  const int *end() const { return items_.data() + count_; }

 private:
  std::vector<int> items_;
  int count_ = 0;
};

// A block of pixels, one a lane, with the samples that can matter to it.
struct Tile {
  V x, y;
  float x0, x1, y0, y1;     // extreme pixel centres
  int pixel[kLanes];        // offset in the image, or -1 for a lane beyond its edge
  V half_inverse_square, ridge, bandwidth;
  V inverse_spacing;         // neighbours: 1 / local spacing
  float reach[4];            // neighbours: how far each quadrant (2 below + right) is searched
  std::vector<V> guide;
  List candidates;
  List by_sector[8];         // several sectors: the candidates that can lie in each
  std::vector<V> keep;       // neighbours: a candidate's taper
};

inline __attribute__((always_inline)) V distance2(V dy, V dx) { return dx * dx + dy * dy; }

inline __attribute__((always_inline)) VI in_sector(int sectors, int sector, V dy, V dx) {
  if (sectors == 1) return V{} == 0.f;
  VI down = dy >= 0.f, right = dx >= 0.f;
  VI match = ((sector & 2) ? down : ~down) & ((sector & 1) ? right : ~right);
  if (sectors == 8) {
    VI steep = magnitude(dy) > magnitude(dx);
    match &= (sector & 4) ? steep : ~steep;
  }
  return match;
}

// By lane: the number of the sector's entry in `table`.
inline __attribute__((always_inline)) V of_sector(int sectors, const V *table, V dy, V dx) {
  if (sectors == 1) return table[0];
  const VI down = dy >= 0.f, right = dx >= 0.f;
  auto quadrant = [&](const V *t) {
    return down ? (right ? t[3] : t[2]) : (right ? t[1] : t[0]);
  };
  if (sectors == 4) return quadrant(table);
  return magnitude(dy) > magnitude(dx) ? quadrant(table + 4) : quadrant(table);
}

// Collects the samples that the window of some pixel of the tile holds.
void select_window(const Problem &p, const Samples &s, Tile &t) {
  t.candidates.clear();
  const float u0 = t.x0 - p.window_cols, u1 = t.x1 + p.window_cols;
  const float v0 = t.y0 - p.window_rows, v1 = t.y1 + p.window_rows;
  const int c0 = s.column(u0), c1 = s.column(u1);
  for (int r = s.row(v0), r1 = s.row(v1); r <= r1; r++) {
    const int end = s.start[r * s.cols + c1 + 1];
    for (int i = s.start[r * s.cols + c0]; i < end; i += kLanes) {
      const V u = load(&s.u[i]), v = load(&s.v[i]);
      unsigned hits = lanes_of((u >= u0) & (u <= u1) & (v >= v0) & (v <= v1));
      if (end - i < kLanes) hits &= (1u << (end - i)) - 1;
      t.candidates.add(i, hits);
    }
  }
}

// Collects the samples within t.reach of the tile, each quadrant with its own.
void gather(const Samples &s, Tile &t) {
  t.candidates.clear();
  float reach[4];
  for (int q = 0; q < 4; q++) reach[q] = t.reach[q] * 1.0001f + 0.01f;  // beyond rounding
  const float up = std::max(reach[0], reach[1]), down = std::max(reach[2], reach[3]);
  const bool round = reach[0] == reach[1] && up == down && reach[2] == reach[3];
  for (int r = s.row(t.y0 - up), end_row = s.row(t.y1 + down); r <= end_row; r++) {
    const float low = r == 0 ? -kInfinity : s.top + r * s.cell;
    const float high = r == s.rows - 1 ? kInfinity : s.top + (r + 1) * s.cell;
    const float gap = std::max(0.f, std::max(t.y0 - high, low - t.y1));
    float left = 0, right = 0;
    if (low < t.y1) left = reach[0], right = reach[1];
    if (high >= t.y0) left = std::max(left, reach[2]), right = std::max(right, reach[3]);
    left = std::sqrt(std::max(0.f, left * left - gap * gap));
    right = std::sqrt(std::max(0.f, right * right - gap * gap));
    const int begin = s.start[r * s.cols + s.column(t.x0 - left)];
    const int end = s.start[r * s.cols + s.column(t.x1 + right) + 1];
    for (int i = begin; i < end; i += kLanes) {
      const V u = load(&s.u[i]), v = load(&s.v[i]), none = V{};
      const V dx = larger(larger(t.x0 - u, u - t.x1), none);
      const V dy = larger(larger(t.y0 - v, v - t.y1), none);
      V limit = broadcast(up);
      if (!round) {
        const VI above = v < t.y1, below = v >= t.y0, before = u < t.x1, after = u >= t.x0;
        limit = (above & before) ? broadcast(reach[0]) : none;
        limit = larger(limit, (above & after) ? broadcast(reach[1]) : none);
        limit = larger(limit, (below & before) ? broadcast(reach[2]) : none);
        limit = larger(limit, (below & after) ? broadcast(reach[3]) : none);
      }
      unsigned hits = lanes_of(distance2(dy, dx) <= limit * limit);
      if (end - i < kLanes) hits &= (1u << (end - i)) - 1;
      t.candidates.add(i, hits);
    }
  }
}

// Tells for every sector which candidates lie in it for some pixel of the tile.
template <int SECTORS>
void divide(const Samples &s, Tile &t) {
  for (auto &list : t.by_sector) list.clear();
  for (int first = 0; first < t.candidates.size(); first += kLanes) {
    const int some = std::min(kLanes, t.candidates.size() - first);
    V u{}, v{};
    for (int l = 0; l < some; l++)
      u[l] = s.u[t.candidates[first + l]], v[l] = s.v[t.candidates[first + l]];
    const VI above = v < t.y1, below = v >= t.y0, before = u < t.x1, after = u >= t.x0;
    VI steep{}, flat = ~steep;
    if (SECTORS == 8) {
      const V up = t.y0 - v, down = v - t.y1, left = t.x0 - u, right = u - t.x1;
      steep = larger(magnitude(up), magnitude(down)) > larger(larger(left, right), V{});
      flat = larger(larger(up, down), V{}) <= larger(magnitude(left), magnitude(right));
    }
    const VI quadrants[] = {above & before, above & after, below & before, below & after};
    for (int sector = 0; sector < SECTORS; sector++)
      t.by_sector[sector].add(first, ((1u << some) - 1) &
                              lanes_of(quadrants[sector & 3] & (sector & 4 ? steep : flat)));
  }
}

inline __attribute__((always_inline)) void order(V &a, V &b) {
  const V low = smaller(a, b);
  b = larger(a, b), a = low;
}

// Sorts N vectors, lane by lane, that rise and then fall.
template <int N>
inline __attribute__((always_inline)) void sort_bitonic(V *x) {
  if constexpr (N > 1) {
#pragma GCC unroll 16
    for (int i = 0; i < N / 2; i++) order(x[i], x[i + N / 2]);
    sort_bitonic<N / 2>(x);
    sort_bitonic<N / 2>(x + N / 2);
  }
}

// The smallest network that sorts eight.
inline __attribute__((always_inline)) void sort_eight(V *x) {
  order(x[0], x[2]), order(x[1], x[3]), order(x[4], x[6]), order(x[5], x[7]);
  order(x[0], x[4]), order(x[1], x[5]), order(x[2], x[6]), order(x[3], x[7]);
  order(x[0], x[1]), order(x[2], x[3]), order(x[4], x[5]), order(x[6], x[7]);
  order(x[2], x[4]), order(x[3], x[5]), order(x[1], x[4]), order(x[3], x[6]);
  order(x[1], x[2]), order(x[3], x[4]), order(x[5], x[6]);
}

// Of N sorted vectors and eight more keeps the N smallest, sorted. `held` and `more` reversed rise
// and fall (with N = 16, eight infinities lie between), so halves of them sort as networks do.
template <int N>
inline __attribute__((always_inline)) void merge_eight(V *held, V *more) {
  static_assert(N == 16 || N == 24, "as far as the networks go");
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    if (N == 16) {
      held[8 + i] = smaller(held[8 + i], more[7 - i]);
    } else {
      order(held[8 + i], more[7 - i]);
      held[16 + i] = smaller(held[16 + i], more[7 - i]);
    }
  }
  sort_bitonic<16>(held);
  if constexpr (N == 24) sort_bitonic<8>(held + 16);
}

// Squared distances of the nearest by sector and lane, in order.
struct Ranking {
  int sectors, each;
  V nearest[64];

  // Ranks the samples of one sector. EACH: how many, where known, so that they stay in registers.
  template <int SECTORS, int EACH>
  void rank(const Samples &s, const Tile &t, int sector) {
    const int n = EACH ? EACH : each;
    V held[EACH ? EACH : 64], *out = nearest + sector * each;
#pragma GCC unroll 16
    for (int k = 0; k < n; k++) held[k] = broadcast(kInfinity);
    const List &list = SECTORS == 1 ? t.candidates : t.by_sector[sector];
    for (int j : list) {
      const int i = SECTORS == 1 ? j : t.candidates[j];
      const V dx = s.u[i] - t.x, dy = s.v[i] - t.y;
      const V d2 = in_sector(SECTORS, sector, dy, dx) ? distance2(dy, dx) : broadcast(kInfinity);
      if (!EACH && !any(d2 < held[n - 1])) continue;
#pragma GCC unroll 16
      for (int k = n - 1; k > 0; k--) held[k] = larger(held[k - 1], smaller(held[k], d2));
      held[0] = smaller(held[0], d2);
    }
#pragma GCC unroll 16
    for (int k = 0; k < n; k++) out[k] = held[k];
  }

  // The same for one sector by sorting eight at a time, in half the steps; ranks EACH or more.
  template <int EACH>
  void rank_eights(const Samples &s, const Tile &t) {
    V held[EACH];
#pragma GCC unroll 24
    for (int k = 0; k < EACH; k++) held[k] = broadcast(kInfinity);
    const int count = t.candidates.size();
    for (int first = 0; first < count; first += 8) {
      V more[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) {
        const int i = t.candidates[std::min(first + k, count - 1)];
        more[k] = first + k < count ? distance2(s.v[i] - t.y, s.u[i] - t.x) : broadcast(kInfinity);
      }
      sort_eight(more);
      merge_eight<EACH>(held, more);
    }
#pragma GCC unroll 24
    for (int k = 0; k < EACH; k++) nearest[k] = held[k];
  }

  template <int SECTORS>
  void rank_all(const Samples &s, Tile &t) {
    if (SECTORS == 1 && each > 8 && each <= 16) return rank_eights<16>(s, t);
    if (SECTORS == 1 && each > 16 && each <= 24) return rank_eights<24>(s, t);
    if (SECTORS > 1) divide<SECTORS>(s, t);
    const auto one = each == 2   ? &Ranking::rank<SECTORS, 2>
                     : each == 4 ? &Ranking::rank<SECTORS, 4>
                                 : &Ranking::rank<SECTORS, 0>;
    for (int sector = 0; sector < SECTORS; sector++) (this->*one)(s, t, sector);
  }

  void rank_all(const Samples &s, Tile &t) {
    sectors == 1 ? rank_all<1>(s, t) : sectors == 4 ? rank_all<4>(s, t) : rank_all<8>(s, t);
  }

  V last(int sector) const { return nearest[sector * each + each - 1]; }
};

// The squared distance beyond which a sector holds no sample at all, by lane.
inline __attribute__((always_inline)) V limit2(const Samples &s, const Tile &t, int sectors, int sector) {
  if (sectors == 1) {
    const V y = larger(t.y - s.first_v, s.last_v - t.y), x = larger(t.x - s.first_u, s.last_u - t.x);
    return distance2(y, x);
  }
  const V y = (sector & 2) ? s.last_v - t.y : t.y - s.first_v;
  const V x = (sector & 1) ? s.last_u - t.x : t.x - s.first_u;
  const V both = smaller(y, x);
  const V far2 = sectors == 4 ? distance2(y, x) : distance2((sector & 4) ? y : x, both);
  return both < 0.f ? V{} : far2;
}

// Sets t.reach to what the K-th neighbours (or the ends of the sectors) need; true if that is more
// than was searched.
bool widen(const Samples &s, Tile &t, const Ranking &ranking) {
  bool wider = false;
  for (int q = 0; q < 4; q++) {
    const V unknown = broadcast(4 * t.reach[q] * t.reach[q] + 1);
    V needed = V{};
    for (int sector = q % ranking.sectors; sector < ranking.sectors; sector += 4) {
      const V last = ranking.last(sector);
      needed = larger(needed, smaller(last < kInfinity ? last : unknown,
                                      limit2(s, t, ranking.sectors, sector)));
    }
    const float reach = std::sqrt(largest(needed));
    wider |= reach > t.reach[q];
    t.reach[q] = reach;
  }
  return wider;
}

// The K nearest samples of every lane. The search starts as wide as the tile before needed and is
// widened until it holds them for certain, so it is exact however the samples lie.
void select_neighbours(const Problem &p, const Samples &s, Tile &t) {
  const int each = p.neighbours / p.sectors;
  Ranking ranking;
  ranking.sectors = p.sectors, ranking.each = each;
  const V infinity = broadcast(kInfinity);
  // Slack over the tile before: radii of sectors vary more from pixel to pixel.
  for (float &r : t.reach) r = p.sectors == 1 ? r * 1.05f + 1 : r * 1.2f + 2;
  do {
    gather(s, t);
    ranking.rank_all(s, t);
  } while (widen(s, t, ranking));

  // Local spacing: geometric mean of the sectors' radii, as if K samples filled a disc of it.
  V radius2[8], inverse2[8], logs = V{}, filled = V{};
  for (int sector = 0; sector < p.sectors; sector++) {
    V last = ranking.last(sector);
    radius2[sector] = larger(last, broadcast(1e-12f));
    inverse2[sector] = 1.f / radius2[sector];
    for (int i = each - 2; i >= 0 && any(last == infinity); i--)
      last = last < infinity ? last : ranking.nearest[sector * each + i];  // the farthest there is
    const VI some = last < infinity;
    logs += (some & (last > 0.f)) ? logarithm(last) : some ? broadcast(-1e30f) : V{};
    filled += some ? broadcast(1.f) : V{};
  }
  const V spacing = exponential(0.5f * logs / larger(filled, broadcast(1.f))) *
                    std::sqrt(kPi / p.neighbours);
  t.inverse_spacing = 1.f / larger(spacing, broadcast(kSmallestSpacing));

  int kept = 0;
  t.keep.resize(t.candidates.size());
  for (int i : t.candidates) {
    const float u = s.u[i], v = s.v[i];
    const V dx = u - t.x, dy = v - t.y;
    const V d2 = distance2(dy, dx), r2 = of_sector(p.sectors, radius2, dy, dx);
    t.candidates[kept] = i;
    t.keep[kept] = taper(d2, r2, of_sector(p.sectors, inverse2, dy, dx));
    kept += any(d2 < r2);  // no branch, which could not be foreseen
  }
  t.candidates.resize(kept);
}

// The tile's numbers of a plane of the image; lanes beyond its edge take those of lane 0.
V load_pixels(const Tile &t, const float *plane, int width) {
  V x;
  if (t.pixel[kLanes - 1] >= 0) {
    for (int r = 0; r < kTileRows; r++)
      std::memcpy((float *)&x + r * kTileCols, plane + t.pixel[0] + (size_t)r * width,
                  kTileCols * sizeof(float));
  } else {
    for (int l = 0; l < kLanes; l++) x[l] = plane[t.pixel[t.pixel[l] < 0 ? 0 : l]];
  }
  return x;
}

// Puts the tile at a place of the image.
void place(const Problem &p, int row, int col, Tile &t) {
  t.x0 = col, t.x1 = std::min(col + kTileCols, p.width) - 1;
  const float row_scale = p.neighbours ? p.row_scale : 1;
  t.y0 = row * row_scale, t.y1 = (std::min(row + kTileRows, p.height) - 1) * row_scale;
  for (int l = 0; l < kLanes; l++) {
    const int y = row + l / kTileCols, x = col + l % kTileCols;
    const int cy = std::min(y, p.height - 1), cx = std::min(x, p.width - 1);
    t.pixel[l] = y < p.height && x < p.width ? cy * p.width + cx : -1;
    t.x[l] = cx, t.y[l] = cy * row_scale;
  }
}

// Reads what an image of the batch gives for each of the tile's pixels.
void fetch(const Problem &p, int batch, Tile &t) {
  const size_t plane = (size_t)p.height * p.width, offset = (size_t)batch * plane;
  t.ridge = p.ridge_extent == kPerPixel ? load_pixels(t, p.ridge + offset, p.width)
            : p.ridge_extent == kOne    ? broadcast(p.ridge[0])
                                        : V{};
  t.guide.resize(p.features);
  for (int f = 0; f < p.features; f++)
    t.guide[f] = load_pixels(t, p.guide + ((size_t)batch * p.features + f) * plane, p.width);
  if (p.bandwidth_extent != kPerPixel) return;
  t.bandwidth = load_pixels(t, p.bandwidth + offset, p.width);
  t.half_inverse_square = 0.5f / (t.bandwidth * t.bandwidth);
}

// Everything about one (sample, tile) pair that both directions need.
struct Pair {
  V y, x, q, half_inverse_square, exponent, slope, keep;
};

template <bool WINDOW>
inline __attribute__((always_inline)) Pair relate(const Problem &p, const Tile &t, const float *r, V keep,
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
  const int count = t.candidates.size();
  for (int c = 0; c < count; c++) {
    const float *r = s.record(t.candidates[c]);
    const Pair a = relate<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
    sums.add(weight_of(a, V{}) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
  }
  VI poor = (sums.m[0] < kMassLow) | ~(sums.m[0] < kMassHigh);
  if (count && any(poor)) {
    V best = broadcast(-kInfinity);
    for (int c = 0; c < count; c++) {
      const float *r = s.record(t.candidates[c]);
      const Pair a = relate<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
      best = (a.keep * r[Samples::kScale] > 0.f) ? larger(best, a.exponent) : best;
    }
    *shift = poor & (best > -kInfinity) ? best : *shift;
    sums.clear(V{});
    for (int c = 0; c < count; c++) {
      const float *r = s.record(t.candidates[c]);
      const Pair a = relate<WINDOW>(p, t, r, WINDOW ? V{} : t.keep[c], false);
      sums.add(weight_of(a, *shift) * r[Samples::kScale], a.y, a.x, r[Samples::kValue]);
    }
  }
  return sums;
}

template <bool WINDOW>
void select(const Problem &p, const Samples &s, Tile &t) {
  if (WINDOW)
    select_window(p, s, t);
  else
    select_neighbours(p, s, t);
}

// Where the search of a row of tiles starts: K samples, were they spread evenly.
void first_reach(const Problem &p, const Samples &s, Tile &t) {
  const float area = s.rows * s.cols * s.cell * s.cell;
  for (float &r : t.reach) r = std::sqrt(p.neighbours * area / (kPi * std::max(s.count, 1)));
}

// `images`: those of the batch, from `first` on, whose samples lie alike: one search serves them all.
template <int ORDER, bool WINDOW>
void forward_rows(const Problem &p, const std::vector<Samples> &images, int first, int row0, int row1) {
  Tile t;
  const size_t plane = (size_t)p.height * p.width;
  const float nothing = p.profile == kTanh ? 0 : std::numeric_limits<float>::quiet_NaN();
  for (int row = row0; row < row1; row += kTileRows) {
    first_reach(p, images[0], t);
    for (int col = 0; col < p.width; col += kTileCols) {
      place(p, row, col, t);
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

// Turns COUNT vectors into one whose lane l < COUNT is the sum over the lanes of vector l.
template <int COUNT>
inline __attribute__((always_inline)) V sum_lanes(V *v) {
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
inline __attribute__((always_inline)) void add_sums(V *lanes, int stride, float *out) {
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
  place(p, row, col, t);
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
inline __attribute__((always_inline)) void add_pair(const Problem &p, const float *r, V keep,
                                                    Adjoint<ORDER> &own, V *lanes) {
  const Pair a = relate<WINDOW>(p, own.t, r, keep, true);
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

template <class Run>
void dispatch(const Problem &p, Run run) {
  const bool window = p.neighbours == 0;
  if (p.order == 0) window ? run.template operator()<0, true>() : run.template operator()<0, false>();
  if (p.order == 1) window ? run.template operator()<1, true>() : run.template operator()<1, false>();
  if (p.order == 2) window ? run.template operator()<2, true>() : run.template operator()<2, false>();
}

// Tells whether two images of the batch have their samples in the same places.
bool lie_alike(const Problem &p, int a, int b) {
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
      for (end = first; end < p.batch && (end == first || lie_alike(p, first, end)); end++)
        images.push_back(prepare(p, end));
      parallel(p.threads, bands, [&](int i) {
        forward_rows<ORDER, WINDOW>(p, images, first, i * rows, std::min((i + 1) * rows, p.height));
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

STEER_EXPORT const char *steer_abi() { return steer::abi(); }

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
