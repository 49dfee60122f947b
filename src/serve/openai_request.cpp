// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_request.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "serve/chat_messages.h"
#include "serve/request_fields.h"

namespace lockstep::serve {
namespace {

constexpr std::string_view kNoGrammar =
    "answers are not held to a grammar or a schema (leave the field out and check the answer)";
constexpr std::string_view kOtherEngine = "it belongs to another engine (leave the field out)";

/// Known fields that would change the answer if they were there.
void refuse_unsupported(const RequestFields& fields) {
  fields.refuse_set({"structured_outputs", "guided_json", "guided_regex", "guided_choice",
                     "guided_grammar", "structural_tag"},
                    kNoGrammar);
  if (const auto format = fields.object("response_format")) {
    const std::string type = format->text("type").value_or("");
    if (type != "text") refuse_feature("response_format", kNoGrammar);
  }
  fields.refuse_set({"prompt_embeds", "kv_transfer_params", "ec_transfer_params", "cache_salt",
                     "logprob_token_ids", "repetition_detection", "thinking_token_budget"},
                    kOtherEngine);
  fields.refuse_set({"truncate_prompt_tokens"}, "prompts are never cut (cut it before)");
  if (fields.boolean("use_beam_search").value_or(false))
    refuse_feature("use_beam_search", "completions are sampled (set n for several)");
  for (const char* name : {"allowed_token_ids", "bad_words"})
    if (const Json* list = fields.find(name); list && !(list->is_array() && list->empty()))
      refuse_feature(name, "tokens are weighted by logit_bias");
  fields.integer("priority", 0, 0);
}

std::vector<std::string> stop_strings(const RequestFields& fields) {
  const Json* stop = fields.find("stop");
  if (!stop) return {};
  const std::string expected =
      fmt::format("a text that is not empty, or at most {} of these", kMaxStopStrings);
  std::vector<std::string> strings;
  const auto add = [&](const Json& one) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty())
      refuse_field("stop", expected, one);
    strings.push_back(one);
  };
  if (!stop->is_array()) {
    add(*stop);
    return strings;
  }
  if (stop->size() > kMaxStopStrings) refuse_field("stop", expected, *stop);
  for (const Json& one : *stop) add(one);
  return strings;
}

std::vector<std::pair<int64_t, float>> logit_bias(const RequestFields& fields, int64_t vocab_size) {
  const auto object = fields.object("logit_bias");
  if (!object) return {};
  std::vector<std::pair<int64_t, float>> bias;
  for (const auto& [name, value] : fields.find("logit_bias")->items()) {
    int64_t id = -1;
    const auto read = std::from_chars(name.data(), name.data() + name.size(), id);
    if (read.ec != std::errc() || read.ptr != name.data() + name.size() || id < 0 ||
        id >= vocab_size)
      refuse_field("logit_bias", fmt::format("ids from 0 to {} as names", vocab_size - 1), name);
    if (!value.is_number() || !Range::between(-100, 100).contains(value.get<double>()))
      refuse_field("logit_bias", "numbers from -100 to 100", value);
    bias.emplace_back(id, value.get<float>());
  }
  // One id may be written in two ways ("7", "07").
  std::sort(bias.begin(), bias.end());
  const auto twice = std::adjacent_find(
      bias.begin(), bias.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != bias.end()) refuse_field("logit_bias", "each id once", Json(twice->first));
  return bias;
}

ops::SamplingParameters sampling(const RequestFields& fields, int64_t vocab_size) {
  ops::SamplingParameters result;
  result.temperature = fields.number("temperature", Range::at_least(0)).value_or(1);
  if (result.temperature != 0) fields.number("temperature", Range::logit_factor());
  result.top_p = fields.number("top_p", Range::left_open(0, 1)).value_or(1);
  result.top_k = fields.integer("top_k", -1).value_or(-1);
  result.min_p = fields.number("min_p", Range::between(0, 1)).value_or(0);
  result.repetition_penalty =
      fields.number("repetition_penalty", Range::logit_factor()).value_or(1);
  result.presence_penalty = fields.number("presence_penalty", Range::between(-2, 2)).value_or(0);
  result.frequency_penalty = fields.number("frequency_penalty", Range::between(-2, 2)).value_or(0);
  result.logit_bias = logit_bias(fields, vocab_size);
  return result;
}

/// A number of alternatives; -1 is the whole vocabulary.
std::optional<int64_t> alternatives(const RequestFields& fields,
                                    const char* name,
                                    const RequestBounds& bounds) {
  auto count = fields.integer(name, -1);
  if (!count) return std::nullopt;
  if (*count < 0) count = bounds.vocab_size;
  if (bounds.max_logprobs >= 0 && *count > bounds.max_logprobs)
    throw RequestError(400, "bad-request", fields.field(name),
                       fmt::format("expected at most {}, got {}{} (hint: start the server with a "
                                   "larger --max_logprobs)",
                                   bounds.max_logprobs, *count,
                                   *count == bounds.vocab_size ? ", the whole vocabulary" : ""));
  return std::min(*count, bounds.vocab_size);
}

void read_seed(const RequestFields& fields, OpenAiRequest& request) {
  const Json* seed = fields.find("seed");
  if (!seed) return;
  if (!seed->is_number_integer()) refuse_field("seed", "a whole number of 64 bits", *seed);
  // A negative number is the one with the same bits.
  request.seed = seed->is_number_unsigned() ? seed->get<uint64_t>()
                                            : static_cast<uint64_t>(seed->get<int64_t>());
}

/// Whether a trainer wants to know the experts of all tokens.
void read_experts(const RequestFields& keys, const RequestBounds& bounds, OpenAiRequest& request) {
  const bool ids = keys.boolean("routed_experts").value_or(false),
             weights = keys.boolean("routed_weights").value_or(false);
  if (weights && !ids)
    refuse_field(keys.field("routed_weights"), "it only with \"routed_experts\": true", true);
  if (!ids) return;
  if (!bounds.has_experts) refuse_feature(keys.field("routed_experts"), "the model has no experts");
  if (request.is_stream)
    refuse_field(keys.field("routed_experts"), "none with \"stream\": true", true);
  request.settings.record_experts =
      weights ? rollout::RecordExperts::kIdsAndWeights : rollout::RecordExperts::kIds;
}

/// Who asks, and what a trainer wants to know and to be sure of.
void read_keys(const RequestFields& fields, const RequestBounds& bounds, OpenAiRequest& request) {
  request.model = fields.text("model").value_or("");
  read_seed(fields, request);
  if (const auto keys = fields.object("lockstep")) {
    request.occurrence = keys->unsigned_integer("occurrence").value_or(0);
    request.draw = keys->unsigned_integer("draw").value_or(0);
    read_experts(*keys, bounds, request);
  }
  request.weight_version = fields.text("weight_version");
  request.request_id = fields.text("request_id").value_or("");
  check_request_id(request.request_id, "request_id");
}

void read_stream(const RequestFields& fields, OpenAiRequest& request) {
  request.is_stream = fields.boolean("stream").value_or(false);
  const auto options = fields.object("stream_options");
  if (!options) return;
  if (!request.is_stream)
    refuse_field("stream_options", "it only with \"stream\": true", *fields.find("stream_options"));
  request.include_usage = options->boolean("include_usage").value_or(false);
  // As in vLLM they are part of the usage that is asked for.
  request.continuous_usage =
      options->boolean("continuous_usage_stats").value_or(false) && request.include_usage;
}

/// What both kinds of requests have.
void read_common(const RequestFields& fields, const RequestBounds& bounds, OpenAiRequest& request) {
  refuse_unsupported(fields);
  read_stream(fields, request);
  read_keys(fields, bounds, request);
  rollout::RequestSettings& settings = request.settings;
  settings.sampling = sampling(fields, bounds.vocab_size);
  settings.stop_strings = stop_strings(fields);
  settings.stop_ids =
      fields.ids("stop_token_ids", bounds.vocab_size).value_or(std::vector<int64_t>());
  settings.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  settings.min_new_tokens = fields.integer("min_tokens", 0).value_or(0);
  settings.prompt_logprobs = alternatives(fields, "prompt_logprobs", bounds);
  if (request.is_stream && settings.prompt_logprobs.value_or(0) > 0)
    refuse_field("prompt_logprobs", "none with \"stream\": true", *fields.find("prompt_logprobs"));
  request.num_samples = fields.integer("n", 1, kMaxSamples).value_or(1);
  if (request.num_samples > 1 && settings.sampling.temperature == 0)
    refuse_field("n", "1 with temperature 0, where all completions are equal",
                 Json(request.num_samples));
  request.include_stop_string = fields.boolean("include_stop_str_in_output").value_or(false);
  request.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  fields.boolean("spaces_between_special_tokens");
  fields.boolean("add_special_tokens");
  request.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  request.tokens_as_ids = fields.boolean("return_tokens_as_token_ids").value_or(false);
}

/// After the number of tokens is known.
void check_lengths(const RequestFields& fields, const OpenAiRequest& request) {
  if (request.max_tokens && request.settings.min_new_tokens > *request.max_tokens)
    refuse_field("min_tokens", fmt::format("at most max_tokens, which is {}", *request.max_tokens),
                 *fields.find("min_tokens"));
}

std::vector<PromptInput> prompts(const RequestFields& fields, int64_t vocab_size) {
  constexpr std::string_view kExpected =
      "a text, a list of texts, a list of ids, or a list of lists of ids";
  const Json* prompt = fields.find("prompt");
  if (!prompt) refuse_field("prompt", kExpected, nullptr);
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) refuse_field("prompt", kExpected, *prompt);
  const Json& first = prompt->front();
  if (first.is_number()) return {ids_of_request(*prompt, vocab_size, "prompt")};
  if (std::ssize(*prompt) > kMaxPrompts)
    refuse_field("prompt", fmt::format("at most {} prompts", kMaxPrompts), *prompt);
  std::vector<PromptInput> list;
  for (const Json& one : *prompt) {
    if (one.is_string() && first.is_string())
      list.emplace_back(one.get<std::string>());
    else if (one.is_array() && first.is_array())
      list.emplace_back(ids_of_request(one, vocab_size, "prompt"));
    else
      refuse_field("prompt", kExpected, one);
  }
  return list;
}

ToolChoice tool_choice(const RequestFields& fields, OpenAiRequest& request) {
  const Json* choice = fields.find("tool_choice");
  const Json& tools = request.chat.tools;
  if (!choice) return tools.is_null() ? ToolChoice::kNone : ToolChoice::kAuto;
  if (*choice == "none") return ToolChoice::kNone;
  if (tools.is_null()) refuse_field("tool_choice", "it only with tools", *choice);
  if (*choice == "auto") return ToolChoice::kAuto;
  if (*choice == "required") return ToolChoice::kRequired;
  if (!choice->is_object())
    refuse_field("tool_choice",
                 R"("none", "auto", "required" or {"type": "function", "function": {"name": …}})",
                 *choice);
  const RequestFields named(*choice, "tool_choice");
  const auto function = named.object("function");
  if (!function || named.text("type").value_or("function") != "function")
    refuse_field("tool_choice", R"({"type": "function", "function": {"name": …}})", *choice);
  request.tool_name = function->text("name").value_or("");
  if (!has_tool(tools, request.tool_name))
    refuse_field("tool_choice.function.name", "the name of one of the tools", request.tool_name);
  return ToolChoice::kNamed;
}

void read_chat_answer(const RequestFields& fields, OpenAiRequest& request) {
  request.tool_choice = tool_choice(fields, request);
  request.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  request.include_reasoning = fields.boolean("include_reasoning").value_or(true);
  if (fields.boolean("echo").value_or(false))
    refuse_feature("echo", "the prompt of a chat is not shown");
  if (const Json* modalities = fields.find("modalities");
      modalities && *modalities != Json::array({"text"}))
    refuse_feature("modalities", "answers are text");
  fields.refuse_set({"audio", "prediction", "web_search_options", "functions", "function_call"},
                    "use messages and tools");
}

}  // namespace

void check_request_id(const std::string& id, const std::string& field) {
  constexpr size_t kLongestId = 128;
  const bool is_visible =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!is_visible || id.size() > kLongestId)
    refuse_field(field, fmt::format("at most {} visible characters of ASCII", kLongestId), id);
}

ChatInput parse_chat_input(const Json& request) {
  const RequestFields fields(request);
  ChatInput chat;
  const Json* messages = fields.find("messages");
  chat.messages = checked_messages(messages ? *messages : Json());
  if (const Json* tools = fields.find("tools")) {
    check_tools(*tools);
    chat.tools = *tools;
  }
  fields.refuse_set({"chat_template"}, "chats are written by the model's own template");
  if (const Json* documents = fields.find("documents"); documents && !documents->empty())
    refuse_feature("documents", "put them into a message");
  if (fields.object("chat_template_kwargs")) chat.variables = *fields.find("chat_template_kwargs");
  for (const char* name : {"messages", "tools", "add_generation_prompt", "documents"})
    if (chat.variables.contains(name))
      refuse_field(fmt::format("chat_template_kwargs.{}", name), "it beside chat_template_kwargs",
                   chat.variables[name]);
  if (const auto effort = fields.text("reasoning_effort")) {
    // As in vLLM: asking for effort asks for thinking.
    if (!chat.variables.contains("enable_thinking"))
      chat.variables["enable_thinking"] = *effort != "none";
    if (!chat.variables.contains("reasoning_effort")) chat.variables["reasoning_effort"] = *effort;
  }
  const bool continues = fields.boolean("continue_final_message").value_or(false);
  const bool asks = fields.boolean("add_generation_prompt").value_or(!continues);
  if (continues && asks)
    refuse_field("continue_final_message", "it only without add_generation_prompt", Json(true));
  chat.end = continues ? text::PromptEnd::kContinued
             : asks    ? text::PromptEnd::kGenerationPrompt
                       : text::PromptEnd::kNone;
  return chat;
}

OpenAiRequest parse_completion_request(std::string_view body, const RequestBounds& bounds) {
  const Json json = parse_body(body);
  const RequestFields fields(json);
  OpenAiRequest request;
  read_common(fields, bounds, request);
  request.prompts = prompts(fields, bounds.vocab_size);
  const int64_t most = kMaxChoices / std::ssize(request.prompts);
  if (request.num_samples > most)
    refuse_field("n", fmt::format("at most {} completions of all prompts together", kMaxChoices),
                 Json(request.num_samples * std::ssize(request.prompts)));
  if (const auto best_of = fields.integer("best_of", 1); best_of && *best_of != request.num_samples)
    refuse_field("best_of", "the same number as n", Json(*best_of));
  fields.refuse_set({"suffix"}, "text is continued, not filled in");
  request.echo = fields.boolean("echo").value_or(false);
  constexpr int64_t kDefaultMaxTokens = 16;
  request.max_tokens =
      fields.integer("max_tokens", request.echo ? 0 : 1).value_or(kDefaultMaxTokens);
  check_lengths(fields, request);
  const auto logprobs = alternatives(fields, "logprobs", bounds);
  request.logprobs = logprobs.has_value();
  request.settings.top_logprobs = logprobs.value_or(0);
  if (request.echo && logprobs && !request.settings.prompt_logprobs)
    request.settings.prompt_logprobs = logprobs;
  return request;
}

OpenAiRequest parse_chat_request(std::string_view body, const RequestBounds& bounds) {
  return read_chat_request(parse_body(body), bounds);
}

OpenAiRequest read_chat_request(const Json& json, const RequestBounds& bounds) {
  const RequestFields fields(json);
  OpenAiRequest request;
  request.is_chat = true;
  read_common(fields, bounds, request);
  request.chat = parse_chat_input(json);
  read_chat_answer(fields, request);
  request.max_tokens = fields.integer("max_tokens", 1);
  if (const auto tokens = fields.integer("max_completion_tokens", 1)) request.max_tokens = tokens;
  check_lengths(fields, request);
  request.logprobs = fields.boolean("logprobs").value_or(false);
  const auto top = alternatives(fields, "top_logprobs", bounds);
  if (top.value_or(0) > 0 && !request.logprobs)
    refuse_field("top_logprobs", "it only with \"logprobs\": true", Json(*top));
  if (request.logprobs) request.settings.top_logprobs = top.value_or(0);
  return request;
}

TokenizeRequest parse_tokenize_request(std::string_view body) {
  const Json json = parse_body(body);
  const RequestFields fields(json);
  TokenizeRequest request;
  request.model = fields.text("model").value_or("");
  request.return_token_strs = fields.boolean("return_token_strs").value_or(false);
  fields.boolean("add_special_tokens");
  if (fields.find("messages")) {
    request.input = parse_chat_input(json);
    return request;
  }
  auto prompt = fields.text("prompt");
  if (!prompt) refuse_field("prompt", "a text (or messages)", nullptr);
  request.input = std::move(*prompt);
  return request;
}

DetokenizeRequest parse_detokenize_request(std::string_view body, const RequestBounds& bounds) {
  const Json json = parse_body(body);
  const RequestFields fields(json);
  DetokenizeRequest request;
  request.model = fields.text("model").value_or("");
  auto tokens = fields.ids("tokens", bounds.vocab_size);
  if (!tokens) refuse_field("tokens", "a list of ids", nullptr);
  request.tokens = std::move(*tokens);
  return request;
}

}  // namespace lockstep::serve
