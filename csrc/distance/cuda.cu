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
// Distance to the nearest sample on CUDA devices, exact: a thread a pixel looks outwards for the nearest
// occupied pixel of its column, then along its row for the column through which the way is shortest.

#include <stddef.h>
#include <stdint.h>

#include "../kernel_regression/launch.h"
#include "../kernel_regression/problem.h"

namespace steer {
namespace distance {

// steer_depth_ros/ops/distance.py says what it means.
struct Distance {
  int samples, height, width;
  const float *uv;       // (N,2)
  const uint8_t *valid;  // (N) or null
  float *distance;       // (H,W)
  void *workspace;       // steer_distance_workspace() bytes
};

struct Places {
  float *in_column;   // (H,W) pixels to the nearest occupied one of the column, negative where it has none
  uint8_t *occupied;  // (H,W)

  explicit Places(const Distance &p)
      : in_column((float *)p.workspace), occupied((uint8_t *)(in_column + (size_t)p.height * p.width)) {}
};

struct Clear {
  Distance p;
  Places w;
  STEER_ANYWHERE int count() const { return p.height * p.width; }
  STEER_ANYWHERE void operator()(int i) const { w.occupied[i] = 0; }
};

struct Occupy {
  Distance p;
  Places w;
  STEER_ANYWHERE int count() const { return p.samples; }
  STEER_ANYWHERE void operator()(int i) const {
    if (p.valid && !p.valid[i]) return;
    const int row = pixel_along(p.uv[2 * (size_t)i + 1], p.height), column = pixel_along(p.uv[2 * (size_t)i], p.width);
    w.occupied[(size_t)row * p.width + column] = 1;  // all that come here write the same
  }
};

struct AlongColumns {
  Distance p;
  Places w;
  STEER_ANYWHERE int count() const { return p.height * p.width; }
  STEER_ANYWHERE void operator()(int i) const {
    const int row = i / p.width, below = p.height - 1 - row;
    const uint8_t *here = w.occupied + i;
    float found = -1;
    for (int k = 0; found < 0 && (k <= row || k <= below); k++)
      if ((k <= row && here[-(ptrdiff_t)k * p.width]) || (k <= below && here[(ptrdiff_t)k * p.width]))
        found = (float)k;
    w.in_column[i] = found;
  }
};

struct AlongRows {
  Distance p;
  Places w;
  STEER_ANYWHERE int count() const { return p.height * p.width; }
  STEER_ANYWHERE void operator()(int i) const {
    const int column = i % p.width, right = p.width - 1 - column;
    const float none = 2.f * (p.height + p.width);
    float best = none * none;
    for (int k = 0; (k <= column || k <= right) && (float)k * k < best; k++) {
      if (k <= column) best = nearer(best, w.in_column[i - k], k);
      if (k <= right) best = nearer(best, w.in_column[i + k], k);
    }
    p.distance[i] = sqrtf(best);
  }

  STEER_ANYWHERE static float nearer(float best, float in_column, int k) {
    return in_column < 0 ? best : fminf(best, in_column * in_column + (float)k * k);
  }
};

}  // namespace distance
}  // namespace steer

STEER_EXPORT size_t steer_distance_workspace(const steer::distance::Distance *p) {
  return (size_t)p->height * p->width * (sizeof(float) + 1);
}

STEER_EXPORT int steer_distance(const steer::distance::Distance *p, cudaStream_t stream) {
  using namespace steer::device;
  using namespace steer::distance;
  if (begin()) {
    const Places w(*p);
    launch(Clear{*p, w}, stream);
    launch(Occupy{*p, w}, stream);
    launch(AlongColumns{*p, w}, stream);
    launch(AlongRows{*p, w}, stream);
  }
  return failed();
}
