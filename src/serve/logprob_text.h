// Log-probabilities of tokens in the three forms that answers have them in, as JSON text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "rollout/request.h"  // ScoredToken
#include "text/tokenizer.h"

namespace lockstep::serve {

/// How tokens are named.
struct TokenNames {
  const text::Tokenizer* tokenizer = nullptr;
  /// "token_id:N" in place of the token's text.
  bool as_ids = false;

  /// The name of a token; bytes that are no UTF-8 become U+FFFD.
  std::string of(int64_t id) const;
};

/// The log-probabilities of an answer's tokens, which come one by one.
///
/// kCompletion is {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, kChat is
/// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}. Not thread-safe.
class LogprobText {
 public:
  enum class Form : uint8_t { kCompletion, kChat };
  LogprobText(Form form, const TokenNames& names) : form_(form), names_(names) {}

  void add(const rollout::ScoredToken& token);
  /// A token that nothing stands before: it has no log-probability. Only in kCompletion.
  void add_first(int64_t id);
  /// Those that have come since take() was called last.
  std::string take();

 private:
  void add_completion(const rollout::ScoredToken& token);
  void add_chat(const rollout::ScoredToken& token);
  void append_name(const std::string& name);

  Form form_;
  TokenNames names_;
  /// Elements of the lists, with commas between them.
  std::string tokens_, logprobs_, top_, offsets_;
  /// Characters of all names so far.
  int64_t offset_ = 0;
};

/// The log-probabilities of a prompt as vLLM has them: null for the first token, then
/// {"ID": {"logprob", "rank", "decoded_token"}} with the token itself in front.
std::string prompt_logprobs_text(std::span<const rollout::ScoredToken> tokens,
                                 const text::Tokenizer& tokenizer);

}  // namespace lockstep::serve
