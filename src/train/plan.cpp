// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <utility>

#include "base/check.h"

namespace lockstep::train {
namespace {

/// Samples [first, last) that stay together.
struct Unit {
  int64_t first, last;
  /// Its tokens at the beginning of a slot, and behind the unit before it, whose prompt it may
  /// share.
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

/// Cuts the samples of each prompt into units of at most `limit` tokens.
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

/// How many tokens the longest slot has in the best cut of the units, in order, into at most
/// kNumSlots slots.
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

/// Units from some number on, cut into slots.
struct SlotCut {
  /// The end of each slot among the units.
  std::vector<size_t> ends;
  /// Slots that begin inside a prompt's samples, and compute the prompt once more.
  int64_t split_prompts = 0;
};

/// Cuts units from number `begin` on into at most `slots` slots of at most `limit` tokens, through
/// as few prompts as can be; nothing where they do not fit. No slot stays empty that could take a
/// unit which shares nothing with the one before it.
///
/// A slot ends as late as the limit allows, or, which may be earlier, behind the last prompt that
/// is whole in it: an end before these leaves more to the other slots and spares no prompt. So at
/// most 2^(slots - 1) cuts are compared.
std::optional<SlotCut> cut_into_slots(std::span<const Unit> units,
                                      size_t begin,
                                      int64_t slots,
                                      int64_t limit) {
  if (begin == units.size()) return SlotCut{};
  if (slots == 0) return std::nullopt;
  size_t end = begin + 1, whole = 0;
  for (int64_t tokens = units[begin].alone;; ++end) {
    if (end == units.size() || units[end].added == units[end].alone) {
      whole = end;
      // What is left fills the other slots, one unit each.
      if (std::ssize(units) - static_cast<int64_t>(end) <= slots - 1) break;
    }
    if (end == units.size() || tokens + units[end].added > limit) break;
    tokens += units[end].added;
  }
  std::optional<SlotCut> best;
  for (const size_t last :
       whole == 0 || whole == end ? std::vector{end} : std::vector{whole, end}) {
    std::optional<SlotCut> cut = cut_into_slots(units, last, slots - 1, limit);
    if (!cut) continue;
    cut->split_prompts += last != whole;
    cut->ends.insert(cut->ends.begin(), last);
    if (!best || cut->split_prompts < best->split_prompts) best = std::move(cut);
  }
  return best;
}

/// The least tokens in [shortest, limit] of the longest slot with which no more prompts are split
/// than with `limit`.
int64_t shortest_with_as_few_splits(std::span<const Unit> units, int64_t shortest, int64_t limit) {
  const auto splits = [&](int64_t tokens) {
    return cut_into_slots(units, 0, kNumSlots, tokens).value().split_prompts;
  };
  for (const int64_t fewest = splits(limit); shortest < limit;) {
    const int64_t middle = shortest + (limit - shortest) / 2;
    if (splits(middle) == fewest)
      limit = middle;
    else
      shortest = middle + 1;
  }
  return limit;
}

/// Appends the next sample to its slot's last micro-batch where it fits, else to a new one.
void append_sample(std::vector<MicroBatch>& plan,
                   int64_t slot,
                   int64_t sample,
                   const Unit& length,
                   int64_t token_budget) {
  const bool is_open = !plan.empty() && plan.back().slot == slot;
  if (is_open && plan.back().tokens + length.added <= token_budget) {
    plan.back().last = sample + 1;
    plan.back().tokens += length.added;
  } else {
    plan.push_back({slot, sample, sample + 1, length.alone});
  }
}

}  // namespace

std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget) {
  const std::vector<Unit> samples = single_samples(lengths);
  const int64_t shortest = shortest_longest_slot(samples), limit = std::max(shortest, token_budget);
  std::vector<Unit> units = groups(samples, limit);
  int64_t longest = shortest_longest_slot(units);
  if (longest > limit) {
    units = samples;
    longest = shortest_with_as_few_splits(units, shortest, limit);
  }
  std::vector<MicroBatch> plan;
  size_t unit = 0;
  const std::vector<size_t> ends = cut_into_slots(units, 0, kNumSlots, longest).value().ends;
  const int64_t used = std::ssize(ends);
  for (int64_t i = 0; i < used; ++i) {
    // Where some slots stay empty, the others are spread, so that ranks have as many each.
    const int64_t slot = i * kNumSlots / used;
    for (; unit < ends[static_cast<size_t>(i)]; ++unit)
      for (int64_t sample = units[unit].first; sample < units[unit].last; ++sample)
        append_sample(plan, slot, sample, samples[static_cast<size_t>(sample)], token_budget);
  }
  return plan;
}

void check_rank_count(int64_t ranks) {
  if (kNumSlots % ranks != 0)
    fail<ConfigError>("bad-ranks", "ranks",
                      "expected a number of processes that divides the {} slots of a step's "
                      "gradients, got {}",
                      kNumSlots, ranks);
}

std::vector<MicroBatch> micro_batches_of_rank(std::span<const MicroBatch> plan,
                                              int64_t rank,
                                              int64_t ranks) {
  const int64_t slots = kNumSlots / ranks;
  std::vector<MicroBatch> own;
  for (MicroBatch cut : plan) {
    if (cut.slot / slots != rank) continue;
    cut.slot %= slots;
    own.push_back(cut);
  }
  return own;
}

Waves plan_waves(std::span<const MicroBatch> plan, const WaveCosts& costs) {
  Waves best;
  // How many sums of finished slots wait in the tree while the next one is made.
  const auto waiting_of = [](int64_t slots) -> int64_t {
    return slots ? static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(slots))) - 1 : 0;
  };
  const int64_t num_slots = plan.empty() ? 0 : plan.back().slot + 1;
  // `slots` is how many of them a wave has; `deeper` is how many more sums wait before the last
  // wave than whole slots would make.
  const auto consider = [&](int64_t slots, int64_t deeper, const auto& ends_wave) {
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
    // The head goes first, one micro-batch after another. Besides the sums that wait in its tree
    // there is the one that is being made, which a bfloat16 model has in both types. Then come the
    // layers, one at a time; sums of all parameters wait before the last wave, whose own sums are
    // merged with them as they are made. Those of the layer at work wait for its other slots.
    const int64_t at_head =
        costs.head * (2 * waiting_of(num_slots) + 3) / 2 + waiting * costs.layers;
    const int64_t at_layers = costs.head + std::max<int64_t>(1, waiting) * costs.layers +
                              waiting_of(std::min(num_slots, slots)) * costs.layer + costs.made;
    waves.bytes = std::max(at_head, at_layers) + most_tokens * costs.token;
    if (best.ends.empty() || waves.bytes < best.bytes) best = std::move(waves);
  };
  for (int64_t slots = kNumSlots; slots > 0; slots /= 2)
    consider(slots, 0, [&](const MicroBatch& last, const MicroBatch& next) {
      return last.slot / slots != next.slot / slots;
    });
  consider(1, 1, [](const MicroBatch&, const MicroBatch&) { return true; });
  return best;
}

}  // namespace lockstep::train
