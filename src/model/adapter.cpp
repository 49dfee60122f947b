// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/digest.h"
#include "base/random.h"
#include "model/adapter_names.h"
#include "model/adapter_reader.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

uint64_t next_number() {
  static std::atomic<uint64_t> numbers{0};
  return ++numbers;
}

/// The experts' path, without the parameter's name.
std::string experts_path(const std::string& path) { return path.substr(0, path.rfind('.')); }

}  // namespace

namespace {

AdapterTarget head_target(int64_t weight, int64_t vocabulary, int64_t hidden) {
  return {.path = std::string(kHeadPath),
          .weight = weight,
          .out = vocabulary,
          .in = hidden,
          .layer = Parameter::kNoLayer,
          .part = AdapterTarget::Part::kHead};
}

/// Adds the embedding or the head, if that is what the parameter is.
void add_outer_target(const Parameter& parameter,
                      int64_t number,
                      std::vector<AdapterTarget>& targets) {
  if (parameter.id == "head")
    targets.push_back(head_target(number, parameter.shape[0], parameter.shape[1]));
  if (parameter.id != "embedding") return;
  const std::string& name = parameter.pieces[0].name;
  targets.push_back({.path = name.substr(0, name.rfind('.')),
                     .weight = number,
                     .out = parameter.shape[1],
                     .in = parameter.shape[0],
                     .layer = Parameter::kNoLayer,
                     .part = AdapterTarget::Part::kEmbedding});
}

}  // namespace

std::pair<std::string_view, std::string_view> half_names(const AdapterTarget& target) {
  if (target.part == AdapterTarget::Part::kEmbedding) return {kEmbeddingA, kEmbeddingB};
  return {kLoraA, kLoraB};
}

std::vector<AdapterTarget> adapter_targets(const ModelWeights& weights) {
  return adapter_targets(weights.parameters());
}

std::vector<AdapterTarget> adapter_targets(std::span<const Parameter> parameters) {
  std::vector<AdapterTarget> targets;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    if (parameter.layer == Parameter::kNoLayer) {
      add_outer_target(parameter, static_cast<int64_t>(i), targets);
      continue;
    }
    if (parameter.is_expert) {
      LOCKSTEP_CHECK(parameter.shape.size() == 3, "experts {}", parameter.id);
      targets.push_back({.path = experts_parameter_path(parameter),
                         .weight = static_cast<int64_t>(i),
                         .out = parameter.shape[1],
                         .in = parameter.shape[2],
                         .layer = parameter.layer,
                         .num_experts = parameter.shape[0]});
      continue;
    }
    for (const CheckpointPiece& piece : parameter.pieces) {
      constexpr std::string_view kWeight = ".weight";
      if (piece.shape.size() != 2 || !piece.name.ends_with(kWeight)) continue;
      targets.push_back({.path = piece.name.substr(0, piece.name.size() - kWeight.size()),
                         .weight = static_cast<int64_t>(i),
                         .first_row = piece.offset / piece.shape[1],
                         .out = piece.shape[0],
                         .in = piece.shape[1],
                         .layer = parameter.layer,
                         .is_router = parameter.id.ends_with(".router")});
    }
  }
  const auto find = [&](AdapterTarget::Part part) {
    return std::find_if(targets.begin(), targets.end(),
                        [part](const AdapterTarget& target) { return target.part == part; });
  };
  const auto embedding = find(AdapterTarget::Part::kEmbedding);
  if (embedding != targets.end() && find(AdapterTarget::Part::kHead) == targets.end())
    targets.push_back(head_target(embedding->weight, embedding->in, embedding->out));
  return targets;
}

bool is_of(const ModuleTensor& tensor, const AdapterTarget& target) {
  const bool is_bank = target.num_experts != 0;
  return text_path(is_bank ? tensor.name : tensor.module()) == text_path(target.path) &&
         !text_path(target.path).empty();
}

std::string short_name(const AdapterTarget& target) {
  const std::string last = target.path.substr(target.path.rfind('.') + 1);
  return target.num_experts ? "experts." + last : last;
}

Adapter::Adapter(std::span<const Parameter> model, AdapterConfig config, const TensorSource& source)
    : number_(next_number()),
      config_(std::move(config)),
      saved_(read_saved_tensors(model, config_, source)),
      base_copies_(read_base_copies(model, source)) {
  // Nothing is tied in a model whose head is its own.
  const auto is_head = [](const Parameter& parameter) { return parameter.id == "head"; };
  if (std::any_of(model.begin(), model.end(), is_head)) config_.ensure_weight_tying = false;
  const std::vector<AdapterPair> pairs =
      read_adapter_pairs(adapter_targets(model), config_, source);
  std::vector<AdapterConfig::Wanted> wanted;
  for (const AdapterPair& pair : pairs)
    wanted.push_back({.path = pair.target.path,
                      .name_pattern = literal_pattern(short_name(pair.target)),
                      .path_pattern = literal_pattern(pair.target.path),
                      .rank = pair.a.size(-2),
                      .scale = pair.scale});
  config_.set(wanted);
  for (const AdapterPair& pair : pairs) {
    for (const SavedTensor& saved : saved_)
      if (is_of(saved.place, pair.target))
        fail<FormatError>("bad-adapter", std::string(kFilePrefix) + pair.target.path,
                          "expected a pair, or a module that is trained whole, got both");
    add(pair.target, pair.a, pair.b);
  }
  pack();
}

Adapter::Adapter(const std::vector<AdapterTarget>& targets,
                 AdapterConfig config,
                 uint64_t seed,
                 bool is_gaussian)
    : number_(next_number()), config_(std::move(config)) {
  for (const AdapterTarget& target : targets) {
    const int64_t rank = config_.rank_of(target.path);
    const auto shape = [&](int64_t rows, int64_t columns) {
      return target.num_experts ? std::vector<int64_t>{target.num_experts, rows, columns}
                                : std::vector<int64_t>{rows, columns};
    };
    const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat);
    const at::Tensor a = at::zeros(shape(rank, target.in), options),
                     b = at::zeros(shape(target.out, rank), options);
    const bool is_embedding = target.part == AdapterTarget::Part::kEmbedding;
    const at::Tensor& drawn = is_embedding ? b : a;
    const RandomStream stream("lora " + std::string(text_path(target.path)), seed);
    const double bound = 1 / std::sqrt(static_cast<double>(target.in)),
                 deviation = is_embedding ? 1 : 1 / static_cast<double>(rank);
    float* const values = drawn.mutable_data_ptr<float>();
    for (int64_t i = 0; i < drawn.numel(); ++i) {
      const auto index = static_cast<uint64_t>(i);
      values[i] =
          static_cast<float>(is_gaussian || is_embedding ? stream.normal(index) * deviation
                                                         : (2 * stream.uniform(index) - 1) * bound);
    }
    add(target, a, b);
  }
  pack();
}

void Adapter::add(const AdapterTarget& target, const at::Tensor& a, const at::Tensor& b) {
  at::NoGradGuard no_grad;
  const auto keep = [&](std::string_view suffix, const at::Tensor& value) {
    const std::string name = std::string(kFilePrefix) + target.path + std::string(suffix);
    parameters_.push_back({.id = name,
                           .shape = value.sizes().vec(),
                           .pieces = {{.name = name, .shape = value.sizes().vec()}},
                           .is_expert = target.num_experts != 0,
                           .layer = target.layer,
                           .value = value.to(at::kFloat).contiguous().clone()});
    return parameters_.back().value;
  };
  const auto [a_name, b_name] = half_names(target);
  const at::Tensor own_a = keep(a_name, a), own_b = keep(b_name, b);
  const std::string_view path = text_path(target.path);
  const double scale = config_.scale_of(target.path);
  const uint64_t name = digest_of(path).low;
  if (target.num_experts)
    expert_pairs_[target.weight] = {
        .a = ops::ExpertBank(own_a), .b = ops::ExpertBank(own_b), .scale = scale, .name = name};
  else if (target.part == AdapterTarget::Part::kEmbedding)
    embedding_pair_ = {.a = own_a, .b = ops::LinearWeight(own_b), .scale = scale};
  else if (target.part == AdapterTarget::Part::kHead)
    head_pair_ = {.a = ops::LinearWeight(own_a),
                  .b = ops::VocabularyHead(own_b),
                  .scale = scale,
                  .name = name};
  else
    pairs_[target.weight].push_back({.a = ops::LinearWeight(own_a),
                                     .b = ops::LinearWeight(own_b),
                                     .scale = scale,
                                     .first_row = target.first_row,
                                     .name = name});
  targets_.push_back(target);
}

std::span<const ops::LowRank> Adapter::pairs_of(int64_t weight) const {
  const auto found = pairs_.find(weight);
  return found == pairs_.end() ? std::span<const ops::LowRank>() : found->second;
}

const ops::ExpertLowRank* Adapter::expert_pair_of(int64_t bank) const {
  const auto found = expert_pairs_.find(bank);
  return found == expert_pairs_.end() ? nullptr : &found->second;
}

const ops::EmbeddingLowRank* Adapter::embedding_pair() const {
  return embedding_pair_ ? &*embedding_pair_ : nullptr;
}

const ops::HeadLowRank* Adapter::head_pair() const { return head_pair_ ? &*head_pair_ : nullptr; }

std::vector<std::pair<std::string, at::Tensor>> Adapter::peft_tensors(
    const std::vector<at::Tensor>& values) const {
  LOCKSTEP_CHECK(values.size() == parameters_.size(), "{} tensors for {} parameters", values.size(),
                 parameters_.size());
  std::set<std::string> with_down;
  for (const AdapterTarget& target : targets_)
    if (target.num_experts && target.path.ends_with(kDown))
      with_down.insert(experts_path(target.path));
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (size_t i = 0; i < targets_.size(); ++i) {
    const AdapterTarget& target = targets_[i];
    at::Tensor a = values[2 * i], b = values[2 * i + 1];
    std::string module = target.path;
    if (target.num_experts) {
      const std::string experts = experts_path(module);
      module = module.ends_with(kGateUp) && with_down.contains(experts)
                   ? experts + std::string(kBaseLayer)
                   : experts;
      if (a.defined()) a = a.reshape({-1, target.in});
      if (b.defined()) b = b.permute({1, 2, 0}).reshape({target.out, -1});
    }
    const auto [a_name, b_name] = half_names(target);
    tensors.emplace_back(std::string(kFilePrefix) + module + std::string(a_name), a);
    tensors.emplace_back(std::string(kFilePrefix) + module + std::string(b_name), b);
  }
  return tensors;
}

void Adapter::pack() {
  for (auto& [weight, pairs] : pairs_)
    for (ops::LowRank& pair : pairs) pair.pack();
  for (auto& [bank, pair] : expert_pairs_) pair.pack();
  if (embedding_pair_) embedding_pair_->pack();
  if (head_pair_) head_pair_->pack();
}

int64_t Adapter::canonical_bytes() const {
  int64_t bytes = 0;
  for (const Parameter& parameter : parameters_)
    bytes += static_cast<int64_t>(parameter.value.nbytes());
  return bytes;
}

int64_t Adapter::packed_bytes() const {
  int64_t bytes = 0;
  for (const auto& [weight, pairs] : pairs_)
    for (const ops::LowRank& pair : pairs) bytes += pair.a.packed_bytes() + pair.b.packed_bytes();
  for (const auto& [bank, pair] : expert_pairs_)
    bytes += pair.a.packed_bytes() + pair.b.packed_bytes();
  if (embedding_pair_) bytes += embedding_pair_->b.packed_bytes();
  if (head_pair_) bytes += head_pair_->a.packed_bytes() + head_pair_->b.packed_bytes();
  return bytes;
}

std::vector<Adapter*> list_of(Adapter* adapter) {
  if (!adapter) return {};
  return {adapter};
}

std::vector<Parameter*> all_parameters(ModelWeights& weights, std::span<Adapter* const> adapters) {
  std::vector<Parameter*> all;
  for (Parameter& parameter : weights.parameters()) all.push_back(&parameter);
  for (Adapter* adapter : adapters)
    for (Parameter& parameter : adapter->parameters()) all.push_back(&parameter);
  return all;
}

}  // namespace lockstep::model
