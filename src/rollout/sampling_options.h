// The flags of every command that samples.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/options.h"
#include "ops/sampling.h"

namespace lockstep::rollout {

/// How the distribution of the next token is narrowed, and what ends a completion. The temperature
/// is a flag of each command's own, since not all of them take 0.
struct SamplingOptions {
  double top_p = 1.0, min_p = 0, repetition_penalty = 1;
  int64_t top_k = -1;
  std::vector<std::string> stop_words;

  ops::SamplingParameters parameters(double temperature) const {
    return {.temperature = temperature,
            .top_k = top_k,
            .top_p = top_p,
            .min_p = min_p,
            .repetition_penalty = repetition_penalty};
  }

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("top_p", top_p, "Samples from the smallest set with this probability.",
          Range::left_open(0, 1));
    visit("top_k", top_k, "Samples from the k most likely tokens; -1: all.", Range::at_least(-1));
    visit("min_p", min_p, "Drops tokens below min_p times the largest probability.",
          Range::between(0, 1));
    visit("repetition_penalty", repetition_penalty, "Penalises tokens already seen; 1: off.",
          Range::logit_factor());
    visit("stop_words", stop_words, "Strings that end a completion.");
  }
};

}  // namespace lockstep::rollout
