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
// What a GPU runs, as functions of an index: one call is one thread's work. Built with g++ the same
// functions run in plain loops, so they can be tested without a GPU (see lanes.h).
//
// Nothing is allocated and nothing waits: all memory is the caller's workspace. Results do not depend
// on the order in which threads run: samples are sorted into grid cells by counting and then by their
// number, and gradients are summed sample by sample, without float atomics.
#pragma once

#include <float.h>
#include <math.h>
#include <stddef.h>

#include "lanes.h"

namespace steer {
STEER_ANYWHERE float exponential(float x) { return expf(x); }
}  // namespace steer
#include "fit.h"

namespace steer {
namespace device {

constexpr int kBoxRows = 4, kBoxCols = 8;  // pixels of a warp
constexpr int kTile = 16, kTilePixels = kTile * kTile;  // pixels of a block
constexpr int kHeldFeatures = 8;                        // guide features kept in registers
constexpr float kHuge = 3e38f;

// Floats as integers of the same order, for atomic minima and maxima.
STEER_ANYWHERE int ordered(float x) {
  union { float f; int i; } bits = {x};
  return bits.i < 0 ? bits.i ^ 0x7fffffff : bits.i;
}

STEER_ANYWHERE float unordered(int x) {
  union { int i; float f; } bits = {x < 0 ? x ^ 0x7fffffff : x};
  return bits.f;
}

STEER_ANYWHERE float squared(float dy, float dx) { return fmaf(dx, dx, dy * dy); }

struct alignas(16) SampleRecord {
  float u, v, value, scale;  // scale < 0 marks padding
  float c11, c12_twice, c22, half_inverse_square;
};

// Sizes and the places of everything in the workspace.
struct Workspace {
  float left, top, cell;
  int cols, rows, cells;
  int turns_x, turns_y, images_x, images_y;  // reflections that are tried, by axis
  int slots, capacity;                       // per batch: reflections tried; that can matter
  int tiles_x, tiles_y, planes;

  int *first;        // (B): the first valid sample, whose value is subtracted from all
  int *bounds;       // (B,4): first u, last u, first v, last v, ordered
  SampleRecord *samples;   // (B,N)
  int *start;        // (B,cells+1): first record of a cell
  int *filled;       // (B,cells)
  int *by_cell[2];   // (B,capacity): slots by cell; the second later holds `origin`
  SampleRecord *sorted;    // (B,capacity): by cell, then by slot
  int *origin;       // (B,capacity): samples that `sorted` came from
  float *pixels;     // (B,planes,H,W), backward only
  int *tile_reach;   // (B,tiles), ordered, backward with neighbours only
};

// Per pixel, for gradients: g z, beta, dL/dmass-like common term, shift; with neighbours also the
// inverse spacing and the radii of the sectors.
STEER_ANYWHERE int plane_count(const Problem &p) {
  return 2 * terms(p.order) + 2 + (p.neighbours ? 1 + p.sectors : 0);
}

STEER_ANYWHERE int images_within(int last, int reach) {
  return 2 * ((last + 2 * reach) / (2 * last) + 1);
}

inline Workspace plan_workspace(const Problem &p, bool backward, size_t *bytes) {
  Workspace w = {};
  const bool window = p.neighbours == 0, mirror = p.border == kMirror;
  const int last_x = p.width - 1, last_y = p.height - 1;
  const float span_x = window ? (float)(last_x + 2 * p.window_cols + 1) : (float)p.width;
  const float span_y = window ? (float)(last_y + 2 * p.window_rows + 1) : p.height * p.row_scale;
  const float few = fminf((float)p.window_rows, (float)p.window_cols) / 4;
  const float spacing = sqrtf(2 * span_x * span_y / (p.samples > 0 ? p.samples : 1));
  w.left = window ? -(float)p.window_cols : 0, w.top = window ? -(float)p.window_rows : 0;
  w.cell = fmaxf(2.f, window ? few : spacing);
  w.cols = (int)ceilf(span_x / w.cell), w.rows = (int)ceilf(span_y / w.cell);
  if (w.rows < 1) w.rows = 1;
  w.cells = w.cols * w.rows;
  w.images_x = w.images_y = 1;
  int most = 1;
  if (mirror && last_x > 0) {
    w.turns_x = p.window_cols / (2 * last_x) + 1, w.images_x = 2 * (2 * w.turns_x + 1);
    most *= images_within(last_x, p.window_cols);
  }
  if (mirror && last_y > 0) {
    w.turns_y = p.window_rows / (2 * last_y) + 1, w.images_y = 2 * (2 * w.turns_y + 1);
    most *= images_within(last_y, p.window_rows);
  }
  w.slots = p.samples * w.images_x * w.images_y, w.capacity = p.samples * most;
  w.tiles_x = (p.width + kTile - 1) / kTile, w.tiles_y = (p.height + kTile - 1) / kTile;
  w.planes = plane_count(p);

  char *base = (char *)p.workspace;
  size_t used = 0;
  auto take = [&](size_t size) {
    char *at = base + used;
    used += (size + 255) / 256 * 256;
    return at;
  };
  const size_t b = p.batch, pixels = (size_t)p.height * p.width;
  w.first = (int *)take(b * sizeof(int));
  w.bounds = (int *)take(b * 4 * sizeof(int));
  w.samples = (SampleRecord *)take(b * p.samples * sizeof(SampleRecord));
  w.start = (int *)take(b * (w.cells + 1) * sizeof(int));
  w.filled = (int *)take(b * w.cells * sizeof(int));
  w.by_cell[0] = (int *)take(b * w.capacity * sizeof(int));
  w.sorted = (SampleRecord *)take(b * w.capacity * sizeof(SampleRecord));
  w.by_cell[1] = w.origin = (int *)take(b * w.capacity * sizeof(int));
  if (backward) {
    w.pixels = (float *)take(b * w.planes * pixels * sizeof(float));
    w.tile_reach = (int *)take(b * w.tiles_x * w.tiles_y * sizeof(int));
  }
  *bytes = used;
  return w;
}

// --- Sorting the samples and their reflections into cells -----------------------------------------

// NaN, where nothing checked the positions, becomes 0.
STEER_ANYWHERE int cell_column(const Workspace &w, float u) { return index_along((u - w.left) / w.cell, w.cols); }
STEER_ANYWHERE int cell_row(const Workspace &w, float v) { return index_along((v - w.top) / w.cell, w.rows); }

// The j-th reflection of x over 0 and `last`; false where there is none. The edge is not repeated,
// and what lies outside the image is not reflected.
STEER_ANYWHERE bool reflect(float x, int last, int turns, int j, float *where) {
  const int k = j / 2 - turns;
  *where = (j & 1) ? 2 * k * last - x : 2 * k * last + x;
  if (j & 1) return x > 0 && x < last;
  return k == 0 || (x >= 0 && x <= last);
}

// Position of a slot (a sample's reflection); false where nothing lies that can matter.
STEER_ANYWHERE bool place_reflection(const Problem &p, const Workspace &w, int b, int slot, float *u,
                                     float *v) {
  const int images = w.images_x * w.images_y, sample = slot / images, image = slot % images;
  const size_t at = (size_t)b * p.samples + sample;
  if (p.valid && !p.valid[at]) return false;
  const float x = p.uv[2 * at], y = p.uv[2 * at + 1];
  if (p.neighbours) {
    *u = x, *v = y * p.row_scale;
    return true;
  }
  *u = x, *v = y;
  if (w.images_x > 1 && !reflect(x, p.width - 1, w.turns_x, image % w.images_x, u)) return false;
  if (w.images_y > 1 && !reflect(y, p.height - 1, w.turns_y, image / w.images_x, v)) return false;
  return *u >= -p.window_cols && *u <= p.width - 1 + p.window_cols && *v >= -p.window_rows &&
         *v <= p.height - 1 + p.window_rows;
}

struct Clear {  // index: batch x cells
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.cells; }

  STEER_ANYWHERE void operator()(int i) const {
    const int b = i / w.cells, cell = i % w.cells;
    w.start[(size_t)b * (w.cells + 1) + cell + 1] = 0;
    w.filled[i] = 0;
    if (cell) return;
    w.start[(size_t)b * (w.cells + 1)] = 0;
    w.first[b] = p.valid ? p.samples : 0;
    w.bounds[4 * b] = w.bounds[4 * b + 2] = ordered(kHuge);
    w.bounds[4 * b + 1] = w.bounds[4 * b + 3] = ordered(-kHuge);
  }
};

struct FindFirst {  // index: batch x samples; where some are not valid
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * p.samples; }

  STEER_ANYWHERE void operator()(int i) const {
    if (p.valid[i]) atomic_lower(&w.first[i / p.samples], i % p.samples);
  }
};

// What is subtracted from the values and added to the estimates, so that differences count.
STEER_ANYWHERE float reference(const Problem &p, const Workspace &w, int b) {
  return w.first[b] < p.samples ? p.values[(size_t)b * p.samples + w.first[b]] : 0;
}

struct Count {  // index: batch x slots
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.slots; }

  STEER_ANYWHERE void operator()(int i) const {
    const int b = i / w.slots, slot = i % w.slots, images = w.images_x * w.images_y;
    if (slot % images == 0) make_record(b, slot / images);
    float u, v;
    if (!place_reflection(p, w, b, slot, &u, &v)) return;
    atomic_add(&w.start[(size_t)b * (w.cells + 1) + cell_row(w, v) * w.cols + cell_column(w, u) + 1], 1);
    if (p.neighbours) {
      atomic_lower(&w.bounds[4 * b], ordered(u)), atomic_raise(&w.bounds[4 * b + 1], ordered(u));
      atomic_lower(&w.bounds[4 * b + 2], ordered(v)), atomic_raise(&w.bounds[4 * b + 3], ordered(v));
    }
  }

  STEER_ANYWHERE void make_record(int b, int sample) const {
    const size_t at = (size_t)b * p.samples + sample;
    SampleRecord &r = w.samples[at];
    if (p.valid && !p.valid[at]) {
      r.scale = -1;
      return;
    }
    const float *s = p.steering + 3 * at;
    const Steering k = steering_of(s[0], s[1], s[2], p.profile);
    const bool window = p.neighbours == 0;
    // In window mode q is taken of coordinates scaled by the window, as the fit is.
    const float sy = window && p.window_rows > 1 ? p.window_rows : 1;
    const float sx = window && p.window_cols > 1 ? p.window_cols : 1;
    r.u = p.uv[2 * at], r.v = p.uv[2 * at + 1] * (window ? 1 : p.row_scale);
    r.value = p.values[at] - reference(p, w, b), r.scale = k.scale;
    r.c11 = k.c11 * sy * sy, r.c12_twice = 2 * k.c12 * sy * sx, r.c22 = k.c22 * sx * sx;
    r.half_inverse_square = 1;
    if (p.bandwidth_extent != kPerPixel) {
      const float h = p.bandwidth[p.bandwidth_extent == kPerSample ? at : 0];
      r.half_inverse_square = 1 / (2 * h * h);
    }
  }
};

struct Fill {  // index: batch x slots, once the counts are summed up
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.slots; }

  STEER_ANYWHERE void operator()(int i) const {
    const int b = i / w.slots, slot = i % w.slots;
    float u, v;
    if (!place_reflection(p, w, b, slot, &u, &v)) return;
    const int cell = cell_row(w, v) * w.cols + cell_column(w, u);
    const int at = w.start[(size_t)b * (w.cells + 1) + cell] +
                   atomic_add(&w.filled[(size_t)b * w.cells + cell], 1);
    w.by_cell[0][(size_t)b * w.capacity + at] = slot;
  }
};

// Turns counts into first places: a block a batch, every thread a stretch of cells.
struct Scan {
  Problem p;
  Workspace w;
  static constexpr int kThreads = 1024;
  using Shared = int[kThreads];

  STEER_ANYWHERE int blocks() const { return p.batch; }

  STEER_ANYWHERE void operator()(int b, const Block &block, int *sums) const {
    int *counts = w.start + (size_t)b * (w.cells + 1);
    const int t = block.thread(), n = w.cells + 1, each = (n + block.threads - 1) / block.threads;
    const int begin = t * each, end = begin + each < n ? begin + each : n;
    int sum = 0;
    for (int i = begin; i < end; i++) sum += counts[i];
    sums[t] = sum;
    block.wait();
    for (int step = 1; step < block.threads; step *= 2) {
      const int before = t >= step ? sums[t - step] : 0;
      block.wait();
      sums[t] += before;
      block.wait();
    }
    int total = t ? sums[t - 1] : 0;
    for (int i = begin; i < end; i++) counts[i] = total += counts[i];
  }
};

// The slots of a cell come in any order and are sorted by number. In a cell of few, every thread
// counts how many come before its slot. A cell of many is sorted by one block: runs of kRun by
// counting, then runs of twice the length by merging, from one of `by_cell` to the other and back,
// so a cell of m samples costs m log(m)^2 however few cells there are.
constexpr int kRun = 64, kStretch = 256;

struct Cell {
  int begin, end;
};

// The cell of the n-th slot of a batch. While a block moves the slots of a large cell, what stands at
// n may be the old or the new one: both are of the cell.
STEER_ANYWHERE Cell cell_of(const Problem &p, const Workspace &w, int b, int n) {
  const int *start = w.start + (size_t)b * (w.cells + 1);
  float u, v;
  place_reflection(p, w, b, w.by_cell[0][(size_t)b * w.capacity + n], &u, &v);
  const int at = cell_row(w, v) * w.cols + cell_column(w, u);
  return {start[at], start[at + 1]};
}

STEER_ANYWHERE void write_sorted(const Problem &p, const Workspace &w, int b, int n, int slot) {
  const size_t at = (size_t)b * w.capacity + n;
  const int sample = slot / (w.images_x * w.images_y);
  float u, v;
  place_reflection(p, w, b, slot, &u, &v);
  SampleRecord r = w.samples[(size_t)b * p.samples + sample];
  r.u = u, r.v = v;
  w.sorted[at] = r;
  w.origin[at] = sample;
}

// Where the n-th slot goes when runs of `length` are merged in pairs: to its place in its own run,
// and after all of the other run that come before it.
STEER_ANYWHERE int merged_place(const int *slots, const Cell &cell, int length, int n) {
  const int in_cell = n - cell.begin, slot = slots[n];
  const bool second = in_cell / length % 2;
  const int run = n - in_cell % length, other = second ? run - length : run + length;
  int low = other < cell.end ? other : cell.end;
  int high = other + length < cell.end ? other + length : cell.end;
  const int other_begin = low;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (slots[middle] < slot) low = middle + 1;
    else high = middle;
  }
  return (second ? other : run) + (n - run) + (low - other_begin);
}

STEER_ANYWHERE void sort_large_cell(const Problem &p, const Workspace &w, int b, const Cell &cell,
                                    const Block &block) {
  int *from = w.by_cell[0] + (size_t)b * w.capacity, *to = w.by_cell[1] + (size_t)b * w.capacity;
  for (int n = cell.begin + block.thread(); n < cell.end; n += block.threads) {
    const int begin = n - (n - cell.begin) % kRun, slot = from[n];
    int rank = begin;
    for (int k = begin; k < begin + kRun && k < cell.end; k++) rank += from[k] < slot;
    to[rank] = slot;
  }
  for (int length = kRun; length < cell.end - cell.begin; length *= 2) {
    block.wait();
    int *last = from;
    from = to, to = last;
    for (int n = cell.begin + block.thread(); n < cell.end; n += block.threads)
      to[merged_place(from, cell, length, n)] = from[n];
  }
  block.wait();
  // `to` may be `origin`: what stands there is read before it is written, by the same thread.
  for (int n = cell.begin + block.thread(); n < cell.end; n += block.threads)
    write_sorted(p, w, b, n, to[n]);
}

// Sorts the cells of `length` slots from `first` on, and writes their records.
STEER_ANYWHERE void sort_stretch(const Problem &p, const Workspace &w, int b, int first, int length,
                                 const Block &block) {
  const int total = w.start[(size_t)b * (w.cells + 1) + w.cells];
  const int end = first + length < total ? first + length : total;
  const int *slots = w.by_cell[0] + (size_t)b * w.capacity;
  for (int n = first + block.thread(); n < end; n += block.threads) {
    const Cell cell = cell_of(p, w, b, n);
    if (cell.end - cell.begin > length) continue;
    const int slot = slots[n];
    int at = cell.begin;
    for (int k = cell.begin; k < cell.end; k++) at += slots[k] < slot;
    write_sorted(p, w, b, at, slot);
  }
  if (first >= end) return;
  // A larger cell is sorted where it begins. It reaches beyond the stretch, so there is one at most.
  const Cell last = cell_of(p, w, b, end - 1);
  if (last.end - last.begin > length && last.begin >= first) sort_large_cell(p, w, b, last, block);
}

struct SortCells {
  Problem p;
  Workspace w;
  static constexpr int kThreads = kStretch;
  using Shared = int[kThreads];

  STEER_ANYWHERE int stretches() const { return (w.capacity + kStretch - 1) / kStretch; }
  STEER_ANYWHERE int blocks() const { return p.batch * stretches(); }

  STEER_ANYWHERE void operator()(int i, const Block &block, int *) const {
    sort_stretch(p, w, i / stretches(), i % stretches() * kStretch, kStretch, block);
  }
};

// All of the sorting in one block a batch, where launches would take longer than the work.
struct SortFew {
  Problem p;
  Workspace w;
  static constexpr int kThreads = 1024;
  using Shared = int[kThreads];

  STEER_ANYWHERE int blocks() const { return p.batch; }

  STEER_ANYWHERE void operator()(int b, const Block &block, int *sums) const {
    all(Clear{p, w}, b, w.cells, block);
    if (p.valid) all(FindFirst{p, w}, b, p.samples, block);
    all(Count{p, w}, b, w.slots, block);
    Scan{p, w}(b, block, sums);
    block.wait();
    all(Fill{p, w}, b, w.slots, block);
    for (int first = 0; first < w.capacity; first += kThreads)
      sort_stretch(p, w, b, first, kThreads, block);
  }

  template <class Functor>
  STEER_ANYWHERE void all(const Functor &f, int b, int count, const Block &block) const {
    for (int i = block.thread(); i < count; i += block.threads) f(b * count + i);
    block.wait();
  }
};

// --- One pixel ------------------------------------------------------------------------------------

struct PixelContext {
  int b, at;                 // batch, offset in the image
  bool inside;               // threads beyond the image's edge work along on its last pixels
  float x, y;                // rows scaled as the samples'
  float x0, x1, y0, y1;      // the pixels of the warp
  float half_inverse_square, ridge;
  float guide[kHeldFeatures];
  float reach[4];            // how far samples matter, by quadrant (2 below + right)
  float inverse_spacing;     // neighbours
  float radius2[8];          // neighbours: of the K-th, by sector; infinite: no taper
};

// Blocks are tiles; a warp is a box of kBoxRows x kBoxCols pixels.
template <bool GUIDE = true>
STEER_ANYWHERE PixelContext locate_pixel(const Problem &p, const Workspace &w, int i) {
  PixelContext s;
  const int tiles = w.tiles_x * w.tiles_y, tile = i / kTilePixels, thread = i % kTilePixels;
  const int box = thread / (kBoxRows * kBoxCols), lane = thread % (kBoxRows * kBoxCols);
  s.b = tile / tiles;
  const int row0 = tile % tiles / w.tiles_x * kTile + box / (kTile / kBoxCols) * kBoxRows;
  const int col0 = tile % tiles % w.tiles_x * kTile + box % (kTile / kBoxCols) * kBoxCols;
  const int row = row0 + lane / kBoxCols, col = col0 + lane % kBoxCols;
  const int y = row < p.height ? row : p.height - 1, x = col < p.width ? col : p.width - 1;
  const float scale = p.neighbours ? p.row_scale : 1;
  s.inside = row < p.height && col < p.width;
  s.at = y * p.width + x;
  s.x = (float)x, s.y = y * scale;
  s.x0 = (float)(col0 < p.width ? col0 : p.width - 1);
  s.x1 = (float)(col0 + kBoxCols <= p.width ? col0 + kBoxCols - 1 : p.width - 1);
  s.y0 = (row0 < p.height ? row0 : p.height - 1) * scale;
  s.y1 = (row0 + kBoxRows <= p.height ? row0 + kBoxRows - 1 : p.height - 1) * scale;
  const size_t plane = (size_t)p.height * p.width, offset = s.b * plane + s.at;
  if (p.bandwidth_extent == kPerPixel) {
    const float h = p.bandwidth[offset];
    s.half_inverse_square = 0.5f / (h * h);
  }
  s.ridge = p.ridge_extent == kPerPixel ? p.ridge[offset] : p.ridge_extent == kScalar ? p.ridge[0] : 0;
STEER_UNROLL
  for (int f = 0; GUIDE && f < kHeldFeatures; f++)
    s.guide[f] = f < p.features ? p.guide[((size_t)s.b * p.features + f) * plane + s.at] : 0;
  return s;
}

STEER_ANYWHERE int sector_of(int sectors, float dy, float dx) {
  if (sectors == 1) return 0;
  const int quadrant = (dy >= 0) * 2 + (dx >= 0);
  return sectors == 8 && fabsf(dy) > fabsf(dx) ? quadrant + 4 : quadrant;
}

// Calls visit(first, end) for runs of records that cover all within `reach` of the warp's pixels.
template <class Visit>
STEER_ANYWHERE void for_runs(const Workspace &w, const PixelContext &s, bool box, const float *reach,
                             Visit visit) {
  const float up = fmaxf(reach[0], reach[1]), down = fmaxf(reach[2], reach[3]);
  const int *start = w.start + (size_t)s.b * (w.cells + 1);
  for (int r = cell_row(w, s.y0 - up), end_row = cell_row(w, s.y1 + down); r <= end_row; r++) {
    const float low = r == 0 ? -kHuge : w.top + r * w.cell;
    const float high = r == w.rows - 1 ? kHuge : w.top + (r + 1) * w.cell;
    float left = 0, right = 0;
    if (low < s.y1 || box) left = reach[0], right = reach[1];
    if (high >= s.y0) left = fmaxf(left, reach[2]), right = fmaxf(right, reach[3]);
    if (!box) {
      const float gap = fmaxf(0.f, fmaxf(s.y0 - high, low - s.y1));
      left = sqrtf(fmaxf(0.f, (left - gap) * (left + gap)));
      right = sqrtf(fmaxf(0.f, (right - gap) * (right + gap)));
    }
    const int first = start[r * w.cols + cell_column(w, s.x0 - left)];
    const int end = start[r * w.cols + cell_column(w, s.x1 + right) + 1];
    if (first < end) visit(first, end);
  }
}

template <class Visit>
STEER_ANYWHERE void for_records(const Workspace &w, const PixelContext &s, bool box, const float *reach,
                                Visit visit) {
  const SampleRecord *sorted = w.sorted + (size_t)s.b * w.capacity;
  for_runs(w, s, box, reach, [&](int first, int end) {
    for (int i = first; i < end; i++) visit(sorted[i], i);
  });
}

// The squared distance beyond which a sector holds no sample at all.
STEER_ANYWHERE float limit2(const Workspace &w, const PixelContext &s, int sectors, int sector) {
  const float first_u = unordered(w.bounds[4 * s.b]), last_u = unordered(w.bounds[4 * s.b + 1]);
  const float first_v = unordered(w.bounds[4 * s.b + 2]), last_v = unordered(w.bounds[4 * s.b + 3]);
  if (sectors == 1)
    return squared(fmaxf(s.y - first_v, last_v - s.y), fmaxf(s.x - first_u, last_u - s.x));
  const float y = (sector & 2) ? last_v - s.y : s.y - first_v;
  const float x = (sector & 1) ? last_u - s.x : s.x - first_u;
  const float both = fminf(y, x);
  if (both < 0) return 0;
  return sectors == 4 ? squared(y, x) : squared((sector & 4) ? y : x, both);
}

// Finds the K-th neighbours: the search starts with cells that hold a few times K samples and is
// widened until nothing nearer can be missing, so it is exact.
STEER_ANYWHERE void search_neighbours(const Problem &p, const Workspace &w, PixelContext &s) {
  const int each = p.neighbours / p.sectors;
  float nearest[64];
  for (int q = 0; q < 4; q++) s.reach[q] = 0;
  if (w.start[(size_t)s.b * (w.cells + 1) + w.cells] == 0) {
    for (int k = 0; k < p.sectors; k++) s.radius2[k] = kHuge;
    s.inverse_spacing = 1;
    return;
  }
  const float everything = 2 * (w.rows + w.cols) * w.cell;
  const int wanted = p.neighbours * (p.sectors == 1 ? 2 : 3);
  float guess = w.cell / 2;
  for (int held = 0; guess < everything; guess *= 1.5f) {
    const float reach[4] = {guess, guess, guess, guess};
    held = 0;
    for_runs(w, s, true, reach, [&](int first, int end) { held += end - first; });
    if (held >= wanted) break;
  }
  for (int q = 0; q < 4; q++) s.reach[q] = guess;

  for (bool wider = true; wider;) {
    for (int k = 0; k < p.neighbours; k++) nearest[k] = kHuge;
    float reach[4];
    for (int q = 0; q < 4; q++) reach[q] = s.reach[q] * 1.0001f + 0.01f;  // beyond rounding
    for_records(w, s, false, reach, [&](const SampleRecord &r, int) {
      const float dy = r.v - s.y, dx = r.u - s.x, d2 = squared(dy, dx);
      float *list = nearest + sector_of(p.sectors, dy, dx) * each;
      if (d2 >= list[each - 1]) return;
      int k = each - 1;
      for (; k > 0 && list[k - 1] > d2; k--) list[k] = list[k - 1];
      list[k] = d2;
    });
    wider = false;
    for (int q = 0; q < 4; q++) {
      float needed = 0;
      for (int sector = q % p.sectors; sector < p.sectors; sector += 4) {
        const float last = nearest[sector * each + each - 1];
        const float known = last < kHuge ? last : 4 * s.reach[q] * s.reach[q] + 1;
        needed = fmaxf(needed, fminf(known, limit2(w, s, p.sectors, sector)));
      }
      needed = warp_max(sqrtf(needed));
      wider |= needed > s.reach[q];
      s.reach[q] = needed;
    }
  }
  for (int q = 0; q < 4; q++) s.reach[q] = s.reach[q] * 1.0001f + 0.01f;

  // Local spacing: geometric mean of the sectors' radii, as if K samples filled a disc of it.
  float logs = 0, filled = 0;
  for (int sector = 0; sector < p.sectors; sector++) {
    const float *list = nearest + sector * each;
    float last = list[each - 1];
    s.radius2[sector] = last < kHuge ? fmaxf(last, 1e-12f) : kHuge;
    for (int k = each - 2; k >= 0 && last >= kHuge; k--) last = list[k];  // the farthest there is
    if (last < kHuge) filled += 1, logs += last > 0 ? logf(last) : -1e30f;
  }
  const float spacing = expf(0.5f * logs / fmaxf(filled, 1.f)) * sqrtf(kPi / p.neighbours);
  s.inverse_spacing = 1 / fmaxf(spacing, kSmallestSpacing);
}

template <bool WINDOW>
STEER_ANYWHERE void prepare_pixel(const Problem &p, const Workspace &w, PixelContext &s) {
  if (WINDOW) {
    s.reach[0] = s.reach[1] = s.reach[2] = s.reach[3] = (float)p.window_cols;
    s.inverse_spacing = 1;
  } else {
    search_neighbours(p, w, s);
  }
}

// Runs over the records that can matter to the pixel. A window's rows are bounded apart.
template <bool WINDOW, class Visit>
STEER_ANYWHERE void for_candidates(const Problem &p, const Workspace &w, const PixelContext &s, Visit visit) {
  if (!WINDOW) {
    for_records(w, s, false, s.reach, visit);
    return;
  }
  const SampleRecord *sorted = w.sorted + (size_t)s.b * w.capacity;
  const int *start = w.start + (size_t)s.b * (w.cells + 1);
  const int c0 = cell_column(w, s.x0 - p.window_cols), c1 = cell_column(w, s.x1 + p.window_cols);
  for (int r = cell_row(w, s.y0 - p.window_rows), r1 = cell_row(w, s.y1 + p.window_rows); r <= r1; r++)
    for (int i = start[r * w.cols + c0], end = start[r * w.cols + c1 + 1]; i < end; i++)
      visit(sorted[i], i);
}

// Everything about one (sample, pixel) pair that both directions need.
struct Pair {
  float y, x, q, exponent, slope, keep;
};

// `radius2` is that of the pair's sector; per-pixel arguments that a mode does not use are ignored.
template <bool WINDOW>
STEER_ANYWHERE Pair pair_of(const Problem &p, const SampleRecord &r, float dy, float dx,
                            float inverse_spacing, float radius2, float half_inverse_square) {
  Pair a;
  if (WINDOW) {
    a.keep = fabsf(dx) <= p.window_cols && fabsf(dy) <= p.window_rows ? 1.f : 0.f;
    a.y = dy * (1.f / (p.window_rows > 1 ? p.window_rows : 1));
    a.x = dx * (1.f / (p.window_cols > 1 ? p.window_cols : 1));
  } else {
    a.keep = taper(squared(dy, dx), radius2, radius2 < kHuge ? 1 / radius2 : 0.f);
    a.y = dy * inverse_spacing, a.x = dx * inverse_spacing;
  }
  const float h = p.bandwidth_extent == kPerPixel ? half_inverse_square : r.half_inverse_square;
  a.q = (r.c11 * a.y + r.c12_twice * a.x) * a.y + r.c22 * a.x * a.x;
  a.exponent = log_profile(a.q, h, p.profile, &a.slope);
  return a;
}

template <bool WINDOW>
STEER_ANYWHERE Pair pair_of(const Problem &p, const Workspace &w, const PixelContext &s,
                            const SampleRecord &r, int i) {
  const float dy = r.v - s.y, dx = r.u - s.x;
  const float radius2 = WINDOW ? 0 : s.radius2[sector_of(p.sectors, dy, dx)];
  Pair a = pair_of<WINDOW>(p, r, dy, dx, s.inverse_spacing, radius2, s.half_inverse_square);
  if (p.features && a.keep > 0) {
    const int origin = w.origin[(size_t)s.b * w.capacity + i];
    const float *at_sample = p.guide_at_samples + ((size_t)s.b * p.samples + origin) * p.features;
    const size_t plane = (size_t)p.height * p.width;
    float distance = 0;
STEER_UNROLL
    for (int f = 0; f < kHeldFeatures; f++)
      if (f < p.features) {
        const float d = s.guide[f] - at_sample[f];
        distance += d * d;
      }
    for (int f = kHeldFeatures; f < p.features; f++) {
      const float d = p.guide[((size_t)s.b * p.features + f) * plane + s.at] - at_sample[f];
      distance += d * d;
    }
    a.exponent -= 0.5f * distance;
  }
  return a;
}

STEER_ANYWHERE float weight_of(const Pair &a, float shift) {
  return expf(fminf(fmaxf(a.exponent - shift, kExponentFloor), 88.f)) * a.keep;
}

// Sums over the candidates; `shift` is non-zero where weights needed rescaling.
template <int ORDER, bool WINDOW>
STEER_ANYWHERE Sums<float, ORDER> accumulate(const Problem &p, const Workspace &w, const PixelContext &s,
                                             float *shift) {
  enum { kSum, kFindLargest, kSumAgain };  // one loop for all, or compilation takes thrice as long
  Sums<float, ORDER> sums;
  float best = -kHuge;
  *shift = 0;
  for (int pass = kSum;; pass++) {
    if (pass != kFindLargest) sums.clear(0.f);
    for_candidates<WINDOW>(p, w, s, [&](const SampleRecord &r, int i) {
      const Pair a = pair_of<WINDOW>(p, w, s, r, i);
      if (pass == kFindLargest) {
        if (a.keep * r.scale > 0) best = fmaxf(best, a.exponent);
      } else if (a.keep > 0) {
        sums.add(weight_of(a, *shift) * r.scale, a.y, a.x, r.value);
      }
    });
    if (pass == kSum && sums.m[0] >= kMassLow && sums.m[0] < kMassHigh) return sums;
    if (pass == kFindLargest && best == -kHuge) return sums;
    if (pass == kFindLargest) *shift = best;
    if (pass == kSumAgain) return sums;
  }
}

// 2^x, for x of normal results.
STEER_ANYWHERE float power_of_two(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// What `accumulate` does, for the window and the Gaussian profile without a guide: nothing but the
// arithmetic that every pair needs, with exponents of two.
template <int ORDER>
STEER_ANYWHERE Sums<float, ORDER> accumulate_plain(const Problem &p, const Workspace &w,
                                                   const PixelContext &s, float *shift) {
  constexpr float kLog2E = 1.44269504088896f, kFloor = kExponentFloor * kLog2E, kCeiling = 126;
  const float rows = (float)p.window_rows, cols = (float)p.window_cols;
  const float per_row = 1.f / fmaxf(rows, 1.f), per_col = 1.f / fmaxf(cols, 1.f);
  const float factor = -kLog2E * (p.bandwidth_extent == kPerPixel ? s.half_inverse_square : 1);
  float shift2 = 0;
  Sums<float, ORDER> sums;
  for (bool again = false;; again = true) {
    sums.clear(0.f);
    for_candidates<true>(p, w, s, [&](const SampleRecord &r, int) {
      const float dy = r.v - s.y, dx = r.u - s.x;
      if (!(fabsf(dx) <= cols && fabsf(dy) <= rows)) return;
      const float y = dy * per_row, x = dx * per_col;
      const float q = r.c11 * (y * y) + r.c12_twice * (y * x) + r.c22 * (x * x);
      const float exponent = q * (r.half_inverse_square * factor) - shift2;
      sums.add(power_of_two(fminf(fmaxf(exponent, kFloor), kCeiling)) * r.scale, y, x, r.value);
    });
    *shift = shift2 / kLog2E;
    if (again || (sums.m[0] >= kMassLow && sums.m[0] < kMassHigh)) return sums;
    float best = -kHuge;
    for_candidates<true>(p, w, s, [&](const SampleRecord &r, int) {
      const float dy = r.v - s.y, dx = r.u - s.x;
      if (!(fabsf(dx) <= cols && fabsf(dy) <= rows && r.scale > 0)) return;
      const float y = dy * per_row, x = dx * per_col;
      const float q = r.c11 * (y * y) + r.c12_twice * (y * x) + r.c22 * (x * x);
      best = fmaxf(best, q * (r.half_inverse_square * factor));
    });
    if (best == -kHuge) return sums;
    shift2 = best;
  }
}

// PLAIN: a window, the Gaussian profile and no guide.
template <int ORDER, bool WINDOW, bool PLAIN = false>
struct Forward {  // index: batch x tiles x pixels of a tile
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.tiles_x * w.tiles_y * kTilePixels; }

  STEER_ANYWHERE void operator()(int i) const {
    PixelContext s = locate_pixel<!PLAIN>(p, w, i);
    float shift;
    Sums<float, ORDER> sums;
    if constexpr (PLAIN) {
      sums = accumulate_plain<ORDER>(p, w, s, &shift);
    } else {
      prepare_pixel<WINDOW>(p, w, s);
      sums = accumulate<ORDER, WINDOW>(p, w, s, &shift);
    }
    if (!s.inside) return;
    const size_t at = (size_t)s.b * p.height * p.width + s.at;
    const bool some = sums.m[0] > 0;
    const auto fit = solve<float, ORDER, false>(sums, s.ridge);
    p.dense[at] = some ? fit.estimate + reference(p, w, s.b) : p.profile == kTanh ? 0.f : nanf("");
    p.mass[at] = some ? sums.m[0] * expf(shift) : 0;
  }
};

// --- Gradients ------------------------------------------------------------------------------------

struct ClearTiles {  // index: batch x tiles
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.tiles_x * w.tiles_y; }
  STEER_ANYWHERE void operator()(int i) const { w.tile_reach[i] = ordered(-1.f); }
};

// What the samples need to know of a pixel, and the pixel's own gradients.
template <int ORDER, bool WINDOW>
struct BackwardPixels {  // index as Forward
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * w.tiles_x * w.tiles_y * kTilePixels; }

  STEER_ANYWHERE void operator()(int i) const {
    constexpr int n = terms(ORDER);
    PixelContext s = locate_pixel(p, w, i);
    prepare_pixel<WINDOW>(p, w, s);
    float shift;
    const auto sums = accumulate<ORDER, WINDOW>(p, w, s, &shift);
    auto fit = solve<float, ORDER, true>(sums, s.ridge);
    const size_t plane = (size_t)p.height * p.width, at = s.b * plane + s.at;
    float g = p.grad_dense[at], common = p.grad_mass[at] * expf(shift), curvature = 0;
    for (int k = 0; k + 1 < n; k++) curvature += fit.influence[k] * fit.coefficients[k];
    if (!(sums.m[0] > 0)) {
      g = common = curvature = 0;
      for (int k = 0; k < n; k++) fit.influence[k] = fit.coefficients[k] = 0;
    }
    common -= g * s.ridge * curvature;
    for (int k = 0; k < n; k++) fit.influence[k] *= g;
    float g_bandwidth = 0;
    if (p.features || (p.grad_bandwidth && p.bandwidth_extent == kPerPixel))
      g_bandwidth = own_gradients(s, fit, common, shift);
    if (!s.inside) return;
    if (p.grad_ridge) p.grad_ridge[at] = -g * sums.m[0] * curvature;
    if (p.grad_bandwidth && p.bandwidth_extent == kPerPixel)
      p.grad_bandwidth[at] = g_bandwidth * -2 / p.bandwidth[at];

    float *out = w.pixels + (size_t)s.b * w.planes * plane + s.at;
    for (int k = 0; k < n; k++) {
      out[k * plane] = fit.influence[k];
      out[(n + k) * plane] = fit.coefficients[k];
    }
    out[2 * n * plane] = common, out[(2 * n + 1) * plane] = shift;
    if (WINDOW) return;
    out[(2 * n + 2) * plane] = s.inverse_spacing;
    for (int k = 0; k < p.sectors; k++) out[(2 * n + 3 + k) * plane] = s.radius2[k];
    const float reach = fmaxf(fmaxf(s.reach[0], s.reach[1]), fmaxf(s.reach[2], s.reach[3]));
    const int y = s.at / p.width, x = s.at % p.width;
    atomic_raise(&w.tile_reach[(s.b * w.tiles_y + y / kTile) * w.tiles_x + x / kTile], ordered(reach));
  }

  // Writes the gradient of the guide, returns dL/dh without its factor -2 / h.
  STEER_ANYWHERE float own_gradients(const PixelContext &s, const Fit<float, ORDER> &fit, float common,
                                     float shift) const {
    const size_t plane = (size_t)p.height * p.width;
    float bandwidth = 0;
    int f0 = 0;
    do {
      float guide[kHeldFeatures] = {};
      for_candidates<WINDOW>(p, w, s, [&](const SampleRecord &r, int i) {
        const Pair a = pair_of<WINDOW>(p, w, s, r, i);
        if (!(a.keep > 0)) return;
        const float influence = evaluate<float, ORDER>(fit.influence, a.y, a.x);
        const float residual = r.value - evaluate<float, ORDER>(fit.coefficients, a.y, a.x);
        const float g = (influence * residual + common) * weight_of(a, shift) * r.scale;
        if (f0 == 0) bandwidth += g * a.slope * a.q;
        if (p.features == 0) return;
        const int origin = w.origin[(size_t)s.b * w.capacity + i];
        const float *at_sample =
            p.guide_at_samples + ((size_t)s.b * p.samples + origin) * p.features;
STEER_UNROLL
        for (int f = 0; f < kHeldFeatures; f++)
          if (f0 + f < p.features) {
            const float own = f0 == 0 ? s.guide[f] : p.guide[((size_t)s.b * p.features + f0 + f) *
                                                             plane + s.at];
            guide[f] -= g * (own - at_sample[f0 + f]);
          }
      });
      for (int f = 0; f < kHeldFeatures; f++)
        if (s.inside && p.grad_guide && f0 + f < p.features)
          p.grad_guide[((size_t)s.b * p.features + f0 + f) * plane + s.at] = guide[f];
      f0 += kHeldFeatures;
    } while (f0 < p.features);
    return bandwidth;
  }
};

// One warp a sample: its lanes share the pixels that it reaches.
template <int ORDER, bool WINDOW>
struct BackwardSamples {  // index: (batch x samples) x lanes
  Problem p;
  Workspace w;

  STEER_ANYWHERE int count() const { return p.batch * p.samples * kWarp; }

  struct Totals {
    float value, g11, g12, g22, scale, guide[kHeldFeatures];
  };

  STEER_ANYWHERE void operator()(int i) const {
    const int lane = i % kWarp, at = i / kWarp, b = at / p.samples;
    const SampleRecord r = w.samples[at];
    const bool used = r.scale >= 0;
    Totals t = {};
    int f0 = 0;
    do {
      for (int f = 0; f < kHeldFeatures; f++) t.guide[f] = 0;
      if (used) accumulate_images(r, b, at, lane, f0, t);
      for (int f = 0; f < kHeldFeatures; f++) {
        const float sum = f0 + f < p.features ? warp_sum(t.guide[f]) : 0;
        if (lane == 0 && p.grad_guide_at_samples && f0 + f < p.features)
          p.grad_guide_at_samples[(size_t)at * p.features + f0 + f] = sum;
      }
      f0 += kHeldFeatures;
    } while (f0 < p.features);
    finish(at, lane, used, t);
  }

  STEER_ANYWHERE void accumulate_images(SampleRecord r, int b, int at, int lane, int f0, Totals &t) const {
    const int images = w.images_x * w.images_y, sample = at % p.samples;
    for (int image = 0; image < images; image++)
      if (place_reflection(p, w, b, sample * images + image, &r.u, &r.v)) {
        if (WINDOW)
          accumulate_window(r, b, at, lane, f0, t);
        else
          accumulate_tiles(r, b, at, lane, f0, t);
      }
  }

  STEER_ANYWHERE void accumulate_window(const SampleRecord &r, int b, int at, int lane, int f0,
                                        Totals &t) const {
    const int x0 = (int)fmaxf(ceilf(r.u - p.window_cols), 0.f);
    const int y0 = (int)fmaxf(ceilf(r.v - p.window_rows), 0.f);
    const int x1 = (int)fminf(floorf(r.u + p.window_cols), p.width - 1.f);
    const int y1 = (int)fminf(floorf(r.v + p.window_rows), p.height - 1.f);
    const int width = x1 - x0 + 1, pixels = width * (y1 - y0 + 1);
    for (int k = lane; k < pixels; k += kWarp)
      accumulate_pixel(r, b, at, y0 + k / width, x0 + k % width, f0, t);
  }

  STEER_ANYWHERE void accumulate_tiles(const SampleRecord &r, int b, int at, int lane, int f0,
                                        Totals &t) const {
    const int tiles = w.tiles_x * w.tiles_y;
    for (int base = 0; base < tiles; base += kWarp) {
      const int tile = base + lane;
      unsigned hits = warp_ballot(tile < tiles && reaches(r, b, tile));
      for (int k = 0; hits; k++, hits >>= 1) {
        if (!(hits & 1)) continue;
        const int top = (base + k) / w.tiles_x * kTile, left = (base + k) % w.tiles_x * kTile;
        for (int j = lane; j < kTilePixels; j += kWarp) {
          const int y = top + j / kTile, x = left + j % kTile;
          if (y < p.height && x < p.width) accumulate_pixel(r, b, at, y, x, f0, t);
        }
      }
    }
  }

  // Whether a pixel of the tile may have the sample among its neighbours.
  STEER_ANYWHERE bool reaches(const SampleRecord &r, int b, int tile) const {
    const float left = (float)(tile % w.tiles_x * kTile), top = (float)(tile / w.tiles_x * kTile);
    const float y0 = top * p.row_scale, y1 = (top + kTile - 1) * p.row_scale;
    const float dx = fmaxf(0.f, fmaxf(left - r.u, r.u - (left + kTile - 1)));
    const float dy = fmaxf(0.f, fmaxf(y0 - r.v, r.v - y1));
    const float reach = unordered(w.tile_reach[b * w.tiles_x * w.tiles_y + tile]);
    return reach >= 0 && squared(dy, dx) <= reach * reach;
  }

  STEER_ANYWHERE void accumulate_pixel(const SampleRecord &r, int b, int at, int y, int x, int f0,
                                       Totals &t) const {
    constexpr int n = terms(ORDER);
    const size_t plane = (size_t)p.height * p.width, pixel = (size_t)y * p.width + x;
    const float *in = w.pixels + (size_t)b * w.planes * plane + pixel;
    const float dy = r.v - (WINDOW ? y : y * p.row_scale), dx = r.u - x;
    float inverse_spacing = 1, radius2 = 0, half_inverse_square = 0;
    if (!WINDOW) {
      radius2 = in[(2 * n + 3 + sector_of(p.sectors, dy, dx)) * plane];
      if (squared(dy, dx) >= radius2) return;
      inverse_spacing = in[(2 * n + 2) * plane];
    }
    if (p.bandwidth_extent == kPerPixel) {
      const float h = p.bandwidth[b * plane + pixel];
      half_inverse_square = 0.5f / (h * h);
    }
    Pair a = pair_of<WINDOW>(p, r, dy, dx, inverse_spacing, radius2, half_inverse_square);
    if (!(a.keep > 0)) return;
    const float *own = p.features ? p.guide + (size_t)b * p.features * plane + pixel : nullptr;
    const float *at_sample = p.features ? p.guide_at_samples + (size_t)at * p.features : nullptr;
    float distance = 0;
    for (int f = 0; f < p.features; f++) {
      const float d = own[f * plane] - at_sample[f];
      distance += d * d;
    }
    a.exponent -= 0.5f * distance;
    float influence_of[n], coefficients[n];
    for (int k = 0; k < n; k++) influence_of[k] = in[k * plane], coefficients[k] = in[(n + k) * plane];
    const float common = in[2 * n * plane], shift = in[(2 * n + 1) * plane];

    const float unscaled = weight_of(a, shift), weight = unscaled * r.scale;
    const float influence = evaluate<float, ORDER>(influence_of, a.y, a.x);
    const float residual = r.value - evaluate<float, ORDER>(coefficients, a.y, a.x);
    const float g_weight = influence * residual + common;
    const float g_exponent = g_weight * weight, g_q = g_exponent * a.slope;
    if (f0 == 0) {
      t.value += weight * influence;
      t.g11 += g_q * a.y * a.y, t.g12 += 2 * g_q * a.y * a.x, t.g22 += g_q * a.x * a.x;
      t.scale += g_weight * unscaled;
    }
STEER_UNROLL
    for (int f = 0; f < kHeldFeatures; f++)
      if (f0 + f < p.features)
        t.guide[f] += g_exponent * (own[(f0 + f) * plane] - at_sample[f0 + f]);
  }

  STEER_ANYWHERE void finish(int at, int lane, bool used, const Totals &t) const {
    const float value = warp_sum(t.value), scale = warp_sum(t.scale);
    const double sy = WINDOW && p.window_rows > 1 ? p.window_rows : 1;
    const double sx = WINDOW && p.window_cols > 1 ? p.window_cols : 1;
    const double g11 = warp_sum(t.g11) * sy * sy, g12 = warp_sum(t.g12) * sy * sx;
    const double g22 = warp_sum(t.g22) * sx * sx;
    if (lane) return;
    const float *st = p.steering + 3 * (size_t)at;
    float *out = p.grad_steering + 3 * (size_t)at;
    p.grad_values[at] = value;
    out[0] = out[1] = out[2] = 0;
    if (used) steering_gradient(st[0], st[1], st[2], p.profile, g11, g12, g22, scale, out);
    if (p.grad_bandwidth && p.bandwidth_extent == kPerSample) {
      const Steering k = steering_of(st[0], st[1], st[2], p.profile);
      p.grad_bandwidth[at] =
          used ? (float)(-2 / p.bandwidth[at] * (k.c11 * g11 + k.c12 * g12 + k.c22 * g22)) : 0;
    }
  }
};

}  // namespace device
}  // namespace steer
