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
// A step of second-order total variation as a GPU runs it: phases, each a function of the block, after
// which all blocks wait for each other. Built with g++ the phases run one after the other over all
// blocks, so they can be tested without a GPU.
//
// Results depend neither on the order in which threads run nor on how many blocks there are: sums are
// taken over chunks of pixels, and the pulls of samples are added up as integers.
#pragma once

#include <math.h>
#include <stddef.h>

#include "../kernel_regression/lanes.h"

namespace steer {
STEER_ANYWHERE float exponential(float x) { return expf(x); }
STEER_ANYWHERE float square_root(float x) { return sqrtf(x); }
}  // namespace steer
#include "surface.h"

namespace steer {
namespace device {

constexpr int kSurfaceThreads = 256;
constexpr int kChunk = 256;  // pixels whose products are added up by one block
constexpr int kMargin = 2;   // zeros around a map, as far as a pixel's neighbors reach
constexpr int kBits = 30;    // of the largest pull at a pixel, when pulls are integers

struct SurfacePlan {
  Surface p;
  int pitch, pixels, chunks;

  // With zeros around, at the first pixel: the weights of second differences, and the direction in
  // turns. `scaled` is the residual by the diagonal of the system.
  float *along_x, *along_y, *across, *scaled, *direction[2];
  float *data_weight, *residual, *image, *inverse;  // (H,W)
  float *powers, *works;                            // by chunk
  float *power;                                     // by step
  int *exponent[2];                                 // (H,W), of the largest weight and force of a sample
  unsigned long long *total[2];                     // (H,W), weights and forces of all

  STEER_ANYWHERE int padded() const { return (p.height + 2 * kMargin) * pitch; }
  STEER_ANYWHERE int place(int pixel) const {  // in maps with zeros around
    return pixel / p.width * pitch + pixel % p.width;
  }
};

inline SurfacePlan plan_surface(const Surface &p, size_t *bytes) {
  SurfacePlan s = {};
  s.p = p, s.pitch = p.width + 2 * kMargin, s.pixels = p.height * p.width;
  s.chunks = (s.pixels + kChunk - 1) / kChunk;
  size_t used = 0;
  const auto take = [&](size_t count, size_t size) {
    char *at = (char *)p.workspace + used;
    used += (count * size + 255) / 256 * 256;
    return at;
  };
  const auto floats = [&](size_t count) { return (float *)take(count, sizeof(float)); };
  const auto padded = [&] { return floats(s.padded()) + kMargin * s.pitch + kMargin; };
  s.along_x = padded(), s.along_y = padded(), s.across = padded(), s.scaled = padded();
  s.direction[0] = padded(), s.direction[1] = padded();
  s.data_weight = floats(s.pixels), s.residual = floats(s.pixels), s.image = floats(s.pixels);
  s.inverse = floats(s.pixels), s.powers = floats(s.chunks), s.works = floats(s.chunks);
  s.power = floats(p.steps + 1);
  for (int k = 0; k < 2; k++) s.exponent[k] = (int *)take(s.pixels, sizeof(int));
  for (int k = 0; k < 2; k++)
    s.total[k] = (unsigned long long *)take(s.pixels, sizeof(unsigned long long));
  *bytes = used;
  return s;
}

// One block of a phase, among those that share its work.
struct Worker {
  int block, blocks;
  Block threads;
  float *shared;  // one a warp

  template <class Body>
  STEER_ANYWHERE void each(int count, Body body) const {
    const int all = blocks * threads.threads;
    for (int i = block * threads.threads + threads.thread(); i < count; i += all) body(i);
  }

  // The sum over the threads of the block; all threads get it.
  STEER_ANYWHERE float sum(float x) const {
    x = warp_sum(x);
    if (threads.thread() % kWarp == 0) shared[threads.thread() / kWarp] = x;
    threads.wait();
    x = 0;
    for (int warp = 0; warp < (threads.threads + kWarp - 1) / kWarp; warp++) x += shared[warp];
    threads.wait();
    return x;
  }

  STEER_ANYWHERE float sum_of(const float *values, int count) const {
    float x = 0;
    for (int i = threads.thread(); i < count; i += threads.threads) x += values[i];
    return sum(x);
  }

  // Calls body(pixel), and writes the sums of what it returns, a chunk each.
  template <class Body>
  STEER_ANYWHERE void sum_chunks(const SurfacePlan &s, float *sums, Body body) const {
    for (int chunk = block; chunk < s.chunks; chunk += blocks) {
      float x = 0;
      for (int i = threads.thread(); i < kChunk; i += threads.threads) {
        const int pixel = chunk * kChunk + i;
        if (pixel < s.pixels) x += body(pixel);
      }
      x = sum(x);
      if (threads.thread() == 0) sums[chunk] = x;
    }
  }
};

// The second differences of a map around a pixel, weighed, and what they do to it. read(dy, dx): the
// map there. at: place of the pixel.
template <class Read>
STEER_ANYWHERE float bending_force(const SurfacePlan &s, int at, Read read) {
  const int row = s.pitch;
  const float *x = s.along_x + at, *y = s.along_y + at, *d = s.across + at;
  const float here = read(0, 0), left = read(0, -1), right = read(0, 1), above = read(-1, 0);
  const float below = read(1, 0), up_left = read(-1, -1), up_right = read(-1, 1);
  const float low_left = read(1, -1), low_right = read(1, 1);
  return force(x[-1] * bend(read(0, -2), left, here), x[0] * bend(left, here, right),
               x[1] * bend(here, right, read(0, 2)), y[-row] * bend(read(-2, 0), above, here),
               y[0] * bend(above, here, below), y[row] * bend(here, below, read(2, 0)),
               d[0] * twist(here, right, below, low_right), d[-1] * twist(left, here, low_left, below),
               d[-row] * twist(above, up_right, here, right),
               d[-row - 1] * twist(up_left, above, left, here));
}

// --- Pulls of samples, added up as integers ---------------------------------------------------------

constexpr int kNothing = -1000;

STEER_ANYWHERE int exponent_of(float x) {  // |x| < 2^exponent
  int exponent = kNothing;
  if (x != 0) frexpf(x, &exponent);
  return exponent;
}

STEER_ANYWHERE void add(unsigned long long *where, float what, int exponent) {
  const unsigned long long whole = (unsigned long long)llrintf(ldexpf(what, kBits - exponent));
#if defined(__CUDA_ARCH__)
  atomicAdd(where, whole);
#else
  *where += whole;
#endif
}

STEER_ANYWHERE float total_at(const SurfacePlan &s, int kind, int pixel) {
  return (float)ldexp((double)(long long)s.total[kind][pixel], s.exponent[kind][pixel] - kBits);
}

// Calls body(pixel, pull) for the samples that count.
template <class Body>
STEER_ANYWHERE void each_pull(const SurfacePlan &s, const Worker &worker, Body body) {
  worker.each(s.p.samples, [&](int i) {
    if (s.p.valid && !s.p.valid[i]) return;
    body(row_of(s.p, i) * s.p.width + column_of(s.p, i), pull_of(s.p, i));
  });
}

// --- Phases -----------------------------------------------------------------------------------------

struct SetOut {  // zeros all around, and sums at zero
  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    const Surface &p = s.p;
    worker.each(s.padded(), [&](int i) {
      const int y = i / s.pitch - kMargin, x = i % s.pitch - kMargin, at = y * s.pitch + x;
      const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
      const int pixel = y * p.width + x;
      s.direction[0][at] = inside ? p.start[pixel] : 0;
      s.direction[1][at] = s.scaled[at] = s.along_x[at] = s.along_y[at] = s.across[at] = 0;
      if (!inside) return;
      p.solution[pixel] = p.start[pixel];
      for (int k = 0; k < 2; k++) s.exponent[k][pixel] = kNothing, s.total[k][pixel] = 0;
    });
  }
};

struct Weigh {  // edges of the image, creases of the start; and how strong samples pull at most
  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    const Surface &p = s.p;
    each_pull(s, worker, [&](int pixel, Pull pull) {
      atomic_raise(&s.exponent[0][pixel], exponent_of(pull.weight));
      atomic_raise(&s.exponent[1][pixel], exponent_of(pull.force));
    });
    worker.each(s.pixels, [&](int pixel) {
      const int y = pixel / p.width, x = pixel % p.width, at = s.place(pixel), row = s.pitch;
      const bool right = x + 1 < p.width, below = y + 1 < p.height;
      const bool inside_x = x > 0 && right, inside_y = y > 0 && below, twisted = right && below;
      // What lies outside is only read for second differences that do not count.
      const int to_left = -(x > 0), to_right = right, up = y > 0 ? -p.width : 0;
      const int down = below ? p.width : 0;
      Colors<float> colors;
      colors.clear();
      for (int channel = 0; channel < 3; channel++) {
        const float *c = p.lab + (size_t)channel * s.pixels + pixel;
        colors.add(c[0], c[to_left], c[to_right], c[up], c[down], c[down + to_right]);
      }
      const float *z = s.direction[0] + at;
      const float by_square = inverse_square(p, z[0]);
      if (inside_x)
        s.along_x[at] = bending_weight(p, bend(z[-1], z[0], z[1]), by_square, colors.along_x());
      if (inside_y)
        s.along_y[at] = bending_weight(p, bend(z[-row], z[0], z[row]), by_square, colors.along_y());
      if (twisted)
        s.across[at] = bending_weight(p, twist(z[0], z[1], z[row], z[row + 1]), by_square,
                                      colors.across());
    });
  }
};

struct AddPulls {
  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    each_pull(s, worker, [&](int pixel, Pull pull) {
      add(&s.total[0][pixel], pull.weight, s.exponent[0][pixel]);
      add(&s.total[1][pixel], pull.force, s.exponent[1][pixel]);
    });
  }
};

struct Begin {  // the residual at the start
  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    worker.sum_chunks(s, s.powers, [&](int pixel) {
      const int at = s.place(pixel), row = s.pitch;
      const float *x = s.along_x + at, *y = s.along_y + at, *d = s.across + at;
      const float weight = total_at(s, 0, pixel), pull = total_at(s, 1, pixel);
      const float own = diagonal(x[-1], x[0], x[1], y[-row], y[0], y[row], d[0], d[-1], d[-row],
                                 d[-row - 1]);
      const float inverse = 1.f / (own + weight + 1e-9f);
      const float *z = s.direction[0] + at;
      const float residual =
          pull - bending_force(s, at, [&](int dy, int dx) { return z[dy * row + dx]; });
      s.data_weight[pixel] = weight, s.inverse[pixel] = inverse, s.residual[pixel] = residual;
      s.scaled[at] = inverse * residual;
      return residual * residual * inverse;
    });
  }
};

struct Turn {  // the next direction, and what the system makes of it
  int step;

  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    const float power = worker.sum_of(s.powers, s.chunks);
    if (worker.block == 0 && worker.threads.thread() == 0) s.power[step] = power;
    const float before = step > 0 ? s.power[step - 1] : 0, beta = before > 0 ? power / before : 0;
    const float *last = s.direction[step % 2];
    float *next = s.direction[(step + 1) % 2];
    worker.sum_chunks(s, s.works, [&](int pixel) {
      const int at = s.place(pixel);
      // Neighbors' directions are found anew, which is cheaper than to wait for them.
      const auto direction = [&](int dy, int dx) {
        const int there = at + dy * s.pitch + dx;
        return s.scaled[there] + beta * last[there];
      };
      const float here = direction(0, 0);
      const float image = bending_force(s, at, direction) + s.data_weight[pixel] * here;
      next[at] = here, s.image[pixel] = image;
      return image * here;
    });
  }
};

struct Step {
  int step;

  STEER_ANYWHERE void operator()(const SurfacePlan &s, const Worker &worker) const {
    const float work = worker.sum_of(s.works, s.chunks);
    const float length = work > 0 ? s.power[step] / work : 0;
    const float *direction = s.direction[(step + 1) % 2];
    worker.sum_chunks(s, s.powers, [&](int pixel) {
      const int at = s.place(pixel);
      const float residual = s.residual[pixel] - length * s.image[pixel];
      const float scaled = s.inverse[pixel] * residual;
      s.p.solution[pixel] += length * direction[at];
      s.residual[pixel] = residual, s.scaled[at] = scaled;
      return residual * scaled;
    });
  }
};

// Hands the phases of a step to `run`, in turn.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Run>
STEER_ANYWHERE void run_phases(const SurfacePlan &s, const Run &run) {
  run(s, SetOut{}), run(s, Weigh{}), run(s, AddPulls{}), run(s, Begin{});
  for (int step = 0; step < s.p.steps; step++) run(s, Turn{step}), run(s, Step{step});
}

}  // namespace device
}  // namespace steer
