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
// Which samples others occlude, on CUDA devices: a sample a thread.

#include "../kernel_regression/launch.h"
#include "body.h"

namespace steer {
namespace occlusion {

struct Clear {
  Occlusion p;
  Grid grid;
  STEER_ANYWHERE int count() const { return p.rows * p.columns; }
  STEER_ANYWHERE void operator()(int i) const {
    grid.nearness[i] = 0;
    for (int dv = i; dv <= extent(p.reach_v); dv += count()) grid.half_width[dv] = half_width(p, dv);
  }
};

struct Enter {
  Occlusion p;
  Grid grid;
  STEER_ANYWHERE int count() const { return p.samples; }
  STEER_ANYWHERE void operator()(int i) const {
    device::atomic_max(grid.nearness + (size_t)row_of(p, i) * p.columns + column_of(p, i),
                       nearness_of(p.depth[i]));
  }
};

struct Find {
  Occlusion p;
  Grid grid;
  STEER_ANYWHERE int count() const { return p.samples; }
  STEER_ANYWHERE void operator()(int i) const { p.occluded[i] = is_occluded(p, grid, i); }
};

}  // namespace occlusion
}  // namespace steer

STEER_EXPORT size_t steer_occlusion_workspace(const steer::occlusion::Occlusion *p) {
  return ((size_t)p->rows * p->columns + steer::occlusion::extent(p->reach_v) + 1) * sizeof(float);
}

STEER_EXPORT int steer_occlusion(const steer::occlusion::Occlusion *p, cudaStream_t stream) {
  using namespace steer::device;
  using namespace steer::occlusion;
  if (begin()) {
    const Grid grid{(float *)p->workspace, (int *)p->workspace + (size_t)p->rows * p->columns};
    launch(Clear{*p, grid}, stream);
    launch(Enter{*p, grid}, stream);
    launch(Find{*p, grid}, stream);
  }
  return failed();
}
