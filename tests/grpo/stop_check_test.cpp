// SPDX-License-Identifier: Apache-2.0
#include "grpo/stop_check.h"

#include <deque>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "text/default_tokenizer.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StopCheck : public ::testing::Test {
 protected:
  text::ChatEncoder encoder(const std::string& chat_template) const {
    write_file(folder_.path() / "tokenizer.json", dump_json(text::default_tokenizer_json(2048)));
    write_file(folder_.path() / "tokenizer_config.json",
               dump_json(text::default_tokenizer_config()));
    write_file(folder_.path() / "chat_template.jinja", chat_template);
    return text::ChatEncoder(folder_.path());
  }

  std::vector<std::string> warnings(const text::ChatEncoder& encoder,
                                    const std::vector<int64_t>& stops,
                                    const std::vector<std::string>& words = {},
                                    int64_t longest = 64) const {
    return stop_warnings({stops, words, 2048, longest}, encoder,
                         std::vector<Prompt>(prompts_.begin(), prompts_.end()));
  }

  /// Adds a row whose last message, or else whose solution, is the answer.
  void add_row(const std::string& answer, bool is_message) {
    text::Row& row = rows_.emplace_back();
    row.messages = Json::array({{{"role", "user"}, {"content", "?"}}});
    row.columns = Json::object();
    if (is_message)
      row.messages.push_back({{"role", "assistant"}, {"content", answer}});
    else
      row.columns["solution"] = answer;
    prompts_.push_back({.row = &row, .messages = {}, .encoded = {}});
  }

  testing::TempDir folder_;
  std::deque<text::Row> rows_;
  std::deque<Prompt> prompts_;
};

TEST_F(StopCheck, IsSilentWhereTheTemplateEndsWithAStopId) {
  const auto ours = encoder(std::string(text::default_chat_template()));
  const int64_t end = ours.tokenizer().id_of("<|im_end|>").value();
  EXPECT_THAT(warnings(ours, {end}), IsEmpty());
}

TEST_F(StopCheck, SaysThatThereIsNoStopId) {
  const auto ours = encoder(std::string(text::default_chat_template()));
  EXPECT_THAT(warnings(ours, {}), ElementsAre(HasSubstr("the checkpoint names no end token")));
  EXPECT_THAT(warnings(ours, {2048, 5000}),
              ElementsAre(HasSubstr("(2048, 5000) are none of the 2048 that the model has")));
  EXPECT_THAT(warnings(ours, {}, {"###"}), IsEmpty());
}

TEST_F(StopCheck, SaysThatTheTemplateEndsOtherwise) {
  const std::string turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}";
  const auto other = encoder(turns + "<end>\n{% endfor %}");
  const int64_t end = other.tokenizer().id_of("<|im_end|>").value();
  EXPECT_THAT(warnings(other, {end}),
              ElementsAre(HasSubstr("ends an assistant's turn with \"<end>\\n\"")));
  EXPECT_THAT(warnings(encoder(turns + "{% endfor %}"), {end}),
              ElementsAre(HasSubstr("writes nothing behind an assistant's turn")));
  // A template that refuses the conversation says nothing of it.
  EXPECT_THAT(warnings(encoder("{{ raise_exception('no') }}"), {end}), IsEmpty());
}

TEST_F(StopCheck, SaysThatTheAnswersAreLonger) {
  const auto ours = encoder(std::string(text::default_chat_template()));
  const int64_t end = ours.tokenizer().id_of("<|im_end|>").value();
  const std::string longer(400, 'x');
  add_row(longer, true);
  add_row("short", false);
  EXPECT_THAT(warnings(ours, {end}), IsEmpty());
  add_row(longer, false);
  EXPECT_THAT(warnings(ours, {end}),
              ElementsAre(HasSubstr("--max_completion_length 64 cuts completions off: the answers "
                                    "of 2 of 3 rows")));
  EXPECT_THAT(warnings(ours, {end}, {}, 4096), IsEmpty());
}

}  // namespace
}  // namespace lockstep::grpo
