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
// The nearest samples of each query, on the CPU: samples are sorted into cells of a grid, and a circle of
// cells is searched that grows until it holds enough of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "problem.h"

namespace steer {
namespace STEER_ISA {

class Grid {
 public:
  explicit Grid(const leave_one_out::LeaveOneOut &p) : p_(p) {
    float last_u = p.uv[0], last_v = p.uv[1];
    left_ = last_u, top_ = last_v;
    for (int i = 0; i < p.samples; i++) {
      if (!std::isfinite(p.uv[2 * i]) || !std::isfinite(p.uv[2 * i + 1]))
        throw std::invalid_argument("uv holds values that are not finite");
      left_ = std::min(left_, p.uv[2 * i]), last_u = std::max(last_u, p.uv[2 * i]);
      top_ = std::min(top_, p.uv[2 * i + 1]), last_v = std::max(last_v, p.uv[2 * i + 1]);
    }
    // In units in which distances are measured; about four samples a cell, were they spread evenly.
    width_ = last_u - left_, height_ = (last_v - top_) / p.aspect;
    const float few = 4.f / p.samples;
    cell_ = std::max({std::sqrt(few * width_ * height_), few * std::max(width_, height_), 1e-3f});
    columns_ = (int)(width_ / cell_) + 1, rows_ = (int)(height_ / cell_) + 1;
    std::vector<int> cell(p.samples);
    start_.assign((size_t)columns_ * rows_ + 1, 0);
    for (int i = 0; i < p.samples; i++) {
      cell[i] = row(p.uv[2 * i + 1]) * columns_ + column(p.uv[2 * i]);
      start_[cell[i] + 1]++;
    }
    for (size_t i = 1; i < start_.size(); i++) start_[i] += start_[i - 1];
    std::vector<int> next(start_.begin(), start_.end() - 1);
    samples_.resize(p.samples);
    for (int i = 0; i < p.samples; i++) samples_[next[cell[i]]++] = i;
  }

  // Finds the neighbors of the q-th query. found: memory that is used again.
  void search(int q, std::vector<leave_one_out::Key> &found) const {
    using namespace leave_one_out;
    const Place place(p_, q);
    float reach = 1.2f * std::sqrt(p_.neighbors / 3.f) * cell_ / 2;
    const float most = width_ + height_ + std::abs(place.u - left_) + std::abs(place.v - top_) / p_.aspect;
    int nearer = 0;
    for (bool all = false; !all && nearer <= most_nearer(p_); reach *= 1.5f) {
      all = !(reach <= most);
      nearer = 0;
      found.clear();
      within(place, reach, [&](int sample) {
        // Those a little farther away may lie in other cells.
        if (!all && !(place.squared_distance(sample) < .999f * reach * reach)) return;
        nearer++;
        const Key key = place.key(sample);
        if (key != kNobody) found.push_back(key);
      });
      if ((int)found.size() >= p_.neighbors) break;
    }
    bool known = (int)found.size() >= p_.neighbors;
    if (known) {
      std::partial_sort(found.begin(), found.begin() + p_.neighbors, found.end());
      if (nearer > most_nearer(p_)) {
        const float last = squared_distance_of(found[p_.neighbors - 1]);
        nearer = 0;
        within(place, std::sqrt(last) * 1.001f, [&](int i) { nearer += place.squared_distance(i) < last; });
        known = nearer <= most_nearer(p_);
      }
    }
    for (int k = 0; k < p_.neighbors; k++) write_neighbor(p_, k, q, known ? found[k] : kNobody);
    p_.known[q] = known;
  }

 private:
  // Calls take(sample) for the samples of all cells within reach.
  template <class Take>
  void within(const leave_one_out::Place &at, float reach, Take take) const {
    const float rows = reach * p_.aspect;
    const int first = column(at.u - reach), last = column(at.u + reach);
    for (int r = row(at.v - rows), end = row(at.v + rows); r <= end; r++)
      for (int i = start_[r * columns_ + first]; i < start_[r * columns_ + last + 1]; i++) take(samples_[i]);
  }

  int column(float u) const { return index_along((u - left_) / cell_, columns_); }
  int row(float v) const { return index_along((v - top_) / p_.aspect / cell_, rows_); }

  const leave_one_out::LeaveOneOut &p_;
  float left_, top_, width_, height_, cell_;
  int columns_, rows_;
  std::vector<int> start_, samples_;  // first of a cell's samples, row by row, one past the end last
};

// Throws std::invalid_argument where one of `count` numbers is not that of a sample.
inline void require_samples(const leave_one_out::LeaveOneOut &p, const int64_t *numbers, size_t count) {
  if (std::any_of(numbers, numbers + count, [&](int64_t i) { return i < 0 || i >= p.samples; }))
    throw std::invalid_argument("queries and near must be numbers of samples");
}

inline void find_neighbors(const leave_one_out::LeaveOneOut &p) {
  if (p.queries == 0) return;
  if (!p.at) require_samples(p, p.query, p.queries);
  const Grid grid(p);
  std::vector<leave_one_out::Key> found;
  for (int q = 0; q < p.queries; q++) grid.search(q, found);
}

}  // namespace STEER_ISA
}  // namespace steer
