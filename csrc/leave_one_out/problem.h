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
// What the functions of leave-one-out tuning are handed: steer_depth_ros/ops/leave_one_out.py says what
// it means. The search for neighbors writes `near`, `distance` and `known`; the tuning reads them.
#pragma once

#include <math.h>

#include "../kernel_regression/problem.h"

namespace steer {
namespace leave_one_out {

struct LeaveOneOut {
  int samples, queries, neighbors, coarse_neighbors;
  int steps, averaged;
  float aspect, line_gap, ridge, bandwidth, bandwidth_at_sample, bandwidth_far, bandwidth_distance;
  float depth_step, rate, newest, newest_square, prior, max_error;
  const float *uv, *inverse, *colors, *kernels;  // (N,2), (N), (N,3), (N,3)
  const int64_t *query;                          // (Q): samples, or null
  const float *at;                               // (Q,2) where neighbors are searched, null: of the query
  const uint8_t *rejected;                       // (N) or null
  const float *guide, *start;                    // (Q) or null; (6)
  int64_t *near;                                 // (K,Q): samples
  float *distance;                               // (K,Q)
  uint8_t *known;                                // (Q)
  float *settings, *predicted, *guide_used;      // (6), (Q), (Q)
  void *workspace;                               // CUDA only: steer_leave_one_out_workspace() bytes
};

constexpr int kMostNeighbors = 64;

// How near a sample is, with its number where others are as near: orders samples as integers.
typedef unsigned long long Key;
constexpr Key kNobody = ~0ull;

STEER_FN Key key_of(float squared_distance, int sample) {
  union { float f; unsigned bits; } d = {squared_distance};  // not negative: ordered as its bits
  return (Key)d.bits << 32 | (unsigned)sample;
}
STEER_FN int sample_of(Key key) { return (int)(unsigned)key; }
STEER_FN float squared_distance_of(Key key) {
  union { unsigned bits; float f; } d = {(unsigned)(key >> 32)};
  return d.f;
}

// The position of a query, and the keys of samples there.
struct Place {
  const LeaveOneOut &p;
  int query;  // -1: no sample
  float u, v;

  STEER_FN Place(const LeaveOneOut &p, int q) : p(p), query(p.at ? -1 : (int)p.query[q]) {
    const float *at = p.at ? p.at + 2 * (size_t)q : p.uv + 2 * (size_t)query;
    u = at[0], v = at[1];
  }

  STEER_FN float squared_distance(int sample) const {
    const float du = p.uv[2 * (size_t)sample] - u, dv = (p.uv[2 * (size_t)sample + 1] - v) / p.aspect;
    return du * du + dv * dv;
  }

  // kNobody for the query itself and for what is of its scan line.
  STEER_FN Key key(int sample) const {
    const float below = p.uv[2 * (size_t)sample + 1] - v, d2 = squared_distance(sample);
    const bool own_line = below < p.line_gap && -below < p.line_gap;
    return sample == query || own_line || !(d2 < 3e38f) ? kNobody : key_of(d2, sample);
  }
};

// The neighbors of a query are to be among so many nearest samples, of its line and itself too: beyond,
// they are of another place.
STEER_FN int most_nearer(const LeaveOneOut &p) { return 3 * p.neighbors - 1; }

// Writes the k-th neighbor of the q-th query; kNobody where it has too few and none counts.
STEER_FN void write_neighbor(const LeaveOneOut &p, int k, int q, Key key) {
  const size_t at = (size_t)k * p.queries + q;
  p.near[at] = key == kNobody ? 0 : sample_of(key);
  p.distance[at] = key == kNobody ? 1.f : sqrtf(squared_distance_of(key));
}

}  // namespace leave_one_out
}  // namespace steer
