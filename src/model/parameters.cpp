// The one list of a model's parameters: ids, checkpoint names, shapes.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/check.h"
#include "model/weights.h"

namespace lockstep::model {
namespace {

struct Piece {
  std::string name;
  std::vector<int64_t> shape;
};

/// Collects parameters; names are completed with the layer's prefix.
class Collector {
 public:
  Collector(const ModelConfig& config, const CheckpointForm& form) : config_(config), form_(form) {}

  /// A parameter of one or more pieces stacked by rows.
  Parameter& add(std::string id, std::vector<Piece> pieces, std::vector<int64_t> shape = {}) {
    Parameter parameter;
    parameter.id = std::move(id);
    int64_t elements = 0, rows = 0;
    for (auto& piece : pieces) {
      CheckpointPiece placed{std::move(piece.name), std::move(piece.shape), elements};
      elements += placed.numel();
      rows += placed.shape[0];
      parameter.pieces.push_back(std::move(placed));
    }
    parameter.shape = shape.empty() ? parameter.pieces[0].shape : std::move(shape);
    if (parameter.pieces.size() > 1 && parameter.shape.size() == 2) parameter.shape[0] = rows;
    parameter.is_matrix = parameter.pieces[0].shape.size() >= 2;
    result.push_back(std::move(parameter));
    return result.back();
  }

  void add_norm(std::string id, std::string name, int64_t size) {
    add(std::move(id), {{std::move(name), {size}}}).is_norm = true;
  }

  void add_layer(int64_t index) {
    const std::string id = fmt::format("layers.{}.", index);
    const std::string name = fmt::format("{}layers.{}.", form_.prefix, index);
    const auto layer = static_cast<size_t>(index);
    add_norm(id + "input_norm", name + "input_layernorm.weight", config_.hidden_size);
    if (config_.mixers[layer] == MixerKind::kAttention)
      add_attention(id + "attention.", name + "self_attn.");
    else
      add_delta(id + "delta.", name + "linear_attn.");
    add_norm(id + "post_norm", name + "post_attention_layernorm.weight", config_.hidden_size);
    if (config_.moe_layers[layer])
      add_experts(id + "experts.", name + "mlp.");
    else
      add_dense(id + "dense.", name + "mlp.", config_.intermediate_size);
  }

  std::vector<Parameter> result;

 private:
  void add_attention(const std::string& id, const std::string& name) {
    const int64_t hidden = config_.hidden_size, kv = config_.key_value_rows();
    add(id + "qkv", {{name + "q_proj.weight", {config_.query_rows(), hidden}},
                     {name + "k_proj.weight", {kv, hidden}},
                     {name + "v_proj.weight", {kv, hidden}}});
    add(id + "o",
        {{name + "o_proj.weight", {hidden, config_.num_attention_heads * config_.head_dim}}});
    add_norm(id + "q_norm", name + "q_norm.weight", config_.head_dim);
    add_norm(id + "k_norm", name + "k_norm.weight", config_.head_dim);
  }

  void add_delta(const std::string& id, const std::string& name) {
    const int64_t hidden = config_.hidden_size, heads = config_.linear_num_value_heads;
    add(id + "in_proj", {{name + "in_proj_qkv.weight", {config_.conv_dim(), hidden}},
                         {name + "in_proj_z.weight", {config_.linear_value_dim(), hidden}},
                         {name + "in_proj_b.weight", {heads, hidden}},
                         {name + "in_proj_a.weight", {heads, hidden}}});
    add(id + "conv",
        {{name + "conv1d.weight", {config_.conv_dim(), 1, config_.linear_conv_kernel_dim}}});
    add(id + "A_log", {{name + "A_log", {heads}}});
    add(id + "dt_bias", {{name + "dt_bias", {heads}}});
    add_norm(id + "norm", name + "norm.weight", config_.linear_value_head_dim);
    add(id + "out", {{name + "out_proj.weight", {hidden, config_.linear_value_dim()}}});
  }

  void add_dense(const std::string& id, const std::string& name, int64_t width) {
    const int64_t hidden = config_.hidden_size;
    add(id + "gate_up",
        {{name + "gate_proj.weight", {width, hidden}}, {name + "up_proj.weight", {width, hidden}}});
    add(id + "down", {{name + "down_proj.weight", {hidden, width}}});
  }

  void add_experts(const std::string& id, const std::string& name) {
    const int64_t hidden = config_.hidden_size, width = config_.moe_intermediate_size,
                  count = config_.num_experts;
    add(id + "router", {{name + "gate.weight", {count, hidden}}});
    std::vector<Piece> gate_up, down;
    if (form_.experts_grouped) {
      gate_up.push_back({name + "experts.gate_up_proj", {count, 2 * width, hidden}});
      down.push_back({name + "experts.down_proj", {count, hidden, width}});
    } else {
      for (int64_t expert = 0; expert < count; ++expert) {
        const std::string one = fmt::format("{}experts.{}.", name, expert);
        gate_up.push_back({one + "gate_proj.weight", {width, hidden}});
        gate_up.push_back({one + "up_proj.weight", {width, hidden}});
        down.push_back({one + "down_proj.weight", {hidden, width}});
      }
    }
    add(id + "gate_up", std::move(gate_up), {count, 2 * width, hidden}).is_expert = true;
    add(id + "down", std::move(down), {count, hidden, width}).is_expert = true;
    if (!config_.shared_expert_intermediate_size) return;
    add_dense(id + "shared.", name + "shared_expert.", config_.shared_expert_intermediate_size);
    add(id + "shared_gate", {{name + "shared_expert_gate.weight", {1, hidden}}});
  }

  const ModelConfig& config_;
  const CheckpointForm& form_;
};

}  // namespace

int64_t CheckpointPiece::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

at::Tensor CheckpointPiece::view(const at::Tensor& storage) const {
  return storage.view({-1}).narrow(0, offset, numel()).view(shape);
}

CheckpointForm detect_form(const ModelConfig& config, const TensorSource& source) {
  CheckpointForm form;
  for (const char* prefix : {"model.language_model.", "model."}) {
    form.prefix = prefix;
    if (source.contains(form.prefix + "embed_tokens.weight")) break;
  }
  if (!source.contains(form.prefix + "embed_tokens.weight"))
    fail<FormatError>("missing-tensor", source.where(),
                      "expected model.embed_tokens.weight or "
                      "model.language_model.embed_tokens.weight, got neither");
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.moe_layers[static_cast<size_t>(layer)]) continue;
    form.experts_grouped =
        source.contains(fmt::format("{}layers.{}.mlp.experts.gate_up_proj", form.prefix, layer));
    break;
  }
  return form;
}

std::vector<Parameter> describe_parameters(const ModelConfig& config, const CheckpointForm& form) {
  Collector collector(config, form);
  collector.add("embedding",
                {{form.prefix + "embed_tokens.weight", {config.vocab_size, config.hidden_size}}});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) collector.add_layer(layer);
  collector.add_norm("final_norm", form.prefix + "norm.weight", config.hidden_size);
  if (!config.tie_word_embeddings)
    collector.add("head", {{"lm_head.weight", {config.vocab_size, config.hidden_size}}});
  return std::move(collector.result);
}

}  // namespace lockstep::model
