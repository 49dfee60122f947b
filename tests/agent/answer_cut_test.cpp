// Long answers are cut by tokens.
// SPDX-License-Identifier: Apache-2.0
#include "agent/answer_cut.h"

#include <gtest/gtest.h>

#include "tests/text/chat_models.h"

namespace lockstep::agent {
namespace {

TEST(AnswerCut, KeepsTheFirstTokensAndSaysHowManyAreLeftOut) {
  const text::Tokenizer tokenizer = text::default_tokenizer();
  const std::string text = "seven words of an answer are here";
  const auto ids = tokenizer.encode(text);
  const auto count = std::ssize(ids);
  EXPECT_EQ(cut_to_tokens(text, count, tokenizer), text);
  EXPECT_EQ(cut_to_tokens("", 1, tokenizer), "");
  for (int64_t most = 1; most < count; ++most) {
    const std::string first = tokenizer.decode(std::span(ids).first(static_cast<size_t>(most)));
    EXPECT_EQ(cut_to_tokens(text, most, tokenizer),
              first + " [… " + std::to_string(count - most) + " tokens left out]");
  }
}

TEST(AnswerCut, EndsBehindAWholeCharacter) {
  const text::Tokenizer tokenizer = text::default_tokenizer();
  // Characters of several tokens each.
  const std::string text = "𒀀𒀁𒀂";
  const auto ids = tokenizer.encode(text);
  ASSERT_GT(ids.size(), 6u);
  std::vector<std::string> kept;
  for (int64_t most = 1; most < std::ssize(ids); ++most) {
    const std::string cut = cut_to_tokens(text, most, tokenizer);
    kept.push_back(cut.substr(0, cut.find(" [")));
    EXPECT_EQ(kept.back().size() % 4, 0u) << most;
    EXPECT_TRUE(text.starts_with(kept.back()));
  }
  EXPECT_EQ(kept.front(), "");
  EXPECT_EQ(kept.back(), "𒀀𒀁");
}

}  // namespace
}  // namespace lockstep::agent
