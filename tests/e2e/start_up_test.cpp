// What a run of grpo checks and says before and after its first steps.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class StartUp : public ::testing::Test {
 protected:
  StartUp()
      : model_(new_model(folder_, "model", {"--like", "qwen3"})),
        rows_(write_rows(folder_, "rows.jsonl", sum_rows(12))) {}

  Arguments bare(const fs::path& run, const Arguments& more) const {
    return Arguments{"grpo",       "--model",         model_, "--tuner_type",
                     "full",       "--dataset",       rows_,  "--output_dir",
                     run.string(), "--learning_rate", "1e-3", "--threads",
                     "1",          "--beta",          "0",    "--max_completion_length",
                     "6"} +
           more;
  }
  Arguments grpo(const fs::path& run, const Arguments& more) const {
    return bare(run, Arguments{"--reward_funcs", "soft_overlong", "--soft_max_length", "6",
                               "--soft_cache_length", "5", "--stop_words", "e", "a"} +
                         more);
  }

  TempDir folder_;
  std::string model_, rows_;
};

/// The flags that an error's hint says to paste.
std::vector<Arguments> fixes_in(const std::string& error) {
  const std::string begin = "(hint: ";
  const size_t at = error.find(begin), end = error.find(')', at);
  if (at == error.npos || end == error.npos) return {};
  std::string hint = error.substr(at + begin.size(), end - at - begin.size());
  std::vector<Arguments> fixes;
  const std::string between = ", or ";
  for (size_t next = 0; next != hint.npos;) {
    next = hint.find(between);
    std::istringstream words(hint.substr(0, next));
    Arguments& fix = fixes.emplace_back();
    for (std::string word; words >> word;) fix.push_back(word);
    if (next != hint.npos) hint = hint.substr(next + between.size());
  }
  return fixes;
}

TEST_F(StartUp, APastedFixLetsTheRunBegin) {
  const std::vector<Arguments> broken{
      {"--num_generations", "4", "--per_device_train_batch_size", "6"},
      {"--num_generations", "4", "--per_device_train_batch_size", "4", "--generation_batch_size",
       "10"},
      {"--num_generations", "2", "--per_device_train_batch_size", "40"},
      {"--num_generations", "4", "--per_device_train_batch_size", "6", "--loss_type", "real",
       "--steps_per_generation", "2"}};
  int count = 0;
  for (const Arguments& flags : broken) {
    const fs::path run = folder_ / ("run" + std::to_string(count++));
    const Arguments all = flags + Arguments{"--max_steps", "1"};
    const ProgramResult refused = run_program(grpo(run, all));
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("error[bad-batch]"));
    const auto fixes = fixes_in(refused.err);
    ASSERT_FALSE(fixes.empty()) << refused.err;
    for (const Arguments& fix : fixes) {
      SCOPED_TRACE(fix[0] + " " + fix[1]);
      // What is pasted behind a flag that was given takes its place.
      Arguments mended;
      for (size_t i = 0; i < all.size(); i += 2)
        if (all[i] != fix[0]) mended = mended + Arguments{all[i], all[i + 1]};
      const auto result = run_well(grpo(run, mended + fix + Arguments{"--overwrite", "true"}));
      EXPECT_THAT(result.err, HasSubstr("done: 1 steps"));
    }
  }
}

TEST_F(StartUp, SaysThatSamplerAndTrainerAgree) {
  const auto result =
      run_well(grpo(folder_ / "run", {"--num_generations", "4", "--max_steps", "3"}));
  const std::string line = "sampler and trainer agree on ";
  EXPECT_THAT(result.err, HasSubstr(line));
  EXPECT_THAT(result.err, HasSubstr(" tokens of step 1, largest difference 0"));
  EXPECT_EQ(result.err.find(line), result.err.rfind(line)) << "it is said once";
}

TEST_F(StartUp, SaysWhyNothingIsLearned) {
  // A tiny model never answers in the format, and sums of its are never right.
  const Arguments flags{"--num_generations", "4", "--max_steps", "5", "--temperature", "1"};
  const auto result =
      run_well(bare(folder_ / "run", flags + Arguments{"--reward_funcs", "accuracy", "format"}));
  const std::string warning = "nothing is learned: in the first 3 generation batches";
  EXPECT_THAT(result.err, HasSubstr(warning));
  EXPECT_EQ(result.err.find(warning), result.err.rfind(warning)) << "it is said once";
  EXPECT_THAT(result.err, HasSubstr("format is never met"));
  EXPECT_THAT(result.err, HasSubstr("accuracy is 0 for every completion"));
  const auto learning = run_well(grpo(folder_ / "learning", flags));
  EXPECT_THAT(learning.err, Not(HasSubstr("nothing is learned")));
}

TEST_F(StartUp, SaysThatCompletionsCannotEnd) {
  const Arguments flags{"--num_generations", "4", "--max_steps", "1"};
  const std::string warning = "ends an assistant's turn with \"<end>\\n\"";
  EXPECT_THAT(run_well(grpo(folder_ / "well", flags)).err, Not(HasSubstr("assistant's turn")));
  const fs::path chat = fs::path(model_) / "chat_template.jinja";
  std::ofstream(chat, std::ios::trunc)
      << "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>\n{% endfor %}"
         "{% if add_generation_prompt %}[assistant]{% endif %}";
  EXPECT_THAT(run_well(grpo(folder_ / "run", flags)).err, HasSubstr(warning));
}

}  // namespace
}  // namespace lockstep::testing
