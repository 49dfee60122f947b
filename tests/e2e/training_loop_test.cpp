// What decides which rows a run trains on in which order, how its evaluations sample, and a rate
// that follows them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TrainingLoop : public ::testing::Test {
 protected:
  TrainingLoop() : model_(new_model(folder_, "model", {"--like", "qwen3"})) {
    std::vector<Json> rows = sum_rows(8);
    // 3 6 1 4 7 2 5 0: no row has the level of its place.
    for (size_t i = 0; i < rows.size(); ++i) rows[i]["level"] = (3 * i + 3) % 8;
    rows_ = write_rows(folder_, "rows.jsonl", rows);
    held_out_ = write_rows(folder_, "held_out.jsonl", sum_rows(2));
  }

  Arguments grpo(const fs::path& run, const Arguments& more) const {
    return Arguments{"grpo",       "--model",         model_, "--tuner_type",
                     "full",       "--dataset",       rows_,  "--output_dir",
                     run.string(), "--learning_rate", "1e-3", "--threads",
                     "1",          "--beta",          "0",    "--logging_steps",
                     "1",          "--save_steps",    "1",    "--per_device_train_batch_size",
                     "8"} +
           short_completions() + more;
  }

  TempDir folder_;
  std::string model_, rows_, held_out_;
};

const Arguments kByLevel{"--curriculum_column", "level"};

/// The prompts of training in the order in which they were sampled, each once.
std::vector<std::string> prompts_of(const fs::path& run) {
  std::vector<std::string> prompts;
  for (const Json& line : read_rows(run / "completions.jsonl"))
    for (const Json& prompt : line["prompt"])
      if (prompts.empty() || prompts.back() != prompt) prompts.push_back(prompt);
  return prompts;
}

/// The levels of these prompts.
std::vector<int> levels_of(const std::vector<std::string>& prompts, const std::string& rows) {
  std::vector<int> levels;
  for (const std::string& prompt : prompts)
    for (const Json& row : read_rows(rows))
      if (prompt.find(row["messages"][0]["content"].get<std::string>()) != prompt.npos)
        levels.push_back(row["level"].get<int>());
  return levels;
}

TEST_F(TrainingLoop, TakesRowsInTheOrderOfAColumn) {
  const fs::path up = folder_ / "up", down = folder_ / "down";
  const auto result = run_well(
      grpo(up, kByLevel + Arguments{"--num_train_epochs", "2", "--curriculum_epochs", "1"}));
  EXPECT_THAT(result.err, HasSubstr("order of the rows: by level, from 0 to 7, in the first 1 "));
  std::vector<int> levels = levels_of(prompts_of(up), rows_);
  ASSERT_EQ(levels.size(), 16u);
  const std::vector<int> sorted{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(std::vector(levels.begin(), levels.begin() + 8), sorted);
  EXPECT_NE(std::vector(levels.begin() + 8, levels.end()), sorted);
  EXPECT_TRUE(std::is_permutation(levels.begin() + 8, levels.end(), sorted.begin()));

  run_well(
      grpo(down, kByLevel + Arguments{"--max_steps", "2", "--curriculum_order", "descending"}));
  EXPECT_EQ(levels_of(prompts_of(down), rows_), (std::vector{7, 6, 5, 4}));
}

TEST_F(TrainingLoop, AResumedRunTakesTheRowsThatAreNext) {
  const fs::path whole = folder_ / "whole", parted = folder_ / "parted";
  const Arguments flags =
      kByLevel + Arguments{"--curriculum_epochs", "1", "--lr_scheduler_type", "constant"};
  run_well(grpo(whole, flags + Arguments{"--max_steps", "6"}));
  run_well(grpo(parted, flags + Arguments{"--max_steps", "3"}));
  run_well(grpo(parted, flags + Arguments{"--max_steps", "6", "--resume_from_checkpoint", "last"}));
  EXPECT_EQ(slurp(whole / "completions.jsonl"), slurp(parted / "completions.jsonl"));
  EXPECT_EQ(slurp(whole / "checkpoint-6/model.safetensors"),
            slurp(parted / "checkpoint-6/model.safetensors"));
  const ProgramResult other =
      run_program(grpo(parted, {"--max_steps", "8", "--resume_from_checkpoint", "last"}));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.err, HasSubstr("curriculum_column \"level\" before"));
}

TEST_F(TrainingLoop, ARowWithoutTheColumnIsNamed) {
  std::vector<Json> rows = read_rows(rows_);
  rows[4].erase("level");
  const fs::path run = folder_ / "run";
  const std::string holey = write_rows(folder_, "holey.jsonl", rows);
  Arguments arguments = grpo(run, kByLevel + Arguments{"--max_steps", "1"});
  std::replace(arguments.begin(), arguments.end(), rows_, holey);
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("holey.jsonl:5"));
  EXPECT_FALSE(fs::exists(run));
}

/// What evaluations sampled, by step: each line of completions.jsonl of held-out rows.
std::vector<Json> evaluations(const fs::path& run) {
  std::vector<Json> lines;
  for (const Json& line : read_rows(run / "completions.jsonl"))
    if (line["prompt"].size() == 4) lines.push_back(line);
  return lines;
}

/// Two held-out rows, two completions each; a training batch has eight.
TEST_F(TrainingLoop, EvaluationsSampleAsTheyAreTold) {
  const Arguments evaluated{
      "--val_dataset", held_out_, "--num_generations_eval", "2", "--eval_steps", "1",
      "--max_steps",   "2"};
  const fs::path plain = folder_ / "plain", greedy = folder_ / "greedy";
  run_well(grpo(plain, evaluated));
  run_well(grpo(greedy, evaluated + Arguments{"--eval_temperature", "0"}));
  const auto is_twice = [](const Json& line) {
    return line["completion"][0] == line["completion"][1] &&
           line["completion"][2] == line["completion"][3];
  };
  ASSERT_EQ(evaluations(plain).size(), 2u);
  EXPECT_FALSE(is_twice(evaluations(plain)[0]));
  EXPECT_TRUE(is_twice(evaluations(greedy)[0]));
  // Training samples what it sampled before.
  EXPECT_EQ(slurp(plain / "checkpoint-2/model.safetensors"),
            slurp(greedy / "checkpoint-2/model.safetensors"));
  EXPECT_EQ(parse_json_file(greedy / "args.json")["eval_temperature"], 0);

  // The likeliest token is the only one of the top 1, further than training would go.
  const Arguments endless = evaluated + Arguments{"--stop_words", "~~~~"};
  const fs::path limited = folder_ / "limited", longer = folder_ / "longer";
  run_well(grpo(limited, endless + Arguments{"--eval_temperature", "0"}));
  run_well(
      grpo(longer, endless + Arguments{"--eval_top_k", "1", "--eval_max_completion_length", "30"}));
  const Json likeliest = evaluations(limited)[0], further = evaluations(longer)[0];
  size_t most = 0;
  for (size_t i = 0; i < 4; ++i) {
    const auto ids = likeliest["token_ids"][i].get<std::vector<int64_t>>(),
               more = further["token_ids"][i].get<std::vector<int64_t>>();
    most = std::max(most, more.size());
    ASSERT_LE(ids.size(), std::min<size_t>(12, more.size()));
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), more.begin()));
  }
  EXPECT_GT(most, 12u);
}

/// The rate that each step used.
std::map<int64_t, double> rates_of(const fs::path& run) {
  std::map<int64_t, double> rates;
  for (const Json& row : read_rows(run / "logging.jsonl"))
    if (row.contains("learning_rate"))
      rates[std::stoll(row["global_step/max_steps"].get<std::string>())] = row["learning_rate"];
  return rates;
}

/// An evaluation loss that falls is no gain where the greatest is best: the rate falls with each
/// evaluation but the first, also in a run that is resumed.
TEST_F(TrainingLoop, ARateFollowsEvaluations) {
  const auto sft = [&](const fs::path& run, const Arguments& more) {
    return Arguments{"sft",
                     "--model",
                     model_,
                     "--tuner_type",
                     "full",
                     "--dataset",
                     rows_,
                     "--output_dir",
                     run.string(),
                     "--learning_rate",
                     "1e-3",
                     "--threads",
                     "1",
                     "--per_device_train_batch_size",
                     "2",
                     "--logging_steps",
                     "1",
                     "--val_dataset",
                     held_out_,
                     "--eval_steps",
                     "1",
                     "--save_steps",
                     "1",
                     "--lr_scheduler_type",
                     "reduce_lr_on_plateau",
                     "--lr_scheduler_kwargs",
                     R"({"patience": 1, "factor": 0.5})",
                     "--greater_is_better",
                     "true"} +
           more;
  };
  const fs::path whole = folder_ / "whole", parted = folder_ / "parted";
  run_well(sft(whole, {"--max_steps", "6"}));
  const std::map<int64_t, double> expected{{1, 1e-3}, {2, 1e-3}, {3, 1e-3},
                                           {4, 5e-4}, {5, 5e-4}, {6, 2.5e-4}};
  EXPECT_EQ(rates_of(whole), expected);
  for (const char* end : {"2", "3", "6"})
    run_well(sft(parted, {"--max_steps", end, "--resume_from_checkpoint", "last"}));
  EXPECT_EQ(rates_of(parted), expected);
  EXPECT_EQ(slurp(whole / "checkpoint-6/model.safetensors"),
            slurp(parted / "checkpoint-6/model.safetensors"));

  Arguments blind = sft(folder_ / "blind", {"--max_steps", "1", "--eval_strategy", "no"});
  const ProgramResult result = run_program(blind);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--lr_scheduler_type: expected evaluations"));
}

/// The steps that learn from a round find out the entropies of its completions. A checkpoint does
/// not wait for those of later steps.
TEST_F(TrainingLoop, ARoundIsLoggedWithTheEntropiesThatItsStepsFindOut) {
  const Arguments flags = {"--steps_per_generation",        "4", "--log_entropy", "true",
                           "--per_device_train_batch_size", "2", "--max_steps",   "3"};
  const auto known = [&](const char* name, const Arguments& more) {
    run_well(grpo(folder_ / name, flags + more));
    const std::vector<Json> rounds = read_rows(folder_ / name / "completions.jsonl");
    EXPECT_EQ(rounds.size(), 1u);
    const Json& entropies = rounds.at(0).at("entropy");
    EXPECT_EQ(entropies.size(), 8u);
    return std::count_if(entropies.begin(), entropies.end(),
                         [](const Json& one) { return one.is_number() && one > 0.0; });
  };
  EXPECT_EQ(known("unsaved", {"--save_strategy", "no"}), 6);
  EXPECT_EQ(known("saved", {"--save_steps", "2"}), 4);
  EXPECT_EQ(known("whole", {"--save_steps", "4", "--max_steps", "4"}), 8);
}

}  // namespace
}  // namespace lockstep::testing
