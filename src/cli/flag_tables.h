// The tables of flag_classes.h, and short ways to write their rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>

#include "cli/flag_classes.h"

namespace lockstep::cli {

/// A flag of ours that may not be built yet; `silent` values need no feature.
constexpr FlagRule used(std::string_view name, std::string_view silent, std::string_view feature) {
  return {.name = name, .flag_class = FlagClass::kUsed, .silent = silent, .feature = feature};
}
/// Another name of `target`.
constexpr FlagRule renamed(std::string_view name,
                           std::string_view target,
                           std::string_view reason = {}) {
  return {.name = name, .flag_class = FlagClass::kMapped, .target = target, .reason = reason};
}
/// Mapped to what the program does anyway, which the notice says.
constexpr FlagRule covered(std::string_view name,
                           std::string_view silent,
                           std::string_view reason) {
  return {.name = name, .flag_class = FlagClass::kMapped, .silent = silent, .reason = reason};
}
/// Mapped to a feature that is not built.
constexpr FlagRule later(std::string_view name, std::string_view silent, std::string_view feature) {
  return {.name = name, .flag_class = FlagClass::kMapped, .silent = silent, .feature = feature};
}
constexpr FlagRule accepted(std::string_view name,
                            std::string_view silent,
                            std::string_view reason) {
  return {.name = name, .flag_class = FlagClass::kAccepted, .silent = silent, .reason = reason};
}
constexpr FlagRule refused(std::string_view name,
                           std::string_view silent,
                           std::string_view reason) {
  return {.name = name, .flag_class = FlagClass::kRefused, .silent = silent, .reason = reason};
}

/// GRPO's own: batch groups, loss, advantages, filters, rewards, reference, teachers
/// (flag_tables_grpo.cpp).
std::span<const FlagRule> algorithm_rules();
/// The sampler's and an inference engine's (flag_tables_rollout.cpp).
std::span<const FlagRule> rollout_rules();
/// A rollout server's (flag_tables_server.cpp).
std::span<const FlagRule> server_rules();
/// Optimizer, run, data, template, model, adapters (flag_tables_training.cpp).
std::span<const FlagRule> training_rules();
/// Precision and adapters for commands that do not train (flag_tables_training.cpp).
std::span<const FlagRule> model_rules();
/// transformers' Trainer's and TRL's (flag_tables_trainer.cpp).
std::span<const FlagRule> trainer_rules();
/// TRL's and ms-swift's for rewards, sampling and other algorithms (flag_tables_trainer.cpp).
std::span<const FlagRule> other_algorithm_rules();
/// What sft accepts that means something to grpo (flag_tables_trainer.cpp).
std::span<const FlagRule> supervised_rules();
/// Parallel degrees by other trainers' names, for lockstep plan (flag_tables_framework.cpp).
std::span<const FlagRule> degree_rules();
/// Sharding, kernels, parallel degrees, Megatron, launchers (flag_tables_framework.cpp).
std::span<const FlagRule> framework_rules();

}  // namespace lockstep::cli
