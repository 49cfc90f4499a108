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
// Pixels that hang in the air between foreground and background, see flying_points in
// steer_depth_ros/ops/flying_points.py. Compiled into the CPU libraries, one an instruction set.

#include <algorithm>
#include <cmath>

namespace {

constexpr float STEP = 0.05f;  // relative change of depth over an edge that counts as a step
constexpr int REACH = 2;       // pixels over which a smeared edge still counts as one step

// What is unknown is NaN and compares false. All is computed, without a branch, to fill the lanes.
inline int inside_step(const float *here, long near) {
  const float one = here[-near], other = here[near];
  const float step = std::abs(one - other);
  const float before = one - here[0], after = here[0] - other;
  const float off = std::min(std::abs(before), std::abs(after));
  const float flat = std::abs(here[-2 * near] - one) + std::abs(here[2 * near] - other);
  const int steep = step > STEP * std::max(one, other);
  return steep & (before * after > 0.0f) & (off > 0.2f * step) & (flat < 0.5f * step);
}

}  // namespace

// inverse: (height, width + 4 * REACH) 1 / depth with a margin of 2 * REACH around, NaN where
// unknown: its first row in the margin comes first. flying: (height, width).
extern "C" __attribute__((visibility("default"))) void steer_flying_points(
    const float *inverse, int height, int width, unsigned char *flying) {
  const long pitch = width + 4 * REACH;
  for (long row = 0; row < height; ++row) {
    const float *line = inverse + (row + 2 * REACH) * pitch + 2 * REACH;
    unsigned char *out = flying + row * width;
    for (long x = 0; x < width; ++x) {
      int found = 0;
      for (int reach = 1; reach <= REACH; ++reach)  // a diagonal edge is a step along both
        found |= inside_step(line + x, reach) | inside_step(line + x, reach * pitch);
      out[x] = static_cast<unsigned char>(found);
    }
  }
}
