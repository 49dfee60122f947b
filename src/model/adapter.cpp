// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/random.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

constexpr std::string_view kFilePrefix = "base_model.model.", kA = ".lora_A.weight",
                           kB = ".lora_B.weight", kBaseLayer = ".base_layer",
                           kGateUp = ".gate_up_proj", kDown = ".down_proj",
                           kExperts = ".mlp.experts";

/// "layers.3.self_attn.q_proj" of a target's path, whichever class of transformers it was trained
/// in; empty for what lies outside of the text model's layers.
std::string_view layer_path(std::string_view path) {
  for (const std::string_view prefix :
       {"model.language_model.layers.", "language_model.model.layers.", "model.layers."})
    if (path.starts_with(prefix)) return path.substr(prefix.size() - 7);
  return {};
}

/// What a tensor is that is no half of a pair beside a product's weight.
std::string_view unusable(std::string_view name) {
  if (name.ends_with("lora_magnitude_vector")) return "DoRA is not built";
  if (name.find("lora_embedding_") != name.npos) return "adapters of the embedding are not built";
  return "it is no half of a pair lora_A, lora_B";
}

uint64_t next_number() {
  static std::atomic<uint64_t> numbers{0};
  return ++numbers;
}

[[noreturn]] void bad(std::string_view name, std::string_view expected, std::string_view got) {
  fail<FormatError>("bad-adapter", name, "expected {}, got {}", expected, got);
}

/// The experts' path, without the parameter's name.
std::string experts_path(const std::string& path) { return path.substr(0, path.rfind('.')); }

/// A source's pairs, and which target each belongs to.
class PairFinder {
 public:
  PairFinder(const ModelWeights& base, const AdapterConfig& config, const TensorSource& source)
      : config_(config), source_(source), targets_(adapter_targets(base)) {
    for (size_t i = 0; i < targets_.size(); ++i) by_path_[layer_path(targets_[i].path)] = i;
    for (const std::string& name : source.names()) take(name);
    if (found_.empty()) bad(source.where(), "at least one pair of tensors", "none");
  }
  struct Pair {
    /// With the path that the file has.
    AdapterTarget target;
    /// The tensors' names, without their ends.
    std::string name;
  };
  /// In the order of the weights.
  std::vector<Pair> pairs() const {
    std::vector<Pair> all;
    for (const auto& [index, pair] : found_) all.push_back(pair);
    return all;
  }

 private:
  void take(const std::string& name) {
    const bool is_half = name.ends_with(kA) || name.ends_with(kB);
    if (!name.starts_with(kFilePrefix) || !is_half)
      bad(name, "a tensor base_model.model.….lora_A.weight or lora_B.weight",
          fmt::format("this one in {} ({})", source_.where(), unusable(name)));
    const std::string stem = name.substr(0, name.size() - kA.size());
    const std::string path = target_path(stem.substr(kFilePrefix.size()));
    const auto target = by_path_.find(layer_path(path));
    if (layer_path(path).empty() || target == by_path_.end())
      bad(name, "a linear layer or experts of the model", "what it does not have");
    const auto [place, is_new] = found_.try_emplace(target->second);
    if (is_new) {
      place->second = {targets_[target->second], stem};
      place->second.target.path = path;
    } else if (place->second.name != stem) {
      bad(name, "one pair for each layer", fmt::format("one as {} as well", place->second.name));
    }
  }
  /// What a module of the file is beside. PEFT names a pair of experts by their module, with a
  /// level `base_layer` for the one that the module declares first if both are there.
  std::string target_path(const std::string& module) const {
    if (!module.ends_with(kExperts) &&
        !module.ends_with(std::string(kExperts) + std::string(kBaseLayer)))
      return module;
    if (module.ends_with(kBaseLayer))
      return module.substr(0, module.size() - kBaseLayer.size()) + std::string(kGateUp);
    const std::string inner =
        std::string(kFilePrefix) + module + std::string(kBaseLayer) + std::string(kA);
    if (source_.contains(inner)) return module + std::string(kDown);
    const auto is_named = [&](std::string_view parameter) {
      const std::string path = module + std::string(parameter);
      return std::any_of(
          config_.target_parameters.begin(), config_.target_parameters.end(),
          [&](const std::string& name) { return path == name || path.ends_with("." + name); });
    };
    if (is_named(kGateUp) == is_named(kDown))
      bad(std::string(kFilePrefix) + module + std::string(kA),
          "one of gate_up_proj and down_proj among the target_parameters of adapter_config.json",
          fmt::format("[{}], so that a single pair may be either's",
                      fmt::join(config_.target_parameters, ", ")));
    return module + std::string(is_named(kGateUp) ? kGateUp : kDown);
  }

  const AdapterConfig& config_;
  const TensorSource& source_;
  std::vector<AdapterTarget> targets_;
  std::map<std::string_view, size_t> by_path_;
  /// By index of the target.
  std::map<size_t, Pair> found_;
};

}  // namespace

std::vector<AdapterTarget> adapter_targets(const ModelWeights& weights) {
  std::vector<AdapterTarget> targets;
  for (size_t i = 0; i < weights.parameters().size(); ++i) {
    const Parameter& parameter = weights.parameters()[i];
    if (parameter.layer == Parameter::kNoLayer) continue;
    const std::string& first = parameter.pieces[0].name;
    if (parameter.is_expert) {
      const size_t end = first.find(kExperts);
      LOCKSTEP_CHECK(end != first.npos && parameter.shape.size() == 3, "experts {}", first);
      targets.push_back({.path = first.substr(0, end + kExperts.size()) +
                                 std::string(parameter.id.ends_with("down") ? kDown : kGateUp),
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
  return targets;
}

Adapter::Adapter(const ModelWeights& base, AdapterConfig config, const TensorSource& source)
    : number_(next_number()), config_(std::move(config)) {
  for (const auto& [target, stem] : PairFinder(base, config_, source).pairs()) {
    const int64_t rank = config_.rank_of(target.path),
                  matrices = std::max<int64_t>(1, target.num_experts);
    const auto half = [&, stem = stem](std::string_view suffix, int64_t rows, int64_t columns) {
      const std::string name = stem + std::string(suffix);
      if (!source.contains(name)) bad(name, "both halves of the pair", "only the other one");
      const std::vector<int64_t> wanted{rows, columns}, shape = source.shape(name);
      if (shape != wanted)
        bad(name, fmt::format("shape {} by the model and adapter_config.json", wanted),
            fmt::format("{}", shape));
      return source.tensor(name);
    };
    at::Tensor a = half(kA, rank * matrices, target.in), b = half(kB, target.out, rank * matrices);
    if (target.num_experts) {
      a = a.view({matrices, rank, target.in});
      b = b.view({target.out, rank, matrices}).permute({2, 0, 1});
    }
    add(target, a, b);
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
    at::Tensor a = at::empty(shape(rank, target.in), options);
    const RandomStream stream("lora " + std::string(layer_path(target.path)), seed);
    const double bound = 1 / std::sqrt(static_cast<double>(target.in));
    float* const values = a.mutable_data_ptr<float>();
    for (int64_t i = 0; i < a.numel(); ++i) {
      const auto index = static_cast<uint64_t>(i);
      values[i] = static_cast<float>(is_gaussian ? stream.normal(index) / static_cast<double>(rank)
                                                 : (2 * stream.uniform(index) - 1) * bound);
    }
    add(target, a, at::zeros(shape(target.out, rank), options));
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
                           .layer = target.layer,
                           .value = value.to(at::kFloat).contiguous().clone()});
    return parameters_.back().value;
  };
  const at::Tensor own_a = keep(kA, a), own_b = keep(kB, b);
  const std::string_view path = layer_path(target.path);
  const double scale = config_.scale_of(target.path);
  const uint64_t name = digest_of(path).low;
  if (target.num_experts)
    expert_pairs_[target.weight] = {
        .a = ops::ExpertBank(own_a), .b = ops::ExpertBank(own_b), .scale = scale, .name = name};
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
    tensors.emplace_back(std::string(kFilePrefix) + module + std::string(kA), a);
    tensors.emplace_back(std::string(kFilePrefix) + module + std::string(kB), b);
  }
  return tensors;
}

void Adapter::pack() {
  for (auto& [weight, pairs] : pairs_)
    for (ops::LowRank& pair : pairs) pair.pack();
  for (auto& [bank, pair] : expert_pairs_) pair.pack();
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
