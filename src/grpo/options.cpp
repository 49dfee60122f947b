// SPDX-License-Identifier: Apache-2.0
#include "grpo/options.h"

namespace lockstep::grpo {

std::span<const EnumName<TunerType>> enum_names(TunerType) {
  static constexpr EnumName<TunerType> kNames[] = {{TunerType::kFull, "full"},
                                                   {TunerType::kLora, "lora"}};
  return kNames;
}

std::span<const EnumName<Interval>> enum_names(Interval) {
  static constexpr EnumName<Interval> kNames[] = {
      {Interval::kNo, "no"}, {Interval::kSteps, "steps"}, {Interval::kEpoch, "epoch"}};
  return kNames;
}

std::span<const EnumName<SaveStrategy>> enum_names(SaveStrategy) {
  static constexpr EnumName<SaveStrategy> kNames[] = {{SaveStrategy::kNo, "no"},
                                                      {SaveStrategy::kSteps, "steps"},
                                                      {SaveStrategy::kEpoch, "epoch"},
                                                      {SaveStrategy::kBest, "best"}};
  return kNames;
}

Interval RunOptions::evaluation() const {
  if (eval_strategy) return *eval_strategy;
  switch (save_strategy) {
    case SaveStrategy::kNo:
      return Interval::kNo;
    case SaveStrategy::kEpoch:
      return Interval::kEpoch;
    case SaveStrategy::kSteps:
    case SaveStrategy::kBest:
      break;
  }
  return Interval::kSteps;
}

std::span<const EnumName<OnInexact>> enum_names(OnInexact) {
  static constexpr EnumName<OnInexact> kNames[] = {{OnInexact::kStop, "stop"},
                                                   {OnInexact::kWarn, "warn"}};
  return kNames;
}

std::span<const EnumName<LossType>> enum_names(LossType) {
  static constexpr EnumName<LossType> kNames[] = {{LossType::kGrpo, "grpo"},
                                                  {LossType::kBnpo, "bnpo"},
                                                  {LossType::kDrGrpo, "dr_grpo"},
                                                  {LossType::kDapo, "dapo"}};
  return kNames;
}

std::span<const EnumName<RatioLevel>> enum_names(RatioLevel) {
  static constexpr EnumName<RatioLevel> kNames[] = {{RatioLevel::kToken, "token"},
                                                    {RatioLevel::kSequence, "sequence"}};
  return kNames;
}

std::span<const EnumName<TruncationStrategy>> enum_names(TruncationStrategy) {
  static constexpr EnumName<TruncationStrategy> kNames[] = {
      {TruncationStrategy::kLeft, "left"}, {TruncationStrategy::kDelete, "delete"}};
  return kNames;
}

std::span<const EnumName<ScaleRewards>> enum_names(ScaleRewards) {
  static constexpr EnumName<ScaleRewards> kNames[] = {{ScaleRewards::kGroup, "group"},
                                                      {ScaleRewards::kBatch, "batch"},
                                                      {ScaleRewards::kNone, "none"}};
  return kNames;
}

std::span<const EnumName<ReuseActivations>> enum_names(ReuseActivations) {
  static constexpr EnumName<ReuseActivations> kNames[] = {{ReuseActivations::kAuto, "auto"},
                                                          {ReuseActivations::kTrue, "true"},
                                                          {ReuseActivations::kFalse, "false"}};
  return kNames;
}

}  // namespace lockstep::grpo
