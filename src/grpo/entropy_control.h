// The weight of the entropy bonus over a run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "base/json.h"
#include "grpo/objective_options.h"

namespace lockstep::grpo {

/// A constant weight, or one that follows the entropy: after each step it moves by
/// entropy_coef_delta, up if the entropy is at most entropy_target, else down, within its bounds;
/// the bonus is given in the steps after such an entropy only. Not thread-safe.
///
/// Source: Skywork-OR1, arXiv:2505.22312; TRL 1.16 GRPOTrainer.
class EntropyControl {
 public:
  explicit EntropyControl(const LossOptions& options)
      : options_(options), coefficient_(options.entropy_coef) {}

  /// The weight in the next step.
  double applied() const;
  /// Takes note of the mean entropy of a step's learned tokens, in nats.
  void update(double entropy);

  /// For a checkpoint.
  Json state() const;
  /// Takes what state() gave; throws Json::exception for another form.
  void load_state(const Json& state);

 private:
  LossOptions options_;
  double coefficient_;
  double last_entropy_ = std::numeric_limits<double>::infinity();
};

}  // namespace lockstep::grpo
