// What is known of a completion in several turns besides its tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "grpo/metrics.h"

namespace lockstep::grpo {

/// A conversation that a completion has become, for rewards and logs.
struct TurnRecord {
  /// The messages that the first turn answers, and the text that they were rendered to.
  Json prompt_messages;
  std::string prompt;
  /// The turns of the assistant and what came between them.
  Json messages;
  /// The last turn as the model wrote it.
  std::string last_text;
  /// The sampled ids of each turn.
  std::vector<std::vector<int64_t>> turn_ids;
  /// What schedulers and environments say of it (agent::Trajectory).
  Json infos;
  std::optional<double> reward;
  int64_t num_turns = 0, num_tool_calls = 0, num_tool_failures = 0;
};

/// Records in a checkpoint's state. read_turn_records throws nlohmann's exceptions for other JSON.
Json json_of(const std::vector<TurnRecord>& records);
std::vector<TurnRecord> read_turn_records(const Json& list);

/// Adds num_turns, and tools/call_frequency and tools/failure_frequency where tools were called;
/// `prefix` ("" or "eval_") precedes their names. Source: ms-swift 4.6 and TRL 1.16, which name
/// them so.
void add_turn_metrics(const std::vector<TurnRecord>& records,
                      const std::string& prefix,
                      Metrics& metrics);

}  // namespace lockstep::grpo
