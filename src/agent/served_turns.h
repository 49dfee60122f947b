// What a server was told about turns, for the trainer, which makes them: `swift rollout` has these
// flags where ms-swift's server makes the turns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/options.h"
#include "base/json.h"

namespace lockstep::agent {

/// Flags of a server that it does nothing with but tell them.
struct ServedTurns {
  std::string multi_turn_scheduler, gym_env;
  std::optional<bool> use_gym_env;
  std::optional<int64_t> max_turns;
  std::vector<std::string> external_plugins;

  bool is_on() const {
    return !multi_turn_scheduler.empty() || use_gym_env.value_or(!gym_env.empty());
  }

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    constexpr const char* kTold =
        "Told to trainers that say nothing of turns themselves: they "
        "make the turns (lockstep grpo --help).";
    visit("multi_turn_scheduler", multi_turn_scheduler, kTold);
    visit("gym_env", gym_env, kTold);
    visit("use_gym_env", use_gym_env, kTold);
    visit("max_turns", max_turns, kTold, Range::between(1, 1 << 20));
    visit("external_plugins", external_plugins, kTold);
  }
};

/// As the member "turns" of what a server tells of itself (net::SamplerInfo): null where nothing is
/// to be told. Files have their whole path.
Json json_of(const ServedTurns& turns);
/// The reverse; nothing for null. Throws FormatError "bad-server-info" at `where`.
std::optional<ServedTurns> served_turns(const Json& told, const std::string& where);

/// What the server at `url` tells; nothing where it tells nothing of turns, is none of ours, or
/// cannot be reached: the run waits for it later, and finds out then (HttpRollout). One that loads
/// its model is waited for. Throws PeerError "not-ready", InterruptedError.
std::optional<ServedTurns> ask_for_turns(const std::string& url,
                                         const std::string& api_key,
                                         std::chrono::milliseconds timeout);

}  // namespace lockstep::agent
