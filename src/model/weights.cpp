// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <unordered_set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/interrupt.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

/// Whether a tensor is not part of the text model: it is written back byte for byte, or can be
/// recomputed (inv_freq).
bool is_carried(const std::string& name) {
  for (const char* prefix : {"model.visual.", "visual.", "mtp.", "model.mtp."})
    if (name.starts_with(prefix)) return true;
  return name.ends_with(".rotary_emb.inv_freq");
}

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace

at::ScalarType scalar_type(WeightDtype dtype) {
  return dtype == WeightDtype::kFloat32 ? at::kFloat : at::kBFloat16;
}

at::ScalarType cast_dtype(const std::string& name, at::ScalarType stored, WeightDtype wanted) {
  return is_published_in_float32(name) && stored != at::kBFloat16 ? at::kFloat
                                                                  : scalar_type(wanted);
}

at::ScalarType loaded_dtype(const std::string& name,
                            at::ScalarType stored,
                            std::optional<WeightDtype> wanted) {
  if (wanted) return cast_dtype(name, stored, *wanted);
  return stored == at::kHalf ? at::kFloat : stored;
}

std::vector<std::string> check_tensors(const std::vector<Parameter>& parameters,
                                       const ModelConfig& config,
                                       const TensorSource& source) {
  std::unordered_set<std::string> known;
  for (const auto& parameter : parameters) {
    for (const auto& piece : parameter.pieces) {
      if (!source.contains(piece.name))
        fail<FormatError>("missing-tensor", piece.name,
                          "expected a tensor of shape {} in {}, got none", shape_text(piece.shape),
                          source.where());
      const std::vector<int64_t> shape = source.shape(piece.name);
      if (shape != piece.shape)
        fail<FormatError>("shape-mismatch", piece.name,
                          "expected shape {} by config.json, got {} in {}", shape_text(piece.shape),
                          shape_text(shape), source.where());
      const at::ScalarType dtype = source.dtype(piece.name);
      if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)
        fail<FormatError>("bad-dtype", piece.name, "expected F32, BF16 or F16, got {} in {}",
                          c10::toString(dtype), source.where());
      known.insert(piece.name);
    }
  }
  std::vector<std::string> carried;
  for (const std::string& name : source.names()) {
    // A tied checkpoint may still hold the head, which is the embedding.
    if (known.count(name) || (name == "lm_head.weight" && config.tie_word_embeddings)) continue;
    if (!is_carried(name))
      fail<FormatError>("unknown-tensor", name,
                        "expected only tensors of a {} model of {} layers, got this one in {}",
                        enum_name(config.family), config.num_hidden_layers, source.where());
    carried.push_back(name);
  }
  return carried;
}

ModelWeights::ModelWeights(ModelConfig config,
                           const TensorSource& source,
                           std::optional<WeightDtype> dtype)
    : config_(std::move(config)),
      form_(detect_form(config_, source)),
      parameters_(describe_parameters(config_, form_)) {
  load(source, dtype);
  bind_layers();
  pack();
}

void ModelWeights::load(const TensorSource& source, std::optional<WeightDtype> dtype) {
  at::NoGradGuard no_grad;
  carried_ = check_tensors(parameters_, config_, source);
  for (auto& parameter : parameters_) {
    throw_if_interrupted();
    for (const auto& piece : parameter.pieces) {
      const at::ScalarType type = loaded_dtype(piece.name, source.dtype(piece.name), dtype);
      if (!parameter.value.defined())
        parameter.value = at::empty(parameter.shape, at::TensorOptions().dtype(type));
      if (parameter.value.scalar_type() != type)
        fail<FormatError>("bad-dtype", piece.name,
                          "expected {} as {} has, got {} in {} (name a --torch_dtype)",
                          c10::toString(parameter.value.scalar_type()), parameter.pieces[0].name,
                          c10::toString(type), source.where());
      piece.view(parameter.value).copy_(source.tensor(piece.name));
    }
  }
}

void ModelWeights::bind_layers() {
  std::map<std::string, at::Tensor> by_id;
  std::map<std::string, size_t> number_of;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    by_id[parameters_[i].id] = parameters_[i].value;
    number_of[parameters_[i].id] = i;
  }
  const auto linear = [&](const std::string& id) {
    ops::LinearWeight weight(by_id.at(id));
    weight.number = static_cast<int64_t>(number_of.at(id));
    return weight;
  };
  const auto bank = [&](const std::string& id) {
    ops::ExpertBank experts(by_id.at(id));
    experts.number = static_cast<int64_t>(number_of.at(id));
    return experts;
  };
  embedding_ = by_id.at("embedding");
  final_norm_ = by_id.at("final_norm");
  head_ = ops::VocabularyHead(config_.tie_word_embeddings ? embedding_ : by_id.at("head"));
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const std::string id = fmt::format("layers.{}.", i);
    LayerWeights layer;
    layer.input_norm = by_id.at(id + "input_norm");
    layer.post_norm = by_id.at(id + "post_norm");
    if (config_.mixers[static_cast<size_t>(i)] == MixerKind::kAttention)
      layer.attention = {linear(id + "attention.qkv"), linear(id + "attention.o"),
                         by_id.at(id + "attention.q_norm"), by_id.at(id + "attention.k_norm")};
    else
      layer.delta = {linear(id + "delta.in_proj"), by_id.at(id + "delta.conv"),
                     by_id.at(id + "delta.A_log"), by_id.at(id + "delta.dt_bias"),
                     by_id.at(id + "delta.norm"),  linear(id + "delta.out")};
    if (!config_.moe_layers[static_cast<size_t>(i)]) {
      layer.dense = {linear(id + "dense.gate_up"), linear(id + "dense.down")};
    } else {
      layer.experts.emplace();
      layer.experts->router = linear(id + "experts.router");
      layer.experts->gate_up = bank(id + "experts.gate_up");
      layer.experts->down = bank(id + "experts.down");
      if (config_.shared_expert_intermediate_size) {
        layer.experts->shared = {linear(id + "experts.shared.gate_up"),
                                 linear(id + "experts.shared.down")};
        layer.experts->shared_gate = linear(id + "experts.shared_gate");
      }
    }
    layers_.push_back(std::move(layer));
  }
}

namespace {

/// Visits the weights of all products of a layer, for packing and for the bytes that it takes.
template <class Layer, class Visit>
void for_each_linear(Layer& layer, Visit&& visit) {
  if (layer.attention) {
    visit(layer.attention->qkv);
    visit(layer.attention->o);
  }
  if (layer.delta) {
    visit(layer.delta->in_proj);
    visit(layer.delta->out);
  }
  if (layer.dense) {
    visit(layer.dense->gate_up);
    visit(layer.dense->down);
  }
  if (!layer.experts) return;
  visit(layer.experts->router);
  for (auto& expert : layer.experts->gate_up.experts) visit(expert);
  for (auto& expert : layer.experts->down.experts) visit(expert);
  if (!layer.experts->shared) return;
  visit(layer.experts->shared->gate_up);
  visit(layer.experts->shared->down);
  visit(layer.experts->shared_gate);
}

}  // namespace

void ModelWeights::pack() {
  for (auto& layer : layers_)
    for_each_linear(layer, [](ops::LinearWeight& weight) { weight.pack(); });
  head_.pack();
}

void ModelWeights::freeze() {
  for (auto& parameter : parameters_)
    for (auto& piece : parameter.pieces) piece.is_trained = false;
}

int64_t ModelWeights::canonical_bytes() const {
  int64_t bytes = 0;
  for (const auto& parameter : parameters_) bytes += static_cast<int64_t>(parameter.value.nbytes());
  return bytes;
}

int64_t ModelWeights::packed_bytes() const {
  int64_t bytes = 0;
  const auto add = [&](const ops::LinearWeight& weight) {
    // oneDNN's form is opaque: about as large as the weight.
    bytes += static_cast<int64_t>(weight.form == ops::PackedForm::kPanels ? weight.packed.nbytes()
                                                                          : weight.weight.nbytes());
  };
  for (const auto& layer : layers_) for_each_linear(layer, add);
  for (const auto& block : head_.blocks) add(block);
  return bytes;
}

void ModelWeights::for_each_tensor(
    const std::function<void(const std::string&, const at::Tensor&)>& visit) const {
  for (const auto& parameter : parameters_)
    for (const auto& piece : parameter.pieces)
      visit(piece.name, piece.view(parameter.value.detach()));
}

}  // namespace lockstep::model
