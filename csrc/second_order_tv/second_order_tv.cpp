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
// The conjugate gradients of second-order total variation: the same as _solve_cg in
// steer_depth_ros/completion/second_order_tv.py. Compiled into the CPU libraries, one per
// instruction set.

#include <algorithm>
#include <new>
#include <vector>

#include "../kernel_regression/threads.h"

namespace {

using steer::STEER_ISA::Barrier;

// A map of (height, width) inside a margin of one zero on all sides, so that no border is special.
class Map {
 public:
  Map(long height, long width) : pitch_(width + 2), data_((height + 2) * pitch_, 0.0f) {}
  float *row(long y) { return data_.data() + (y + 1) * pitch_ + 1; }
  const float *row(long y) const { return data_.data() + (y + 1) * pitch_ + 1; }

 private:
  long pitch_;
  std::vector<float> data_;
};

// The linear system: the weights of the curvatures along x, along y and across, and those of the
// samples, at each pixel.
struct System {
  const float *xx, *yy, *xy, *data_weight;
  long height, width;

  // image = system * map in the rows from `first` to `end`; totals: map . image of each. ready(y) is
  // called before row y is first read. DATA: with the weights of the samples, or the curvatures
  // alone.
  template <bool DATA, typename Ready>
  void apply(const Map &map, Map &image, std::vector<Map> &rows, long first, long end,
             std::vector<double> &totals, Ready ready) const {
    // Curvatures of three rows around the one that is written, by row modulo 3; none above.
    if (first == 0)
      for (int kind = 1; kind < 3; ++kind)
        std::fill(rows[kind].row(2), rows[kind].row(2) + width, 0.0f);
    ready(first);
    if (first > 0) curvatures(map, first - 1, rows);
    if (first + 1 < height) ready(first + 1);
    curvatures(map, first, rows);
    for (long y = first; y < end; ++y) {
      if (y + 2 < height) ready(y + 2);
      curvatures(map, y + 1, rows);
      totals[y] = apply_row<DATA>(map, image, y, rows);
    }
  }

  void curvatures(const Map &map, long y, std::vector<Map> &rows) const {
    float *along_x = rows[0].row(y % 3), *along_y = rows[1].row(y % 3);
    float *across = rows[2].row(y % 3);
    if (y >= height) {
      std::fill(along_y, along_y + width, 0.0f);
      return;
    }
    const float *above = map.row(y - 1), *here = map.row(y), *below = map.row(y + 1);
    const float *sx = xx + y * width, *sy = yy + y * width, *sd = xy + y * width;
    for (long x = 0; x < width; ++x) {
      along_x[x] = sx[x] * (here[x - 1] - 2.0f * here[x] + here[x + 1]);
      along_y[x] = sy[x] * (above[x] - 2.0f * here[x] + below[x]);
      across[x] = sd[x] * (here[x] - here[x + 1] - below[x] + below[x + 1]);
    }
  }

  template <bool DATA>
  float apply_row(const Map &map, Map &image, long y, const std::vector<Map> &rows) const {
    const float *along_x = rows[0].row(y % 3);
    const float *up = rows[1].row((y + 2) % 3), *middle = rows[1].row(y % 3);
    const float *down = rows[1].row((y + 1) % 3);
    const float *before = rows[2].row((y + 2) % 3), *across = rows[2].row(y % 3);
    const float *here = map.row(y), *weight = data_weight + y * width;
    float *out = image.row(y), total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (long x = 0; x < width; ++x) {
      const float by_data = DATA ? weight[x] * here[x] : 0.0f;
      out[x] = by_data + along_x[x - 1] - 2.0f * along_x[x] + along_x[x + 1] + up[x] -
               2.0f * middle[x] + down[x] + across[x] - across[x - 1] - before[x] +
               before[x - 1];
      total += out[x] * here[x];
    }
    return total;
  }
};

double sum_of(const std::vector<double> &rows) {
  double sum = 0.0;
  for (const double row : rows) sum += row;
  return sum;
}

void solve(const float *curvature_weights, const float *data_weight, const float *rhs,
           int height, int width, int steps, int threads, float *solution) {
  const long size = static_cast<long>(height) * width;
  const float *weights = curvature_weights;
  const System system{weights, weights + size, weights + 2 * size, data_weight, height, width};
  Map residual(height, width), direction(height, width), image(height, width);
  Map map(height, width), preconditioner(height, width);
  const std::vector<float> nothing(width, 0.0f);
  // Sums of rows, which every thread adds up in the same order: results do not depend on how many.
  std::vector<double> powers(height), works(height);
  threads = std::max(1, std::min(threads, height / 16));
  std::vector<std::vector<Map>> rows(threads, std::vector<Map>(3, Map(3, width)));
  Barrier barrier;

  const auto begin_row = [&](long y) {
    const float *sx = system.xx + y * width, *sd = system.xy + y * width;
    const float *sy = system.yy + y * width;
    const float *above = y > 0 ? sy - width : nothing.data();
    const float *below = y + 1 < height ? sy + width : nothing.data();
    const float *diagonal = y > 0 ? sd - width : nothing.data();
    float *s = preconditioner.row(y), *f = residual.row(y), sum = 0.0f;
    for (long x = 0; x < width; ++x) {
      const float left = x > 0 ? sx[x - 1] + sd[x - 1] + diagonal[x - 1] : 0.0f;
      const float right = x + 1 < width ? sx[x + 1] : 0.0f;
      const float own = 4.0f * (sx[x] + sy[x]) + left + right + above[x] + below[x] + sd[x] +
                        diagonal[x];
      s[x] = 1.0f / (own + data_weight[y * width + x] + 1e-9f);
      f[x] = rhs[y * width + x] - image.row(y)[x];
      sum += f[x] * f[x] * s[x];
    }
    powers[y] = sum;
  };

  const auto step_row = [&](long y, float alpha) {
    float *z = solution + y * width, *f = residual.row(y), sum = 0.0f;
    const float *d = direction.row(y), *b = image.row(y), *s = preconditioner.row(y);
#pragma omp simd reduction(+ : sum)
    for (long x = 0; x < width; ++x) {
      z[x] += alpha * d[x];
      f[x] -= alpha * b[x];
      sum += f[x] * f[x] * s[x];
    }
    powers[y] = sum;
  };

  steer::STEER_ISA::together(threads, [&](int rank, int team) {
    const long first = height * static_cast<long>(rank) / team;
    const long end = height * static_cast<long>(rank + 1) / team;
    for (long y = first; y < end; ++y)
      std::copy(solution + y * width, solution + (y + 1) * width, map.row(y));
    barrier.wait(team);
    system.apply<false>(map, image, rows[rank], first, end, works, [](long) {});
    for (long y = first; y < end; ++y) begin_row(y);
    barrier.wait(team);

    double power = sum_of(powers);
    float beta = 0.0f;
    const auto next_direction = [&](long y) {
      float *d = direction.row(y);
      const float *f = residual.row(y), *s = preconditioner.row(y);
#pragma omp simd
      for (long x = 0; x < width; ++x) d[x] = s[x] * f[x] + beta * d[x];
    };
    // The neighbors read two rows at either end as well.
    const auto shared = [&](long y) { return y < first + 2 || y >= end - 2; };
    for (int step = 0; step < steps && power > 0.0; ++step) {
      for (long y = first; y < end; ++y)
        if (shared(y)) next_direction(y);
      barrier.wait(team);
      system.apply<true>(direction, image, rows[rank], first, end, works, [&](long y) {
        if (y < end && !shared(y)) next_direction(y);
      });
      barrier.wait(team);
      const double work = sum_of(works);
      if (!(work > 0.0)) break;
      const float alpha = static_cast<float>(power / work);
      for (long y = first; y < end; ++y) step_row(y, alpha);
      barrier.wait(team);
      const double next = sum_of(powers);
      beta = static_cast<float>(next / power);
      power = next;
    }
  });
}

}  // namespace

// curvature_weights: (3, height, width), zero where a difference would leave the map. data_weight,
// rhs: (height, width), weights of the samples, and weight times residual at `solution`. solution:
// (height, width), where it starts, and where `steps` steps lead to, on up to `threads` threads.
// Returns 0, or 1 where memory does not last; `solution` is then as it was.
extern "C" __attribute__((visibility("default"))) int steer_second_order_tv(
    const float *curvature_weights, const float *data_weight, const float *rhs, int height,
    int width, int steps, int threads, float *solution) {
  try {
    solve(curvature_weights, data_weight, rhs, height, width, steps, threads, solution);
    return 0;
  } catch (const std::bad_alloc &) {  // must not reach the caller, who knows no C++
    return 1;
  }
}
