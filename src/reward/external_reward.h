// Rewards of the user's own: a program that answers JSON lines, or a URL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "reward/external_options.h"
#include "reward/failures.h"
#include "reward/reward.h"

namespace lockstep::reward {

/// What an entry of --reward_funcs names that is no registered reward, or one of --tools.
struct ExternalSpec {
  enum class Kind : int { kProgram, kUrl };
  Kind kind = Kind::kProgram;
  /// What metrics call it.
  std::string name;
  /// The command or the URL.
  std::string target;
};

/// Reads `[NAME=]program:COMMAND` and `[NAME=]http://…`; unset for another text. Without a NAME it
/// is that of the program's file, or the last part of the URL's path. Throws ConfigError "bad-flag"
/// naming the flag.
std::optional<ExternalSpec> external_spec(std::string_view text,
                                          std::string_view flag = "--reward_funcs");

/// A reward in another process. One that fails at a completion leaves it without a value.
class ExternalReward : public RewardFunction {
 public:
  ExternalReward(const RewardName& name, const ExternalOptions& options)
      : RewardFunction(name),
        failures_(failure_words(std::string(name.name)), options.reward_max_failures) {}
  std::optional<int64_t> num_failures() const override { return failures_.count(); }
  std::string_view why_missing() const override { return "it said null, or failed"; }

 protected:
  /// What errors and the log say of it.
  static FailureWords failure_words(const std::string& name);
  /// What it fails at; judge() is const, since it changes nothing that one sees.
  mutable Failures failures_;
};

/// A program, of which --reward_workers processes run. Each completion is a line of JSON
/// (completion_json), which it answers with a line (value_in).
std::unique_ptr<RewardFunction> make_program_reward(const ExternalSpec& spec,
                                                    const ExternalOptions& options);
/// A URL, to which completions are posted: {"reward", "step", "max_steps", "completions": […]},
/// answered by {"rewards": [number or null, …]}. Throws ConfigError "bad-url".
std::unique_ptr<RewardFunction> make_url_reward(const ExternalSpec& spec,
                                                const ExternalOptions& options);

/// Whether the user wants the run to end and nothing holds it: what waits for another process asks.
bool is_interrupted();

}  // namespace lockstep::reward
