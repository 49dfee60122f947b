// SPDX-License-Identifier: Apache-2.0
#include "rollout/completion.h"

#include <algorithm>

namespace lockstep::rollout {

std::string completion_text(const Completion& completion,
                            const text::Tokenizer& tokenizer,
                            StopString stop_string) {
  std::span<const int64_t> ids = completion.token_ids;
  if (completion.has_stop_token) ids = ids.first(ids.size() - 1);
  if (!completion.stop_string || stop_string == StopString::kKept) return tokenizer.decode(ids);
  CompletionStream stream(tokenizer, {&*completion.stop_string, 1}, {.stop_string = stop_string});
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.finish(completion.stop_string);
}

StopStringFinder::StopStringFinder(const text::Tokenizer& tokenizer,
                                   std::span<const std::string> stop_strings)
    : stop_strings_(stop_strings), decoder_(tokenizer) {
  for (const std::string& stop : stop_strings_) longest_ = std::max(longest_, stop.size());
}

std::optional<std::string> StopStringFinder::push(int64_t id) {
  // The text before had none, so a stop string that is there now ends in the new part.
  const size_t from = text_.size() - std::min(text_.size(), longest_);
  text_ += decoder_.push(id);
  size_t first = std::string::npos;
  std::optional<std::string> found;
  for (const std::string& stop : stop_strings_) {
    const size_t at = text_.find(stop, from);
    if (at >= first) continue;
    first = at;
    found = stop;
  }
  return found;
}

CompletionStream::CompletionStream(const text::Tokenizer& tokenizer,
                                   std::span<const std::string> stop_strings,
                                   const TextForm& form)
    : tokenizer_(&tokenizer), stop_strings_(stop_strings), form_(form), decoder_(tokenizer) {
  for (const std::string& stop : stop_strings) held_ = std::max(held_, stop.size() - 1);
}

/// The text up to byte `end` that has not been shown yet.
std::string CompletionStream::take(size_t end) {
  std::string piece;
  size_t hidden = 0;
  for (; hidden < hidden_.size() && hidden_[hidden].first < end; ++hidden) {
    piece += text_.substr(shown_, hidden_[hidden].first - shown_);
    shown_ = std::min(hidden_[hidden].second, end);
    // The end lies inside: its rest stays hidden.
    if (shown_ < hidden_[hidden].second) {
      hidden_[hidden].first = shown_;
      break;
    }
  }
  hidden_.erase(hidden_.begin(), hidden_.begin() + static_cast<ptrdiff_t>(hidden));
  piece += text_.substr(shown_, end - shown_);
  shown_ = end;
  return piece;
}

std::string CompletionStream::push(int64_t id) {
  before_last_ = text_.size();
  text_ += decoder_.push(id);
  if (form_.skip_special && tokenizer_->is_special(id))
    hidden_.emplace_back(text_.size() - tokenizer_->bytes_of(id).size(), text_.size());
  size_t safe = text_.size() - std::min(held_, text_.size());
  // A stop string in the text of this token may be the end. If another token comes it was none: one
  // that stands before the least number of tokens is text.
  for (const std::string& stop : stop_strings_)
    safe = std::min(safe, text_.find(stop, before_last_ - std::min(before_last_, stop.size() - 1)));
  const auto is_inside_character = [&](size_t at) {
    return at < text_.size() && (static_cast<unsigned char>(text_[at]) & 0xC0) == 0x80;
  };
  while (safe > 0 && is_inside_character(safe)) --safe;
  return safe <= shown_ ? "" : take(safe);
}

std::string CompletionStream::finish(const std::optional<std::string>& stop_string) {
  size_t end = std::string::npos;
  if (stop_string && form_.stop_string != StopString::kKept) {
    const size_t overlap = stop_string->empty() ? 0 : stop_string->size() - 1;
    end = text_.find(*stop_string, before_last_ - std::min(before_last_, overlap));
    if (end != std::string::npos && form_.stop_string == StopString::kLast)
      end += stop_string->size();
  }
  if (end == std::string::npos) {
    text_ += decoder_.finish();
    end = text_.size();
  }
  return take(std::max(end, shown_));
}

std::string CompletionStream::push(const Completion& so_far) {
  return so_far.has_stop_token ? "" : push(so_far.token_ids.back());
}

std::string CompletionStream::finish(const Completion& whole) { return finish(whole.stop_string); }

}  // namespace lockstep::rollout
