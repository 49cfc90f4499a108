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
// Blocks and warps as wide as on a GPU, without one: the threads of a block are coroutines. Each runs
// until it exchanges values or waits; then the next one has its turn. Lanes that do not call the same
// exchanges in the same order, which a GPU answers with anything, end the process with a sentence.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <functional>
#include <vector>

namespace emulated {

constexpr int kLanes = 32, kMostThreads = 1024;
constexpr size_t kStack = 128 << 10;

struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
  int exchanges;      // so far
  float given[2];     // in this and the last exchange
};

inline std::vector<Thread> threads(kMostThreads);
inline ucontext_t scheduler;
inline std::function<void()> work;
inline int count, now, waiting, generation, alive;

inline int thread() { return now; }

inline void give_way() { swapcontext(&threads[now].context, &scheduler); }

inline void start() {
  work();
  threads[now].done = true;
  alive--;
}

inline void run_block(int size, std::function<void()> function) {
  count = alive = size, waiting = 0, work = std::move(function);
  for (int t = 0; t < size; t++) {
    Thread &each = threads[t];
    each.stack.resize(kStack);
    each.done = false, each.exchanges = 0;
    getcontext(&each.context);
    each.context.uc_stack.ss_sp = each.stack.data(), each.context.uc_stack.ss_size = kStack;
    each.context.uc_link = &scheduler;
    makecontext(&each.context, start, 0);
  }
  while (alive > 0) {
    // All that are left wait: all have arrived. Threads that have ended are not waited for.
    if (waiting == alive) waiting = 0, generation++;
    for (now = 0; now < size; now++)
      if (!threads[now].done) swapcontext(&scheduler, &threads[now].context);
  }
}

inline void wait_for_block() {
  const int last = generation;
  waiting++;
  while (generation == last) give_way();
}

// Takes part in an exchange; returns its number. Every lane hands in a value before any reads one, and
// of two exchanges in a row the first may still be read while the second is filled.
inline int exchange(float x) {
  Thread &own = threads[now];
  const int number = own.exchanges++;
  own.given[number % 2] = x;
  give_way();
  const int first = now - now % kLanes;
  for (int t = first; t < first + kLanes && t < count; t++) {
    const int ahead = threads[t].exchanges - (number + 1);
    if (ahead < 0 || ahead > 1) {
      fprintf(stderr, "lane %d of a warp takes part in exchange %d, lane %d does not\n", now - first,
              number, t - first);
      abort();
    }
  }
  return number;
}

inline float from_lane(float x, int step) {
  const int number = exchange(x);
  return threads[now ^ step].given[number % 2];
}

inline unsigned ballot(bool x) {
  const int number = exchange(x ? 1.f : 0.f), first = now - now % kLanes;
  unsigned bits = 0;
  for (int lane = 0; lane < kLanes; lane++)
    bits |= (threads[first + lane].given[number % 2] != 0 ? 1u : 0u) << lane;
  return bits;
}

}  // namespace emulated
