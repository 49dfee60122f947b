// The model as requests see it: its names, how it reads text, and how a request becomes prompts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rollout/engine_service.h"
#include "serve/generation.h"
#include "serve/openai_request.h"
#include "serve/served_adapters.h"
#include "text/chat_encoder.h"

namespace lockstep::serve {

struct OpenAiOptions {
  /// At least one; answers carry the first.
  std::vector<std::string> model_names;
  /// Told as the model's root: where it was read from.
  std::string model_root;
  /// Those that are served from the beginning, and where others come from; null: no others.
  std::vector<ServedAdapter> adapters;
  AdapterLoader load_adapter;
  /// Ids that end a completion unless a request says otherwise.
  std::vector<int64_t> eos_ids;
  /// For how many of the most likely tokens a request may ask; -1: all.
  int64_t max_logprobs = 20;
  /// A request ends after this time, with what it has; unset: never.
  std::optional<std::chrono::milliseconds> request_timeout;
};

/// Makes prompts of requests. Threads: any may call anything.
class ServedModel {
 public:
  /// `chat` may be null, for a model without a chat template. All arguments must outlive it.
  ServedModel(OpenAiOptions options,
              const text::Tokenizer& tokenizer,
              const text::ChatEncoder* chat,
              const rollout::EngineService& engine);

  const OpenAiOptions& options() const { return options_; }
  ServedAdapters& adapters() { return adapters_; }
  const ServedAdapters& adapters() const { return adapters_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const rollout::EngineFacts& facts() const { return engine_->facts(); }
  RequestBounds bounds() const;

  /// The adapter of this name; unset for the model itself, which an empty name means too. Throws
  /// RequestError 404 "model-not-found" at "model" for a name that is neither's.
  std::optional<ServedAdapter> adapter_of(const std::string& name) const;
  /// The prompt of a chat. Throws RequestError 400 at "messages" for what the template refuses.
  text::EncodedPrompt render(const ChatInput& chat, const std::string& opening = {}) const;
  /// Ids of a text. Throws RequestError 400 at `field`.
  std::vector<int64_t> encode(const std::string& text, const char* field) const;

  /// All that the sampler needs. Throws RequestError 400 and 404.
  GenerationInput prepare(OpenAiRequest request) const;

 private:
  void add_chat(GenerationInput& input) const;
  void add_texts(GenerationInput& input) const;
  void complete(GenerationInput& input) const;
  AnswerHead head_of(const OpenAiRequest& request,
                     const std::optional<ServedAdapter>& adapter) const;

  OpenAiOptions options_;
  ServedAdapters adapters_;
  const text::Tokenizer* tokenizer_;
  const text::ChatEncoder* chat_;
  const rollout::EngineService* engine_;
  text::ToolDialect tools_ = text::ToolDialect::kNone;
  bool has_thoughts_ = false;
  /// What ids and seeds are drawn from where a request brings none.
  uint64_t entropy_;
  mutable std::atomic<uint64_t> draws_{0};
};

}  // namespace lockstep::serve
