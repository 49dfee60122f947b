// The JSON of answers: whole, and as events of a stream.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/choice_text.h"
#include "serve/openai_request.h"

namespace lockstep::serve {

/// Tokens [begin, end) of a choice that were sampled under one version of the weights.
struct VersionSpan {
  std::string version;
  int64_t begin = 0, end = 0;
};

struct TokenUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

/// Why a choice ended.
struct ChoiceEnd {
  /// "stop", "length", "tool_calls" or "abort"; empty: null.
  std::string_view finish_reason;
  /// JSON: the stop string, the id of a stop token that the request named, or null.
  std::string stop_reason = "null";
};

/// What one event of a stream says about a choice; a choice of a whole answer is one of them, too.
struct ChoiceState {
  int64_t index = 0;
  ChoiceDelta delta;
  /// The number of calls that were told before, and the names by which all are known.
  int64_t calls_before = 0;
  std::vector<std::string> call_ids;
  /// JSON of LogprobText; empty: none.
  std::string logprobs;
  /// Unset: not asked for.
  std::optional<std::vector<int64_t>> token_ids, prompt_token_ids;
  std::optional<std::vector<VersionSpan>> versions;
  /// rollout::ScoredToken::processed of all tokens, with the versions; empty: none.
  std::vector<float> processed_logprobs;
  /// JSON of prompt_logprobs_text(); empty: none.
  std::string prompt_logprobs;
  /// rollout::RoutedExperts of the choice, and of its prompt with the first choice of that; null:
  /// none.
  std::shared_ptr<const rollout::RoutedExperts> experts, prompt_experts;
  std::optional<ChoiceEnd> end;
};

/// What all events of an answer have in common.
struct AnswerHead {
  bool is_chat = false;
  /// "cmpl-…" or "chatcmpl-…".
  std::string id;
  /// Seconds since 1970.
  int64_t created = 0;
  std::string model, fingerprint;
};

/// Writes the answers of one request. Threads: safe.
class AnswerWriter {
 public:
  explicit AnswerWriter(AnswerHead head);

  /// The whole answer.
  std::string whole(const std::vector<ChoiceState>& choices, const TokenUsage& usage) const;

  /// Appends an event about one choice to a stream; with `usage`, what has been used so far.
  void append_event(std::string& out,
                    const ChoiceState& choice,
                    const std::optional<TokenUsage>& usage) const;
  /// The event that begins a choice of a chat: its role, and the prompt's ids if they are asked
  /// for.
  void append_role(std::string& out,
                   int64_t index,
                   const std::optional<std::vector<int64_t>>& prompt_token_ids,
                   const std::optional<TokenUsage>& usage) const;
  /// The event behind the last choice that says what was used.
  void append_usage(std::string& out, const TokenUsage& usage) const;
  static void append_error(std::string& out, std::string_view body);
  static void append_done(std::string& out);

  const AnswerHead& head() const { return head_; }

 private:
  AnswerHead head_;
  /// An event up to its choices.
  std::string event_begin_;
};

}  // namespace lockstep::serve
