// The tokens are sorted, so that those that share the bytes read so far are a range, which is
// narrowed byte by byte.
// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"

namespace lockstep::text {
namespace {

size_t spaces_begin(std::string_view text, size_t from, size_t end) {
  while (end > from) {
    size_t previous = end - 1;
    while (previous > from && (static_cast<unsigned char>(text[previous]) & 0xc0) == 0x80)
      --previous;
    if (class_of(decode_char(text, previous).code_point) != CharClass::kSpace) break;
    end = previous;
  }
  return end;
}

size_t spaces_end(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const DecodedChar c = decode_char(text, begin);
    if (class_of(c.code_point) != CharClass::kSpace) break;
    begin += c.size;
  }
  return begin;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  // An empty text occurs nowhere.
  tokens_.erase(std::remove_if(tokens_.begin(), tokens_.end(),
                               [](const AddedToken& token) { return token.content.empty(); }),
                tokens_.end());
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& token : tokens_) {
    if (first_bytes_.find(token.content[0]) == std::string::npos) first_bytes_ += token.content[0];
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t begin) const {
  const AddedToken* longest = nullptr;
  auto low = tokens_.begin();
  auto high = tokens_.end();
  for (size_t i = 0; begin + i < text.size() && low != high; ++i) {
    const auto byte = static_cast<unsigned char>(text[begin + i]);
    const auto byte_of = [i](const AddedToken& token) {
      // A content that ends here sorts before all that go on.
      return i < token.content.size() ? static_cast<unsigned char>(token.content[i]) : -1;
    };
    low = std::partition_point(low, high, [&](const AddedToken& t) { return byte_of(t) < byte; });
    high = std::partition_point(low, high, [&](const AddedToken& t) { return byte_of(t) == byte; });
    if (low != high && low->content.size() == i + 1) longest = &*low;
  }
  return longest;
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t at = text.find_first_of(first_bytes_, from); at != std::string_view::npos;
       at = text.find_first_of(first_bytes_, at + 1)) {
    const AddedToken* token = longest_at(text, at);
    if (!token) continue;
    const size_t end = at + token->content.size();
    return {token, token->strips_left ? spaces_begin(text, from, at) : at,
            token->strips_right ? spaces_end(text, end) : end};
  }
  return {nullptr, text.size(), text.size()};
}

}  // namespace lockstep::text
