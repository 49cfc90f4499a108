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
// Which samples matter to a tile: those in its window, or the nearest ones.
#pragma once

#include <algorithm>
#include <cmath>

#include "bins.h"
#include "tile.h"

namespace steer {
namespace STEER_ISA {

STEER_FN V distance2(V dy, V dx) { return dx * dx + dy * dy; }

STEER_FN VI in_sector(int sectors, int sector, V dy, V dx) {
  if (sectors == 1) return V{} == 0.f;
  VI down = dy >= 0.f, right = dx >= 0.f;
  VI match = ((sector & 2) ? down : ~down) & ((sector & 1) ? right : ~right);
  if (sectors == 8) {
    VI steep = magnitude(dy) > magnitude(dx);
    match &= (sector & 4) ? steep : ~steep;
  }
  return match;
}

// By lane: the number of the sector's entry in `table`.
STEER_FN V of_sector(int sectors, const V *table, V dy, V dx) {
  if (sectors == 1) return table[0];
  const VI down = dy >= 0.f, right = dx >= 0.f;
  auto quadrant = [&](const V *t) {
    return down ? (right ? t[3] : t[2]) : (right ? t[1] : t[0]);
  };
  if (sectors == 4) return quadrant(table);
  return magnitude(dy) > magnitude(dx) ? quadrant(table + 4) : quadrant(table);
}

// Collects the samples that the window of some pixel of the tile holds.
void select_window(const Problem &p, const Samples &s, Tile &t) {
  t.candidates.clear();
  const float u0 = t.x0 - p.window_cols, u1 = t.x1 + p.window_cols;
  const float v0 = t.y0 - p.window_rows, v1 = t.y1 + p.window_rows;
  const int c0 = s.column(u0), c1 = s.column(u1);
  for (int r = s.row(v0), r1 = s.row(v1); r <= r1; r++) {
    const int end = s.start[r * s.cols + c1 + 1];
    for (int i = s.start[r * s.cols + c0]; i < end; i += kLanes) {
      const V u = load(&s.u[i]), v = load(&s.v[i]);
      unsigned hits = lanes_of((u >= u0) & (u <= u1) & (v >= v0) & (v <= v1));
      if (end - i < kLanes) hits &= (1u << (end - i)) - 1;
      t.candidates.add(i, hits);
    }
  }
}

// Collects the samples within t.reach of the tile, each quadrant with its own.
void collect_candidates(const Samples &s, Tile &t) {
  t.candidates.clear();
  float reach[4];
  for (int q = 0; q < 4; q++) reach[q] = t.reach[q] * 1.0001f + 0.01f;  // beyond rounding
  const float up = std::max(reach[0], reach[1]), down = std::max(reach[2], reach[3]);
  const bool round = reach[0] == reach[1] && up == down && reach[2] == reach[3];
  for (int r = s.row(t.y0 - up), end_row = s.row(t.y1 + down); r <= end_row; r++) {
    const float low = r == 0 ? -kInfinity : s.top + r * s.cell;
    const float high = r == s.rows - 1 ? kInfinity : s.top + (r + 1) * s.cell;
    const float gap = std::max(0.f, std::max(t.y0 - high, low - t.y1));
    float left = 0, right = 0;
    if (low < t.y1) left = reach[0], right = reach[1];
    if (high >= t.y0) left = std::max(left, reach[2]), right = std::max(right, reach[3]);
    left = std::sqrt(std::max(0.f, left * left - gap * gap));
    right = std::sqrt(std::max(0.f, right * right - gap * gap));
    const int begin = s.start[r * s.cols + s.column(t.x0 - left)];
    const int end = s.start[r * s.cols + s.column(t.x1 + right) + 1];
    for (int i = begin; i < end; i += kLanes) {
      const V u = load(&s.u[i]), v = load(&s.v[i]), none = V{};
      const V dx = larger(larger(t.x0 - u, u - t.x1), none);
      const V dy = larger(larger(t.y0 - v, v - t.y1), none);
      V limit = broadcast(up);
      if (!round) {
        const VI above = v < t.y1, below = v >= t.y0, before = u < t.x1, after = u >= t.x0;
        limit = (above & before) ? broadcast(reach[0]) : none;
        limit = larger(limit, (above & after) ? broadcast(reach[1]) : none);
        limit = larger(limit, (below & before) ? broadcast(reach[2]) : none);
        limit = larger(limit, (below & after) ? broadcast(reach[3]) : none);
      }
      unsigned hits = lanes_of(distance2(dy, dx) <= limit * limit);
      if (end - i < kLanes) hits &= (1u << (end - i)) - 1;
      t.candidates.add(i, hits);
    }
  }
}

// Tells for every sector which candidates lie in it for some pixel of the tile.
template <int SECTORS>
void split_by_sector(const Samples &s, Tile &t) {
  for (auto &list : t.by_sector) list.clear();
  for (int first = 0; first < t.candidates.size(); first += kLanes) {
    const int some = std::min(kLanes, t.candidates.size() - first);
    V u{}, v{};
    for (int l = 0; l < some; l++)
      u[l] = s.u[t.candidates[first + l]], v[l] = s.v[t.candidates[first + l]];
    const VI above = v < t.y1, below = v >= t.y0, before = u < t.x1, after = u >= t.x0;
    VI steep{}, flat = ~steep;
    if (SECTORS == 8) {
      const V up = t.y0 - v, down = v - t.y1, left = t.x0 - u, right = u - t.x1;
      steep = larger(magnitude(up), magnitude(down)) > larger(larger(left, right), V{});
      flat = larger(larger(up, down), V{}) <= larger(magnitude(left), magnitude(right));
    }
    const VI quadrants[] = {above & before, above & after, below & before, below & after};
    for (int sector = 0; sector < SECTORS; sector++)
      t.by_sector[sector].add(first, ((1u << some) - 1) &
                              lanes_of(quadrants[sector & 3] & (sector & 4 ? steep : flat)));
  }
}

STEER_FN void order(V &a, V &b) {
  const V low = smaller(a, b);
  b = larger(a, b), a = low;
}

// Sorts N vectors, lane by lane, that rise and then fall.
template <int N>
STEER_FN void sort_bitonic(V *x) {
  if constexpr (N > 1) {
#pragma GCC unroll 16
    for (int i = 0; i < N / 2; i++) order(x[i], x[i + N / 2]);
    sort_bitonic<N / 2>(x);
    sort_bitonic<N / 2>(x + N / 2);
  }
}

// The smallest network that sorts eight.
STEER_FN void sort_eight(V *x) {
  order(x[0], x[2]), order(x[1], x[3]), order(x[4], x[6]), order(x[5], x[7]);
  order(x[0], x[4]), order(x[1], x[5]), order(x[2], x[6]), order(x[3], x[7]);
  order(x[0], x[1]), order(x[2], x[3]), order(x[4], x[5]), order(x[6], x[7]);
  order(x[2], x[4]), order(x[3], x[5]), order(x[1], x[4]), order(x[3], x[6]);
  order(x[1], x[2]), order(x[3], x[4]), order(x[5], x[6]);
}

// Of N sorted vectors and eight more keeps the N smallest, sorted. `held` and `more` reversed rise
// and fall (with N = 16, eight infinities lie between), so halves of them sort as networks do.
template <int N>
STEER_FN void merge_eight(V *held, V *more) {
  static_assert(N == 16 || N == 24, "as far as the networks go");
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    if (N == 16) {
      held[8 + i] = smaller(held[8 + i], more[7 - i]);
    } else {
      order(held[8 + i], more[7 - i]);
      held[16 + i] = smaller(held[16 + i], more[7 - i]);
    }
  }
  sort_bitonic<16>(held);
  if constexpr (N == 24) sort_bitonic<8>(held + 16);
}

// Squared distances of the nearest by sector and lane, in order.
struct Ranking {
  int sectors, each;
  V nearest[64];

  // Ranks the samples of one sector. EACH: how many, where known, so that they stay in registers.
  template <int SECTORS, int EACH>
  void rank(const Samples &s, const Tile &t, int sector) {
    const int n = EACH ? EACH : each;
    V held[EACH ? EACH : 64], *out = nearest + sector * each;
#pragma GCC unroll 16
    for (int k = 0; k < n; k++) held[k] = broadcast(kInfinity);
    const List &list = SECTORS == 1 ? t.candidates : t.by_sector[sector];
    for (int j : list) {
      const int i = SECTORS == 1 ? j : t.candidates[j];
      const V dx = s.u[i] - t.x, dy = s.v[i] - t.y;
      const V d2 = in_sector(SECTORS, sector, dy, dx) ? distance2(dy, dx) : broadcast(kInfinity);
      if (!EACH && !any(d2 < held[n - 1])) continue;
#pragma GCC unroll 16
      for (int k = n - 1; k > 0; k--) held[k] = larger(held[k - 1], smaller(held[k], d2));
      held[0] = smaller(held[0], d2);
    }
#pragma GCC unroll 16
    for (int k = 0; k < n; k++) out[k] = held[k];
  }

  // The same for one sector by sorting eight at a time, in half the steps; ranks EACH or more.
  template <int EACH>
  void rank_eights(const Samples &s, const Tile &t) {
    V held[EACH];
#pragma GCC unroll 24
    for (int k = 0; k < EACH; k++) held[k] = broadcast(kInfinity);
    const int count = t.candidates.size();
    for (int first = 0; first < count; first += 8) {
      V more[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) {
        const int i = t.candidates[std::min(first + k, count - 1)];
        more[k] = first + k < count ? distance2(s.v[i] - t.y, s.u[i] - t.x) : broadcast(kInfinity);
      }
      sort_eight(more);
      merge_eight<EACH>(held, more);
    }
#pragma GCC unroll 24
    for (int k = 0; k < EACH; k++) nearest[k] = held[k];
  }

  template <int SECTORS>
  void rank_all(const Samples &s, Tile &t) {
    if (SECTORS == 1 && each > 8 && each <= 16) return rank_eights<16>(s, t);
    if (SECTORS == 1 && each > 16 && each <= 24) return rank_eights<24>(s, t);
    if (SECTORS > 1) split_by_sector<SECTORS>(s, t);
    const auto one = each == 2   ? &Ranking::rank<SECTORS, 2>
                     : each == 4 ? &Ranking::rank<SECTORS, 4>
                                 : &Ranking::rank<SECTORS, 0>;
    for (int sector = 0; sector < SECTORS; sector++) (this->*one)(s, t, sector);
  }

  void rank_all(const Samples &s, Tile &t) {
    sectors == 1 ? rank_all<1>(s, t) : sectors == 4 ? rank_all<4>(s, t) : rank_all<8>(s, t);
  }

  V last(int sector) const { return nearest[sector * each + each - 1]; }
};

// The squared distance beyond which a sector holds no sample at all, by lane.
STEER_FN V limit2(const Samples &s, const Tile &t, int sectors, int sector) {
  if (sectors == 1) {
    const V y = larger(t.y - s.first_v, s.last_v - t.y), x = larger(t.x - s.first_u, s.last_u - t.x);
    return distance2(y, x);
  }
  const V y = (sector & 2) ? s.last_v - t.y : t.y - s.first_v;
  const V x = (sector & 1) ? s.last_u - t.x : t.x - s.first_u;
  const V both = smaller(y, x);
  const V far2 = sectors == 4 ? distance2(y, x) : distance2((sector & 4) ? y : x, both);
  return both < 0.f ? V{} : far2;
}

// Sets t.reach to what the K-th neighbours (or the ends of the sectors) need; true if that is more
// than was searched.
bool grow_search(const Samples &s, Tile &t, const Ranking &ranking) {
  bool wider = false;
  for (int q = 0; q < 4; q++) {
    const V unknown = broadcast(4 * t.reach[q] * t.reach[q] + 1);
    V needed = V{};
    for (int sector = q % ranking.sectors; sector < ranking.sectors; sector += 4) {
      const V last = ranking.last(sector);
      needed = larger(needed, smaller(last < kInfinity ? last : unknown,
                                      limit2(s, t, ranking.sectors, sector)));
    }
    const float reach = std::sqrt(largest(needed));
    wider |= reach > t.reach[q];
    t.reach[q] = reach;
  }
  return wider;
}

// The K nearest samples of every lane. The search starts as wide as the tile before needed and is
// widened until it holds them for certain, so it is exact however the samples lie.
void select_neighbours(const Problem &p, const Samples &s, Tile &t) {
  const int each = p.neighbours / p.sectors;
  Ranking ranking;
  ranking.sectors = p.sectors, ranking.each = each;
  const V infinity = broadcast(kInfinity);
  // Slack over the tile before: radii of sectors vary more from pixel to pixel.
  for (float &r : t.reach) r = p.sectors == 1 ? r * 1.05f + 1 : r * 1.2f + 2;
  do {
    collect_candidates(s, t);
    ranking.rank_all(s, t);
  } while (grow_search(s, t, ranking));

  // Local spacing: geometric mean of the sectors' radii, as if K samples filled a disc of it.
  V radius2[8], inverse2[8], logs = V{}, filled = V{};
  for (int sector = 0; sector < p.sectors; sector++) {
    V last = ranking.last(sector);
    radius2[sector] = larger(last, broadcast(1e-12f));
    inverse2[sector] = 1.f / radius2[sector];
    for (int i = each - 2; i >= 0 && any(last == infinity); i--)
      last = last < infinity ? last : ranking.nearest[sector * each + i];  // the farthest there is
    const VI some = last < infinity;
    logs += (some & (last > 0.f)) ? logarithm(last) : some ? broadcast(-1e30f) : V{};
    filled += some ? broadcast(1.f) : V{};
  }
  const V spacing = exponential(0.5f * logs / larger(filled, broadcast(1.f))) *
                    std::sqrt(kPi / p.neighbours);
  t.inverse_spacing = 1.f / larger(spacing, broadcast(kSmallestSpacing));

  int kept = 0;
  t.keep.resize(t.candidates.size());
  for (int i : t.candidates) {
    const float u = s.u[i], v = s.v[i];
    const V dx = u - t.x, dy = v - t.y;
    const V d2 = distance2(dy, dx), r2 = of_sector(p.sectors, radius2, dy, dx);
    t.candidates[kept] = i;
    t.keep[kept] = taper(d2, r2, of_sector(p.sectors, inverse2, dy, dx));
    kept += any(d2 < r2);  // not a branch: it would be unpredictable
  }
  t.candidates.resize(kept);
}

template <bool WINDOW>
void select(const Problem &p, const Samples &s, Tile &t) {
  if (WINDOW)
    select_window(p, s, t);
  else
    select_neighbours(p, s, t);
}

// Where the search of a row of tiles starts: K samples, were they spread evenly.
void first_reach(const Problem &p, const Samples &s, Tile &t) {
  const float area = s.rows * s.cols * s.cell * s.cell;
  for (float &r : t.reach) r = std::sqrt(p.neighbours * area / (kPi * std::max(s.count, 1)));
}

}  // namespace STEER_ISA
}  // namespace steer
