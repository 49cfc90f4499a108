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
// The maths of steering-kernel regression, written once for every backend.
//
// `V` is float (one pixel, a CUDA thread) or a SIMD vector (one pixel a lane, a CPU core); the only
// operations used on it are arithmetic, comparison, `mask ? a : b` and `exponential(V)`.
//
// Takeda, Farsiu, Milanfar, "Kernel regression for image processing and reconstruction", TIP 2007;
// Liu et al., "Learning steering kernels for guided depth completion", TIP 2021.
#pragma once

#include <math.h>

#include "problem.h"

namespace steer {

// A pivot below this share of its diagonal entry marks the fit as ill-conditioned. Any matrix with a
// condition number under 5e4 passes, since a pivot is at least the smallest eigenvalue.
constexpr float kPivotTolerance = 2e-5f;
// Weights are floored at exp(kExponentFloor) so that sums stay normal numbers; a pixel whose mass is
// outside [kMassLow, kMassHigh] is summed again relative to its largest weight.
constexpr float kExponentFloor = -75.f;
constexpr float kMassLow = 1e-18f, kMassHigh = 1e18f;
constexpr float kTanhSigmaOffset = 1e-5f;  // the 2021 release
constexpr float kSmallestSpacing = 0.5f;   // pixels

// C = gamma U diag(sigma, 1/sigma) U^T in (row, column) coordinates, and its derivatives.
struct Steering {
  float c11, c12, c22;  // of q = c11 dy^2 + 2 c12 dy dx + c22 dx^2
  float scale;          // |gamma| = sqrt(det C)
};

STEER_FN Steering steering_of(float sigma, float theta, float gamma, int profile) {
  double s = sigma, c, sn, cross;
  if (profile == kTanh) s += kTanhSigmaOffset;
  c = cos((double)theta), sn = sin((double)theta);
  cross = profile == kTanh ? 1 / s - 1 : 1 / s - s;
  return {(float)(gamma * (s * c * c + sn * sn / s)), (float)(gamma * cross * sn * c),
          (float)(gamma * (s * sn * sn + c * c / s)), fabsf(gamma)};
}

// Chain dL/dc11, dL/dc12, dL/dc22, dL/dscale to (sigma, theta, gamma).
STEER_FN void steering_gradient(float sigma, float theta, float gamma, int profile, double g11,
                                double g12, double g22, double gscale, float *out) {
  double s = sigma, g = gamma;
  if (profile == kTanh) s += kTanhSigmaOffset;
  double c = cos((double)theta), sn = sin((double)theta), r = 1 / s;
  double cross = profile == kTanh ? r - 1 : r - s, dcross = profile == kTanh ? -r * r : -r * r - 1;
  out[0] = (float)(g * (g11 * (c * c - sn * sn * r * r) + g12 * dcross * sn * c +
                        g22 * (sn * sn - c * c * r * r)));
  out[1] = (float)(g * (g11 * 2 * sn * c * (r - s) + g12 * cross * (c * c - sn * sn) +
                        g22 * 2 * sn * c * (s - r)));
  double sign = g > 0 ? 1 : g < 0 ? -1 : 0;
  out[2] = (float)(g11 * (s * c * c + sn * sn * r) + g12 * cross * sn * c +
                   g22 * (s * sn * sn + c * c * r) + gscale * sign);
}

// log of the weight without |gamma|; `slope` is d log w / dq.
template <class V>
STEER_FN V log_profile(V q, V half_inverse_square, int profile, V *slope) {
  V t = -q * half_inverse_square;
  if (profile == kGaussian) {
    if (slope) *slope = -half_inverse_square;
    return t;
  }
  V e = exponential(t + t);
  V hyperbolic = (e - 1.f) / (e + 1.f);
  if (slope) *slope = -2.f * half_inverse_square * (1.f - hyperbolic * hyperbolic);
  return 2.f * hyperbolic;
}

// 1 at the pixel, 0 (twice differentiable) from the K-th neighbour on; an inverse of 0: no taper.
template <class V>
STEER_FN V taper(V distance2, V radius2, V inverse_radius2) {
  V t = distance2 * inverse_radius2;
  V keep = 1.f - t * t;
  // The K-th itself must weigh exactly nothing, whatever the rounding of the inverse.
  return distance2 < radius2 ? keep * keep : keep * 0.f;
}

// Basis [dy, dx, dy^2, dy dx, dx^2, 1]: the constant stands last, so elimination alone gives it, and
// order 1 appears on the way to order 2.
STEER_FN constexpr int terms(int order) { return order == 0 ? 1 : order == 1 ? 3 : 6; }
STEER_FN constexpr int moments(int order) { return order == 0 ? 1 : order == 1 ? 6 : 15; }
// Moments M(a, b) = sum w dy^a dx^b are stored by total degree, then by b.
STEER_FN constexpr int moment(int a, int b) { return (a + b) * (a + b + 1) / 2 + b; }
STEER_FN constexpr int power_y(int order, int k) {
  return k == terms(order) - 1 ? 0 : k == 0 ? 1 : k == 1 ? 0 : 4 - k;
}
STEER_FN constexpr int power_x(int order, int k) {
  return k == terms(order) - 1 ? 0 : k == 0 ? 0 : k == 1 ? 1 : k - 2;
}

template <class V, int ORDER>
struct Sums {
  V m[moments(ORDER)];
  V r[terms(ORDER)];

  STEER_FN void clear(V zero) {
    for (int k = 0; k < moments(ORDER); k++) m[k] = zero;
    for (int k = 0; k < terms(ORDER); k++) r[k] = zero;
  }

  STEER_FN void add(V w, V y, V x, float value) {
    V d = w * value;
    m[0] += w;
    r[terms(ORDER) - 1] += d;
    if constexpr (ORDER >= 1) {
      V wy = w * y, wx = w * x;
      m[1] += wy, m[2] += wx;
      m[3] += wy * y, m[4] += wy * x, m[5] += wx * x;
      r[0] += d * y, r[1] += d * x;
      if constexpr (ORDER == 2) {
        V yy = y * y, xx = x * x, yx = y * x;
        V wyy = w * yy, wxx = w * xx;
        m[6] += wyy * y, m[7] += wyy * x, m[8] += wxx * y, m[9] += wxx * x;
        m[10] += wyy * yy, m[11] += wyy * yx, m[12] += wyy * xx, m[13] += wxx * yx;
        m[14] += wxx * xx;
        r[2] += d * yy, r[3] += d * yx, r[4] += d * xx;
      }
    }
  }
};

// The local fit: estimate = constant term; `coefficients` = beta, `influence` = A^-1 e_constant
// (needed for gradients only): d estimate / d value_i = w_i influence . phi_i.
template <class V, int ORDER>
struct Fit {
  V estimate;
  V coefficients[terms(ORDER)];
  V influence[terms(ORDER)];
};

template <class V, int ORDER, bool GRADIENT>
STEER_FN Fit<V, ORDER> solve(const Sums<V, ORDER> &s, V ridge) {
  constexpr int n = terms(ORDER), last = n - 1;
  Fit<V, ORDER> fit;
  V mass = s.m[0], zero = mass * 0.f;
  V inverse_mass = 1.f / mass;
  fit.estimate = s.r[last] * inverse_mass;
  if constexpr (GRADIENT) {
    for (int k = 0; k < n; k++) fit.coefficients[k] = fit.influence[k] = zero;
    fit.coefficients[last] = fit.estimate;
    fit.influence[last] = inverse_mass;
  }
  if constexpr (ORDER >= 1) {
    V a[n][n], b[n], diagonal[n], inverse[n];
    auto good = mass > zero;
STEER_UNROLL
    for (int i = 0; i < n; i++) {
STEER_UNROLL
      for (int j = i; j < n; j++)
        a[i][j] = s.m[moment(power_y(ORDER, i) + power_y(ORDER, j),
                             power_x(ORDER, i) + power_x(ORDER, j))];
      if (i != last) a[i][i] += ridge * mass;
      diagonal[i] = a[i][i];
      b[i] = s.r[i];
    }
STEER_UNROLL
    for (int k = 0; k < last; k++) {
      auto sound = a[k][k] > kPivotTolerance * diagonal[k];
      good = good & sound;
      inverse[k] = 1.f / (sound ? a[k][k] : zero + 1.f);
STEER_UNROLL
      for (int i = k + 1; i < n; i++) {
        V factor = a[k][i] * inverse[k];
STEER_UNROLL
        for (int j = i; j < n; j++) a[i][j] -= factor * a[k][j];
        b[i] -= factor * b[k];
      }
      const bool plane_done = k == 1, all_done = k == last - 1;
      if (plane_done || all_done) {  // a fit of order 1 or 2 is complete
        auto accept = good & (a[last][last] > kPivotTolerance * mass);
        V constant = 1.f / (accept ? a[last][last] : zero + 1.f);
        fit.estimate = accept ? b[last] * constant : fit.estimate;
        if constexpr (GRADIENT) {
          V z[n], beta[n];
          z[last] = constant, beta[last] = b[last] * constant;
STEER_UNROLL
          for (int i = last - 1; i >= 0; i--) {
            z[i] = zero, beta[i] = zero;
            if (i > k) continue;
            z[i] = -a[i][last] * inverse[i] * z[last];
            beta[i] = (b[i] - a[i][last] * beta[last]) * inverse[i];
STEER_UNROLL
            for (int j = i + 1; j <= k; j++) {
              z[i] -= a[i][j] * inverse[i] * z[j];
              beta[i] -= a[i][j] * inverse[i] * beta[j];
            }
          }
STEER_UNROLL
          for (int i = 0; i < n; i++) {
            fit.coefficients[i] = accept ? beta[i] : fit.coefficients[i];
            fit.influence[i] = accept ? z[i] : fit.influence[i];
          }
        }
      }
    }
  }
  return fit;
}

// c . phi(y, x) in the basis above.
template <class V, int ORDER>
STEER_FN V evaluate(const V *c, V y, V x) {
  V sum = c[terms(ORDER) - 1];
  if constexpr (ORDER >= 1) sum += c[0] * y + c[1] * x;
  if constexpr (ORDER == 2) sum += (c[2] * y + c[3] * x) * y + c[4] * x * x;
  return sum;
}

}  // namespace steer
