// A run that is killed and resumed ends with the bytes of one that never stopped.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;

constexpr int kKills = 4;

uint64_t seed() {
  const char* text = std::getenv("LOCKSTEP_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20;
}

/// A way to train, by the flags that differ.
struct Training {
  const char* name;
  const char* command;
  Arguments flags;
};

void PrintTo(const Training& training, std::ostream* out) { *out << training.name; }

class Resume : public ::testing::TestWithParam<Training> {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    write_rows(*shared_, "rows.jsonl", sum_rows(12));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  Arguments command(const fs::path& output) const {
    const Training& training = GetParam();
    Arguments all = {training.command,
                     "--model",
                     (*shared_ / "model").string(),
                     "--tuner_type",
                     "full",
                     "--dataset",
                     (*shared_ / "rows.jsonl").string(),
                     "--output_dir",
                     output.string(),
                     "--learning_rate",
                     "1e-3",
                     "--logging_steps",
                     "3",
                     "--threads",
                     "1",
                     "--quiet"};
    if (all[0] == "grpo")
      // Completions end at common letters, so that lengths and rewards differ.
      all = all + Arguments{"--reward_funcs",
                            "soft_overlong",
                            "--soft_max_length",
                            "12",
                            "--soft_cache_length",
                            "11",
                            "--max_completion_length",
                            "12",
                            "--num_generations",
                            "4",
                            "--stop_words",
                            "e",
                            "a"};
    return all + training.flags;
  }

  /// Every checkpoint that is there has the bytes of the unbroken run's.
  static void expect_whole_checkpoints(const fs::path& broken, const fs::path& unbroken) {
    if (!fs::exists(broken)) return;
    for (const auto& entry : fs::directory_iterator(broken)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("checkpoint-")) continue;
      for (const auto& [file, bytes] : tree_of(unbroken / name))
        if (file != "args.json" && file != "trainer_state.json") {
          EXPECT_TRUE(bytes == slurp(entry.path() / file)) << name << "/" << file;
        }
    }
    if (fs::exists(fs::symlink_status(broken / "last"))) {
      EXPECT_TRUE(fs::exists(broken / "last" / "trainer_state.json"));
    }
  }

  /// logging.jsonl without what depends on the clock and the machine.
  static std::vector<Json> metrics_of(const fs::path& run) {
    std::vector<Json> rows = read_rows(run / "logging.jsonl");
    for (Json& row : rows)
      for (const char* key : {"elapsed_time", "remaining_time", "memory(GiB)", "train_speed(s/it)",
                              "train_runtime", "last_model_checkpoint"})
        row.erase(key);
    return rows;
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

/// True while a checkpoint is being written.
bool is_saving(const fs::path& run) {
  std::error_code gone;  // entries come and go meanwhile
  for (fs::directory_iterator entry(run, gone), end; !gone && entry != end; entry.increment(gone))
    if (entry->path().filename().string().starts_with(".checkpoint-")) return true;
  return false;
}

TEST_P(Resume, AKilledRunEndsWithTheBytesOfAnUnbrokenOne) {
  SCOPED_TRACE("LOCKSTEP_TEST_SEED=" + std::to_string(seed()));
  const fs::path unbroken = folder_ / "unbroken", broken = folder_ / "broken";
  const auto begin = std::chrono::steady_clock::now();
  run_well(command(unbroken));
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;

  std::mt19937_64 random(seed());
  std::uniform_real_distribution<double> share(0.2, 0.9);
  const Arguments resumed = command(broken) + Arguments{"--resume_from_checkpoint", "last"};
  for (int kill = 0; kill < kKills; ++kill) {
    const std::chrono::duration<double> delay = whole * share(random);
    RunningProgram program(resumed);
    // Every other time in the middle of a save, else anywhere.
    if (kill % 2) {
      wait_until(program, [&] { return is_saving(broken); });
    } else {
      std::this_thread::sleep_for(delay);
    }
    program.send(SIGKILL);
    const ProgramResult result = program.wait();
    // A run that was through before its time came must have ended well.
    EXPECT_TRUE(result.exit_code == 128 + SIGKILL || result.exit_code == 0) << result.err;
    expect_whole_checkpoints(broken, unbroken);
  }
  run_well(resumed);

  expect_whole_checkpoints(broken, unbroken);
  EXPECT_EQ(fs::read_symlink(broken / "last"), fs::read_symlink(unbroken / "last"));
  EXPECT_TRUE(slurp(broken / "last" / "model.safetensors") ==
              slurp(unbroken / "last" / "model.safetensors"));
  EXPECT_TRUE(slurp(broken / "last" / "optimizer.safetensors") ==
              slurp(unbroken / "last" / "optimizer.safetensors"));
  EXPECT_TRUE(slurp(broken / "completions.jsonl") == slurp(unbroken / "completions.jsonl"));
  EXPECT_EQ(metrics_of(broken), metrics_of(unbroken));
  EXPECT_THAT(temporaries_in(broken), IsEmpty());
  // The weights did move: equal bytes of a run that does nothing would show nothing.
  EXPECT_FALSE(slurp(unbroken / "last" / "model.safetensors") ==
               slurp(*shared_ / "model" / "model.safetensors"));
  run_well({"score", "--model", (broken / "last").string(), "--dataset",
            (*shared_ / "rows.jsonl").string()});
}

TEST_P(Resume, ARunThatGoesOnFromAnEarlierCheckpointCutsItsLogsBack) {
  const fs::path run = folder_ / "run";
  run_well(command(run));
  const std::string completions = slurp(run / "completions.jsonl"),
                    weights = slurp(run / "last" / "model.safetensors");
  const std::vector<Json> metrics = metrics_of(run);
  std::vector<int> steps;
  for (const auto& entry : fs::directory_iterator(run))
    if (const std::string name = entry.path().filename().string(); name.starts_with("checkpoint-"))
      steps.push_back(std::stoi(name.substr(11)));
  const int earliest = *std::min_element(steps.begin(), steps.end());
  run_well(command(run) + Arguments{"--resume_from_checkpoint",
                                    (run / ("checkpoint-" + std::to_string(earliest))).string()});
  EXPECT_TRUE(slurp(run / "completions.jsonl") == completions);
  EXPECT_TRUE(slurp(run / "last" / "model.safetensors") == weights);
  EXPECT_EQ(metrics_of(run), metrics);
}

INSTANTIATE_TEST_SUITE_P(
    Trainings,
    Resume,
    ::testing::Values(
        Training{"OnPolicy", "grpo", {"--max_steps", "7", "--save_steps", "2"}},
        // Checkpoints in the middle of a generation buffer.
        Training{"GenerationOfFourSteps",
                 "grpo",
                 {"--max_steps", "8", "--save_steps", "3", "--steps_per_generation", "4",
                  "--gradient_accumulation_steps", "1", "--beta", "0"}},
        Training{"TwoIterations",
                 "grpo",
                 {"--max_steps", "6", "--save_steps", "1", "--num_iterations", "2",
                  "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "2"}},
        Training{"Sft",
                 "sft",
                 {"--max_steps", "9", "--save_steps", "2", "--per_device_train_batch_size", "2",
                  "--gradient_accumulation_steps", "2"}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lockstep::testing
