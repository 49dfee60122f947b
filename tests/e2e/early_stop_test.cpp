// A run that ends before its last step, since its evaluations get no better.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/e2e/evaluated_run.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class EarlyStop : public EvaluatedRun {
 protected:
  /// The loss of the held-out rows falls in every step, which is no improvement here. Steps 2, 4, …
  /// are evaluated.
  Arguments worse(const fs::path& run, const Arguments& more) const {
    return sft(run, Arguments{"--logging_steps", "5", "--val_dataset", held_out_, "--eval_steps",
                              "2", "--greater_is_better", "true", "--save_strategy", "steps",
                              "--eval_strategy", "steps"} +
                        more);
  }
};

TEST_F(EarlyStop, EndsAsAFinishedRun) {
  const fs::path run = folder_ / "run";
  const auto result = run_well(worse(run, {"--max_steps", "40", "--early_stopping_patience", "2"}));
  EXPECT_THAT(result.err, HasSubstr("early stopping: eval_loss has been no better than "));
  EXPECT_THAT(result.err, HasSubstr(" for 2 evaluations: the run ends at step 6 of 40"));
  EXPECT_THAT(result.err, HasSubstr("done: 6 steps"));
  const std::vector<Json> log = read_rows(run / "logging.jsonl");
  const Json &summary = log.back(), &step = log[log.size() - 2], &evaluation = log[log.size() - 3];
  EXPECT_EQ(summary["global_step"], 6);
  EXPECT_EQ(summary["max_steps"], 40);
  EXPECT_EQ(summary["stopped_early"], true);
  EXPECT_EQ(summary["last_model_checkpoint"], (run / "checkpoint-6").string());
  EXPECT_EQ(step["global_step/max_steps"], "6/40");
  EXPECT_TRUE(step.contains("loss"));
  EXPECT_EQ(evaluation["global_step/max_steps"], "6/40");
  EXPECT_TRUE(evaluation.contains("eval_loss"));
  EXPECT_EQ(fs::read_symlink(run / "last"), "checkpoint-6");
  EXPECT_EQ(parse_json_file(run / "args.json")["early_stop_interval"], 2);
}

TEST_F(EarlyStop, DoesNotEndARunThatGetsBetter) {
  const fs::path run = folder_ / "run";
  const auto result = run_well(worse(
      run, {"--max_steps", "8", "--early_stop_interval", "1", "--greater_is_better", "false"}));
  EXPECT_THAT(result.err, Not(HasSubstr("early stopping")));
  EXPECT_EQ(read_rows(run / "logging.jsonl").back()["stopped_early"], false);
  // A loss that falls by less than the threshold does not get better.
  const auto flat = run_well(worse(
      folder_ / "flat", {"--max_steps", "8", "--early_stop_interval", "1", "--greater_is_better",
                         "false", "--early_stopping_threshold", "100"}));
  EXPECT_THAT(flat.err, HasSubstr("by more than 100 for 1 evaluation: the run ends at step 4"));
}

TEST_F(EarlyStop, AResumedRunKeepsCounting) {
  const Arguments saving{"--early_stop_interval", "3", "--save_steps", "3", "--logging_steps", "1"};
  const fs::path whole = folder_ / "whole", parted = folder_ / "parted";
  run_well(worse(whole, saving + Arguments{"--max_steps", "20"}));
  // Steps 2 and 4 are evaluated, and the one counted, when step 4 ends.
  run_well(worse(parted, saving + Arguments{"--max_steps", "20", "--early_stop_interval", "1"}));
  EXPECT_EQ(read_rows(parted / "logging.jsonl").back()["global_step"], 4);
  const auto resumed = run_well(
      worse(parted, saving + Arguments{"--max_steps", "20", "--resume_from_checkpoint", "last"}));
  EXPECT_THAT(resumed.err, HasSubstr("for 3 evaluations: the run ends at step 8 of 20"));
  EXPECT_EQ(read_rows(whole / "logging.jsonl").back()["global_step"], 8);
  const std::string weights = "checkpoint-8/model.safetensors";
  EXPECT_EQ(tree_of(whole).at(weights), tree_of(parted).at(weights));

  // Where it has ended it ends again, and says why.
  const auto again = run_well(
      worse(parted, saving + Arguments{"--max_steps", "20", "--resume_from_checkpoint", "last"}));
  EXPECT_THAT(again.err, HasSubstr("for 3 evaluations: the run ends at step 8 of 20"));
  EXPECT_THAT(again.err, HasSubstr("done: 0 steps"));
}

TEST_F(EarlyStop, NeedsRowsToEvaluate) {
  const ProgramResult result =
      run_program({"sft", "--model", model_, "--tuner_type", "full", "--dataset", rows_,
                   "--output_dir", (folder_ / "run").string(), "--early_stop_interval", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--early_stop_interval: expected held-out rows"));
}

}  // namespace
}  // namespace lockstep::testing
