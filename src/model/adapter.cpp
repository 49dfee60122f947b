// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <algorithm>
#include <cmath>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "base/regex.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

constexpr std::string_view kFilePrefix = "base_model.model.", kA = ".lora_A.weight",
                           kB = ".lora_B.weight";

/// Source: PEFT 0.21, get_pattern_key in utils/other.py.
template <class Value>
Value by_pattern(const std::vector<std::pair<std::string, Value>>& patterns,
                 const std::string& module,
                 Value standard) {
  RegexScratch scratch;
  for (const auto& [pattern, value] : patterns) {
    const Regex regex(fmt::format(R"(\A(?:.*\.)?(?:{})\z)", pattern), "adapter_config.json",
                      "bad-adapter");
    if (regex.find(module, 0, scratch).found) return value;
  }
  return standard;
}

bool is_off(const Json& value) {
  return value.is_null() || value == Json(false) || value == Json("none") ||
         ((value.is_object() || value.is_array()) && value.empty());
}

/// Settings that make another adapter, and what they are called.
constexpr std::pair<const char*, const char*> kVariants[] = {
    {"use_dora", "DoRA"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"arrow_config", "Arrow"},
    {"kasa_config", "KaSA"},
    {"velora_config", "VeLoRA"},
    {"monteclora_config", "MonteCLoRA"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"trainable_token_indices", "trained tokens"},
    {"layer_replication", "replicated layers"},
    {"bias", "a bias"},
    {"lora_bias", "a bias"},
    {"fan_in_fan_out", "transposed weights"},
    {"modules_to_save", "modules that are trained whole"},
    {"target_parameters", "experts' parameters"},
};

/// Reads members of adapter_config.json.
class ConfigReader {
 public:
  ConfigReader(const Json& config, const std::string& where) : config_(config), where_(where) {
    if (!config.is_object()) bad("the file", "an object", config);
  }
  const Json* find(const char* key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void bad(std::string_view key, std::string_view expected, const Json& value) const {
    fail<FormatError>("bad-adapter", where_, "{}: expected {}, got {}", key, expected,
                      dump_json(value).substr(0, 80));
  }
  int64_t rank(std::string_view key, const Json& value) const {
    if (!value.is_number_integer() || value < 1 || value > (1 << 20))
      bad(key, "a rank of at least 1", value);
    return value.get<int64_t>();
  }
  double alpha(std::string_view key, const Json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) bad(key, "a number", value);
    return value.get<double>();
  }
  /// Calls action(pattern, value) for the members of an object.
  template <class Action>
  void for_each(const char* key, Action&& action) const {
    const Json* value = find(key);
    if (!value) return;
    if (!value->is_object()) bad(key, "an object of patterns", *value);
    for (const auto& [pattern, each] : value->items()) action(pattern, each);
  }

 private:
  const Json& config_;
  const std::string& where_;
};

/// "layers.3.self_attn.q_proj" of a module's path, whichever class of transformers it was trained
/// in; empty for what lies outside of the text model's layers.
std::string_view layer_path(std::string_view module) {
  for (const std::string_view prefix :
       {"model.language_model.layers.", "language_model.model.layers.", "model.layers."})
    if (module.starts_with(prefix)) return module.substr(prefix.size() - 7);
  return {};
}

/// What a tensor is that is no half of a pair beside a product's weight.
std::string_view unusable(std::string_view name) {
  if (name.ends_with("lora_magnitude_vector")) return "DoRA is not built";
  if (name.find("lora_embedding_") != name.npos) return "adapters of the embedding are not built";
  if (name.find(".experts.") != name.npos) return "adapters of experts are not built";
  return "it is no half of a pair lora_A, lora_B";
}

}  // namespace

int64_t AdapterConfig::rank_of(const std::string& module) const {
  return by_pattern(rank_pattern, module, rank);
}

double AdapterConfig::scale_of(const std::string& module) const {
  const auto r = static_cast<double>(rank_of(module));
  return by_pattern(alpha_pattern, module, alpha) / (use_rslora ? std::sqrt(r) : r);
}

AdapterConfig parse_adapter_config(const Json& json, const std::string& where) {
  const ConfigReader reader(json, where);
  const Json* type = reader.find("peft_type");
  if (!type || *type != Json("LORA")) reader.bad("peft_type", "\"LORA\"", type ? *type : Json());
  for (const auto& [key, name] : kVariants)
    if (const Json* value = reader.find(key); value && !is_off(*value))
      fail<FormatError>("bad-adapter", where, "{}: expected none, got {} ({} is not built)", key,
                        dump_json(*value).substr(0, 80), name);
  AdapterConfig config;
  if (const Json* value = reader.find("r")) config.rank = reader.rank("r", *value);
  if (const Json* value = reader.find("lora_alpha"))
    config.alpha = reader.alpha("lora_alpha", *value);
  if (const Json* value = reader.find("use_rslora")) {
    if (!value->is_boolean()) reader.bad("use_rslora", "true or false", *value);
    config.use_rslora = value->get<bool>();
  }
  reader.for_each("rank_pattern", [&](const std::string& pattern, const Json& value) {
    config.rank_pattern.emplace_back(pattern, reader.rank("rank_pattern", value));
  });
  reader.for_each("alpha_pattern", [&](const std::string& pattern, const Json& value) {
    config.alpha_pattern.emplace_back(pattern, reader.alpha("alpha_pattern", value));
  });
  return config;
}

std::vector<LinearModule> linear_modules(const ModelWeights& weights) {
  std::vector<LinearModule> modules;
  for (size_t i = 0; i < weights.parameters().size(); ++i) {
    const Parameter& parameter = weights.parameters()[i];
    if (parameter.layer == Parameter::kNoLayer || parameter.is_expert) continue;
    for (const CheckpointPiece& piece : parameter.pieces) {
      constexpr std::string_view kWeight = ".weight";
      if (piece.shape.size() != 2 || !piece.name.ends_with(kWeight)) continue;
      modules.push_back({.path = piece.name.substr(0, piece.name.size() - kWeight.size()),
                         .weight = static_cast<int64_t>(i),
                         .first_row = piece.offset / piece.shape[1],
                         .out = piece.shape[0],
                         .in = piece.shape[1],
                         .layer = parameter.layer,
                         .is_router = parameter.id.ends_with(".router")});
    }
  }
  return modules;
}

Adapter::Adapter(const ModelWeights& base, AdapterConfig config, const TensorSource& source)
    : config_(std::move(config)) {
  const auto bad = [](const std::string& name, std::string_view expected, std::string_view got) {
    fail<FormatError>("bad-adapter", name, "expected {}, got {}", expected, got);
  };
  const std::vector<LinearModule> all = linear_modules(base);
  std::map<std::string_view, size_t> by_path;
  for (size_t i = 0; i < all.size(); ++i) by_path[layer_path(all[i].path)] = i;
  /// By index in `all`: the path in the file.
  std::map<size_t, std::string> found;
  for (const std::string& name : source.names()) {
    const bool is_half = name.ends_with(kA) || name.ends_with(kB);
    if (!name.starts_with(kFilePrefix) || !is_half)
      bad(name, "a tensor base_model.model.….lora_A.weight or lora_B.weight",
          fmt::format("this one in {} ({})", source.where(), unusable(name)));
    const std::string module =
        name.substr(kFilePrefix.size(), name.size() - kFilePrefix.size() - kA.size());
    const auto target = by_path.find(layer_path(module));
    if (layer_path(module).empty() || target == by_path.end())
      bad(name, "a linear layer of the model",
          name.find(".experts.") != name.npos ? unusable(name) : "one that it does not have");
    const auto [place, is_new] = found.try_emplace(target->second, module);
    if (!is_new && place->second != module)
      bad(name, "one pair for each layer", fmt::format("one as {} as well", place->second));
  }
  if (found.empty()) bad(source.where(), "at least one pair of tensors", "none");
  for (const auto& [index, path] : found) {
    LinearModule module = all[index];
    module.path = path;
    const int64_t rank = config_.rank_of(path);
    const auto half = [&, path = path](std::string_view suffix, int64_t rows, int64_t columns) {
      const std::string name = std::string(kFilePrefix) + path + std::string(suffix);
      if (!source.contains(name)) bad(name, "both halves of the pair", "only the other one");
      const std::vector<int64_t> wanted{rows, columns}, shape = source.shape(name);
      if (shape != wanted)
        bad(name, fmt::format("shape {} by the model and adapter_config.json", wanted),
            fmt::format("{}", shape));
      return source.tensor(name);
    };
    const at::Tensor a = half(kA, rank, module.in), b = half(kB, module.out, rank);
    add(module, a, b);
  }
  pack();
}

Adapter::Adapter(const std::vector<LinearModule>& modules, AdapterConfig config, uint64_t seed)
    : config_(std::move(config)) {
  for (const LinearModule& module : modules) {
    const int64_t rank = config_.rank_of(module.path);
    const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat);
    at::Tensor a = at::empty({rank, module.in}, options);
    const RandomStream stream("lora " + std::string(layer_path(module.path)), seed);
    const double bound = 1 / std::sqrt(static_cast<double>(module.in));
    float* const values = a.mutable_data_ptr<float>();
    for (int64_t i = 0; i < a.numel(); ++i)
      values[i] = static_cast<float>((2 * stream.uniform(static_cast<uint64_t>(i)) - 1) * bound);
    add(module, a, at::zeros({module.out, rank}, options));
  }
  pack();
}

void Adapter::add(const LinearModule& module, const at::Tensor& a, const at::Tensor& b) {
  at::NoGradGuard no_grad;
  const auto half = [&](std::string_view suffix, const at::Tensor& value) {
    const std::string name = std::string(kFilePrefix) + module.path + std::string(suffix);
    parameters_.push_back({.id = name,
                           .shape = value.sizes().vec(),
                           .pieces = {{.name = name, .shape = value.sizes().vec()}},
                           .layer = module.layer,
                           .value = value.to(at::kFloat).clone()});
    return ops::LinearWeight(parameters_.back().value);
  };
  ops::LowRank pair{.scale = config_.scale_of(module.path), .first_row = module.first_row};
  pair.a = half(kA, a);
  pair.b = half(kB, b);
  pairs_[module.weight].push_back(std::move(pair));
  modules_.push_back(module);
}

std::span<const ops::LowRank> Adapter::pairs_of(int64_t weight) const {
  const auto found = pairs_.find(weight);
  return found == pairs_.end() ? std::span<const ops::LowRank>() : found->second;
}

void Adapter::pack() {
  for (auto& [weight, pairs] : pairs_)
    for (ops::LowRank& pair : pairs) pair.pack();
}

std::vector<Parameter*> all_parameters(ModelWeights& weights, Adapter* adapter) {
  std::vector<Parameter*> all;
  for (Parameter& parameter : weights.parameters()) all.push_back(&parameter);
  if (adapter)
    for (Parameter& parameter : adapter->parameters()) all.push_back(&parameter);
  return all;
}

}  // namespace lockstep::model
