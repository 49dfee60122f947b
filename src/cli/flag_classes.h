// What becomes of a flag that is another trainer's or another engine's, or of a feature that is not
// built: mapped to a flag of ours, accepted without effect, or refused where ignoring it would
// change what is trained. The tables are in flag_tables_*.cpp; the rules they follow stand in docs
// of the flags (--help names ours only).
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
  /// Ours; where the command does not register it, its feature is not built and a value is refused.
  kUsed,
  /// Another name, or another unit, of a flag of ours.
  kMapped,
  /// Without effect here; a notice says why.
  kAccepted,
  /// Ignoring it would change what is trained; the error says what takes its place.
  kRefused,
};

/// One flag and what becomes of it. A '*' at the end or the beginning of the name stands for any
/// text.
struct FlagRule {
  std::string_view name;
  FlagClass flag_class;
  /// Values that pass without a word, separated by '|': the flag's default and what switches it
  /// off.
  std::string_view silent = {};
  /// kMapped: the flag of ours, where one takes the value as it is.
  std::string_view target = {};
  /// kUsed, kMapped: what has to be built before a value that is not silent means something.
  std::string_view feature = {};
  /// What a notice or an error says behind the flag: why, and what takes its place.
  std::string_view reason = {};
};

/// The tables that a command reads foreign flags by, in order; the first that knows a name decides.
struct FlagClasses {
  std::vector<std::span<const FlagRule>> tables;
};

const FlagClasses& grpo_flag_classes();
/// Those of grpo without the algorithm's, the rollout's and the rewards' own.
const FlagClasses& sft_flag_classes();

/// Flags of commands that load a model: adapters, until they are built.
const FlagClasses& model_flag_classes();

/// The rule for `name`, or null.
const FlagRule* find_rule(const FlagClasses& classes, std::string_view name);

/// Tells which flags the command registers.
using IsRegistered = std::function<bool(std::string_view name)>;

/// What was said of foreign flags, and which were taken.
struct ClassNotes {
  /// One line a mapped or accepted flag.
  std::vector<std::string> notices;
  /// Flags without effect, as they were given.
  std::vector<Assignment> accepted;
  /// Files that flags name and that were read.
  std::vector<InputPath> inputs;
};

/// The assignments with mapped flags renamed, silent and accepted ones taken out; names in no class
/// are left as they are.
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

}  // namespace lockstep::cli
