// A completion in several turns while it grows: its tokens, and the conversation that they are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/options.h"
#include "agent/turn_scheduler.h"
#include "grpo/experience.h"
#include "grpo/prompts.h"
#include "grpo/turn_record.h"
#include "rollout/completion.h"
#include "text/chat_encoder.h"

namespace lockstep::grpo {

/// How long a completion and its turns may be, in tokens.
struct TurnLimits {
  int64_t max_completion_length = 512;
  /// With kTotal it counts all turns and what comes between them.
  agent::LengthScope scope = agent::LengthScope::kPerRound;
  /// The most tokens of the prompt with all of it.
  int64_t context = 0;
};

/// Prompt, then turns that were sampled and what came between them. Ids are only ever appended, and
/// those of a turn are the ones that were sampled: nothing is rendered or encoded twice, so that
/// the ids are those that the sampler saw. The mask is 1 on sampled ones. Not thread-safe.
class GrowingTrajectory {
 public:
  /// `prompt` and `encoder` must outlive it. `told` is what schedulers see, its messages are those
  /// of the prompt.
  GrowingTrajectory(const Prompt& prompt, const text::ChatEncoder& encoder, std::string id);

  agent::Trajectory& told() { return told_; }
  /// A scheduler has begun it: renders the prompt anew if its messages or tools are others.
  void begin();
  /// How many tokens the next turn may have; less than 1: there is none.
  int64_t room(const TurnLimits& limits) const;
  const std::vector<int64_t>& ids() const { return sample_.ids; }

  /// Appends a turn.
  void append_turn(rollout::Completion&& completion);
  /// Appends what comes behind the last turn. False where it is over: nothing comes, or there is no
  /// room for it and a token more, and then it is left out and the completion counts as cut.
  ///
  /// Throws PeerError "bad-turn" for a continuation that does not fit the turn.
  bool append(agent::FollowUp&& follow_up, const TurnLimits& limits);

  /// The ids of the completion, what came between turns included.
  std::span<const int64_t> completion_ids() const {
    return std::span(sample_.ids).subspan(static_cast<size_t>(prompt_tokens_));
  }
  /// The text of the completion, what came between turns included, without the last stop token.
  std::string text() const;
  Experience take_experience(int64_t weight_version);
  TurnRecord record() const;
  std::string_view finish_reason() const { return is_cut_ ? "length" : "stop"; }

 private:
  /// What a continuation makes of the last turn.
  struct Change {
    size_t kept = 0;
    std::vector<int64_t> ids;
    std::string text;
  };
  Change change_of(agent::Continuation&& continuation) const;
  int64_t room_behind(int64_t tokens, const TurnLimits& limits) const;
  void append_masked(const std::vector<int64_t>& ids);
  text::Conversation conversation_of(const Json& messages) const;

  const Prompt* prompt_;
  const text::ChatEncoder* encoder_;
  agent::Trajectory told_;
  train::Sample sample_;
  std::vector<float> logprobs_, processed_;
  int64_t prompt_tokens_ = 0;
  size_t prompt_messages_ = 0;
  std::string prompt_text_;
  /// What stands in the last turn's text before the ids that were sampled last: what the prompt has
  /// opened, or the turn so far where it is continued.
  std::string before_;
  bool is_continued_ = false, is_cut_ = false;
  /// The stop token that ended the last turn, if one did.
  std::optional<int64_t> ended_by_;
};

}  // namespace lockstep::grpo
