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
// Kernel regression on CPU cores: a tile of pixels is one SIMD vector, the samples near the tile are
// broadcast to its lanes. Compiled into one library an instruction set (STEER_ISA): objects of several
// sets must not share a library, or the linker may keep the AVX copy of a std:: template for all.

#include "backward.h"
#include "status.h"

namespace steer {
namespace STEER_ISA {

template <class Run>
void dispatch(const Problem &p, Run run) {
  const bool window = p.neighbours == 0;
  if (p.order == 0) window ? run.template operator()<0, true>() : run.template operator()<0, false>();
  if (p.order == 1) window ? run.template operator()<1, true>() : run.template operator()<1, false>();
  if (p.order == 2) window ? run.template operator()<2, true>() : run.template operator()<2, false>();
}

template <class Direction>
int run(const Problem *p) {
  return status_of([=] { dispatch(*p, Direction{*p}); });
}

}  // namespace STEER_ISA
}  // namespace steer

STEER_EXPORT const char *steer_abi() { return steer::abi(); }

STEER_EXPORT int steer_forward(const steer::Problem *p) {
  return steer::STEER_ISA::run<steer::STEER_ISA::Forward>(p);
}
STEER_EXPORT int steer_backward(const steer::Problem *p) {
  return steer::STEER_ISA::run<steer::STEER_ISA::Backward>(p);
}
// What the last call of this thread that returned kFailed died of.
STEER_EXPORT const char *steer_error() { return steer::STEER_ISA::last_error; }

#if defined(STEER_ISA_GENERIC)
// The widest instruction set that this machine has, of those that the package is built for.
STEER_EXPORT const char *steer_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "generic";
}
#endif
