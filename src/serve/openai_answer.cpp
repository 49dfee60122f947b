// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_answer.h"

#include <array>
#include <utility>

#include <fmt/format.h>

#include "net/number_block.h"
#include "serve/json_text.h"

namespace lockstep::serve {
namespace {

void append_calls(std::string& out, const ChoiceState& choice, bool is_stream) {
  out += ",\"tool_calls\":[";
  for (size_t i = 0; i < choice.delta.calls.size(); ++i) {
    const text::ToolCall& call = choice.delta.calls[i];
    out += i > 0 ? ",{" : "{";
    if (is_stream) {
      out += "\"index\":";
      append_json_integer(out, choice.calls_before + static_cast<int64_t>(i));
      out += ',';
    }
    out += "\"id\":";
    append_json_text(out, choice.call_ids.at(i));
    out += ",\"type\":\"function\",\"function\":{\"name\":";
    append_json_text(out, call.name);
    out += ",\"arguments\":";
    append_json_text(out, call.arguments);
    out += "}}";
  }
  out += ']';
}

/// Both names: vLLM's former one, which most clients read, and its present one.
void append_reasoning(std::string& out, const std::string& reasoning) {
  const std::string text = json_text(reasoning);
  out += ",\"reasoning_content\":" + text + ",\"reasoning\":" + text;
}

/// The message of a whole answer.
void append_message(std::string& out, const ChoiceState& choice) {
  const ChoiceDelta& delta = choice.delta;
  out += "\"message\":{\"role\":\"assistant\",\"content\":";
  if (delta.content.empty() && (!delta.calls.empty() || !delta.reasoning.empty()))
    out += "null";
  else
    append_json_text(out, delta.content);
  out += ",\"refusal\":null";
  if (!delta.reasoning.empty()) append_reasoning(out, delta.reasoning);
  if (!delta.calls.empty()) append_calls(out, choice, /*is_stream=*/false);
  out += '}';
}

/// What is new in a stream's message.
void append_delta(std::string& out, const ChoiceState& choice) {
  const ChoiceDelta& delta = choice.delta;
  std::string members;
  if (!delta.reasoning.empty()) append_reasoning(members, delta.reasoning);
  if (!delta.content.empty() || delta.is_empty()) {
    members += ",\"content\":";
    append_json_text(members, delta.content);
  }
  if (!delta.calls.empty()) append_calls(members, choice, /*is_stream=*/true);
  out += "\"delta\":{" + members.substr(1) + '}';
}

void append_ids(std::string& out,
                std::string_view name,
                const std::optional<std::vector<int64_t>>& ids) {
  if (!ids) return;
  out += ",\"";
  out += name;
  out += "\":";
  append_json_ids(out, *ids);
}

void append_versions(std::string& out, const std::vector<VersionSpan>& spans) {
  out += ",\"weight_versions\":[";
  for (size_t i = 0; i < spans.size(); ++i) {
    out += i > 0 ? ",{\"version\":" : "{\"version\":";
    append_json_text(out, spans[i].version);
    out += ",\"start\":";
    append_json_integer(out, spans[i].begin);
    out += ",\"end\":";
    append_json_integer(out, spans[i].end);
    out += '}';
  }
  out += ']';
}

void append_experts(std::string& out,
                    std::string_view prefix,
                    const std::shared_ptr<const rollout::RoutedExperts>& experts) {
  if (!experts) return;
  const std::array<int64_t, 3> shape{experts->tokens(), experts->layers, experts->chosen};
  out += fmt::format(R"(,"{}routed_experts":{})", prefix,
                     net::number_block_text<int32_t>(shape, experts->ids));
  if (!experts->weights.empty())
    out += fmt::format(R"(,"{}routed_weights":{})", prefix,
                       net::number_block_text<float>(shape, experts->weights));
}

/// What stands behind a choice's text.
void append_rest(std::string& out, const ChoiceState& choice) {
  out += ",\"logprobs\":";
  out += choice.logprobs.empty() ? "null" : choice.logprobs;
  out += ",\"finish_reason\":";
  const bool has_reason = choice.end && !choice.end->finish_reason.empty();
  out += has_reason ? json_text(choice.end->finish_reason) : "null";
  if (choice.end) out += ",\"stop_reason\":" + choice.end->stop_reason;
  append_ids(out, "token_ids", choice.token_ids);
  if (choice.versions) append_versions(out, *choice.versions);
  append_experts(out, "", choice.experts);
  append_experts(out, "prompt_", choice.prompt_experts);
  if (choice.processed_logprobs.empty()) return;
  out += ",\"processed_logprobs\":";
  for (size_t i = 0; i < choice.processed_logprobs.size(); ++i) {
    out += i > 0 ? ',' : '[';
    append_json_float(out, choice.processed_logprobs[i]);
  }
  out += ']';
}

void append_usage_object(std::string& out, const TokenUsage& usage) {
  out += "\"usage\":{\"prompt_tokens\":";
  append_json_integer(out, usage.prompt_tokens);
  out += ",\"completion_tokens\":";
  append_json_integer(out, usage.completion_tokens);
  out += ",\"total_tokens\":";
  append_json_integer(out, usage.prompt_tokens + usage.completion_tokens);
  out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  append_json_integer(out, usage.cached_tokens);
  out += "}}";
}

/// The members that all answers begin with.
std::string head_text(const AnswerHead& head, std::string_view object) {
  std::string text =
      "{\"id\":" + json_text(head.id) + ",\"object\":" + json_text(object) + ",\"created\":";
  append_json_integer(text, head.created);
  return text + ",\"model\":" + json_text(head.model) +
         ",\"system_fingerprint\":" + json_text(head.fingerprint) + ",\"choices\":[";
}

}  // namespace

AnswerWriter::AnswerWriter(AnswerHead head)
    : head_(std::move(head)),
      event_begin_("data: " +
                   head_text(head_, head_.is_chat ? "chat.completion.chunk" : "text_completion")) {}

std::string AnswerWriter::whole(const std::vector<ChoiceState>& choices,
                                const TokenUsage& usage) const {
  std::string out = head_text(head_, head_.is_chat ? "chat.completion" : "text_completion");
  for (const ChoiceState& choice : choices) {
    out += choice.index > 0 ? ",{\"index\":" : "{\"index\":";
    append_json_integer(out, choice.index);
    out += ',';
    if (head_.is_chat) {
      append_message(out, choice);
    } else {
      out += "\"text\":";
      append_json_text(out, choice.delta.content);
    }
    append_rest(out, choice);
    if (!head_.is_chat) {
      append_ids(out, "prompt_token_ids", choice.prompt_token_ids);
      if (!choice.prompt_logprobs.empty()) out += ",\"prompt_logprobs\":" + choice.prompt_logprobs;
    }
    out += '}';
  }
  out += "],";
  append_usage_object(out, usage);
  // A chat has one prompt.
  if (head_.is_chat) {
    append_ids(out, "prompt_token_ids", choices.at(0).prompt_token_ids);
    if (!choices[0].prompt_logprobs.empty())
      out += ",\"prompt_logprobs\":" + choices[0].prompt_logprobs;
  }
  return out + '}';
}

void AnswerWriter::append_event(std::string& out,
                                const ChoiceState& choice,
                                const std::optional<TokenUsage>& usage) const {
  out += event_begin_;
  out += "{\"index\":";
  append_json_integer(out, choice.index);
  out += ',';
  if (head_.is_chat) {
    append_delta(out, choice);
  } else {
    out += "\"text\":";
    append_json_text(out, choice.delta.content);
  }
  append_rest(out, choice);
  if (!head_.is_chat) append_ids(out, "prompt_token_ids", choice.prompt_token_ids);
  out += "}]";
  if (usage) {
    out += ',';
    append_usage_object(out, *usage);
  }
  out += "}\n\n";
}

void AnswerWriter::append_role(std::string& out,
                               int64_t index,
                               const std::optional<std::vector<int64_t>>& prompt_token_ids,
                               const std::optional<TokenUsage>& usage) const {
  out += event_begin_;
  out += "{\"index\":";
  append_json_integer(out, index);
  out +=
      ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
      "\"finish_reason\":null}]";
  append_ids(out, "prompt_token_ids", prompt_token_ids);
  if (usage) {
    out += ',';
    append_usage_object(out, *usage);
  }
  out += "}\n\n";
}

void AnswerWriter::append_usage(std::string& out, const TokenUsage& usage) const {
  out += event_begin_;
  out += "],";
  append_usage_object(out, usage);
  out += "}\n\n";
}

void AnswerWriter::append_error(std::string& out, std::string_view body) {
  out += "data: ";
  out += body;
  out += "\n\n";
}

void AnswerWriter::append_done(std::string& out) { out += "data: [DONE]\n\n"; }

}  // namespace lockstep::serve
