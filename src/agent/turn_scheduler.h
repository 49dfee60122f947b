// What happens between the turns of a completion that has several: who answers the model, and when
// it is over.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/row.h"
#include "text/tool_calls.h"

namespace lockstep::agent {

/// A completion in several turns, as those see it who answer the model.
struct Trajectory {
  /// Tells it from the others of its round.
  std::string id;
  /// The number of its prompt: those of one prompt lie behind one another.
  int64_t group = 0;
  /// Outlives it.
  const text::Row* row = nullptr;
  /// The tools that its prompt names: an array, or null.
  Json tools;
  /// The conversation: the prompt's messages, then a message for each turn of the assistant, whose
  /// content is the text as the model wrote it, and what came behind it.
  Json messages = Json::array();

  /// How many turns of the assistant have ended.
  int64_t num_turns = 0;
  /// The last one: its text as the model wrote it, behind what the prompt had opened; its sampled
  /// ids, the stop token included; "stop" or "length".
  std::string text;
  std::vector<int64_t> token_ids;
  std::string_view finish_reason;
  /// Whether no other turn can come, whatever is answered: a limit is reached. Tools need not run.
  bool is_last = false;

  /// What is told to rewards besides: ms-swift's rollout_infos. An object.
  Json infos = Json::object();
  /// The sum of what an environment gave it; unset where it has none, or where that has failed.
  std::optional<double> reward;
  int64_t num_tool_calls = 0, num_tool_failures = 0;
};

/// A turn that is not answered: it goes on behind the tokens that are kept of it.
struct Continuation {
  /// The turn's whole text from now on. The sampled tokens are kept that it begins with, the rest
  /// is encoded and not learned from. Not read where `ids` are there.
  std::string text;
  /// How many of its sampled tokens are kept, and the ids behind them, which are not learned from.
  size_t kept = 0;
  std::vector<int64_t> ids;
};

/// What comes behind a turn of the assistant. Neither messages nor a continuation: it is over.
struct FollowUp {
  /// Messages of tools and users, which the chat template writes before the next turn.
  Json messages = Json::array();
  std::optional<Continuation> continuation;

  bool is_over() const { return messages.empty() && !continuation; }
};

/// Answers the model between its turns. A trajectory gets begin(), then follow() for each turn that
/// has ended, and end() once, whatever ended it. Each function works on several at once, so that
/// what waits for other processes waits together. Threads: one function at a time.
///
/// Whatever fails at one trajectory (a tool, an environment) ends or answers that trajectory; a run
/// ends with PeerError when too much has failed, and with InterruptedError.
class TurnScheduler {
 public:
  virtual ~TurnScheduler() = default;
  /// Throws FormatError "bad-row" for a row that it could not work on: rows are checked before any
  /// is sampled.
  virtual void check(const text::Row&) const {}
  /// The tools that the prompt of a row names, an array or null, before any trajectory begins.
  virtual Json tools_of(const text::Row& row) const { return row.tools; }
  /// Begins trajectories, whose `messages` are their prompts'. It may replace these, and `tools`.
  virtual void begin(std::span<Trajectory* const>) {}
  /// What comes behind the last turn of each, in order. It may change the message of that turn, the
  /// last one in `messages`, and add to `infos`, `reward` and counts.
  virtual std::vector<FollowUp> follow(std::span<Trajectory* const> trajectories) = 0;
  /// They are over.
  virtual void end(std::span<Trajectory* const>) noexcept {}
  /// Whether trajectories have a `reward` of an environment.
  virtual bool gives_reward() const { return false; }
};

}  // namespace lockstep::agent
