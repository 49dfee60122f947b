// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <type_traits>
#include <unordered_set>

#include <fmt/ranges.h>

#include <ATen/ops/embedding.h>

#include "base/check.h"
#include "base/heap.h"
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
                           std::optional<WeightDtype> dtype,
                           WeightUse use,
                           const PartToLoad& part)
    : config_(std::move(config)),
      form_(detect_form(config_, source)),
      parameters_(describe_parameters(config_, form_)),
      is_own_(parameters_.size(), true) {
  allocate(source, dtype);
  bind_layers();
  load(source, use, part);
}

ModelWeights::ModelWeights(const ModelWeights& base, const OwnParts& own)
    : config_(base.config_),
      form_(base.form_),
      parameters_(base.parameters_),
      is_own_(parameters_.size(), false),
      is_loaded_in_part_(base.is_loaded_in_part_),
      carried_(base.carried_) {
  take_own(base, own);
  bind_layers();
  share_products(base);
  pack();
}

void ModelWeights::take_own(const ModelWeights& base, const OwnParts& own) {
  const at::NoGradGuard no_grad;
  for (const size_t i : own.parameters) {
    parameters_[i].value = base.values(i).detach().clone();
    is_own_[i] = true;
  }
  if (!config_.tie_word_embeddings || own.stays_tied) return;
  const auto embedding = static_cast<size_t>(
      std::find_if(parameters_.begin(), parameters_.end(),
                   [](const Parameter& parameter) { return parameter.id == "embedding"; }) -
      parameters_.begin());
  if (!own.head && !is_own_[embedding]) return;
  config_.tie_word_embeddings = false;
  Parameter head = base.parameters_[embedding];
  head.id = "head";
  head.pieces = {{.name = "lm_head.weight", .shape = head.shape, .is_trained = false}};
  if (own.head) head.value = base.values(embedding).detach().clone();
  parameters_.push_back(std::move(head));
  is_own_.push_back(own.head);
}

/// Memory that nothing was written to yet takes no room.
void ModelWeights::allocate(const TensorSource& source, std::optional<WeightDtype> dtype) {
  carried_ = check_tensors(parameters_, config_, source);
  for (auto& parameter : parameters_) {
    for (const auto& piece : parameter.pieces) {
      const at::ScalarType type = loaded_dtype(piece.name, source.dtype(piece.name), dtype);
      if (!parameter.value.defined())
        parameter.value = at::empty(parameter.shape, at::TensorOptions().dtype(type));
      if (parameter.value.scalar_type() != type)
        fail<FormatError>("bad-dtype", piece.name,
                          "expected {} as {} has, got {} in {} (name a --torch_dtype)",
                          c10::toString(parameter.value.scalar_type()), parameter.pieces[0].name,
                          c10::toString(type), source.where());
    }
  }
}

namespace {

/// Fills some elements of a parameter's values. Of the file no others are read.
void load_part(Parameter& parameter,
               const parallel::ElementRange& part,
               const TensorSource& source) {
  const at::Tensor values = parameter.value.view({-1});
  for (const CheckpointPiece& piece : parameter.pieces) {
    const int64_t first = std::max(part.first, piece.offset),
                  last = std::min(part.last, piece.offset + piece.numel());
    if (first >= last) continue;
    values.narrow(0, first, last - first)
        .copy_(
            source.tensor(piece.name).reshape({-1}).narrow(0, first - piece.offset, last - first));
  }
}

}  // namespace

/// One parameter after another, so that of frozen weights no two are in memory twice. What is freed
/// on the way is given back now and then: whether the next panel fits into it is chance.
void ModelWeights::load(const TensorSource& source, WeightUse use, const PartToLoad& part) {
  at::NoGradGuard no_grad;
  if (use == WeightUse::kFrozen) freeze();
  constexpr size_t kGivenBackAtOnce = size_t{64} << 20;
  size_t freed = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    throw_if_interrupted();
    Parameter& parameter = parameters_[i];
    const auto own = part ? part(parameter) : std::nullopt;
    if (own) {
      load_part(parameter, own->elements, source);
      is_loaded_in_part_ = true;
      if (parameter.is_expert) keep_experts(i, own->first_expert, own->num_experts);
    } else {
      for (const auto& piece : parameter.pieces)
        piece.view(parameter.value).copy_(source.tensor(piece.name));
    }
    if (use == WeightUse::kFrozen) source.release_pages();
    if (own && !own->is_packed) continue;
    visit_product(*this, parameter, [&](auto& product) {
      product.pack();
      if (use != WeightUse::kFrozen || !product.can_release()) return;
      const bool is_embedding = product.weight.is_same(embedding_);
      freed += parameter.value.nbytes();
      product.release();
      parameter.value = product.weight;
      if (!is_embedding) return;
      embedding_ = product.weight;
      lookup_ = head_;
    });
    if (freed < kGivenBackAtOnce) continue;
    release_freed_memory();
    freed = 0;
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

/// Visits the weights of all products of a layer: each a LinearWeight or an ExpertBank.
template <class Layer, class Visit>
void for_each_product(Layer& layer, Visit&& visit) {
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
  visit(layer.experts->gate_up);
  visit(layer.experts->down);
  if (!layer.experts->shared) return;
  visit(layer.experts->shared->gate_up);
  visit(layer.experts->shared->down);
  visit(layer.experts->shared_gate);
}

}  // namespace

template <class Self, class Visit>
void ModelWeights::visit_product(Self& self, const Parameter& parameter, Visit&& visit) {
  const auto visit_own = [&](auto& product) {
    if (product.weight.is_same(parameter.value)) visit(product);
  };
  if (parameter.layer != Parameter::kNoLayer)
    return for_each_product(self.layers_[static_cast<size_t>(parameter.layer)], visit_own);
  visit_own(self.head_);
  if (!self.lookup_.weight.is_same(self.head_.weight)) visit_own(self.lookup_);
}

void ModelWeights::share_products(const ModelWeights& base) {
  if (embedding_.is_same(base.embedding_)) lookup_ = base.lookup_;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (is_own_[i]) continue;
    visit_product(*this, parameters_[i], [&](auto& product) {
      visit_product(base, parameters_[i], [&](const auto& shared) {
        using Shared = std::remove_cvref_t<decltype(shared)>;
        if constexpr (std::is_same_v<Shared, std::remove_cvref_t<decltype(product)>>)
          product = shared;
      });
    });
  }
}

void ModelWeights::pack() {
  pack([](const Parameter&) { return true; });
}

void ModelWeights::pack(const std::function<bool(const Parameter&)>& takes) {
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (is_own_[i] && ops::has_values(parameters_[i].value) && takes(parameters_[i]))
      visit_product(*this, parameters_[i], [](auto& product) { product.pack(); });
}

void ModelWeights::drop_packed(size_t parameter) {
  if (is_own_[parameter])
    visit_product(*this, parameters_[parameter], [](auto& product) { product.drop_packed(); });
}

void ModelWeights::keep_experts(size_t parameter, int64_t first, int64_t count) {
  visit_product(*this, parameters_[parameter], [&](auto& product) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(product)>, ops::ExpertBank>)
      product.keep(first, count);
  });
}

at::Tensor ModelWeights::embed(const at::Tensor& ids) const {
  return ops::has_values(embedding_) ? at::embedding(embedding_, ids) : lookup_.rows(ids);
}

at::Tensor ModelWeights::values(size_t parameter) const {
  at::Tensor values = parameters_[parameter].value;
  if (!ops::has_values(values))
    visit_product(*this, parameters_[parameter],
                  [&](const auto& product) { values = product.values(); });
  return values;
}

void ModelWeights::set_values(size_t parameter, const at::Tensor& values) {
  Parameter& own = parameters_[parameter];
  LOCKSTEP_CHECK(is_own_[parameter], "{} belongs to other weights, too", own.id);
  at::NoGradGuard no_grad;
  if (ops::has_values(own.value)) {
    own.value.copy_(values);
    visit_product(*this, own, [](auto& product) { product.pack(); });
  } else {
    visit_product(*this, own, [&](auto& product) { product.take(values.to(own.value.dtype())); });
  }
}

void ModelWeights::freeze() {
  for (auto& parameter : parameters_)
    for (auto& piece : parameter.pieces) piece.is_trained = false;
}

int64_t ModelWeights::num_elements() const {
  int64_t elements = 0;
  for (const auto& parameter : parameters_) elements += parameter.value.numel();
  return elements;
}

namespace {

/// The bytes of values that are kept, of all elements or of so many.
int64_t kept_bytes(const Parameter& parameter, std::optional<int64_t> elements = {}) {
  if (!ops::has_values(parameter.value)) return 0;
  return elements.value_or(parameter.value.numel()) *
         static_cast<int64_t>(parameter.value.element_size());
}

}  // namespace

int64_t ModelWeights::canonical_bytes() const {
  int64_t bytes = 0;
  for (const auto& parameter : parameters_) {
    std::optional<int64_t> elements;
    visit_product(*this, parameter, [&](const auto& product) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(product)>, ops::ExpertBank>)
        elements = parameter.value.numel() / parameter.value.size(0) * product.num_kept;
    });
    bytes += kept_bytes(parameter, elements);
  }
  return bytes;
}

int64_t ModelWeights::packed_bytes() const {
  int64_t bytes = 0;
  for (const auto& parameter : parameters_)
    visit_product(*this, parameter, [&](const auto& product) { bytes += product.packed_bytes(); });
  return bytes;
}

int64_t ModelWeights::bytes_apart_from(const ModelWeights& other) const {
  int64_t bytes = 0;
  for (const Parameter& parameter : parameters_) {
    if (std::any_of(other.parameters_.begin(), other.parameters_.end(),
                    [&](const Parameter& its) { return parameter.value.is_same(its.value); }))
      continue;
    bytes += kept_bytes(parameter);
    visit_product(*this, parameter, [&](const auto& product) { bytes += product.packed_bytes(); });
  }
  return bytes;
}

void ModelWeights::for_each_tensor(
    const std::function<void(const std::string&, const at::Tensor&)>& visit) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor all = values(i).detach();
    for (const auto& piece : parameters_[i].pieces) visit(piece.name, piece.view(all));
  }
}

}  // namespace lockstep::model
