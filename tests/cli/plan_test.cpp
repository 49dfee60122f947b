// lockstep plan from outside: it needs a config.json alone, and says what adds up.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/run_program.h"
#include "tests/support/temp_dir.h"
#include "tests/train/published_configs.h"

namespace lockstep::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::run_program;

/// A folder with the config.json of a published model, and nothing else.
class Plan : public ::testing::Test {
 protected:
  explicit Plan(const MoeSizes& sizes = kQwen3_5_35B) {
    folder.write("config.json", dump_json(config_of(sizes)));
  }
  ProgramResult plan(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"plan", "--model", folder.path().string()});
    return run_program(arguments);
  }
  Json plan_json(std::vector<std::string> arguments) const {
    arguments.emplace_back("--json");
    const ProgramResult result = plan(std::move(arguments));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  void expect_refused(const std::vector<std::string>& arguments,
                      const std::string& code,
                      const std::string& words) const {
    const ProgramResult result = plan(arguments);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("error[" + code + "]: "));
    EXPECT_THAT(result.err, HasSubstr(words));
  }

  testing::TempDir folder;
};

class LargestPlan : public Plan {
 protected:
  LargestPlan() : Plan(kQwen3_5_397B) {}
};

TEST_F(LargestPlan, Of512RanksIsThereInTwoSeconds) {
  const auto start = std::chrono::steady_clock::now();
  const Json json = plan_json(
      {"--ranks", "512", "--hosts", "64", "--tuner_type", "full", "--expert_parallel_size", "64"});
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_LT(taken.count(), 2);
  EXPECT_EQ(json["parameters"], 396'346'350'336);
  EXPECT_EQ(json["trained"], json["parameters"]);
  // 18 bytes a parameter, cut over 512 ranks: 13.9 GB; embedding and head in bfloat16.
  const Json& memory = json["sharding"]["full"]["memory"];
  const int64_t state = memory["weights"].get<int64_t>() + memory["masters"].get<int64_t>() +
                        memory["moments"].get<int64_t>() + memory["gradients"].get<int64_t>();
  EXPECT_NEAR(static_cast<double>(state) / 1e9, 13.93 + 2e-9 * 248320 * 4096 * 2, 0.2);
  EXPECT_EQ(memory["unit_gradients"], (248320ll + 1) * 4096 * 4);
}

TEST_F(Plan, ShowsAllShardingsBesideOneAnother) {
  const ProgramResult result = plan({"--ranks", "8", "--hosts", "n[01-02]", "--tuner_type", "full",
                                     "--expert_parallel_size", "8"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* words :
       {"qwen3_5_moe, 40 layers of 256 experts, 34.66 billion parameters in bfloat16",
        "8 on 2 hosts (n01, n02); 8 share the experts of a layer\n", "none   optimizer        full",
        "\nweights", "\nfloat32 masters", "\nmoments", "gradients, once a step",
        "of it from other hosts", "Each token's rows go to experts",
        "its layers are whole,\nbut for the experts of others.\n"})
    EXPECT_THAT(result.out, HasSubstr(words));
  EXPECT_THAT(result.out, Not(HasSubstr("would need more"))) << "8 ranks share 8 slots";
  const ProgramResult one = plan({"--ranks", "16", "--sharding", "full"});
  EXPECT_THAT(one.out, HasSubstr("its layers are whole.\n"));
  EXPECT_THAT(one.out, Not(HasSubstr("optimizer")));
  EXPECT_THAT(one.out, HasSubstr("in 8 slots, which 1, 2, 4 or 8 ranks"));
}

TEST_F(Plan, AnAdapterIsPlannedAsGrpoWouldMakeIt) {
  const Json all = plan_json({"--ranks", "4"});
  const Json some = plan_json({"--ranks", "4", "--target_modules", "q_proj", "--lora_rank", "16"});
  // q_proj of ten layers: 16 x (2048 + 16 x 256 x 2).
  EXPECT_EQ(some["trained"], 10 * 16 * (2048 + 8192));
  EXPECT_GT(all["trained"], some["trained"]);
  EXPECT_EQ(all["sharding"]["none"]["memory"]["masters"], 0);
  expect_refused({"--ranks", "4", "--target_modules", "none_such"}, "no-match", "none_such");
}

TEST_F(Plan, ListsWhatARankOwns) {
  std::map<std::string, int64_t> next, sizes;
  for (int64_t rank = 0; rank < 4; ++rank) {
    const Json json =
        plan_json({"--ranks", "4", "--tuner_type", "full", "--rank", std::to_string(rank)});
    for (const Json& range : json["ranges"]) {
      const auto id = range["parameter"].get<std::string>();
      EXPECT_EQ(range["first"].get<int64_t>(), next[id]) << id;
      next[id] = range["last"];
      sizes[id] = range["elements"];
      int64_t in_tensors = 0;
      for (const Json& tensor : range["tensors"])
        in_tensors += tensor["last"].get<int64_t>() - tensor["first"].get<int64_t>();
      EXPECT_EQ(in_tensors, range["last"].get<int64_t>() - range["first"].get<int64_t>());
    }
  }
  EXPECT_EQ(next, sizes);
  const ProgramResult text = plan({"--ranks", "4", "--tuner_type", "full", "--rank", "3"});
  EXPECT_THAT(text.out, HasSubstr("\nelements of rank 3\n"));
  EXPECT_THAT(text.out, HasSubstr("layers.39.experts.gate_up"));
}

TEST_F(Plan, WhatDoesNotDivideIsRefusedWithTheReason) {
  expect_refused({"--ranks", "8", "--expert_parallel_size", "3"}, "bad-degree",
                 "--expert_parallel_size: expected a divisor of the 8 ranks, got 3");
  expect_refused({"--ranks", "8", "--sequence_parallel_size", "8"}, "bad-degree",
                 "--sequence_parallel_size: expected a divisor of the 2 key heads");
  expect_refused({"--ranks", "8", "--hosts", "3"}, "bad-degree",
                 "--hosts: expected a divisor of the 8 ranks, got 3");
  expect_refused({"--ranks", "8", "--hosts", "n[1-"}, "bad-launch", "--hosts: expected a list");
  expect_refused({"--ranks", "8", "--rank", "8"}, "bad-flag", "--rank: expected a number below");
  expect_refused({"--ranks", "4097"}, "bad-flag", "--ranks");
  // What serves instead.
  expect_refused({"--ranks", "8", "--tensor_parallel_size", "2"}, "refused-flag",
                 "--sharding full cuts the weights, --expert_parallel_size the experts");
  expect_refused({"--ranks", "8", "--pipeline_model_parallel_size", "2"}, "refused-flag",
                 "--sharding full cuts the weights over all ranks, a layer at a time");
  EXPECT_EQ(plan({"--ranks", "8", "--tensor_parallel_size", "1"}).exit_code, 0);
  // Megatron's names.
  EXPECT_EQ(
      plan_json({"--ranks", "8", "--expert_model_parallel_size", "4"})["expert_parallel_size"], 4);
}

TEST_F(Plan, ReadsAConfigurationAlone) {
  EXPECT_EQ(folder.names().size(), 1u);
  const testing::TempDir empty;
  const ProgramResult result =
      run_program({"plan", "--model", empty.path().string(), "--ranks", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("error[missing-model]"));
}

}  // namespace
}  // namespace lockstep::cli
