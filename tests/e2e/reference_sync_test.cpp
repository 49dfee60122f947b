// A reference model that follows the policy, in the program itself.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class ReferenceSync : public ::testing::Test {
 protected:
  ReferenceSync()
      : model_(new_model(folder_, "model", {"--like", "qwen3_5"})),
        rows_(write_rows(folder_, "rows.jsonl", sum_rows(12))) {}

  Arguments grpo(const fs::path& run, const Arguments& more) const {
    return Arguments{"grpo",       "--model",         model_, "--tuner_type",
                     "full",       "--dataset",       rows_,  "--output_dir",
                     run.string(), "--learning_rate", "1e-3", "--lr_scheduler_type",
                     "constant",   "--logging_steps", "1",    "--threads",
                     "1",          "--beta",          "0.1",  "--save_steps",
                     "1"} +
           short_completions() + more;
  }

  TempDir folder_;
  std::string model_, rows_;
};

const Arguments kSync{"--sync_ref_model",        "true", "--ref_model_sync_steps", "2",
                      "--ref_model_mixup_alpha", "0.6"};

/// The KL that a run logs, by step.
std::map<int64_t, double> kl_of(const fs::path& run) {
  std::map<int64_t, double> values;
  for (const Json& row : read_rows(run / "logging.jsonl"))
    if (row.contains("kl"))
      values[std::stoll(row["global_step/max_steps"].get<std::string>())] = row["kl"];
  return values;
}

/// Makes 0.6 a + 0.4 b of two float32 checkpoints in place of a's weights.
void mix_files(const fs::path& a, const fs::path& b) {
  const TensorFile first = read_tensors(a), second = read_tensors(b);
  ASSERT_EQ(first.data.size(), second.data.size());
  std::string data = first.data;
  for (const auto& [name, entry] : first.header.items()) {
    if (name == "__metadata__") continue;
    ASSERT_EQ(entry["dtype"], "F32") << name;
    const auto ours = values_of<float>(first, name), theirs = values_of<float>(second, name);
    std::vector<float> mixed;
    for (size_t i = 0; i < ours.size(); ++i)
      mixed.push_back(static_cast<float>(0.6 * double{ours[i]} + 0.4 * double{theirs[i]}));
    std::memcpy(data.data() + entry["data_offsets"][0].get<size_t>(), mixed.data(),
                mixed.size() * sizeof(float));
  }
  std::string bytes = slurp(a);
  bytes.replace(bytes.size() - data.size(), data.size(), data);
  std::ofstream(a, std::ios::binary) << bytes;
}

/// After the second step the KL is that with 0.6 of the policy and 0.4 of the first model, which
/// the test makes itself and names as the reference of a run that goes on from there.
TEST_F(ReferenceSync, TheKlIsThatOfTheMixedModel) {
  const fs::path run = folder_ / "run", mixed = folder_ / "mixed", fixed = folder_ / "fixed",
                 other = folder_ / "other";
  const auto result = run_well(grpo(run, kSync + Arguments{"--max_steps", "4"}));
  EXPECT_THAT(result.err, HasSubstr("0.6 of the policy of step 2 is mixed into it"));
  fs::copy(run / "checkpoint-2", mixed, fs::copy_options::recursive);
  fs::remove(mixed / "trainer_state.json");
  mix_files(mixed / "model.safetensors", fs::path(model_) / "model.safetensors");

  const Arguments from_two{"--max_steps",
                           "4",
                           "--resume_changed",
                           "true",
                           "--resume_from_checkpoint",
                           (run / "checkpoint-2").string()};
  run_well(grpo(other, from_two + Arguments{"--ref_model", mixed.string()}));
  run_well(grpo(fixed, from_two));
  const auto synced = kl_of(run), expected = kl_of(other), still = kl_of(fixed);
  for (const int64_t step : {3, 4}) {
    EXPECT_NEAR(synced.at(step), expected.at(step), 1e-4 * expected.at(step)) << step;
    EXPECT_GT(std::fabs(synced.at(step) - still.at(step)), 0.1 * still.at(step)) << step;
  }
}

TEST_F(ReferenceSync, AResumedRunHasTheSameBytes) {
  const fs::path whole = folder_ / "whole", parted = folder_ / "parted";
  run_well(grpo(whole, kSync + Arguments{"--max_steps", "6"}));
  // Before the first move, behind one, and between two.
  for (const char* end : {"1", "2", "3", "5", "6"})
    run_well(
        grpo(parted, kSync + Arguments{"--max_steps", end, "--resume_from_checkpoint", "last"}));
  const std::string reference = "training_state/reference.safetensors";
  EXPECT_FALSE(fs::exists(whole / "checkpoint-1" / reference));
  EXPECT_EQ(slurp(whole / "checkpoint-2" / reference), slurp(whole / "checkpoint-3" / reference));
  EXPECT_NE(slurp(whole / "checkpoint-2" / reference), slurp(whole / "checkpoint-4" / reference));
  for (const int step : {1, 2, 3, 4, 5, 6}) {
    const std::string name = "checkpoint-" + std::to_string(step);
    for (const auto& [file, bytes] : tree_of(whole / name))
      if (file != "args.json" && file != "trainer_state.json") {
        EXPECT_TRUE(bytes == slurp(parted / name / file)) << name << "/" << file;
      }
  }
  EXPECT_EQ(kl_of(whole), kl_of(parted));
}

TEST_F(ReferenceSync, IsRefusedWhereThereIsNothingToMove) {
  const auto refused = [&](const Arguments& more, const char* words) {
    const ProgramResult result = run_program(grpo(folder_ / "refused", kSync + more));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  };
  refused({"--beta", "0"}, "--sync_ref_model: expected false with --beta 0");
  refused({"--tuner_type", "lora"}, "--sync_ref_model: expected false where an adapter is trained");
  const std::string wide = new_model(folder_, "moe", {"--like", "qwen3_moe"});
  refused({"--ref_model", wide}, "--ref_model: expected a model of the policy's shape");
}

}  // namespace
}  // namespace lockstep::testing
