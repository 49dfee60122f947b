// Sums over ranks in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
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
/// for the last one, [n rank / ranks, n (rank + 1) / ranks), rounded down. With a `period` the
/// list is one of pieces of so many elements, in each of which blocks begin anew.
ElementRange range_of_rank(int64_t count, int64_t rank, int64_t ranks, int64_t period = 0);

/// A list of numbers of which some ranks have one each. It is equally long on all ranks.
struct Summand {
  /// This rank's numbers, which become the sum: where it has none, room for them.
  std::span<float> values;
  /// By rank: whether it has one. The same on all ranks.
  std::vector<uint8_t> is_there;
  /// That of range_of_rank().
  int64_t period = 0;
};

/// Adds the lists of all ranks: each rank gets the sums of its own range (range_of_rank); what the
/// rest of its lists holds then is undefined.
///
/// Numbers are added in float32 in the tree ((0+1)+(2+3))+((4+5)+(6+7)) over ranks, a power of two
/// of them; a rank that has none adds nothing. So the sums of ranks which each have summed
/// neighbouring leaves of a larger tree are those of that tree.
void sum_own_range(Group& group, std::span<const Summand> summands, const Call& call);

/// A list of `bytes` in elements of `element_size`, equally long on all ranks.
struct SharedList {
  std::span<std::byte> bytes;
  int64_t element_size = 1;
  /// That of range_of_rank(), in elements.
  int64_t period = 0;
};
/// Gives every rank the ranges of all ranks, each of which has its own in its place.
void share_ranges(Group& group, std::span<const SharedList> lists, const Call& call);

/// Gives every rank the sums of whole lists.
void ordered_sum(Group& group, std::span<const Summand> summands, const Call& call);

}  // namespace lockstep::parallel
