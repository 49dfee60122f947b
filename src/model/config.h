// What a config.json says about a model, in one struct for all families.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/options.h"

namespace lockstep::model {

enum class Family : int { kQwen3, kQwen3Moe, kQwen3_5, kQwen3_5Moe };
/// "qwen3", "qwen3_moe", …: model_type in a config.json, --like on the command line.
std::span<const EnumName<Family>> enum_names(Family);

/// What mixes tokens in a layer.
enum class MixerKind : int { kAttention, kGatedDelta };

/// What a model's matrices are held in. A float16 checkpoint is read as one of these.
enum class WeightDtype : int { kFloat32, kBFloat16 };
/// "float32" and "bfloat16".
std::span<const EnumName<WeightDtype>> enum_names(WeightDtype);

/// The text model. Example: Qwen3.5-0.8B is {kQwen3_5, vocab_size 248320, hidden_size 1024, 24
/// layers, …}.
struct ModelConfig {
  Family family = Family::kQwen3;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  /// Width of the dense feed-forward; 0 when every layer is a mixture of experts.
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  /// What config.json says, with float32 for float16, since it has all float16 values. Each tensor
  /// keeps the dtype that it has in the file.
  WeightDtype dtype = WeightDtype::kBFloat16;

  double rope_theta = 10000;
  /// How many leading dimensions of a head rotate; even.
  int64_t rotary_dim = 0;

  /// By layer.
  std::vector<MixerKind> mixers;
  /// By layer: whether it is a mixture of experts.
  std::vector<bool> moe_layers;

  // Gated delta rule; zero where no layer has it.
  int64_t linear_num_key_heads = 0;
  int64_t linear_num_value_heads = 0;
  int64_t linear_key_head_dim = 0;
  int64_t linear_value_head_dim = 0;
  int64_t linear_conv_kernel_dim = 0;

  // Mixture of experts; zero where no layer has it.
  int64_t num_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t shared_expert_intermediate_size = 0;
  bool norm_topk_prob = true;

  std::vector<int64_t> eos_token_ids;
  /// Whether config.json has a text_config.
  bool is_nested = false;

  bool is_qwen3_5() const { return family == Family::kQwen3_5 || family == Family::kQwen3_5Moe; }
  /// Rows of the query projection. Qwen3.5 has an output gate of the same size for each query head.
  int64_t query_rows() const { return num_attention_heads * head_dim * (is_qwen3_5() ? 2 : 1); }
  int64_t key_value_rows() const { return num_key_value_heads * head_dim; }
  int64_t linear_key_dim() const { return linear_num_key_heads * linear_key_head_dim; }
  int64_t linear_value_dim() const { return linear_num_value_heads * linear_value_head_dim; }
  int64_t conv_dim() const { return 2 * linear_key_dim() + linear_value_dim(); }
  /// How many layers are a mixture of experts: all, or those below `end`.
  int64_t num_moe_layers() const { return moe_layers_below(num_hidden_layers); }
  int64_t moe_layers_below(int64_t end) const {
    return std::count(moe_layers.begin(), moe_layers.begin() + end, true);
  }
};

/// Reads a config.json: nested, flat or mixed forms, old and new RoPE spellings, `num_experts` or
/// `num_local_experts`. Where two places may say the same thing, it is read as transformers reads
/// it.
///
/// Throws FormatError "bad-config" (a missing or impossible value) or "unsupported-config" (a key
/// that changes the maths and is not built), naming the key. Other keys are ignored here; whoever
/// copies the file carries them through.
ModelConfig parse_model_config(const Json& config, std::string_view where);

}  // namespace lockstep::model
