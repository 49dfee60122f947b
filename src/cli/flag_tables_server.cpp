// Flags of ms-swift's and TRL's rollout servers, as lockstep rollout reads them. A server knows the
// model and its limits; the trainer knows prompts, sampling, turns and rewards, and says so in its
// requests.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_tables.h"

namespace lockstep::cli {
namespace {

constexpr std::string_view kOwnSampler =
    "it tunes an engine that is not used: the sampler is Lockstep's own";
constexpr std::string_view kOneProcess =
    "is for several devices: one process samples here, and what it samples is the same";
constexpr std::string_view kRequests = "each request says it; give it to the trainer";
constexpr std::string_view kNoRows = "a server reads no rows; give it to the trainer";
constexpr std::string_view kTurns = "turns";
constexpr std::string_view kLocalFiles = "models are local files";
constexpr std::string_view kConfigDecides = "config.json decides the architecture";
constexpr std::string_view kCheckpointFirst = "change the checkpoint first";
constexpr std::string_view kOtherBase =
    "another model would be sampled than is trained; give the unquantised checkpoint";
constexpr std::string_view kPlainHttp = "connections are not encrypted; put a proxy in front";

constexpr FlagRule kRules[] = {
    used("model", "none", "a model"),
    used("adapters", "none|[]", "adapters"),
    used("host", "none", "an address"),
    used("port", "none", "a port"),
    used("api_key", "none", "a key"),
    used("served_model_name", "none", "a name"),
    used("max_logprobs", "20", "this number of log-probabilities"),
    used("max_model_len", "none", "a limit of the context"),
    used("max_num_seqs", "none", "a limit of running sequences"),
    used("enable_prefix_caching", "none", "shared prompts"),
    used("enable_thinking", "none", "thinking on or off"),
    used("torch_dtype", "none", "this precision"),
    used("seed", "42", "a seed"),
    used("log_level", "info", "this log level"),
    renamed("dtype", "torch_dtype"),
    // The engine.
    renamed("vllm_max_model_len", "max_model_len"),
    renamed("vllm_max_num_seqs", "max_num_seqs"),
    renamed("vllm_enable_prefix_caching", "enable_prefix_caching"),
    covered("*tensor_parallel_size", "1|none", kOneProcess),
    covered("*data_parallel_size", "1|none", kOneProcess),
    covered("vllm_pipeline_parallel_size", "1", kOneProcess),
    covered("vllm_enable_expert_parallel", "false", kOneProcess),
    covered("sequence_parallel_size", "1", kOneProcess),
    covered("distributed_executor_backend", "none", kOneProcess),
    covered("*gpu_memory_utilization",
            "0.9",
            "is a share of a device's memory: a CPU has none of its own; --cache_memory says how "
            "much keys and values take"),
    covered("vllm_enable_lora", "false", "is always on: a trainer sends its adapter alone"),
    accepted("vllm_max_lora_rank", "16", "an adapter may have any rank"),
    accepted("infer_backend", "none|transformers|vllm", kOwnSampler),
    accepted("*enforce_eager", "false|none", kOwnSampler),
    accepted("vllm_disable_*", "true|false", kOwnSampler),
    accepted("*limit_mm_per_prompt", "none", "prompts hold text only"),
    accepted("vllm_mm_processor_cache_gb", "none", "prompts hold text only"),
    accepted("max_pixels", "none", "prompts hold text only"),
    accepted("norm_bbox", "none", "prompts hold text only"),
    accepted("*quantization", "none", "weights are kept as they are trained"),
    accepted("*speculative_config", "none", kOwnSampler),
    accepted("vllm_model_impl", "none|vllm", kOwnSampler),
    accepted("kv_cache_dtype", "none|auto", "keys and values have the precision of the model"),
    accepted("*use_async_engine", "none|true|false", "requests always come at any time"),
    accepted("vllm_engine_kwargs", "none|{}", kOwnSampler),
    accepted("sglang_*", "none|1|false|true|auto", kOwnSampler),
    accepted("lmdeploy_*", "none|0.8|0|1", kOwnSampler),
    accepted("attn_impl", "none", kOwnSampler),
    accepted("experts_impl", "none", kOwnSampler),
    accepted("padding_free", "true|false", kOwnSampler),
    accepted("padding_side", "left|right", kOwnSampler),
    accepted("max_batch_size", "1", "--max_num_seqs says how many sequences run at once"),
    accepted("write_batch_size", "1000", kNoRows),
    accepted("reranker_use_activation", "true", "the model is a language model"),
    accepted("ddp_*", "none|nccl|18000000", kOneProcess),
    accepted("use_ray", "false", kOneProcess),
    accepted("ray_exp_name", "none", kOneProcess),
    accepted("device_groups", "none", kOneProcess),
    accepted("device_map", "none", "--device says where to compute"),
    accepted("max_memory", "none", "--cache_memory says how much keys and values take"),
    refused("vllm_reasoning_parser",
            "none",
            "it would take the thinking out of what is rewarded and trained"),
    // What requests say.
    accepted("temperature", "none|0|0.9", kRequests),
    accepted("top_k", "none|-1", kRequests),
    accepted("top_p", "none|1", kRequests),
    accepted("num_beams", "1", kRequests),
    accepted("repetition_penalty", "none|1", kRequests),
    accepted("stop_words", "none|[]", kRequests),
    accepted("max_new_tokens", "none|64", kRequests),
    accepted("max_length", "none", "requests come as ids, already cut"),
    accepted("truncation_strategy", "none|left|delete", "requests come as ids, already cut"),
    accepted("logprobs", "false", kRequests),
    accepted("top_logprobs", "none", kRequests),
    accepted("stream", "none|true|false", kRequests),
    accepted("structured_outputs_regex", "none", kRequests),
    accepted("system", "none", kRequests),
    accepted("response_prefix", "none", kRequests),
    accepted("preserve_thinking", "none", kRequests),
    accepted("loss_scale", "none|default|last_round", kRequests),
    accepted("is_binary_loss_scale", "none", kRequests),
    accepted("disable_ignore_empty_think", "false", kRequests),
    accepted("decision_*", "0|false", kNoRows),
    // What the trainer does.
    used("multi_turn_scheduler", "none", kTurns),
    used("use_gym_env", "none|false", kTurns),
    used("gym_env", "none", kTurns),
    used("max_turns", "none", kTurns),
    refused(
        "context_manager",
        "none",
        "an editor of histories, which ms-swift has removed: a completion is what the model has "
        "read"),
    used("external_plugins", "none|[]", kTurns),
    // Rows.
    accepted("dataset", "none|[]", kNoRows),
    accepted("val_dataset*", "none|[]|false", kNoRows),
    accepted("split_dataset_ratio", "0", kNoRows),
    accepted("columns", "none|{}", kNoRows),
    accepted("data_seed", "42|none", kNoRows),
    accepted("dataset_*", "1|true", kNoRows),
    accepted("load_from_cache_file", "false", kNoRows),
    accepted("load_args", "true|false", kNoRows),
    accepted("load_data_args", "false", kNoRows),
    accepted("lazy_tokenize", "none|true|false", kNoRows),
    accepted("download_mode", "none|reuse_dataset_if_exists", kNoRows),
    accepted("disable_auto_column_mapping", "false", kNoRows),
    accepted("remove_unused_columns", "true|false", kNoRows),
    accepted("strict", "true|false", kNoRows),
    accepted("streaming", "false", kNoRows),
    accepted("shuffle_buffer_size", "1000", kNoRows),
    accepted("interleave_prob", "none", kNoRows),
    accepted("stopping_strategy", "first_exhausted", kNoRows),
    accepted("cached_*", "none|[]", kNoRows),
    accepted("custom_dataset_info", "none|[]", kNoRows),
    accepted("packing", "false", kNoRows),
    accepted("packing_*", "none|1|binpack", kNoRows),
    accepted("result_path", "none", kNoRows),
    accepted("metric", "none", kNoRows),
    // The checkpoint.
    accepted("model_type", "none", kConfigDecides),
    accepted("task_type", "none|causal_lm", kConfigDecides),
    accepted("template", "none", "the checkpoint's own template is used"),
    accepted("template_backend", "swift|jinja", "the checkpoint's own template is used"),
    refused("agent_template",
            "none",
            "it rewrites the tool prompt; the checkpoint's template has its own"),
    refused("use_chat_template", "true|none", "conversations need the checkpoint's template"),
    refused("add_non_thinking_prefix", "true", "what is trained would not be what is sampled"),
    accepted("check_model", "true|false", kLocalFiles),
    accepted("use_hf", "none|false", kLocalFiles),
    accepted("hub_token", "none", kLocalFiles),
    accepted("local_repo_path", "none", kLocalFiles),
    accepted("trust_remote_code", "none|false", "no code of a checkpoint is run"),
    refused("model_revision", "none|main|master", kLocalFiles),
    refused("revision", "none|main", kLocalFiles),
    refused("ckpt_dir", "none", "give the folder as --model or --adapters"),
    refused("lora_modules", "none|[]", "give them as --adapters NAME=PATH"),
    refused("merge_lora", "none|false", "lockstep export --merge_lora true makes a model of both"),
    accepted("tuner_type", "none|lora|full", "--adapters says whether there are some"),
    accepted("train_type", "none|lora|full", "--adapters says whether there are some"),
    accepted("tuner_backend", "peft", "adapters are Lockstep's own"),
    accepted("use_swift_lora", "false", "adapters are Lockstep's own"),
    refused("init_strategy", "none", "a checkpoint holds every weight"),
    refused("quant_method", "none", kOtherBase),
    refused("quant_bits", "none", kOtherBase),
    refused("hqq_*", "none", kOtherBase),
    refused("bnb_*", "none|nf4|true", kOtherBase),
    refused("rope_scaling", "none", kCheckpointFirst),
    refused("new_special_tokens", "none|[]", kCheckpointFirst),
    refused("num_labels", "none", kCheckpointFirst),
    refused("problem_type", "none", kCheckpointFirst),
    refused("model_kwargs", "none|{}", kCheckpointFirst),
    refused("custom_register_path", "none|[]", "it registers Python models"),
    // The rest of a server.
    refused("ssl_*", "none", kPlainHttp),
    accepted("owned_by", "swift", "/v1/models names Lockstep"),
    accepted("model_name", "none|[]", "--served_model_name is what requests may call the model"),
    accepted("model_author", "none|[]", "/v1/models names Lockstep"),
    accepted("verbose", "true|false", "--log_level says what is logged"),
    accepted("log_interval", "20", "/metrics has the counts at any time"),
    accepted("safe_serialization", "true|false", "a server writes no checkpoint"),
    accepted("max_shard_size", "5GB", "a server writes no checkpoint"),
    accepted("ignore_args_error", "false", "an unknown flag stays an error"),
    accepted("enable_npu_model_patch", "none|true|false", "the model is Lockstep's own"),
};

}  // namespace

std::span<const FlagRule> server_rules() { return kRules; }

}  // namespace lockstep::cli
