// SPDX-License-Identifier: Apache-2.0
#include "grpo/objective_options.h"

#include "base/check.h"

namespace lockstep::grpo {

std::span<const EnumName<LossType>> enum_names(LossType) {
  static constexpr EnumName<LossType> kNames[] = {
      {LossType::kGrpo, "grpo"},   {LossType::kBnpo, "bnpo"},   {LossType::kDrGrpo, "dr_grpo"},
      {LossType::kDapo, "dapo"},   {LossType::kGspo, "gspo"},   {LossType::kCispo, "cispo"},
      {LossType::kSapo, "sapo"},   {LossType::kFipo, "fipo"},   {LossType::kReal, "real"},
      {LossType::kLuspo, "luspo"}, {LossType::kVespo, "vespo"},
  };
  return kNames;
}

std::span<const EnumName<RatioLevel>> enum_names(RatioLevel) {
  static constexpr EnumName<RatioLevel> kNames[] = {{RatioLevel::kToken, "token"},
                                                    {RatioLevel::kSequence, "sequence"},
                                                    {RatioLevel::kSequenceToken, "sequence_token"}};
  return kNames;
}

std::span<const EnumName<KlEstimator>> enum_names(KlEstimator) {
  static constexpr EnumName<KlEstimator> kNames[] = {
      {KlEstimator::kK1, "k1"}, {KlEstimator::kK2, "k2"}, {KlEstimator::kK3, "k3"}};
  return kNames;
}

std::span<const EnumName<DapoDenominator>> enum_names(DapoDenominator) {
  static constexpr EnumName<DapoDenominator> kNames[] = {
      {DapoDenominator::kAllTokens, "all_tokens"}, {DapoDenominator::kLossTokens, "loss_tokens"}};
  return kNames;
}

std::span<const EnumName<AdvantageEstimator>> enum_names(AdvantageEstimator) {
  static constexpr EnumName<AdvantageEstimator> kNames[] = {
      {AdvantageEstimator::kGrpo, "grpo"},
      {AdvantageEstimator::kRloo, "rloo"},
      {AdvantageEstimator::kReinforcePlusPlus, "reinforce_plus_plus"},
      {AdvantageEstimator::kGdpo, "gdpo"}};
  return kNames;
}

std::span<const EnumName<ScaleRewards>> enum_names(ScaleRewards) {
  static constexpr EnumName<ScaleRewards> kNames[] = {{ScaleRewards::kGroup, "group"},
                                                      {ScaleRewards::kBatch, "batch"},
                                                      {ScaleRewards::kNone, "none"},
                                                      {ScaleRewards::kGdpo, "gdpo"}};
  return kNames;
}

std::span<const EnumName<CorrectionMode>> enum_names(CorrectionMode) {
  static constexpr EnumName<CorrectionMode> kNames[] = {
      {CorrectionMode::kTokenTruncate, "token_truncate"},
      {CorrectionMode::kTokenMask, "token_mask"},
      {CorrectionMode::kSequenceTruncate, "sequence_truncate"},
      {CorrectionMode::kSequenceMask, "sequence_mask"}};
  return kNames;
}

std::span<const EnumName<SequenceRatio>> enum_names(SequenceRatio) {
  static constexpr EnumName<SequenceRatio> kNames[] = {
      {SequenceRatio::kGeometricMean, "geometric_mean"}, {SequenceRatio::kProduct, "product"}};
  return kNames;
}

void LossOptions::validate() const {
  const auto expect_level = [&](bool fits, std::string_view expected) {
    if (fits) return;
    fail<ConfigError>("bad-flag", "--importance_sampling_level",
                      "expected {} with --loss_type {}, got {}", expected, enum_name(loss_type),
                      enum_name(ratio_level()));
  };
  if (loss_type == LossType::kGspo)
    expect_level(ratio_level() != RatioLevel::kToken, "sequence or sequence_token");
  // The weight of a sequence is a part of these losses.
  if (loss_type == LossType::kVespo || loss_type == LossType::kReal)
    expect_level(ratio_level() == RatioLevel::kToken, "token");
  if (loss_type == LossType::kReal && has_entropy_bonus())
    fail<ConfigError>("bad-flag", "--entropy_coef",
                      "expected 0 with --loss_type real, which has no terms of tokens, got {}",
                      entropy_coef);
  if (use_adaptive_entropy && !(entropy_coef_min <= entropy_coef_max))
    fail<ConfigError>("bad-flag", "--entropy_coef_min",
                      "expected at most entropy_coef_max {}, got {}", entropy_coef_max,
                      entropy_coef_min);
}

ScaleRewards AdvantageOptions::scale() const {
  if (estimator() == AdvantageEstimator::kGdpo) return ScaleRewards::kGdpo;
  if (scale_rewards) return *scale_rewards;
  switch (advantage_estimator) {
    case AdvantageEstimator::kRloo:
      return ScaleRewards::kNone;
    case AdvantageEstimator::kReinforcePlusPlus:
      return ScaleRewards::kBatch;
    case AdvantageEstimator::kGrpo:
    case AdvantageEstimator::kGdpo:
      break;
  }
  return ScaleRewards::kGroup;
}

bool AdvantageOptions::has_kl_in_reward(const LossOptions& loss) const {
  const AdvantageEstimator own = estimator();
  return loss.beta > 0 && kl_in_reward.value_or(own == AdvantageEstimator::kRloo ||
                                                own == AdvantageEstimator::kReinforcePlusPlus);
}

void AdvantageOptions::validate() const {
  if (scale_rewards == ScaleRewards::kGdpo && advantage_estimator != AdvantageEstimator::kGrpo &&
      advantage_estimator != AdvantageEstimator::kGdpo)
    fail<ConfigError>(
        "bad-flag", "--scale_rewards",
        "expected group, batch or none with --advantage_estimator {}, got gdpo, which "
        "is an estimator of its own",
        enum_name(advantage_estimator));
  if (estimator() != AdvantageEstimator::kGdpo) return;
  if (scale_rewards && *scale_rewards != ScaleRewards::kGdpo)
    fail<ConfigError>("bad-flag", "--scale_rewards",
                      "expected none given with --advantage_estimator gdpo, which scales each "
                      "reward in its group and the sum in the batch, got {}",
                      enum_name(*scale_rewards));
  if (kl_in_reward.value_or(false))
    fail<ConfigError>("bad-flag", "--kl_in_reward",
                      "expected false with gdpo, which normalises each reward by itself, got true");
}

void CorrectionOptions::validate() const {
  if (rollout_importance_sampling_threshold_lower &&
      *rollout_importance_sampling_threshold_lower >= rollout_importance_sampling_threshold)
    fail<ConfigError>("bad-flag", "--rollout_importance_sampling_threshold_lower",
                      "expected less than rollout_importance_sampling_threshold {}, got {}",
                      rollout_importance_sampling_threshold,
                      *rollout_importance_sampling_threshold_lower);
}

}  // namespace lockstep::grpo
