// Sums over ranks in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// Lists are cut among ranks in whole blocks of this many elements.
inline constexpr int64_t kBlockElements = 16384;

/// Elements [first, last) of a list.
struct ElementRange {
  int64_t first = 0, last = 0;
  int64_t count() const { return last - first; }
};
/// Those of a list of `count` that belong to a rank of `ranks`: of n blocks, which are whole but
/// for the last one, [n rank / ranks, n (rank + 1) / ranks), rounded down.
ElementRange range_of_rank(int64_t count, int64_t rank, int64_t ranks);

/// A list of numbers of which some ranks have one each. It is equally long on all ranks.
struct Summand {
  /// This rank's numbers, which become the sum: where it has none, room for them.
  std::span<float> values;
  /// By rank: whether it has one. The same on all ranks.
  std::vector<uint8_t> is_there;
};

/// Adds the lists of all ranks, and gives every rank the sums. Numbers are added in float32 in the
/// tree ((0+1)+(2+3))+((4+5)+(6+7)) over ranks, a power of two of them; a rank that has none adds
/// nothing. So the sums of ranks which each have summed neighbouring leaves of a larger tree are
/// those of that tree.
void ordered_sum(Group& group, std::span<const Summand> summands, const Call& call);

}  // namespace lockstep::parallel
