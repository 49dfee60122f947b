// Runs of a mixture of experts that replay its routers' choices.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kWeights = "model.safetensors";

class RouterReplay : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_moe"});
    new_model(*shared_, "dense", {"--like", "qwen3"});
    write_rows(*shared_, "rows.jsonl", sum_rows(12));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  /// Batches of four steps each, which are gone through twice.
  Arguments command(const char* model = "model") const {
    return Arguments{"grpo",
                     "--model",
                     (*shared_ / model).string(),
                     "--tuner_type",
                     "full",
                     "--dataset",
                     (*shared_ / "rows.jsonl").string(),
                     "--learning_rate",
                     "1e-2",
                     "--logging_steps",
                     "1",
                     "--num_iterations",
                     "2",
                     "--generation_batch_size",
                     "8",
                     "--max_steps",
                     "6",
                     "--save_steps",
                     "3",
                     "--threads",
                     "1"} +
           short_completions();
  }
  fs::path run(const std::string& name, const Arguments& more) const {
    const fs::path output = folder_ / name;
    run_well(command() + Arguments{"--quiet", "--output_dir", output.string()} + more);
    return output;
  }
  static std::string weights_of(const fs::path& run, const char* checkpoint = "checkpoint-6") {
    return slurp(run / checkpoint / kWeights);
  }
  /// router_replay/changed_ratio of each step.
  static std::vector<double> changed_ratios(const fs::path& run) {
    std::vector<double> ratios;
    for (const Json& line : timeless_rows(run))
      if (line.contains("router_replay/changed_ratio"))
        ratios.push_back(line["router_replay/changed_ratio"]);
    return ratios;
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

/// Trainer and sampler choose the same experts, so that R2 and R3 are one here; from a batch's
/// second step on they are not what the routers choose then.
TEST_F(RouterReplay, TrainsWithTheExpertsOfTheWeightsThatSampled) {
  const fs::path plain = run("plain", {}), r2 = run("r2", {"--router_replay_mode", "R2"}),
                 r3 = run("r3", {"--router_replay_mode", "R3"}),
                 apart = run("apart", {"--router_replay_mode", "R3", "--reuse_rollout_activations",
                                       "false", "--gradient_checkpointing", "false"});
  EXPECT_TRUE(weights_of(r2) == weights_of(r3));
  EXPECT_TRUE(weights_of(r3) == weights_of(apart));
  EXPECT_FALSE(weights_of(plain) == weights_of(r2));
  EXPECT_TRUE(changed_ratios(plain).empty());
  for (const fs::path& replayed : {r2, r3, apart}) {
    const std::vector<double> ratios = changed_ratios(replayed);
    ASSERT_EQ(ratios.size(), 6u);
    // Steps 1 and 5 begin with completions of the weights that they change.
    for (size_t step = 0; step < ratios.size(); ++step)
      EXPECT_EQ(ratios[step] > 0, step % 4 != 0) << "step " << step + 1;
    for (const Json& line : timeless_rows(replayed))
      if (line.contains("train/sampler_logprob_max_diff")) {
        EXPECT_EQ(line["train/sampler_logprob_max_diff"], 0.0);
      }
  }
}

TEST_F(RouterReplay, OnPolicyItChangesNoByte) {
  const Arguments once = {"--num_iterations", "1", "--generation_batch_size", "4"};
  const fs::path plain = run("plain", once),
                 r3 = run("r3", once + Arguments{"--router_replay_mode", "R3"}),
                 r2 = run("r2", once + Arguments{"--router_replay_mode", "R2"});
  EXPECT_TRUE(weights_of(plain) == weights_of(r3));
  EXPECT_TRUE(weights_of(plain) == weights_of(r2));
  for (const double ratio : changed_ratios(r3)) EXPECT_EQ(ratio, 0);
  EXPECT_EQ(changed_ratios(r3).size(), 6u);
  // R2 has nothing to record, and says so.
  EXPECT_TRUE(changed_ratios(r2).empty());
  const ProgramResult said = run_well(command() + once +
                                      Arguments{"--router_replay_mode", "R2", "--output_dir",
                                                (folder_ / "said").string(), "--max_steps", "1"});
  EXPECT_THAT(said.err, HasSubstr("R2 changes nothing in this run"));
  // Nothing else is kept from sampling here: the line is the experts'.
  const Arguments apart{"--reuse_rollout_activations", "false", "--max_steps", "1"};
  const auto plan_of = [&](const char* mode) {
    return run_well(command() + once + apart +
                    Arguments{"--router_replay_mode", mode, "--output_dir",
                              (folder_ / (std::string("plan-") + mode)).string()})
        .err;
  };
  EXPECT_THAT(plan_of("R3"), HasSubstr("more for what sampling keeps for training"));
  EXPECT_THAT(plan_of("disabled"), Not(HasSubstr("more for what sampling keeps for training")));
}

TEST_F(RouterReplay, RecordedWeightsAreAnotherRun) {
  const fs::path ids = run("ids", {"--router_replay_mode", "R3"}),
                 weights = run("weights",
                               {"--router_replay_mode", "R3", "--router_replay_weights", "true"}),
                 r2 = run("r2", {"--router_replay_mode", "R2", "--router_replay_weights", "true"});
  EXPECT_FALSE(weights_of(ids) == weights_of(weights));
  EXPECT_TRUE(weights_of(weights) == weights_of(r2));
  // No gradient reaches the routers, which stay as they were but for what the optimizer makes of
  // nothing.
  const auto before = float_tensors(*shared_ / "model" / kWeights),
             after = float_tensors(weights / "checkpoint-6" / kWeights);
  int64_t routers = 0;
  for (const auto& [name, values] : before) {
    if (!name.ends_with("mlp.gate.weight")) continue;
    ++routers;
    const std::vector<float>& trained = after.at(name);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(trained[i], values[i], 0.02) << name;
  }
  EXPECT_EQ(routers, 4);
}

/// In the middle of a batch: its experts lie in the checkpoint.
TEST_F(RouterReplay, AResumedRunGoesOnToTheSameBytes) {
  for (const Arguments& replay :
       {Arguments{"--router_replay_mode", "R2"},
        Arguments{"--router_replay_mode", "R3", "--router_replay_weights", "true"}}) {
    const std::string name = replay[1];
    const fs::path whole = run(name, replay);
    const TensorFile buffer =
        read_tensors(whole / "checkpoint-3" / "training_state" / "rollout_buffer.safetensors");
    EXPECT_EQ(buffer.header.at("routed").at("dtype"), "I32");
    EXPECT_EQ(buffer.header.at("routed").at("shape")[1], 4);
    const fs::path resumed =
        run(name + " resumed",
            replay + Arguments{"--resume_from_checkpoint", (whole / "checkpoint-3").string()});
    for (const char* file : {kWeights, "training_state/optimizer.safetensors"})
      EXPECT_TRUE(slurp(resumed / "checkpoint-6" / file) == slurp(whole / "checkpoint-6" / file))
          << name << " " << file;
    const ProgramResult other = run_program(
        command() + Arguments{"--output_dir", (folder_ / "other").string(), "--quiet",
                              "--resume_from_checkpoint", (whole / "checkpoint-3").string()});
    EXPECT_NE(other.exit_code, 0);
    EXPECT_THAT(other.err, HasSubstr("router_replay_mode"));
  }
}

/// `lockstep grad` takes experts with its rows, and none that the model has not.
TEST_F(RouterReplay, RowsWithOtherExpertsThanTheModelHasAreRefused) {
  const Json token = Json::array({{0, 1}, {2, 3}, {4, 5}, {7, 6}});
  const auto grad = [&](const char* model, const auto& change) {
    Json row = {{"input_ids", {5, 6, 7}},
                {"completion_mask", {0, 1, 1}},
                {"advantage", 1.0},
                {"routed_experts", {token, token}}};
    change(row);
    write_rows(folder_, "batch.jsonl", {row});
    return run_program({"grad", "--model", (*shared_ / model).string(), "--batch",
                        (folder_ / "batch.jsonl").string(), "--quiet"});
  };
  for (const bool all : {false, true}) {
    const ProgramResult good = grad("model", [&](Json& row) {
      if (all) row["routed_experts"].push_back(token);
    });
    EXPECT_EQ(good.exit_code, 0) << good.err;
    EXPECT_THAT(good.out, HasSubstr("router_replay/changed_ratio"));
  }
  const auto refused = [&](const char* model, const char* words, const auto& change) {
    const ProgramResult result = grad(model, change);
    EXPECT_NE(result.exit_code, 0);
    EXPECT_THAT(result.err, HasSubstr(words));
  };
  const char* const kOthers = "a list of 4 layers of 2 experts below 8, got others";
  refused("model", kOthers, [](Json& row) { row["routed_experts"].erase(0); });
  refused("model", kOthers, [](Json& row) { row["routed_experts"][0][3][1] = 8; });
  refused("model", kOthers, [](Json& row) { row["routed_experts"][1][0] = {1, 2, 3}; });
  refused("model", kOthers, [](Json& row) { row["routed_experts"][1].erase(0); });
  refused("model", kOthers, [](Json& row) { row["routed_experts"] = "0"; });
  refused("model", "different ids", [](Json& row) { row["routed_experts"][0][3][1] = 7; });
  refused("model", "in the shape of routed_experts",
          [](Json& row) { row["routed_weights"] = {0.5}; });
  refused("dense", "got others", [](Json&) {});
}

TEST_F(RouterReplay, WhatCannotBeIsRefused) {
  const auto refused = [&](const char* model, const Arguments& flags) {
    const ProgramResult result = run_program(
        command(model) + Arguments{"--output_dir", (folder_ / "refused").string()} + flags);
    EXPECT_NE(result.exit_code, 0);
    return result.err;
  };
  EXPECT_THAT(refused("dense", {"--router_replay_mode", "R3"}),
              HasSubstr("expected disabled for a model without experts, got R3"));
  EXPECT_THAT(refused("model", {"--router_replay_weights", "true"}),
              HasSubstr("expected false with --router_replay_mode disabled"));
  const Arguments served = {"--rollout_mode", "server", "--rollout_server", "http://127.0.0.1:9"};
  EXPECT_THAT(refused("model",
                      served + Arguments{"--router_replay_mode", "R2", "--async_generate", "true"}),
              HasSubstr("the weights that sampled are gone"));
  EXPECT_THAT(refused("model",
                      served + Arguments{"--router_replay_mode", "R3", "--rollout_engine", "vllm"}),
              HasSubstr("/v1/completions tells no experts"));
}

}  // namespace
}  // namespace lockstep::testing
