// Flags of a training run: optimizer, schedule, output, data, template, model and adapters.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kLora = "LoRA";
constexpr std::string_view kFrozen = "frozen weights";
constexpr std::string_view kEvaluation = "evaluation during training";
constexpr std::string_view kOtherBase =
    "another base would be trained; give the unquantised checkpoint";
constexpr std::string_view kQlora =
    "QLoRA, adapters beside a quantised base, is not built; give the unquantised checkpoint";
constexpr std::string_view kOtherOptimizer = "the optimizer is AdamW";
constexpr std::string_view kConfigDecides = "config.json decides the architecture";
constexpr std::string_view kVision = "the vision tower is carried through, not run";
constexpr std::string_view kLocalFiles = "models and data are local files";
constexpr std::string_view kInMemory =
    "rows are read once into memory and batches are made in place";
constexpr std::string_view kPacked = "batches are always packed";
constexpr std::string_view kRowSource =
    "it changes the order or the source of the rows; give local files with --dataset";

constexpr FlagRule kRules[] = {
    // batch and optimizer
    used("per_device_train_batch_size", "1", "this batch size"),
    used("gradient_accumulation_steps", "1", "gradient accumulation"),
    used("learning_rate", "none", "this learning rate"),
    used("weight_decay", "0.1", "this weight decay"),
    used("adam_beta1", "0.9", "this adam_beta1"),
    used("adam_beta2", "0.95", "this adam_beta2"),
    used("adam_epsilon", "1e-8", "this adam_epsilon"),
    used("lr_scheduler_type", "cosine", "this schedule"),
    used("min_learning_rate", "0|none", "a floor of the schedule"),
    used("max_grad_norm", "1", "this clipping of gradients"),
    used("warmup_ratio", "0", "warm-up"),
    used("warmup_steps", "0", "warm-up"),
    used("gradient_checkpointing", "true|false", "activation checkpointing"),
    refused("optim", "adamw_torch|adamw_torch_fused|adamw", kOtherOptimizer),
    refused("optimizer", "none|adam|adamw", kOtherOptimizer),
    refused("optim_*", "none|[]", kOtherOptimizer),
    refused("use_galore", "false", kOtherOptimizer),
    refused("galore", "false|none", kOtherOptimizer),
    refused("galore_*", "none|0.4|2|false|4|256|std|5|128|1|50", kOtherOptimizer),
    refused("lisa", "false|none|0", kOtherOptimizer),
    refused("lisa_*", "0|20|none", kOtherOptimizer),
    refused("lorap_lr_ratio", "none", kOtherOptimizer),
    // run
    used("num_train_epochs", "3", "a number of epochs"),
    renamed("max_epochs", "num_train_epochs"),
    used("max_steps", "-1|none", "a number of steps"),
    used("save_strategy", "steps", "this save_strategy"),
    used("save_steps", "500", "this save_steps"),
    used("save_total_limit", "none", "a limit of checkpoints"),
    used("save_only_model", "false", "checkpoints without optimizer"),
    used("eval_strategy", "none|no", kEvaluation),
    used("eval_steps", "none", kEvaluation),
    used("eval_on_start", "false", kEvaluation),
    accepted("per_device_eval_batch_size", "1", "held-out rows are packed like all others"),
    accepted("per_gpu_eval_batch_size", "none", "held-out rows are packed like all others"),
    used("logging_steps", "5", "this logging interval"),
    used("logging_first_step", "true", "a first step that is not logged"),
    used("report_to", "tensorboard", "this report"),
    used("metric_for_best_model", "reward|none", "the choice of a best checkpoint"),
    used("max_shard_size", "5GB", "this shard size"),
    used("output_dir", "none", "an output directory"),
    used("overwrite", "false", "replacing a run"),
    used("add_version", "true|false", "versions of run directories"),
    used("resume_from_checkpoint", "none", "resuming"),
    used("resume_only_model", "false", "resuming with weights only"),
    used("seed", "42", "a seed"),
    accepted("create_checkpoint_symlink", "false", "`last` always points to the newest checkpoint"),
    accepted("ignore_args_error", "false", "an unknown flag stays an error"),
    accepted("enable_npu_model_patch", "none|true|false", "the model is Lockstep's own"),
    accepted("swanlab_*",
             "none|zh|cloud|ms-swift|megatron-swift",
             "nothing is sent; logging.jsonl and runs/ hold the metrics"),
    accepted("wandb_*",
             "none|ms-swift|megatron-swift",
             "nothing is sent; logging.jsonl and runs/ hold the metrics"),
    // data
    used("dataset", "none|[]", "data"),
    used("val_dataset", "none|[]", kEvaluation),
    used("split_dataset_ratio", "0", kEvaluation),
    used("columns", "none|{}", "renamed columns"),
    used("dataset_shuffle", "true", "rows in the file's order"),
    used("data_seed", "42|none", "a seed of the data"),
    used("strict", "true|false", "strict rows"),
    used("disable_auto_column_mapping", "false", "rows without column mapping"),
    used("max_length", "none", "a limit of prompt lengths"),
    used("truncation_strategy", "left|none", "this truncation"),
    accepted("dataset_num_proc", "1", kInMemory),
    accepted("dataloader_num_workers", "none|0|4", kInMemory),
    accepted("dataloader_prefetch_factor", "none|2", kInMemory),
    accepted("dataloader_persistent_workers", "true|false", kInMemory),
    accepted("load_from_cache_file", "false", kInMemory),
    accepted("lazy_tokenize", "none|true|false", kInMemory),
    accepted("download_mode", "none|reuse_dataset_if_exists", kLocalFiles),
    accepted("packing", "false", kPacked),
    accepted("packing_*", "none|1|false|binpack", kPacked),
    accepted("remove_unused_columns", "true|false", "every column is handed to the rewards"),
    refused("streaming", "false", kRowSource),
    refused("shuffle_buffer_size", "1000", kRowSource),
    refused("interleave_prob", "none", kRowSource),
    refused("cached_dataset", "none|[]", kRowSource),
    refused("custom_dataset_info", "none|[]", kRowSource),
    // template
    used("system", "none", "a system prompt"),
    used("enable_thinking", "none", "thinking on or off"),
    used("preserve_thinking", "none", "thinking of earlier turns"),
    used("response_prefix", "none", "a prefix of responses"),
    used("loss_scale",
         "none|default|last_round",
         "other weights of turns than default and last_round"),
    accepted("template", "none", "the checkpoint's own template is used"),
    accepted("template_backend", "swift", "the checkpoint's own template is used"),
    refused("agent_template",
            "none",
            "it rewrites the tool prompt; the checkpoint's template has its own"),
    refused("use_chat_template", "true|none", "conversations need the checkpoint's template"),
    refused("add_non_thinking_prefix", "true", "what is trained would not be what is sampled"),
    // model
    used("model", "none", "a model"),
    used("model_revision", "none|main|master", "revisions of a hub"),
    used("torch_dtype", "none", "this precision"),
    used("max_model_len", "none", "a limit of the context"),
    used("merge_lora", "none|false", kLora),
    later("bf16", "none|false", "bfloat16"),
    accepted("model_type", "none", kConfigDecides),
    accepted("check_model", "true", kLocalFiles),
    accepted("use_hf", "none|false", kLocalFiles),
    accepted("hub_token", "none", kLocalFiles),
    accepted("device_map", "none", "--device says where to compute"),
    accepted("max_memory", "none", "the memory plan decides"),
    accepted("vit_lr", "none", kVision),
    accepted("aligner_lr", "none", kVision),
    accepted("vit_attn_impl", "none", kVision),
    accepted("max_pixels", "none", kVision),
    accepted("vit_gradient_checkpointing", "none|true|false", kVision),
    refused("freeze_vit", "true", "the vision tower is not run, so it cannot be trained"),
    refused("freeze_aligner", "true", "the vision tower is not run, so it cannot be trained"),
    refused("freeze_llm", "false", "nothing would be trained"),
    refused("quant_method", "none", kQlora),
    refused("quant_bits", "none", kQlora),
    refused("hqq_*", "none", kOtherBase),
    refused("bnb_*", "none|nf4|true", kOtherBase),
    refused("fp16", "none|false", "float16 is not trained; use --torch_dtype bfloat16 or float32"),
    refused("fp8_*",
            "none|false|delayed|max|1024",
            "8-bit numbers are not trained; use --torch_dtype bfloat16"),
    refused(
        "fp4_*", "none|false|nvfp4", "4-bit numbers are not trained; use --torch_dtype bfloat16"),
    refused("rope_scaling", "none", "set rope_parameters in the checkpoint's config.json"),
    refused("new_special_tokens", "none|[]", "add tokens to the checkpoint first"),
    refused("num_labels", "none", "the model is a language model"),
    refused("model_kwargs", "none|{}", "set the option in the checkpoint's config.json"),
    refused("custom_register_path",
            "none|[]",
            "it registers Python models; rewards go in --external_plugins"),
    // adapters
    used("tuner_type", "full", kLora),
    renamed("train_type", "tuner_type"),
    used("adapters", "none|[]", kLora),
    used("target_modules", "all-linear", kLora),
    used("target_regex", "none", kLora),
    used("target_parameters", "none|[]", kLora),
    used("modules_to_save", "none|[]", "a module that is trained whole"),
    used("lora_rank", "8", kLora),
    used("lora_alpha", "32", kLora),
    used("lora_dropout", "0.05", kLora),
    used("use_rslora", "false", kLora),
    refused("lora_dtype",
            "none|float32",
            "adapters are float32, as PEFT makes them, also beside a bfloat16 model"),
    used("freeze_parameters", "none|[]", kFrozen),
    used("freeze_parameters_ratio", "0", kFrozen),
    used("freeze_parameters_regex", "none", kFrozen),
    used("trainable_parameters", "none|[]", kFrozen),
    used("trainable_parameters_regex", "none", kFrozen),
    accepted("tuner_backend", "peft", "adapters are Lockstep's own"),
    refused("use_dora", "false", "DoRA is another adapter; use --use_rslora or plain LoRA"),
    refused("lora_bias", "none", "biases are not trained with adapters"),
    used("init_weights", "true", "another beginning of adapters"),
};

}  // namespace

std::span<const FlagRule> training_rules() { return kRules; }

std::span<const FlagRule> model_rules() {
  static constexpr FlagRule kRules[] = {
      used("torch_dtype", "none", "this precision"),
      renamed("dtype", "torch_dtype"),
      used("adapters", "none|[]", kLora),
      used("merge_lora", "none|false", kLora),
      used("adapter_format", "none|peft", kLora),
  };
  return kRules;
}

}  // namespace lockstep::cli
