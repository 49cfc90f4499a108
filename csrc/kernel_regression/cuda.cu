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
// Kernel regression on CUDA devices: launches what device.h computes. Built
// with g++ (-x c++) the launches are loops, which is how the tests run without a GPU.

#include "device.h"

#if !defined(__CUDACC__)
typedef void *cudaStream_t;
#endif

namespace steer {
namespace device {

#if defined(__CUDACC__)

constexpr int kScanThreads = 1024;

thread_local cudaError_t last_error = cudaSuccess;
thread_local bool error_was_there;

// Forgets the error of a call before this one; one that others left behind is not to be taken for ours.
bool begin() {
  last_error = cudaGetLastError();
  return !(error_was_there = last_error != cudaSuccess);
}

template <class Functor>
__global__ void __launch_bounds__(256) run(const Functor f) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  // Whole warps work or do not, so that lanes can exchange values.
  if (i < f.count()) f(i);
}

template <class Functor>
void launch(const Functor &f, cudaStream_t stream) {
  if (f.count() == 0 || last_error != cudaSuccess) return;
  run<<<(f.count() + 255) / 256, 256, 0, stream>>>(f);
  last_error = cudaGetLastError();
}

// Turns counts into first places: a block a batch, every thread a stretch of cells.
__device__ void scan_block(int *counts, int n) {
  __shared__ int sums[kScanThreads];
  const int t = threadIdx.x, each = (n + kScanThreads - 1) / kScanThreads;
  const int first = min(t * each, n), end = min(first + each, n);
  int sum = 0;
  for (int i = first; i < end; i++) sum += counts[i];
  sums[t] = sum;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int before = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += before;
    __syncthreads();
  }
  int total = t ? sums[t - 1] : 0;
  for (int i = first; i < end; i++) counts[i] = total += counts[i];
}

__global__ void __launch_bounds__(kScanThreads) scan_counts(const Workspace w) {
  scan_block(w.start + (size_t)blockIdx.x * (w.cells + 1), w.cells + 1);
}

void scan(const Problem &p, const Workspace &w, cudaStream_t stream) {
  if (p.batch == 0 || last_error != cudaSuccess) return;
  scan_counts<<<p.batch, kScanThreads, 0, stream>>>(w);
  last_error = cudaGetLastError();
}

int failed() { return last_error != cudaSuccess; }

#else

template <class Functor>
void launch(const Functor &f, cudaStream_t) {
  for (int i = f.count(); i-- > 0;) f(i);  // backwards: no result may depend on the order
}

void scan(const Problem &p, const Workspace &w, cudaStream_t) {
  for (int b = 0; b < p.batch; b++) {
    int *counts = w.start + (size_t)b * (w.cells + 1);
    for (int i = 1; i <= w.cells; i++) counts[i] += counts[i - 1];
  }
}

bool begin() { return true; }
int failed() { return 0; }

#endif

Workspace sort_samples(const Problem &p, bool backward, cudaStream_t stream) {
  size_t bytes;
  const Workspace w = plan_workspace(p, backward, &bytes);
  launch(Clear{p, w}, stream);
  if (p.valid) launch(FindFirst{p, w}, stream);
  launch(Count{p, w}, stream);
  scan(p, w, stream);
  launch(Fill{p, w}, stream);
  launch(SortRuns{p, w}, stream);
  // How full the fullest cell is only the device knows; cells that are done pass the merges by.
  int merge = 0;
  for (int runs = (w.capacity + kRun - 1) / kRun; runs > 1; runs = (runs + 1) / 2)
    launch(MergeRuns{p, w, merge++}, stream);
  launch(WriteSorted{p, w}, stream);
  return w;
}

template <int ORDER, bool WINDOW>
void forward(const Problem &p, cudaStream_t stream) {
  launch(Forward<ORDER, WINDOW>{p, sort_samples(p, false, stream)}, stream);
}

template <int ORDER, bool WINDOW>
void backward(const Problem &p, cudaStream_t stream) {
  const Workspace w = sort_samples(p, true, stream);
  if (!WINDOW) launch(ClearTiles{p, w}, stream);
  launch(BackwardPixels<ORDER, WINDOW>{p, w}, stream);
  launch(BackwardSamples<ORDER, WINDOW>{p, w}, stream);
}

}  // namespace device
}  // namespace steer

#define STEER_EXPORT extern "C" __attribute__((visibility("default")))

STEER_EXPORT const char *steer_abi() { return steer::abi(); }

STEER_EXPORT size_t steer_workspace(const steer::Problem *p, int backward) {
  size_t bytes;
  steer::device::plan_workspace(*p, backward != 0, &bytes);
  return bytes;
}

STEER_EXPORT const char *steer_error() {
#if defined(__CUDACC__)
  using namespace steer::device;
  static thread_local char text[256];
  snprintf(text, sizeof text, "%s%s", error_was_there ? "left behind by earlier work of others: " : "",
           cudaGetErrorString(last_error));
  return text;
#else
  return "";
#endif
}

STEER_EXPORT int steer_forward(const steer::Problem *p, cudaStream_t stream) {
  using namespace steer::device;
  if (!begin()) return failed();
  const bool window = p->neighbours == 0;
  if (p->order == 0) window ? forward<0, true>(*p, stream) : forward<0, false>(*p, stream);
  if (p->order == 1) window ? forward<1, true>(*p, stream) : forward<1, false>(*p, stream);
  if (p->order == 2) window ? forward<2, true>(*p, stream) : forward<2, false>(*p, stream);
  return failed();
}

STEER_EXPORT int steer_backward(const steer::Problem *p, cudaStream_t stream) {
  using namespace steer::device;
  if (!begin()) return failed();
  const bool window = p->neighbours == 0;
  if (p->order == 0) window ? backward<0, true>(*p, stream) : backward<0, false>(*p, stream);
  if (p->order == 1) window ? backward<1, true>(*p, stream) : backward<1, false>(*p, stream);
  if (p->order == 2) window ? backward<2, true>(*p, stream) : backward<2, false>(*p, stream);
  return failed();
}
