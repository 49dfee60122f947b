// What a request of OpenAI's API asks for, with the fields that vLLM adds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "rollout/request.h"
#include "text/chat_encoder.h"  // PromptEnd

namespace lockstep::serve {

/// What bounds the fields of a request.
struct RequestBounds {
  int64_t vocab_size = 0;
  /// For how many of the most likely tokens a request may ask; -1: all.
  int64_t max_logprobs = 20;
  /// Whether the model has experts, of which a request may ask.
  bool has_experts = false;
};

/// A prompt as text, or as ids.
using PromptInput = std::variant<std::string, std::vector<int64_t>>;

/// How a chat request wants its tools used.
enum class ToolChoice : uint8_t { kNone, kAuto, kRequired, kNamed };

/// The fields of a chat that its template sees.
struct ChatInput {
  /// As checked_messages() makes them.
  Json messages;
  /// Array, or null.
  Json tools;
  /// Variables of the template: chat_template_kwargs and reasoning_effort.
  Json variables = Json::object();
  text::PromptEnd end = text::PromptEnd::kGenerationPrompt;
};

/// A request for completions, of a chat or of texts.
struct OpenAiRequest {
  bool is_chat = false;
  /// Empty: the model that is served.
  std::string model;
  /// Of a chat; else `prompts`, at least one.
  ChatInput chat;
  std::vector<PromptInput> prompts;

  int64_t num_samples = 1;
  /// Without the number of tokens and without the seed: both depend on more than the request.
  rollout::RequestSettings settings;
  /// Unset: as much as there is room for. 0: the prompt only, which is echoed.
  std::optional<int64_t> max_tokens;
  /// Unset: drawn for each request.
  std::optional<uint64_t> seed;
  uint64_t occurrence = 0, draw = 0;
  std::optional<std::string> weight_version;
  /// Empty: one of our own.
  std::string request_id;

  // What the answer shows.
  bool is_stream = false, include_usage = false, continuous_usage = false;
  bool echo = false;
  /// Log-probabilities of the answer's tokens; `settings` says how many alternatives.
  bool logprobs = false;
  bool return_token_ids = false, tokens_as_ids = false;
  bool include_stop_string = false, skip_special_tokens = true;
  bool include_reasoning = true, parallel_tool_calls = true;
  ToolChoice tool_choice = ToolChoice::kNone;
  /// With kNamed.
  std::string tool_name;
  /// As ms-swift wants it: the text is whole, with what the template began it with in front.
  bool is_rollout = false;
};

/// The most prompts of a request, and the most completions of each of them.
constexpr int64_t kMaxPrompts = 1024, kMaxSamples = 1024;
/// The most completions of a request.
constexpr int64_t kMaxChoices = 16'384;
/// The most stop strings of a request.
constexpr size_t kMaxStopStrings = 16;

/// Reads the body of /v1/completions, and that of /v1/chat/completions.
///
/// Unknown fields are ignored, as OpenAI and vLLM do. Throws RequestError 400 whose place is the
/// field: "bad-json", "bad-request" for wrong types and values, "not-supported" for known fields
/// whose effect is not there.
OpenAiRequest parse_completion_request(std::string_view body, const RequestBounds& bounds);
OpenAiRequest parse_chat_request(std::string_view body, const RequestBounds& bounds);
/// The same for a body that has been parsed.
OpenAiRequest read_chat_request(const Json& request, const RequestBounds& bounds);

/// Throws RequestError 400 at `field` for a request's own name that cannot stand in a header.
void check_request_id(const std::string& id, const std::string& field);

/// The fields of a chat that its template sees, of any request that has them.
ChatInput parse_chat_input(const Json& request);

/// A body of /tokenize.
struct TokenizeRequest {
  std::string model;
  std::variant<std::string, ChatInput> input;
  bool return_token_strs = false;
};
TokenizeRequest parse_tokenize_request(std::string_view body);

/// A body of /detokenize.
struct DetokenizeRequest {
  std::string model;
  std::vector<int64_t> tokens;
};
DetokenizeRequest parse_detokenize_request(std::string_view body, const RequestBounds& bounds);

}  // namespace lockstep::serve
