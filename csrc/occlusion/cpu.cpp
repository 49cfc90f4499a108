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
// Which samples others occlude, on CPU cores.

#include <algorithm>
#include <vector>

#include "../kernel_regression/status.h"
#include "../kernel_regression/threads.h"
#include "body.h"

namespace steer {
namespace STEER_ISA {
namespace {

using namespace occlusion;

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

STEER_EXPORT int steer_occlusion(const steer::occlusion::Occlusion *p) {
  return steer::STEER_ISA::status_of([=] { steer::STEER_ISA::find_occluded(*p); });
}
