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
// How functors are launched on a GPU: one call a thread, or one a block. Built with g++ (-x c++) the
// launches are loops, which is how the tests run without a GPU.
#pragma once

#include <stdio.h>

#include "lanes.h"

#if !defined(__CUDACC__)
typedef void *cudaStream_t;
#endif

namespace steer {
namespace device {

constexpr int kThreads = 128;

#if defined(__CUDACC__)

inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local bool error_was_there;

// Forgets the error of a call before this one; one that others left behind is not to be taken for ours.
inline bool begin() {
  last_error = cudaGetLastError();
  return !(error_was_there = last_error != cudaSuccess);
}

template <class Functor>
__global__ void __launch_bounds__(kThreads) run(const Functor f) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  // Whole warps work or do not, so that lanes can exchange values.
  if (i < f.count()) f(i);
}

template <class Functor>
__global__ void __launch_bounds__(Functor::kThreads) run_blocks(const Functor f) {
  __shared__ typename Functor::Shared shared;
  f(blockIdx.x, Block{Functor::kThreads}, shared);
}

template <class Functor>
void launch(const Functor &f, cudaStream_t stream) {
  if (f.count() == 0 || last_error != cudaSuccess) return;
  run<<<(f.count() + kThreads - 1) / kThreads, kThreads, 0, stream>>>(f);
  last_error = cudaGetLastError();
}

template <class Functor>
void launch_blocks(const Functor &f, cudaStream_t stream) {
  if (f.blocks() == 0 || last_error != cudaSuccess) return;
  run_blocks<<<f.blocks(), Functor::kThreads, 0, stream>>>(f);
  last_error = cudaGetLastError();
}

inline int failed() { return last_error != cudaSuccess; }

#else

// Backwards: no result may depend on the order.
template <class Functor>
void launch(const Functor &f, cudaStream_t) {
#if defined(STEER_EMULATED_WARPS)
  for (int block = (f.count() + kThreads - 1) / kThreads; block-- > 0;)
    emulated::run_block(kThreads, [&] {
      const int i = block * kThreads + emulated::thread();
      if (i < f.count()) f(i);
    });
#else
  for (int i = f.count(); i-- > 0;) f(i);
#endif
}

template <class Functor>
void launch_blocks(const Functor &f, cudaStream_t) {
  static typename Functor::Shared shared;
  for (int block = f.blocks(); block-- > 0;)
#if defined(STEER_EMULATED_WARPS)
    emulated::run_block(Functor::kThreads, [&] { f(block, Block{Functor::kThreads}, shared); });
#else
    f(block, Block{1}, shared);
#endif
}

inline bool begin() { return true; }
inline int failed() { return 0; }

#endif

}  // namespace device
}  // namespace steer
