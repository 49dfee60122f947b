// SPDX-License-Identifier: Apache-2.0
#include "parallel/ordered_sum.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "base/check.h"
#include "parallel/shared_ranges.h"

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

std::span<float> part_of(const Summand& summand, int64_t rank, int64_t ranks) {
  const ElementRange range = range_of_rank(std::ssize(summand.values), rank, ranks, summand.period);
  return summand.values.subspan(static_cast<size_t>(range.first),
                                static_cast<size_t>(range.count()));
}

/// How many numbers rank `from` sends to rank `to`.
int64_t count_sent(std::span<const Summand> summands, int64_t from, int64_t to, int64_t ranks) {
  int64_t numbers = 0;
  for (const Summand& summand : summands)
    if (summand.is_there[static_cast<size_t>(from)])
      numbers += std::ssize(part_of(summand, to, ranks));
  return numbers;
}

/// What every rank sends of this rank's range, one rank after another.
struct Received {
  std::vector<float> numbers;
  /// By rank: where its numbers begin.
  std::vector<std::span<float>> of_rank;
};

Received exchange(Group& group, std::span<const Summand> summands, const Call& call) {
  const int64_t own = group.rank(), ranks = group.size();
  constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
  std::vector<int64_t> send_counts, receive_counts;
  std::vector<float> sent;
  Received received;
  int64_t incoming = 0, outgoing = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) outgoing += count_sent(summands, own, rank, ranks);
  sent.reserve(static_cast<size_t>(outgoing));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    send_counts.push_back(kBytes * count_sent(summands, own, rank, ranks));
    receive_counts.push_back(kBytes * count_sent(summands, rank, own, ranks));
    incoming += receive_counts.back() / kBytes;
    for (const Summand& summand : summands) {
      if (!summand.is_there[static_cast<size_t>(own)]) continue;
      const std::span<float> part = part_of(summand, rank, ranks);
      sent.insert(sent.end(), part.begin(), part.end());
    }
  }
  received.numbers.resize(static_cast<size_t>(incoming));
  group.all_to_all(std::as_bytes(std::span(sent)), send_counts,
                   std::as_writable_bytes(std::span(received.numbers)), receive_counts, call);
  std::span<float> rest = received.numbers;
  for (const int64_t bytes : receive_counts) {
    received.of_rank.push_back(rest);
    rest = rest.subspan(static_cast<size_t>(bytes / kBytes));
  }
  return received;
}

std::span<std::byte> part_of(const SharedList& list, int64_t rank, int64_t ranks) {
  const ElementRange range =
      range_of_rank(std::ssize(list.bytes) / list.element_size, rank, ranks, list.period);
  return list.bytes.subspan(static_cast<size_t>(range.first * list.element_size),
                            static_cast<size_t>(range.count() * list.element_size));
}

}  // namespace

ElementRange range_of_rank(int64_t count, int64_t rank, int64_t ranks, int64_t period) {
  if (period <= 0) period = std::max<int64_t>(count, 1);
  const auto blocks_of = [](int64_t elements) {
    return (elements + kBlockElements - 1) / kBlockElements;
  };
  const int64_t in_piece = blocks_of(period);
  const int64_t blocks = count / period * in_piece + blocks_of(count % period);
  const auto begin_of = [&](int64_t block) {
    const int64_t in_last = std::min(block % in_piece * kBlockElements, period);
    return std::min(count, block / in_piece * period + in_last);
  };
  return {begin_of(blocks * rank / ranks), begin_of(blocks * (rank + 1) / ranks)};
}

void sum_own_range(Group& group, std::span<const Summand> summands, const Call& call) {
  const int64_t ranks = group.size();
  if (ranks == 1) return;
  LOCKSTEP_CHECK(std::has_single_bit(static_cast<uint64_t>(ranks)),
                 "{}: {} ranks are no power of two", call.name, ranks);
  Received received = exchange(group, summands, call);
  for (const Summand& summand : summands) {
    const std::span<float> place = part_of(summand, group.rank(), ranks);
    std::vector<std::span<float>> leaves(received.of_rank.size());
    for (size_t rank = 0; rank < leaves.size(); ++rank) {
      if (!summand.is_there[rank]) continue;
      std::span<float>& next = received.of_rank[rank];
      leaves[rank] = next.first(place.size());
      next = next.subspan(place.size());
    }
    const std::span<float> sum = tree_sum(leaves);
    std::copy(sum.begin(), sum.end(), place.begin());
  }
}

SharedRanges::SharedRanges(Group& group, std::vector<SharedList> lists, const Call& call)
    : rank_(group.rank()), ranks_(group.size()), lists_(std::move(lists)) {
  if (ranks_ == 1) return;
  int64_t longest = 0;
  for (int64_t rank = 0; rank < ranks_; ++rank) {
    int64_t bytes = 0;
    for (const SharedList& list : lists_) bytes += std::ssize(part_of(list, rank, ranks_));
    longest = std::max(longest, bytes);
  }
  // Transports gather lists of one length: the longest is that of all. What is behind shorter ones
  // is read by nobody.
  const auto length = static_cast<size_t>(longest), bytes = length * static_cast<size_t>(ranks_);
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(length + bytes);
  const std::span<std::byte> own(buffer_.get(), length), all(buffer_.get() + length, bytes);
  auto place = own.begin();
  for (const SharedList& list : lists_) {
    const std::span<std::byte> part = part_of(list, rank_, ranks_);
    place = std::copy(part.begin(), part.end(), place);
  }
  std::fill(place, own.end(), std::byte{});
  all_ = all;
  call_ = group.begin_all_gather(own, all, call);
}

void SharedRanges::wait() {
  if (!call_) return;
  call_->wait();
  const auto longest = std::ssize(all_) / ranks_;
  for (int64_t rank = 0; rank < ranks_; ++rank) {
    if (rank == rank_) continue;
    auto next = all_.begin() + rank * longest;
    for (const SharedList& list : lists_) {
      const std::span<std::byte> part = part_of(list, rank, ranks_);
      std::copy(next, next + std::ssize(part), part.begin());
      next += std::ssize(part);
    }
  }
}

void share_ranges(Group& group, std::span<const SharedList> lists, const Call& call) {
  SharedRanges(group, {lists.begin(), lists.end()}, call).wait();
}

void ordered_sum(Group& group, std::span<const Summand> summands, const Call& call) {
  sum_own_range(group, summands, call);
  std::vector<SharedList> lists;
  for (const Summand& summand : summands)
    lists.push_back({std::as_writable_bytes(summand.values), sizeof(float), summand.period});
  share_ranges(group, lists, {call.name + ", sums", call.deadline});
}

}  // namespace lockstep::parallel
