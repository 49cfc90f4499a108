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
// Threads that work together: warps and blocks. Built with g++ a block is one thread and a warp one
// lane, in plain loops; with STEER_EMULATED_WARPS both are as wide as on a GPU, and run in turn.
#pragma once

#include <math.h>

#if defined(__CUDACC__)
#define STEER_ANYWHERE __host__ __device__ __forceinline__
#else
#define STEER_ANYWHERE inline
#endif

#if defined(STEER_EMULATED_WARPS)
#include "emulated_warps.h"
#endif

namespace steer {
namespace device {

#if defined(__CUDACC__) || defined(STEER_EMULATED_WARPS)
constexpr int kWarp = 32;
#else
constexpr int kWarp = 1;
#endif

struct Block {
  int threads;

  STEER_ANYWHERE int thread() const {
#if defined(__CUDA_ARCH__)
    return threadIdx.x;
#elif defined(STEER_EMULATED_WARPS)
    return emulated::thread();
#else
    return 0;
#endif
  }

  // Waits for all threads of the block, and lets each see what the others wrote.
  STEER_ANYWHERE void wait() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#elif defined(STEER_EMULATED_WARPS)
    emulated::wait_for_block();
#endif
  }
};

// The value of the lane whose number differs by the bits of `step`.
STEER_ANYWHERE float from_lane(float x, int step) {
#if defined(__CUDA_ARCH__)
  return __shfl_xor_sync(~0u, x, step);
#elif defined(STEER_EMULATED_WARPS)
  return emulated::from_lane(x, step);
#else
  (void)step;
  return x;
#endif
}

STEER_ANYWHERE float warp_max(float x) {
  for (int step = kWarp / 2; step; step /= 2) x = fmaxf(x, from_lane(x, step));
  return x;
}

STEER_ANYWHERE float warp_sum(float x) {
  for (int step = kWarp / 2; step; step /= 2) x += from_lane(x, step);
  return x;
}

STEER_ANYWHERE unsigned warp_ballot(bool x) {
#if defined(__CUDA_ARCH__)
  return __ballot_sync(~0u, x);
#elif defined(STEER_EMULATED_WARPS)
  return emulated::ballot(x);
#else
  return x;
#endif
}

STEER_ANYWHERE int atomic_add(int *where, int what) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(where, what);
#else
  const int before = *where;
  *where += what;
  return before;
#endif
}

// The look before spares nearly all atomics; a stale value only costs a needless one.
STEER_ANYWHERE void atomic_lower(int *where, int what) {
#if defined(__CUDA_ARCH__)
  if (what < *where) atomicMin(where, what);
#else
  if (what < *where) *where = what;
#endif
}

STEER_ANYWHERE void atomic_raise(int *where, int what) {
#if defined(__CUDA_ARCH__)
  if (what > *where) atomicMax(where, what);
#else
  if (what > *where) *where = what;
#endif
}

}  // namespace device
}  // namespace steer
