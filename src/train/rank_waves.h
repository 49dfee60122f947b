// The micro-batches that ranks compute at the same time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "model/expert_ranks.h"
#include "train/expert_gradients.h"
#include "train/plan.h"

namespace lockstep::train {

/// How many micro-batches any rank has.
inline size_t most_of(const std::vector<std::vector<MicroBatch>>& plans) {
  size_t most = 0;
  for (const std::vector<MicroBatch>& cuts : plans) most = std::max(most, cuts.size());
  return most;
}

/// The micro-batches of all ranks in a wave.
class RankWave {
 public:
  RankWave(const std::vector<std::vector<MicroBatch>>& plans,
           const std::vector<std::vector<size_t>>& ends,
           size_t wave)
      : plans_(plans) {
    for (const std::vector<size_t>& of_rank : ends)
      ranges_.emplace_back(wave ? of_rank[wave - 1] : 0, of_rank[wave]);
  }

  size_t count(int64_t rank) const {
    const auto [first, last] = ranges_[static_cast<size_t>(rank)];
    return last - first;
  }
  size_t most() const {
    size_t most = 0;
    for (const auto& [first, last] : ranges_) most = std::max(most, last - first);
    return most;
  }
  /// A rank's micro-batch, and the slot of its next one.
  std::pair<const MicroBatch*, int64_t> at(int64_t rank, size_t index) const {
    const auto& cuts = plans_[static_cast<size_t>(rank)];
    const size_t place = ranges_[static_cast<size_t>(rank)].first + index;
    const bool is_last = place + 1 == cuts.size();
    return {&cuts[place],
            is_last ? kNumSlots / static_cast<int64_t>(plans_.size()) : cuts[place + 1].slot};
  }
  /// The slots of the index-th micro-batches of the ranks that have all experts together with rank
  /// `own`.
  std::vector<ExpertGradients::Slots> slots(const model::ExpertRanks& ranks,
                                            size_t index,
                                            int64_t own) const {
    std::vector<ExpertGradients::Slots> slots;
    for (int64_t rank = own - ranks.rank(); std::ssize(slots) < ranks.size(); ++rank) {
      slots.emplace_back();
      if (index >= count(rank)) continue;
      const auto [cut, next_slot] = at(rank, index);
      slots.back() = {cut->slot, next_slot};
    }
    return slots;
  }

 private:
  const std::vector<std::vector<MicroBatch>>& plans_;
  /// By rank: the first micro-batch, and that behind the last one.
  std::vector<std::pair<size_t, size_t>> ranges_;
};

}  // namespace lockstep::train
