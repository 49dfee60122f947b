// SPDX-License-Identifier: Apache-2.0
#include "agent/options.h"

#include "base/check.h"

namespace lockstep::agent {

std::span<const EnumName<LengthScope>> enum_names(LengthScope) {
  static constexpr EnumName<LengthScope> kNames[] = {{LengthScope::kPerRound, "per_round"},
                                                     {LengthScope::kTotal, "total"}};
  return kNames;
}

void AgentOptions::validate() const {
  if (is_on()) return;
  const auto refuse = [](const char* flag) {
    fail<ConfigError>("bad-flag", flag,
                      "expected --tools, --multi_turn_scheduler or --gym_env with it, got none");
  };
  if (!tool_schemas.empty()) refuse("--tool_schemas");
  if (max_turns && *max_turns > 1) refuse("--max_turns");
  if (trajectory_timeout) refuse("--trajectory_timeout");
}

}  // namespace lockstep::agent
