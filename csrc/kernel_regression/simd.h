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
// One SIMD vector of floats, a pixel a lane, and what is computed with it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
#include <immintrin.h>
#endif

#include "problem.h"

namespace steer {
namespace STEER_ISA {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

#if defined(STEER_ISA_AVX512)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kTileCols = 4, kTileRows = kLanes / kTileCols;
typedef float V __attribute__((vector_size(4 * kLanes), aligned(4 * kLanes)));
typedef int32_t VI __attribute__((vector_size(4 * kLanes), aligned(4 * kLanes)));

STEER_FN V broadcast(float x) { return x - V{}; }

// exp(x) to 1 ulp or so for x in [-87, 88]; the argument is clamped to that range.
STEER_FN V exponential(V x) {
  x = x < broadcast(-87.f) ? broadcast(-87.f) : x;
  x = x > broadcast(88.f) ? broadcast(88.f) : x;
  const V shift = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  V n = x * 1.44269504f + shift;
  VI exponent = ((VI)n - (VI)shift + 127) << 23;
  n -= shift;
  V r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * (V)exponent;
}

// log(x) to 2 ulp or so for positive normal x.
STEER_FN V logarithm(V x) {
  VI bits = (VI)x;
  VI exponent = ((bits - 0x3f3504f3) >> 23);  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  V f = (V)(bits - (exponent << 23)) - 1.f;
  V n = __builtin_convertvector(exponent, V);
  V p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  V ff = f * f;
  return n * 0.693359375f + (f + (p * f * ff - 0.5f * ff + n * -2.12194440e-4f));
}

STEER_FN V larger(V a, V b) { return a > b ? a : b; }
STEER_FN V smaller(V a, V b) { return a < b ? a : b; }
STEER_FN V magnitude(V a) { return (V)((VI)a & 0x7fffffff); }

STEER_FN unsigned lanes_of(VI mask) {
#if defined(STEER_ISA_AVX512)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(STEER_ISA_AVX2)
  return _mm256_movemask_ps((__m256)mask);
#else
  unsigned bits = 0;
  for (int l = 0; l < kLanes; l++) bits |= (unsigned)(mask[l] & 1) << l;
  return bits;
#endif
}

STEER_FN bool any(VI mask) {
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
  return lanes_of(mask) != 0;
#else
  int32_t all = 0;
  for (int l = 0; l < kLanes; l++) all |= mask[l];
  return all != 0;
#endif
}

STEER_FN float largest(V x) {
  float most = x[0];
  for (int l = 1; l < kLanes; l++) most = std::max(most, x[l]);
  return most;
}

STEER_FN V load(const float *p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

}  // namespace STEER_ISA
}  // namespace steer

namespace steer {
using STEER_ISA::exponential;  // what fit.h calls
}  // namespace steer
