// Completions as rewards in other processes see them, and values as these say them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json_fwd.h"
#include "reward/reward.h"
#include "reward/run_state.h"

namespace lockstep::reward {

/// A completion with all that is known of it; docs/rewards.md lists the members.
Json completion_json(const RewardInput& input, const RunState& run);

/// The reply as a list of one message, or of all turns with what came between.
Json completion_messages(const RewardInput& input);

/// The value in a program's answer: a number or null, also as the member `reward` of an object.
/// Throws PeerError "program-failed" with the program's own words for an object with `error`, and
/// for any other answer. `from` names the reward.
std::optional<double> value_in(const Json& answer, std::string_view from);

/// An answer's text for errors, cut where it is long.
std::string shown_answer(std::string_view answer);

}  // namespace lockstep::reward
