// What a GRPO run optimises: its loss, its advantages, what is filtered out of it, and how it is
// corrected for a sampler that is not the policy. docs/objectives.md has the formulas.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::grpo {

/// How token terms are made and become one number. kGspo is kGrpo with ratios of sequences.
enum class LossType : int {
  kGrpo,
  kBnpo,
  kDrGrpo,
  kDapo,
  kGspo,
  kCispo,
  kSapo,
  kFipo,
  kReal,
  kLuspo,
  kVespo
};
std::span<const EnumName<LossType>> enum_names(LossType);
/// What has one ratio of policies: a token; a sequence; a sequence, whose ratio each token moves by
/// its own gradient (GSPO-token).
enum class RatioLevel : int { kToken, kSequence, kSequenceToken };
std::span<const EnumName<RatioLevel>> enum_names(RatioLevel);
/// Estimators of KL(policy || reference) from sampled tokens.
enum class KlEstimator : int { kK1, kK2, kK3 };
std::span<const EnumName<KlEstimator>> enum_names(KlEstimator);
/// Which tokens of a step dapo and its kin divide by: all, or those that overlong_filter leaves.
enum class DapoDenominator : int { kAllTokens, kLossTokens };
std::span<const EnumName<DapoDenominator>> enum_names(DapoDenominator);
enum class AdvantageEstimator : int { kGrpo, kRloo, kReinforcePlusPlus, kGdpo };
std::span<const EnumName<AdvantageEstimator>> enum_names(AdvantageEstimator);
/// What advantages are divided by. kGdpo is ms-swift's name for the estimator of that name.
enum class ScaleRewards : int { kGroup, kBatch, kNone, kGdpo };
std::span<const EnumName<ScaleRewards>> enum_names(ScaleRewards);
/// How a term is weighted by the ratio of the policy to the sampler.
enum class CorrectionMode : int { kTokenTruncate, kTokenMask, kSequenceTruncate, kSequenceMask };
std::span<const EnumName<CorrectionMode>> enum_names(CorrectionMode);
/// What the ratio of a sequence is made of those of its tokens: ms-swift's or TRL's.
enum class SequenceRatio : int { kGeometricMean, kProduct };
std::span<const EnumName<SequenceRatio>> enum_names(SequenceRatio);

/// What one GRPO step optimises.
struct LossOptions {
  LossType loss_type = LossType::kGrpo;
  double epsilon = 0.2;
  std::optional<double> epsilon_high;
  std::optional<double> delta;
  double beta = 0.04;
  KlEstimator kl_estimator = KlEstimator::kK3;
  bool use_bias_correction_kl = false;
  std::optional<RatioLevel> importance_sampling_level;
  DapoDenominator dapo_denominator = DapoDenominator::kAllTokens;
  double tau_pos = 1.0, tau_neg = 1.05;
  double real_tau = 0.5;
  double fipo_decay_rate = 32, fipo_clip_range = 0.2;
  bool fipo_clip_high_only = true;
  double fipo_safety_threshold = 4;
  double vespo_k_pos = 2, vespo_lambda_pos = 3, vespo_k_neg = 3, vespo_lambda_neg = 2;
  double entropy_coef = 0;
  bool use_adaptive_entropy = false;
  double entropy_coef_min = 0, entropy_coef_max = 1, entropy_coef_delta = 0.005;
  double entropy_target = 0.2;
  double router_aux_loss_coef = 0;

  /// The level as given, or that of the loss: gspo and luspo have ratios of sequences.
  RatioLevel ratio_level() const {
    if (importance_sampling_level) return *importance_sampling_level;
    const bool is_of_sequences = loss_type == LossType::kGspo || loss_type == LossType::kLuspo;
    return is_of_sequences ? RatioLevel::kSequence : RatioLevel::kToken;
  }
  /// The upper clip range; for cispo the largest weight itself.
  double upper() const {
    return epsilon_high.value_or(loss_type == LossType::kCispo ? 5.0 : epsilon);
  }
  bool has_entropy_bonus() const { return entropy_coef != 0 || use_adaptive_entropy; }
  /// Throws ConfigError naming the flag.
  void validate() const;

  // long: one declaration after another.
  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("loss_type", loss_type,
          "What a token's term is and how terms become one number (docs/objectives.md): grpo, "
          "bnpo, dr_grpo, dapo, gspo, cispo, sapo, fipo, real, luspo or vespo.");
    visit("epsilon", epsilon, "The ratio is clipped to [1 - epsilon, 1 + epsilon_high].",
          Range::between(0, 1));
    visit("epsilon_high", epsilon_high,
          "Upper clip (clip-higher); unset: epsilon. For cispo the largest weight; unset: 5.",
          Range::at_least(0));
    visit("delta", delta, "Upper cap of the unclipped branch; unset: none.", Range::above(1));
    visit("beta", beta, "Weight of the KL term with the reference model; 0: no reference model.",
          Range::at_least(0));
    visit("kl_estimator", kl_estimator,
          "How a token's KL is estimated: k1 (log-ratio), k2 (half its square) or k3.");
    visit("use_bias_correction_kl", use_bias_correction_kl,
          "Multiplies the KL term by the ratio, so that off-policy tokens estimate the same KL.");
    visit("importance_sampling_level", importance_sampling_level,
          "One ratio for each token, for each sequence (GSPO), or sequence_token (GSPO-token); "
          "unset: sequence for gspo and luspo, else token.");
    visit("dapo_denominator", dapo_denominator,
          "What dapo, cispo, fipo and vespo divide by: all_tokens of a step (ms-swift), or "
          "loss_tokens, those that overlong_filter leaves (TRL).");
    visit("tau_pos", tau_pos, "sapo: temperature of the gate where the advantage is positive.",
          Range::above(0));
    visit("tau_neg", tau_neg, "sapo: temperature of the gate elsewhere.", Range::above(0));
    visit("real_tau", real_tau, "real: temperature of the scores.", Range::above(0));
    visit("fipo_decay_rate", fipo_decay_rate,
          "fipo: after how many tokens a later token counts half.", Range::above(0));
    visit("fipo_clip_range", fipo_clip_range,
          "fipo: how far its weight may be from 1; 0: any distance.", Range::between(0, 1));
    visit("fipo_clip_high_only", fipo_clip_high_only, "fipo: the weight is at least 1.");
    visit("fipo_safety_threshold", fipo_safety_threshold,
          "fipo: above this ratio a negative advantage is not amplified.", Range::above(0));
    visit("vespo_k_pos", vespo_k_pos, "vespo: power of the weight, advantage at least 0.",
          Range::at_least(0));
    visit("vespo_lambda_pos", vespo_lambda_pos, "vespo: its decay, advantage at least 0.",
          Range::at_least(1e-4));
    visit("vespo_k_neg", vespo_k_neg, "vespo: power of the weight, negative advantage.",
          Range::at_least(0));
    visit("vespo_lambda_neg", vespo_lambda_neg, "vespo: its decay, negative advantage.",
          Range::at_least(1e-4));
    visit("entropy_coef", entropy_coef,
          "Weight of the entropy bonus: the mean entropy of a step's tokens; negative: a penalty.");
    visit("use_adaptive_entropy", use_adaptive_entropy,
          "Moves the weight of the entropy bonus by entropy_coef_delta after each step, up while "
          "the entropy is at most entropy_target, else down; the bonus is given only there.");
    visit("entropy_coef_min", entropy_coef_min, "Adaptive entropy: the least weight.");
    visit("entropy_coef_max", entropy_coef_max, "Adaptive entropy: the largest weight.");
    visit("entropy_coef_delta", entropy_coef_delta, "Adaptive entropy: by how much it moves.",
          Range::at_least(0));
    visit("entropy_target", entropy_target, "Adaptive entropy: the wanted entropy, in nats.",
          Range::at_least(0));
    visit("router_aux_loss_coef", router_aux_loss_coef,
          "Weight of the load-balancing loss of a mixture of experts; 0: none.",
          Range::at_least(0));
  }
};

/// How rewards become advantages.
struct AdvantageOptions {
  AdvantageEstimator advantage_estimator = AdvantageEstimator::kGrpo;
  std::optional<ScaleRewards> scale_rewards;
  std::optional<bool> kl_in_reward;

  AdvantageEstimator estimator() const {
    return scale_rewards == ScaleRewards::kGdpo ? AdvantageEstimator::kGdpo : advantage_estimator;
  }
  /// As given, or that of the estimator: group for grpo, none for rloo, batch for
  /// reinforce_plus_plus. gdpo has a scaling of its own.
  ScaleRewards scale() const;
  /// Whether the KL with the reference is a part of the reward: as given, or that of the estimator:
  /// of rloo and reinforce_plus_plus.
  bool has_kl_in_reward(const LossOptions& loss) const;
  /// Throws ConfigError naming the flag.
  void validate() const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("advantage_estimator", advantage_estimator,
          "How rewards become advantages: grpo, rloo, reinforce_plus_plus or gdpo.");
    visit("scale_rewards", scale_rewards,
          "Advantages are divided by the group's, the batch's or no standard deviation; gdpo is "
          "the estimator gdpo. Unset: group for grpo, none for rloo, batch for "
          "reinforce_plus_plus.");
    visit("kl_in_reward", kl_in_reward,
          "Takes beta times the KL off the reward instead of adding it to the loss; unset: for "
          "rloo and reinforce_plus_plus.");
  }
};

/// What is left out of a step's loss.
struct FilterOptions {
  bool dynamic_sample = false;
  int64_t max_resample_times = 3;
  bool overlong_filter = false;
  double top_entropy_quantile = 1;
  std::optional<double> off_policy_sequence_mask_delta;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("dynamic_sample", dynamic_sample,
          "Replaces groups whose rewards are all equal by those of further rows; what is more than "
          "a batch takes waits for the next one (DAPO).");
    visit(
        "max_resample_times", max_resample_times,
        "How often dynamic sampling samples again for one batch; then groups of equal rewards fill "
        "it up.",
        Range::between(1, 1 << 20));
    visit("overlong_filter", overlong_filter,
          "Leaves completions that hit the length limit out of the loss.");
    visit("top_entropy_quantile", top_entropy_quantile,
          "Learns from this share of a generation batch's tokens, those of the largest entropy.",
          Range::between(0, 1));
    visit("off_policy_sequence_mask_delta", off_policy_sequence_mask_delta,
          "Leaves a completion of negative advantage out of the policy's term when the sampler's "
          "mean log-probability exceeds the policy's by more than this; unset: none.",
          Range::at_least(0));
  }
};

/// How steps are corrected for a sampler whose distribution is not the policy's.
struct CorrectionOptions {
  std::optional<CorrectionMode> rollout_importance_sampling_mode;
  double rollout_importance_sampling_threshold = 2;
  std::optional<double> rollout_importance_sampling_threshold_lower;
  SequenceRatio rollout_importance_sampling_sequence_ratio = SequenceRatio::kGeometricMean;
  bool log_rollout_offpolicy_metrics = false;

  /// Whether anything is computed.
  bool is_on() const { return rollout_importance_sampling_mode || log_rollout_offpolicy_metrics; }
  /// Throws ConfigError naming the flag.
  void validate() const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("rollout_importance_sampling_mode", rollout_importance_sampling_mode,
          "Weights the policy's term by the ratio of the policy to the sampler: token_truncate, "
          "token_mask, sequence_truncate or sequence_mask; unset: not at all.");
    visit("rollout_importance_sampling_threshold", rollout_importance_sampling_threshold,
          "The largest ratio: above it is truncated or masked.", Range::above(0));
    visit("rollout_importance_sampling_threshold_lower",
          rollout_importance_sampling_threshold_lower,
          "The least ratio: below it is truncated or masked; unset: none.", Range::at_least(0));
    visit("rollout_importance_sampling_sequence_ratio", rollout_importance_sampling_sequence_ratio,
          "What a sequence's ratio is: geometric_mean of its tokens' (ms-swift; sequence_mask "
          "keeps their own as weights) or their product (TRL).");
    visit("log_rollout_offpolicy_metrics", log_rollout_offpolicy_metrics,
          "Logs rollout_correction/* without correcting, too.", OnResume::kSaid);
  }
};

}  // namespace lockstep::grpo
