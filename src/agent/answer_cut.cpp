// SPDX-License-Identifier: Apache-2.0
#include "agent/answer_cut.h"

#include <fmt/format.h>

namespace lockstep::agent {

std::string cut_to_tokens(const std::string& text, int64_t most, const text::Tokenizer& tokenizer) {
  // A token has a byte at least.
  if (std::ssize(text) <= most) return text;
  const std::vector<int64_t> ids = tokenizer.encode(text);
  if (std::ssize(ids) <= most) return text;
  text::StreamDecoder decoder(tokenizer);
  std::string kept;
  for (int64_t i = 0; i < most; ++i) kept += decoder.push(ids[static_cast<size_t>(i)]);
  // What the decoder still holds are the first bytes of a character.
  return fmt::format("{} [… {} tokens left out]", kept, std::ssize(ids) - most);
}

}  // namespace lockstep::agent
