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
// Kernel regression on CUDA devices: launches what device.h computes.

#include "device.h"
#include "launch.h"

namespace steer {
namespace device {

// Up to so many slots and cells a batch are sorted by one block.
#if !defined(STEER_FEW)
#define STEER_FEW 2048
#endif
constexpr int kFewSlots = STEER_FEW, kFewCells = 4 * STEER_FEW;

Workspace sort_samples(const Problem &p, bool backward, cudaStream_t stream) {
  size_t bytes;
  const Workspace w = plan_workspace(p, backward, &bytes);
  if (w.slots <= kFewSlots && w.cells <= kFewCells) {
    launch_blocks(SortFew{p, w}, stream);
    return w;
  }
  launch(Clear{p, w}, stream);
  if (p.valid) launch(FindFirst{p, w}, stream);
  launch(Count{p, w}, stream);
  launch_blocks(Scan{p, w}, stream);
  launch(Fill{p, w}, stream);
  launch_blocks(SortCells{p, w}, stream);
  return w;
}

template <int ORDER, bool WINDOW>
void forward(const Problem &p, cudaStream_t stream) {
  const Workspace w = sort_samples(p, false, stream);
  if constexpr (WINDOW) {
    if (p.features == 0 && p.profile == kGaussian)
      return launch(Forward<ORDER, WINDOW, true>{p, w}, stream);
  }
  launch(Forward<ORDER, WINDOW>{p, w}, stream);
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
