// Completions in several turns through the whole program: an environment or a tool answers between
// them, in colocate and server mode, over a resume, and where it fails.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/judged_run.h"
#include "tests/e2e/rollout_process.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// An environment that answers each turn with its length, at most three times, and rewards turns of
/// an even length; it writes down what it was told. `sometimes` stands at the head of a step.
std::string environment_text(const std::string& log, const std::string& sometimes) {
  return "import json, sys, time\n"
         "log = open('" +
         log +
         "', 'a')\n"
         "for line in sys.stdin:\n"
         "    said = json.loads(line)\n"
         "    answer = {}\n"
         "    if said['op'] == 'step':\n" +
         sometimes +
         "        n = len(said['text'])\n"
         "        answer = {'observation': 'That was %d.' % n, 'reward': 0.25 * (n % 2 == 0),\n"
         "                  'done': said['turn'] == 3 or n % 3 == 0, 'infos': {'last': n}}\n"
         "        log.write(json.dumps([said['id'], said['turn'], answer['reward']]) + '\\n')\n"
         "        log.flush()\n"
         "    print(json.dumps(answer), flush=True)\n";
}

class Turns : public JudgedRun {
 protected:
  std::string environment(const std::string& sometimes = "") const {
    const std::string log = (folder_ / "told.jsonl").string();
    return "program:python3 " +
           folder_.write("environment.py", environment_text(log, sometimes)).string();
  }
  Arguments in_turns(const std::string& output, const Arguments& more = {}) const {
    return JudgedRun::grpo("sums.jsonl", Arguments{"--gym_env", environment(), "--output_dir",
                                                   (folder_ / output).string(), "--stop_words", "e",
                                                   "a", "--learning_rate", "1e-3"} +
                                             more);
  }
  std::vector<Json> rows(const std::string& run, const std::string& file) const {
    return read_rows(folder_ / run / file);
  }
};

TEST_F(Turns, OnlyWhatWasSampledIsLearnedFrom) {
  run_well(in_turns("run"));
  const Json texts = logged("completion"), masks = logged("completion_mask"),
             ids = logged("token_ids"), turns = logged("num_turns"), rewards = logged("gym_reward"),
             infos = logged("rollout_infos");
  ASSERT_EQ(texts.size(), 16u);
  double sampled = 0;
  std::set<int64_t> seen;
  for (size_t i = 0; i < 16; ++i) {
    ASSERT_EQ(masks[i].size(), ids[i].size());
    seen.insert(turns[i].get<int64_t>());
    int64_t begun = 0, count = 0;
    for (size_t t = 0; t < masks[i].size(); ++t) {
      count += masks[i][t].get<int64_t>();
      begun += masks[i][t] == 1 && (t == 0 || masks[i][t - 1] == 0);
    }
    EXPECT_EQ(begun, turns[i]) << texts[i];
    EXPECT_EQ(masks[i].back(), 1);
    EXPECT_LE(count, 12 * turns[i].get<int64_t>());
    sampled += static_cast<double>(count) / 16;
    const std::string text = texts[i];
    EXPECT_EQ(text.find("<|im_start|>user\nThat was") != text.npos, turns[i] > 1) << text;
    EXPECT_EQ(rewards[i], infos[i]["total_reward"]);
    EXPECT_EQ(infos[i]["num_turns"], turns[i]);
  }
  EXPECT_GT(seen.size(), 1u);
  // The rewards are the sums of what the environment has given.
  double given = 0, taken = 0;
  for (const Json& line : read_rows(folder_ / "told.jsonl")) given += line[2].get<double>();
  for (const Json& reward : rewards) taken += reward.get<double>();
  EXPECT_EQ(given, taken);
  double mean = 0;
  for (const Json& line : log()) {
    if (!line.contains("num_turns")) continue;
    // Trainer and sampler agree about every token of every turn, by each bit: the ids are those
    // that the sampler saw.
    EXPECT_EQ(line["train/sampler_logprob_max_diff"], 0);
    EXPECT_GT(line["num_turns"], 1);
    mean += line["completions/mean_length"].get<double>() / 2;
  }
  EXPECT_NEAR(mean, sampled, 1e-6);
}

TEST_F(Turns, ServersSampleTheSameBytes) {
  run_well(in_turns("colocate"));
  Rollout server((*shared_ / "model").string(), {"--threads", "1"});
  run_well(in_turns("served", {"--rollout_mode", "server", "--rollout_server",
                               fmt::format("http://127.0.0.1:{}", server.port())}));
  EXPECT_EQ(rows("served", "completions.jsonl"), rows("colocate", "completions.jsonl"));
  const fs::path weights = fs::path("checkpoint-2") / "model.safetensors";
  EXPECT_EQ(tree_of(folder_ / "served/checkpoint-2")["model.safetensors"],
            tree_of(folder_ / "colocate/checkpoint-2")["model.safetensors"]);
  // The server went on from what it had computed of the turns before.
  EXPECT_GT(std::stod(server.metric("vllm:prefix_cache_hits_total")), 0);
}

TEST_F(Turns, AServerSaysWhichTurnsTheTrainerMakes) {
  run_well(in_turns("own", {"--max_turns", "2"}));
  Rollout server((*shared_ / "model").string(),
                 {"--threads", "1", "--gym_env", environment(), "--max_turns", "2"});
  const auto served = [&](const std::string& output, const std::string& host) {
    return JudgedRun::grpo(
        "sums.jsonl", {"--output_dir", (folder_ / output).string(), "--stop_words", "e", "a",
                       "--learning_rate", "1e-3", "--rollout_mode", "server", "--rollout_server",
                       fmt::format("http://{}:{}", host, server.port())});
  };
  const ProgramResult run = run_well(served("told", "127.0.0.1"));
  EXPECT_THAT(run.err, HasSubstr("turns: as http://127.0.0.1"));
  EXPECT_EQ(rows("told", "completions.jsonl"), rows("own", "completions.jsonl"));
  EXPECT_EQ(parse_json(slurp(folder_ / "told" / "args.json"), "args")["max_turns"], 2);
  // Only the first server is asked: a run that would not make the turns of another one ends.
  Rollout plain((*shared_ / "model").string(), {"--threads", "1"});
  const ProgramResult refused = run_program(
      served("refused", "127.0.0.1") +
      Arguments{"--rollout_server", fmt::format("http://127.0.0.1:{}", plain.port()),
                fmt::format("http://127.0.0.1:{}", server.port()), "--reward_funcs", "accuracy"});
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_THAT(refused.err, HasSubstr("started without flags of turns"));
}

TEST_F(Turns, AResumedRunHasTheSameBytes) {
  // A generation batch serves two steps, and groups wait for the next one.
  const Arguments often{"--steps_per_generation", "2", "--max_steps",      "4",
                        "--save_steps",           "1", "--dynamic_sample", "true",
                        "--max_resample_times",   "2"};
  run_well(in_turns("whole", often));
  for (const char* from : {"1", "2", "3"}) {
    const std::string name = std::string("resumed-") + from;
    fs::copy(folder_ / "whole", folder_ / name,
             fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    run_well(in_turns(name, often + Arguments{"--resume_from_checkpoint",
                                              (folder_ / name / "checkpoint-").string() + from}));
    EXPECT_EQ(tree_of(folder_ / name / "checkpoint-4")["model.safetensors"],
              tree_of(folder_ / "whole/checkpoint-4")["model.safetensors"])
        << from;
    EXPECT_EQ(rows(name, "completions.jsonl"), rows("whole", "completions.jsonl")) << from;
  }
}

TEST_F(Turns, ExpertsAreReplayedOverAllTurns) {
  new_model(folder_, "experts", {"--like", "qwen3_moe"});
  const Arguments replays{"--model",
                          (folder_ / "experts").string(),
                          "--router_replay_mode",
                          "R3",
                          "--steps_per_generation",
                          "2",
                          "--per_device_train_batch_size",
                          "4"};
  run_well(in_turns("colocate", replays));
  Rollout server((folder_ / "experts").string(), {"--threads", "1"});
  run_well(
      in_turns("served", replays + Arguments{"--rollout_mode", "server", "--rollout_server",
                                             fmt::format("http://127.0.0.1:{}", server.port())}));
  EXPECT_EQ(tree_of(folder_ / "served/checkpoint-2")["model.safetensors"],
            tree_of(folder_ / "colocate/checkpoint-2")["model.safetensors"]);
  // So says the trainer, too.
  run_well(in_turns("trainer", replays + Arguments{"--router_replay_mode", "R2"}));
  EXPECT_EQ(tree_of(folder_ / "trainer/checkpoint-2")["model.safetensors"],
            tree_of(folder_ / "colocate/checkpoint-2")["model.safetensors"]);
  double turns = 0;
  for (const Json& line : rows("colocate", "logging.jsonl")) {
    turns = std::max(turns, line.value("num_turns", 0.0));
    // On policy the routers themselves would have chosen the same.
    if (line.value("global_step/max_steps", "") == "1/2") {
      EXPECT_EQ(line["router_replay/changed_ratio"], 0);
    }
  }
  EXPECT_GT(turns, 1);
}

TEST_F(Turns, AnEnvironmentThatHangsOrDiesLosesItsTrajectories) {
  const std::string hangs =
      "        if said['turn'] == 2 and said['id'].endswith('-1'): time.sleep(60)\n"
      "        if said['turn'] == 2 and said['id'].endswith('-2'): sys.exit(3)\n";
  const ProgramResult run =
      run_well(JudgedRun::grpo("sums.jsonl", {"--gym_env", environment(hangs), "--stop_words", "e",
                                              "a", "--tool_timeout", "1", "--tool_workers", "4"}));
  EXPECT_THAT(run.err, HasSubstr("environment environment: expected an answer, got"));
  int64_t lost = 0;
  const Json rewards = logged("gym_reward");
  for (const Json& reward : rewards) lost += reward.is_null();
  EXPECT_GT(lost, 0);
  EXPECT_LT(lost, std::ssize(rewards));
}

TEST_F(Turns, TooManyFailuresEndTheRun) {
  const ProgramResult run =
      run_program(JudgedRun::grpo("sums.jsonl", {"--gym_env", environment("        sys.exit(3)\n"),
                                                 "--tool_max_failures", "1"}));
  EXPECT_NE(run.exit_code, 0);
  EXPECT_THAT(run.err, HasSubstr("--tool_max_failures"));
}

TEST_F(Turns, WhatDoesNotGoTogetherIsSaid) {
  const auto refused = [&](const Arguments& more, const char* expected) {
    const ProgramResult run = run_program(in_turns("refused", more));
    EXPECT_NE(run.exit_code, 0);
    EXPECT_THAT(run.err, HasSubstr(expected));
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  };
  refused({"--reuse_rollout_activations", "true"}, "--reuse_rollout_activations");
  refused({"--rollout_mode", "server", "--rollout_server", "http://127.0.0.1:1", "--async_generate",
           "true"},
          "--async_generate");
  const ProgramResult run = run_program(
      JudgedRun::grpo("sums.jsonl", {"--reward_funcs", "accuracy", "--max_turns", "3"}));
  EXPECT_THAT(run.err, HasSubstr("expected --tools, --multi_turn_scheduler or --gym_env"));
}

}  // namespace
}  // namespace lockstep::testing
