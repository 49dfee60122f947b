// What becomes of a flag that is another trainer's or another engine's, or of a feature that is not
// built: mapped to a flag of ours, accepted without effect, or refused where ignoring it would
// change what is trained. The tables are in flag_tables_*.cpp; the rules they follow stand in docs
// of the flags (--help names ours only). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/flags.h"

namespace lockstep::cli {

enum class FlagClass : int {
  kUsed,  ///< Ours; where the command does not register it, its feature is not built and a value is
          ///< refused.
  kMapped,    ///< Another name, or another unit, of a flag of ours.
  kAccepted,  ///< Without effect here; a notice says why.
  kRefused,   ///< Ignoring it would change what is trained; the error says what takes its place.
};

/// One flag (or, with a trailing '*', every flag that begins so) and what becomes of it.
struct FlagRule {
  std::string_view name;
  FlagClass flag_class;
  /// Values that pass without a word, separated by '|': the field's default and what switches the
  /// flag off.
  std::string_view silent = {};
  /// kMapped: the flag of ours. Empty where a function of its own does the work.
  std::string_view target = {};
  /// kUsed: the feature. kMapped, kAccepted: the reason. kRefused: why, and what takes its place.
  std::string_view reason = {};
};

/// The tables that a command reads foreign flags by, in order; the first that knows a name decides.
struct FlagClasses {
  std::vector<std::span<const FlagRule>> tables;
};

const FlagClasses& grpo_flag_classes();
/// Those of grpo without the algorithm's, the rollout's and the rewards' own.
const FlagClasses& sft_flag_classes();

/// The rule for `name`, or null.
const FlagRule* find_rule(const FlagClasses& classes, std::string_view name);

/// Tells which flags the command registers.
using IsRegistered = std::function<bool(std::string_view name)>;

/// The assignments with mapped flags renamed, silent and accepted ones taken out; names in no class
/// are left as they are. Notices are appended, one a flag.
///
/// Throws ConfigError "refused-flag", "bad-flag".
std::vector<Assignment> apply_flag_classes(const FlagClasses& classes,
                                           const IsRegistered& is_registered,
                                           std::vector<Assignment> assignments,
                                           std::vector<std::string>& notices);

}  // namespace lockstep::cli
