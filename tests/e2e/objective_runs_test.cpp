// Runs with every option of the algorithm: that they go well, and what they log.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/of_model.h"

namespace lockstep::testing {
namespace {

using ::testing::Values;

using Options = OfModel;

const char* const kAlways[] = {"loss",
                               "grad_norm",
                               "learning_rate",
                               "epoch",
                               "reward",
                               "reward_std",
                               "frac_reward_zero_std",
                               "rewards/SoftOverlong/mean",
                               "rewards/SoftOverlong/std",
                               "rewards/soft_overlong/mean",
                               "completions/mean_length",
                               "completions/min_length",
                               "completions/max_length",
                               "completions/clipped_ratio",
                               "num_tokens",
                               "train/sampler_logprob_max_diff",
                               "train/sampler_logprob_mean_diff",
                               "memory(GiB)",
                               "train_speed(s/it)",
                               "elapsed_time",
                               "step_time",
                               "remaining_time",
                               "global_step/max_steps"};

const char* const kCorrections[] = {
    "rollout_correction/training_ppl", "rollout_correction/training_log_ppl",
    "rollout_correction/kl",           "rollout_correction/k3_kl",
    "rollout_correction/rollout_ppl",  "rollout_correction/rollout_log_ppl",
    "rollout_correction/log_ppl_diff", "rollout_correction/log_ppl_abs_diff",
    "rollout_correction/ppl_ratio",    "rollout_correction/log_ppl_diff_max",
    "rollout_correction/chi2_token",   "rollout_correction/log_ppl_diff_min",
    "rollout_correction/chi2_seq",     "rollout_correction/is_weight_mean",
    "rollout_correction/ess",          "rollout_correction/clipped_frac"};

TEST_P(Options, RunWithFiniteMetrics) {
  const std::vector<std::pair<Arguments, std::vector<const char*>>> ways = {
      {{"--loss_type", "gspo", "--importance_sampling_level", "sequence_token"},
       {"kl", "clip_ratio/low_mean"}},
      {{"--loss_type", "cispo", "--num_iterations", "2"}, {"kl", "cispo_clip_ratio"}},
      {{"--loss_type", "sapo", "--advantage_estimator", "rloo"}, {"kl"}},
      {{"--loss_type", "fipo", "--num_iterations", "2", "--beta", "0"},
       {"fipo/future_kl_mean", "fipo/influence_weight_mean", "fipo/safety_keep_ratio"}},
      {{"--loss_type", "real", "--num_iterations", "2"}, {"kl"}},
      {{"--loss_type", "luspo", "--advantage_estimator", "reinforce_plus_plus"}, {"kl"}},
      {{"--loss_type", "vespo", "--advantage_estimator", "gdpo"}, {"kl"}},
      {{"--entropy_coef", "0.01", "--top_entropy_quantile", "0.5", "--use_adaptive_entropy",
        "true"},
       {"kl", "entropy", "entropy/threshold", "policy_loss", "entropy_coef"}},
      {{"--kl_estimator", "k2", "--use_bias_correction_kl", "true",
        "--off_policy_sequence_mask_delta", "0.1", "--num_iterations", "2"},
       {"kl", "off_policy_sequence_mask_ratio"}},
      {{"--rollout_importance_sampling_mode", "token_truncate"},
       {std::begin(kCorrections), std::end(kCorrections)}},
      {{"--loss_type", "bnpo", "--beta", "0.1"},
       {"kl", "clip_ratio/low_mean", "clip_ratio/low_min", "clip_ratio/high_mean",
        "clip_ratio/high_max", "clip_ratio/region_mean"}},
      {{"--loss_type", "dr_grpo", "--scale_rewards", "none", "--beta", "0"}, {}},
      {{"--loss_type", "dapo", "--epsilon_high", "0.28", "--overlong_filter", "true", "--beta",
        "0"},
       {}},
      {{"--importance_sampling_level", "sequence", "--scale_rewards", "batch", "--log_entropy",
        "true"},
       {"kl", "entropy/mean", "entropy/max", "entropy/min"}},
      {{"--num_iterations", "2", "--delta", "1.5"}, {"kl"}},
      {{"--steps_per_generation", "2", "--gradient_accumulation_steps", "1"}, {"kl"}},
      {{"--top_p", "0.9", "--top_k", "50", "--min_p", "0.01", "--repetition_penalty", "1.1",
        "--temperature", "1.2"},
       {"kl"}},
  };
  int count = 0;
  for (const auto& [flags, keys] : ways) {
    SCOPED_TRACE(flags[0] + " " + flags[1]);
    const std::string name = fmt::format("way-{}", count++);
    run_well(grpo(name, Arguments{"--max_steps", "4"} + flags));
    const std::vector<Json> log = log_of(name);
    ASSERT_EQ(log.size(), 4u);
    for (const Json& line : log) {
      // JSON has no word for what is not finite: such a value would be null.
      for (const auto& [key, value] : line.items()) EXPECT_FALSE(value.is_null()) << key;
      for (const char* key : keys) EXPECT_TRUE(line.contains(key)) << key;
      for (const char* key : {"loss", "grad_norm", "learning_rate", "num_tokens"})
        EXPECT_TRUE(line.at(key).is_number()) << key;
    }
    for (const char* key : kAlways) EXPECT_TRUE(log[0].contains(key)) << key;
    EXPECT_EQ(log[0].contains("kl"), std::count(flags.begin(), flags.end(), "0") == 0);
  }
}

/// Groups of equal rewards are replaced, and what is more than a batch takes waits: a later batch
/// samples less. Those that wait are of earlier weights, and as exact.
TEST_P(Options, DynamicSamplingLeavesGroupsThatDiffer) {
  run_well(grpo("run", {"--max_steps", "8", "--dynamic_sample", "true", "--num_generations", "2",
                        "--per_device_train_batch_size", "4", "--max_resample_times", "10"}));
  double least = 1, waiting = 0;
  for (const Json& line : log_of("run")) {
    EXPECT_EQ(line.at("frac_reward_zero_std"), 0.0);
    EXPECT_EQ(line.at("dynamic_sample/equal_groups"), 0.0);
    EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
    if (line.contains("dynamic_sample/differing_ratio"))
      least = std::min(least, line.at("dynamic_sample/differing_ratio").get<double>());
    waiting += line.at("dynamic_sample/waiting_groups").get<double>();
  }
  EXPECT_LT(least, 1);
  EXPECT_GT(waiting, 0);
  for (const Json& line : read_rows(folder_ / "run" / "completions.jsonl")) {
    const Json& rewards = line.at("SoftOverlong");
    ASSERT_EQ(rewards.size(), 4u);
    for (size_t i = 0; i < rewards.size(); i += 2) EXPECT_NE(rewards[i], rewards[i + 1]);
  }
}

/// A mixture of experts keeps its balance: the loss is in the gradients, and its value is logged.
TEST(RouterLoss, MovesTheWeightsAndIsLogged) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3_moe"});
  const auto run = [&](const char* name, const Arguments& more) {
    run_well(Arguments{"grpo",
                       "--model",
                       model,
                       "--tuner_type",
                       "full",
                       "--dataset",
                       write_rows(folder, "rows.jsonl", sum_rows(4)),
                       "--output_dir",
                       (folder / name).string(),
                       "--reward_funcs",
                       "format",
                       "--num_generations",
                       "2",
                       "--max_completion_length",
                       "6",
                       "--beta",
                       "0",
                       "--max_steps",
                       "2",
                       "--logging_steps",
                       "1",
                       "--learning_rate",
                       "1e-2",
                       "--quiet"} +
             more);
    return read_rows(folder / name / "logging.jsonl");
  };
  // No reward differs, so nothing else is learned.
  EXPECT_EQ(run("without", {}).at(0).at("grad_norm"), 0.0);
  const auto log = run("with", {"--router_aux_loss_coef", "0.5"});
  EXPECT_GT(log.at(0).at("grad_norm").get<double>(), 0);
  EXPECT_EQ(log.at(0).at("policy_loss"), 0.0);
  EXPECT_NEAR(log.at(0).at("loss").get<double>(), log.at(0).at("aux_loss").get<double>() / 2, 1e-7);
}

/// Tokens that are drawn from the likeliest half are drawn with at least twice the probability that
/// they are scored with: the correction's weight is at most a half.
TEST_P(Options, TheCorrectionKnowsWhatTokensWereDrawnWith) {
  run_well(grpo("run", {"--max_steps", "3", "--top_p", "0.5", "--temperature", "1",
                        "--rollout_importance_sampling_mode", "token_truncate"}));
  for (const Json& line : log_of("run")) {
    EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
    EXPECT_GT(line.at("rollout_correction/is_weight_mean").get<double>(), 0.45);
    EXPECT_LT(line.at("rollout_correction/is_weight_mean").get<double>(), 0.51);
    EXPECT_GT(line.at("rollout_correction/kl").get<double>(), 0.65);
  }
}

/// Two rows are drawn again and again for one batch: each time with other completions.
TEST_P(Options, DynamicSamplingOfFewRowsDrawsOtherCompletions) {
  const std::string two = write_rows(folder_, "two.jsonl", sum_rows(2));
  run_well(grpo("run", {"--dataset", two, "--max_steps", "8", "--dynamic_sample", "true",
                        "--num_generations", "2", "--per_device_train_batch_size", "4",
                        "--max_resample_times", "20", "--learning_rate", "0"}));
  double most = 0;
  for (const Json& line : log_of("run")) {
    EXPECT_EQ(line.at("dynamic_sample/equal_groups"), 0.0);
    most = std::max(most, line.at("dynamic_sample/sampled_groups").get<double>());
  }
  EXPECT_GT(most, 2);
}

TEST_P(Options, HeldOutRowsAreSampledAndLogged) {
  const std::string held = write_rows(folder_, "held.jsonl", sum_rows(3));
  run_well(grpo("run", {"--max_steps", "4", "--val_dataset", held, "--eval_steps", "2",
                        "--num_generations_eval", "2"}));
  std::vector<std::string> steps;
  for (const Json& line : log_of("run"))
    if (line.contains("eval_reward")) {
      steps.push_back(line.at("global_step/max_steps"));
      for (const char* key :
           {"eval_reward_std", "eval_rewards/SoftOverlong/mean", "eval_completions/mean_length"})
        EXPECT_TRUE(line.contains(key)) << key;
    }
  EXPECT_THAT(steps, ::testing::ElementsAre("2/4", "4/4"));
}
INSTANTIATE_TEST_SUITE_P(Models, Options, Values(ModelKind{"qwen3_5", "float32"}), kind_name);

}  // namespace
}  // namespace lockstep::testing
