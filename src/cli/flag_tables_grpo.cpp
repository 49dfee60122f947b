// Flags of GRPO itself. Silent values are ms-swift's defaults and the values that switch a feature
// off.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kOffPolicy = "correction of the sampler's mismatch";
constexpr std::string_view kMultiTurn = "multi-turn rollout";
constexpr std::string_view kRewardModel = "a reward model";
constexpr std::string_view kTeacher = "distillation from a teacher";
constexpr std::string_view kReweight = "reweighting of advantages (RLSD, SDAR)";
constexpr std::string_view kChord = "CHORD's mixture with supervised rows";
constexpr std::string_view kFipo = "the FIPO loss";
constexpr std::string_view kReal = "the REAL loss";

constexpr FlagRule kRules[] = {
    // groups
    used("num_generations", "8", "this group size"),
    used("num_generations_eval", "none", "evaluation with another group size"),
    used("num_iterations", "1", "several iterations on one batch"),
    used("steps_per_generation", "none", "steps per generation"),
    used("generation_batch_size", "none", "a generation batch size"),
    refused("dataloader_drop_last", "true", "an epoch's last batch is always whole"),
    // sampling
    used("temperature", "0.9", "this temperature"),
    used("top_k", "-1", "top-k sampling"),
    used("top_p", "1", "top-p sampling"),
    used("min_p", "0", "min-p sampling"),
    used("repetition_penalty", "1", "a repetition penalty"),
    used("stop_words", "none|[]", "stop strings"),
    used("max_completion_length", "512", "this completion length"),
    used("structured_outputs_regex", "none", "sampling under a regular expression"),
    renamed("max_new_tokens", "max_completion_length"),
    renamed("response_length", "max_completion_length"),
    // loss
    used("rlhf_type", "grpo", "another algorithm than grpo"),
    used("loss_type", "grpo", "this loss"),
    used("epsilon", "0.2", "this clip range"),
    used("epsilon_high", "none", "an upper clip range"),
    used("delta", "none", "two-sided clipping"),
    used("beta", "0.04", "this KL weight"),
    used("importance_sampling_level", "token", "this level of the ratio"),
    used("tau_pos", "1", "the SAPO loss"),
    used("tau_neg", "1.05", "the SAPO loss"),
    used("real_tau", "0.5", kReal),
    used("fipo_decay_rate", "32", kFipo),
    used("fipo_clip_range", "0.2", kFipo),
    used("fipo_clip_high_only", "true", kFipo),
    used("fipo_safety_threshold", "4", kFipo),
    // advantage
    used("advantage_estimator", "grpo", "this advantage estimator"),
    used("scale_rewards", "none|group", "this scaling of rewards"),
    used("kl_in_reward", "none|false", "a KL term in the reward"),
    // filters
    used("dynamic_sample", "false", "dynamic sampling"),
    used("max_resample_times", "3", "dynamic sampling"),
    used("overlong_filter", "false", "the filter of overlong completions"),
    used("log_entropy", "false", "entropy in the log"),
    used("top_entropy_quantile", "1", "a loss on the most uncertain tokens"),
    used("off_policy_sequence_mask_delta", "none", "the mask of off-policy sequences"),
    // correction
    used("rollout_importance_sampling_mode", "none", kOffPolicy),
    used("rollout_importance_sampling_threshold", "2", kOffPolicy),
    used("rollout_importance_sampling_threshold_lower", "none", kOffPolicy),
    used("log_rollout_offpolicy_metrics", "false", kOffPolicy),
    used("router_replay_mode", "disabled|none", "replay of the router's choices"),
    used("async_generate", "false", "asynchronous generation"),
    // rewards
    used("reward_funcs", "none|[]", "rewards"),
    used("reward_weights", "none", "weights of rewards"),
    used("external_plugins", "none|[]", "rewards from a Python plugin"),
    used("cosine_min_len_value_wrong", "-0.5", "the cosine reward"),
    used("cosine_max_len_value_wrong", "0", "the cosine reward"),
    used("cosine_min_len_value_correct", "1", "the cosine reward"),
    used("cosine_max_len_value_correct", "0.5", "the cosine reward"),
    used("cosine_max_len", "none", "the cosine reward"),
    used("repetition_n_grams", "3", "the repetition reward"),
    used("repetition_max_penalty", "-1", "the repetition reward"),
    used("soft_max_length", "none", "the soft_overlong reward"),
    used("soft_cache_length", "none", "the soft_overlong reward"),
    used("reward_model", "none|[]", kRewardModel),
    used("reward_model_plugin", "none|[]", kRewardModel),
    used("reward_adapters", "none|[]", "an adapter of a reward model"),
    accepted("reward_model_type", "none", "config.json decides the architecture"),
    used("reward_model_revision", "none", "a reward model from a hub"),
    accepted("reward_template", "none", "the reward model's own chat template is used"),
    // reference
    used("ref_model", "none", "another reference model"),
    used("ref_adapters", "none|[]", "adapters of the reference"),
    used("sync_ref_model", "false", "a moving reference model"),
    used("ref_model_sync_steps", "512", "a moving reference model"),
    used("ref_model_mixup_alpha", "0.6", "a moving reference model"),
    accepted("ref_model_type", "none", "config.json decides the architecture"),
    // multi-turn
    used("multi_turn_scheduler", "none", kMultiTurn),
    used("max_turns", "none", kMultiTurn),
    used("completion_length_limit_scope", "per_round", kMultiTurn),
    used("use_gym_env", "none|false", kMultiTurn),
    used("gym_env", "none", kMultiTurn),
    // teacher
    used("teacher_model", "none", kTeacher),
    used("teacher_adapters", "none|[]", kTeacher),
    used("teacher_model_type", "none", kTeacher),
    used("teacher_model_revision", "none", kTeacher),
    used("teacher_model_server", "none", kTeacher),
    used("teacher_kl_coef", "1", kTeacher),
    used("teacher_tag_key", "dataset", kTeacher),
    // reweighting
    used("advantage_reweight", "none", kReweight),
    used("rlsd_lambda", "0.5", kReweight),
    used("rlsd_reweight_clip_range", "0.2", kReweight),
    used("rlsd_lambda_warmup_steps", "0", kReweight),
    used("rlsd_lambda_decay_steps", "0", kReweight),
    used("rlsd_negative_only", "false", kReweight),
    used("sdar_loss_coef", "0", kReweight),
    used("sdar_gate_beta", "5", kReweight),
    // CHORD
    used("chord_sft_dataset", "none|[]", kChord),
    used("chord_sft_per_device_train_batch_size", "none", kChord),
    used("chord_mu_warmup_steps", "none", kChord),
    used("chord_mu_decay_steps", "none", kChord),
    used("chord_mu_peak", "none", kChord),
    used("chord_mu_valley", "none", kChord),
    used("chord_enable_phi_function", "false", kChord),
    // logging of completions
    used("log_completions", "true|false", "this logging of completions"),
    used("wandb_log_unique_prompts", "none|false", "logging of unique prompts"),
};

}  // namespace

std::span<const FlagRule> algorithm_rules() { return kRules; }

}  // namespace lockstep::cli
