// config.json of published models, by their numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/json.h"

namespace lockstep::testing {

/// A published Qwen3.5 size. `experts` 0: dense.
struct Qwen35Size {
  std::string name;
  int64_t hidden, layers, heads, kv_heads, width, linear_value_heads, experts, experts_per_token;
  bool is_tied;
  /// Counted in published indexes or computed from shapes.
  int64_t text_parameters;
};

inline const Qwen35Size kQwen35Sizes[] = {
    {"0.8B", 1024, 24, 8, 2, 3584, 16, 0, 0, true, 752'393'024},
    {"2B", 2048, 24, 8, 2, 6144, 16, 0, 0, true, 1'881'825'088},
    {"4B", 2560, 32, 16, 4, 9216, 32, 0, 0, true, 4'205'751'296},
    {"9B", 4096, 32, 16, 4, 12288, 32, 0, 0, false, 8'953'803'264},
    {"27B", 5120, 64, 24, 4, 17408, 48, 0, 0, false, 26'895'998'464},
    {"35B-A3B", 2048, 40, 16, 2, 512, 32, 256, 8, false, 34'660'610'688},
    {"122B-A10B", 3072, 48, 32, 2, 1024, 64, 256, 8, false, 122'111'526'912},
    {"397B-A17B", 4096, 60, 32, 2, 1024, 64, 512, 10, false, 396'346'350'336},
};

/// Its config.json in the published, nested form.
inline Json qwen35_config(const Qwen35Size& size) {
  const bool is_moe = size.experts != 0;
  const std::string type = is_moe ? "qwen3_5_moe" : "qwen3_5";
  Json types = Json::array();
  for (int64_t i = 0; i < size.layers; ++i)
    types.push_back((i + 1) % 4 ? "linear_attention" : "full_attention");
  Json text{{"attention_bias", false},
            {"attention_dropout", 0.0},
            {"attn_output_gate", true},
            {"dtype", "bfloat16"},
            {"eos_token_id", 248044},
            {"full_attention_interval", 4},
            {"head_dim", 256},
            {"hidden_act", "silu"},
            {"hidden_size", size.hidden},
            {"initializer_range", 0.02},
            {"layer_types", types},
            {"linear_conv_kernel_dim", 4},
            {"linear_key_head_dim", 128},
            {"linear_num_key_heads", 16},
            {"linear_num_value_heads", size.linear_value_heads},
            {"linear_value_head_dim", 128},
            {"max_position_embeddings", 262144},
            {"mlp_only_layers", Json::array()},
            {"model_type", type + "_text"},
            {"mtp_num_hidden_layers", 1},
            {"num_attention_heads", size.heads},
            {"num_hidden_layers", size.layers},
            {"num_key_value_heads", size.kv_heads},
            {"rms_norm_eps", 1e-6},
            {"tie_word_embeddings", size.is_tied},
            {"vocab_size", 248320},
            {"mamba_ssm_dtype", "float32"},
            {"rope_parameters",
             {{"mrope_interleaved", true},
              {"mrope_section", {11, 11, 10}},
              {"rope_type", "default"},
              {"rope_theta", 10000000},
              {"partial_rotary_factor", 0.25}}}};
  if (is_moe) {
    text["moe_intermediate_size"] = text["shared_expert_intermediate_size"] = size.width;
    text["num_experts"] = size.experts;
    text["num_experts_per_tok"] = size.experts_per_token;
  } else {
    text["intermediate_size"] = size.width;
  }
  return {{"architectures",
           {is_moe ? "Qwen3_5MoeForConditionalGeneration" : "Qwen3_5ForConditionalGeneration"}},
          {"image_token_id", 248056},
          {"model_type", type},
          {"text_config", text},
          {"tie_word_embeddings", size.is_tied},
          {"transformers_version", "4.57.0.dev0"},
          {"vision_config",
           {{"model_type", type}, {"hidden_size", 768}, {"depth", 12}, {"num_heads", 12}}}};
}

/// Qwen3-0.6B's config.json.
inline Json qwen3_config() {
  return Json::parse(
      R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
    "vocab_size": 151936})");
}

/// Qwen3-30B-A3B's.
inline Json qwen3_moe_config() {
  Json config = qwen3_config();
  config.update(Json::parse(
      R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
    "intermediate_size": 6144, "num_attention_heads": 32, "num_key_value_heads": 4, "num_hidden_layers": 48,
    "tie_word_embeddings": false, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.001,
    "output_router_logits": false})"));
  return config;
}

}  // namespace lockstep::testing
