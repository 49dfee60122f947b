// A sum over the slots of an optimizer step in a fixed tree: ((0+1)+(2+3))+((4+5)+(6+7)).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "train/plan.h"

namespace lockstep::train {

/// What comes to a slot is added in the order in which it comes; then slots are added pairwise. It
/// works as a binary counter: its ones are the sums that wait for their right neighbour, at most
/// log2(slots) of them besides that of the current slot. An empty slot adds nothing.
///
/// A `Sum` made by default is empty, and there is `void add_to(Sum& left, Sum right)`. Not
/// thread-safe.
template <class Sum>
class SlotTree {
 public:
  /// Slots come in ascending order.
  void add(int64_t slot, Sum value) {
    LOCKSTEP_CHECK(slot >= slot_ && slot < kNumSlots, "slot {} after slot {}", slot, slot_);
    advance(slot);
    add_to(current_, std::move(value));
  }
  /// Says that nothing more comes in this slot, so that its sum is merged now and needs no memory
  /// of its own.
  void finish(int64_t slot) { advance(slot + 1); }
  /// The sum over all slots; the tree is empty again.
  Sum take() {
    advance(kNumSlots);
    Sum sum = std::move(levels_.back());
    *this = {};
    return sum;
  }

 private:
  void advance(int64_t slot) {
    for (; slot_ < slot; ++slot_) {
      Sum carry = std::exchange(current_, {});
      size_t level = 0;
      for (int64_t done = slot_; done & 1; done >>= 1, ++level) {
        add_to(levels_[level], std::move(carry));
        carry = std::exchange(levels_[level], {});
      }
      if (levels_.size() <= level) levels_.resize(level + 1);
      levels_[level] = std::move(carry);
    }
  }

  Sum current_{};
  /// By level: the sum of 2^level slots, if that bit of slot_ is set.
  std::vector<Sum> levels_;
  int64_t slot_ = 0;
};

}  // namespace lockstep::train
