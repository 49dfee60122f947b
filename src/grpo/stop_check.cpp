// SPDX-License-Identifier: Apache-2.0
#include "grpo/stop_check.h"

#include <algorithm>
#include <optional>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::grpo {
namespace {

/// The answers of this many rows are looked at.
constexpr size_t kRows = 100;

bool can_be_sampled(int64_t id, const StopSettings& settings) {
  return id >= 0 && id < settings.vocab_size;
}

/// The ids behind the content of an assistant's turn, as the template writes one; unset where it
/// cannot be found there.
std::optional<std::vector<int64_t>> ids_behind_turn(const text::ChatEncoder& encoder) {
  const std::string answer = "lockstep";
  const Json messages = Json::array(
      {{{"role", "user"}, {"content", "?"}}, {{"role", "assistant"}, {"content", answer}}});
  try {
    const text::Tokenizer& tokenizer = encoder.tokenizer();
    const std::string text = tokenizer.decode(encoder.encode({.messages = &messages}));
    const size_t at = text.rfind(answer);
    if (at == std::string::npos) return std::nullopt;
    return tokenizer.encode(text.substr(at + answer.size()));
  } catch (const FormatError&) {
    // A template may refuse this conversation; its own rows say what is wrong with it.
    return std::nullopt;
  }
}

/// The text that a row has for an answer; "" where it has none.
std::string answer_of(const Prompt& prompt) {
  const Json& messages = prompt.row->messages;
  if (messages.is_array() && !messages.empty() && messages.back().value("role", "") == "assistant")
    if (const Json content = messages.back().value("content", Json()); content.is_string())
      return content.get<std::string>();
  const Json& columns = prompt.row->columns;
  if (!columns.is_object() || !columns.contains("solution")) return "";
  return columns["solution"].is_string() ? columns["solution"].get<std::string>() : "";
}

std::optional<std::string> long_answers(const StopSettings& settings,
                                        const text::ChatEncoder& encoder,
                                        std::span<const Prompt> prompts) {
  std::vector<int64_t> lengths;
  for (const Prompt& prompt : prompts.first(std::min(prompts.size(), kRows)))
    if (const std::string answer = answer_of(prompt); !answer.empty())
      lengths.push_back(std::ssize(encoder.tokenizer().encode(answer)));
  const auto longer = std::count_if(lengths.begin(), lengths.end(), [&](int64_t length) {
    return length >= settings.max_completion_length;
  });
  if (2 * longer <= std::ssize(lengths)) return std::nullopt;
  return fmt::format(
      "--max_completion_length {} cuts completions off: the answers of {} of {} rows have as many "
      "tokens or more, up to {}",
      settings.max_completion_length, longer, lengths.size(),
      *std::max_element(lengths.begin(), lengths.end()));
}

}  // namespace

std::vector<std::string> stop_warnings(const StopSettings& settings,
                                       const text::ChatEncoder& encoder,
                                       std::span<const Prompt> prompts) {
  std::vector<std::string> warnings;
  const auto& stops = settings.stop_ids;
  const bool has_stop = std::any_of(stops.begin(), stops.end(),
                                    [&](int64_t id) { return can_be_sampled(id, settings); });
  if (!has_stop && settings.stop_words.empty())
    warnings.push_back(fmt::format(
        "no completion can end by itself: {}, and there is no --stop_words (hint: eos_token_id in "
        "the checkpoint's generation_config.json)",
        stops.empty() ? std::string("the checkpoint names no end token")
                      : fmt::format("its end tokens ({}) are none of the {} that the model has",
                                    fmt::join(stops, ", "), settings.vocab_size)));
  const auto behind = ids_behind_turn(encoder);
  if (has_stop && behind) {
    const auto is_stop = [&](int64_t id) {
      return std::find(stops.begin(), stops.end(), id) != stops.end();
    };
    if (behind->empty())
      warnings.push_back(
          "the chat template writes nothing behind an assistant's turn, so that a model that "
          "follows it does not end its completions");
    else if (std::none_of(behind->begin(), behind->end(), is_stop))
      warnings.push_back(fmt::format(
          "the chat template ends an assistant's turn with {}, which holds no end token ({}): a "
          "model that follows it does not end its completions (hint: --stop_words, or eos_token_id "
          "in the checkpoint's generation_config.json)",
          dump_json(Json(encoder.tokenizer().decode(*behind))), fmt::join(stops, ", ")));
  }
  if (auto warning = long_answers(settings, encoder, prompts))
    warnings.push_back(std::move(*warning));
  return warnings;
}

}  // namespace lockstep::grpo
