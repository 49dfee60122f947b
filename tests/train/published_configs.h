// config.json of published models, as far as their shapes go.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/json.h"
#include "model/config.h"

namespace lockstep {

/// What tells the mixtures of experts of Qwen3.5 apart. Source: their config.json.
struct MoeSizes {
  int64_t hidden, layers, heads, value_heads, experts, chosen, expert_width;
};
inline constexpr MoeSizes kQwen3_5_35B{2048, 40, 16, 32, 256, 8, 512};
inline constexpr MoeSizes kQwen3_5_397B{4096, 60, 32, 64, 512, 10, 1024};

inline Json config_of(const MoeSizes& sizes) {
  Json types = Json::array();
  for (int64_t layer = 0; layer < sizes.layers; ++layer)
    types.push_back(layer % 4 == 3 ? "full_attention" : "linear_attention");
  return {{"model_type", "qwen3_5_moe_text"},
          {"architectures", {"Qwen3_5MoeForCausalLM"}},
          {"dtype", "bfloat16"},
          {"vocab_size", 248320},
          {"hidden_size", sizes.hidden},
          {"num_hidden_layers", sizes.layers},
          {"layer_types", types},
          {"num_attention_heads", sizes.heads},
          {"num_key_value_heads", 2},
          {"head_dim", 256},
          {"linear_num_key_heads", 16},
          {"linear_num_value_heads", sizes.value_heads},
          {"linear_key_head_dim", 128},
          {"linear_value_head_dim", 128},
          {"linear_conv_kernel_dim", 4},
          {"num_experts", sizes.experts},
          {"num_experts_per_tok", sizes.chosen},
          {"moe_intermediate_size", sizes.expert_width},
          {"shared_expert_intermediate_size", sizes.expert_width},
          {"tie_word_embeddings", false},
          {"max_position_embeddings", 262144},
          {"rms_norm_eps", 1e-6},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"attn_output_gate", true},
          {"rope_parameters",
           {{"rope_type", "default"},
            {"rope_theta", 10000000},
            {"partial_rotary_factor", 0.25},
            {"mrope_section", {11, 11, 10}},
            {"mrope_interleaved", true}}},
          {"eos_token_id", 248044}};
}

inline model::ModelConfig published_config(const MoeSizes& sizes) {
  return model::parse_model_config(config_of(sizes), "config.json");
}

}  // namespace lockstep
