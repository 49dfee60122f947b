// A group that counts what its rank receives.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "parallel/group.h"

namespace lockstep::testing {

/// Counts what its rank receives from others, by the names of calls.
class CountingGroup : public parallel::Group {
 public:
  explicit CountingGroup(parallel::Group& group) : group_(group) {}

  int64_t rank() const override { return group_.rank(); }
  int64_t size() const override { return group_.size(); }
  std::unique_ptr<parallel::Pending> begin_all_to_all(std::span<const std::byte> send,
                                                      std::span<const int64_t> send_counts,
                                                      std::span<std::byte> receive,
                                                      std::span<const int64_t> receive_counts,
                                                      const parallel::Call& call) override {
    add(call, std::ssize(receive) - receive_counts[static_cast<size_t>(rank())]);
    return group_.begin_all_to_all(send, send_counts, receive, receive_counts, call);
  }
  std::unique_ptr<parallel::Pending> begin_all_gather(std::span<const std::byte> own,
                                                      std::span<std::byte> all,
                                                      const parallel::Call& call) override {
    add(call, std::ssize(all) - std::ssize(own));
    return group_.begin_all_gather(own, all, call);
  }
  std::unique_ptr<parallel::Pending> begin_broadcast(std::span<std::byte> bytes,
                                                     int64_t root,
                                                     const parallel::Call& call) override {
    add(call, root == rank() ? 0 : std::ssize(bytes));
    return group_.begin_broadcast(bytes, root, call);
  }

  /// The bytes and the number of the calls whose names begin so.
  std::pair<int64_t, int64_t> received(const std::string& beginning) const {
    std::pair<int64_t, int64_t> sum;
    for (const auto& [name, counted] : counted_)
      if (name.starts_with(beginning)) {
        sum.first += counted.first;
        sum.second += counted.second;
      }
    return sum;
  }

 private:
  void add(const parallel::Call& call, int64_t bytes) {
    counted_[call.name].first += bytes;
    ++counted_[call.name].second;
  }

  parallel::Group& group_;
  std::map<std::string, std::pair<int64_t, int64_t>> counted_;
};

}  // namespace lockstep::testing
