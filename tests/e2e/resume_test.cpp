// A run that is killed and resumed ends with the bytes of one that never stopped.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/training.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kKills = 4;

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
    if (all[0] == "grpo") all = all + short_completions();
    return all + training.flags;
  }

  /// Every checkpoint that is there has the bytes of the unbroken run's.
  static void expect_whole_checkpoints(const fs::path& broken, const fs::path& unbroken) {
    if (!fs::exists(broken)) return;
    for (const auto& entry : fs::directory_iterator(broken)) {
      const std::string name = entry.path().filename().string();
      // With a limit the unbroken run has deleted its first ones.
      if (!name.starts_with("checkpoint-") || !fs::exists(unbroken / name)) continue;
      for (const auto& [file, bytes] : tree_of(unbroken / name))
        if (file != "args.json" && file != "trainer_state.json") {
          EXPECT_TRUE(bytes == slurp(entry.path() / file)) << name << "/" << file;
        }
    }
    if (fs::exists(fs::symlink_status(broken / "last"))) {
      EXPECT_TRUE(fs::exists(broken / "last" / "trainer_state.json"));
    }
  }

  static std::set<std::string> names_in(const fs::path& run) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run))
      names.insert(entry.path().filename().string());
    return names;
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
  const fs::path unbroken = folder_ / "unbroken", broken = folder_ / "broken";
  const auto begin = std::chrono::steady_clock::now();
  run_well(command(unbroken));
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;

  std::mt19937_64 random(test_seed(20));
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
  EXPECT_EQ(names_in(broken), names_in(unbroken));
  EXPECT_EQ(fs::read_symlink(broken / "last"), fs::read_symlink(unbroken / "last"));
  EXPECT_TRUE(slurp(broken / "last" / "model.safetensors") ==
              slurp(unbroken / "last" / "model.safetensors"));
  EXPECT_TRUE(slurp(broken / "last" / "training_state" / "optimizer.safetensors") ==
              slurp(unbroken / "last" / "training_state" / "optimizer.safetensors"));
  EXPECT_TRUE(slurp(broken / "completions.jsonl") == slurp(unbroken / "completions.jsonl"));
  EXPECT_EQ(timeless_rows(broken), timeless_rows(unbroken));
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
  const std::vector<Json> metrics = timeless_rows(run);
  std::vector<int> steps;
  for (const auto& entry : fs::directory_iterator(run))
    if (const std::string name = entry.path().filename().string(); name.starts_with("checkpoint-"))
      steps.push_back(std::stoi(name.substr(11)));
  const int earliest = *std::min_element(steps.begin(), steps.end());
  ASSERT_LT(earliest, *std::max_element(steps.begin(), steps.end()));
  const fs::path from = run / ("checkpoint-" + std::to_string(earliest));
  const auto resumed = run_well(
      command(run) + Arguments{"--quiet", "false", "--resume_from_checkpoint", from.string()});
  EXPECT_THAT(resumed.err, HasSubstr("holds steps that this run makes again"));
  EXPECT_TRUE(slurp(run / "completions.jsonl") == completions);
  EXPECT_TRUE(slurp(run / "last" / "model.safetensors") == weights);
  EXPECT_EQ(timeless_rows(run), metrics);
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
        // Epochs of twelve micro-steps by fives: the third step of each has two.
        Training{"ShortLastSteps",
                 "grpo",
                 {"--max_steps", "7", "--save_steps", "2", "--steps_per_generation", "4",
                  "--gradient_accumulation_steps", "5", "--beta", "0"}},
        // Groups of two that often have equal rewards: others wait from one batch to the next.
        Training{"DynamicSampling",
                 "grpo",
                 {"--max_steps", "8", "--save_steps", "1", "--dynamic_sample", "true",
                  "--num_generations", "2", "--per_device_train_batch_size", "4"}},
        // What a step keeps in mind for later ones, and what a buffer holds of its tokens.
        Training{"EntropyAndCorrection",
                 "grpo",
                 {"--max_steps", "8", "--save_steps", "3", "--num_iterations", "2",
                  "--entropy_coef", "0.01", "--use_adaptive_entropy", "true", "--entropy_target",
                  "20", "--top_entropy_quantile", "0.7", "--rollout_importance_sampling_mode",
                  "sequence_truncate"}},
        Training{"Bfloat16KeepingTwo",
                 "grpo",
                 {"--max_steps", "7", "--save_steps", "1", "--torch_dtype", "bfloat16",
                  "--save_total_limit", "2"}},
        Training{"Sft",
                 "sft",
                 {"--max_steps", "9", "--save_steps", "2", "--per_device_train_batch_size", "2",
                  "--gradient_accumulation_steps", "2"}},
        // The worst of falling losses: the first checkpoint is the best and stays.
        Training{"EndingWithTheBest",
                 "sft",
                 {"--max_steps", "9", "--save_steps", "2", "--per_device_train_batch_size", "4",
                  "--split_dataset_ratio", "0.25", "--load_best_model_at_end", "true",
                  "--greater_is_better", "true", "--save_total_limit", "1"}}),
    [](const auto& test) { return test.param.name; });

/// What a resume is refused for, and what it is not.
class ResumeChecks : public ::testing::Test {
 protected:
  ResumeChecks()
      : model_(new_model(folder_, "model", {"--like", "qwen3_5"})),
        rows_(write_rows(folder_, "rows.jsonl", sum_rows(12))) {}

  Arguments command(const std::string& name, const fs::path& output, const Arguments& more) const {
    Arguments all{name,
                  "--model",
                  model_,
                  "--tuner_type",
                  "full",
                  "--dataset",
                  rows_,
                  "--output_dir",
                  output,
                  "--logging_steps",
                  "1",
                  "--threads",
                  "1",
                  "--quiet",
                  "--save_steps",
                  "1"};
    if (name == "grpo")
      all =
          all +
          Arguments{
              "--reward_funcs", "format", "--num_generations", "2", "--max_completion_length", "4",
              "--beta",         "0"};
    return all + more;
  }
  void expect_refused(const Arguments& arguments, const std::string& words) const {
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, ::testing::HasSubstr(words));
  }

  TempDir folder_;
  std::string model_, rows_;
};

/// From a step after which groups wait, which the checkpoint keeps.
TEST_F(ResumeChecks, GroupsThatWaitedGoOnWaiting) {
  const fs::path run = folder_ / "run";
  const auto dynamic = [&](const Arguments& more) {
    return command("grpo", run, {}) + short_completions() +
           Arguments{"--num_generations",
                     "2",
                     "--per_device_train_batch_size",
                     "4",
                     "--learning_rate",
                     "1e-3",
                     "--dynamic_sample",
                     "true",
                     "--max_steps",
                     "10"} +
           more;
  };
  run_well(dynamic({}));
  const auto before = timeless_rows(run);
  const std::string weights = slurp(run / "last" / "model.safetensors");
  std::string from;
  for (const Json& line : before)
    if (line.value("dynamic_sample/waiting_groups", 0.0) > 0 && from.empty())
      from = line.at("global_step/max_steps").get<std::string>();
  ASSERT_NE(from, "");
  from = from.substr(0, from.find('/'));
  ASSERT_LT(std::stoi(from), 9);
  run_well(dynamic({"--resume_from_checkpoint", run / ("checkpoint-" + from)}));
  EXPECT_EQ(timeless_rows(run), before);
  EXPECT_TRUE(slurp(run / "last" / "model.safetensors") == weights);
}

TEST_F(ResumeChecks, OtherBatchesOrAnotherCommandAreRefused) {
  const fs::path run = folder_ / "run";
  run_well(command("grpo", run, {"--max_steps", "3", "--steps_per_generation", "2"}));
  const auto before = tree_of(run);
  const Arguments last{"--resume_from_checkpoint", "last", "--max_steps", "5"};
  for (const Arguments& other :
       {Arguments{"--steps_per_generation", "4"},
        Arguments{"--steps_per_generation", "2", "--per_device_train_batch_size", "4"},
        Arguments{"--steps_per_generation", "2", "--data_seed", "1"}})
    expect_refused(command("grpo", run, last + other), "resume-changed");
  expect_refused(command("sft", run, last), "expected a checkpoint of sft, got one of grpo");
  EXPECT_TRUE(tree_of(run) == before);
}

TEST_F(ResumeChecks, WhatChangesTheRunIsRefusedWithBothValues) {
  const fs::path run = folder_ / "run";
  const Arguments loss{"--beta", "0.04", "--temperature", "1"};
  const Arguments two = loss + Arguments{"--max_steps", "2"};
  run_well(command("grpo", run, two));
  // Where nothing has changed, nothing is said.
  const auto same = run_well(command(
      "grpo", run, two + Arguments{"--resume_from_checkpoint", "last", "--quiet", "false"}));
  EXPECT_THAT(same.err, HasSubstr("resume: "));
  EXPECT_THAT(same.err, ::testing::Not(HasSubstr("these changes")));
  const Arguments last = loss + Arguments{"--resume_from_checkpoint", "last", "--max_steps", "3"};
  const auto before = tree_of(run);
  const std::string other_model = new_model(folder_, "other", {"--like", "qwen3_5", "--seed", "7"});
  const std::string other_rows = write_rows(folder_, "other.jsonl", sum_rows(11));
  const struct {
    Arguments flags;
    std::string words;
  } changes[] = {
      {{"--beta", "0.1"}, "beta 0.04 before and 0.1 now"},
      {{"--temperature", "0.5"}, "temperature 1.0 before and 0.5 now"},
      {{"--seed", "7"}, "seed 42 before and 7 now"},
      {{"--loss_type", "dapo"}, "loss_type \"grpo\" before and \"dapo\" now"},
      // It needs a length that format does not: that is told too.
      {{"--reward_funcs", "soft_overlong", "--soft_cache_length", "2"},
       "[\"format\"] before and [\"soft_overlong\"] now; soft_cache_length null before and 2 now"},
      {{"--max_completion_length", "5"}, "max_completion_length 4 before and 5 now"},
      {{"--num_generations", "4"}, "num_generations 2 before and 4 now"},
      {{"--system", "Be brief."}, "system \"\" (content none) before"},
      {{"--learning_rate", "1"}, "learning_rate 1e-05 before and 1.0 now"},
      {{"--dataset", other_rows}, "other.jsonl\"] (content "},
      {{"--model", other_model}, "other\" (content "},
      {{"--beta", "0.1", "--seed", "7"}, "beta 0.04 before and 0.1 now; seed 42 before and 7 now"},
  };
  for (const auto& change : changes) {
    expect_refused(command("grpo", run, last + change.flags), "error[resume-changed]");
    expect_refused(command("grpo", run, last + change.flags), change.words);
  }
  EXPECT_TRUE(tree_of(run) == before);

  // The same bytes elsewhere are the same data and the same model; what does not matter is said.
  fs::copy(model_, folder_ / "copy", fs::copy_options::recursive);
  fs::copy(rows_, folder_ / "copy.jsonl");
  const auto moved = run_well(
      command("grpo", run,
              last + Arguments{"--model", folder_ / "copy", "--dataset", folder_ / "copy.jsonl",
                               "--logging_steps", "2", "--quiet", "false"}));
  EXPECT_THAT(moved.err, HasSubstr("resume: these changes leave what is trained as it is: "));
  for (const char* words : {"copy.jsonl\"] now", "logging_steps 1 before and 2 now"})
    EXPECT_THAT(moved.err, HasSubstr(words));

  const auto changed =
      run_well(command("grpo", run,
                       last + Arguments{"--max_steps", "4", "--beta", "0.1", "--num_generations",
                                        "4", "--dataset", other_rows, "--resume_changed", "true"}));
  for (const char* words : {"beta 0.04 before and 0.1 now", "num_generations 2 before and 4 now"})
    EXPECT_THAT(changed.err, HasSubstr(words));
  EXPECT_EQ(fs::read_symlink(run / "last"), "checkpoint-4");
}

TEST_F(ResumeChecks, AnotherRunsDirectoryIsNotWrittenInto) {
  const fs::path first = folder_ / "first", second = folder_ / "second";
  for (const fs::path& run : {first, second}) run_well(command("sft", run, {"--max_steps", "2"}));
  const auto before = tree_of(second);
  const Arguments resume{"--resume_from_checkpoint", (first / "checkpoint-1").string(),
                         "--max_steps", "3"};
  expect_refused(command("sft", second, resume), "output-exists");
  EXPECT_TRUE(tree_of(second) == before);
  run_well(command("sft", folder_ / "third", resume));  // a new folder is a run of its own
  EXPECT_EQ(fs::read_symlink(folder_ / "third" / "last"), "checkpoint-3");
  EXPECT_EQ(read_rows(folder_ / "third" / "logging.jsonl")[0].at("global_step/max_steps"), "2/3");
}

TEST_F(ResumeChecks, LastFindsTheNewestCheckpointWithoutItsLink) {
  const fs::path run = folder_ / "run";
  run_well(command("sft", run, {"--max_steps", "3"}));
  fs::remove(run / "last");
  run_well(command("sft", run, {"--max_steps", "4", "--resume_from_checkpoint", "last"}));
  for (int step = 1; step <= 4; ++step)
    EXPECT_TRUE(fs::exists(run / ("checkpoint-" + std::to_string(step)))) << step;
  // Step 4 alone was done.
  EXPECT_EQ(read_rows(run / "logging.jsonl").size(), 5u);
}

/// A bucket, or a copy that follows links, makes a folder of `last`.
TEST_F(ResumeChecks, ACopyWhoseLastIsAFolderGoesOn) {
  for (const bool has_all : {true, false}) {
    const fs::path run = folder_ / (has_all ? "all" : "last only");
    run_well(command("sft", run, {"--max_steps", "2"}));
    fs::remove(run / "last");
    fs::copy(run / "checkpoint-2", run / "last", fs::copy_options::recursive);
    if (!has_all) fs::remove_all(run / "checkpoint-2");
    run_well(command("sft", run, {"--max_steps", "3", "--resume_from_checkpoint", "last"}));
    EXPECT_EQ(fs::read_symlink(run / "last"), "checkpoint-3");
    for (int step = 1; step <= 3; ++step)
      EXPECT_TRUE(fs::exists(run / ("checkpoint-" + std::to_string(step)) / "config.json")) << step;
  }
}

TEST_F(ResumeChecks, ANewestVersionGoesOn) {
  const fs::path base = folder_ / "base";
  const Arguments versioned{"--add_version", "true"};
  run_well(command("sft", base, versioned + Arguments{"--max_steps", "1"}));
  run_well(command("sft", base,
                   versioned + Arguments{"--max_steps", "2", "--resume_from_checkpoint", "last"}));
  ASSERT_EQ(std::distance(fs::directory_iterator(base), {}), 1);
  EXPECT_TRUE(fs::exists(fs::directory_iterator(base)->path() / "checkpoint-2"));
}

TEST_F(ResumeChecks, AFolderThatIsNoRunIsLeftAlone) {
  const fs::path other = folder_ / "other";
  fs::create_directories(other);
  folder_.write("other/logging.jsonl", "mine\n");
  folder_.write("other/args.json", "{\"mine\": true}");
  const auto before = tree_of(other);
  expect_refused(command("sft", other, {"--resume_from_checkpoint", "last"}), "output-exists");
  EXPECT_TRUE(tree_of(other) == before);
}

/// Loaders such as vLLM's take every *.safetensors next to config.json for weights.
TEST_F(ResumeChecks, WhatIsNeededToResumeLiesApartFromTheWeights) {
  const fs::path run = folder_ / "run", older = folder_ / "older";
  const Arguments four{"--steps_per_generation", "4"};
  run_well(command("grpo", run, four + Arguments{"--max_steps", "6"}));
  const fs::path checkpoint = run / "checkpoint-5", state = checkpoint / "training_state";
  for (const auto& entry : fs::directory_iterator(checkpoint)) {
    if (entry.path().extension() == ".safetensors") {
      EXPECT_EQ(entry.path().filename(), "model.safetensors");
    }
  }
  ASSERT_TRUE(fs::exists(state / "optimizer.safetensors"));
  ASSERT_TRUE(fs::exists(state / "rollout_buffer.safetensors"));
  EXPECT_TRUE(fs::exists(checkpoint / "trainer_state.json"));
  // An exported checkpoint is one for others: the state is left out without a word.
  const auto exported =
      run_well({"export", "--model", checkpoint, "--output_dir", folder_ / "out"});
  EXPECT_THAT(exported.err, ::testing::Not(HasSubstr("training_state")));
  EXPECT_FALSE(fs::exists(folder_ / "out" / "training_state"));

  // Older checkpoints had it next to the weights, and can be resumed all the same.
  fs::copy(checkpoint, older, fs::copy_options::recursive);
  for (const char* file : {"optimizer.safetensors", "rollout_buffer.safetensors"})
    fs::rename(older / "training_state" / file, older / file);
  fs::remove(older / "training_state");
  const Arguments resume = four + Arguments{"--max_steps", "6", "--resume_from_checkpoint"};
  run_well(command("grpo", folder_ / "next", resume + Arguments{older}));
  for (const char* file : {"model.safetensors", "training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(folder_ / "next" / "last" / file) == slurp(run / "last" / file)) << file;
}

TEST_F(ResumeChecks, AnotherTrainersCheckpointGivesWeightsAndStepCount) {
  const fs::path run = folder_ / "run";
  run_well(command("sft", run, {"--max_steps", "3"}));
  // What transformers' Trainer leaves: its own state, in files that this program does not read.
  fs::remove_all(run / "checkpoint-3" / "training_state");
  fs::remove(run / "checkpoint-3" / "args.json");
  folder_.write("run/checkpoint-3/optimizer.pt", "");
  folder_.write(
      "run/checkpoint-3/trainer_state.json",
      "{\"global_step\": 3, \"epoch\": 0.25, \"log_history\": [{\"loss\": 1.5, \"step\": 1}]}");
  const auto next =
      run_well(command("grpo", folder_ / "next",
                       {"--resume_from_checkpoint", (run / "checkpoint-3").string(), "--max_steps",
                        "6", "--steps_per_generation", "2", "--quiet", "false"}));
  EXPECT_EQ(fs::read_symlink(folder_ / "next" / "last"), "checkpoint-6");
  EXPECT_THAT(next.err, HasSubstr("is another trainer's checkpoint: weights and step count are "
                                  "taken, nothing else"));
  folder_.write("run/checkpoint-3/trainer_state.json",
                "{\"global_step\": 3, \"lockstep\": {\"command\": \"sft\"}}");
  expect_refused(command("sft", run, {"--resume_from_checkpoint", "last"}),
                 "expected a number of at least 0 in lockstep.num_tokens, got none");
}

/// A checkpoint of before the plan was recorded: its cursor is taken, the plan is not compared.
TEST_F(ResumeChecks, AnOlderCheckpointWithoutAPlanGoesOnToTheSameBytes) {
  const fs::path run = folder_ / "run", older = folder_ / "older-5";
  const Arguments four{"--steps_per_generation", "4", "--max_steps", "6"};
  run_well(command("grpo", run, four));
  fs::copy(run / "checkpoint-5", older, fs::copy_options::recursive);
  Json state = parse_json_file(older / "trainer_state.json");
  ASSERT_EQ(state["lockstep"].erase("plan"), 1u);
  folder_.write("older-5/trainer_state.json", state.dump());
  run_well(command("grpo", folder_ / "next",
                   four + Arguments{"--resume_from_checkpoint", older.string()}));
  for (const char* file : {"model.safetensors", "training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(folder_ / "next" / "last" / file) == slurp(run / "last" / file)) << file;
}

}  // namespace
}  // namespace lockstep::testing
