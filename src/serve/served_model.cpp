// SPDX-License-Identifier: Apache-2.0
#include "serve/served_model.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "net/rollout_protocol.h"  // answer_fingerprint
#include "serve/request_fields.h"  // shown

namespace lockstep::serve {
namespace {

uint64_t system_entropy() {
  std::random_device device;
  return (uint64_t{device()} << 32) ^ device();
}

int64_t seconds_since_epoch() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ServedModel::ServedModel(OpenAiOptions options,
                         const text::Tokenizer& tokenizer,
                         const text::ChatEncoder* chat,
                         const rollout::EngineService& engine)
    : options_(std::move(options)),
      adapters_(options_.model_names,
                std::exchange(options_.adapters, {}),
                std::exchange(options_.load_adapter, {})),
      tokenizer_(&tokenizer),
      chat_(chat),
      engine_(&engine),
      entropy_(system_entropy()) {
  LOCKSTEP_CHECK(!options_.model_names.empty(), "no name to serve");
  if (!chat) return;
  tools_ = text::tool_dialect(*chat);
  has_thoughts_ = text::writes_thoughts(*chat);
}

RequestBounds ServedModel::bounds() const {
  return {.vocab_size = facts().vocab_size,
          .max_logprobs = options_.max_logprobs,
          .has_experts = facts().has_experts};
}

std::optional<ServedAdapter> ServedModel::adapter_of(const std::string& name) const {
  const auto& names = options_.model_names;
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) return {};
  if (auto adapter = adapters_.find(name)) return adapter;
  throw RequestError(404, "model-not-found", "model",
                     fmt::format("expected {}{}, got {}", fmt::join(names, " or "),
                                 adapters_.list().empty() ? "" : " or an adapter", shown(name)));
}

text::EncodedPrompt ServedModel::render(const ChatInput& chat, const std::string& opening) const {
  if (!chat_)
    throw RequestError(400, "no-chat-template", "messages",
                       "expected a model with a chat template, this one has none (hint: "
                       "/v1/completions continues texts)");
  try {
    return chat_->encode_prompt({.messages = &chat.messages,
                                 .tools = chat.tools.is_null() ? nullptr : &chat.tools,
                                 .variables = &chat.variables},
                                {.end = chat.end, .opening = opening});
  } catch (const FormatError& error) {
    throw RequestError(400, "bad-request", "messages", error.what());
  }
}

std::vector<int64_t> ServedModel::encode(const std::string& text, const char* field) const {
  try {
    return tokenizer_->encode(text);
  } catch (const FormatError& error) {
    throw RequestError(400, "bad-request", field, error.what());
  }
}

GenerationInput ServedModel::prepare(OpenAiRequest request) const {
  const std::optional<ServedAdapter> adapter = adapter_of(request.model);
  if (request.request_id.empty()) {
    const RandomStream stream("request-id", entropy_);
    const uint64_t draw = draws_.fetch_add(1);
    request.request_id =
        fmt::format("{:016x}{:016x}", stream.bits(2 * draw), stream.bits(2 * draw + 1));
  }
  GenerationInput input;
  input.head = head_of(request, adapter);
  if (adapter) input.adapter = adapter->loaded.adapter;
  input.eos_ids = options_.eos_ids;
  input.request = std::move(request);
  if (input.request.is_chat)
    add_chat(input);
  else
    add_texts(input);
  complete(input);
  return input;
}

AnswerHead ServedModel::head_of(const OpenAiRequest& request,
                                const std::optional<ServedAdapter>& adapter) const {
  return {.is_chat = request.is_chat,
          .id = (request.is_chat ? "chatcmpl-" : "cmpl-") + request.request_id,
          .created = seconds_since_epoch(),
          .model = adapter ? adapter->name : options_.model_names.front(),
          .fingerprint = net::answer_fingerprint(engine_->weight_version(),
                                                 adapter ? adapter->loaded.digest : "")};
}

void ServedModel::add_chat(GenerationInput& input) const {
  const OpenAiRequest& request = input.request;
  text::EncodedPrompt prompt = render(request.chat);
  input.response_prefix = prompt.response_prefix;
  // A rollout's text is not parted.
  input.dialect.thinking =
      text::thinking_start(has_thoughts_ && !request.is_rollout, prompt.response_prefix);
  input.dialect.tools = tools_;
  if (request.tool_choice == ToolChoice::kRequired || request.tool_choice == ToolChoice::kNamed) {
    if (tools_ == text::ToolDialect::kNone)
      throw RequestError(400, "not-supported", "tool_choice",
                         "expected a model whose chat template writes calls of tools, this one's "
                         "does not");
    input.dialect.opening = text::tool_call_opening(tools_, request.tool_name);
    // A thought that the template has opened is closed: the answer is the call.
    const bool is_open = input.dialect.thinking == text::ThinkingStart::kOpen;
    prompt = render(request.chat, (is_open ? "\n</think>\n\n" : "") + input.dialect.opening);
  }
  input.prompts.push_back({.ids = std::move(prompt.ids), .text = std::move(prompt.text)});
}

void ServedModel::add_texts(GenerationInput& input) const {
  for (PromptInput& given : input.request.prompts) {
    GenerationPrompt& prompt = input.prompts.emplace_back();
    if (auto* ids = std::get_if<std::vector<int64_t>>(&given)) {
      prompt.ids = std::move(*ids);
      if (input.request.echo) prompt.text = tokenizer_->decode(prompt.ids);
    } else {
      prompt.text = std::move(std::get<std::string>(given));
      prompt.ids = encode(prompt.text, "prompt");
    }
  }
  input.request.prompts.clear();
}

/// What of the settings depends on more than the request.
void ServedModel::complete(GenerationInput& input) const {
  const OpenAiRequest& request = input.request;
  const char* const field = request.is_chat ? "messages" : "prompt";
  for (size_t p = 0; p < input.prompts.size(); ++p) {
    GenerationPrompt& prompt = input.prompts[p];
    if (prompt.ids.empty())
      throw RequestError(400, "bad-request", field, "expected at least one token, got none");
    const int64_t room = facts().max_model_len - std::ssize(prompt.ids);
    if (room < 1)
      throw RequestError(400, "prompt-too-long", field,
                         fmt::format("expected at most {} tokens, to have room for one more, got "
                                     "{}",
                                     facts().max_model_len - 1, prompt.ids.size()));
    prompt.settings = request.settings;
    rollout::RequestSettings& settings = prompt.settings;
    // The sampler draws at least one token, also where none is shown.
    settings.max_new_tokens = std::clamp(request.max_tokens.value_or(room), int64_t{1}, room);
    settings.min_new_tokens = std::min(settings.min_new_tokens, settings.max_new_tokens);
    settings.stop_ids.insert(settings.stop_ids.end(), options_.eos_ids.begin(),
                             options_.eos_ids.end());
    // Without a seed each prompt has one of its own, so that equal prompts get unequal answers.
    settings.seed =
        request.seed.value_or(RandomStream("request-seed", entropy_).bits(draws_.fetch_add(1)));
    prompt.engine_id =
        input.prompts.size() == 1 ? input.head.id : fmt::format("{}-{}", input.head.id, p);
  }
}

}  // namespace lockstep::serve
