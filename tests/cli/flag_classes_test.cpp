// Foreign flags: each is in a class, defaults pass silently, and each class does what it says.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_classes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct FlagDefault {
  std::string name, value;
};

// Every flag of `swift rlhf` for GRPO with its default, in the order of the specification.
const FlagDefault kDefaults[] = {
    {"num_generations", "8"},
    {"num_generations_eval", "None"},
    {"num_iterations", "1"},
    {"steps_per_generation", "None"},
    {"generation_batch_size", "None"},
    {"gradient_accumulation_steps", "1"},
    {"per_device_train_batch_size", "1"},
    {"dataset_shuffle", "True"},
    {"temperature", "0.9"},
    {"top_k", "-1"},
    {"top_p", "1.0"},
    {"min_p", "0"},
    {"repetition_penalty", "1"},
    {"stop_words", "[]"},
    {"max_completion_length", "512"},
    {"structured_outputs_regex", "None"},
    {"seed", "42"},
    {"max_length", "None"},
    {"truncation_strategy", "left"},
    {"enable_thinking", "None"},
    {"response_prefix", "None"},
    {"preserve_thinking", "None"},
    {"add_non_thinking_prefix", "True"},
    {"template", "None"},
    {"agent_template", "None"},
    {"use_chat_template", "None"},
    {"template_backend", "swift"},
    {"loss_scale", "None"},
    {"system", "None"},
    {"loss_type", "grpo"},
    {"epsilon", "0.2"},
    {"epsilon_high", "None"},
    {"delta", "None"},
    {"beta", "0.04"},
    {"importance_sampling_level", "token"},
    {"tau_pos", "1.0"},
    {"tau_neg", "1.05"},
    {"real_tau", "0.5"},
    {"fipo_decay_rate", "32"},
    {"fipo_clip_range", "0.2"},
    {"fipo_clip_high_only", "True"},
    {"fipo_safety_threshold", "4.0"},
    {"advantage_estimator", "grpo"},
    {"scale_rewards", "None"},
    {"kl_in_reward", "None"},
    {"dynamic_sample", "False"},
    {"max_resample_times", "3"},
    {"overlong_filter", "False"},
    {"log_entropy", "False"},
    {"top_entropy_quantile", "1.0"},
    {"off_policy_sequence_mask_delta", "None"},
    {"rollout_importance_sampling_mode", "None"},
    {"rollout_importance_sampling_threshold", "2.0"},
    {"log_rollout_offpolicy_metrics", "False"},
    {"router_replay_mode", "disabled"},
    {"reward_funcs", "[]"},
    {"reward_weights", "None"},
    {"reward_model", "None"},
    {"reward_model_plugin", "None"},
    {"external_plugins", "[]"},
    {"cosine_min_len_value_wrong", "-0.5"},
    {"cosine_max_len_value_wrong", "0.0"},
    {"cosine_min_len_value_correct", "1.0"},
    {"cosine_max_len_value_correct", "0.5"},
    {"cosine_max_len", "None"},
    {"repetition_n_grams", "3"},
    {"repetition_max_penalty", "-1.0"},
    {"soft_max_length", "None"},
    {"soft_cache_length", "None"},
    {"reward_adapters", "[]"},
    {"reward_model_type", "None"},
    {"reward_model_revision", "None"},
    {"reward_template", "None"},
    {"sync_ref_model", "False"},
    {"ref_model_sync_steps", "512"},
    {"ref_model_mixup_alpha", "0.6"},
    {"ref_model", "None"},
    {"use_vllm", "False"},
    {"vllm_mode", "None"},
    {"vllm_gpu_memory_utilization", "0.9"},
    {"vllm_tensor_parallel_size", "1"},
    {"vllm_pipeline_parallel_size", "1"},
    {"vllm_data_parallel_size", "1"},
    {"vllm_enable_expert_parallel", "False"},
    {"vllm_max_num_seqs", "None"},
    {"vllm_max_model_len", "None"},
    {"vllm_enforce_eager", "False"},
    {"vllm_enable_prefix_caching", "True"},
    {"vllm_disable_custom_all_reduce", "True"},
    {"vllm_disable_cascade_attn", "False"},
    {"vllm_limit_mm_per_prompt", "None"},
    {"vllm_mm_processor_cache_gb", "None"},
    {"vllm_quantization", "None"},
    {"vllm_speculative_config", "None"},
    {"vllm_engine_kwargs", "None"},
    {"vllm_reasoning_parser", "None"},
    {"vllm_enable_lora", "False"},
    {"lora_rank", "8"},
    {"vllm_max_lora_rank", "16"},
    {"vllm_use_async_engine", "None"},
    {"sleep_level", "0"},
    {"offload_model", "False"},
    {"offload_optimizer", "False"},
    {"move_model_batches", "None"},
    {"vllm_server_base_url", "None"},
    {"vllm_server_host", "None"},
    {"vllm_server_port", "8000"},
    {"vllm_server_timeout", "240"},
    {"vllm_server_group_port", "None"},
    {"enable_flattened_weight_sync", "True"},
    {"async_generate", "False"},
    {"vllm_server_pass_dataset", "False"},
    {"host", "0.0.0.0"},
    {"port", "8000"},
    {"api_key", "None"},
    {"multi_turn_scheduler", "None"},
    {"max_turns", "None"},
    {"completion_length_limit_scope", "per_round"},
    {"use_gym_env", "None"},
    {"gym_env", "None"},
    {"teacher_model", "None"},
    {"teacher_adapters", "[]"},
    {"teacher_model_type", "None"},
    {"teacher_model_revision", "None"},
    {"teacher_deepspeed", "None"},
    {"teacher_model_server", "None"},
    {"offload_teacher_model", "False"},
    {"teacher_kl_coef", "1.0"},
    {"teacher_tag_key", "dataset"},
    {"advantage_reweight", "None"},
    {"rlsd_lambda", "0.5"},
    {"rlsd_reweight_clip_range", "0.2"},
    {"rlsd_lambda_warmup_steps", "0"},
    {"rlsd_lambda_decay_steps", "0"},
    {"rlsd_negative_only", "False"},
    {"sdar_loss_coef", "0"},
    {"sdar_gate_beta", "5"},
    {"chord_sft_dataset", "[]"},
    {"chord_sft_per_device_train_batch_size", "None"},
    {"chord_mu_warmup_steps", "None"},
    {"chord_mu_decay_steps", "None"},
    {"chord_mu_peak", "None"},
    {"chord_mu_valley", "None"},
    {"chord_enable_phi_function", "False"},
    {"log_completions", "False"},
    {"wandb_log_unique_prompts", "None"},
    {"logging_steps", "5"},
    {"report_to", "tensorboard"},
    {"metric_for_best_model", "reward"},
    {"learning_rate", "None"},
    {"weight_decay", "0.1"},
    {"adam_beta1", "0.9"},
    {"adam_beta2", "0.95"},
    {"lr_scheduler_type", "cosine"},
    {"max_grad_norm", "1.0"},
    {"ds3_gather_for_generation", "True"},
    {"num_train_epochs", "3"},
    {"max_steps", "-1"},
    {"save_strategy", "steps"},
    {"save_steps", "500"},
    {"save_total_limit", "None"},
    {"save_only_model", "False"},
    {"eval_strategy", "None"},
    {"eval_steps", "None"},
    {"per_device_eval_batch_size", "1"},
    {"logging_first_step", "True"},
    {"gradient_checkpointing", "True"},
    {"warmup_ratio", "0"},
    {"max_shard_size", "5GB"},
    {"output_dir", "None"},
    {"add_version", "True"},
    {"create_checkpoint_symlink", "False"},
    {"resume_from_checkpoint", "None"},
    {"resume_only_model", "False"},
    {"dataset", "[]"},
    {"val_dataset", "[]"},
    {"split_dataset_ratio", "0"},
    {"columns", "None"},
    {"data_seed", "42"},
    {"dataset_num_proc", "1"},
    {"dataloader_num_workers", "None"},
    {"load_from_cache_file", "False"},
    {"strict", "False"},
    {"disable_auto_column_mapping", "False"},
    {"streaming", "False"},
    {"shuffle_buffer_size", "1000"},
    {"model_type", "None"},
    {"check_model", "True"},
    {"torch_dtype", "None"},
    {"tuner_type", "lora"},
    {"freeze_llm", "False"},
    {"freeze_vit", "True"},
    {"freeze_aligner", "True"},
    {"adapters", "[]"},
    {"quant_method", "None"},
    {"quant_bits", "None"},
    {"bnb_4bit_quant_type", "nf4"},
    {"deepspeed", "None"},
    {"fsdp", "None"},
    {"attn_impl", "None"},
    {"experts_impl", "None"},
    {"padding_free", "False"},
    {"sequence_parallel_size", "1"},
    {"use_liger_kernel", "False"},
    {"gradient_checkpointing_kwargs", "None"},
    {"ddp_backend", "None"},
    {"ddp_timeout", "18000000"},
    {"micro_batch_size", "1"},
    {"global_batch_size", "16"},
    {"lr", "None"},
    {"min_lr", "0"},
    {"lr_decay_style", "cosine"},
    {"lr_warmup_fraction", "None"},
    {"train_iters", "None"},
    {"clip_grad", "1.0"},
    {"tuner_type", "full"},
    {"padding_free", "True"},
    {"bf16", "None"},
    {"finetune", "True"},
    {"no_save_optim", "False"},
    {"no_save_rng", "False"},
    {"save_safetensors", "True"},
    {"merge_lora", "None"},
    {"offload_bridge", "False"},
    {"tensor_model_parallel_size", "1"},
    {"pipeline_model_parallel_size", "1"},
    {"context_parallel_size", "1"},
    {"expert_model_parallel_size", "1"},
    {"expert_tensor_parallel_size", "1"},
    {"sequence_parallel", "False"},
    {"attention_backend", "flash"},
    {"recompute_granularity", "selective"},
    {"recompute_method", "None"},
    {"recompute_num_layers", "None"},
    {"optimizer_cpu_offload", "False"},
    {"use_precision_aware_optimizer", "False"},
    {"gradient_accumulation_fusion", "True"},
    {"cross_entropy_loss_fusion", "True"},
    {"moe_grouped_gemm", "True"},
    {"moe_permute_fusion", "False"},
    {"moe_aux_loss_coeff", "0"},
    {"moe_expert_capacity_factor", "None"},
    {"use_ray", "False"},
    {"max_new_tokens", "None"},
    {"response_length", "None"},
    {"ref_adapters", "[]"},
    {"dataloader_drop_last", "True"},
    {"target_modules", "all-linear"},
    {"target_regex", "None"},
    {"target_parameters", "None"},
    {"lora_alpha", "32.0"},
    {"lora_dropout", "0.05"},
    {"lora_bias", "none"},
    {"use_rslora", "False"},
    {"use_dora", "False"},
    {"init_weights", "True"},
    {"modules_to_save", "[]"},
    {"lora_dtype", "None"},
    {"lorap_lr_ratio", "None"},
};

// Flags that ms-swift's official GRPO examples pass beyond those, by class.
const std::vector<std::string> kUsedNames = {"rlhf_type",     "model",        "model_revision",
                                             "max_model_len", "warmup_steps", "served_model_name"};
const std::vector<std::string> kMappedNames = {"train_type",
                                               "max_epochs",
                                               "data_parallel_size",
                                               "deepspeed_autotp_size",
                                               "zero_hpz_partition_size",
                                               "use_megatron_fsdp",
                                               "use_distributed_optimizer",
                                               "expert_model_parallel_size",
                                               "lr_warmup_iters",
                                               "vllm_mode",
                                               "vllm_server_host",
                                               "vllm_server_port",
                                               "vllm_server_base_url",
                                               "vllm_max_model_len",
                                               "vllm_max_num_seqs",
                                               "vllm_enable_prefix_caching",
                                               "vllm_gpu_memory_utilization",
                                               "vllm_tensor_parallel_size",
                                               "vllm_enable_expert_parallel",
                                               "vllm_data_parallel_size",
                                               "vllm_server_timeout",
                                               "vllm_enable_lora",
                                               "vllm_server_group_port",
                                               "deepspeed",
                                               "fsdp",
                                               "teacher_deepspeed",
                                               "micro_batch_size",
                                               "global_batch_size",
                                               "lr",
                                               "min_lr",
                                               "lr_decay_style",
                                               "lr_warmup_fraction",
                                               "train_iters",
                                               "clip_grad",
                                               "no_save_optim",
                                               "bf16",
                                               "max_new_tokens",
                                               "response_length",
                                               "recompute_granularity"};
const std::vector<std::string> kAcceptedNames = {"swanlab_project",
                                                 "wandb_project",
                                                 "ref_model_type",
                                                 "use_hf",
                                                 "hub_token",
                                                 "device_map",
                                                 "max_memory",
                                                 "vit_lr",
                                                 "aligner_lr",
                                                 "vit_attn_impl",
                                                 "max_pixels",
                                                 "vit_gradient_checkpointing",
                                                 "dataloader_prefetch_factor",
                                                 "dataloader_persistent_workers",
                                                 "lazy_tokenize",
                                                 "download_mode",
                                                 "packing",
                                                 "packing_length",
                                                 "remove_unused_columns",
                                                 "ddp_find_unused_parameters",
                                                 "tuner_backend",
                                                 "use_logits_to_keep",
                                                 "recompute_modules",
                                                 "masked_softmax_fusion",
                                                 "moe_token_dispatcher_type",
                                                 "moe_shared_expert_overlap",
                                                 "moe_pad_expert_input_to_capacity",
                                                 "linear_decoupled_in_proj",
                                                 "tp_comm_overlap",
                                                 "overlap_grad_reduce",
                                                 "overlap_param_gather",
                                                 "virtual_pipeline_model_parallel_size",
                                                 "gpus",
                                                 "colocate_groups",
                                                 "safe_serialization",
                                                 "async_save",
                                                 "bridge_backend",
                                                 "ignore_args_error",
                                                 "enable_npu_model_patch",
                                                 "use_vllm",
                                                 "sleep_level",
                                                 "offload_model",
                                                 "move_model_batches",
                                                 "vllm_engine_kwargs",
                                                 "template",
                                                 "model_type"};
const std::vector<std::string> kRefusedNames = {"hqq_axis",
                                                "bnb_4bit_compute_dtype",
                                                "fp16",
                                                "fp8_format",
                                                "fp8_recipe",
                                                "fp4_format",
                                                "freeze_parameters",
                                                "freeze_parameters_ratio",
                                                "trainable_parameters",
                                                "trainable_parameters_regex",
                                                "galore_rank",
                                                "use_galore",
                                                "lisa_activated_layers",
                                                "optim",
                                                "rope_scaling",
                                                "new_special_tokens",
                                                "num_labels",
                                                "model_kwargs",
                                                "custom_register_path",
                                                "interleave_prob",
                                                "cached_dataset",
                                                "custom_dataset_info",
                                                "moe_z_loss_coeff",
                                                "mtp_num_layers",
                                                "lr_decay_iters",
                                                "mcore_model",
                                                "mcore_adapter",
                                                "nproc_per_node",
                                                "nnodes",
                                                "node_rank",
                                                "config_file",
                                                "moe_router_dtype",
                                                "vllm_reasoning_parser",
                                                "agent_template",
                                                "use_chat_template",
                                                "add_non_thinking_prefix",
                                                "streaming",
                                                "shuffle_buffer_size",
                                                "freeze_vit",
                                                "freeze_aligner",
                                                "freeze_llm"};

/// The result of reading a command line whose command registers `registered`.
struct Read {
  std::vector<Assignment> assignments;
  ClassNotes notes;

  Read(std::vector<std::string> arguments, std::vector<std::string> registered = {}) {
    const auto has = [&](std::string_view name) {
      return std::find(registered.begin(), registered.end(), name) != registered.end();
    };
    assignments = apply_flag_classes(grpo_flag_classes(), has, split_arguments(arguments), notes);
  }
  /// "name=value value" of each.
  std::vector<std::string> texts() const {
    std::vector<std::string> result;
    for (const Assignment& assignment : assignments) {
      result.push_back(assignment.name + "=");
      for (size_t i = 0; i < assignment.values.size(); ++i)
        result.back() += (i ? " " : "") + assignment.values[i];
    }
    return result;
  }
};

TEST(FlagClasses, EveryFlagOfTheSpecificationHasAClass) {
  for (const FlagDefault& flag : kDefaults)
    EXPECT_TRUE(find_rule(grpo_flag_classes(), flag.name)) << flag.name;
  const auto expect_class = [](const std::vector<std::string>& names, FlagClass expected) {
    for (const std::string& name : names) {
      const FlagRule* const rule = find_rule(grpo_flag_classes(), name);
      ASSERT_TRUE(rule) << name;
      EXPECT_EQ(rule->flag_class, expected) << name;
    }
  };
  expect_class(kUsedNames, FlagClass::kUsed);
  expect_class(kMappedNames, FlagClass::kMapped);
  expect_class(kAcceptedNames, FlagClass::kAccepted);
  expect_class(kRefusedNames, FlagClass::kRefused);
  EXPECT_FALSE(find_rule(grpo_flag_classes(), "learning_rat"));
}

TEST(FlagClasses, DefaultsPassSilently) {
  // LoRA is ms-swift's default and refused until it is built; Megatron's batch is what its name says.
  const std::vector<std::string> exceptions = {"tuner_type", "global_batch_size"};
  for (const FlagDefault& flag : kDefaults) {
    if (std::find(exceptions.begin(), exceptions.end(), flag.name) != exceptions.end()) continue;
    const FlagRule& rule = *find_rule(grpo_flag_classes(), flag.name);
    if (!rule.target.empty() && rule.flag_class == FlagClass::kMapped)
      continue;  // read as a flag of ours
    SCOPED_TRACE(flag.name + " " + flag.value);
    try {
      const Read read({"--" + flag.name, flag.value});
      EXPECT_THAT(read.notes.notices, IsEmpty());
      EXPECT_THAT(read.assignments, IsEmpty());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(FlagClasses, EveryTargetIsAFlagOfOurs) {
  for (const std::span<const FlagRule> table : grpo_flag_classes().tables)
    for (const FlagRule& rule : table) {
      if (rule.target.empty()) continue;
      const FlagRule* const target = find_rule(grpo_flag_classes(), rule.target);
      ASSERT_TRUE(target) << rule.name;
      EXPECT_EQ(target->flag_class, FlagClass::kUsed) << rule.name;
    }
}

TEST(FlagClasses, NoFlagStandsTwice) {
  std::vector<std::string_view> names;
  for (const std::span<const FlagRule> table : grpo_flag_classes().tables)
    for (const FlagRule& rule : table) names.push_back(rule.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST(FlagClasses, MapsNamesWithANotice) {
  const Read read({"--max_new_tokens", "64", "--lr", "1e-6", "--clip_grad", "2"},
                  {"max_completion_length", "learning_rate", "max_grad_norm"});
  EXPECT_THAT(read.texts(),
              ElementsAre("max_completion_length=64", "learning_rate=1e-6", "max_grad_norm=2"));
  EXPECT_THAT(read.notes.notices, ElementsAre("--max_new_tokens is read as --max_completion_length",
                                              "--lr is read as --learning_rate",
                                              "--clip_grad is read as --max_grad_norm"));
  EXPECT_EQ(read.assignments[1].where, "--lr");
}

TEST(FlagClasses, MapsValues) {
  EXPECT_THAT(Read({"--bf16", "true"}, {"torch_dtype"}).texts(),
              ElementsAre("torch_dtype=bfloat16"));
  EXPECT_THAT(Read({"--bf16"}, {"torch_dtype"}).texts(), ElementsAre("torch_dtype=bfloat16"));
  EXPECT_THAT(Read({"--bf16", "false"}, {"torch_dtype"}).texts(), IsEmpty());
  EXPECT_THAT(Read({"--recompute_granularity", "full"}, {"gradient_checkpointing"}).texts(),
              ElementsAre("gradient_checkpointing=true"));
  EXPECT_THAT(Read({"--recompute_granularity", "none"}, {"gradient_checkpointing"}).texts(),
              ElementsAre("gradient_checkpointing=false"));
  EXPECT_THAT(Read({"--recompute_granularity", "selective"}, {"gradient_checkpointing"}).texts(),
              IsEmpty());
  EXPECT_ERROR(Read({"--recompute_granularity", "half"}, {"gradient_checkpointing"}), ConfigError,
               "bad-flag", "half");
}

TEST(FlagClasses, GlobalBatchSizeIsASumOfMicroBatches) {
  const std::vector<std::string> ours = {"per_device_train_batch_size",
                                         "gradient_accumulation_steps"};
  EXPECT_THAT(Read({"--micro_batch_size", "4", "--global_batch_size", "32"}, ours).texts(),
              ElementsAre("per_device_train_batch_size=4", "gradient_accumulation_steps=8"));
  EXPECT_THAT(Read({"--global_batch_size", "32"}, ours).texts(),
              ElementsAre("per_device_train_batch_size=1", "gradient_accumulation_steps=32"));
  EXPECT_ERROR(Read({"--micro_batch_size", "5", "--global_batch_size", "32"}, ours), ConfigError,
               "bad-flag", "expected a multiple of per_device_train_batch_size 5, got 32");
  EXPECT_ERROR(Read({"--global_batch_size", "0"}, ours), ConfigError, "bad-flag",
               "expected a whole number >= 1");
}

TEST(FlagClasses, ReportsToServicesBecomeFiles) {
  const Read read({"--report_to", "tensorboard", "swanlab", "wandb"}, {"report_to"});
  EXPECT_THAT(read.texts(), ElementsAre("report_to=tensorboard"));
  EXPECT_THAT(read.notes.notices, ElementsAre(HasSubstr("swanlab: nothing is sent"),
                                              HasSubstr("wandb: nothing is sent")));
}

TEST(FlagClasses, AcceptsWithANoticeThatSaysWhy) {
  const Read read({"--sleep_level", "1", "--use_vllm", "true", "--attn_impl", "flash_attn",
                   "--packing_length=9"});
  EXPECT_THAT(read.assignments, IsEmpty());
  EXPECT_THAT(
      read.notes.notices,
      ElementsAre(HasSubstr("--sleep_level 1 has no effect: trainer and sampler share the weights"),
                  HasSubstr("--use_vllm true has no effect: the sampler is always"),
                  HasSubstr("--attn_impl flash_attn has no effect"),
                  HasSubstr("--packing_length 9")));
  EXPECT_THAT(read.notes.accepted, SizeIs(4));
}

TEST(FlagClasses, RefusesWhatWouldChangeTheTraining) {
  EXPECT_ERROR(Read({"--freeze_vit", "false"}), ConfigError, "refused-flag",
               "--freeze_vit: expected true, got 'false'");
  EXPECT_ERROR(Read({"--streaming", "true"}), ConfigError, "refused-flag",
               "order or the source of the rows");
  EXPECT_ERROR(Read({"--bnb_4bit_compute_dtype", "float16"}), ConfigError, "refused-flag",
               "another base");
  EXPECT_ERROR(Read({"--rlhf_type", "dpo"}), ConfigError, "refused-flag",
               "expected grpo, got 'dpo'");
  EXPECT_ERROR(Read({"--mcore_model", "x"}), ConfigError, "refused-flag",
               "lockstep layout convert");
}

TEST(FlagClasses, RefusesWhatIsNotBuiltByItsFeature) {
  EXPECT_ERROR(Read({"--async_generate", "true"}), ConfigError, "refused-flag",
               "asynchronous generation is not built yet");
  EXPECT_ERROR(Read({"--vllm_mode", "server"}), ConfigError, "refused-flag",
               "rollout in server mode is not built yet");
  EXPECT_ERROR(Read({"--vllm_tensor_parallel_size", "2"}), ConfigError, "refused-flag",
               "is not built yet");
  EXPECT_ERROR(Read({"--teacher_model", "big"}), ConfigError, "refused-flag",
               "distillation from a teacher");
  // Once the command registers the flag, it is used.
  EXPECT_THAT(Read({"--async_generate", "true"}, {"async_generate"}).texts(),
              ElementsAre("async_generate=true"));
  EXPECT_THAT(Read({"--vllm_mode", "server"}, {"rollout_mode"}).texts(),
              ElementsAre("rollout_mode=server"));
}

TEST(FlagClasses, ValuesThatSwitchOffPassSilently) {
  const Read read({"--async_generate", "false", "--padding_free", "false", "--vllm_mode",
                   "colocate", "--warmup_ratio", "0.0", "--moe_aux_loss_coeff", "0.0",
                   "--teacher_model", "null"});
  EXPECT_THAT(read.assignments, IsEmpty());
  EXPECT_THAT(read.notes.notices, IsEmpty());
}

TEST(FlagClasses, AnUnknownNameStaysForTheCommandToRefuse) {
  EXPECT_THAT(Read({"--no_such_flag", "1"}).texts(), ElementsAre("no_such_flag=1"));
}

TEST(FlagClasses, SupervisedTrainingHasNoAlgorithmFlags) {
  EXPECT_FALSE(find_rule(sft_flag_classes(), "beta"));
  EXPECT_FALSE(find_rule(sft_flag_classes(), "vllm_mode"));
  EXPECT_TRUE(find_rule(sft_flag_classes(), "learning_rate"));
  EXPECT_TRUE(find_rule(sft_flag_classes(), "deepspeed"));
}

TEST(FlagClasses, TheUsualScriptRuns) {
  const Read read({"--rlhf_type",
                   "grpo",
                   "--model",
                   "m",
                   "--reward_funcs",
                   "accuracy",
                   "format",
                   "--use_vllm",
                   "true",
                   "--vllm_mode",
                   "colocate",
                   "--vllm_gpu_memory_utilization",
                   "0.4",
                   "--train_type",
                   "full",
                   "--torch_dtype",
                   "bfloat16",
                   "--load_from_cache_file",
                   "true",
                   "--sleep_level",
                   "1",
                   "--offload_model",
                   "true",
                   "--move_model_batches",
                   "16",
                   "--deepspeed",
                   "zero3_offload",
                   "--attn_impl",
                   "flash_attn",
                   "--padding_free",
                   "true"},
                  {"model", "reward_funcs", "rollout_mode", "tuner_type", "torch_dtype"});
  EXPECT_THAT(read.texts(),
              ElementsAre("model=m", "reward_funcs=accuracy format", "rollout_mode=colocate",
                          "tuner_type=full", "torch_dtype=bfloat16"));
}

TEST(FlagClasses, EngineOptionsThatChangeTheModelAreRefused) {
  EXPECT_THAT(Read({"--vllm_engine_kwargs", R"({"max_logprobs": 5, "seed": 1})"}).notes.notices,
              ElementsAre(HasSubstr("(max_logprobs, seed)")));
  EXPECT_ERROR(Read({"--vllm_engine_kwargs", R"({"hf_overrides": {}})"}), ConfigError,
               "refused-flag", "hf_overrides");
}

class FrameworkFile : public ::testing::Test {
 protected:
  std::string write(const std::string& text) { return directory.write("ds.json", text).string(); }
  testing::TempDir directory;
};

TEST_F(FrameworkFile, NamesWhatHasNoEffect) {
  const Read read(
      {"--deepspeed", write(R"({"zero_optimization": {"stage": 2}, "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "steps_per_print": 10})")});
  EXPECT_THAT(read.notes.notices, ElementsAre(HasSubstr("without effect in it: steps_per_print")));
}

TEST_F(FrameworkFile, RefusesWhatContradictsTheFlags) {
  const std::vector<std::string> ours = {"max_grad_norm", "torch_dtype"};
  const std::string clipping = write(R"({"gradient_clipping": 0.5})");
  EXPECT_ERROR(Read({"--deepspeed", clipping}, ours), ConfigError, "refused-flag",
               "gradient_clipping");
  EXPECT_NO_THROW(Read({"--deepspeed", clipping, "--max_grad_norm", "0.5"}, ours));
  EXPECT_ERROR(
      Read({"--deepspeed", write(R"({"optimizer": {"type": "Adam", "params": {"lr": 0.1}}})")},
           ours),
      ConfigError, "refused-flag", "--learning_rate");
  EXPECT_ERROR(Read({"--deepspeed", write(R"({"fp16": {"enabled": true}})")}, ours), ConfigError,
               "refused-flag", "fp16");
  EXPECT_ERROR(
      Read({"--torch_dtype", "float32", "--deepspeed", write(R"({"bf16": {"enabled": true}})")},
           ours),
      ConfigError, "refused-flag", "--torch_dtype");
  EXPECT_THROW(Read({"--deepspeed", "no_such_file.json"}), IoError);
}

TEST(DeclaredFamily, MustBeTheCheckpoints) {
  const auto check = [](const std::string& flag, const std::string& value,
                        std::string_view model_type) {
    check_declared_family({{.name = flag, .values = {value}, .where = "--" + flag}}, model_type);
  };
  EXPECT_NO_THROW(check("model_type", "qwen3_5_moe", "qwen3_5_moe"));
  EXPECT_NO_THROW(check("template", "qwen3_thinking", "qwen3_moe"));
  EXPECT_NO_THROW(check("sleep_level", "1", "qwen3"));
  EXPECT_ERROR(check("model_type", "qwen3", "qwen3_5"), ConfigError, "refused-flag",
               "expected the family of config.json");
  EXPECT_ERROR(check("model_type", "qwen3", "qwen3_moe"), ConfigError, "refused-flag", "qwen3_moe");
  EXPECT_ERROR(check("template", "llama3", "qwen3"), ConfigError, "refused-flag", "llama3");
}

}  // namespace
}  // namespace lockstep::cli
