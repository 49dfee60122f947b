// One request of OpenAI's API on its way through the sampler: its events become the answer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rollout/engine_service.h"
#include "serve/choice_text.h"
#include "serve/http_server.h"  // HttpResponder
#include "serve/logprob_text.h"
#include "serve/openai_answer.h"
#include "serve/openai_request.h"

namespace lockstep::serve {

/// A prompt that is ready for the sampler.
struct GenerationPrompt {
  std::vector<int64_t> ids;
  /// Shown with echo.
  std::string text;
  /// The request's settings with all that they lack: number of tokens, seed, stop ids.
  rollout::RequestSettings settings;
  /// Names the sampler's request.
  std::string engine_id;
};

struct GenerationInput {
  OpenAiRequest request;
  std::vector<GenerationPrompt> prompts;
  AnswerDialect dialect;
  /// What the template began the answer with; shown for a rollout.
  std::string response_prefix;
  AnswerHead head;
  /// What is added to the model for it, to its end; null: nothing.
  std::shared_ptr<const model::Adapter> adapter;
  /// Stop ids that are the model's own, not the request's.
  std::vector<int64_t> eos_ids;
};

/// A token, and the version it was sampled under if that is another one than the token's before.
struct TokenEvent {
  int64_t sample = 0;
  rollout::ScoredToken token;
  /// It is no part of the text, and the last one.
  bool is_stop_token = false;
  std::shared_ptr<const std::string> new_version;
};

/// An error that the client is told.
struct AnswerError {
  int status = 500;
  std::string code, param, message;
};

/// What happens to a prompt of a generation: the sampler's events, and a refusal by it.
using GenerationEvent = std::variant<rollout::PromptDone,
                                     TokenEvent,
                                     rollout::SampleDone,
                                     rollout::RequestDone,
                                     AnswerError>;

/// Builds an answer from the events of its prompts. Owned by the events that are still to come.
/// Threads: on_event(), flush() and fail() from one thread; cancel() and note_gone() from any.
class Generation {
 public:
  /// The tokenizer and the engine must outlive it.
  Generation(GenerationInput input,
             const text::Tokenizer& tokenizer,
             rollout::EngineService& engine,
             std::shared_ptr<HttpResponder> responder);

  void on_event(size_t prompt, GenerationEvent&& event);
  /// Sends what events have added to a stream.
  void flush();
  /// Ends the answer with an error, unless it is complete.
  void fail(const AnswerError& error);
  /// The client has left: what is sampled for it ends.
  void note_gone();
  bool is_gone() const { return is_gone_; }
  /// Ends what is sampled for it.
  void cancel();

  const GenerationInput& input() const { return input_; }

 private:
  struct Prompt {
    int64_t cached_tokens = 0;
    bool is_computed = false, is_done = false;
    std::string logprobs;
    std::shared_ptr<const std::string> version;
    std::shared_ptr<const rollout::RoutedExperts> experts;
  };
  struct Choice {
    Choice(int64_t number, const Generation& owner);
    ChoiceText text;
    LogprobText logprobs;
    /// Not streamed: all of the answer. Streamed: empty.
    ChoiceState whole;
    /// The last token, which is told with the end.
    std::optional<rollout::ScoredToken> held;
    int64_t num_tokens = 0, num_calls = 0;
    std::vector<VersionSpan> versions;
    std::vector<float> processed_logprobs;
    bool is_ended = false;
  };

  void on(size_t prompt, rollout::PromptDone&& event);
  void on(size_t prompt, TokenEvent&& event);
  void on(size_t prompt, rollout::SampleDone&& event);
  void on(size_t prompt, rollout::RequestDone&& event);

  Choice& choice_of(size_t prompt, int64_t sample);
  void begin_choices(size_t prompt, const std::vector<rollout::ScoredToken>& logprobs);
  void show_token(Choice& choice, const rollout::ScoredToken& token);
  ChoiceState new_state(const Choice& choice) const;
  void add(Choice& choice, ChoiceState&& state);
  void end_choice(size_t prompt, Choice& choice, rollout::SampleDone&& done);
  void add_experts(size_t prompt, Choice& choice, rollout::RoutedExperts&& experts);
  ChoiceEnd end_of(const rollout::SampleDone& done, std::optional<int64_t> last) const;
  std::string call_id(const Choice& choice, const text::ToolCall& call, int64_t number) const;
  TokenUsage usage() const;
  std::optional<TokenUsage> usage_so_far(const Choice& choice) const;
  void finish();
  bool shows_tokens() const { return input_.request.max_tokens != 0; }

  GenerationInput input_;
  const text::Tokenizer* tokenizer_;
  rollout::EngineService* engine_;
  std::shared_ptr<HttpResponder> responder_;
  AnswerWriter writer_;
  std::vector<Prompt> prompts_;
  std::vector<std::unique_ptr<Choice>> choices_;
  /// What a stream has not been sent yet.
  std::string unsent_;
  bool is_streaming_ = false, is_complete_ = false;
  std::atomic<bool> is_gone_{false};
};

}  // namespace lockstep::serve
