// Several processes that make one run end with the bytes of one process.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/rank_programs.h"
#include "tests/e2e/rollout_process.h"
#include "tests/e2e/same_runs.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::HasSubstr;

class RanksTest : public ::testing::TestWithParam<Training> {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "dense", {"--like", "qwen3_5"});
    new_model(*shared_, "moe", {"--like", "qwen3_moe"});
    // Some questions come twice in a round.
    auto rows = sum_rows(12);
    rows[1] = rows[0];
    rows[6] = rows[5];
    write_rows(*shared_, "rows.jsonl", rows);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static Arguments command(const fs::path& output,
                           const Training& training,
                           const std::string& model = "dense") {
    Arguments all = Arguments{training.command,
                              "--model",
                              (*shared_ / model).string(),
                              "--dataset",
                              (*shared_ / "rows.jsonl").string(),
                              "--output_dir",
                              output.string(),
                              "--quiet"} +
                    short_run(5, 2);
    if (all[0] == "grpo") all = all + short_completions() + Arguments{"--log_completions", "true"};
    return all + training.flags;
  }

  static void run_on(const Arguments& arguments, int64_t size) {
    for (const ProgramResult& result : Ranks(arguments, size).wait()) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.err, "");
    }
  }

  static TempDir* shared_;
  TempDir folder_;
};

TempDir* RanksTest::shared_ = nullptr;

TEST_P(RanksTest, EndInTheBytesOfOneProcess) {
  for (const char* model : {"dense", "moe"}) {
    const fs::path alone = folder_ / fmt::format("{}-1", model);
    run_on(command(alone, GetParam(), model), 1);
    struct Shared {
      int64_t size;
      const char* sharding;
      /// Where the model has experts.
      int64_t experts_over;
    };
    for (const auto& [size, sharding, experts_over] : {Shared{2, "none", 2},
                                                       {2, "full", 1},
                                                       {4, "optimizer", 4},
                                                       {4, "full", 2},
                                                       {8, "full", 1}}) {
      Arguments shared_out{"--sharding", sharding};
      if (model == std::string("moe"))
        shared_out = shared_out + Arguments{"--expert_parallel_size", std::to_string(experts_over)};
      SCOPED_TRACE(fmt::format("{} processes, {}, {}", size, model, fmt::join(shared_out, " ")));
      const fs::path together = folder_ / fmt::format("{}-{}-{}", model, size, sharding);
      run_on(command(together, GetParam(), model) + shared_out, size);
      expect_same_runs(together, alone);
    }
  }
}

TEST_P(RanksTest, GoOnFromACheckpointOfAnyNumberOfRanks) {
  const fs::path whole = folder_ / "whole";
  run_on(command(whole, GetParam()), 1);
  struct Pair {
    int64_t first, second;
    const char *before, *after;
  };
  for (const auto& [first, second, before, after] :
       {Pair{1, 4, "optimizer", "full"}, Pair{4, 2, "full", "none"}, Pair{2, 1, "none", "full"}}) {
    SCOPED_TRACE(fmt::format("{} processes, then {}", first, second));
    const fs::path run = folder_ / fmt::format("{}-{}", first, second);
    run_on(command(run, GetParam()) + Arguments{"--sharding", before}, first);
    const Arguments goes_on{"--resume_from_checkpoint", (run / "checkpoint-2").string()};
    for (const char* later : {"checkpoint-4", "checkpoint-5"}) fs::remove_all(run / later);
    run_on(command(run, GetParam()) + goes_on + Arguments{"--sharding", after}, second);
    expect_same_runs(run, whole);
  }
}

const Training kTrainings[] = {
    {"grpo_full",
     "grpo",
     {"--tuner_type", "full", "--num_iterations", "2", "--gradient_accumulation_steps", "2",
      "--per_device_train_batch_size", "8", "--split_dataset_ratio", "0.2", "--eval_steps", "2",
      "--eval_strategy", "steps"}},
    {"grpo_lora_kl",
     "grpo",
     {"--beta", "0.1", "--per_device_train_batch_size", "12", "--log_entropy", "true"}},
    {"grpo_dynamic",
     "grpo",
     {"--tuner_type", "full", "--dynamic_sample", "true", "--per_device_train_batch_size", "8"}},
    {"sft",
     "sft",
     {"--tuner_type", "full", "--per_device_train_batch_size", "6", "--split_dataset_ratio", "0.2",
      "--eval_steps", "2", "--eval_strategy", "steps"}}};
std::string name_of(const ::testing::TestParamInfo<Training>& training) {
  return training.param.name;
}

INSTANTIATE_TEST_SUITE_P(Trainings, RanksTest, ::testing::ValuesIn(kTrainings), name_of);

class RanksInTrouble : public RanksTest {};
INSTANTIATE_TEST_SUITE_P(Trainings, RanksInTrouble, ::testing::Values(kTrainings[0]), name_of);

TEST_P(RanksInTrouble, ASignalToOneRankStopsAllAtTheSameStep) {
  // An evaluation that is cut short, too: with the second flags one follows the first log line.
  const std::vector<Arguments> variants{
      {}, {"--eval_steps", "1", "--split_dataset_ratio", "0.5", "--num_generations_eval", "32"}};
  for (size_t v = 0; v < variants.size(); ++v) {
    SCOPED_TRACE(fmt::format("variant {}", v));
    const fs::path whole = folder_ / fmt::format("whole-{}", v),
                   run = folder_ / fmt::format("run-{}", v);
    const auto flags = [&](const fs::path& output) {
      return command(output, GetParam()) + variants[v];
    };
    run_on(flags(whole), 1);
    Ranks ranks(flags(run), 2);
    ASSERT_TRUE(wait_until(ranks.at(1), [&] { return count_lines(run / "logging.jsonl") > 0; }));
    ranks.at(1).send(SIGTERM);
    const auto results = ranks.wait();
    for (const ProgramResult& result : results)
      EXPECT_EQ(result.exit_code, 128 + SIGTERM) << result.err;
    EXPECT_THAT(results[0].err, HasSubstr("SIGTERM"));
    run_on(flags(run) + Arguments{"--resume_from_checkpoint", "last"}, 2);
    EXPECT_EQ(logged(run), logged(whole));
    EXPECT_EQ(tree_of(run).at("checkpoint-5/model.safetensors"),
              tree_of(whole).at("checkpoint-5/model.safetensors"));
  }
}

/// Adapters that take turns have a directory each; a step of one lies between two of another.
TEST_P(RanksInTrouble, SeveralAdaptersTakeTurns) {
  const std::string rows = (*shared_ / "rows.jsonl").string();
  const auto run = [&](int64_t size) {
    const fs::path output = folder_ / std::to_string(size);
    const Arguments all = Arguments{"grpo",
                                    "--model",
                                    (*shared_ / "dense").string(),
                                    "--train_adapter",
                                    "a=" + rows,
                                    "b=" + rows,
                                    "--train_adapter_seed",
                                    "b=7",
                                    "--output_dir",
                                    output.string(),
                                    "--max_steps",
                                    "4",
                                    "--save_steps",
                                    "2",
                                    "--report_to",
                                    "none",
                                    "--threads",
                                    "1",
                                    "--per_device_train_batch_size",
                                    "8",
                                    "--log_completions",
                                    "true",
                                    "--quiet"} +
                          short_completions();
    run_on(all, size);
    return output;
  };
  const fs::path alone = run(1), together = run(2);
  for (const char* adapter : {"a", "b"}) expect_same_runs(together / adapter, alone / adapter, 4);
}

/// What rewards and environments in other processes say is placed by completion; how often they
/// fail is counted over all ranks.
TEST_P(RanksInTrouble, TurnsAndRewardsOfOtherProcessesAreSharedOut) {
  const auto environment =
                 folder_.write("environment.py",
                               "import json, sys\n"
                               "for line in sys.stdin:\n"
                               "    said = json.loads(line)\n"
                               "    answer = {}\n"
                               "    if said['op'] == 'step':\n"
                               "        n = len(said['text'])\n"
                               "        answer = {'observation': 'That was %d.' % n,\n"
                               "                  'reward': 0.25 * (n % 2 == 0),\n"
                               "                  'done': said['turn'] == 2 or n % 3 == 0,\n"
                               "                  'infos': {'last': n / 7}}\n"
                               "    print(json.dumps(answer), flush=True)\n"),
             reward = folder_.write("reward.py",
                                    "import json, sys\n"
                                    "for line in sys.stdin:\n"
                                    "    n = len(json.loads(line)['completion'])\n"
                                    "    print('bad' if n % 4 == 3 else n / 13, flush=True)\n");
  // A plugin is told the number of the prompt in the whole round.
  const auto plugin =
      folder_.write("own_plugin.py",
                    "from swift.rewards import ORM, orms\n\n\nclass Own(ORM):\n\n"
                    "    def __call__(self, completions, prompt_id, **kwargs):\n"
                    "        return [float(one.split('-')[-1]) / 10 for one in prompt_id]\n"
                    "\n\norms['own'] = Own\n");
  const Arguments more{"--gym_env",
                       "program:python3 " + environment.string(),
                       "--external_plugins",
                       plugin.string(),
                       "--reward_funcs",
                       "x=program:python3 " + reward.string(),
                       "own",
                       "soft_overlong"};
  const auto run = [&](const fs::path& output, int64_t size) {
    for (const ProgramResult& result : Ranks(command(output, GetParam()) + more, size).wait())
      EXPECT_EQ(result.exit_code, 0) << result.err;
  };
  run(folder_ / "alone", 1);
  double failures = 0;
  for (const Json& row : timeless_rows(folder_ / "alone"))
    failures = std::max(failures, row.value("rewards/x/failures", 0.0));
  EXPECT_GT(failures, 1);
  for (const int64_t size : {2, 4}) {
    SCOPED_TRACE(fmt::format("{} processes", size));
    const fs::path together = folder_ / std::to_string(size);
    run(together, size);
    expect_same_runs(together, folder_ / "alone");
  }
}

/// The first rank alone sends the weights and asks for completions, also of the next batch ahead.
TEST_P(RanksInTrouble, ServersSampleForAllRanks) {
  for (const char* ahead : {"false", "true"}) {
    SCOPED_TRACE(fmt::format("sampled ahead: {}", ahead));
    const auto run = [&](int64_t size) {
      const fs::path output = folder_ / fmt::format("{}-{}", ahead, size);
      Rollout server((*shared_ / "dense").string(), {"--threads", "1"});
      const Arguments served{"--rollout_mode",   "server",
                             "--rollout_server", fmt::format("http://127.0.0.1:{}", server.port()),
                             "--async_generate", ahead};
      run_on(command(output, GetParam()) + served, size);
      fs::remove_all(output / "sync");
      return output;
    };
    const fs::path alone = run(1), together = run(2);
    expect_same_runs(together, alone);
    // Resumed by another number of ranks, from what was sampled ahead.
    for (const char* later : {"checkpoint-4", "checkpoint-5"}) fs::remove_all(together / later);
    Rollout server((*shared_ / "dense").string(), {"--threads", "1"});
    run_on(command(together, GetParam()) +
               Arguments{"--rollout_mode", "server", "--rollout_server",
                         fmt::format("http://127.0.0.1:{}", server.port()), "--async_generate",
                         ahead, "--resume_from_checkpoint", (together / "checkpoint-2").string()},
           4);
    fs::remove_all(together / "sync");
    expect_same_runs(together, alone);
  }
}

TEST_P(RanksInTrouble, AFullDiskEndsAllRanks) {
  const fs::path run = folder_ / "run";
  const auto results =
      Ranks(command(run, GetParam()), 2, {.rank = 0, .world = {.file_limit = 100'000}}).wait();
  EXPECT_EQ(results[0].exit_code, 1) << results[0].err;
  EXPECT_THAT(results[0].err, HasSubstr("File too large"));
  EXPECT_EQ(results[1].exit_code, 3) << results[1].err;
  EXPECT_EQ(results[1].err, "") << "said once a host";
}

TEST_P(RanksInTrouble, ARankWithAnotherFlagOrFileIsNamed) {
  const fs::path run = folder_ / "run";
  const auto results =
      Ranks(command(run, GetParam()), 2, {.rank = 1, .arguments = {"--temperature", "0.8"}}).wait();
  for (const ProgramResult& result : results) EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_THAT(results[0].err, HasSubstr("error[rank-differs]"));
  EXPECT_THAT(results[0].err, HasSubstr("--temperature"));
  EXPECT_THAT(results[0].err, HasSubstr("rank 1"));
  EXPECT_FALSE(fs::exists(run));
}

TEST_P(RanksInTrouble, ExpertsThatRanksCannotShareOutAreRefused) {
  const fs::path output = folder_ / "run";
  for (const auto& [model, degree, expected] :
       {std::tuple("dense", "2", "expected 1 for a model without experts, got 2"),
        {"moe", "4", "expected a divisor of the 2 ranks, got 4"}}) {
    SCOPED_TRACE(model);
    const auto results =
        Ranks(command(output, GetParam(), model) + Arguments{"--expert_parallel_size", degree}, 2)
            .wait();
    for (const ProgramResult& result : results) EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(results[0].err,
              fmt::format("lockstep: error[bad-degree]: --expert_parallel_size: {}\n", expected));
    EXPECT_FALSE(fs::exists(output));
  }
}

/// A script for one process may name them; ranks would be asked to cut what they do not cut.
TEST_P(RanksInTrouble, TensorAndPipelineParallelismAreRefused) {
  for (const char* flag : {"--tensor_model_parallel_size", "--pipeline_model_parallel_size"}) {
    const fs::path run = folder_ / "run";
    for (const ProgramResult& result :
         Ranks(command(run, GetParam()) + Arguments{flag, "2"}, 2).wait()) {
      EXPECT_EQ(result.exit_code, 2) << result.err;
      EXPECT_THAT(result.err, HasSubstr(fmt::format("error[refused-flag]: {}: expected 1", flag)));
      EXPECT_THAT(result.err, HasSubstr("; --sharding full cuts the weights"));
    }
    EXPECT_FALSE(fs::exists(run));
  }
}

TEST_P(RanksInTrouble, AFolderThatIsTakenEndsAllRanks) {
  const fs::path run = folder_ / "run";
  run_on(command(run, GetParam()), 1);
  const auto before = tree_of(run);
  const auto results = Ranks(command(run, GetParam()), 2).wait();
  EXPECT_EQ(results[0].exit_code, 2);
  EXPECT_THAT(results[0].err, HasSubstr("output-exists"));
  EXPECT_EQ(results[1].exit_code, 3);
  EXPECT_EQ(results[1].err, "") << "said once a host";
  EXPECT_EQ(tree_of(run), before);
}

TEST_P(RanksInTrouble, AKilledRankEndsAllWithinTwoSeconds) {
  for (const size_t victim : {size_t{0}, size_t{1}}) {
    const fs::path run = folder_ / fmt::format("killed-{}", victim);
    Ranks ranks(command(run, GetParam()) +
                    Arguments{"--max_steps", "100000", "--num_train_epochs", "100000"},
                4);
    ASSERT_TRUE(
        wait_until(ranks.at(victim), [&] { return count_lines(run / "logging.jsonl") > 0; }));
    ranks.at(victim).send(SIGKILL);
    const auto killed = std::chrono::steady_clock::now();
    const auto results = ranks.wait();
    EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(2));
    std::string said;
    for (size_t rank = 0; rank < 4; ++rank) {
      if (rank != victim) {
        EXPECT_EQ(results[rank].exit_code, 3) << results[rank].err;
      }
      said += results[rank].err;
    }
    EXPECT_THAT(said, HasSubstr("lockstep: error["));
    EXPECT_THAT(said, HasSubstr(" of step "));
    EXPECT_TRUE(fs::exists(run.string() + ".ranks")) << "what lockstep doctor --hang reads";
  }
}

/// A rank that still reads its rows waits for nobody; the other one does.
TEST_P(RanksInTrouble, ASignalToARankThatLoadsEndsAll) {
  write_rows(folder_, "many.jsonl", sum_rows(100'000));
  for (const size_t victim : {size_t{0}, size_t{1}}) {
    SCOPED_TRACE(fmt::format("rank {}", victim));
    const fs::path run = folder_ / fmt::format("run-{}", victim);
    const Arguments more{
        "--dataset", (folder_ / "many.jsonl").string(), "--log_level", "info", "--quiet", "false"};
    Ranks ranks(command(run, GetParam()) + more, 2);
    ASSERT_TRUE(wait_until(ranks.at(0), [&] {
      return ranks.at(0).err().find("memory plan") == std::string::npos &&
             ranks.at(0).err().find("rank 0 of 2") != std::string::npos;
    }));
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    ranks.at(victim).send(SIGTERM);
    const auto signalled = std::chrono::steady_clock::now();
    const auto results = ranks.wait();
    EXPECT_LT(std::chrono::steady_clock::now() - signalled, std::chrono::seconds(20));
    EXPECT_EQ(results[victim].exit_code, 128 + SIGTERM) << results[victim].err;
    EXPECT_EQ(results[1 - victim].exit_code, 3) << results[1 - victim].err;
    EXPECT_FALSE(fs::exists(run));
  }
}

TEST_P(RanksInTrouble, AStoppedRankEndsTheOthersAndIsNamed) {
  for (const size_t victim : {size_t{0}, size_t{2}}) {
    SCOPED_TRACE(victim);
    const fs::path run = folder_ / fmt::format("stopped-{}", victim);
    Ranks ranks(command(run, GetParam()) +
                    Arguments{"--max_steps", "100000", "--num_train_epochs", "100000"},
                4);
    ASSERT_TRUE(
        wait_until(ranks.at(victim), [&] { return count_lines(run / "logging.jsonl") > 0; }));
    ranks.at(victim).send(SIGSTOP);
    const auto stopped = std::chrono::steady_clock::now();
    std::string said;
    for (size_t rank = 0; rank < 4; ++rank) {
      if (rank == victim) continue;
      const ProgramResult result = ranks.at(rank).wait();
      EXPECT_EQ(result.exit_code, 3) << result.err;
      said += result.err;
    }
    // A rank may be silent for ten seconds.
    EXPECT_LT(std::chrono::steady_clock::now() - stopped, std::chrono::seconds(13));
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_THAT(said, HasSubstr(victim == 0 ? "error[store-late]: rank 0: expected an answer"
                                            : "error[rank-silent]: rank 2, "));
    const ProgramResult explained = run_program({"doctor", "--hang", run.string() + ".ranks"});
    EXPECT_EQ(explained.exit_code, 0) << explained.err;
    EXPECT_THAT(explained.out, HasSubstr(fmt::format("rank {} left no record", victim)));
    EXPECT_THAT(explained.out, HasSubstr(fmt::format("rank {} may not have entered ", victim)));
  }
}

TEST_P(RanksInTrouble, AVersionIsAddedOnce) {
  const fs::path run = folder_ / "run";
  run_on(command(run, GetParam()) + Arguments{"--add_version", "true"}, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(run), {}), 1);
}

}  // namespace
}  // namespace lockstep::testing
