// The flags of completions in several turns: tools, environments, schedulers, limits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::agent {

/// What --max_completion_length limits.
enum class LengthScope : int { kPerRound, kTotal };
std::span<const EnumName<LengthScope>> enum_names(LengthScope);

struct AgentOptions {
  std::vector<std::string> tools;
  std::string tool_schemas;
  std::string multi_turn_scheduler;
  std::string gym_env;
  std::optional<bool> use_gym_env;
  std::optional<int64_t> max_turns;
  LengthScope completion_length_limit_scope = LengthScope::kPerRound;
  int64_t max_tool_response_length = 1024;
  /// In seconds.
  std::optional<double> trajectory_timeout;
  double tool_timeout = 60;
  int64_t tool_workers = 1, tool_max_failures = 100;

  /// Whether completions have turns.
  bool is_on() const {
    return !tools.empty() || !multi_turn_scheduler.empty() || has_environment();
  }
  /// Whether an environment answers the model.
  bool has_environment() const {
    return use_gym_env.value_or(!gym_env.empty() || multi_turn_scheduler == "gym_scheduler");
  }
  std::chrono::milliseconds timeout() const {
    return std::chrono::milliseconds(static_cast<int64_t>(1000 * tool_timeout));
  }
  /// Throws ConfigError naming the flag.
  void validate() const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    constexpr double kLongest = 366.0 * 24 * 3600;
    visit("tools", tools,
          "Tools that the model may call: NAME=program:COMMAND, NAME=http://…, or a function in "
          "Python, [NAME=]module:function or file.py:function. A row can name those that it has.");
    visit("tool_schemas", tool_schemas,
          "A file of JSON with the functions that tools are, as OpenAI's API has them, for prompts "
          "of rows that name none; functions in Python say it themselves.",
          kByContent);
    visit("multi_turn_scheduler", multi_turn_scheduler,
          "Who answers the model between its turns: a name that external_plugins register, or one "
          "of ms-swift's own (gym_scheduler, math_tip_trick).");
    visit("use_gym_env", use_gym_env,
          "An environment answers the model, and its reward is the last one; unset: with gym_env.");
    visit("gym_env", gym_env,
          "The environment of rows whose env_config names none: program:COMMAND, or a name that "
          "external_plugins register.");
    visit("max_turns", max_turns, "How many turns a completion has at most; unset: any.",
          Range::between(1, 1 << 20));
    visit("completion_length_limit_scope", completion_length_limit_scope,
          "What max_completion_length limits: each turn (per_round), or all of them with what "
          "comes between (total).");
    visit("max_tool_response_length", max_tool_response_length,
          "How many tokens of an answer of a tool or an environment the model gets to read.",
          Range::between(1, 1 << 24));
    visit("trajectory_timeout", trajectory_timeout,
          "Seconds after which a completion gets no further turn; unset: any.",
          Range::left_open(0, kLongest), kSaid);
    visit("tool_timeout", tool_timeout,
          "Seconds within which a tool or an environment answers; later it is ended, and the model "
          "reads an error.",
          Range::left_open(0, kLongest), kSaid);
    visit("tool_workers", tool_workers,
          "Processes of each tool or environment that is a program, and calls at once of one "
          "behind a URL.",
          Range::between(1, 256), kSaid);
    visit("tool_max_failures", tool_max_failures,
          "How often tools and environments may be late, end or answer nonsense before the run "
          "ends.",
          Range::at_least(0), kSaid);
  }
};

}  // namespace lockstep::agent
