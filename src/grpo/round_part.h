// Which groups of a round a rank samples and rewards.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace lockstep::grpo {

/// Every `size`-th group of a round, from number `rank` on; none from rank `size` on. Neighbours go
/// to different ranks, so that rows in the order of their difficulty or length burden all alike.
struct RoundPart {
  size_t rank = 0, size = 1;

  /// How many of a round's groups are in it.
  size_t count(size_t groups) const {
    return rank < size && rank < groups ? (groups - rank - 1) / size + 1 : 0;
  }
  /// The number in the round of its group `index`.
  size_t number(size_t index) const { return rank + index * size; }
  /// Its elements of a list that has one for each group of the round.
  template <class T>
  std::vector<T> of(const std::vector<T>& round) const {
    std::vector<T> part;
    for (size_t i = 0; i < count(round.size()); ++i) part.push_back(round[number(i)]);
    return part;
  }
};

}  // namespace lockstep::grpo
