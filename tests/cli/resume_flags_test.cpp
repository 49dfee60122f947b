// What another value of each flag of sft and grpo means for a run that is resumed.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/command.h"
#include "cli/dashboard.h"
#include "grpo/batch_plan.h"
#include "grpo/resume_check.h"
#include "grpo/sft.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

// Every flag stands in one of these lists, so that the rule of a new one is seen in review. What
// is named in kRefused changes what is trained: seed, loss, rewards, temperature, lengths, batches.
constexpr const char* kRefused =
    "advantage_estimator dapo_denominator dynamic_sample max_resample_times entropy_coef "
    "entropy_coef_delta "
    "entropy_coef_max entropy_coef_min entropy_target fipo_clip_high_only fipo_clip_range "
    "fipo_decay_rate fipo_safety_threshold kl_estimator kl_in_reward "
    "off_policy_sequence_mask_delta real_tau router_aux_loss_coef rollout_importance_sampling_mode "
    "rollout_importance_sampling_sequence_ratio rollout_importance_sampling_threshold "
    "rollout_importance_sampling_threshold_lower tau_neg tau_pos top_entropy_quantile "
    "use_adaptive_entropy use_bias_correction_kl vespo_k_neg vespo_k_pos vespo_lambda_neg "
    "vespo_lambda_pos "
    "adam_beta1 adam_beta2 adam_epsilon alpha_pattern async_generate beta columns "
    "curriculum_column curriculum_epochs curriculum_order "
    "cosine_max_len cosine_max_len_value_correct cosine_max_len_value_wrong "
    "cosine_min_len_value_correct cosine_min_len_value_wrong data_seed "
    "dataset_shuffle exclude_modules "
    "delta "
    "disable_auto_column_mapping enable_thinking epsilon epsilon_high exact "
    "generation_batch_size gradient_accumulation_steps importance_sampling_level "
    "freeze_parameters freeze_parameters_ratio freeze_parameters_regex "
    "init_weights judge_choices judge_max_tokens judge_model judge_system judge_temperature "
    "lora_alpha lora_dropout lora_experts lora_rank modules_to_save rank_pattern "
    "target_modules "
    "target_parameters target_regex use_rslora "
    "learning_rate loss_scale loss_type lr_scheduler_kwargs lr_scheduler_type "
    "max_completion_length max_grad_norm max_length max_model_len min_learning_rate min_p "
    "num_generations num_iterations overlong_filter per_device_train_batch_size "
    "ref_model_mixup_alpha ref_model_sync_steps sync_ref_model "
    "repetition_max_penalty repetition_n_grams repetition_penalty router_replay_mode "
    "router_replay_weights "
    "reward_funcs reward_model reward_model_plugin reward_weights scale_rewards seed "
    "soft_cache_length "
    "soft_floor soft_max_length split_dataset_ratio steps_per_generation stop_words strict "
    "sync_mode "
    "temperature top_k top_p torch_dtype trainable_parameters trainable_parameters_regex "
    "truncation_strategy tuner_type warmup_ratio "
    "warmup_steps weight_decay weight_decay_rule "
    "completion_length_limit_scope gym_env max_tool_response_length max_turns multi_turn_scheduler "
    "tools use_gym_env";
constexpr const char* kByContent =
    "adapters dataset external_plugins model ref_adapters ref_model system "
    "tool_schemas val_dataset";
// Paths, logging, saving, memory, threads.
constexpr const char* kSaid =
    "eval_max_completion_length eval_min_p eval_temperature eval_top_k eval_top_p "
    "cache_memory device early_stop_interval early_stopping_threshold eval_steps eval_strategy "
    "expert_parallel_size "
    "gradient_checkpointing "
    "greater_is_better judge_workers load_best_model_at_end log_completions log_entropy "
    "log_rollout_offpolicy_metrics log_samples_steps logging_first_step logging_steps "
    "logging_strategy max_num_seqs "
    "max_shard_size merge_lora max_steps max_tokens_per_micro_batch memory_budget "
    "metric_for_best_model num_generations_eval num_train_epochs on_inexact on_server_loss "
    "output_dir report_to plugin_python plugin_workers reward_batch_size reward_max_failures "
    "reward_retries reward_timeout "
    "reward_workers sharding rollout_engine rollout_mode rollout_server rollout_timeout "
    "save_only_model save_steps save_strategy save_total_limit "
    "tool_max_failures tool_timeout tool_workers trajectory_timeout "
    "share_prompts sync_address sync_directory sync_probe_bound sync_timeout sync_transport "
    "threads";
constexpr const char* kIgnored =
    "add_version dashboard dashboard_host ddp_timeout eval_on_start log_level master_addr "
    "master_port nnodes node_rank overwrite progress quiet "
    "report_html "
    "resume_changed "
    "resume_from_checkpoint reuse_rollout_activations reward_api_key rollout_api_key "
    "save_on_interrupt "
    "train_adapter train_adapter_seed";

template <class Options>
void add_groups(FlagSet& flags, Options& options) {
  options.for_each_group([&](const char* name, auto& group) { flags.add_group(name, group); });
}

/// The flags of sft and of grpo with their rules. A flag of both has the same rule in both.
std::map<std::string, OnResume> training_rules() {
  grpo::TrainingOptions training;
  grpo::SftOptions own;
  grpo::GrpoRunOptions options;
  CommonOptions common;
  FollowOptions following;
  FlagSet sft("sft", ""), grpo("grpo", "");
  add_groups(sft, training);
  sft.add_group("sft", own);
  add_groups(grpo, options);
  grpo.add_group("following a run", following);
  grpo.add_group("every command", common);
  parallel::LaunchOptions launch;
  sft.add_group("several processes", launch);
  grpo.add_group("several processes", launch);
  std::map<std::string, OnResume> all;
  for (const FlagSet* flags : {&sft, &grpo})
    for (const auto& [name, rule] : flags->resume_rules())
      EXPECT_EQ(all.emplace(name, rule).first->second, rule) << name;
  return all;
}

std::vector<std::string> names_with(OnResume rule) {
  std::vector<std::string> names;
  for (const auto& [name, own] : training_rules())
    if (own == rule) names.push_back(name);
  return names;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

TEST(ResumeFlags, EachFlagHasTheRuleOfItsList) {
  EXPECT_THAT(names_with(OnResume::kRefused), UnorderedElementsAreArray(words_of(kRefused)));
  EXPECT_THAT(names_with(OnResume::kByContent), UnorderedElementsAreArray(words_of(kByContent)));
  EXPECT_THAT(names_with(OnResume::kSaid), UnorderedElementsAreArray(words_of(kSaid)));
  EXPECT_THAT(names_with(OnResume::kIgnored), UnorderedElementsAreArray(words_of(kIgnored)));
}

/// Fields with all that one can say besides the help.
struct Fields {
  bool silent = false;
  int64_t ranged = 1, ranged_and_said = 1;
  std::string said, ignored;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("silent", silent, "Says nothing.");
    visit("ranged", ranged, "Says its range.", Range::at_least(1));
    visit("ranged_and_said", ranged_and_said, "Says both.", Range::at_least(1), OnResume::kSaid);
    visit("said", said, "Says its rule.", OnResume::kSaid);
    visit("ignored", ignored, "Says its rule.", OnResume::kIgnored);
  }
};

TEST(ResumeFlags, AFlagThatSaysNothingIsRefusedWhenItsValueChanges) {
  Fields fields;
  FlagSet flags("test", "");
  flags.add_group("group", fields);
  const Json before = flags.to_json();
  fields = {.silent = true, .ranged = 2, .ranged_and_said = 2, .said = "x", .ignored = "x"};
  const auto changes = grpo::compare_args(flags.resume_rules(), before, flags.to_json());
  EXPECT_THAT(changes.refused,
              ElementsAre("silent false before and true now", "ranged 1 before and 2 now"));
  EXPECT_THAT(changes.said,
              ElementsAre("ranged_and_said 1 before and 2 now", "said \"\" before and \"x\" now"));
}

}  // namespace
}  // namespace lockstep::cli
