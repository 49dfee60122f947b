// Twenty steps of GRPO in 1, 2, 4 and 8 processes, with all that they may share out: the same
// bytes. What one number of them has saved, every other number takes up to the same bytes.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_TEST_LONG=1 runs all combinations; else there are a few of them, with fewer steps.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/rank_programs.h"
#include "tests/e2e/same_runs.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

bool is_long() { return std::getenv("LOCKSTEP_TEST_LONG") != nullptr; }
/// The first save is in the middle.
int steps() { return is_long() ? 20 : 4; }

/// A kind of model and what of it is trained.
struct Trained {
  const char* name;
  const char* family;
  bool has_experts;
  Arguments flags;
};

class RankMatrix : public ::testing::TestWithParam<Trained> {
 protected:
  void SetUp() override {
    new_model(folder_, "model", {"--like", GetParam().family});
    write_rows(folder_, "rows.jsonl", sum_rows(12));
  }

  /// Runs `size` processes into a folder, which is made or gone on with.
  fs::path run(const std::string& name,
               int64_t size,
               const std::string& sharding,
               const Arguments& more = {}) {
    const fs::path output = folder_ / name;
    const Arguments all = Arguments{"grpo",
                                    "--model",
                                    folder_ / "model",
                                    "--dataset",
                                    folder_ / "rows.jsonl",
                                    "--split_dataset_ratio",
                                    "0.2",
                                    "--eval_strategy",
                                    "steps",
                                    "--eval_steps",
                                    std::to_string(steps() / 2),
                                    "--output_dir",
                                    output,
                                    "--per_device_train_batch_size",
                                    "16",
                                    "--num_train_epochs",
                                    "100",
                                    "--log_completions",
                                    "true",
                                    "--sharding",
                                    sharding,
                                    "--quiet"} +
                          short_run(steps(), steps() / 2) + short_completions() + GetParam().flags +
                          more;
    for (const ProgramResult& result : Ranks(all, size).wait()) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.err, "");
    }
    return output;
  }

  TempDir folder_;
};

TEST_P(RankMatrix, AllNumbersOfRanksAndWaysToShareEndInTheSameBytes) {
  const fs::path alone = run("alone", 1, "none");
  for (const int64_t size : {2, 4, 8})
    for (const char* sharding : {"none", "optimizer", "full"})
      for (const int64_t experts_over : {1, 2, 4}) {
        if (experts_over > 1 && (!GetParam().has_experts || experts_over > size)) continue;
        if (!is_long() && (size != 4 || sharding != std::string("full") || experts_over == 4))
          continue;
        SCOPED_TRACE(fmt::format("{} processes, sharding {}, experts over {}", size, sharding,
                                 experts_over));
        expect_same_runs(run(fmt::format("{}-{}-{}", size, sharding, experts_over), size, sharding,
                             {"--expert_parallel_size", std::to_string(experts_over)}),
                         alone, 4);
        if (HasFailure()) return;
      }
}

TEST_P(RankMatrix, WhatAnyNumberSavedAnyOtherTakesUp) {
  const fs::path alone = run("alone", 1, "none");
  constexpr const char* kShardings[] = {"none", "optimizer", "full"};
  size_t pair = 0;
  for (const int64_t saved : {1, 2, 4, 8}) {
    if (!is_long() && saved != 4) continue;
    const std::string name = fmt::format("saved-{}", saved);
    run(name, saved, kShardings[pair % 3]);
    for (const int64_t resumed : {1, 2, 4, 8}) {
      if (!is_long() && resumed != 2) continue;
      SCOPED_TRACE(fmt::format("saved by {} processes, resumed by {}", saved, resumed));
      // The middle's checkpoint stays the one that the first number has saved.
      fs::remove_all(folder_ / name / fmt::format("checkpoint-{}", steps()));
      const fs::path middle = folder_ / name / fmt::format("checkpoint-{}", steps() / 2);
      Arguments goes_on{"--resume_from_checkpoint", middle.string()};
      if (GetParam().has_experts)
        goes_on = goes_on + Arguments{"--expert_parallel_size",
                                      std::to_string(std::min<int64_t>(2, resumed))};
      run(name, resumed, kShardings[++pair % 3], goes_on);
      expect_same_runs(folder_ / name, alone, 4);
      if (HasFailure()) return;
    }
  }
}

const Trained kTrained[] = {
    {"dense_full", "qwen3_5", false, {"--tuner_type", "full"}},
    {"dense_lora", "qwen3_5", false, {"--tuner_type", "lora", "--beta", "0.1"}},
    {"moe_full", "qwen3_5_moe", true, {"--tuner_type", "full", "--num_iterations", "2"}},
    {"moe_lora",
     "qwen3_moe",
     true,
     {"--tuner_type", "lora", "--target_modules", "all-linear", "--lora_dropout", "0.1"}}};
INSTANTIATE_TEST_SUITE_P(Models,
                         RankMatrix,
                         ::testing::ValuesIn(kTrained),
                         [](const auto& trained) { return trained.param.name; });

}  // namespace
}  // namespace lockstep::testing
