// SPDX-License-Identifier: Apache-2.0
#include "rollout/completion.h"

#include <algorithm>

namespace lockstep::rollout {

std::string completion_text(const Completion& completion,
                            const text::Tokenizer& tokenizer,
                            StopString stop_string) {
  std::span<const int64_t> ids = completion.token_ids;
  if (completion.has_stop_token) ids = ids.first(ids.size() - 1);
  std::string text = tokenizer.decode(ids);
  if (completion.stop_string && stop_string == StopString::kCut)
    text.resize(std::min(text.size(), text.find(*completion.stop_string)));
  return text;
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
                                   std::span<const std::string> stop_strings)
    : tokenizer_(&tokenizer), decoder_(tokenizer) {
  for (const std::string& stop : stop_strings) held_ = std::max(held_, stop.size() - 1);
}

std::string CompletionStream::push(const Completion& so_far) {
  if (so_far.has_stop_token || so_far.stop_string) return "";
  text_ += decoder_.push(so_far.token_ids.back());
  size_t safe = text_.size() - std::min(held_, text_.size());
  const auto is_inside_character = [&](size_t at) {
    return at < text_.size() && (static_cast<unsigned char>(text_[at]) & 0xC0) == 0x80;
  };
  while (safe > 0 && is_inside_character(safe)) --safe;
  if (safe <= shown_) return "";
  const std::string piece = text_.substr(shown_, safe - shown_);
  shown_ = safe;
  return piece;
}

std::string CompletionStream::finish(const Completion& whole) {
  const std::string text = completion_text(whole, *tokenizer_, StopString::kCut);
  return text.substr(std::min(shown_, text.size()));
}

}  // namespace lockstep::rollout
