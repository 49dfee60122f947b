// SPDX-License-Identifier: Apache-2.0
#include "model/logical_model.h"

#include <utility>

#include <fmt/format.h>

#include "base/check.h"

namespace lockstep::model {
namespace {

using layout::LogicalDim;
using layout::LogicalTensor;

/// A tensor that is published in float32: how its id and its name in a checkpoint end.
struct Float32Tensor {
  std::string_view id, checkpoint_name;
};
constexpr Float32Tensor kFloat32Tensors[] = {{".delta.A_log", ".A_log"},
                                             {".delta.norm", ".linear_attn.norm.weight"}};

/// Collects the logical tensors in the order of the layers.
class Collector {
 public:
  Collector(const ModelConfig& config, const TypeOf& type_of)
      : config_(config), type_of_(type_of) {}

  int32_t add(std::string id,
              std::vector<LogicalDim> dims,
              int num_row_dims,
              TensorRole role = TensorRole::kOther) {
    const ElementType type = type_of_(id);
    tensors.push_back({std::move(id), std::move(dims), num_row_dims, type});
    roles.push_back(role);
    return static_cast<int32_t>(tensors.size() - 1);
  }
  int32_t matrix(std::string id, int64_t out, int64_t in, TensorRole role = TensorRole::kOther) {
    return add(std::move(id), {{"out", out}, {"in", in}}, 1, role);
  }
  int32_t norm(std::string id, int64_t size) {
    return add(std::move(id), {{"out", size}}, 1, TensorRole::kNorm);
  }

  BlockIds block(const std::string& id, MixerKind mixer, bool is_moe) {
    BlockIds ids;
    ids.input_norm = norm(id + "input_norm", config_.hidden_size);
    if (mixer == MixerKind::kAttention)
      ids.attention = attention(id + "attention.");
    else
      ids.delta = delta(id + "delta.");
    ids.post_norm = norm(id + "post_norm", config_.hidden_size);
    if (is_moe)
      ids.experts = experts(id + "experts.");
    else
      ids.dense = mlp(id + "dense.", config_.intermediate_size);
    return ids;
  }

  std::vector<LogicalTensor> tensors;
  std::vector<TensorRole> roles;

 private:
  AttentionIds attention(const std::string& id) {
    const int64_t groups = config_.num_key_value_heads,
                  members = config_.num_attention_heads / groups, size = config_.head_dim,
                  hidden = config_.hidden_size;
    AttentionIds ids;
    const auto query = [&](std::string name) {
      return add(std::move(name),
                 {{"group", groups}, {"member", members}, {"head_dim", size}, {"in", hidden}}, 3);
    };
    const auto key = [&](std::string name) {
      return add(std::move(name), {{"group", groups}, {"head_dim", size}, {"in", hidden}}, 2);
    };
    ids.q = query(id + "q");
    if (config_.is_qwen3_5()) ids.gate = query(id + "gate");
    ids.k = key(id + "k");
    ids.v = key(id + "v");
    ids.o = matrix(id + "o", hidden, config_.num_attention_heads * size);
    ids.q_norm = norm(id + "q_norm", size);
    ids.k_norm = norm(id + "k_norm", size);
    return ids;
  }

  DeltaIds delta(const std::string& id) {
    const int64_t heads = config_.linear_num_key_heads,
                  values = config_.linear_num_value_heads / heads,
                  key_dim = config_.linear_key_head_dim,
                  value_dim = values * config_.linear_value_head_dim;
    const LogicalDim in{"in", config_.hidden_size}, tap{"tap", config_.linear_conv_kernel_dim};
    const auto by_head = [&](const char* name, LogicalDim inner, LogicalDim column) {
      return add(id + name, {{"key_head", heads}, inner, column}, 2);
    };
    DeltaIds ids;
    ids.q = by_head("q", {"key_dim", key_dim}, in);
    ids.k = by_head("k", {"key_dim", key_dim}, in);
    ids.v = by_head("v", {"value_dim", value_dim}, in);
    ids.z = by_head("z", {"value_dim", value_dim}, in);
    ids.b = by_head("b", {"value_head", values}, in);
    ids.a = by_head("a", {"value_head", values}, in);
    ids.conv_q = by_head("conv_q", {"key_dim", key_dim}, tap);
    ids.conv_k = by_head("conv_k", {"key_dim", key_dim}, tap);
    ids.conv_v = by_head("conv_v", {"value_dim", value_dim}, tap);
    ids.A_log = add(id + "A_log", {{"key_head", heads}, {"value_head", values}}, 2);
    ids.dt_bias = add(id + "dt_bias", {{"key_head", heads}, {"value_head", values}}, 2);
    ids.norm = norm(id + "norm", config_.linear_value_head_dim);
    ids.out = matrix(id + "out", config_.hidden_size, config_.linear_value_dim());
    return ids;
  }

  MlpIds mlp(const std::string& id, int64_t width, TensorRole role = TensorRole::kOther) {
    MlpIds ids;
    ids.gate = matrix(id + "gate", width, config_.hidden_size, role);
    ids.up = matrix(id + "up", width, config_.hidden_size, role);
    ids.down = matrix(id + "down", config_.hidden_size, width, role);
    return ids;
  }

  ExpertsIds experts(const std::string& id) {
    ExpertsIds ids;
    ids.router =
        add(id + "router", {{"expert", config_.num_experts}, {"in", config_.hidden_size}}, 1);
    for (int64_t expert = 0; expert < config_.num_experts; ++expert)
      ids.experts.push_back(mlp(fmt::format("{}{}.", id, expert), config_.moe_intermediate_size,
                                TensorRole::kRoutedExpert));
    if (!config_.shared_expert_intermediate_size) return ids;
    ids.shared = mlp(id + "shared.", config_.shared_expert_intermediate_size);
    ids.shared_gate = matrix(id + "shared_gate", 1, config_.hidden_size);
    return ids;
  }

  const ModelConfig& config_;
  const TypeOf& type_of_;
};

LogicalTensor carried_tensor(const CarriedTensor& from) {
  static constexpr const char* kNames[layout::kMaxDims] = {"d0", "d1", "d2", "d3", "d4"};
  LogicalTensor tensor{from.name, {}, 1, from.type};
  if (from.shape.size() > layout::kMaxDims)
    fail<FormatError>("shape-mismatch", from.name, "expected at most {} dimensions, got {}",
                      layout::kMaxDims, from.shape.size());
  for (size_t d = 0; d < from.shape.size(); ++d) tensor.dims.push_back({kNames[d], from.shape[d]});
  return tensor;
}

}  // namespace

CheckpointForm published_form(const ModelConfig& config) {
  return {.prefix = config.is_nested ? "model.language_model." : "model.",
          .experts_grouped = config.family == Family::kQwen3_5Moe};
}

CheckpointForm detect_form(const ModelConfig& config,
                           const std::function<bool(const std::string&)>& has,
                           const std::string& where) {
  CheckpointForm form;
  for (const char* prefix : {"model.language_model.", "model."}) {
    form.prefix = prefix;
    if (has(form.prefix + "embed_tokens.weight")) break;
  }
  if (!has(form.prefix + "embed_tokens.weight"))
    fail<FormatError>("missing-tensor", where,
                      "expected model.embed_tokens.weight or "
                      "model.language_model.embed_tokens.weight, got neither");
  constexpr const char* kGrouped = "{}layers.{}.mlp.experts.gate_up_proj";
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.moe_layers[static_cast<size_t>(layer)]) continue;
    form.experts_grouped = has(fmt::format(fmt::runtime(kGrouped), form.prefix, layer));
    break;
  }
  form.mtp_experts_grouped = has(fmt::format(fmt::runtime(kGrouped), "mtp.", 0));
  return form;
}

bool is_published_in_float32(std::string_view checkpoint_name) {
  for (const Float32Tensor& tensor : kFloat32Tensors)
    if (checkpoint_name.ends_with(tensor.checkpoint_name)) return true;
  return false;
}

TypeOf published_types(const ModelConfig& config) {
  const ElementType type =
      config.dtype == WeightDtype::kFloat32 ? ElementType::kF32 : ElementType::kBF16;
  return [type](const std::string& id) {
    for (const Float32Tensor& tensor : kFloat32Tensors)
      if (id.ends_with(tensor.id)) return ElementType::kF32;
    return type;
  };
}

LogicalModel logical_model(const ModelConfig& config, const Extras& extras, const TypeOf& type_of) {
  Collector collector(config, type_of);
  LogicalModel model;
  model.config = config;
  const auto table = [&](std::string id) {
    return collector.add(std::move(id), {{"vocab", config.vocab_size}, {"in", config.hidden_size}},
                         1);
  };
  model.embedding = table("embedding");
  model.layer_of = {-1};
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const auto layer = static_cast<size_t>(i);
    model.layers.push_back(collector.block(fmt::format("layers.{}.", i), config.mixers[layer],
                                           config.moe_layers[layer]));
    model.layer_of.resize(collector.tensors.size(), i);
  }
  model.final_norm = collector.norm("final_norm", config.hidden_size);
  if (!config.tie_word_embeddings) model.head = table("head");
  if (extras.num_mtp_layers > 0) {
    MtpIds& mtp = model.mtp.emplace();
    mtp.fc = collector.matrix("mtp.fc", config.hidden_size, 2 * config.hidden_size);
    for (int64_t i = 0; i < extras.num_mtp_layers; ++i)
      mtp.layers.push_back(collector.block(fmt::format("mtp.layers.{}.", i), MixerKind::kAttention,
                                           config.num_experts > 0));
    mtp.norm = collector.norm("mtp.norm", config.hidden_size);
    mtp.embedding_norm = collector.norm("mtp.embedding_norm", config.hidden_size);
    mtp.hidden_norm = collector.norm("mtp.hidden_norm", config.hidden_size);
  }
  for (const CarriedTensor& carried : extras.carried) {
    model.carried.push_back(static_cast<int32_t>(collector.tensors.size()));
    collector.tensors.push_back(carried_tensor(carried));
    collector.roles.push_back(TensorRole::kOther);
  }
  model.layer_of.resize(collector.tensors.size(), -1);
  model.roles = std::move(collector.roles);
  model.tensors = std::make_shared<layout::LogicalTensors>(std::move(collector.tensors));
  return model;
}

}  // namespace lockstep::model
