// SPDX-License-Identifier: Apache-2.0
#include "grpo/entropy_control.h"

#include <algorithm>
#include <cmath>

namespace lockstep::grpo {

double EntropyControl::applied() const {
  if (!options_.use_adaptive_entropy) return options_.entropy_coef;
  return last_entropy_ <= options_.entropy_target ? coefficient_ : 0;
}

void EntropyControl::update(double entropy) {
  if (!options_.use_adaptive_entropy) return;
  last_entropy_ = entropy;
  coefficient_ =
      entropy <= options_.entropy_target
          ? std::min(coefficient_ + options_.entropy_coef_delta, options_.entropy_coef_max)
          : std::max(coefficient_ - options_.entropy_coef_delta, options_.entropy_coef_min);
}

Json EntropyControl::state() const {
  // JSON has no infinity: before the first step there is no entropy.
  return {{"coefficient", coefficient_},
          {"entropy", std::isfinite(last_entropy_) ? Json(last_entropy_) : Json()}};
}

void EntropyControl::load_state(const Json& state) {
  coefficient_ = state.at("coefficient").get<double>();
  const Json& entropy = state.at("entropy");
  last_entropy_ =
      entropy.is_null() ? std::numeric_limits<double>::infinity() : entropy.get<double>();
}

}  // namespace lockstep::grpo
