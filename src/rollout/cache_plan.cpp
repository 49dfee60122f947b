// SPDX-License-Identifier: Apache-2.0
#include "rollout/cache_plan.h"

#include <algorithm>
#include <vector>

namespace lockstep::rollout {

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

cache::CacheSpec cache_spec(const model::ModelWeights& weights) {
  const model::ModelConfig& config = weights.config();
  cache::CacheSpec spec;
  for (const auto mixer : config.mixers)
    spec.layers.push_back({mixer == model::MixerKind::kAttention});
  spec.dtype = weights.dtype();
  spec.page_tokens = kPageTokens;
  spec.num_key_value_heads = config.num_key_value_heads;
  spec.head_dim = config.head_dim;
  spec.conv_taps = config.linear_conv_kernel_dim;
  spec.conv_channels = config.conv_dim();
  spec.value_heads = config.linear_num_value_heads;
  spec.key_head_dim = config.linear_key_head_dim;
  spec.value_head_dim = config.linear_value_head_dim;
  return spec;
}

bool needs_states(const model::ModelWeights& weights) {
  const auto& mixers = weights.config().mixers;
  return std::any_of(mixers.begin(), mixers.end(),
                     [](auto mixer) { return mixer != model::MixerKind::kAttention; });
}

cache::CacheSpec plan_batch_cache(const model::ModelWeights& weights,
                                  std::span<const GroupSpec> groups,
                                  int64_t max_num_seqs,
                                  int64_t budget_bytes) {
  std::vector<const GroupSpec*> longest;
  int64_t most = 0;
  for (const GroupSpec& group : groups) {
    longest.push_back(&group);
    most = std::max(most, pages_of_group(group.prompt_tokens, group.max_new_tokens, kPageTokens));
  }
  const auto length = [](const GroupSpec& group) {
    return group.prompt_tokens + group.max_new_tokens;
  };
  std::stable_sort(longest.begin(), longest.end(),
                   [&](const GroupSpec* a, const GroupSpec* b) { return length(*a) > length(*b); });
  int64_t running = 0, prompts = 0, waiting = 0, pages = 0;
  for (const GroupSpec* group : longest) {
    const int64_t samples = std::min(group->num_samples, max_num_seqs - running);
    if (samples == 0) break;
    running += samples;
    ++prompts;
    pages += samples * pages_for(length(*group)) + pages_for(group->prompt_tokens);
  }
  // One step computes some more prompts ahead, whose sequences wait; the most when they are short.
  int64_t prefilled = 0;
  for (auto group = longest.rbegin(); group != longest.rend() - prompts; ++group) {
    prefilled += (*group)->prompt_tokens;
    if (prefilled > SchedulerLimits().max_step_tokens) break;
    ++waiting;
    pages += pages_for((*group)->prompt_tokens);
  }
  cache::CacheSpec spec = cache_spec(weights);
  spec.num_slots = running + prompts + waiting;
  if (spec.slot_bytes())
    spec.num_slots =
        std::min(spec.num_slots, std::max(kLeastSlots, budget_bytes / 2 / spec.slot_bytes()));
  spec.num_pages = pages;
  if (spec.page_bytes())
    spec.num_pages =
        std::min(pages, (budget_bytes - spec.num_slots * spec.slot_bytes()) / spec.page_bytes());
  if (spec.num_pages < most) {
    spec.num_slots = kLeastSlots;
    spec.num_pages = most;
  }
  return spec;
}

cache::CacheSpec plan_serving_cache(const model::ModelWeights& weights,
                                    int64_t max_num_seqs,
                                    int64_t max_model_len,
                                    int64_t budget_bytes) {
  cache::CacheSpec spec = cache_spec(weights);
  spec.num_slots = 2 * max_num_seqs;
  if (spec.slot_bytes())
    spec.num_slots = std::clamp(budget_bytes / 2 / spec.slot_bytes(), kLeastSlots, spec.num_slots);
  const int64_t most = max_num_seqs * (pages_for(max_model_len) + 1);
  spec.num_pages = most;
  if (spec.page_bytes())
    spec.num_pages =
        std::min(most, (budget_bytes - spec.num_slots * spec.slot_bytes()) / spec.page_bytes());
  return spec;
}

SchedulerLimits limits_of(const cache::CacheSpec& spec,
                          const model::ModelWeights& weights,
                          int64_t max_num_seqs) {
  return {.max_num_seqs = max_num_seqs,
          .page_tokens = spec.page_tokens,
          .num_pages = spec.num_pages,
          .num_slots = spec.num_slots,
          .needs_states = needs_states(weights)};
}

}  // namespace lockstep::rollout
