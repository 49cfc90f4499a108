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
// Leave-one-out tuning on the CPU: a vector's lanes are queries. In one thread: search and tuning of 600
// queries take half a millisecond each, and waiting for a second thread costs more where cores are busy.

#include <algorithm>
#include <vector>

#include "../kernel_regression/simd.h"
#include "../kernel_regression/status.h"
#include "body.h"
#include "neighbors.h"

namespace steer {
namespace STEER_ISA {
namespace {

using namespace leave_one_out;

struct Lanes {  // the arithmetic of body.h
  using F = V;
  static constexpr int kWidth = kLanes;

  template <class Get>
  STEER_FN static V gather(Get get) {
    V x{};
    for (int l = 0; l < kLanes; l++) x[l] = get(l);
    return x;
  }
  STEER_FN static V of(float x) { return broadcast(x); }
  STEER_FN static float lane(V x, int l) { return x[l]; }
  STEER_FN static V load(const float *from) { return STEER_ISA::load(from); }
  STEER_FN static void store(float *to, V x) { std::memcpy(to, &x, sizeof x); }
  STEER_FN static V larger(V a, V b) { return STEER_ISA::larger(a, b); }
  STEER_FN static V smaller(V a, V b) { return STEER_ISA::smaller(a, b); }
  STEER_FN static V magnitude(V x) { return STEER_ISA::magnitude(x); }
  STEER_FN static V exponential(V x) { return STEER_ISA::exponential(x); }
  STEER_FN static V logarithm(V x) { return STEER_ISA::logarithm(x); }
  STEER_FN static V root(V x) {
    for (int l = 0; l < kLanes; l++) x[l] = std::sqrt(x[l]);
    return x;
  }

  // Of quarter turns and what is left of them, with the polynomials of Cephes.
  STEER_FN static void sine_cosine(V x, V &sine, V &cosine) {
    const V shift = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
    const V turns = x * .63661977f + shift;
    const VI quarter = (VI)turns - (VI)shift;
    const V n = turns - shift, r = x - n * 1.5703125f - n * 4.83751296997e-4f - n * 7.5497899549e-8f;
    const V square = r * r;
    const V s = ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * r + r;
    const V c = ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square +
                 4.166664568298827e-2f) * square * square - .5f * square + 1.f;
    const VI odd = (quarter & 1) != 0;
    sine = odd ? c : s, cosine = odd ? s : c;
    sine = (quarter & 2) != 0 ? -sine : sine;
    cosine = ((quarter + 1) & 2) != 0 ? -cosine : cosine;
  }
};

void tune(const LeaveOneOut &p) {
  require_samples(p, p.query, p.queries);
  require_samples(p, p.near, (size_t)p.neighbors * p.queries);
  const int stride = (p.queries + kLanes - 1) / kLanes * kLanes;
  std::vector<float> memory(workspace_floats(p, stride));
  const Workspace w = plan_workspace(p, stride, memory.data());
  Range range{kInfinity, -kInfinity};
  for (int i = 0; i < p.samples; i++)
    range.low = std::min(range.low, p.inverse[i]), range.high = std::max(range.high, p.inverse[i]);
  for (int q = 0; q < p.queries; q += kLanes) prepare<Lanes>(p, w, range, q);
  Adam adam;
  adam.start(p);
  for (int step = 0; step < p.steps; step++) {
    const Factors factors = factors_of(p, adam.settings);
    V by_lane[kSums] = {};
    for (int q = 0; q < p.queries; q += kLanes) predict<Lanes, true>(p, w, range, factors, q, by_lane);
    float sums[kSums] = {};
    for (int i = 0; i < kSums; i++)
      for (int l = 0; l < kLanes; l++) sums[i] += by_lane[i][l];
    adam.step(p, sums);
  }
  const Factors factors = factors_of(p, adam.settings);
  for (int q = 0; q < p.queries; q += kLanes) {
    const V found = predict<Lanes, false>(p, w, range, factors, q, nullptr);
    for (int l = 0; l < kLanes && q + l < p.queries; l++) p.predicted[q + l] = found[l];
  }
  std::copy(adam.settings, adam.settings + kSettings, p.settings);
}

}  // namespace
}  // namespace STEER_ISA
}  // namespace steer

STEER_EXPORT int steer_leave_one_out_neighbors(const steer::leave_one_out::LeaveOneOut *p) {
  return steer::STEER_ISA::status_of([=] { steer::STEER_ISA::find_neighbors(*p); });
}

STEER_EXPORT int steer_leave_one_out_tune(const steer::leave_one_out::LeaveOneOut *p) {
  return steer::STEER_ISA::status_of([=] { steer::STEER_ISA::tune(*p); });
}
