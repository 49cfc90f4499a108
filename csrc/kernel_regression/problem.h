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
// One call as it crosses the C ABI, and how Python tells whether a library fits.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__CUDACC__)
#define STEER_FN __host__ __device__ __forceinline__
#else
#define STEER_FN inline __attribute__((always_inline))
#endif
#define STEER_EXPORT extern "C" __attribute__((visibility("default")))
#if defined(__CUDA_ARCH__)
#define STEER_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define STEER_UNROLL
#else
#define STEER_UNROLL _Pragma("GCC unroll 8")
#endif

namespace steer {

enum Profile { kGaussian = 0, kTanh = 1 };
enum Border { kNone = 0, kMirror = 1 };
enum Extent { kScalar = 0, kPerSample = 1, kPerPixel = 2, kAbsent = 3 };

constexpr float kPi = 3.14159265f;

// A position along one axis as an index of `size`; NaN becomes 0.
STEER_FN int index_along(float x, int size) { return !(x > 0) ? 0 : x >= size ? size - 1 : (int)x; }

// The pixel that holds it.
STEER_FN int pixel_along(float x, int size) { return index_along(floorf(x + 0.5f), size); }

// Declares a struct and keeps the text of its fields, by which Python tells whether it agrees.
#define STEER_LAYOUT(NAME, ...) \
  struct NAME { __VA_ARGS__ };  \
  constexpr char k##NAME##Layout[] = #__VA_ARGS__;

// One call, as the C ABI takes it. Layouts are those of the Python function, C-contiguous float32.
STEER_LAYOUT(Problem,
  int batch, samples, height, width, features;
  int window_rows, window_cols;  // half sizes
  int neighbours, sectors;       // 0 neighbours: the window selects
  int order, profile, border;
  int bandwidth_extent, ridge_extent;
  int threads;
  float row_scale;  // neighbours: rows are multiplied by it before anything else (1 / aspect)
  const float *uv, *values, *steering;  // (B,N,2), (B,N), (B,N,3)
  const uint8_t *valid;                 // (B,N) or null
  const float *guide, *guide_at_samples;  // (B,F,H,W), (B,N,F) or null
  const float *bandwidth, *ridge;         // (), (B,N) or (B,H,W); (), (B,H,W) or null
  float *dense, *mass;                    // (B,H,W)
  const float *grad_dense, *grad_mass;    // backward only
  float *grad_values, *grad_steering, *grad_guide, *grad_guide_at_samples;
  float *grad_bandwidth, *grad_ridge;  // of the extent that the input has; null where not wanted
  void *workspace;                     // CUDA only: steer_workspace() bytes on the device
)

// What ops/native.py compares when it loads a library. The version is to be raised when the arguments
// of an exported function change.
constexpr int kAbiVersion = 8;

inline const char *abi() {
  static const struct Text {
    char text[sizeof kProblemLayout + 40];
    Text() {
      snprintf(text, sizeof text, "%d;%d;%s", kAbiVersion, (int)sizeof(Problem), kProblemLayout);
    }
  } abi;
  return abi.text;
}

}  // namespace steer
