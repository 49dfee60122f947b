// Flags of frameworks: sharding, kernels, parallel degrees, Megatron's spellings, launchers.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kSharded =
    "is sharding over the data-parallel ranks, which is always on with more than one";
constexpr std::string_view kOneWay =
    "Lockstep has one implementation, which fuses and packs by itself";
constexpr std::string_view kNoDrop = "Lockstep's experts drop no token";
constexpr std::string_view kObjectiveStays =
    "the batch is counted in completions, so the objective is the same without it";
constexpr std::string_view kCheckpointForm =
    "checkpoints are always safetensors and hold what resuming needs";
constexpr std::string_view kLossTerm = "it adds a term to the loss that is not there";
constexpr std::string_view kConvert = "convert the checkpoint first: lockstep layout convert";
constexpr std::string_view kLauncher = "it belongs to a launcher; start one process";

constexpr FlagRule kRules[] = {
    // DeepSpeed, FSDP, DDP
    covered("deepspeed", "none", kSharded),
    covered("teacher_deepspeed", "none", kSharded),
    covered("fsdp", "none", kSharded),
    covered("deepspeed_autotp_size", "none|1", kSharded),
    covered("zero_hpz_partition_size", "none|1", kSharded),
    covered("use_megatron_fsdp", "false", kSharded),
    covered("use_distributed_optimizer", "true", kSharded),
    accepted(
        "ds3_gather_for_generation", "true", "the sampler reads the trainer's weights in place"),
    accepted("ddp_backend", "none", "Lockstep chooses the transport"),
    accepted("ddp_timeout", "18000000", "deadlines are Lockstep's own"),
    accepted(
        "ddp_find_unused_parameters", "none|false", "gradients come from Lockstep's own backward"),
    // kernels
    covered("recompute_granularity", "selective", "is --gradient_checkpointing"),
    accepted("recompute_method", "none", kOneWay),
    accepted("recompute_num_layers", "none", kOneWay),
    accepted("recompute_modules", "none|[]", kOneWay),
    accepted("attn_impl", "none", kOneWay),
    accepted("attention_backend", "flash", kOneWay),
    accepted("experts_impl", "none", kOneWay),
    accepted("use_liger_kernel", "false", kOneWay),
    accepted("use_logits_to_keep", "none|true|false", kOneWay),
    accepted("padding_free", "true|false", kOneWay),
    accepted("gradient_checkpointing_kwargs", "none", kOneWay),
    accepted("*_fusion", "true|false", kOneWay),
    accepted("moe_grouped_gemm", "true", kOneWay),
    accepted("moe_token_dispatcher_type", "alltoall|none", kOneWay),
    accepted("moe_shared_expert_overlap", "false", kOneWay),
    accepted("moe_expert_capacity_factor", "none", kNoDrop),
    accepted("moe_pad_expert_input_to_capacity", "false", kNoDrop),
    accepted("linear_decoupled_in_proj", "none|false", kOneWay),
    accepted("tp_comm_overlap", "false", kOneWay),
    accepted("overlap_*", "none|false", kOneWay),
    // parallel degrees
    later("expert_model_parallel_size", "1", "expert parallelism"),
    accepted("tensor_model_parallel_size", "1", kObjectiveStays),
    accepted("pipeline_model_parallel_size", "1", kObjectiveStays),
    accepted("virtual_pipeline_*", "none", kObjectiveStays),
    accepted("context_parallel_size", "1", kObjectiveStays),
    accepted("expert_tensor_parallel_size", "1", kObjectiveStays),
    accepted("sequence_parallel", "false", kObjectiveStays),
    accepted("sequence_parallel_size", "1", kObjectiveStays),
    accepted("use_ray", "false", kObjectiveStays),
    accepted("gpus", "none|1", kObjectiveStays),
    accepted("colocate_groups", "none", kObjectiveStays),
    // Megatron
    renamed("micro_batch_size", "per_device_train_batch_size"),
    covered("global_batch_size",
            "none",
            "is per_device_train_batch_size x gradient_accumulation_steps"),
    renamed("lr", "learning_rate"),
    renamed("min_lr", "min_learning_rate"),
    renamed("lr_decay_style", "lr_scheduler_type"),
    renamed("lr_warmup_fraction", "warmup_ratio"),
    renamed("lr_warmup_iters", "warmup_steps"),
    renamed("train_iters", "max_steps"),
    renamed("clip_grad", "max_grad_norm"),
    renamed("no_save_optim", "save_only_model"),
    refused("lr_decay_iters", "none", "the schedule always ends with the run; use --max_steps"),
    accepted("finetune", "true|false", "a run starts from the checkpoint's weights"),
    accepted("no_save_rng", "false", "random numbers are counted, there is no state to save"),
    accepted("save_safetensors", "true", kCheckpointForm),
    accepted("safe_serialization", "none|true", kCheckpointForm),
    accepted("async_save", "false", kCheckpointForm),
    accepted("optimizer_cpu_offload", "false", "the memory plan decides where states live"),
    accepted("use_precision_aware_optimizer", "false", "optimizer states are always float32"),
    accepted("bridge_backend", "none|mcore_bridge", "checkpoints are read in Hugging Face's form"),
    refused("moe_router_dtype", "fp32|none", "the router computes in float32"),
    refused("moe_aux_loss_coeff", "0", kLossTerm),
    refused("moe_z_loss_coeff", "none|0", kLossTerm),
    refused("mtp_num_layers", "none|0", kLossTerm),
    refused("mcore_model", "none", kConvert),
    refused("mcore_adapter", "none", kConvert),
    // launchers
    refused("nproc_per_node", "1", kLauncher),
    refused("nnodes", "1", kLauncher),
    refused("node_rank", "0", kLauncher),
    refused("config_file", "none", kLauncher),
};

}  // namespace

std::span<const FlagRule> framework_rules() { return kRules; }

}  // namespace lockstep::cli
