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
// The maths of leave-one-out tuning, for one query (CUDA) or as many as a vector has lanes (CPU): M is
// the arithmetic of the one or the other. ops/leave_one_out_torch.py is its specification.
#pragma once

#include <math.h>
#include <stddef.h>

#include "problem.h"

namespace steer {
namespace leave_one_out {

constexpr int kSettings = 6, kFeatures = 4;
constexpr float kEps = 1e-12f;  // what is divided by, at least
constexpr float kFar = 1e25f;   // the quadratic form of what does not count

// Of a query and one of its neighbors. Features are squares of differences.
enum Plane { kY, kX, kValue, kTaper, kForm, kFeature, kPlanes = kFeature + kFeatures };

// What the loss and its derivatives are computed from, summed over the queries: of each setting the
// derivatives of the absolute errors and of half their squares; errors, their squares, how many.
enum Sum { kByError, kBySquare = kSettings, kError = 2 * kSettings, kSquare, kCount, kSums };

struct Workspace {
  float *planes;                  // (kPlanes, K, stride)
  float *target, *guide, *known;  // (stride): logarithms; 1 or 0
  int stride;                     // the queries, and as many more as make whole vectors

  STEER_FN float *at(const LeaveOneOut &p, int plane, int k, int q) const {
    return planes + ((size_t)plane * p.neighbors + k) * stride + q;
  }
};

inline size_t workspace_floats(const LeaveOneOut &p, int stride) {
  return ((size_t)kPlanes * p.neighbors + 3) * stride;
}

inline Workspace plan_workspace(const LeaveOneOut &p, int stride, float *memory) {
  float *more = memory + (size_t)kPlanes * p.neighbors * stride;
  return {memory, more, more + stride, more + 2 * (size_t)stride, stride};
}

struct Range {
  float low, high;  // of the inverse depth of all samples
};

STEER_FN float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// A plane through values at (y, x), by weighted least squares.
template <class M>
struct Fit {
  using F = typename M::F;
  F mass{}, y0{}, x0{}, yy{}, xx{}, yx{}, v{}, yv{}, xv{};
  F share{};  // of a weight in their sum: factor
  F p{}, q{}, rest{}, constant{}, slope_y{}, slope_x{};

  STEER_FN void add(F weight, F y, F x, F value) {
    const F wy = weight * y, wx = weight * x;
    mass += weight, y0 += wy, x0 += wx;
    yy += wy * y, xx += wx * x, yx += wy * x;
    v += weight * value, yv += wy * value, xv += wx * value;
  }

  STEER_FN void solve(float ridge) {
    const F least = M::of(kEps);
    share = 1.f / M::larger(mass, least);
    mass *= share, y0 *= share, x0 *= share, yy *= share, xx *= share, yx *= share;
    v *= share, yv *= share, xv *= share;
    yy += ridge * mass, xx += ridge * mass;
    // Elimination with the constant last; p, q: the row of the inverse that gives the constant.
    const F det = M::larger(yy * xx - yx * yx, least);
    p = (yx * x0 - xx * y0) / det, q = (yx * y0 - yy * x0) / det;
    rest = M::larger(mass + p * y0 + q * x0, least);
    constant = (v + p * yv + q * xv) / rest;
    const F ty = yv - y0 * constant, tx = xv - x0 * constant;
    slope_y = (xx * ty - yx * tx) / det, slope_x = (yy * tx - yx * ty) / det;
  }
};

template <class M>
STEER_FN typename M::F taper(typename M::F share) {
  share = M::smaller(share, M::of(1.f));
  const typename M::F square = share * share, rest = 1.f - square * square;
  return rest * rest;
}

// From the samples to the planes of the workspace, for the queries from q on.
template <class M>
STEER_FN void prepare(const LeaveOneOut &p, const Workspace &w, Range range, int q) {
  using F = typename M::F;
  const int neighbors = p.neighbors;
  const int coarse = p.coarse_neighbors < neighbors ? p.coarse_neighbors : neighbors;
  int64_t sample[M::kWidth], near[M::kWidth];
  int at[M::kWidth];  // beyond the last query: the last one, which then is not known
  for (int l = 0; l < M::kWidth; l++) {
    at[l] = q + l < p.queries ? q + l : p.queries - 1;
    sample[l] = p.query[at[l]];
  }
  const F u = M::gather([&](int l) { return p.uv[2 * sample[l]]; });
  const F v = M::gather([&](int l) { return p.uv[2 * sample[l] + 1]; });
  F color[3];
  for (int c = 0; c < 3; c++) color[c] = M::gather([&](int l) { return p.colors[3 * sample[l] + c]; });
  const auto distance_of = [&](int k) {
    return M::gather([&](int l) { return p.distance[(size_t)k * p.queries + at[l]]; });
  };
  const F radius = distance_of(neighbors - 1), coarse_radius = distance_of(coarse - 1);
  const F spacing = M::larger(radius * sqrtf(kPi / neighbors), M::of(.5f));
  // Half a pixel of half the resolution at least.
  const F coarse_spacing = M::larger(coarse_radius * sqrtf(kPi / coarse), M::of(1.f));
  const F inverse_radius = 1.f / M::larger(radius, M::of(kEps));
  const F inverse_coarse_radius = 1.f / M::larger(coarse_radius, M::of(kEps));
  F nearest = M::of(3e38f);
  Fit<M> estimate;
  for (int k = 0; k < neighbors; k++) {
    for (int l = 0; l < M::kWidth; l++) near[l] = p.near[(size_t)k * p.queries + at[l]];
    const F du = M::gather([&](int l) { return p.uv[2 * near[l]]; }) - u;
    const F dv = M::gather([&](int l) { return p.uv[2 * near[l] + 1]; }) - v;
    const F sigma = M::gather([&](int l) { return p.kernels[3 * near[l]]; });
    const F theta = M::gather([&](int l) { return p.kernels[3 * near[l] + 1]; });
    const F gamma = M::gather([&](int l) { return p.kernels[3 * near[l] + 2]; });
    const F value = M::gather([&](int l) { return p.inverse[near[l]]; });
    const F relied_on = M::gather([&](int l) { return p.rejected && p.rejected[near[l]] ? 0.f : 1.f; });
    const F distance = distance_of(k), row = dv / p.aspect;
    nearest = M::smaller(nearest, du * du + dv * dv);
    if (!p.guide && k < coarse) {
      const F y = row / coarse_spacing, x = du / coarse_spacing;
      const F weight = M::exponential((y * y + x * x) * (-.5f / (p.bandwidth * p.bandwidth)));
      estimate.add(weight * taper<M>(distance * inverse_coarse_radius) * relied_on, y, x, value);
    }
    // Twice the angle: its sine and cosine are all that the squares need.
    F sine, cosine;
    M::sine_cosine(theta + theta, sine, cosine);
    const F even = .5f * (sigma + 1.f / sigma), odd = .5f * (sigma - 1.f / sigma);
    const F y = row / spacing, x = du / spacing;
    const F form = (even + odd * cosine) * y * y - 2.f * odd * sine * y * x + (even - odd * cosine) * x * x;
    M::store(w.at(p, kY, k, q), y), M::store(w.at(p, kX, k, q), x), M::store(w.at(p, kValue, k, q), value);
    const F most = taper<M>(distance * inverse_radius) * gamma * relied_on;
    M::store(w.at(p, kTaper, k, q), most);
    // The largest exponent is to be that of a sample which counts.
    M::store(w.at(p, kForm, k, q), most > 0.f ? gamma * form : M::of(kFar));
    for (int c = 0; c < 3; c++) {
      const F apart = M::gather([&](int l) { return p.colors[3 * near[l] + c]; }) - color[c];
      M::store(w.at(p, kFeature + c, k, q), apart * apart);
    }
  }
  F guide;
  if (p.guide) {
    guide = M::gather([&](int l) { return p.guide[at[l]]; });
  } else {
    estimate.solve(p.ridge);
    guide = estimate.constant;
  }
  guide = M::smaller(M::larger(guide, M::of(range.low)), M::of(range.high));
  for (int l = 0; l < M::kWidth; l++)
    if (q + l < p.queries) p.guide_used[q + l] = M::lane(guide, l);
  guide = M::logarithm(guide);
  const F by_distance = M::root(nearest) * ((1 - p.bandwidth_at_sample) / p.bandwidth_distance);
  const F factor = M::smaller(M::larger(p.bandwidth_at_sample + by_distance, M::of(p.bandwidth_at_sample)),
                              M::of(p.bandwidth_far));
  const F bandwidth = p.bandwidth * factor, by_bandwidth = 1.f / (bandwidth * bandwidth);
  for (int k = 0; k < neighbors; k++) {
    const F form = M::load(w.at(p, kForm, k, q)), value = M::load(w.at(p, kValue, k, q));
    const F apart = (M::logarithm(value) - guide) / p.depth_step;
    M::store(w.at(p, kForm, k, q), form * by_bandwidth);
    M::store(w.at(p, kFeature + 3, k, q), apart * apart);
  }
  M::store(w.target + q, M::logarithm(M::gather([&](int l) { return p.inverse[sample[l]]; })));
  M::store(w.guide + q, guide);
  M::store(w.known + q, M::gather([&](int l) {
    return q + l < p.queries && p.known[at[l]] && !(p.rejected && p.rejected[sample[l]]) ? 1.f : 0.f;
  }));
}

struct Factors {
  float by_feature[kFeatures], by_form, ridge;  // on squares in the exponent; the ridge itself
};

STEER_FN Factors factors_of(const LeaveOneOut &p, const float *settings) {
  Factors f;
  for (int i = 0; i < kFeatures; i++) f.by_feature[i] = -.5f * expf(-2 * settings[i]);
  f.by_form = -.5f * expf(-2 * settings[4]), f.ridge = p.ridge * expf(settings[5]);
  return f;
}

// Predicts the queries from q on, (Q) of them; GRADIENT: and adds to the sums, (kSums).
template <class M, bool GRADIENT>
STEER_FN typename M::F predict(const LeaveOneOut &p, const Workspace &w, Range range, const Factors &f,
                               int q, typename M::F *sums) {
  using F = typename M::F;
  F weight[kMostNeighbors], most = M::of(-3e38f);
  for (int k = 0; k < p.neighbors; k++) {
    F exponent = f.by_form * M::load(w.at(p, kForm, k, q));
    for (int i = 0; i < kFeatures; i++) exponent += f.by_feature[i] * M::load(w.at(p, kFeature + i, k, q));
    weight[k] = exponent;
    most = M::larger(most, exponent);
  }
  Fit<M> fit;
  for (int k = 0; k < p.neighbors; k++) {
    // exp(-60) is nothing beside 1, and still no denormal when it is multiplied.
    weight[k] = M::exponential(M::larger(weight[k] - most, M::of(-60.f))) * M::load(w.at(p, kTaper, k, q));
    fit.add(weight[k], M::load(w.at(p, kY, k, q)), M::load(w.at(p, kX, k, q)),
            M::load(w.at(p, kValue, k, q)));
  }
  fit.solve(f.ridge);
  const F found = M::smaller(M::larger(fit.constant, M::of(range.low)), M::of(range.high));
  if (!GRADIENT) return found;

  const F known = M::load(w.known + q), error = M::logarithm(found) - M::load(w.target + q), none{};
  const F size = M::magnitude(error), counted = M::smaller(size, M::of(p.max_error)) * known;
  const auto inside = (fit.constant > range.low) & (fit.constant < range.high) & (size < p.max_error);
  const F slope = (error > 0.f ? M::of(1.f) : error < 0.f ? M::of(-1.f) : none) * known / found;
  const F by_constant = (inside ? slope : none) / fit.rest;
  const F held = f.ridge * (fit.p * fit.slope_y + fit.q * fit.slope_x);
  F derivative[kSettings] = {};
  for (int k = 0; k < p.neighbors; k++) {
    const F y = M::load(w.at(p, kY, k, q)), x = M::load(w.at(p, kX, k, q));
    const F residual = M::load(w.at(p, kValue, k, q)) - fit.constant - fit.slope_y * y - fit.slope_x * x;
    const F by_exponent = ((1.f + fit.p * y + fit.q * x) * residual - held) * weight[k];
    for (int i = 0; i < kFeatures; i++)
      derivative[i] += by_exponent * M::load(w.at(p, kFeature + i, k, q));
    derivative[4] += by_exponent * M::load(w.at(p, kForm, k, q));
  }
  for (int i = 0; i < 5; i++) derivative[i] *= fit.share;
  derivative[5] = -held * fit.mass;
  for (int i = 0; i < kSettings; i++) {
    sums[kByError + i] += by_constant * derivative[i];
    sums[kBySquare + i] += by_constant * counted * derivative[i];
  }
  sums[kError] += counted, sums[kSquare] += counted * counted, sums[kCount] += known;
  return found;
}

// Settings that gradients change, one step after the other.
struct Adam {
  float settings[kSettings], mean[kSettings], square[kSettings], total[kSettings];
  float left, left_square;  // of the weight of what was before the first step
  int steps;

  STEER_FN void start(const LeaveOneOut &p) {
    for (int i = 0; i < kSettings; i++) settings[i] = p.start[i], mean[i] = square[i] = total[i] = 0;
    left = left_square = 1, steps = 0;
  }

  STEER_FN void step(const LeaveOneOut &p, const float *sums) {
    const float count = sums[kCount] > 1 ? sums[kCount] : 1;
    const float by_error = 1 / (sums[kError] / count + 1e-4f) / (2 * count);
    const float by_square = 1 / (sums[kSquare] / count + 1e-7f) / (2 * count);
    left *= 1 - p.newest, left_square *= 1 - p.newest_square, steps++;
    for (int i = 0; i < kSettings; i++) {
      float gradient = by_error * sums[kByError + i] + by_square * sums[kBySquare + i];
      if (i < 5) gradient *= expf(-2 * settings[i]);
      gradient += 2 * p.prior * settings[i];
      mean[i] += p.newest * (gradient - mean[i]);
      square[i] += p.newest_square * (gradient * gradient - square[i]);
      const float root = sqrtf(square[i] / (1 - left_square)) + 1e-8f;
      settings[i] -= p.rate * (mean[i] / (1 - left) / root);
      if (steps > p.steps - p.averaged) total[i] += settings[i] / p.averaged;
    }
    if (steps < p.steps) return;
    for (int i = 0; i < kSettings; i++) settings[i] = sums[kCount] > 0 ? total[i] : 0;
  }
};

}  // namespace leave_one_out
}  // namespace steer
