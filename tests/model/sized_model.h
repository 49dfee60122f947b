// Models of any sizes, their layouts, and conversions between these in memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "layout/execute.h"
#include "layout/plan.h"
#include "model/weight_formats/make_layout.h"
#include "tests/support/memory_tensors.h"

namespace lockstep::testing {

/// Sizes of a model; pairwise different unless a case says otherwise.
struct Sizes {
  model::Family family = model::Family::kQwen3_5Moe;
  int64_t vocab = 103, hidden = 24, layers = 8;
  int64_t groups = 8, members = 2, head_dim = 6;
  int64_t key_heads = 8, values = 3, key_dim = 5, value_dim = 7, taps = 4;
  int64_t width = 40, experts = 16, expert_width = 32, shared_width = 48;
  bool is_tied = false;
  model::WeightDtype dtype = model::WeightDtype::kBFloat16;
  /// For a mixture of experts: one in this many layers is dense; 0 for none.
  int64_t dense_every = 0;
  /// For Qwen3.5.
  int64_t mtp_layers = 1;
  /// A_log and the delta rule's norm too.
  bool is_one_dtype = false;
};

inline model::ModelConfig config_of(const Sizes& s) {
  model::ModelConfig config;
  config.family = s.family;
  config.vocab_size = s.vocab;
  config.hidden_size = s.hidden;
  config.num_hidden_layers = s.layers;
  config.num_attention_heads = s.groups * s.members;
  config.num_key_value_heads = s.groups;
  config.head_dim = s.head_dim;
  config.tie_word_embeddings = s.is_tied;
  config.dtype = s.dtype;
  config.is_nested = config.is_qwen3_5();
  const bool is_moe =
      s.family == model::Family::kQwen3Moe || s.family == model::Family::kQwen3_5Moe;
  for (int64_t i = 0; i < s.layers; ++i) {
    config.mixers.push_back(config.is_qwen3_5() && i % 4 != 3 ? model::MixerKind::kGatedDelta
                                                              : model::MixerKind::kAttention);
    config.moe_layers.push_back(is_moe && (s.dense_every == 0 || i % s.dense_every != 0));
  }
  if (config.is_qwen3_5()) {
    config.linear_num_key_heads = s.key_heads;
    config.linear_num_value_heads = s.key_heads * s.values;
    config.linear_key_head_dim = s.key_dim;
    config.linear_value_head_dim = s.value_dim;
    config.linear_conv_kernel_dim = s.taps;
  }
  if (is_moe) {
    config.num_experts = s.experts;
    config.num_experts_per_tok = 2;
    config.moe_intermediate_size = s.expert_width;
    if (config.is_qwen3_5()) config.shared_expert_intermediate_size = s.shared_width;
  }
  if (!is_moe || s.dense_every) config.intermediate_size = s.width;
  return config;
}

inline model::LogicalModel model_of(const Sizes& sizes) {
  const model::ModelConfig config = config_of(sizes);
  model::Extras extras;
  if (config.is_qwen3_5()) {
    extras.num_mtp_layers = sizes.mtp_layers;
    extras.carried = {{"model.visual.patch_embed.proj.weight", {6, 3, 2, 4, 4}, ElementType::kF16},
                      {"model.visual.patch_embed.proj.bias", {6}, ElementType::kF32},
                      {"model.visual.scale", {}, ElementType::kF32},
                      {"model.visual.nothing", {4, 0}, ElementType::kBF16},
                      {"model.layers.0.self_attn.rotary_emb.inv_freq", {3}, ElementType::kF32}};
  }
  const model::TypeOf types = model::published_types(config);
  if (!sizes.is_one_dtype) return logical_model(config, extras, types);
  return logical_model(config, extras, [&](const std::string&) { return types("embedding"); });
}

inline layout::Layout layout_of(const model::LogicalModel& model, const std::string& name) {
  return make_layout(model, model::published_form(model.config),
                     model::LayoutSpec::parse(name, "test"));
}

/// Every element another number, as far as its bytes go; in the delta rule's norm such as survive w
/// - 1, and with `fits_bfloat16` in float32 such as bfloat16 can hold.
inline layout::MemoryTensors numbered(const model::LogicalModel& model,
                                      const layout::Layout& layout,
                                      bool fits_bfloat16 = false) {
  layout::MemoryTensors tensors(layout);
  uint64_t next = 1;
  for (int64_t r = 0; r < layout.num_ranks(); ++r) {
    for (size_t t = 0; t < layout.rank(r).size(); ++t) {
      layout::MemoryTensors::Bytes& bytes = tensors.bytes(r, static_cast<int64_t>(t));
      const auto& physical = layout.rank(r)[t];
      const auto width = static_cast<size_t>(element_bytes(physical.type));
      if (physical.boxes.empty()) continue;
      const bool is_norm = (*model.tensors)[physical.boxes[0].tensor].id.ends_with("delta.norm");
      for (size_t i = 0; i < bytes.size(); i += width, ++next) {
        uint64_t bits = is_norm ? 0x3F800000 + (next % 64 << 16) : next * 0x9E3779B97F4A7C15;
        if (is_norm && width == 2) bits >>= 16;
        if (fits_bfloat16 && physical.type == ElementType::kF32) bits &= 0xFFFF'0000;
        std::memcpy(bytes.data() + i, &bits, width);
      }
    }
  }
  return tensors;
}

struct Converted {
  layout::MemoryTensors tensors;
  /// Of the source and of `tensors`; equal unless a value was rounded.
  std::vector<Digest> digests, target_digests;
};

inline Converted convert(const layout::Layout& from,
                         const layout::Layout& to,
                         layout::MemoryTensors& source,
                         int64_t bucket_bytes = 32768,
                         bool lends_memory = false) {
  Converted result{layout::MemoryTensors(to, lends_memory), {}};
  const layout::Plan plan = make_plan(from, to, bucket_bytes);
  layout::ExecutedDigests digests = execute(from, to, plan, source, result.tensors,
                                            {.bucket_bytes = bucket_bytes, .num_threads = 2});
  result.digests = std::move(digests.source);
  result.target_digests = std::move(digests.target);
  return result;
}

}  // namespace lockstep::testing
