// What stands between the turns of a conversation that goes on.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/expect_error.h"
#include "tests/text/chat_models.h"

namespace lockstep::text {
namespace {

constexpr const char* kTemplates[] = {"",
                                      "qwen3.jinja",
                                      "qwen3_5_nothink.jinja",
                                      "qwen3_5_think.jinja",
                                      "qwen3_6.jinja",
                                      "qwen3_8.jinja"};

Json with_answer(const Json& follow_ups) {
  Json messages = json(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "Sum?"},
                           {"role": "assistant", "content": "I add them."}])");
  for (const Json& message : follow_ups) messages.push_back(message);
  return messages;
}

TEST(FollowUp, IsWhatTheTemplateWritesBehindAnEarlierTurn) {
  const Json no_thinking{{"enable_thinking", false}};
  for (const char* follow_ups :
       {R"([{"role": "tool", "name": "add", "content": "42"}])",
        R"([{"role": "tool", "content": "42"}, {"role": "tool", "content": "<tool_call>"}])",
        R"([{"role": "user", "content": "Are you sure?\n"}])"})
    for (const char* name : kTemplates)
      for (const Json* variables : {static_cast<const Json*>(nullptr), &no_thinking}) {
        SCOPED_TRACE(std::string(name) + follow_ups);
        const ChatEncoder chat = chat_model(name);
        const Json messages = json(follow_ups), whole = with_answer(messages);
        const EncodedPrompt prompt =
            chat.encode_prompt({.messages = &whole, .variables = variables});
        const Conversation next{.messages = &messages, .variables = variables};
        const std::string words = "I add them.";
        const std::string expected = prompt.text.substr(prompt.text.find(words) + words.size());
        ASSERT_TRUE(expected.starts_with("<|im_end|>\n<|im_start|>"));
        const EncodedPrompt between = chat.encode_follow_up(next);
        EXPECT_EQ(between.text, expected);
        EXPECT_EQ(between.response_prefix, prompt.response_prefix);
        EXPECT_EQ(between.ids, chat.tokenizer().encode(expected));
        // The sampled turn has its end already.
        const auto end = chat.tokenizer().id_of("<|im_end|>");
        const EncodedPrompt ended = chat.encode_follow_up(next, end);
        EXPECT_EQ("<|im_end|>" + ended.text, expected);
        // Another stop token ended it: the template's end of a turn follows.
        EXPECT_EQ(chat.encode_follow_up(next, chat.tokenizer().id_of("<|endoftext|>")).ids,
                  between.ids);
      }
}

TEST(FollowUp, NeedsATemplateThatWritesEarlierTurns) {
  const ChatEncoder last_only(
      default_tokenizer(),
      ChatTemplate("{{ messages[-1].content }}", "last", default_tokenizer_config()));
  const Json messages = json(R"([{"role": "user", "content": "q"}])");
  EXPECT_ERROR(last_only.encode_follow_up({.messages = &messages}), FormatError, "bad-row",
               "earlier turn");
}

}  // namespace
}  // namespace lockstep::text
