// Short runs of grpo on a small model, as a fixture of tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

struct ModelKind {
  const char* like;
  const char* dtype;
};
inline void PrintTo(const ModelKind& kind, std::ostream* out) {
  *out << kind.like << "_" << kind.dtype;
}

inline std::string kind_name(const ::testing::TestParamInfo<ModelKind>& info) {
  return ::testing::PrintToString(info.param);
}

class OfModel : public ::testing::TestWithParam<ModelKind> {
 protected:
  OfModel()
      : model_(new_model(
            folder_, "model", {"--like", GetParam().like, "--torch_dtype", GetParam().dtype})) {}

  /// Short steps that differ in reward: completions end at common letters and are paid by length.
  Arguments grpo(const std::string& output, const Arguments& more) const {
    return Arguments{"grpo",
                     "--model",
                     model_,
                     "--tuner_type",
                     "full",
                     "--dataset",
                     write_rows(folder_, "rows.jsonl", sum_rows(12)),
                     "--output_dir",
                     (folder_ / output).string(),
                     "--reward_funcs",
                     "soft_overlong",
                     "--soft_max_length",
                     "10",
                     "--soft_cache_length",
                     "9",
                     "--max_completion_length",
                     "10",
                     "--stop_words",
                     "e",
                     "a",
                     "--num_generations",
                     "4",
                     "--learning_rate",
                     "1e-3",
                     "--logging_steps",
                     "1",
                     "--quiet"} +
           more;
  }
  /// Lines of logging.jsonl without the summary.
  std::vector<Json> log_of(const std::string& output) const {
    std::vector<Json> rows = read_rows(folder_ / output / "logging.jsonl");
    EXPECT_TRUE(!rows.empty() && rows.back().contains("train_runtime"));
    if (!rows.empty()) rows.pop_back();
    return rows;
  }

  TempDir folder_;
  std::string model_;
};

}  // namespace lockstep::testing
