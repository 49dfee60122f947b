// Short runs of sft with held-out rows, as a fixture.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

/// A model, rows of sums to train on and others that are held out.
class EvaluatedRun : public ::testing::Test {
 protected:
  EvaluatedRun()
      : model_(new_model(folder_, "model", {"--like", "qwen3"})),
        rows_(write_rows(folder_, "rows.jsonl", sum_rows(8))),
        held_out_(write_rows(folder_, "held_out.jsonl", sum_rows(3))) {}

  /// Two rows a step: an epoch has four. The loss of rows that are trained on falls.
  Arguments sft(const std::filesystem::path& run, const Arguments& more) const {
    return Arguments{"sft",        "--model",
                     model_,       "--tuner_type",
                     "full",       "--dataset",
                     rows_,        "--output_dir",
                     run.string(), "--per_device_train_batch_size",
                     "2",          "--learning_rate",
                     "1e-3",       "--logging_steps",
                     "1",          "--threads",
                     "1"} +
           more;
  }

  TempDir folder_;
  std::string model_, rows_, held_out_;
};

}  // namespace lockstep::testing
