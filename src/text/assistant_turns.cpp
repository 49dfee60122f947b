// SPDX-License-Identifier: Apache-2.0
#include "text/assistant_turns.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::text {
namespace {

/// Characters of the private use area: no template looks for them, and no trim takes them away.
constexpr std::string_view kOpen = "\uE0F0", kClose = "\uE0F1";
constexpr std::string_view kEndOfThinking = "</think>";
constexpr std::string_view kBlank = " \t\r\n";

bool is_assistant(const Json& message) { return message.value("role", Json()) == "assistant"; }

/// The value of a training key; null if the message does not have it.
Json training_key(const Json& message, const char* key) {
  const auto found = message.find(key);
  return found == message.end() ? Json() : *found;
}

[[noreturn]] void refuse_key(const char* key, size_t index, const char* expected, const Json& got) {
  fail<FormatError>("bad-row", "messages", "expected {} in {} of message {}, got {}", expected, key,
                    index + 1, dump_json(got));
}

/// What `loss` and `train` say: trained, not trained, or nothing.
std::optional<bool> spoken_choice(const Json& message, size_t index) {
  std::optional<bool> choice;
  if (const Json detail = training_key(message, "train_detail");
      detail.is_structured() && !detail.empty())
    fail<FormatError>("bad-row", "messages",
                      "expected a whole turn to be trained on or not, got train_detail in message "
                      "{} (hint: train on such a row as input_ids and completion_mask)",
                      index + 1);
  for (const char* key : {"loss", "train"}) {
    const Json value = training_key(message, key);
    if (value.is_null()) continue;
    // In Python 0 and 1 equal False and True.
    const bool is_number = value.is_number_integer() && (value == 0 || value == 1);
    if (!value.is_boolean() && !is_number) refuse_key(key, index, "true or false", value);
    choice = (value == true || value == 1) && choice.value_or(true);
  }
  return choice;
}

float spoken_factor(const Json& message, size_t index) {
  double factor = 1;
  for (const char* key : {"loss_scale", "weight"}) {
    const Json value = training_key(message, key);
    if (value.is_null()) continue;
    if (!value.is_number() || !(value.get<double>() >= 0) || !std::isfinite(value.get<double>()))
      refuse_key(key, index, "a number of at least 0", value);
    factor *= value.get<double>();
  }
  return static_cast<float>(factor);
}

/// The first assistant message of the last round.
size_t last_round(const Json& messages) {
  size_t first = messages.size();
  for (size_t i = messages.size(); i-- > 0;) {
    if (is_assistant(messages[i])) {
      first = i;
    } else if (first < messages.size()) {
      const Json role = messages[i].value("role", Json());
      if (role == "user" || role == "tool") break;
    }
  }
  return first;
}

/// Whether the assistant says anything that a template could write.
bool has_words(const Json& message) {
  for (const char* key : {"content", "tool_calls", "reasoning_content", "reasoning", "thinking"}) {
    const Json value = training_key(message, key);
    if (value.is_structured() ? !value.empty() : value.is_string() && value != "") return true;
  }
  return false;
}

/// Where the answer stands in the content of a message: behind its reasoning, without the blanks
/// that templates trim. Empty where there is none.
std::pair<size_t, size_t> answer_of(const std::string& content) {
  const size_t thinking = content.rfind(kEndOfThinking);
  const size_t begin = content.find_first_not_of(
      kBlank, thinking == content.npos ? 0 : thinking + kEndOfThinking.size());
  if (begin == content.npos) return {0, 0};
  return {begin, content.find_last_not_of(kBlank) + 1};
}

/// A turn that says nothing is anchored only where it is trained on: a template may look at whether
/// the content is empty.
bool is_anchored(const Json& message, float weight) {
  if (!is_assistant(message)) return false;
  const auto content = message.find("content");
  if (content == message.end() || !content->is_string()) return false;
  if (weight != 0) return true;
  const auto [begin, end] = answer_of(content->get_ref<const std::string&>());
  return begin < end;
}

/// A text without its anchors, and where they stood, in order.
struct Anchors {
  std::string text;
  /// Where an opening anchor stood, and the closing one behind it.
  std::vector<std::pair<size_t, size_t>> places;
};

std::optional<Anchors> take_anchors(std::string_view anchored) {
  Anchors result;
  bool is_open = false;
  for (size_t at = 0; at < anchored.size();) {
    const std::string_view expected = is_open ? kClose : kOpen;
    const std::string_view rest = anchored.substr(at);
    if (rest.starts_with(is_open ? kOpen : kClose)) return std::nullopt;
    if (!rest.starts_with(expected)) {
      result.text += anchored[at++];
      continue;
    }
    if (is_open)
      result.places.back().second = result.text.size();
    else
      result.places.emplace_back(result.text.size(), 0);
    is_open = !is_open;
    at += expected.size();
  }
  if (is_open) return std::nullopt;
  return result;
}

}  // namespace

std::span<const EnumName<LossTurns>> enum_names(LossTurns) {
  static constexpr EnumName<LossTurns> kNames[] = {{LossTurns::kAll, "default"},
                                                   {LossTurns::kLast, "last_round"}};
  return kNames;
}

std::vector<float> message_weights(const Json& messages, LossTurns turns) {
  std::vector<float> weights(messages.size(), 0);
  const size_t first = turns == LossTurns::kLast ? last_round(messages) : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!is_assistant(message)) continue;
    const bool is_trained = spoken_choice(message, i).value_or(i >= first);
    const float factor = spoken_factor(message, i);
    if (is_trained) weights[i] = factor;
  }
  return weights;
}

GenerationPrompt::GenerationPrompt(const std::vector<std::string>& texts) {
  for (const std::string& text : texts)
    if (!text.empty()) forms_.push_back(form_of(text));
  forms_.push_back(form_of(std::string(kAssistantHeader)));
}

GenerationPrompt::Form GenerationPrompt::form_of(std::string text) {
  // Some templates end the turn before in the prompt.
  if (const size_t at = text.rfind(kAssistantHeader); at != text.npos)
    return {text.substr(at), std::string(kAssistantHeader)};
  const size_t cut = text.find_first_of(">]\n");
  std::string header = cut == text.npos ? text : text.substr(0, cut + 1);
  return {std::move(text), std::move(header)};
}

/// Offset of the words in a text that begins with the header.
size_t GenerationPrompt::Form::words_begin(std::string_view turn) const {
  if (turn.starts_with(text)) return text.size();
  if (header == kAssistantHeader) return header.size();
  // Another family's header: what turn and prompt share, in whole lines and bracketed tokens.
  size_t shared = 0;
  while (shared < std::min(turn.size(), text.size()) && turn[shared] == text[shared]) ++shared;
  while (shared > header.size() &&
         std::string_view(">]\n").find(turn[shared - 1]) == std::string_view::npos)
    --shared;
  return shared;
}

size_t GenerationPrompt::words_begin(std::string_view turn) const {
  for (const Form& form : forms_) {
    // Not always at the front: a default system prompt may be written for the first message.
    const size_t at = turn.find(form.header);
    if (at != turn.npos) return at + form.words_begin(turn.substr(at));
  }
  return 0;
}

std::optional<size_t> GenerationPrompt::words_begin(std::string_view text,
                                                    size_t turn,
                                                    size_t answer) const {
  for (const Form& form : forms_) {
    const size_t at = text.substr(0, answer).rfind(form.header);
    if (at != text.npos && at >= turn)
      return std::min(answer, at + form.words_begin(text.substr(at)));
  }
  // ChatML's header is no claim about this template.
  return forms_.size() > 1 ? std::nullopt : std::optional(answer);
}

/// The end token that nothing but blanks stand behind: what the assistant says may hold such tokens
/// itself.
size_t TurnFinder::last_words_end(std::string_view turn, size_t from) const {
  const size_t end = turn.find_last_not_of(kBlank);
  if (end == turn.npos) return turn.npos;
  const std::string_view words = turn.substr(0, end + 1);
  for (const std::string_view token : {kEndOfTurn, end_token_})
    if (!token.empty() && words.ends_with(token) && words.size() >= from + token.size())
      return words.size();
  return turn.npos;
}

size_t TurnFinder::words_end(std::string_view text, size_t from, size_t limit) const {
  for (const std::string_view end : {kEndOfTurn, end_token_}) {
    const size_t at = end.empty() ? text.npos : text.find(end, from);
    if (at != text.npos && at + end.size() <= limit) return at + end.size();
  }
  return text.npos;
}

std::optional<std::vector<TrainedSpan>> TurnFinder::by_loop(const RenderedChat& chat) const {
  std::vector<TrainedSpan> spans;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    const auto is_own = [&](const ChatPart& part) {
      return part.message == static_cast<int64_t>(i);
    };
    const auto count = std::count_if(chat.turns.begin(), chat.turns.end(), is_own);
    // If a turn is written in no pass of a loop, or in several, the loop does not say where it is.
    if (count == 0 && !has_words(messages_[i])) continue;
    if (count != 1) return std::nullopt;
    const ChatPart part = *std::find_if(chat.turns.begin(), chat.turns.end(), is_own);
    const std::string_view turn =
        std::string_view(chat.text).substr(part.begin, part.end - part.begin);
    const size_t begin = prompt_.words_begin(turn);
    size_t end = last_words_end(turn, begin);
    if (end == turn.npos) end = std::min(words_end(turn, begin, turn.size()), turn.size());
    if (begin < end) spans.push_back({part.begin + begin, part.begin + end, weights_[i]});
  }
  std::sort(spans.begin(), spans.end(),
            [](const TrainedSpan& a, const TrainedSpan& b) { return a.begin < b.begin; });
  return spans;
}

Json TurnFinder::anchored_messages() const {
  Json messages = messages_;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_anchored(messages[i], weights_[i])) continue;
    auto& content = messages[i]["content"].get_ref<std::string&>();
    const auto [begin, end] = answer_of(content);
    content.insert(end, kClose);
    content.insert(begin, kOpen);
  }
  return messages;
}

std::optional<std::vector<TrainedSpan>> TurnFinder::by_anchors(std::string_view text,
                                                               std::string_view anchored) const {
  const auto anchors = take_anchors(anchored);
  // The template wrote something else because of the anchors, or has such characters of its own.
  if (!anchors || anchors->text != text) return std::nullopt;
  std::vector<TrainedSpan> spans;
  size_t place = 0, done = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (!is_anchored(messages_[i], weights_[i])) {
      if (weights_[i] != 0) return std::nullopt;
      continue;
    }
    if (place == anchors->places.size()) return std::nullopt;
    const auto [open, close] = anchors->places[place++];
    const size_t next = place < anchors->places.size() ? anchors->places[place].first : text.size();
    const auto begin = prompt_.words_begin(text, done, open);
    if (!begin) return std::nullopt;
    const size_t end = words_end(text, close, next);
    done = end == text.npos ? close : end;
    if (weights_[i] != 0) spans.push_back({*begin, done, weights_[i]});
  }
  if (place != anchors->places.size()) return std::nullopt;
  return spans;
}

std::vector<TrainedSpan> marked_spans(const RenderedChat& chat,
                                      const Json& messages,
                                      std::span<const float> weights) {
  std::vector<size_t> assistants;
  for (size_t i = 0; i < messages.size(); ++i)
    if (is_assistant(messages[i])) assistants.push_back(i);
  const bool are_equal = std::all_of(assistants.begin(), assistants.end(), [&](size_t i) {
    return weights[i] == weights[assistants[0]];
  });
  const auto weight_of = [&](size_t index) {
    const ChatPart& part = chat.generations[index];
    if (part.message >= 0) return weights[static_cast<size_t>(part.message)];
    // Blocks outside of a loop over the messages are assigned by their number.
    if (are_equal) return assistants.empty() ? 1.0F : weights[assistants[0]];
    if (chat.generations.size() == assistants.size()) return weights[assistants[index]];
    fail<FormatError>("bad-row", "messages",
                      "expected one {{% generation %}} block of the chat template for each of {} "
                      "assistant turns, since they are not all trained on alike, got {} blocks",
                      assistants.size(), chat.generations.size());
  };
  std::vector<TrainedSpan> spans;
  for (size_t i = 0; i < chat.generations.size(); ++i) {
    const ChatPart& part = chat.generations[i];
    if (part.begin < part.end) spans.push_back({part.begin, part.end, weight_of(i)});
  }
  std::stable_sort(spans.begin(), spans.end(), [](const TrainedSpan& a, const TrainedSpan& b) {
    return a.begin < b.begin || (a.begin == b.begin && a.end > b.end);
  });
  // A block inside of another says nothing more.
  std::vector<TrainedSpan> outer;
  for (const TrainedSpan& span : spans)
    if (span.weight != 0 && (outer.empty() || span.begin >= outer.back().end))
      outer.push_back(span);
  return outer;
}

}  // namespace lockstep::text
