// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <algorithm>

namespace lockstep::train {

std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget) {
  std::vector<MicroBatch> plan;
  const auto count = static_cast<int64_t>(lengths.size());
  for (int64_t slot = 0; slot < kNumSlots; ++slot) {
    const int64_t end = (slot + 1) * count / kNumSlots;
    for (int64_t sample = slot * count / kNumSlots; sample < end; ++sample) {
      const SampleLength& length = lengths[static_cast<size_t>(sample)];
      const int64_t added = length.tokens - length.shared;
      const bool is_open = !plan.empty() && plan.back().slot == slot;
      if (is_open && plan.back().tokens + added <= token_budget) {
        plan.back().last = sample + 1;
        plan.back().tokens += added;
      } else {
        plan.push_back({slot, sample, sample + 1, length.tokens});
      }
    }
  }
  return plan;
}

Waves plan_waves(std::span<const MicroBatch> plan, const WaveCosts& costs) {
  Waves best;
  // `waiting`: sums of all parameters in the tree before the last wave, whose own are merged with
  // them as they come.
  const auto consider = [&](int64_t waiting, const auto& ends_wave) {
    Waves waves;
    int64_t tokens = 0, most_tokens = 0;
    for (size_t i = 0; i < plan.size(); ++i) {
      tokens += plan[i].tokens;
      most_tokens = std::max(most_tokens, tokens);
      if (i + 1 < plan.size() && !ends_wave(plan[i], plan[i + 1])) continue;
      waves.ends.push_back(i + 1);
      tokens = 0;
    }
    // The head goes first, one micro-batch after another: its tree, in the wave or before it, has
    // three sums beside the one that comes, which a bfloat16 model has in both types. Then the
    // layers, one at a time.
    const int64_t at_head = costs.head * 9 / 2 + waiting * costs.layers,
                  at_layers = costs.head + std::max<int64_t>(1, waiting) * costs.layers;
    waves.bytes = std::max(at_head, at_layers) + most_tokens * costs.token;
    if (best.ends.empty() || waves.bytes < best.bytes) best = std::move(waves);
  };
  int64_t waiting = 0;
  for (int64_t slots = kNumSlots; slots > 0; slots /= 2, ++waiting)
    consider(waiting, [&](const MicroBatch& last, const MicroBatch& next) {
      return last.slot / slots != next.slot / slots;
    });
  consider(waiting, [](const MicroBatch&, const MicroBatch&) { return true; });
  return best;
}

}  // namespace lockstep::train
