// Flags of frameworks: sharding, kernels, parallel degrees, Megatron's spellings, launchers.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kSharded =
    "is sharding over the data-parallel ranks, of which --sharding says how much";
constexpr std::string_view kOneWay =
    "Lockstep has one implementation, which fuses and packs by itself";
constexpr std::string_view kNoDrop = "Lockstep's experts drop no token";
constexpr std::string_view kObjectiveStays =
    "the batch is counted in completions, so the objective is the same without it";
constexpr std::string_view kOneProcess =
    "one process has the whole model, and the objective is the same; several refuse it";
constexpr std::string_view kCheckpointForm =
    "checkpoints are always safetensors and hold what resuming needs";
constexpr std::string_view kLossTerm = "it adds a term to the loss that is not there";
constexpr std::string_view kConvert = "convert the checkpoint first: lockstep layout convert";
constexpr std::string_view kConfigDecides = "config.json decides the architecture";
constexpr std::string_view kTransport = "Lockstep chooses the transport";
constexpr std::string_view kFloat32States = "gradients and optimizer states are always float32";
constexpr std::string_view kReports = "logging.jsonl and runs/ hold the metrics";
constexpr std::string_view kConstantDecay = "weight decay is the same in every step";
constexpr std::string_view kAdamW = "the optimizer is AdamW";
constexpr std::string_view kCarriedMtp =
    "the head for further tokens is carried through, not trained";
constexpr std::string_view kUnknownOptions = "what it holds cannot be checked";
constexpr std::string_view kSeveral = "work over several processes in this command";

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
    accepted("ddp_backend", "none|nccl|gloo", kTransport),
    used("ddp_timeout", "1800|18000000", kSeveral),
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
    accepted("overlap_*", "none|true|false", kOneWay),
    // parallel degrees
    covered("expert_model_parallel_size",
            "1",
            "is for several devices: --expert_parallel_size shares experts out over processes, and "
            "what is trained is the same"),
    accepted("tensor_model_parallel_size", "1", kOneProcess),
    accepted("tensor_parallel_size", "1|none", kOneProcess),
    accepted("pipeline_model_parallel_size", "1", kOneProcess),
    accepted("pipeline_parallel_size", "1|none", kOneProcess),
    accepted("virtual_pipeline_*", "none", kObjectiveStays),
    accepted("context_parallel_size", "1", kObjectiveStays),
    accepted("expert_tensor_parallel_size", "1", kOneProcess),
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
    accepted("bridge_backend",
             "none|mcore-bridge|mcore_bridge",
             "checkpoints are read in Hugging Face's form"),
    refused("moe_router_dtype", "fp32|none", "the router computes in float32"),
    refused("moe_aux_loss_coeff",
            "0",
            "Megatron's balances each layer alone; --router_aux_loss_coef is transformers'"),
    refused("moe_z_loss_coeff", "none|0", kLossTerm),
    refused("mtp_num_layers", "none|0", kLossTerm),
    refused("mcore_model", "none", kConvert),
    refused("mcore_adapter", "none", kConvert),
    renamed("save", "output_dir"),
    renamed("save_interval", "save_steps"),
    renamed("eval_interval", "eval_steps"),
    renamed("log_interval", "logging_steps"),
    renamed("adam_eps", "adam_epsilon"),
    later("no_load_optim", "false", "resuming with weights only"),
    refused("load", "none", kConvert),
    refused("adapter_load", "none", kConvert),
    refused("ref_load", "none", kConvert),
    refused("ref_adapter_load", "none", kConvert),
    refused("mcore_ref_model", "none", kConvert),
    refused("mcore_ref_adapter", "none", kConvert),
    refused("extra_megatron_kwargs", "none|{}", kUnknownOptions),
    refused("megatron_extra_kwargs", "none|{}", kUnknownOptions),
    refused("lr_warmup_init", "0", "warm-up begins at 0"),
    refused("lr_wsd_*", "none|exponential", "use --lr_scheduler_type warmup_stable_decay"),
    refused("start_weight_decay", "none", kConstantDecay),
    refused("end_weight_decay", "none", kConstantDecay),
    refused("weight_decay_incr_style", "constant", kConstantDecay),
    refused("apply_wd_to_qk_layernorm", "false", "--weight_decay_rule says what decays"),
    accepted("calculate_per_token_loss",
             "none|true|false",
             "--loss_type says what the loss is divided by"),
    accepted("accumulate_allreduce_grads_in_fp32", "true|false", kFloat32States),
    accepted("exp_avg_dtype", "fp32", kFloat32States),
    accepted("exp_avg_sq_dtype", "fp32", kFloat32States),
    accepted("main_grads_dtype", "fp32", kFloat32States),
    accepted("main_params_dtype", "fp32", kFloat32States),
    accepted("optimizer_offload_fraction", "1", "the memory plan decides where states live"),
    accepted("optimizer_cuda_graph", "false", kOneWay),
    accepted("muon_*", "none|quintic|1|medium|0.9|5|adam|spectral|true|blockwise|false", kAdamW),
    accepted("sgd_momentum", "0.9", kAdamW),
    accepted("account_for_*", "false", kObjectiveStays),
    accepted("align_*", "true", kObjectiveStays),
    accepted("batch_p2p_comm", "none|true|false", kObjectiveStays),
    accepted("cp_comm_type", "none", kObjectiveStays),
    accepted("cp_partition_mode", "zigzag", kObjectiveStays),
    accepted("data_parallel_random_init", "false", kObjectiveStays),
    accepted("data_parallel_sharding_strategy", "optim_grads_params", kObjectiveStays),
    accepted("decoder_first_pipeline_num_layers", "none", kObjectiveStays),
    accepted("decoder_last_pipeline_num_layers", "none", kObjectiveStays),
    accepted("microbatch_group_size_per_vp_stage", "none", kObjectiveStays),
    accepted("pipeline_model_parallel_layout", "none", kObjectiveStays),
    accepted("distributed_backend", "nccl", kTransport),
    accepted("distributed_timeout_minutes", "300000", "--ddp_timeout says it in seconds"),
    accepted("nccl_comm_warmup", "false", kTransport),
    accepted("attention_softmax_in_fp32", "true", kOneWay),
    accepted("cross_entropy_fusion_impl", "native", kOneWay),
    accepted("deterministic_mode", "false", "a run is always deterministic"),
    accepted("manual_gc*", "true|false|0", kOneWay),
    accepted("mhc_recompute_layer_num", "none", kOneWay),
    accepted("mlp_padding_free", "true|false", kOneWay),
    accepted("moe_enable_deepep", "false", kOneWay),
    accepted("moe_layer_recompute", "false", "is --gradient_checkpointing"),
    accepted("moe_token_drop_policy", "probs", kNoDrop),
    accepted("moe_router_load_balancing_type", "none", "there is no balancing loss"),
    accepted("sequence_packing_scheduler", "none", kOneWay),
    accepted("seq_length", "none", kOneWay),
    accepted("te_rng_tracker", "false", kOneWay),
    accepted("transformer_impl", "transformer_engine", kOneWay),
    accepted("use_flash_attn", "true|false", kOneWay),
    accepted("use_fused_mhc", "false", kOneWay),
    accepted("vit_gradient_checkpointing_kwargs", "none|{}", "the vision tower is not run"),
    accepted("language_model_only", "true|false", "the vision tower is not run"),
    accepted("num_workers", "4", "rows are read once into memory"),
    accepted("dataloader_type", "cyclic", "--dataset_shuffle says how rows are drawn"),
    accepted("auto_detect_ckpt_format", "true|false", kCheckpointForm),
    accepted("ckpt_format", "torch_dist", kCheckpointForm),
    accepted("dist_ckpt_*", "false", kCheckpointForm),
    accepted("distrib_optim_*", "false", kCheckpointForm),
    accepted("exit_on_missing_checkpoint", "true|false", kCheckpointForm),
    accepted("no_load_rng", "true|false", "random numbers are counted, there is no state to load"),
    accepted("save_missing_weights", "false", kCheckpointForm),
    accepted("strict_fsdp_dtensor_load", "true|false", kCheckpointForm),
    accepted("use_persistent_ckpt_worker", "true|false", kCheckpointForm),
    accepted("initialize_embedding", "false", "a checkpoint holds every weight"),
    accepted("no_initialization", "true|false", "a checkpoint holds every weight"),
    accepted("perform_initialization", "true|false", "a checkpoint holds every weight"),
    accepted("skip_megatron_init", "true|false", "a checkpoint holds every weight"),
    accepted("use_cpu_initialization", "true|false", "a checkpoint holds every weight"),
    accepted("eval_iters", "none|-1", "held-out rows are evaluated all together"),
    accepted("no_log_learning_rate_to_tensorboard", "false", kReports),
    accepted("log_memory_to_tensorboard", "true|false", kReports),
    accepted("log_timers_to_tensorboard", "true|false", kReports),
    accepted("log_validation_ppl_to_tensorboard", "true|false", kReports),
    accepted("log_params_norm", "false", kReports),
    accepted("log_throughput", "true|false", kReports),
    accepted("logging_level", "none", "see --log_level"),
    accepted("tensorboard_*", "none|1|50", kReports),
    accepted("mtp_*", "false|0.1", kCarriedMtp),
    refused("dsa_indexer_loss_coeff", "0", kLossTerm),
    // the model's shape, which Megatron can be told
    refused("add_qkv_bias", "none|false", kConfigDecides),
    refused("apply_query_key_layer_scaling", "none|false", kConfigDecides),
    refused("architectures", "none", kConfigDecides),
    refused("attention_dropout", "none|0", kConfigDecides),
    refused("csa_dense_mode", "false", kConfigDecides),
    refused("disable_bias_linear", "none|true", kConfigDecides),
    refused("dsa_indexer_use_sparse_loss", "false", kConfigDecides),
    refused("engram_tokenizer_map", "none", kConfigDecides),
    refused("ffn_hidden_size", "none", kConfigDecides),
    refused("group_query_attention", "none", kConfigDecides),
    refused("hidden_dropout", "none|0", kConfigDecides),
    refused("hidden_size", "none", kConfigDecides),
    refused("kv_channels", "none", kConfigDecides),
    refused("kv_lora_rank", "none", kConfigDecides),
    refused("llm_architectures", "none", kConfigDecides),
    refused("max_position_embeddings", "none", kConfigDecides),
    refused("moe_ffn_hidden_size", "none", kConfigDecides),
    refused("moe_layer_freq", "none", kConfigDecides),
    refused("moe_router_*", "none|0.001", kConfigDecides),
    refused("moe_shared_expert_intermediate_size", "none", kConfigDecides),
    refused("mrope_section", "none", kConfigDecides),
    refused("multi_latent_attention", "none", kConfigDecides),
    refused("norm_epsilon", "none", kConfigDecides),
    refused("normalization", "none|RMSNorm", kConfigDecides),
    refused("num_attention_heads", "none", kConfigDecides),
    refused("num_experts", "none", kConfigDecides),
    refused("num_layers", "none", kConfigDecides),
    refused("num_query_groups", "none", kConfigDecides),
    refused("original_max_position_embeddings", "none", kConfigDecides),
    refused("padded_vocab_size", "none", kConfigDecides),
    refused("partial_rotary_factor", "none", kConfigDecides),
    refused("position_embedding_type", "none|rope", kConfigDecides),
    refused("q_lora_rank", "none", kConfigDecides),
    refused("qk_*", "none", kConfigDecides),
    refused("rotary_*", "none|1", kConfigDecides),
    refused("swiglu", "none|true", kConfigDecides),
    refused("untie_embeddings_and_output_weights", "none", kConfigDecides),
    refused("use_shared_expert_gate", "none", kConfigDecides),
    // launchers
    refused("nproc_per_node",
            "1",
            "one command is one process; several of a host are started by torchrun --no-python "
            "--nproc_per_node N lockstep …"),
    used("nnodes", "1", kSeveral),
    used("node_rank", "0", kSeveral),
    used("master_addr", "none", kSeveral),
    used("master_port", "none", kSeveral),
    refused("config_file",
            "none",
            "it belongs to accelerate launch; torchrun --no-python, mpirun "
            "or srun start several processes"),
};

}  // namespace

std::span<const FlagRule> framework_rules() { return kRules; }

namespace {

constexpr std::string_view kNoTensorParallel =
    "sums over parts of a row would depend on the number of ranks; --sharding full cuts the "
    "weights, --expert_parallel_size the experts, and --sequence_parallel_size long sequences";
constexpr std::string_view kNoPipeline =
    "stages would wait for one another; --sharding full cuts the weights over all ranks, a layer "
    "at a time";

constexpr FlagRule kDegrees[] = {
    used("expert_parallel_size", "1", ""),
    used("sequence_parallel_size", "1", ""),
    renamed("expert_model_parallel_size", "expert_parallel_size"),
    renamed("context_parallel_size", "sequence_parallel_size"),
    refused("tensor_parallel_size", "1|none", kNoTensorParallel),
    refused("tensor_model_parallel_size", "1|none", kNoTensorParallel),
    refused("expert_tensor_parallel_size", "1|none", kNoTensorParallel),
    refused("pipeline_parallel_size", "1|none", kNoPipeline),
    refused("pipeline_model_parallel_size", "1|none", kNoPipeline),
};

}  // namespace

std::span<const FlagRule> degree_rules() { return kDegrees; }

}  // namespace lockstep::cli
