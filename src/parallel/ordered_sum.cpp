// SPDX-License-Identifier: Apache-2.0
#include "parallel/ordered_sum.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

/// Adds parts [first, first + count) in a tree, in place, into the first of them that is there;
/// empty if none is.
std::span<float> tree_sum(std::span<const std::span<float>> parts) {
  if (parts.size() == 1) return parts[0];
  const size_t half = parts.size() / 2;
  const std::span<float> left = tree_sum(parts.first(half)), right = tree_sum(parts.subspan(half));
  if (left.empty()) return right;
  for (size_t i = 0; i < right.size(); ++i) left[i] += right[i];
  return left;
}

/// The lists of all ranks' parts of some summands, one behind another.
class Parts {
 public:
  Parts(std::span<const Summand> summands, int64_t ranks) : summands_(summands), ranks_(ranks) {}

  ElementRange range(const Summand& summand, int64_t rank) const {
    return range_of_rank(std::ssize(summand.values), rank, ranks_);
  }
  /// How many numbers of the part of rank `to` come from rank `from`.
  int64_t count(int64_t from, int64_t to) const {
    int64_t numbers = 0;
    for (const Summand& summand : summands_)
      if (summand.is_there[static_cast<size_t>(from)]) numbers += range(summand, to).count();
    return numbers;
  }
  /// How many numbers the part of a rank has in all.
  int64_t count(int64_t rank) const {
    int64_t numbers = 0;
    for (const Summand& summand : summands_) numbers += range(summand, rank).count();
    return numbers;
  }

 private:
  std::span<const Summand> summands_;
  int64_t ranks_;
};

std::span<float> part_of(const Summand& summand, const ElementRange& range) {
  return summand.values.subspan(static_cast<size_t>(range.first),
                                static_cast<size_t>(range.count()));
}

constexpr auto kBytes = static_cast<int64_t>(sizeof(float));

/// Sends every rank its part, and puts the sums of this rank's part in their places.
void sum_own_part(Group& group,
                  std::span<const Summand> summands,
                  const Parts& parts,
                  const Call& call) {
  const int64_t own = group.rank(), ranks = group.size();
  std::vector<int64_t> send_counts, receive_counts;
  std::vector<float> sent;
  int64_t incoming = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    send_counts.push_back(kBytes * parts.count(own, rank));
    receive_counts.push_back(kBytes * parts.count(rank, own));
    incoming += parts.count(rank, own);
    for (const Summand& summand : summands) {
      if (!summand.is_there[static_cast<size_t>(own)]) continue;
      const std::span<float> part = part_of(summand, parts.range(summand, rank));
      sent.insert(sent.end(), part.begin(), part.end());
    }
  }
  std::vector<float> received(static_cast<size_t>(incoming));
  group.all_to_all(std::as_bytes(std::span(sent)), send_counts,
                   std::as_writable_bytes(std::span(received)), receive_counts, call);
  std::vector<std::span<float>> next;
  std::span<float> rest = received;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const auto count = static_cast<size_t>(parts.count(rank, own));
    next.push_back(rest.first(count));
    rest = rest.subspan(count);
  }
  for (const Summand& summand : summands) {
    const ElementRange range = parts.range(summand, own);
    const auto count = static_cast<size_t>(range.count());
    std::vector<std::span<float>> leaves(next.size());
    for (size_t rank = 0; rank < next.size(); ++rank) {
      if (!summand.is_there[rank]) continue;
      leaves[rank] = next[rank].first(count);
      next[rank] = next[rank].subspan(count);
    }
    const std::span<float> sum = tree_sum(leaves);
    std::copy(sum.begin(), sum.end(), part_of(summand, range).begin());
  }
}

/// Gives every rank the sums of all parts.
void share_sums(Group& group,
                std::span<const Summand> summands,
                const Parts& parts,
                const Call& call) {
  const int64_t ranks = group.size();
  int64_t longest = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) longest = std::max(longest, parts.count(rank));
  std::vector<float> own, all(static_cast<size_t>(longest * ranks));
  for (const Summand& summand : summands) {
    const std::span<float> part = part_of(summand, parts.range(summand, group.rank()));
    own.insert(own.end(), part.begin(), part.end());
  }
  own.resize(static_cast<size_t>(longest));
  group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)),
                   {call.name + ", sums", call.deadline});
  for (int64_t rank = 0; rank < ranks; ++rank) {
    auto next = all.begin() + rank * longest;
    for (const Summand& summand : summands) {
      const std::span<float> part = part_of(summand, parts.range(summand, rank));
      std::copy(next, next + std::ssize(part), part.begin());
      next += std::ssize(part);
    }
  }
}

}  // namespace

ElementRange range_of_rank(int64_t count, int64_t rank, int64_t ranks) {
  const int64_t blocks = (count + kBlockElements - 1) / kBlockElements;
  return {std::min(count, blocks * rank / ranks * kBlockElements),
          std::min(count, blocks * (rank + 1) / ranks * kBlockElements)};
}

void ordered_sum(Group& group, std::span<const Summand> summands, const Call& call) {
  if (group.size() == 1) return;
  LOCKSTEP_CHECK(std::has_single_bit(static_cast<uint64_t>(group.size())),
                 "{}: {} ranks are no power of two", call.name, group.size());
  const Parts parts(summands, group.size());
  sum_own_part(group, summands, parts, call);
  share_sums(group, summands, parts, call);
}

}  // namespace lockstep::parallel
