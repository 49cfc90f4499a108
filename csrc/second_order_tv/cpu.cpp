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
// A step of second-order total variation on CPU cores: a band of rows a thread, a SIMD vector of
// pixels at a time. Compiled into the CPU libraries, one per instruction set.

#include <cmath>
#include <memory>
#include <vector>

#include "../kernel_regression/simd.h"
#include "../kernel_regression/status.h"
#include "../kernel_regression/threads.h"

namespace steer {
namespace STEER_ISA {
namespace {

STEER_FN V square_root(V x) {
#if defined(STEER_ISA_AVX512)
  return (V)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(STEER_ISA_AVX2)
  return (V)_mm256_sqrt_ps((__m256)x);
#else
  for (int l = 0; l < kLanes; ++l) x[l] = std::sqrt(x[l]);
  return x;
#endif
}

}  // namespace
}  // namespace STEER_ISA
using STEER_ISA::square_root;
}  // namespace steer

#include "surface.h"

namespace steer {
namespace STEER_ISA {
namespace {

STEER_FN void store(float *p, V x) { std::memcpy(p, &x, sizeof x); }

STEER_FN float sum_of(V x) {
  float sum = 0.0f;
  for (int l = 0; l < kLanes; ++l) sum += x[l];
  return sum;
}

// Maps of one size in one piece of memory. Rows are whole vectors with a vector of zeros between, and
// a row above and below, so that no border is special: there, too, a pixel's neighbors can be read.
class Maps {
 public:
  Maps(int count, long height, long width)
      : padded((width + kLanes - 1) / kLanes * kLanes), pitch_(padded + kLanes),
        each_((height + 2) * pitch_ + kLanes), height_(height),
        memory_(new float[count * each_ + kLanes]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    aligned_ = memory_.get() + (-address / sizeof(float)) % kLanes;
  }

  float *row(int map, long y) { return aligned_ + map * each_ + (y + 1) * pitch_ + kLanes; }
  const float *row(int map, long y) const { return const_cast<Maps *>(this)->row(map, y); }

  // Zeros around the rows from `first` to `end`: between them, and above and below the map.
  void clear_margins(int map, long first, long end) {
    if (first == 0) std::fill_n(row(map, -1) - kLanes, pitch_, 0.0f);
    for (long y = first; y < end; ++y) std::fill_n(row(map, y) - kLanes, kLanes, 0.0f);
    if (end == height_) std::fill_n(row(map, height_) - kLanes, pitch_ + kLanes, 0.0f);
  }

  void clear_row(int map, long y) { std::fill_n(row(map, y), padded, 0.0f); }

  void copy_row(int map, long y, const float *from, long width) {
    float *to = row(map, y);
    std::copy_n(from, width, to);
    std::fill(to + width, to + padded, 0.0f);
  }

  const long padded;  // floats of a row, without the zeros between

 private:
  const long pitch_, each_, height_;
  std::unique_ptr<float[]> memory_;
  float *aligned_;
};

// kAlongX to kAcross: the weights of second differences. Bands have one direction or the other, in
// turns: at either end a band finds two rows of its neighbor's anew, which is cheaper than to wait.
enum Map {
  kAlongX, kAlongY, kAcross, kDataWeight, kSolution, kResidual, kImage, kInverse, kDirection,
  kMaps = kDirection + 2
};
constexpr int kReach = 2;
constexpr int kLeastRows = 16;  // of a band

double sum_of(const std::vector<double> &rows) {
  double sum = 0.0;
  for (const double row : rows) sum += row;
  return sum;
}

// What one thread keeps of three rows around the one that it is at, by row modulo 3.
class Rows {
 public:
  explicit Rows(long width) : maps_(9, 1, width) {
    for (int k = 0; k < 9; ++k) maps_.clear_margins(k, 0, 1), maps_.clear_row(k, 0);
  }
  float *of(int kind, long y) { return maps_.row(3 * kind + (y + 3) % 3, 0); }
  void clear(int kind, long y) { maps_.clear_row(3 * kind + (y + 3) % 3, 0); }
  void copy(int kind, long y, const float *from, long width) {
    maps_.copy_row(3 * kind + (y + 3) % 3, 0, from, width);
  }

 private:
  Maps maps_;
};

class Solver {
 public:
  explicit Solver(const Surface &p)
      : p_(p), height_(p.height), width_(p.width), maps_(kMaps, height_, width_),
        powers_(height_), works_(height_),
        threads_(std::max(1, std::min(p.threads, p.height / kLeastRows))) {
    rows_.reserve(threads_);
    for (int t = 0; t < threads_; ++t) rows_.emplace_back(width_);
  }

  void run() {
    together(threads_, [&](int rank, int team) {
      const Map direction = static_cast<Map>(kDirection + rank % 2);
      band(rows_[rank], direction, height_ * rank / team, height_ * (rank + 1) / team, team);
    });
  }

 private:
  void band(Rows &rows, Map direction, long first, long end, int team) {
    const long before = std::max(0L, first - kReach), after = std::min(height_, end + kReach);
    for (int map = 0; map < kDirection; ++map) maps_.clear_margins(map, first, end);
    maps_.clear_margins(direction, before, after);
    for (long y = before; y < after; ++y) maps_.clear_row(direction, y);
    for (long y = first; y < end; ++y) maps_.copy_row(kSolution, y, p_.start + y * width_, width_);
    add_samples(first, end);
    barrier_.wait(team);
    find_weights(rows, first, end);
    barrier_.wait(team);
    apply<false>(kSolution, rows, first, end, [](long) {});
    for (long y = first; y < end; ++y) begin_row(y);
    barrier_.wait(team);
    iterate(rows, direction, first, end, team);
  }

  void iterate(Rows &rows, Map direction, long first, long end, int team) {
    double power = sum_of(powers_);
    float alpha = 0.0f, beta = 0.0f;
    for (int step = 0; step < p_.steps && power > 0.0; ++step) {
      for (long y = std::max(0L, first - kReach); y < first; ++y) turn_row(direction, y, beta);
      apply<true>(direction, rows, first, end, [&](long y) {
        if (y < end) go_row(direction, y, alpha);
        turn_row(direction, y, beta);
      });
      barrier_.wait(team);
      const double work = sum_of(works_);
      if (!(work > 0.0)) {
        alpha = 0.0f;
        break;
      }
      alpha = static_cast<float>(power / work);
      for (long y = first; y < end; ++y) step_row(y, alpha);
      barrier_.wait(team);
      const double next = sum_of(powers_);
      beta = static_cast<float>(next / power);
      power = next;
    }
    for (long y = first; y < end; ++y) {
      const float *z = maps_.row(kSolution, y), *d = maps_.row(direction, y);
      float *out = p_.solution + y * width_;
      for (long x = 0; x < width_; ++x) out[x] = alpha > 0.0f ? z[x] + alpha * d[x] : z[x];
    }
  }

  void add_samples(long first, long end) {
    for (long y = first; y < end; ++y)
      for (const int map : {kDataWeight, kResidual}) maps_.clear_row(map, y);
    for (int i = 0; i < p_.samples; ++i) {
      const long y = row_of(p_, i);
      if (y < first || y >= end || (p_.valid && !p_.valid[i])) continue;
      const Pull pull = pull_of(p_, i);
      const long x = column_of(p_, i);
      maps_.row(kDataWeight, y)[x] += pull.weight;
      maps_.row(kResidual, y)[x] += pull.force;
    }
  }

  void find_weights(Rows &rows, long first, long end) {
    for (long y = first; y < end; ++y) {
      for (long near = y == first ? y - 1 : y + 1; near <= y + 1; ++near)
        for (int channel = 0; channel < 3; ++channel)
          if (near >= 0 && near < height_)
            rows.copy(channel, near, p_.lab + (channel * height_ + near) * width_, width_);
      weight_row(rows, y);
      // No second difference leaves the map.
      float *along_x = maps_.row(kAlongX, y), *across = maps_.row(kAcross, y);
      along_x[0] = 0.0f;
      std::fill(along_x + width_ - 1, along_x + maps_.padded, 0.0f);
      std::fill(across + width_ - 1, across + maps_.padded, 0.0f);
      std::fill(maps_.row(kAlongY, y) + width_, maps_.row(kAlongY, y) + maps_.padded, 0.0f);
      if (y == 0 || y == height_ - 1) maps_.clear_row(kAlongY, y);
      if (y == height_ - 1) maps_.clear_row(kAcross, y);
    }
  }

  void weight_row(Rows &rows, long y) {
    const float *z = maps_.row(kSolution, y), *up = maps_.row(kSolution, y - 1);
    const float *down = maps_.row(kSolution, y + 1);
    float *along_x = maps_.row(kAlongX, y), *along_y = maps_.row(kAlongY, y);
    float *across = maps_.row(kAcross, y);
    for (long x = 0; x < width_; x += kLanes) {
      Colors<V> colors;
      colors.clear();
      for (int channel = 0; channel < 3; ++channel) {
        const float *c = rows.of(channel, y) + x, *above = rows.of(channel, y - 1) + x;
        const float *below = rows.of(channel, y + 1) + x;
        colors.add(load(c), load(c - 1), load(c + 1), load(above), load(below), load(below + 1));
      }
      const V here = load(z + x), right = load(z + x + 1), below = load(down + x);
      const V by_square = inverse_square(p_, here);
      store(along_x + x, bending_weight(p_, bend(load(z + x - 1), here, right), by_square,
                                        colors.along_x()));
      store(along_y + x, bending_weight(p_, bend(load(up + x), here, below), by_square,
                                        colors.along_y()));
      store(across + x, bending_weight(p_, twist(here, right, below, load(down + x + 1)), by_square,
                                       colors.across()));
    }
  }

  // kImage = system * map in the rows from `first` to `end`; works_: map . image of each. ready(y) is
  // called before row y is first read. DATA: with the weights of the samples, or the second
  // differences alone.
  template <bool DATA, typename Ready>
  void apply(Map map, Rows &rows, long first, long end, Ready ready) {
    // Second differences of three rows around the one that is written; none above.
    if (first == 0)
      for (int kind = 1; kind < 3; ++kind) rows.clear(kind, -1);
    ready(first);
    if (first > 0) weigh(map, first - 1, rows);
    if (first + 1 < height_) ready(first + 1);
    weigh(map, first, rows);
    for (long y = first; y < end; ++y) {
      if (y + 2 < height_) ready(y + 2);
      weigh(map, y + 1, rows);
      works_[y] = apply_row<DATA>(map, y, rows);
    }
  }

  void weigh(Map map, long y, Rows &rows) {
    if (y >= height_) return rows.clear(1, y);
    float *along_x = rows.of(0, y), *along_y = rows.of(1, y), *across = rows.of(2, y);
    const float *above = maps_.row(map, y - 1), *m = maps_.row(map, y);
    const float *below = maps_.row(map, y + 1);
    const float *sx = maps_.row(kAlongX, y), *sy = maps_.row(kAlongY, y);
    const float *sd = maps_.row(kAcross, y);
    for (long x = 0; x < width_; x += kLanes) {
      const V here = load(m + x), right = load(m + x + 1), under = load(below + x);
      store(along_x + x, load(sx + x) * bend(load(m + x - 1), here, right));
      store(along_y + x, load(sy + x) * bend(load(above + x), here, under));
      store(across + x, load(sd + x) * twist(here, right, under, load(below + x + 1)));
    }
  }

  template <bool DATA>
  float apply_row(Map map, long y, Rows &rows) {
    const float *along_x = rows.of(0, y), *up = rows.of(1, y - 1), *along_y = rows.of(1, y);
    const float *down = rows.of(1, y + 1), *before = rows.of(2, y - 1), *across = rows.of(2, y);
    const float *m = maps_.row(map, y), *weight = maps_.row(kDataWeight, y);
    float *out = maps_.row(kImage, y);
    V total = {};
    for (long x = 0; x < width_; x += kLanes) {
      const V here = load(m + x);
      V image = force(load(along_x + x - 1), load(along_x + x), load(along_x + x + 1), load(up + x),
                      load(along_y + x), load(down + x), load(across + x), load(across + x - 1),
                      load(before + x), load(before + x - 1));
      if (DATA) image += load(weight + x) * here;
      store(out + x, image);
      total += image * here;
    }
    return sum_of(total);
  }

  void begin_row(long y) {
    const float *sx = maps_.row(kAlongX, y), *sy = maps_.row(kAlongY, y);
    const float *sd = maps_.row(kAcross, y), *above = maps_.row(kAlongY, y - 1);
    const float *below = maps_.row(kAlongY, y + 1), *sd_above = maps_.row(kAcross, y - 1);
    const float *image = maps_.row(kImage, y), *weight = maps_.row(kDataWeight, y);
    float *r = maps_.row(kResidual, y), *inverse = maps_.row(kInverse, y);
    V total = {};
    for (long x = 0; x < width_; x += kLanes) {
      const V own = diagonal(load(sx + x - 1), load(sx + x), load(sx + x + 1), load(above + x),
                             load(sy + x), load(below + x), load(sd + x), load(sd + x - 1),
                             load(sd_above + x), load(sd_above + x - 1));
      const V by = 1.0f / (own + load(weight + x) + 1e-9f), left = load(r + x) - load(image + x);
      store(inverse + x, by), store(r + x, left);
      total += left * left * by;
    }
    powers_[y] = sum_of(total);
  }

  // Goes the last step of the solution, whose length is only known now.
  void go_row(Map direction, long y, float alpha) {
    float *z = maps_.row(kSolution, y);
    const float *d = maps_.row(direction, y);
    for (long x = 0; x < width_; x += kLanes) store(z + x, load(z + x) + alpha * load(d + x));
  }

  void turn_row(Map direction, long y, float beta) {
    float *d = maps_.row(direction, y);
    const float *r = maps_.row(kResidual, y), *inverse = maps_.row(kInverse, y);
    for (long x = 0; x < width_; x += kLanes)
      store(d + x, load(inverse + x) * load(r + x) + beta * load(d + x));
  }

  void step_row(long y, float alpha) {
    float *r = maps_.row(kResidual, y);
    const float *image = maps_.row(kImage, y), *inverse = maps_.row(kInverse, y);
    V total = {};
    for (long x = 0; x < width_; x += kLanes) {
      const V left = load(r + x) - alpha * load(image + x);
      store(r + x, left);
      total += left * left * load(inverse + x);
    }
    powers_[y] = sum_of(total);
  }

  const Surface &p_;
  const long height_, width_;
  Maps maps_;
  // Sums of rows, which every thread adds up in the same order: results do not depend on how many.
  std::vector<double> powers_, works_;
  const int threads_;
  std::vector<Rows> rows_;
  Barrier barrier_;
};

}  // namespace
}  // namespace STEER_ISA
}  // namespace steer

// Where it fails, `solution` is not touched.
STEER_EXPORT int steer_surface(const steer::Surface *p) {
  return steer::STEER_ISA::status_of([=] { steer::STEER_ISA::Solver(*p).run(); });
}
