// A wrong kernel in one layer of the program itself: the run stops and names the layer, however a
// step gets its forward.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/rank_programs.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

/// A swap of tests/e2e/swapped_ops.h.
struct Wrong {
  const char* op;
  int layer;
  /// What the error must name.
  const char* where;
  const char* text;
};
constexpr Wrong kNone{"none", -1, "", ""};

class Inexact : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ::setenv("LOCKSTEP_TEST_PROGRAM", LOCKSTEP_SWAPPED_PROGRAM, 1);
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5_moe"});
    write_rows(*shared_, "rows.jsonl", sum_rows(12));
  }
  static void TearDownTestSuite() {
    delete shared_;
    ::unsetenv("LOCKSTEP_TEST_PROGRAM");
  }

  static ProgramWorld world_of(const Wrong& wrong) {
    return {
        .variables = {{"LOCKSTEP_TEST_SWAP", fmt::format("{} {} 1e-3", wrong.op, wrong.layer)}}};
  }
  ProgramResult train(const Wrong& wrong, const std::string& output, const Arguments& more) const {
    return run_program(command(output) + more, world_of(wrong));
  }

  Arguments command(const std::string& output) const {
    return {"grpo",
            "--model",
            (*shared_ / "model").string(),
            "--tuner_type",
            "full",
            "--dataset",
            (*shared_ / "rows.jsonl").string(),
            "--output_dir",
            (folder_ / output).string(),
            "--reward_funcs",
            "soft_overlong",
            "--soft_max_length",
            "8",
            "--soft_cache_length",
            "7",
            "--max_completion_length",
            "8",
            "--num_generations",
            "4",
            "--max_steps",
            "3",
            "--learning_rate",
            "1e-3",
            "--beta",
            "0",
            "--logging_steps",
            "1",
            "--quiet"};
  }

  std::vector<Json> log_of(const std::string& output) const {
    std::vector<Json> rows = read_rows(folder_ / output / "logging.jsonl");
    if (!rows.empty()) rows.pop_back();  // the summary
    return rows;
  }

  /// The run stopped before it changed a weight, and named the place.
  void expect_stopped(const Wrong& wrong, const ProgramResult& result, const std::string& output) {
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr(fmt::format("lockstep: error[inexact-sampler]: {}: expected "
                                                  "{} to give training what ",
                                                  wrong.where, wrong.text)));
    const auto tree = tree_of(folder_ / output);
    for (const auto& [name, bytes] : tree) EXPECT_THAT(name, Not(StartsWith("checkpoint-")));
    EXPECT_EQ(tree.count("last"), 0u);
    EXPECT_TRUE(tree.at("logging.jsonl").empty()) << "a step was logged";
    EXPECT_THAT(temporaries_in(folder_ / output), IsEmpty());
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

constexpr Wrong kWrongs[] = {
    {"gated_delta_rule", 0, "model.layers.0", "layer 0 (gated delta rule)"},
    {"causal_conv_cached", 1, "model.layers.1", "layer 1 (gated delta rule)"},
    {"experts", 2, "model.layers.2", "layer 2 (gated delta rule)"},
    {"causal_attention", 3, "model.layers.3", "layer 3 (attention)"},
    {"adapted_linear", 3, "model.layers.3", "layer 3 (attention)"},
    {"token_logprobs", -1, "lm_head", "the final norm and the head"},
};

TEST_F(Inexact, AWrongKernelStopsTheRunWithTheLayersName) {
  for (const char* reuse : {"true", "false"})
    for (const Wrong& wrong : kWrongs) {
      SCOPED_TRACE(fmt::format("{} in layer {}, reuse {}", wrong.op, wrong.layer, reuse));
      const std::string output = fmt::format("{}-{}-{}", wrong.op, wrong.layer, reuse);
      expect_stopped(wrong, train(wrong, output, {"--reuse_rollout_activations", reuse}), output);
    }
}

/// Ranks that share weights out sample again with whole ones, and compare what each of them
/// computes.
TEST_F(Inexact, SeveralRanksNameTheLayerToo) {
  const Wrong& wrong = kWrongs[3];
  for (const char* sharding : {"none", "full"}) {
    SCOPED_TRACE(sharding);
    Ranks ranks(command(sharding) + Arguments{"--sharding", sharding}, 2, {}, world_of(wrong));
    const std::vector<ProgramResult> results = ranks.wait();
    expect_stopped(wrong, results[0], sharding);
    EXPECT_EQ(results[1].exit_code, 1);
  }
}

/// Layers that keep their activations, and completions that outlive a change of the weights.
TEST_F(Inexact, StopsInEveryWayOfTraining) {
  const std::vector<Arguments> ways = {
      {"--gradient_checkpointing", "false", "--reuse_rollout_activations", "false"},
      {"--gradient_checkpointing", "false", "--reuse_rollout_activations", "true"},
      {"--num_iterations", "2", "--reuse_rollout_activations", "true"},
      {"--num_iterations", "2", "--reuse_rollout_activations", "false"},
      {"--steps_per_generation", "2", "--reuse_rollout_activations", "true"},
      {"--steps_per_generation", "3", "--gradient_accumulation_steps", "2"},
      {"--gradient_accumulation_steps", "2", "--steps_per_generation", "1"},
      {"--torch_dtype", "bfloat16"},
  };
  for (size_t i = 0; i < ways.size(); ++i) {
    SCOPED_TRACE(ways[i][0] + " " + ways[i][1]);
    const std::string output = fmt::format("way-{}", i);
    Wrong wrong = kWrongs[3];
    expect_stopped(wrong, train(wrong, output, ways[i]), output);
  }
}

TEST_F(Inexact, RightKernelsTrain) {
  for (const char* reuse : {"true", "false"}) {
    const ProgramResult result = train(kNone, reuse, {"--reuse_rollout_activations", reuse});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const std::vector<Json> log = log_of(reuse);
    ASSERT_EQ(log.size(), 3u);
    for (const Json& line : log) {
      EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
      EXPECT_EQ(line.value("train/recomputed_layer_max_diff", 0.0), 0.0);
    }
    EXPECT_TRUE(log[0].contains("train/recomputed_layer_max_diff") || reuse[0] == 'f');
  }
}

TEST_F(Inexact, AWarningGoesOnAndMeasuresHonestly) {
  std::vector<double> differences;
  for (const char* reuse : {"true", "false"}) {
    SCOPED_TRACE(reuse);
    const ProgramResult result =
        train(kWrongs[3], reuse,
              {"--reuse_rollout_activations", reuse, "--on_inexact", "warn", "--max_steps", "1"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("model.layers.3: expected layer 3 (attention)"));
    const std::vector<Json> log = log_of(reuse);
    ASSERT_EQ(log.size(), 1u);
    differences.push_back(log[0].at("train/sampler_logprob_max_diff").get<double>());
    EXPECT_GT(differences.back(), 0);
    if (reuse[0] == 't') {
      EXPECT_GT(log[0].at("train/recomputed_layer_max_diff").get<double>(), 0);
    }
  }
  // Sampling's own hidden states in front of the head would make it look smaller.
  EXPECT_EQ(differences[0], differences[1]);
}

TEST_F(Inexact, WithoutExactNothingStops) {
  const ProgramResult result = train(kWrongs[3], "run", {"--exact", "false"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const Json& line : log_of("run"))
    EXPECT_GT(line.at("train/sampler_logprob_max_diff").get<double>(), 0);
}

}  // namespace
}  // namespace lockstep::testing
