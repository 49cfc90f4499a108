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
// Conjugate gradients on a plate that bends where it may, see steer_depth_ros/completion/second_order_tv.py.
// Compiled into the CPU libraries, one an instruction set.

#include <algorithm>
#include <new>
#include <vector>

namespace {

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

// How stiff the plate is at each pixel along x, along y and diagonally, and how strongly held.
struct Plate {
  const float *xx, *yy, *xy, *held;
  long height, width;

  // bent = plate * shape; returns shape . bent. ready(y) is called before row y is first read.
  // HELD: with what samples hold it by, or the plate alone.
  template <bool HELD, typename Ready>
  double apply(const Map &shape, Map &bent, std::vector<Map> &lines, Ready ready) const {
    // Curvatures of three rows around the one that is written, by row modulo 3; none above.
    for (int kind = 1; kind < 3; ++kind)
      std::fill(lines[kind].row(2), lines[kind].row(2) + width, 0.0f);
    ready(0);
    if (height > 1) ready(1);
    curvatures(shape, 0, lines);
    double total = 0.0;
    for (long y = 0; y < height; ++y) {
      if (y + 2 < height) ready(y + 2);
      curvatures(shape, y + 1, lines);
      total += bend_row<HELD>(shape, bent, y, lines);
    }
    return total;
  }

  void curvatures(const Map &shape, long y, std::vector<Map> &lines) const {
    float *along_x = lines[0].row(y % 3), *along_y = lines[1].row(y % 3);
    float *across = lines[2].row(y % 3);
    if (y >= height) {
      std::fill(along_y, along_y + width, 0.0f);
      return;
    }
    const float *above = shape.row(y - 1), *here = shape.row(y), *below = shape.row(y + 1);
    const float *sx = xx + y * width, *sy = yy + y * width, *sd = xy + y * width;
    for (long x = 0; x < width; ++x) {
      along_x[x] = sx[x] * (here[x - 1] - 2.0f * here[x] + here[x + 1]);
      along_y[x] = sy[x] * (above[x] - 2.0f * here[x] + below[x]);
      across[x] = sd[x] * (here[x] - here[x + 1] - below[x] + below[x + 1]);
    }
  }

  template <bool HELD>
  double bend_row(const Map &shape, Map &bent, long y, const std::vector<Map> &lines) const {
    const float *along_x = lines[0].row(y % 3);
    const float *up = lines[1].row((y + 2) % 3), *middle = lines[1].row(y % 3);
    const float *down = lines[1].row((y + 1) % 3);
    const float *before = lines[2].row((y + 2) % 3), *across = lines[2].row(y % 3);
    const float *here = shape.row(y), *hold = held + y * width;
    float *out = bent.row(y), total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (long x = 0; x < width; ++x) {
      const float by_samples = HELD ? hold[x] * here[x] : 0.0f;
      out[x] = by_samples + along_x[x - 1] - 2.0f * along_x[x] + along_x[x + 1] + up[x] -
               2.0f * middle[x] + down[x] + across[x] - across[x - 1] - before[x] +
               before[x - 1];
      total += out[x] * here[x];
    }
    return total;
  }
};

void solve(const float *stiffness, const float *held, const float *pull, int height, int width,
           int iterations, float *inverse) {
  const long size = static_cast<long>(height) * width;
  const Plate plate{stiffness, stiffness + size, stiffness + 2 * size, held, height, width};
  Map force(height, width), direction(height, width), bent(height, width);
  Map shape(height, width), scale(height, width);
  std::vector<Map> lines(3, Map(3, width));

  for (long y = 0; y < height; ++y)
    std::copy(inverse + y * width, inverse + (y + 1) * width, shape.row(y));
  plate.apply<false>(shape, bent, lines, [](long) {});
  const std::vector<float> nothing(width, 0.0f);

  double power = 0.0;
  for (long y = 0; y < height; ++y) {
    const float *sx = plate.xx + y * width, *sd = plate.xy + y * width;
    const float *sy = plate.yy + y * width;
    const float *above = y > 0 ? sy - width : nothing.data();
    const float *below = y + 1 < height ? sy + width : nothing.data();
    const float *diagonal = y > 0 ? sd - width : nothing.data();
    float *s = scale.row(y), *f = force.row(y), sum = 0.0f;
    for (long x = 0; x < width; ++x) {
      const float left = x > 0 ? sx[x - 1] + sd[x - 1] + diagonal[x - 1] : 0.0f;
      const float right = x + 1 < width ? sx[x + 1] : 0.0f;
      const float stiff = 4.0f * (sx[x] + sy[x]) + left + right + above[x] + below[x] + sd[x] +
                          diagonal[x];
      s[x] = 1.0f / (stiff + held[y * width + x] + 1e-9f);
      f[x] = pull[y * width + x] - bent.row(y)[x];
      sum += f[x] * f[x] * s[x];
    }
    power += sum;
  }

  float turn = 0.0f;
  const auto turned = [&](long y) {
    float *d = direction.row(y);
    const float *f = force.row(y), *s = scale.row(y);
#pragma omp simd
    for (long x = 0; x < width; ++x) d[x] = s[x] * f[x] + turn * d[x];
  };
  for (int step = 0; step < iterations && power > 0.0; ++step) {
    const double work = plate.apply<true>(direction, bent, lines, turned);
    if (!(work > 0.0)) break;
    const float length = static_cast<float>(power / work);
    double next = 0.0;
    for (long y = 0; y < height; ++y) {
      float *z = inverse + y * width, *f = force.row(y), sum = 0.0f;
      const float *d = direction.row(y), *b = bent.row(y), *s = scale.row(y);
#pragma omp simd reduction(+ : sum)
      for (long x = 0; x < width; ++x) {
        z[x] += length * d[x];
        f[x] -= length * b[x];
        sum += f[x] * f[x] * s[x];
      }
      next += sum;
    }
    turn = static_cast<float>(next / power);
    power = next;
  }
}

}  // namespace

// stiffness: (3, height, width), zero where a difference would leave the map. held, pull:
// (height, width), how strongly and with what force samples hold a pixel. inverse: (height,
// width), of which the change is added. The start is no change; `iterations` steps are taken.
// Returns 0, or 1 where memory does not last; `inverse` is then as it was.
extern "C" __attribute__((visibility("default"))) int steer_thin_plate(
    const float *stiffness, const float *held, const float *pull, int height, int width,
    int iterations, float *inverse) {
  try {
    solve(stiffness, held, pull, height, width, iterations, inverse);
    return 0;
  } catch (const std::bad_alloc &) {  // must not reach the caller, who knows no C++
    return 1;
  }
}
