// How evaluations sample, where they do it otherwise than training.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "base/on_resume.h"
#include "base/options.h"
#include "grpo/options.h"

namespace lockstep::grpo {

/// Unset fields are as in training.
struct EvalSamplingOptions {
  std::optional<double> eval_temperature, eval_top_p, eval_min_p;
  std::optional<int64_t> eval_top_k, eval_max_completion_length;

  /// The options of training with those that are set here in their place.
  GrpoOptions applied_to(const GrpoOptions& training) const {
    GrpoOptions made = training;
    if (eval_temperature) made.temperature = *eval_temperature;
    if (eval_top_p) made.sampling.top_p = *eval_top_p;
    if (eval_top_k) made.sampling.top_k = *eval_top_k;
    if (eval_min_p) made.sampling.min_p = *eval_min_p;
    if (eval_max_completion_length) made.max_completion_length = *eval_max_completion_length;
    return made;
  }

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    visit("eval_temperature", eval_temperature,
          "The temperature of evaluations; 0: the likeliest token. Unset: temperature.",
          Range::at_least(0), kSaid);
    visit("eval_top_p", eval_top_p, "top_p of evaluations; unset: top_p.", Range::left_open(0, 1),
          kSaid);
    visit("eval_top_k", eval_top_k, "top_k of evaluations; -1: all. Unset: top_k.",
          Range::at_least(-1), kSaid);
    visit("eval_min_p", eval_min_p, "min_p of evaluations; unset: min_p.", Range::between(0, 1),
          kSaid);
    visit("eval_max_completion_length", eval_max_completion_length,
          "How many tokens a completion of an evaluation has at most; unset: "
          "max_completion_length.",
          Range::at_least(1), kSaid);
  }
};

}  // namespace lockstep::grpo
