// The best checkpoint of a run: which one it is, that it stays, and that the run ends with it; and
// when steps are logged and saved.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/e2e/evaluated_run.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class BestCheckpoint : public EvaluatedRun {
 protected:
  Arguments evaluated(const fs::path& run, const Arguments& more) const {
    return sft(run, Arguments{"--val_dataset", held_out_, "--save_steps", "1"} + more);
  }
  /// Completions end at common letters, so that lengths and rewards differ.
  Arguments grpo(const fs::path& run, const Arguments& more) const {
    const std::string options =
        "--tuner_type full --reward_funcs soft_overlong --soft_max_length 12 --soft_cache_length "
        "11 --max_completion_length 12 --num_generations 4 --stop_words e a --beta 0 --max_steps 4 "
        "--save_steps 2 --eval_steps 1 --threads 1 --load_best_model_at_end true";
    std::istringstream words(options);
    Arguments all{"grpo",          "--model", model_,         "--dataset", rows_,
                  "--val_dataset", held_out_, "--output_dir", run.string()};
    for (std::string word; words >> word;) all.push_back(word);
    return all + more;
  }
  void expect_refused(const Arguments& more, const std::string& words) const {
    const ProgramResult result = run_program(sft(folder_ / "refused", more));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  }
};

/// What the evaluations of a run say of a metric, by step.
std::map<int64_t, double> evaluations(const fs::path& run, const char* metric) {
  std::map<int64_t, double> values;
  for (const Json& row : read_rows(run / "logging.jsonl"))
    if (row.contains(metric))
      values[std::stoll(row["global_step/max_steps"].get<std::string>())] =
          row[metric].get<double>();
  return values;
}

/// The steps of a run's checkpoints.
std::set<int64_t> checkpoints_in(const fs::path& run) {
  std::set<int64_t> steps;
  for (const auto& entry : fs::directory_iterator(run))
    if (const std::string name = entry.path().filename().string(); name.starts_with("checkpoint-"))
      steps.insert(std::stoll(name.substr(11)));
  return steps;
}

std::string checkpoint(int64_t step) { return "checkpoint-" + std::to_string(step); }

/// How many lines of logging.jsonl tell a step's loss, with the steps they tell of.
std::vector<int64_t> logged_steps(const fs::path& run) {
  std::vector<int64_t> steps;
  for (const Json& row : read_rows(run / "logging.jsonl"))
    if (row.contains("loss"))
      steps.push_back(std::stoll(row["global_step/max_steps"].get<std::string>()));
  return steps;
}

TEST_F(BestCheckpoint, IsWhatTheRunEndsWith) {
  struct Case {
    const char* greater;
    int64_t limit;
  };
  for (const Case& one : {Case{"true", 1}, {"true", 2}, {"true", 3}, {"false", 1}, {"false", 2}}) {
    SCOPED_TRACE(std::string(one.greater) + " " + std::to_string(one.limit));
    const TempDir runs;
    const fs::path run = runs / "run";
    const auto result = run_well(evaluated(
        run, {"--max_steps", "4", "--load_best_model_at_end", "true", "--greater_is_better",
              one.greater, "--save_total_limit", std::to_string(one.limit)}));
    const auto losses = evaluations(run, "eval_loss");
    ASSERT_EQ(losses.size(), 4u);
    const bool greatest = std::string(one.greater) == "true";
    const auto best = std::max_element(losses.begin(), losses.end(), [&](auto a, auto b) {
      return greatest ? a.second < b.second : a.second > b.second;
    });
    // The losses do fall, so that the best is not simply the newest.
    ASSERT_EQ(best->first, greatest ? 1 : 4);

    std::set<int64_t> kept{best->first};
    for (int64_t step = 4; step > 0 && (std::ssize(kept) < one.limit || step == 4); --step)
      kept.insert(step);
    EXPECT_EQ(checkpoints_in(run), kept);
    EXPECT_EQ(fs::read_symlink(run / "best"), checkpoint(best->first));
    EXPECT_EQ(fs::canonical(run / "last").filename(), checkpoint(best->first));
    EXPECT_THAT(result.err, HasSubstr("the run ends with its best model"));

    const Json summary = read_rows(run / "logging.jsonl").back();
    EXPECT_EQ(summary["best_metric"], best->second);
    EXPECT_EQ(summary["best_model_checkpoint"], (run / checkpoint(best->first)).string());
    EXPECT_EQ(summary["last_model_checkpoint"], (run / "checkpoint-4").string());
    const Json state = parse_json_file(run / "checkpoint-4/trainer_state.json");
    EXPECT_EQ(state["best_metric"], best->second);
    EXPECT_EQ(state["best_global_step"], best->first);
    EXPECT_EQ(state["best_model_checkpoint"], (run / checkpoint(best->first)).string());
    const Json args = parse_json_file(run / "args.json");
    EXPECT_EQ(args["metric_for_best_model"], "eval_loss");
  }
}

/// Without the flag the newest checkpoint is the last, and the best is kept all the same.
TEST_F(BestCheckpoint, IsKeptAndLinkedInAnyCase) {
  const fs::path run = folder_ / "run";
  run_well(evaluated(
      run, {"--max_steps", "4", "--greater_is_better", "true", "--save_total_limit", "2"}));
  EXPECT_THAT(checkpoints_in(run), ElementsAre(1, 4));
  EXPECT_EQ(fs::read_symlink(run / "last"), "checkpoint-4");
  EXPECT_EQ(fs::read_symlink(run / "best"), "checkpoint-1");
  const fs::path blind = folder_ / "blind";
  run_well(sft(blind, {"--max_steps", "2", "--save_steps", "1"}));
  EXPECT_FALSE(fs::exists(fs::symlink_status(blind / "best")));
  EXPECT_TRUE(read_rows(blind / "logging.jsonl").back()["best_model_checkpoint"].is_null());
}

TEST_F(BestCheckpoint, IsTheFirstOfEqualsByTheMetricThatIsNamed) {
  struct Case {
    const char *name, *metric;
    Arguments flags;
    bool is_least;
  };
  const std::vector<Case> cases{{"standard", "eval_reward", {}, false},
                                {"lengths",
                                 "eval_completions/mean_length",
                                 {"--metric_for_best_model", "completions/mean_length"},
                                 false},
                                {"deviation",
                                 "eval_rewards/soft_overlong/std",
                                 {"--metric_for_best_model", "eval_rewards/soft_overlong/std",
                                  "--greater_is_better", "false"},
                                 true}};
  for (const Case& one : cases) {
    SCOPED_TRACE(one.name);
    const fs::path run = folder_ / one.name;
    run_well(grpo(run, one.flags));
    const auto values = evaluations(run, one.metric);
    ASSERT_EQ(values.size(), 4u);
    // Steps 1 and 3 have no checkpoint.
    const double second = values.at(2), fourth = values.at(4);
    const int64_t best = (one.is_least ? fourth < second : fourth > second) ? 4 : 2;
    EXPECT_EQ(fs::canonical(run / "last").filename(), checkpoint(best));
    EXPECT_EQ(read_rows(run / "logging.jsonl").back()["best_metric"], values.at(best));
    EXPECT_EQ(parse_json_file(run / "args.json")["metric_for_best_model"], one.metric);
  }
  const ProgramResult unknown =
      run_program(grpo(folder_ / "run", {"--metric_for_best_model", "accuracy"}));
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("--metric_for_best_model: expected a metric of the "
                                     "evaluations, got 'eval_accuracy' (there are "));
  EXPECT_THAT(unknown.err, HasSubstr("eval_rewards/soft_overlong/mean"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(BestCheckpoint, NeedsEvaluationsWhereCheckpointsAre) {
  const Arguments best{"--load_best_model_at_end", "true"},
      held_out{"--val_dataset", held_out_, "--load_best_model_at_end", "true"};
  expect_refused(best, "--load_best_model_at_end: expected held-out rows");
  expect_refused(held_out + Arguments{"--eval_strategy", "no"}, "--eval_strategy no");
  expect_refused(held_out + Arguments{"--eval_strategy", "epoch"}, "--eval_strategy epoch");
  expect_refused(held_out + Arguments{"--save_strategy", "no"}, "--save_strategy no");
  expect_refused(held_out + Arguments{"--save_steps", "3", "--eval_steps", "2"},
                 "expected --save_steps to be a multiple of --eval_steps, got 3 and 2");
  expect_refused({"--save_strategy", "best"}, "--save_strategy: expected held-out rows");
  expect_refused(held_out + Arguments{"--metric_for_best_model", "reward"},
                 "got 'eval_reward' (there are eval_loss)");
}

TEST_F(BestCheckpoint, AResumedRunKnowsIt) {
  const fs::path run = folder_ / "run";
  const Arguments worst{"--load_best_model_at_end", "true", "--greater_is_better", "true",
                        "--save_total_limit",       "1"};
  run_well(evaluated(run, worst + Arguments{"--max_steps", "3"}));
  EXPECT_EQ(fs::canonical(run / "last").filename(), "checkpoint-1");
  // `last` is the best, but a run goes on from where it ended.
  const Arguments on{"--max_steps", "5", "--resume_from_checkpoint", "last"};
  const auto resumed = run_well(evaluated(run, worst + on));
  EXPECT_THAT(resumed.err, HasSubstr("checkpoint-3 at step 3 of 5"));
  EXPECT_THAT(logged_steps(run), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(checkpoints_in(run), ElementsAre(1, 5));
  EXPECT_EQ(fs::canonical(run / "last").filename(), "checkpoint-1");

  // By another metric, or when it is gone, it is chosen anew.
  const Arguments further{"--max_steps", "6", "--resume_from_checkpoint", "last"};
  const fs::path copy = folder_ / "copy";
  fs::copy(run, copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  const auto other = run_well(evaluated(copy, further));
  EXPECT_THAT(other.err, HasSubstr("it is chosen anew"));
  EXPECT_EQ(fs::read_symlink(copy / "best"), "checkpoint-6");
  fs::remove_all(run / "checkpoint-1");
  const auto gone = run_well(evaluated(run, worst + further));
  EXPECT_THAT(gone.err, HasSubstr("checkpoint-1, the best checkpoint until here, is no longer"));
  EXPECT_EQ(fs::read_symlink(run / "best"), "checkpoint-6");
}

/// A copy that follows links makes folders of `last` and `best`.
TEST_F(BestCheckpoint, ACopyWithoutLinksGoesOn) {
  const fs::path run = folder_ / "run", copy = folder_ / "copy";
  const Arguments worst{"--load_best_model_at_end", "true", "--greater_is_better", "true"};
  run_well(evaluated(run, worst + Arguments{"--max_steps", "2"}));
  fs::copy(run, copy, fs::copy_options::recursive);
  ASSERT_FALSE(fs::is_symlink(copy / "best"));
  run_well(
      evaluated(copy, worst + Arguments{"--max_steps", "3", "--resume_from_checkpoint", "last"}));
  EXPECT_EQ(fs::read_symlink(copy / "best"), "checkpoint-1");
  EXPECT_THAT(checkpoints_in(copy), ElementsAre(1, 2, 3));
  EXPECT_THAT(logged_steps(copy), ElementsAre(1, 2, 3));
}

TEST_F(BestCheckpoint, CanBeAllThatIsSaved) {
  const fs::path run = folder_ / "run";
  run_well(evaluated(
      run, {"--max_steps", "3", "--save_strategy", "best", "--greater_is_better", "true"}));
  EXPECT_THAT(checkpoints_in(run), ElementsAre(1));
  EXPECT_EQ(evaluations(run, "eval_loss").size(), 3u);
  const fs::path falling = folder_ / "falling";
  run_well(evaluated(falling,
                     {"--max_steps", "3", "--save_strategy", "best", "--save_total_limit", "1"}));
  EXPECT_THAT(checkpoints_in(falling), ElementsAre(3));
  EXPECT_EQ(fs::read_symlink(falling / "best"), "checkpoint-3");
}

TEST_F(BestCheckpoint, ByEpochs) {
  const fs::path run = folder_ / "run";
  run_well(sft(run, {"--val_dataset", held_out_, "--num_train_epochs", "2", "--save_strategy",
                     "epoch", "--load_best_model_at_end", "true", "--greater_is_better", "true"}));
  EXPECT_THAT(checkpoints_in(run), ElementsAre(4, 8));
  EXPECT_EQ(fs::canonical(run / "last").filename(), "checkpoint-4");
}

TEST_F(BestCheckpoint, LoggingFollowsItsStrategy) {
  const auto steps = [&](const char* name, const Arguments& more) {
    const fs::path run = folder_ / name;
    run_well(sft(run, Arguments{"--max_steps", "6", "--save_strategy", "no"} + more));
    EXPECT_TRUE(read_rows(run / "logging.jsonl").back().contains("train_runtime"));
    return logged_steps(run);
  };
  EXPECT_THAT(steps("steps", {"--logging_steps", "2"}), ElementsAre(1, 2, 4, 6));
  EXPECT_THAT(steps("later", {"--logging_steps", "4", "--logging_first_step", "false"}),
              ElementsAre(4, 6));
  // An epoch has four steps.
  EXPECT_THAT(steps("epoch", {"--logging_strategy", "epoch"}), ElementsAre(1, 4, 6));
  EXPECT_THAT(steps("no", {"--logging_strategy", "no"}), IsEmpty());
  EXPECT_THAT(steps("first", {"--logging_strategy", "no", "--logging_first_step", "true"}),
              ElementsAre(1));
  expect_refused({"--logging_strategy", "sometimes"}, "expected one of no, steps, epoch");
}

}  // namespace
}  // namespace lockstep::testing
