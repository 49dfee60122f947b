// The text of completions: whole, and while they are sampled.
// SPDX-License-Identifier: Apache-2.0
#include "rollout/completion.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/source_dir.h"

namespace lockstep::rollout {
namespace {

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer instance = text::Tokenizer::from_directory(
      testing::source_dir() / "tests" / "golden" / "checkpoints" / "qwen3_tied");
  return instance;
}

/// What the sampler would make of a text that it draws token by token.
Completion sampled(const std::string& text,
                   const std::vector<std::string>& stop_strings,
                   std::string* streamed = nullptr) {
  Completion completion;
  StopStringFinder finder(tokenizer(), stop_strings);
  CompletionStream stream(tokenizer(), stop_strings);
  for (const int64_t id : tokenizer().encode(text)) {
    completion.token_ids.push_back(id);
    completion.has_stop_token = id == tokenizer().eos_id();
    completion.stop_string = finder.push(id);
    if (streamed) *streamed += stream.push(completion);
    if (completion.has_stop_token || completion.stop_string) break;
  }
  if (streamed) *streamed += stream.finish(completion);
  return completion;
}

TEST(Completion, LeavesOutTheStopTokenThatEndedIt) {
  const Completion ended = sampled("grün, ja<|im_end|>", {});
  EXPECT_EQ(completion_text(ended, tokenizer(), StopString::kCut), "grün, ja");
  EXPECT_EQ(completion_text(ended, tokenizer(), StopString::kKept), "grün, ja");
  // One that only looks like an end stays.
  Completion cut_off = ended;
  cut_off.has_stop_token = false;
  EXPECT_EQ(completion_text(cut_off, tokenizer(), StopString::kCut), "grün, ja<|im_end|>");
  EXPECT_EQ(completion_text({}, tokenizer(), StopString::kCut), "");
}

TEST(Completion, CutsTheStopStringForPeopleAndKeepsItForRewards) {
  const Completion ended = sampled("<answer>7</answer> and more", {"</answer>", "never"});
  EXPECT_EQ(ended.stop_string, "</answer>");
  EXPECT_EQ(completion_text(ended, tokenizer(), StopString::kCut), "<answer>7");
  const std::string kept = completion_text(ended, tokenizer(), StopString::kKept);
  EXPECT_TRUE(kept.starts_with("<answer>7</answer>")) << kept;
}

TEST(Completion, TakesTheStopStringThatStandsFirst) {
  EXPECT_EQ(sampled("abcdef", {"ef", "cd", "d"}).stop_string, "cd");
  EXPECT_EQ(sampled("abcdef", {"x"}).stop_string, std::nullopt);
  // Whatever the tokens are, none goes past the end of the first stop string.
  for (const char* stop : {"n ü", "ü", "über den", "日本", "🙂"}) {
    const Completion ended = sampled("geht man über den Fluß 日本語 🙂 weiter", {stop});
    ASSERT_EQ(ended.stop_string, stop);
    const std::string kept = completion_text(ended, tokenizer(), StopString::kKept);
    EXPECT_NE(kept.find(stop), kept.npos);
    EXPECT_EQ(kept.find(stop), completion_text(ended, tokenizer(), StopString::kCut).size());
  }
}

TEST(Completion, StreamsWhatTheWholeTextIs) {
  const std::string text = "Grüße aus 日本語 🙂 und ein Ende <|im_end|>";
  for (const std::vector<std::string>& stops : std::vector<std::vector<std::string>>{
           {}, {"語"}, {"Ende"}, {"nie", "aus 日"}, {"G"}, {"e <"}, {"<|im_end|>"}}) {
    std::string streamed;
    const Completion whole = sampled(text, stops, &streamed);
    EXPECT_EQ(streamed, completion_text(whole, tokenizer(), StopString::kCut));
  }
}

TEST(Completion, EndsBehindTheStopStringWhereThatIsAsked) {
  const std::string text = "<answer>7</answer> and more";
  const Completion ended = sampled(text, {"</ans"});
  EXPECT_EQ(completion_text(ended, tokenizer(), StopString::kLast), "<answer>7</ans");
  const std::vector<std::string> stops = {"</ans"};
  CompletionStream stream(tokenizer(), stops, {.stop_string = StopString::kLast});
  std::string streamed;
  for (const int64_t id : ended.token_ids) streamed += stream.push(id);
  EXPECT_EQ(streamed + stream.finish(ended.stop_string), "<answer>7</ans");
}

TEST(Completion, CutsTheStopStringThatEndedItNotAnEarlierOneThatWasTooSoon) {
  // The first "cd" stood before the least number of tokens, so the sampler went on.
  const std::vector<std::string> stops = {"cd"};
  const auto ids = tokenizer().encode("ab cd ef cd");
  CompletionStream stream(tokenizer(), stops);
  std::string streamed;
  for (const int64_t id : ids) streamed += stream.push(id);
  EXPECT_EQ(streamed, "ab cd ef ");
  EXPECT_EQ(stream.finish(std::string("cd")), "");
  const Completion whole{.token_ids = ids, .stop_string = "cd"};
  EXPECT_EQ(completion_text(whole, tokenizer(), StopString::kCut), "ab cd ef ");
  EXPECT_EQ(completion_text(whole, tokenizer(), StopString::kLast), "ab cd ef cd");
}

TEST(Completion, LeavesOutSpecialTokensWhereThatIsAsked) {
  const std::string text = "a<|im_start|>b 日<think>本<|endoftext|>\n";
  const auto ids = tokenizer().encode(text);
  for (const std::vector<std::string>& stops :
       std::vector<std::vector<std::string>>{{}, {"never"}, {"<|im_start|>never<|im_start|>"}}) {
    CompletionStream stream(tokenizer(), stops, {.skip_special = true});
    std::string streamed;
    for (const int64_t id : ids) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(std::nullopt), tokenizer().decode(ids, true));
  }
  // A stop string may begin or end inside of a special token's text.
  const std::vector<std::string> stops = {"start|>b"};
  CompletionStream stream(tokenizer(), stops, {.skip_special = true});
  std::string streamed;
  for (const int64_t id : tokenizer().encode("a<|im_start|>b")) streamed += stream.push(id);
  EXPECT_EQ(streamed + stream.finish(stops[0]), "a");
}

}  // namespace
}  // namespace lockstep::rollout
