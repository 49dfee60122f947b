// Flags of the rollout: the sampler's own, and those of engines whose place it takes.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kServer = "rollout in server mode";
constexpr std::string_view kFolder =
    "is not needed: weights reach servers through a folder (--sync_directory)";
constexpr std::string_view kDegrees =
    "is for several devices: one process samples here, and what is trained is the same";
constexpr std::string_view kSharedWeights =
    "trainer and sampler share the weights: nothing sleeps, moves or is loaded twice";
constexpr std::string_view kOwnSampler =
    "it tunes an engine that is not used: the sampler is Lockstep's own";

constexpr FlagRule kRules[] = {
    used("rollout_mode", "colocate|none", kServer),
    used("rollout_server", "none|[]", kServer),
    used("rollout_api_key", "none", kServer),
    used("rollout_timeout", "none|240", kServer),
    used("rollout_engine", "auto|lockstep|vllm|none", kServer),
    used("on_server_loss", "continue|none", kServer),
    used("sync_transport", "auto|shm|directory|none", kServer),
    used("sync_directory", "none", kServer),
    used("sync_timeout", "none", kServer),
    used("sync_mode", "auto|full|none", kServer),
    used("sync_address", "none", kServer),
    used("sync_probe_bound", "none", kServer),
    used("max_num_seqs", "none", "a limit of running sequences"),
    used("host", "0.0.0.0|127.0.0.1", kServer),
    used("port", "8000", kServer),
    used("api_key", "none", kServer),
    used("served_model_name", "none", kServer),
    // An engine's flags that have a counterpart.
    renamed("vllm_mode", "rollout_mode"),
    renamed("vllm_server_base_url", "rollout_server"),
    later("vllm_server_host", "none|[]", kServer),
    covered("vllm_server_port", "8000|none", "has an effect beside --vllm_server_host alone"),
    renamed("vllm_max_model_len", "max_model_len"),
    renamed("vllm_max_num_seqs", "max_num_seqs"),
    later("vllm_enable_prefix_caching", "true|none", "sampling without shared prompts"),
    covered(
        "vllm_gpu_memory_utilization",
        "0.9",
        "is a share of a device's memory: a CPU has none of its own, so the memory plan decides"),
    covered("vllm_tensor_parallel_size", "1", kDegrees),
    covered("vllm_enable_expert_parallel", "false", kDegrees),
    covered("vllm_data_parallel_size", "1", kDegrees),
    covered("data_parallel_size", "1", kDegrees),
    renamed("vllm_server_timeout", "rollout_timeout"),
    covered("vllm_enable_lora",
            "false",
            "servers get the adapter alone, or with --sync_mode full merged weights"),
    covered("vllm_server_group_port", "none", kFolder),
    covered("vllm_group_port", "none|51216", kFolder),
    // An engine's flags without a counterpart.
    accepted("use_vllm", "false", "the sampler is always Lockstep's own"),
    accepted("vllm_enforce_eager", "false", kOwnSampler),
    accepted("vllm_disable_custom_all_reduce", "true", kOwnSampler),
    accepted("vllm_disable_cascade_attn", "false", kOwnSampler),
    accepted("vllm_pipeline_parallel_size", "1", kOwnSampler),
    accepted("vllm_limit_mm_per_prompt", "none", "rows hold text only"),
    accepted("vllm_mm_processor_cache_gb", "none", "rows hold text only"),
    accepted("vllm_quantization", "none", "sampler and trainer share the weights as they are"),
    accepted("vllm_speculative_config", "none", kOwnSampler),
    accepted("vllm_max_lora_rank", "16", kOwnSampler),
    accepted("vllm_use_async_engine", "none|false", kOwnSampler),
    accepted("vllm_server_pass_dataset", "false", kOwnSampler),
    accepted("enable_flattened_weight_sync", "true", kSharedWeights),
    accepted("vllm_engine_kwargs", "none|{}", kOwnSampler),
    refused("vllm_reasoning_parser",
            "none",
            "it would take the thinking out of what is rewarded and trained"),
    // Memory of a colocated engine.
    accepted("sleep_level", "0", kSharedWeights),
    accepted("offload_model", "false", kSharedWeights),
    accepted("offload_optimizer", "false", kSharedWeights),
    accepted("offload_bridge", "false", kSharedWeights),
    accepted("offload_teacher_model", "false", kSharedWeights),
    accepted("move_model_batches", "none", kSharedWeights),
};

}  // namespace

std::span<const FlagRule> rollout_rules() { return kRules; }

}  // namespace lockstep::cli
