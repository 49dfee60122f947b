// SPDX-License-Identifier: Apache-2.0
#include "model/new_model.h"

#include <cmath>

#include "base/check.h"
#include "base/random.h"
#include "model/weight_formats/make_layout.h"
#include "model/weights.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::model {
namespace {

/// The numbers of a size. Even the smallest has every part of a family.
struct Shape {
  int64_t vocab_size, hidden_size, layers, heads, kv_heads, head_dim, intermediate;
  // For Qwen3.5.
  int64_t linear_heads, linear_value_heads, linear_dim;
  // For a mixture of experts.
  int64_t experts, experts_per_token, expert_width, shared_width;
};

Shape shape_of(ModelSize size) {
  switch (size) {
    case ModelSize::kTiny:
      return {2048, 64, 4, 4, 2, 32, 192, 2, 4, 32, 8, 2, 64, 64};
    case ModelSize::k10m:
      return {2048, 256, 8, 4, 2, 64, 1024, 4, 4, 64, 8, 2, 128, 128};
    case ModelSize::k100m:
      return {16384, 768, 12, 12, 4, 64, 2560, 8, 8, 96, 16, 4, 160, 160};
    case ModelSize::k500m:
      return {32768, 1280, 24, 20, 4, 64, 4096, 10, 10, 128, 32, 4, 112, 112};
  }
  return {};
}

/// Fills a new tensor by the part of the model that its name says.
void fill(at::Tensor& value,
          const std::string& name,
          double range,
          bool has_offset_norms,
          uint64_t seed) {
  const RandomStream stream("new-model:" + name, seed);
  float* out = value.mutable_data_ptr<float>();
  const auto each = [&](auto&& function) {
    parallel_for(0, value.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        out[i] = static_cast<float>(function(static_cast<uint64_t>(i)));
    });
  };
  const bool is_text_norm = name.ends_with("norm.weight") || name.ends_with("layernorm.weight") ||
                            name.find("pre_fc_norm") != std::string::npos;
  if (name.ends_with(".A_log")) {
    each([&](uint64_t i) { return std::log(0.01 + stream.uniform(i) * 15.99); });
  } else if (name.ends_with(".dt_bias")) {
    value.fill_(1);
  } else if (name.ends_with(".conv1d.weight")) {
    const double bound = 1 / std::sqrt(static_cast<double>(value.size(2)));
    each([&](uint64_t i) { return (2 * stream.uniform(i) - 1) * bound; });
  } else if (name.ends_with(".bias")) {
    value.zero_();
  } else if (name.ends_with(".linear_attn.norm.weight")) {
    value.fill_(1);
  } else if (name.find("visual.") != std::string::npos && value.dim() == 1) {
    // LayerNorm gains.
    value.fill_(1);
  } else if (is_text_norm && value.dim() == 1) {
    // Qwen3.5 stores gain - 1.
    value.fill_(has_offset_norms ? 0 : 1);
  } else {
    each([&](uint64_t i) { return stream.normal(i) * range; });
  }
}

Json text_config(const NewModelSpec& spec, const Shape& shape) {
  const bool is_35 = spec.family == Family::kQwen3_5 || spec.family == Family::kQwen3_5Moe;
  const bool is_moe = spec.family == Family::kQwen3Moe || spec.family == Family::kQwen3_5Moe;
  const std::string_view dtype = enum_name(spec.dtype);
  Json config{{"model_type", std::string(enum_name(spec.family)) + (is_35 ? "_text" : "")},
              {"vocab_size", spec.vocab_size ? spec.vocab_size : shape.vocab_size},
              {"hidden_size", shape.hidden_size},
              {"num_hidden_layers", shape.layers},
              {"num_attention_heads", shape.heads},
              {"num_key_value_heads", shape.kv_heads},
              {"head_dim", shape.head_dim},
              {"hidden_act", "silu"},
              {"max_position_embeddings", 4096},
              {"initializer_range", 0.02},
              {"rms_norm_eps", 1e-6},
              {"attention_bias", false},
              {"attention_dropout", 0.0},
              {"use_cache", true},
              {"tie_word_embeddings", true},
              {"dtype", dtype}};
  if (!is_moe || spec.family == Family::kQwen3Moe) config["intermediate_size"] = shape.intermediate;
  if (is_moe) {
    config["num_experts"] = shape.experts;
    config["num_experts_per_tok"] = shape.experts_per_token;
    config["moe_intermediate_size"] = shape.expert_width;
    config["router_aux_loss_coef"] = 0.001;
    config["output_router_logits"] = false;
  }
  if (spec.family == Family::kQwen3Moe) {
    config["norm_topk_prob"] = true;
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = Json::array();
  }
  Json rope{{"rope_type", "default"}, {"rope_theta", is_35 ? 10000000.0 : 1000000.0}};
  if (is_35) {
    // A quarter of each head rotates, in three interleaved sections of frequencies.
    const int64_t pairs = shape.head_dim / 8;
    rope["partial_rotary_factor"] = 0.25;
    rope["mrope_section"] = {pairs - 2 * (pairs / 3), pairs / 3, pairs / 3};
    rope["mrope_interleaved"] = true;
    Json types = Json::array();
    for (int64_t i = 0; i < shape.layers; ++i)
      types.push_back((i + 1) % 4 ? "linear_attention" : "full_attention");
    config["layer_types"] = std::move(types);
    config["linear_conv_kernel_dim"] = 4;
    config["linear_num_key_heads"] = shape.linear_heads;
    config["linear_num_value_heads"] = shape.linear_value_heads;
    config["linear_key_head_dim"] = shape.linear_dim;
    config["linear_value_head_dim"] = shape.linear_dim;
    if (is_moe) config["shared_expert_intermediate_size"] = shape.shared_width;
  }
  config["rope_parameters"] = std::move(rope);
  return config;
}

/// Names and shapes of tensors that do not belong to the text model.
using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;

/// The vision tower's tensors. Source: the published Qwen3.5-0.8B.
Shapes vision_shapes(const Json& vision) {
  const auto get = [&](const char* key) { return vision.at(key).get<int64_t>(); };
  const int64_t width = get("hidden_size"), inner = get("intermediate_size"),
                merged = width * get("spatial_merge_size") * get("spatial_merge_size");
  Shapes shapes{{"patch_embed.proj.weight",
                 {width, get("in_channels"), get("temporal_patch_size"), get("patch_size"),
                  get("patch_size")}},
                {"patch_embed.proj.bias", {width}},
                {"pos_embed.weight", {get("num_position_embeddings"), width}}};
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    shapes.push_back({name + ".weight", {out, in}});
    shapes.push_back({name + ".bias", {out}});
  };
  const auto norm = [&](const std::string& name) {
    shapes.push_back({name + ".weight", {width}});
    shapes.push_back({name + ".bias", {width}});
  };
  for (int64_t i = 0; i < get("depth"); ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    norm(block + "norm1");
    norm(block + "norm2");
    linear(block + "attn.qkv", 3 * width, width);
    linear(block + "attn.proj", width, width);
    linear(block + "mlp.linear_fc1", inner, width);
    linear(block + "mlp.linear_fc2", width, inner);
  }
  norm("merger.norm");
  linear("merger.linear_fc1", merged, merged);
  linear("merger.linear_fc2", get("out_hidden_size"), merged);
  for (auto& [name, shape] : shapes) name = "model.visual." + name;
  return shapes;
}

}  // namespace

std::span<const EnumName<ModelSize>> enum_names(ModelSize) {
  static constexpr EnumName<ModelSize> kNames[] = {{ModelSize::kTiny, "tiny"},
                                                   {ModelSize::k10m, "10m"},
                                                   {ModelSize::k100m, "100m"},
                                                   {ModelSize::k500m, "500m"}};
  return kNames;
}

Json new_model_config(const NewModelSpec& spec) {
  const Shape shape = shape_of(spec.size);
  Json text = text_config(spec, shape);
  const std::string stem = spec.family == Family::kQwen3      ? "Qwen3"
                           : spec.family == Family::kQwen3Moe ? "Qwen3Moe"
                           : spec.family == Family::kQwen3_5  ? "Qwen3_5"
                                                              : "Qwen3_5Moe";
  if (!spec.is_nested) {
    Json config{{"architectures", {stem + "ForCausalLM"}}};
    config.update(text);
    return config;
  }
  if (spec.family == Family::kQwen3 || spec.family == Family::kQwen3Moe)
    fail<ConfigError>("bad-flag", "--nested",
                      "expected qwen3_5 or qwen3_5_moe for the vision-language form, got {}",
                      enum_name(spec.family));
  Json vision{{"model_type", enum_name(spec.family)},
              {"depth", 1},
              {"hidden_size", 32},
              {"hidden_act", "gelu_pytorch_tanh"},
              {"intermediate_size", 48},
              {"num_heads", 2},
              {"in_channels", 3},
              {"patch_size", 16},
              {"spatial_merge_size", 2},
              {"temporal_patch_size", 2},
              {"out_hidden_size", shape.hidden_size},
              {"num_position_embeddings", 16},
              {"deepstack_visual_indexes", Json::array()}};
  const int64_t vocabulary = text["vocab_size"].get<int64_t>();
  return {{"architectures", {stem + "ForConditionalGeneration"}},
          {"model_type", enum_name(spec.family)},
          {"dtype", text["dtype"]},
          {"image_token_id", vocabulary - 1},
          {"video_token_id", vocabulary - 2},
          {"vision_start_token_id", vocabulary - 4},
          {"vision_end_token_id", vocabulary - 3},
          {"tie_word_embeddings", text["tie_word_embeddings"]},
          {"text_config", text},
          {"vision_config", vision}};
}

std::vector<NewTensor> new_model_tensors(const Json& json, WeightDtype dtype, uint64_t seed) {
  at::NoGradGuard no_grad;
  const ModelConfig config = parse_model_config(json, "new model");
  // As transformers writes them: flat files have one tensor for each expert, nested ones are
  // grouped.
  const CheckpointForm form{.prefix = published_form(config).prefix,
                            .experts_grouped = config.is_nested,
                            .mtp_experts_grouped = config.is_nested};
  Extras extras;
  extras.num_mtp_layers = config.is_nested ? 1 : 0;
  const LogicalModel model = logical_model(config, extras, published_types(config));
  const layout::Layout checkpoint =
      make_layout(model, form, LayoutSpec::parse("checkpoint", "new model"));
  Shapes shapes;
  for (const layout::PhysicalTensor& tensor : checkpoint.rank(0))
    shapes.push_back({tensor.name, tensor.shape});
  if (config.is_nested && json.contains("vision_config"))
    for (auto& shape : vision_shapes(json["vision_config"])) shapes.push_back(std::move(shape));
  std::vector<NewTensor> tensors;
  for (auto& [name, shape] : shapes) {
    at::Tensor value = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
    fill(value, name, config.initializer_range, config.is_qwen3_5(), seed);
    tensors.push_back({name, value.to(cast_dtype(name, at::kFloat, dtype))});
  }
  return tensors;
}

}  // namespace lockstep::model
