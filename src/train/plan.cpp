// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <algorithm>
#include <bit>

namespace lockstep::train {
namespace {

/// Samples [first, last) that stay together.
struct Unit {
  int64_t first, last;
  /// Tokens at the beginning of a slot, and behind the unit before it, whose prompt it may share.
  int64_t alone, added;
};

std::vector<Unit> single_samples(std::span<const SampleLength> lengths) {
  std::vector<Unit> units;
  for (int64_t i = 0; i < std::ssize(lengths); ++i) {
    const SampleLength& length = lengths[static_cast<size_t>(i)];
    units.push_back({i, i + 1, length.tokens, length.tokens - length.shared});
  }
  return units;
}

/// The samples of each prompt, in pieces of at most `limit` tokens.
std::vector<Unit> groups(std::span<const Unit> samples, int64_t limit) {
  std::vector<Unit> units;
  for (const Unit& sample : samples) {
    const bool shares = sample.added < sample.alone;
    if (shares && units.back().alone + sample.added <= limit) {
      units.back().last = sample.last;
      units.back().alone += sample.added;
      units.back().added += sample.added;
    } else {
      units.push_back(sample);
    }
  }
  return units;
}

/// The least tokens of the longest slot when units are cut into at most kNumSlots slots in order.
int64_t shortest_longest_slot(std::span<const Unit> units) {
  int64_t low = 0, high = 0;
  for (const Unit& unit : units) {
    low = std::max(low, unit.alone);
    high += unit.alone;
  }
  const auto is_enough = [&](int64_t limit) {
    int64_t slots = 0, tokens = 0;
    for (const Unit& unit : units) {
      const bool continues = slots > 0 && tokens + unit.added <= limit;
      slots += !continues;
      tokens = continues ? tokens + unit.added : unit.alone;
    }
    return slots <= kNumSlots;
  };
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (is_enough(middle))
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/// The slot of each unit: the longest is as short as can be, and none stays empty that could take a
/// unit which shares nothing with the one before it.
std::vector<int64_t> fill_slots(std::span<const Unit> units) {
  const int64_t limit = shortest_longest_slot(units);
  std::vector<int64_t> slots;
  int64_t slot = 0, tokens = 0;
  for (int64_t i = 0; i < std::ssize(units); ++i) {
    const Unit& unit = units[static_cast<size_t>(i)];
    const bool can_be_alone =
        unit.added == unit.alone && std::ssize(units) - i <= kNumSlots - 1 - slot;
    const bool continues = i == 0 || (tokens + unit.added <= limit && !can_be_alone);
    slot += !continues;
    tokens = continues && i > 0 ? tokens + unit.added : unit.alone;
    slots.push_back(slot);
  }
  return slots;
}

}  // namespace

std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget) {
  const std::vector<Unit> samples = single_samples(lengths);
  const int64_t limit = std::max(shortest_longest_slot(samples), token_budget);
  std::vector<Unit> units = groups(samples, limit);
  if (shortest_longest_slot(units) > limit) units = samples;
  const std::vector<int64_t> slots = fill_slots(units);
  std::vector<MicroBatch> plan;
  for (size_t i = 0; i < units.size(); ++i)
    for (int64_t sample = units[i].first; sample < units[i].last; ++sample) {
      const Unit& length = samples[static_cast<size_t>(sample)];
      const bool is_open = !plan.empty() && plan.back().slot == slots[i];
      if (is_open && plan.back().tokens + length.added <= token_budget) {
        plan.back().last = sample + 1;
        plan.back().tokens += length.added;
      } else {
        plan.push_back({slots[i], sample, sample + 1, length.alone});
      }
    }
  return plan;
}

Waves plan_waves(std::span<const MicroBatch> plan, const WaveCosts& costs) {
  Waves best;
  // Sums of finished slots that wait in the tree beside the one that comes.
  const auto waiting_of = [](int64_t slots) -> int64_t {
    return slots ? static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(slots))) - 1 : 0;
  };
  const int64_t num_slots = plan.empty() ? 0 : plan.back().slot + 1;
  // `deeper`: how many sums more wait before the last wave than whole slots make.
  const auto consider = [&](int64_t deeper, const auto& ends_wave) {
    Waves waves;
    int64_t tokens = 0, most_tokens = 0;
    for (size_t i = 0; i < plan.size(); ++i) {
      tokens += plan[i].tokens;
      most_tokens = std::max(most_tokens, tokens);
      if (i + 1 < plan.size() && !ends_wave(plan[i], plan[i + 1])) continue;
      waves.ends.push_back(i + 1);
      tokens = 0;
    }
    const int64_t waiting =
        waiting_of(std::min(num_slots, static_cast<int64_t>(waves.ends.size()))) + deeper;
    // The head goes first, one micro-batch after another: beside the sums that wait in its tree
    // there is the one that comes, which a bfloat16 model has in both types. Then the layers, one
    // at a time; sums of all parameters wait before the last wave, whose own are merged with them
    // as they come.
    const int64_t at_head =
        costs.head * (2 * waiting_of(num_slots) + 3) / 2 + waiting * costs.layers;
    const int64_t at_layers = costs.head + std::max<int64_t>(1, waiting) * costs.layers;
    waves.bytes = std::max(at_head, at_layers) + most_tokens * costs.token;
    if (best.ends.empty() || waves.bytes < best.bytes) best = std::move(waves);
  };
  for (int64_t slots = kNumSlots; slots > 0; slots /= 2)
    consider(0, [&](const MicroBatch& last, const MicroBatch& next) {
      return last.slot / slots != next.slot / slots;
    });
  consider(1, [](const MicroBatch&, const MicroBatch&) { return true; });
  return best;
}

}  // namespace lockstep::train
