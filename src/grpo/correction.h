// Corrects a step for a sampler whose distribution is not quite the policy's: truncated and masked
// importance sampling, and the metrics that show how far the two are apart. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "grpo/metrics.h"
#include "grpo/objective_options.h"

namespace lockstep::grpo {

/// The weight of each token of a completion; r_t = policy / sampler.
///
///   token_truncate: clip(r_t, lower, threshold);  token_mask: r_t if inside, else 0
///   sequence_*: the same for the sequence's ratio, one weight for all of its tokens; but with the
///   geometric mean sequence_mask keeps r_t as the tokens' weights
///
/// `policy` is what the trainer's model said at the start of the generation batch, `sampler` what
/// the sampler drew with. Shapes: [T] each. log r is held in [-20, 20] (the sum of a product, too).
/// Source: ms-swift 4.6 (geometric mean), TRL 1.16 (product).
std::vector<double> correction_weights(std::span<const float> policy,
                                       std::span<const float> sampler,
                                       const CorrectionOptions& options);

/// The metrics rollout_correction/* of a step, under ms-swift's names. Means over tokens weigh each
/// token alike, means over sequences each sequence, whatever micro-batches they are in.
class CorrectionMetrics {
 public:
  /// Takes a completion in; `weights` as correction_weights() made them, empty without a mode.
  void add(std::span<const float> policy,
           std::span<const float> sampler,
           std::span<const double> weights,
           const CorrectionOptions& options);
  void report(Metrics& metrics) const;

 private:
  struct Sums {
    double policy_ppl = 0, policy_log_ppl = 0, sampler_ppl = 0, sampler_log_ppl = 0;
    double log_ppl_diff = 0, log_ppl_abs_diff = 0, ppl_ratio = 0, squared_sequence = 0;
    double difference = 0, k3 = 0, squared_token = 0;
    /// Of the weights; those for the sample size are held between 1 / threshold and threshold.
    double weight = 0, held = 0, squared_held = 0, clipped = 0;
  };
  Sums sums_;
  int64_t sequences_ = 0, tokens_ = 0, weighted_tokens_ = 0;
  /// What `clipped` is a share of: tokens, or sequences.
  int64_t clippable_ = 0;
  double largest_ = 0, least_ = 0;
};

}  // namespace lockstep::grpo
