// SPDX-License-Identifier: Apache-2.0
#include "serve/logprob_text.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "serve/json_text.h"

namespace lockstep::serve {
namespace {

void append_separator(std::string& list) {
  if (!list.empty()) list += ',';
}

/// The raw bytes of a token as a list of numbers.
void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    append_json_integer(out, static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

std::string TokenNames::of(int64_t id) const {
  if (!as_ids) return tokenizer->decode({&id, 1});
  std::string name = "token_id:";
  append_json_integer(name, id);
  return name;
}

void LogprobText::add(const rollout::ScoredToken& token) {
  if (form_ == Form::kChat)
    add_chat(token);
  else
    add_completion(token);
}

void LogprobText::append_name(const std::string& name) {
  append_separator(tokens_);
  append_json_text(tokens_, name);
  append_separator(offsets_);
  append_json_integer(offsets_, offset_);
  offset_ += count_characters(name);
}

void LogprobText::add_first(int64_t id) {
  append_name(names_.of(id));
  append_separator(logprobs_);
  logprobs_ += "null";
  append_separator(top_);
  top_ += "null";
}

/// The token itself stands among its alternatives, as in vLLM. Tokens of one name are told once,
/// the likeliest of them: a JSON object has each name once.
void LogprobText::add_completion(const rollout::ScoredToken& token) {
  const std::string name = names_.of(token.token.id);
  append_name(name);
  append_separator(logprobs_);
  append_json_float(logprobs_, token.token.logprob);
  append_separator(top_);
  std::unordered_set<std::string> told;
  const auto tell = [&](std::string&& alternative, float logprob) {
    if (told.contains(alternative)) return;
    top_ += told.empty() ? '{' : ',';
    append_json_text(top_, alternative);
    top_ += ':';
    append_json_float(top_, logprob);
    told.insert(std::move(alternative));
  };
  for (const rollout::TokenLogprob& one : token.top) tell(names_.of(one.id), one.logprob);
  tell(std::string(name), token.token.logprob);
  top_ += '}';
}

void LogprobText::add_chat(const rollout::ScoredToken& token) {
  const auto append = [&](const rollout::TokenLogprob& one) {
    tokens_ += "{\"token\":";
    append_json_text(tokens_, names_.of(one.id));
    tokens_ += ",\"logprob\":";
    append_json_float(tokens_, one.logprob);
    tokens_ += ",\"bytes\":";
    append_bytes(tokens_, names_.tokenizer->bytes_of(one.id));
  };
  append_separator(tokens_);
  append(token.token);
  tokens_ += ",\"top_logprobs\":[";
  for (size_t i = 0; i < token.top.size(); ++i) {
    if (i > 0) tokens_ += ',';
    append(token.top[i]);
    tokens_ += '}';
  }
  tokens_ += "]}";
}

std::string LogprobText::take() {
  const auto list = [](std::string& elements) {
    std::string text = "[" + elements + "]";
    elements.clear();
    return text;
  };
  if (form_ == Form::kChat) return "{\"content\":" + list(tokens_) + "}";
  return "{\"tokens\":" + list(tokens_) + ",\"token_logprobs\":" + list(logprobs_) +
         ",\"top_logprobs\":" + list(top_) + ",\"text_offset\":" + list(offsets_) + "}";
}

std::string prompt_logprobs_text(std::span<const rollout::ScoredToken> tokens,
                                 const text::Tokenizer& tokenizer) {
  const TokenNames names{.tokenizer = &tokenizer};
  std::string out = "[null";
  for (size_t i = 1; i < tokens.size(); ++i) {
    out += ",{";
    const auto append = [&](const rollout::TokenLogprob& one) {
      if (!out.ends_with('{')) out += ',';
      out += '"';
      append_json_integer(out, one.id);
      out += "\":{\"logprob\":";
      append_json_float(out, one.logprob);
      out += ",\"rank\":";
      if (one.rank > 0)
        append_json_integer(out, one.rank);
      else
        out += "null";
      out += ",\"decoded_token\":";
      append_json_text(out, names.of(one.id));
      out += '}';
    };
    append(tokens[i].token);
    for (const rollout::TokenLogprob& one : tokens[i].top)
      if (one.id != tokens[i].token.id) append(one);
    out += '}';
  }
  return out + "]";
}

}  // namespace lockstep::serve
