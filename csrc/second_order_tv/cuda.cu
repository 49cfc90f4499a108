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
// A step of second-order total variation on CUDA devices: one cooperative launch, or, where blocks
// cannot wait for each other, a launch a phase. Built with g++ (-x c++) it is loops.

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#endif

#include "device.h"

#include "../kernel_regression/launch.h"

namespace steer {
namespace device {

#if defined(__CUDACC__)

struct Together {
  Worker worker;

  template <class Phase>
  __device__ void operator()(const SurfacePlan &s, const Phase &phase) const {
    phase(s, worker);
    cooperative_groups::this_grid().sync();
  }
};

__global__ void __launch_bounds__(kSurfaceThreads) run_together(const SurfacePlan s) {
  __shared__ float shared[kSurfaceThreads / kWarp];
  run_phases(s, Together{{(int)blockIdx.x, (int)gridDim.x, {kSurfaceThreads}, shared}});
}

template <class Phase>
__global__ void __launch_bounds__(kSurfaceThreads) run_phase(const SurfacePlan s, const Phase phase) {
  __shared__ float shared[kSurfaceThreads / kWarp];
  phase(s, Worker{(int)blockIdx.x, (int)gridDim.x, {kSurfaceThreads}, shared});
}

struct OneByOne {
  int blocks;
  cudaStream_t stream;

  template <class Phase>
  void operator()(const SurfacePlan &s, const Phase &phase) const {
    if (last_error != cudaSuccess) return;
    run_phase<<<blocks, kSurfaceThreads, 0, stream>>>(s, phase);
    last_error = cudaGetLastError();
  }
};

void solve(const SurfacePlan &s, cudaStream_t stream) {
  int device, processors, together, each = 0;
  last_error = cudaGetDevice(&device);
  if (last_error == cudaSuccess)
    last_error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (last_error == cudaSuccess)
    last_error = cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device);
  if (last_error == cudaSuccess)
    last_error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, run_together, kSurfaceThreads, 0);
  if (last_error != cudaSuccess) return;
  if (!together) return run_phases(s, OneByOne{s.chunks, stream});
  SurfacePlan plan = s;
  void *arguments[] = {&plan};
  const int blocks = s.chunks < each * processors ? s.chunks : each * processors;
  last_error = cudaLaunchCooperativeKernel((const void *)run_together, dim3(blocks),
                                           dim3(kSurfaceThreads), arguments, 0, stream);
}

#else

// Several blocks, which share the chunks: as on a GPU, backwards, as no result may depend on the order.
struct OneByOne {
  static constexpr int kBlocks = 3;

  template <class Phase>
  void operator()(const SurfacePlan &s, const Phase &phase) const {
    static float shared[kSurfaceThreads];
    for (int block = kBlocks; block-- > 0;)
#if defined(STEER_EMULATED_WARPS)
      emulated::run_block(kSurfaceThreads, [&] {
        phase(s, Worker{block, kBlocks, {kSurfaceThreads}, shared});
      });
#else
      phase(s, Worker{block, kBlocks, {1}, shared});
#endif
  }
};

void solve(const SurfacePlan &s, cudaStream_t) { run_phases(s, OneByOne{}); }

#endif

}  // namespace device
}  // namespace steer

STEER_EXPORT size_t steer_surface_workspace(const steer::Surface *p) {
  size_t bytes;
  steer::device::plan_surface(*p, &bytes);
  return bytes;
}

STEER_EXPORT int steer_surface(const steer::Surface *p, cudaStream_t stream) {
  using namespace steer::device;
  if (!begin()) return failed();
  size_t bytes;
  solve(plan_surface(*p, &bytes), stream);
  return failed();
}
