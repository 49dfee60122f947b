// What becomes of flags of other trainers and engines, and of flags of features that are not built:
// they are mapped to a flag of ours, accepted without effect, or refused if ignoring them would
// change what is trained. The tables are in flag_tables_*.cpp. --help names our own flags only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/flags.h"

namespace lockstep::cli {

enum class FlagClass : int {
  /// A flag of ours. If the command does not register it, its feature is not built, and a value is
  /// refused.
  kUsed,
  /// Another name, or another unit, of a flag of ours.
  kMapped,
  /// It has no effect here, and a notice says why.
  kAccepted,
  /// Ignoring it would change what is trained; the error says what to use instead.
  kRefused,
};

/// One flag and what becomes of it. A '*' at the end or the beginning of the name stands for any
/// text.
struct FlagRule {
  std::string_view name;
  FlagClass flag_class;
  /// Values that are accepted without a word, separated by '|': the flag's default, and those that
  /// switch it off.
  std::string_view silent = {};
  /// For kMapped: the flag of ours, if one takes the value as it is.
  std::string_view target = {};
  /// For kUsed and kMapped: what has to be built before a value that is not silent has a meaning.
  std::string_view feature = {};
  /// What a notice or an error says behind the flag: why, and what to use instead.
  std::string_view reason = {};
};

/// The tables by which a command reads foreign flags, in order; the first that knows a name
/// decides.
struct FlagClasses {
  std::vector<std::span<const FlagRule>> tables;
};

const FlagClasses& grpo_flag_classes();
/// The tables of grpo without those of the algorithm, the rollout and the rewards.
const FlagClasses& sft_flag_classes();

/// The tables of lockstep rollout.
const FlagClasses& rollout_flag_classes();

/// Flags of commands that load a model without training it.
const FlagClasses& model_flag_classes();

/// Other names, and refusals, of degrees for lockstep plan.
const FlagClasses& plan_flag_classes();

/// The rule for `name`, or null.
const FlagRule* find_rule(const FlagClasses& classes, std::string_view name);

/// Says whether the command registers a flag.
using IsRegistered = std::function<bool(std::string_view name)>;

/// What was said about foreign flags, and which were accepted.
struct ClassNotes {
  /// One line for each mapped or accepted flag.
  std::vector<std::string> notices;
  /// Flags without effect, as they were given.
  std::vector<Assignment> accepted;
  /// Files that flags name and that were read.
  std::vector<InputPath> inputs;
};

/// The assignments with mapped flags renamed, and silent and accepted ones removed. Names in no
/// class stay as they are.
///
/// Throws ConfigError "refused-flag", "bad-flag"; FormatError and IoError for a DeepSpeed or FSDP
/// file.
std::vector<Assignment> apply_flag_classes(const FlagClasses& classes,
                                           const IsRegistered& is_registered,
                                           const std::vector<Assignment>& assignments,
                                           ClassNotes& notes);

/// Checks --model_type and --template, which have no effect, against config.json's model_type.
///
/// Throws ConfigError "refused-flag" when they name another family.
void check_declared_family(const std::vector<Assignment>& accepted, std::string_view model_type);

/// Checks degrees of tensor and pipeline parallelism, which have no effect in one process, in a run
/// of several: there they ask for what this program does not do.
///
/// Throws ConfigError "refused-flag", which names what serves instead, of the flags that the
/// command registers.
void check_unserved_degrees(const std::vector<Assignment>& accepted,
                            const IsRegistered& is_registered);

}  // namespace lockstep::cli
