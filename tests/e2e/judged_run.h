// Short runs of grpo whose completions are judged by rewards of the user's own, as a fixture.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

/// A model and rows of sums that the tests of a suite share, and a folder of each test's own.
class JudgedRun : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    write_rows(*shared_, "sums.jsonl", sum_rows(12));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  /// Two steps of two prompts, on rows of the shared folder.
  Arguments grpo(const std::string& rows, const Arguments& more) const {
    return Arguments{"grpo",
                     "--model",
                     (*shared_ / "model").string(),
                     "--tuner_type",
                     "full",
                     "--dataset",
                     (*shared_ / rows).string(),
                     "--output_dir",
                     (folder_ / "run").string(),
                     "--num_generations",
                     "4",
                     "--per_device_train_batch_size",
                     "8",
                     "--max_completion_length",
                     "12",
                     "--max_steps",
                     "2",
                     "--beta",
                     "0",
                     "--logging_steps",
                     "1",
                     "--threads",
                     "1"} +
           more;
  }
  /// A column of completions.jsonl, its lines one after the other.
  Json logged(const std::string& column) const {
    Json all = Json::array();
    for (const Json& line : read_rows(folder_ / "run" / "completions.jsonl"))
      for (const Json& value : line.at(column)) all.push_back(value);
    return all;
  }
  std::vector<Json> log() const { return read_rows(folder_ / "run" / "logging.jsonl"); }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

}  // namespace lockstep::testing
