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
// Work on several cores: torch's OpenMP threads, or threads of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
#include <immintrin.h>
#endif

// OpenMP, if torch brought it into the process: its threads keep a core busy for some milliseconds
// after every torch operation, so they had better do the work than slow down threads of our own.
extern "C" void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags)
    __attribute__((weak));
extern "C" int omp_get_num_threads() __attribute__((weak));

namespace steer {
namespace STEER_ISA {

// Runs job(0..count-1) on `threads` threads; jobs are handed out in order.
template <class Job>
void parallel(int threads, int count, Job job) {
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  auto work = [&] {
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040);  // denormals cost a hundred cycles each
#endif
    try {
      for (int i; (i = next.fetch_add(1)) < count && !failed;) job(i);
    } catch (...) {  // must not leave its thread
      if (!failed.exchange(true)) error = std::current_exception();
    }
#if defined(STEER_ISA_AVX512) || defined(STEER_ISA_AVX2)
    _mm_setcsr(state);
#endif
  };
  if (threads < 2 || count < 2) {
    work();
  } else if (GOMP_parallel) {
    GOMP_parallel([](void *w) { (*(decltype(work) *)w)(); }, &work, threads, 0);
  } else {
    std::vector<std::thread> pool;
    try {
      pool.reserve(std::min(threads, count) - 1);
      for (int t = 1; t < std::min(threads, count); t++) pool.emplace_back(work);
    } catch (const std::exception &) {  // no more threads: those that run do it all
    }
    work();
    for (auto &t : pool) t.join();
  }
  if (failed) std::rethrow_exception(error);
}

// Where the threads of `together` wait for each other.
class Barrier {
 public:
  void wait(int size) {
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    // Others are done within microseconds, unless they have no core.
    for (int looks = 0; round_.load(std::memory_order_acquire) == round;)
      if (++looks > 4000) std::this_thread::yield();
  }

 private:
  std::atomic<int> arrived_{0}, round_{0};
};

// Runs job(rank, size) on up to `threads` threads, all at the same time: they may wait for each other.
// The job throws nothing.
template <class Job>
void together(int threads, Job job) {
  std::atomic<int> ranks{0};
  if (threads < 2) {
    job(0, 1);
  } else if (GOMP_parallel && omp_get_num_threads) {
    auto work = [&] { job(ranks.fetch_add(1), omp_get_num_threads()); };
    GOMP_parallel([](void *w) { (*(decltype(work) *)w)(); }, &work, threads, 0);
  } else {
    std::atomic<int> size{0};
    std::vector<std::thread> pool;
    auto work = [&] {
      while (size.load(std::memory_order_acquire) == 0) std::this_thread::yield();
      job(ranks.fetch_add(1), size.load());
    };
    try {
      pool.reserve(threads - 1);
      for (int t = 1; t < threads; t++) pool.emplace_back(work);
    } catch (const std::exception &) {  // no more threads: those that run do it all
    }
    size.store((int)pool.size() + 1, std::memory_order_release);
    work();
    for (auto &t : pool) t.join();
  }
}

}  // namespace STEER_ISA
}  // namespace steer
