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
// A tile of pixels, one a lane, and what it reads of the image.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "simd.h"

namespace steer {
namespace STEER_ISA {

// A growing list of integers, filled by the vector.
class List {
 public:
  void clear() { count_ = 0; }

  // Adds first + the number of every bit of `hits`.
  STEER_FN void add(int first, unsigned hits) {
    if (items_.size() < (size_t)count_ + kLanes) items_.resize(2 * items_.size() + kLanes);
    int *to = items_.data() + count_;
    count_ += __builtin_popcount(hits);
#if defined(STEER_ISA_AVX512)
    VI number;
    for (int l = 0; l < kLanes; l++) number[l] = first + l;
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(hits, (__m512i)number));
#else
    for (; hits; hits &= hits - 1) *to++ = first + __builtin_ctz(hits);
#endif
  }

  void resize(int count) { count_ = count; }  // never more than were added
  bool empty() const { return count_ == 0; }
  int size() const { return count_; }
  int &operator[](int i) { return items_[i]; }
  int operator[](int i) const { return items_[i]; }
  const int *begin() const { return items_.data(); }
  const int *end() const { return items_.data() + count_; }

 private:
  std::vector<int> items_;
  int count_ = 0;
};

// A block of pixels, one a lane, with the samples that can matter to it.
struct Tile {
  V x, y;
  float x0, x1, y0, y1;     // extreme pixel centres
  int pixel[kLanes];        // offset in the image, or -1 for a lane beyond its edge
  V half_inverse_square, ridge, bandwidth;
  V inverse_spacing;         // neighbours: 1 / local spacing
  float reach[4];            // neighbours: how far each quadrant (2 below + right) is searched
  std::vector<V> guide;
  List candidates;
  List by_sector[8];         // several sectors: the candidates that can lie in each
  std::vector<V> keep;       // neighbours: a candidate's taper
};

// The tile's numbers of a plane of the image; lanes beyond its edge take those of lane 0.
V load_pixels(const Tile &t, const float *plane, int width) {
  V x;
  if (t.pixel[kLanes - 1] >= 0) {
    for (int r = 0; r < kTileRows; r++)
      std::memcpy((float *)&x + r * kTileCols, plane + t.pixel[0] + (size_t)r * width,
                  kTileCols * sizeof(float));
  } else {
    for (int l = 0; l < kLanes; l++) x[l] = plane[t.pixel[t.pixel[l] < 0 ? 0 : l]];
  }
  return x;
}

// Puts the tile at a place of the image.
void place_tile(const Problem &p, int row, int col, Tile &t) {
  t.x0 = col, t.x1 = std::min(col + kTileCols, p.width) - 1;
  const float row_scale = p.neighbours ? p.row_scale : 1;
  t.y0 = row * row_scale, t.y1 = (std::min(row + kTileRows, p.height) - 1) * row_scale;
  for (int l = 0; l < kLanes; l++) {
    const int y = row + l / kTileCols, x = col + l % kTileCols;
    const int cy = std::min(y, p.height - 1), cx = std::min(x, p.width - 1);
    t.pixel[l] = y < p.height && x < p.width ? cy * p.width + cx : -1;
    t.x[l] = cx, t.y[l] = cy * row_scale;
  }
}

// Reads what an image of the batch gives for each of the tile's pixels.
void fetch(const Problem &p, int batch, Tile &t) {
  const size_t plane = (size_t)p.height * p.width, offset = (size_t)batch * plane;
  t.ridge = p.ridge_extent == kPerPixel ? load_pixels(t, p.ridge + offset, p.width)
            : p.ridge_extent == kScalar    ? broadcast(p.ridge[0])
                                        : V{};
  t.guide.resize(p.features);
  for (int f = 0; f < p.features; f++)
    t.guide[f] = load_pixels(t, p.guide + ((size_t)batch * p.features + f) * plane, p.width);
  if (p.bandwidth_extent != kPerPixel) return;
  t.bandwidth = load_pixels(t, p.bandwidth + offset, p.width);
  t.half_inverse_square = 0.5f / (t.bandwidth * t.bandwidth);
}

}  // namespace STEER_ISA
}  // namespace steer
