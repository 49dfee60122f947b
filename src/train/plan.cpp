// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

namespace lockstep::train {

std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget) {
  std::vector<MicroBatch> plan;
  const auto count = static_cast<int64_t>(lengths.size());
  for (int64_t slot = 0; slot < kNumSlots; ++slot) {
    const int64_t end = (slot + 1) * count / kNumSlots;
    int64_t tokens = 0;
    for (int64_t sample = slot * count / kNumSlots; sample < end; ++sample) {
      const SampleLength& length = lengths[static_cast<size_t>(sample)];
      const int64_t added = length.tokens - length.shared;
      const bool is_open = !plan.empty() && plan.back().slot == slot;
      if (is_open && tokens + added <= token_budget) {
        plan.back().last = sample + 1;
        tokens += added;
      } else {
        plan.push_back({slot, sample, sample + 1});
        tokens = length.tokens;
      }
    }
  }
  return plan;
}

}  // namespace lockstep::train
