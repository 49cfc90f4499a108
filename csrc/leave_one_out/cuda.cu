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
// Leave-one-out tuning on CUDA devices: a block searches the neighbors of a query, and one block does all
// of the tuning, a query a thread. Nothing depends on the order in which threads run.

#include "../kernel_regression/launch.h"
#include "body.h"

namespace steer {
namespace device {
namespace {

using namespace leave_one_out;

struct One {  // the arithmetic of body.h
  using F = float;
  static constexpr int kWidth = 1;

  template <class Get>
  STEER_FN static float gather(Get get) { return get(0); }
  STEER_FN static float of(float x) { return x; }
  STEER_FN static float lane(float x, int) { return x; }
  STEER_FN static float load(const float *from) { return *from; }
  STEER_FN static void store(float *to, float x) { *to = x; }
  STEER_FN static float larger(float a, float b) { return fmaxf(a, b); }
  STEER_FN static float smaller(float a, float b) { return fminf(a, b); }
  STEER_FN static float magnitude(float x) { return fabsf(x); }
  STEER_FN static float exponential(float x) { return expf(x); }
  STEER_FN static float logarithm(float x) { return logf(x); }
  STEER_FN static float root(float x) { return sqrtf(x); }
  STEER_FN static void sine_cosine(float x, float &sine, float &cosine) { sine = sinf(x), cosine = cosf(x); }
};

STEER_FN Key key_from_lane(Key key, int step) {
  union { unsigned bits; float f; } high = {(unsigned)(key >> 32)}, low = {(unsigned)key};
  high.f = from_lane(high.f, step), low.f = from_lane(low.f, step);
  return (Key)high.bits << 32 | low.bits;
}

// Every thread holds the nearest of its samples that is not taken yet. In each round the nearest of all
// is taken, and its thread looks for its next one.
struct FindNeighbors {
  LeaveOneOut p;
  static constexpr int kThreads = 256;
  struct Shared {
    Key nearest[2][kThreads / 32];  // by warp; while one is read the other is written
    float nearer[kThreads / 32];
  };

  STEER_ANYWHERE int blocks() const { return p.queries; }

  STEER_ANYWHERE void operator()(int q, const Block &block, Shared &shared) const {
    const Place place(p, q);
    Key own = next(block, place, 0), nearest = kNobody;
    for (int k = 0; k < p.neighbors; k++) {
      nearest = nearest_of_all(block, own, shared.nearest[k % 2]);
      if (nearest == kNobody) break;
      if (block.thread() == 0) write_neighbor(p, k, q, nearest);
      if (own == nearest) own = next(block, place, nearest + 1);
    }
    const bool known = nearest != kNobody &&
                       count_nearer(block, place, squared_distance_of(nearest), shared.nearer) <= most_nearer(p);
    if (block.thread() == 0) p.known[q] = known;
    if (known) return;
    for (int k = block.thread(); k < p.neighbors; k += block.threads) write_neighbor(p, k, q, kNobody);
  }

  // The nearest of this thread's samples from `least` on.
  STEER_ANYWHERE Key next(const Block &block, const Place &place, Key least) const {
    Key found = kNobody;
    for (int i = block.thread(); i < p.samples; i += block.threads) {
      const Key key = place.key(i);
      if (key >= least && key < found) found = key;
    }
    return found;
  }

  STEER_ANYWHERE float count_nearer(const Block &block, const Place &place, float squared_distance,
                                    float *by_warp) const {
    int count = 0;
    for (int i = block.thread(); i < p.samples; i += block.threads)
      count += place.squared_distance(i) < squared_distance;
    const float of_warp = warp_sum((float)count);
    if (block.thread() % kWarp == 0) by_warp[block.thread() / kWarp] = of_warp;
    block.wait();
    float sum = 0;
    for (int warp = 0; warp < block.threads / kWarp; warp++) sum += by_warp[warp];
    return sum;
  }

  STEER_ANYWHERE Key nearest_of_all(const Block &block, Key own, Key *by_warp) const {
    for (int step = kWarp / 2; step; step /= 2) {
      const Key other = key_from_lane(own, step);
      if (other < own) own = other;
    }
    if (block.thread() % kWarp == 0) by_warp[block.thread() / kWarp] = own;
    block.wait();
    for (int warp = 0; warp < block.threads / kWarp; warp++)
      if (by_warp[warp] < own) own = by_warp[warp];
    return own;
  }
};

struct Tune {
  LeaveOneOut p;
  Workspace w;
  static constexpr int kThreads = 640;
  struct Shared {
    float by_warp[kThreads / 32][kSums];
    float sums[kSums];
    Adam adam;
  };

  STEER_ANYWHERE int blocks() const { return 1; }

  STEER_ANYWHERE void operator()(int, const Block &block, Shared &shared) const {
    const Range range = find_range(block, shared);
    if (block.thread() == 0) shared.adam.start(p);
    block.wait();
    // What a thread writes to the workspace is read by itself alone.
    for (int q = block.thread(); q < p.queries; q += block.threads) prepare<One>(p, w, range, q);
    for (int step = 0; step < p.steps; step++) {
      float sums[kSums] = {};
      const Factors factors = factors_of(p, shared.adam.settings);
      for (int q = block.thread(); q < p.queries; q += block.threads)
        predict<One, true>(p, w, range, factors, q, sums);
      for (int i = 0; i < kSums; i++) {
        const float sum = warp_sum(sums[i]);
        if (block.thread() % kWarp == 0) shared.by_warp[block.thread() / kWarp][i] = sum;
      }
      block.wait();
      for (int i = block.thread(); i < kSums; i += block.threads) {
        float sum = 0;
        for (int warp = 0; warp < block.threads / kWarp; warp++) sum += shared.by_warp[warp][i];
        shared.sums[i] = sum;
      }
      block.wait();
      if (block.thread() == 0) shared.adam.step(p, shared.sums);
      block.wait();
    }
    const Factors factors = factors_of(p, shared.adam.settings);
    for (int q = block.thread(); q < p.queries; q += block.threads)
      p.predicted[q] = predict<One, false>(p, w, range, factors, q, nullptr);
    for (int i = block.thread(); i < kSettings; i += block.threads) p.settings[i] = shared.adam.settings[i];
  }

  STEER_ANYWHERE Range find_range(const Block &block, Shared &shared) const {
    float low = 3e38f, high = -3e38f;
    for (int i = block.thread(); i < p.samples; i += block.threads)
      low = fminf(low, p.inverse[i]), high = fmaxf(high, p.inverse[i]);
    low = -warp_max(-low), high = warp_max(high);
    float *mine = shared.by_warp[block.thread() / kWarp];
    if (block.thread() % kWarp == 0) mine[0] = low, mine[1] = high;
    block.wait();
    for (int warp = 0; warp < block.threads / kWarp; warp++)
      low = fminf(low, shared.by_warp[warp][0]), high = fmaxf(high, shared.by_warp[warp][1]);
    return {low, high};
  }
};

}  // namespace
}  // namespace device
}  // namespace steer

STEER_EXPORT size_t steer_leave_one_out_workspace(const steer::leave_one_out::LeaveOneOut *p) {
  return steer::leave_one_out::workspace_floats(*p, p->queries) * sizeof(float);
}

STEER_EXPORT int steer_leave_one_out_neighbors(const steer::leave_one_out::LeaveOneOut *p,
                                               cudaStream_t stream) {
  using namespace steer::device;
  if (begin()) launch_blocks(FindNeighbors{*p}, stream);
  return failed();
}

STEER_EXPORT int steer_leave_one_out_tune(const steer::leave_one_out::LeaveOneOut *p, cudaStream_t stream) {
  using namespace steer::device;
  if (begin())
    launch_blocks(Tune{*p, plan_workspace(*p, p->queries, (float *)p->workspace)}, stream);
  return failed();
}
