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
// How a call on the CPU ends: exceptions must not reach the caller, who knows no C++.
#pragma once

#include <stdio.h>

#include <exception>
#include <new>

namespace steer {
namespace STEER_ISA {

constexpr int kDone = 0, kOutOfMemory = 1, kFailed = 2;
inline thread_local char last_error[256] = "";

template <class Work>
int status_of(Work work) {
  try {
    work();
    return kDone;
  } catch (const std::bad_alloc &) {
    return kOutOfMemory;
  } catch (const std::exception &error) {
    snprintf(last_error, sizeof last_error, "%s", error.what());
    return kFailed;
  }
}

}  // namespace STEER_ISA
}  // namespace steer
