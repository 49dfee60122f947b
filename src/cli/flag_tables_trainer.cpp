// Flags of transformers' Trainer and of TRL, and those of ms-swift that belong to other algorithms,
// tuners and commands.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kLora = "LoRA";
constexpr std::string_view kEvaluation = "evaluation logs eval_loss, or rewards and lengths";
constexpr std::string_view kLogging =
    "what is logged goes into logging.jsonl, completions.jsonl and runs/";
constexpr std::string_view kNothingSent = "nothing is sent anywhere: checkpoints are local folders";
constexpr std::string_view kOneWay =
    "Lockstep has one implementation, which fuses and packs by itself";
constexpr std::string_view kDevice = "--device says where to compute";
constexpr std::string_view kOneRun =
    "however many processes there are, they make one run, with the bytes of one";
constexpr std::string_view kHalf = "float16 is not trained";
constexpr std::string_view kNoPadding = "sequences are packed without padding";
constexpr std::string_view kRowSource =
    "it changes the order or the source of the rows; give local files with --dataset";
constexpr std::string_view kLossTerm = "it changes the loss, in a way that is not there";
constexpr std::string_view kEntropy = "an entropy term in the loss";
constexpr std::string_view kVespo = "the VESPO loss";
constexpr std::string_view kOtherAlgorithm = "it belongs to another algorithm";
constexpr std::string_view kCritic = "it belongs to PPO: GRPO has no value function";
constexpr std::string_view kOtherTuner = "it belongs to another tuner than full and lora";
constexpr std::string_view kOtherBase =
    "another base would be trained; give the unquantised checkpoint";
constexpr std::string_view kOwnSampler =
    "it tunes an engine that is not used: the sampler is Lockstep's own";
constexpr std::string_view kSamplesOnly = "completions are sampled, one token at a time";
constexpr std::string_view kNoSampling = "sft samples nothing";
constexpr std::string_view kServer = "it belongs to a server of completions";
constexpr std::string_view kEvalScope = "EvalScope is not run; held-out rows are --val_dataset";
constexpr std::string_view kCheckpointDecides =
    "the checkpoint's own tokenizer and template decide";
constexpr std::string_view kSftRows = "sft trains on the assistant's turns of messages";
constexpr std::string_view kCorrection =
    "--rollout_importance_sampling_mode says how the sampler's mismatch is corrected; where "
    "sampler "
    "and trainer compute the same log-probabilities, every weight is 1";
constexpr std::string_view kProduct =
    "TRL's ratio of a sequence is --rollout_importance_sampling_sequence_ratio product";
constexpr std::string_view kOptionsAreSaid = "options are what this command line says";

constexpr FlagRule kTrainer[] = {
    // Names of other trainers for flags of ours.
    renamed("model_name_or_path", "model"),
    renamed("revision", "model_revision"),
    renamed("dtype", "torch_dtype"),
    renamed("dataset_name", "dataset"),
    renamed("shuffle_dataset", "dataset_shuffle"),
    renamed("max_seq_length", "max_length"),
    renamed("overwrite_output_dir", "overwrite"),
    renamed("per_gpu_train_batch_size", "per_device_train_batch_size"),
    renamed("evaluation_strategy", "eval_strategy"),
    renamed("activation_checkpointing", "gradient_checkpointing"),
    renamed("lora_r", "lora_rank"),
    renamed("lora_target_modules", "target_modules"),
    renamed("lora_target_parameters", "target_parameters"),
    renamed("lora_modules_to_save", "modules_to_save"),
    // What a loss, an advantage or a reward would be without them.
    used("router_aux_loss_coef", "none|0", "a load-balancing loss"),
    refused("label_smoothing_factor", "0", kLossTerm),
    refused("neftune_noise_alpha", "none|0", "it adds noise to the embeddings"),
    refused("enable_dft_loss", "false", kLossTerm),
    refused("is_binary_loss_scale", "none|false", kLossTerm),
    accepted("enable_channel_loss", "false", kLogging),
    accepted("disable_dropout", "true|false", "these models have no dropout"),
    used("early_stop_interval", "none", "early stopping"),
    renamed("early_stopping_patience", "early_stop_interval"),
    // data
    refused("dataset_config", "none", kRowSource),
    refused("dataset_train_split", "train", kRowSource),
    refused("dataset_test_split", "test", kRowSource),
    refused("dataset_streaming", "false", kRowSource),
    refused("dataset_text_field", "text", "rename the column with --columns"),
    refused("dataset_kwargs", "none|{}", kRowSource),
    refused("cached_val_dataset", "none|[]", kRowSource),
    refused("stopping_strategy", "first_exhausted", kRowSource),
    refused("group_by_length", "false", kRowSource),
    refused("train_sampling_strategy", "random", kRowSource),
    refused("train_dataloader_shuffle", "true", "use --dataset_shuffle false"),
    refused("data_sharding", "false", kRowSource),
    refused("decision_*", "0|false", kRowSource),
    refused("ignore_data_skip", "false", "a resumed run goes on with the rows that are left"),
    accepted("val_dataset_shuffle", "false", "held-out rows are evaluated all together"),
    accepted("dataloader_*", "none|true|false|0|1", "rows are read once into memory"),
    accepted("eval_packing", "none|true|false", kNoPadding),
    accepted("pad_*", "none|auto", kNoPadding),
    accepted("padding_side", "right|left", kNoPadding),
    accepted("length_column_name", "length", kNoPadding),
    accepted("norm_bbox", "none", "rows hold text only"),
    refused("completion_only_loss", "none|true", kSftRows),
    refused("assistant_only_loss", "none|true", kSftRows),
    refused("truncation_mode", "keep_start", "too long a row loses its end"),
    // template and tokenizer
    covered("chat_template_kwargs", "none|{}", "is --enable_thinking"),
    refused("chat_template_path", "none", kCheckpointDecides),
    refused("eos_token", "none", kCheckpointDecides),
    refused("disable_ignore_empty_think", "false", kCheckpointDecides),
    // model
    covered("use_peft", "none", "is --tuner_type"),
    accepted("attn_implementation", "none", kOneWay),
    accepted("trust_remote_code", "true|false", "no code of a checkpoint is run"),
    refused("model_init_kwargs", "none|{}", "set the option in the checkpoint's config.json"),
    refused("load_in_8bit", "none|false", kOtherBase),
    refused("load_in_4bit", "none|false", kOtherBase),
    refused("use_bnb_nested_quant", "none|false", kOtherBase),
    refused("task_type", "none|causal_lm", "the model is a language model"),
    refused("problem_type", "none", "the model is a language model"),
    refused("mrl_dims", "none", "the model is a language model"),
    refused("ckpt_dir", "none", "name the checkpoint with --model"),
    accepted("init_strategy", "none", "a checkpoint holds every weight"),
    accepted("local_repo_path", "none", "models and data are local files"),
    accepted("model_author", "none", kNothingSent),
    accepted("model_name", "none", kNothingSent),
    // adapters and other tuners
    later("lora_modules", "none|[]", kLora),
    accepted("lora_task_type", "causal_lm", "the model is a language model"),
    accepted("lora_ga_*", "2|1024|ArB2r|stable|16", "it belongs to --init_weights lora-ga"),
    accepted("use_swift_lora", "false", "adapters are Lockstep's own"),
    accepted("adalora_*", "8|12|0|1|0.85|0.5", kOtherTuner),
    accepted("adapter_act", "gelu", kOtherTuner),
    accepted("adapter_length", "128", kOtherTuner),
    accepted("boft_*", "0|4|1", kOtherTuner),
    accepted("fourier_*", "2000|300", kOtherTuner),
    accepted("llamapro_*", "4|none", kOtherTuner),
    accepted("reft_*", "4|none|LoreftIntervention", kOtherTuner),
    accepted("vera_*", "256|0|0.1", kOtherTuner),
    // the sampler
    refused("num_beams", "1", kSamplesOnly),
    accepted("logprobs", "true|false", "every token's log-probability is kept"),
    accepted("top_logprobs", "none", kServer),
    accepted("stream", "none|true|false", kServer),
    // the run
    used("log_level", "passive", "this log level"),
    used("logging_strategy", "steps", "this logging_strategy"),
    used("load_best_model_at_end", "false", "the choice of a best checkpoint"),
    used("greater_is_better", "none", "the choice of a best checkpoint"),
    used("lr_scheduler_kwargs", "none|{}", "options of the schedule"),
    accepted("logging_dir", "none", "TensorBoard's files are in runs/ of the run directory"),
    accepted("run_name", "none", "a run's name is its directory"),
    accepted("project", "huggingface|none", kNothingSent),
    accepted("trackio_*", "none|trackio", kNothingSent),
    accepted("hub_*", "none|false|every_save", kNothingSent),
    accepted("push_to_hub", "false", kNothingSent),
    accepted("push_to_hub_*", "none", kNothingSent),
    accepted("log_level_replica", "warning", kOneRun),
    accepted("log_on_each_node", "true|false", kOneRun),
    accepted("save_on_each_node", "true|false", kOneRun),
    accepted("average_tokens_across_devices", "true|false", kOneRun),
    accepted("local_rank", "none|-1|0", "the launcher's LOCAL_RANK says it"),
    accepted("logging_nan_inf_filter", "true|false", kLogging),
    accepted("include_*", "none|false|no|[]", kLogging),
    accepted("skip_memory_metrics", "true|false", kLogging),
    accepted(
        "disable_tqdm", "none|true|false", "progress is shown on a terminal only; see --quiet"),
    accepted("debug", "none|[]", "see --log_level debug"),
    accepted("full_determinism", "true|false", "a run is always deterministic"),
    accepted("do_train", "true|false", "the command says what is done"),
    accepted("do_eval", "true|false", "--eval_strategy says when to evaluate"),
    accepted("do_predict", "false", "the command says what is done"),
    accepted("predict_with_generate", "false", kEvaluation),
    accepted("prediction_loss_only", "true|false", kEvaluation),
    accepted("generation_config", "none", kEvaluation),
    accepted("generation_max_length", "none", kEvaluation),
    accepted("generation_num_beams", "none", kEvaluation),
    accepted("sortish_sampler", "false", kEvaluation),
    accepted("label_names", "none|[]", kEvaluation),
    accepted("batch_eval_metrics", "false", kEvaluation),
    accepted("eval_accumulation_steps", "none", kEvaluation),
    accepted("eval_delay", "0", kEvaluation),
    accepted("eval_do_concat_batches", "true|false", kEvaluation),
    accepted("eval_use_gather_object", "false", kEvaluation),
    accepted("eval_metric", "none", kEvaluation),
    accepted("metric", "none", kEvaluation),
    accepted("acc_strategy", "token", kEvaluation),
    accepted("past_index", "-1", kEvaluation),
    accepted("eval_dataset", "none|[]", kEvalScope),
    accepted("eval_dataset_args", "none|{}", kEvalScope),
    accepted("eval_limit", "none", kEvalScope),
    accepted("eval_use_evalscope", "false", kEvalScope),
    accepted("eval_generation_config", "none|{}", kEvalScope),
    accepted("extra_eval_args", "none|{}", kEvalScope),
    accepted(
        "auto_find_batch_size", "false", "micro-batches are cut by --max_tokens_per_micro_batch"),
    accepted("enable_jit_checkpoint", "false", "SIGTERM saves a checkpoint anyway"),
    accepted("restore_callback_states_from_checkpoint", "false", "there are no callbacks"),
    refused("callbacks", "none|[]", "they are Python; rewards go in --external_plugins"),
    refused("load_args", "false", kOptionsAreSaid),
    refused("load_data_args", "false", kOptionsAreSaid),
    refused("adafactor", "false", "the optimizer is AdamW"),
    accepted("use_flash_ckpt", "false", "checkpoints are written at once"),
    // machines
    accepted("accelerator_config", "none|{}", kOneRun),
    accepted("parallelism_config", "none|{}", kOneRun),
    accepted("activation_checkpointing_kwargs", "none|{}", kOneWay),
    accepted("gradient_checkpointing_use_reentrant", "true|false", kOneWay),
    accepted("activation_offloading", "false", "the memory plan decides what is kept"),
    accepted("ignore_bias_buffers", "true|false", kOneRun),
    accepted("ddp_*", "none|true|false", kOneRun),
    accepted("fsdp_*", "none|0|{}|[]", kOneRun),
    accepted("liger_kernel_config", "none|{}", kOneWay),
    accepted("use_liger_loss", "true|false", kOneWay),
    accepted("use_cache", "true|false", kOneWay),
    accepted("tf32", "none|true|false", kOneWay),
    accepted("torch_compile", "false", kOneWay),
    accepted("torch_compile_*", "none", kOneWay),
    accepted("torchdynamo", "none", kOneWay),
    accepted("jit_mode_eval", "false", kOneWay),
    accepted("use_legacy_prediction_loop", "false", kOneWay),
    accepted("torch_empty_cache_steps", "none", kOneWay),
    accepted("bf16_full_eval", "true|false", "--torch_dtype is the precision of everything"),
    accepted("fp16_backend", "auto", kHalf),
    accepted("fp16_full_eval", "false", kHalf),
    accepted("fp16_opt_level", "O1", kHalf),
    accepted("half_precision_backend", "auto", kHalf),
    accepted("no_cuda", "true|false", kDevice),
    accepted("use_cpu", "true|false", kDevice),
    accepted("use_mps_device", "false", kDevice),
    accepted("tpu_num_cores", "none", kDevice),
    accepted("tpu_metrics_debug", "false", kDevice),
    accepted("mp_parameters", "none|[]", kOneRun),
    accepted("ray_scope", "last", kOneRun),
    accepted("ray_exp_name", "none", kOneRun),
    accepted("device_groups", "none", kOneRun),
};

/// Those that only a trainer with rewards and a sampler has.
constexpr FlagRule kAlgorithms[] = {
    // Names of other trainers for flags of ours.
    renamed("mask_truncated_completions",
            "overlong_filter",
            "their tokens still count where --loss_type dapo divides by tokens, unless "
            "--dapo_denominator loss_tokens"),
    renamed("max_prompt_length", "max_length"),
    renamed("sapo_temperature_pos", "tau_pos"),
    renamed("sapo_temperature_neg", "tau_neg"),
    renamed("off_policy_mask_threshold", "off_policy_sequence_mask_delta"),
    renamed("vllm_max_model_length", "max_model_len"),
    renamed("vllm_guided_decoding_regex", "structured_outputs_regex"),
    renamed("vllm_structured_outputs_regex", "structured_outputs_regex"),
    renamed("reward_model_name_or_path", "reward_model"),
    // What a loss, an advantage or a reward would be without them.
    covered("multi_objective_aggregation", "sum_then_normalize", "is --advantage_estimator"),
    used("entropy_coef", "0", kEntropy),
    used("use_adaptive_entropy", "false", kEntropy),
    used("entropy_coef_delta", "0.005", kEntropy),
    used("entropy_coef_max", "1", kEntropy),
    used("entropy_coef_min", "0", kEntropy),
    used("entropy_target", "0.2", kEntropy),
    used("vespo_k_neg", "3", kVespo),
    used("vespo_k_pos", "2", kVespo),
    used("vespo_lambda_neg", "2", kVespo),
    used("vespo_lambda_pos", "3", kVespo),
    used("use_bias_correction_kl", "false", "a KL term with the ratio's weight"),
    refused("label_smoothing", "0", kLossTerm),
    accepted("vllm_importance_sampling_correction", "false|none", kCorrection),
    renamed("vllm_importance_sampling_mode", "rollout_importance_sampling_mode", kProduct),
    renamed("vllm_importance_sampling_clip_max", "rollout_importance_sampling_threshold"),
    renamed("vllm_importance_sampling_cap", "rollout_importance_sampling_threshold"),
    renamed("vllm_importance_sampling_clip_min", "rollout_importance_sampling_threshold_lower"),
    accepted("cast_lm_head_to_fp32", "false", "log-probabilities are summed in float32 anyway"),
    renamed("max_tool_calling_iterations", "max_turns"),
    refused("multi_turn_func", "none", "a function of older versions: use --multi_turn_scheduler"),
    refused("context_manager",
            "none",
            "an editor of histories, which ms-swift has removed: a "
            "completion is what the model has read"),
    // data
    accepted("val_dataset_sample", "none", kServer),
    accepted("limit_mm_per_prompt", "none", "rows hold text only"),
    accepted("log_multimodal", "true|false", "rows hold text only"),
    // model
    accepted("ref_model_revision", "none", "models and data are local files"),
    // adapters and other tuners
    // other algorithms
    refused("kl_coef", "0.05", "--beta weighs the KL term"),
    refused("cliprange", "0.2", "--epsilon is the clip range"),
    refused("num_ppo_epochs", "4", "--num_iterations is the number of passes over a batch"),
    refused("whiten_rewards", "false", "--scale_rewards says how rewards are scaled"),
    accepted("cliprange_value", "0.2", kCritic),
    accepted("vf_coef", "0.1", kCritic),
    accepted("gamma", "1", kCritic),
    accepted("lam", "0.95", kCritic),
    accepted("num_mini_batches", "1", kCritic),
    accepted("num_sample_generations", "10", kCritic),
    accepted("local_rollout_forward_batch_size", "64", kCritic),
    refused("missing_eos_penalty", "none", "it changes the reward; soft_overlong is the one here"),
    accepted("center_rewards_coefficient", "none", kOtherAlgorithm),
    accepted("cpo_alpha", "1", kOtherAlgorithm),
    accepted("discopop_tau", "0.05", kOtherAlgorithm),
    accepted("desirable_weight", "1", kOtherAlgorithm),
    accepted("undesirable_weight", "1", kOtherAlgorithm),
    accepted("f_divergence_type", "reverse_kl", kOtherAlgorithm),
    accepted("reference_free", "none|false", kOtherAlgorithm),
    accepted("calculate_KL", "none|false", kOtherAlgorithm),
    accepted("ld_alpha", "none", kOtherAlgorithm),
    accepted("rpo_alpha", "none", kOtherAlgorithm),
    accepted("simpo_gamma", "1", kOtherAlgorithm),
    accepted("loss_weights", "none", kOtherAlgorithm),
    accepted("gkd_logits_topk", "none", kOtherAlgorithm),
    accepted("lmbda", "0.5", kOtherAlgorithm),
    accepted("seq_kd", "false", kOtherAlgorithm),
    accepted("sft_alpha", "0", kOtherAlgorithm),
    // the sampler
    refused("generation_kwargs", "none|{}", "say how to sample with flags: --top_p, --min_p …"),
    accepted("cache_implementation", "none", kOwnSampler),
    accepted("transformers_continuous_batching_config", "none", kOwnSampler),
    accepted("use_transformers_*", "false", kOwnSampler),
    accepted("vllm_model_impl", "vllm|auto", kOwnSampler),
    accepted("vllm_enable_sleep_mode", "false", kOwnSampler),
    accepted("num_infer_workers", "1", kOwnSampler),
    accepted("gc_collect_after_offload", "false", "nothing is offloaded"),
    accepted("infer_backend", "vllm|transformers|pt", kOwnSampler),
    accepted("enforce_eager", "none|false", kOwnSampler),
    accepted("kv_cache_dtype", "auto", "the cache has the weights' precision"),
    accepted("distributed_executor_backend", "none", kOwnSampler),
    accepted("speculative_config", "none", kOwnSampler),
    accepted("use_async_engine", "none|true|false", kOwnSampler),
    accepted("lmdeploy_*", "0.8|0|none|1", kOwnSampler),
    accepted("sglang_*", "none|1|false|true|auto", kOwnSampler),
    later("enable_prefix_caching", "true|none", "sampling without shared prompts"),
    covered(
        "gpu_memory_utilization",
        "none|0.9",
        "is a share of a device's memory: a CPU has none of its own, so the memory plan decides"),
    accepted("max_logprobs", "20", kServer),
    accepted("max_batch_size", "1", kServer),
    accepted("owned_by", "swift", kServer),
    accepted("ssl_certfile", "none", kServer),
    accepted("ssl_keyfile", "none", kServer),
    accepted("verbose", "true|false", kServer),
    accepted("result_path", "none", kServer),
    accepted("write_batch_size", "1000", kServer),
    accepted("reranker_use_activation", "true|false", kServer),
    // the run
    accepted("log_completions_hub_repo", "none", kNothingSent),
    accepted("num_completions_to_print", "none", kLogging),
    accepted("log_unique_prompts", "false", kLogging),
};

/// ms-swift has them for sft too, where nothing is sampled unless predict_with_generate says so.
constexpr FlagRule kSupervised[] = {
    accepted("max_new_tokens", "none|64|512", kNoSampling),
    accepted("temperature", "none|0|0.9", kNoSampling),
    accepted("top_k", "none|-1|50", kNoSampling),
    accepted("top_p", "none|1|0.9", kNoSampling),
    accepted("repetition_penalty", "none|1", kNoSampling),
    accepted("stop_words", "none|[]", kNoSampling),
    accepted("structured_outputs_regex", "none", kNoSampling),
    accepted("sft_alpha", "0", kOtherAlgorithm),
    refused("loss_type", "none", kLossTerm),
    refused("dataloader_drop_last",
            "none|false",
            "the last batch of an epoch is trained on, however few rows are left for it"),
    refused("external_plugins", "none|[]", "sft has no rewards, which is what plugins are for"),
};

}  // namespace

std::span<const FlagRule> trainer_rules() { return kTrainer; }
std::span<const FlagRule> other_algorithm_rules() { return kAlgorithms; }
std::span<const FlagRule> supervised_rules() { return kSupervised; }

}  // namespace lockstep::cli
