// Which tokens sft trains on with templates of other families, and where a template says nothing.
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/expect_error.h"
#include "tests/text/dialogue.h"

namespace lockstep::text {
namespace {

using ::testing::ElementsAre;

const Json kTwoRounds = {say("system", "S"), say("user", "a"), say("assistant", "one"),
                         say("user", "b"), say("assistant", "two")};

TEST(Dialogue, FindsTurnsWhereverTheLoopStands) {
  const std::string loop = kChatMlLoop, prompt = kChatMlPrompt;
  const Texts expected = {"one<|im_end|>", "two<|im_end|>"};
  for (const std::string& source :
       {loop + prompt,
        // In a macro, in a text that is set, and in a slice of the messages.
        "{% macro all(messages) %}" + loop + "{% endmacro %}{{ all(messages) }}" + prompt,
        "{% set text %}" + loop + "{% endset %}{{ text }}" + prompt,
        "{% set messages = messages[1:] %}" + loop + prompt,
        // A loop inside that looks at the other messages.
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set ns = namespace(n=0) %}"
        "{% for other in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}" +
            prompt,
        // Without a loop over the messages: the contents are found in the text.
        "{% for i in range(messages|length) %}{% set m = messages[i] %}{{ '<|im_start|>' + m.role "
        "+ '\n' + m.content|trim + '<|im_end|>\n' }}{% endfor %}" +
            prompt,
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + "
        "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' %}{% endfor %}{{ ns.text "
        "}}" +
            prompt})
    EXPECT_EQ(trained(source, kTwoRounds), expected) << source;
}

/// A turn without words is trained on up to its end, as where the template has a loop.
TEST(Dialogue, FindsTurnsWithoutWordsWhereTheContentTellsThem) {
  const std::string head = "{{ '<|im_start|>' + m.role + '\n' }}", tail = "{{ '<|im_end|>\n' }}";
  for (const std::string& loop :
       {std::string("{% for m in messages %}"),
        std::string("{% for i in range(messages|length) %}{% set m = messages[i] %}")}) {
    const std::string source =
        loop + head + "{{ m.content|trim }}" + tail + "{% endfor %}" + kChatMlPrompt;
    for (const char* nothing : {"", " \n"}) {
      Json messages = {say("user", "a"), say("assistant", nothing), say("user", "b"),
                       say("assistant", "two")};
      EXPECT_THAT(trained(source, messages), ElementsAre("<|im_end|>", "two<|im_end|>")) << source;
      messages[1]["loss"] = false;
      EXPECT_THAT(trained(source, messages), ElementsAre("two<|im_end|>")) << source;
    }
  }
  // What is not written unless there is content is no place for a turn without any.
  const std::string silent = "{% for i in range(messages|length) %}{% set m = messages[i] %}" +
                             head + "{% if m.content %}{{ 'A: ' + m.content }}{% endif %}" + tail +
                             "{% endfor %}" + kChatMlPrompt;
  const Json messages = {say("user", "a"), say("assistant", ""), say("user", "b"),
                         say("assistant", "two")};
  EXPECT_ERROR(trained(silent, messages), FormatError, "bad-row", "{% generation %}");
}

TEST(Dialogue, FindsTurnsOfATemplateThatBeginsWithASystemPromptOfItsOwn) {
  // Written in the pass of the first message, which is the assistant's.
  const std::string source =
      "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ "
      "'<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' "
      "+ "
      "m.content + '<|im_end|>\n' }}{% endfor %}" +
      std::string(kChatMlPrompt);
  EXPECT_THAT(trained(source, {say("assistant", "hi"), say("user", "a"), say("assistant", "b")}),
              ElementsAre("hi<|im_end|>", "b<|im_end|>"));
}

TEST(Dialogue, FindsTurnsOfOtherFamilies) {
  // Llama 3: another header and end of turn.
  EXPECT_THAT(trained("{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
                      "'<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}{% if "
                      "add_generation_prompt %}{{ "
                      "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
                      kTwoRounds),
              ElementsAre("one<|eot_id|>", "two<|eot_id|>"));
  // Mistral: the prompt ends with the user's turn, and a system turn is refused.
  EXPECT_THAT(
      trained("{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
              "' [/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}",
              {say("user", "a"), say("assistant", "one")}),
      ElementsAre(" one</s>"));
  // DeepSeek R1: a header without a line of its own, and reasoning in the prompt alone.
  EXPECT_THAT(trained("{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content "
                      "}}{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + "
                      "'<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
                      "'<|Assistant|><think>\n' }}{% endif %}",
                      {say("user", "a"), say("assistant", "<think>r</think>one")}),
              ElementsAre("one<|end|>"));
  // The generation prompt comes behind a user's turn only: behind another one the template refuses
  // it, or appends nothing.
  const std::string prompt = "{{ '<|im_start|>assistant\n' }}{% endif %}";
  for (const std::string& end :
       {"{% if add_generation_prompt %}{% if messages[-1].role == 'assistant' %}{{ "
        "raise_exception('ends with the assistant') }}{% endif %}" +
            prompt,
        "{% if add_generation_prompt and messages[-1].role != 'assistant' %}" + prompt,
        // Or there is none at all.
        std::string()})
    EXPECT_THAT(trained(kChatMlLoop + end, kTwoRounds),
                ElementsAre("one<|im_end|>", "two<|im_end|>"))
        << end;
}

TEST(Dialogue, FindsHeadersOfOtherFamiliesWhereverTheConversationEnds) {
  // Phi 3: a rendering without a generation prompt ends with a token instead.
  const std::string phi =
      "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% "
      "endif "
      "%}";
  EXPECT_THAT(trained(phi, kTwoRounds), ElementsAre("one<|end|>\n", "two<|end|>\n"));
  // gpt-oss: the last turn ends otherwise than the others, unless a generation prompt is asked for.
  const std::string oss =
      "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}{{ "
      "'<|return|>' "
      "if loop.last and m.role == 'assistant' and not add_generation_prompt else '<|end|>' }}{% "
      "endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}";
  EXPECT_THAT(trained(oss, kTwoRounds),
              ElementsAre("<|message|>one<|end|>", "<|message|>two<|return|>"));
  // GigaChat 3: nothing is appended behind a turn of the assistant.
  const std::string giga =
      "{% for m in messages %}{{ m.role + '<|role_sep|>\n' + m.content + '<|message_sep|>' }}{% if "
      "loop.last and add_generation_prompt and m.role != 'assistant' %}{{ "
      "'assistant<|role_sep|>\n' }}{% endif %}{% endfor %}";
  EXPECT_THAT(trained(giga, kTwoRounds), ElementsAre("one<|message_sep|>", "two<|message_sep|>"));
  // Gemma 4: behind a call the model goes on in the same turn.
  const std::string gemma =
      "{% for m in messages %}{{ '<|turn>' + m.role + '\n' + m.content }}{% if m.tool_calls %}{{ "
      "'<|tool_call>f<tool_call|>' }}{% endif %}{% if not (loop.last and m.tool_calls) %}{{ "
      "'<turn|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|tool_response>' if "
      "messages[-1].tool_calls else '<|turn>assistant\n' }}{% endif %}";
  Json calls = Json::array({say("user", "a"), say("assistant", "look")});
  calls[1]["tool_calls"] = json(R"([{"function": {"name": "f", "arguments": {}}}])");
  EXPECT_THAT(trained(gemma, calls), ElementsAre("look<|tool_call>f<tool_call|>"));
}

TEST(Dialogue, SaysWhatToDoWhereATemplateTellsNothing) {
  const auto encode = [](const char* source) { return trained(source, kTwoRounds); };
  for (const char* source :
       {"PLAIN {{ messages[0].content }}",
        "{% for i in range(messages|length) %}{{ messages[i].content|upper|reverse }}{% endfor %}"})
    EXPECT_ERROR(encode(source), FormatError, "bad-row", "{% generation %}");
}

TEST(Dialogue, FollowsTheGenerationBlocksOfATemplate) {
  const std::string loop =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% "
      "generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ "
      "m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}";
  const Texts both = {"one<|im_end|>", "two<|im_end|>"};
  Json second_only = kTwoRounds;
  second_only[2]["loss"] = false;
  for (const std::string& source :
       {loop, "{% macro all(messages) %}" + loop + "{% endmacro %}{{ all(messages) }}",
        "{% set text %}" + loop + "{% endset %}> {{ text }}",
        // The blocks stand in no loop over messages.
        "{% for i in range(messages|length) %}{% set m = messages[i] %}" +
            loop.substr(loop.find("{{"))}) {
    EXPECT_EQ(trained(source, kTwoRounds), both) << source;
    EXPECT_THAT(trained(source, second_only), ElementsAre("two<|im_end|>")) << source;
    EXPECT_THAT(trained(source, kTwoRounds, LossTurns::kLast), ElementsAre("two<|im_end|>"));
  }
  // What a template marks is what is trained on, the template's own decision included.
  EXPECT_THAT(trained("{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}{% "
                      "endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}",
                      kTwoRounds),
              ElementsAre("two"));
}

}  // namespace
}  // namespace lockstep::text
