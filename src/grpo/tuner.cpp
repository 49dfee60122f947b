// SPDX-License-Identifier: Apache-2.0
#include "grpo/tuner.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"
#include "base/regex.h"
#include "tensor/aten.h"
#include "train/adapter_file.h"

namespace lockstep::grpo {
namespace {

using model::CheckpointPiece;
using model::ModelWeights;

/// Calls action(piece) for every checkpoint tensor, from the embedding up.
template <class Action>
void for_each_piece(ModelWeights& weights, Action&& action) {
  for (model::Parameter& parameter : weights.parameters())
    for (CheckpointPiece& piece : parameter.pieces) action(piece);
}

/// Sets the tensors for whose names matches(name) holds; there must be one.
template <class Matches>
void set_matching(ModelWeights& weights,
                  bool is_trained,
                  std::string_view flag,
                  std::string_view wanted,
                  Matches&& matches) {
  bool has_match = false;
  std::string last;
  for_each_piece(weights, [&](CheckpointPiece& piece) {
    last = piece.name;
    if (!matches(piece.name)) return;
    piece.is_trained = is_trained;
    has_match = true;
  });
  if (!has_match)
    fail<ConfigError>("no-match", fmt::format("--{}", flag),
                      "expected a tensor of the checkpoint (such as {}), got \"{}\", which none {}",
                      last, wanted, flag.ends_with("regex") ? "matches" : "begins with");
}

void set_by_beginning(ModelWeights& weights,
                      bool is_trained,
                      std::string_view flag,
                      const std::vector<std::string>& beginnings) {
  for (const std::string& beginning : beginnings)
    set_matching(weights, is_trained, flag, beginning,
                 [&](const std::string& name) { return name.starts_with(beginning); });
}

void set_by_pattern(ModelWeights& weights,
                    bool is_trained,
                    std::string_view flag,
                    const std::string& pattern) {
  if (pattern.empty()) return;
  const Regex regex(pattern, fmt::format("--{}", flag), "bad-flag");
  RegexScratch scratch;
  set_matching(weights, is_trained, flag, pattern,
               [&](const std::string& name) { return regex.find(name, 0, scratch).found; });
}

int64_t count_elements(ModelWeights& weights, bool trained_only) {
  int64_t count = 0;
  for_each_piece(weights, [&](const CheckpointPiece& piece) {
    if (piece.is_trained || !trained_only) count += piece.numel();
  });
  return count;
}

/// Freezes tensors from the embedding up as long as they fit into the share.
void freeze_share(ModelWeights& weights, double share) {
  if (share == 0) return;
  const auto budget = static_cast<int64_t>(
      static_cast<double>(count_elements(weights, /*trained_only=*/false)) * share);
  int64_t frozen = 0;
  for_each_piece(weights, [&](CheckpointPiece& piece) {
    frozen += piece.numel();
    if (frozen <= budget) piece.is_trained = false;
  });
}

using model::AdapterTarget;

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// As PEFT matches the names of a list. Source: PEFT 0.21, check_target_module_exists.
bool ends_with_part(const std::string& path, const std::string& name) {
  return path == name || path.ends_with("." + name);
}

/// Takes those targets that a name in the list fits, by fits(target, name); each name must fit one.
template <class Fits>
std::set<std::string> named_targets(const std::vector<AdapterTarget>& targets,
                                    const std::vector<std::string>& names,
                                    std::string_view flag,
                                    Fits&& fits) {
  std::set<std::string> found;
  for (const std::string& name : names) {
    bool has_match = false;
    for (const AdapterTarget& target : targets) {
      if (!fits(target, name)) continue;
      found.insert(target.path);
      has_match = true;
    }
    if (has_match) continue;
    std::set<std::string> known;
    for (const AdapterTarget& target : targets)
      known.insert((target.num_experts ? "experts." : "") + last_part(target.path));
    fail<ConfigError>("no-match", fmt::format("--{}", flag),
                      "expected the end of a path ({}), got \"{}\", which none has",
                      fmt::join(known, ", "), name);
  }
  return found;
}

std::set<std::string> matching_targets(const std::vector<AdapterTarget>& targets,
                                       const std::string& pattern,
                                       std::string_view flag) {
  const Regex regex(fmt::format(R"(\A(?:{})\z)", pattern), fmt::format("--{}", flag), "bad-flag");
  RegexScratch scratch;
  std::set<std::string> found;
  for (const AdapterTarget& target : targets)
    if (!target.num_experts && regex.find(target.path, 0, scratch).found) found.insert(target.path);
  if (found.empty())
    fail<ConfigError>("no-match", fmt::format("--{}", flag),
                      "expected a pattern that the whole path of a linear layer matches (such as "
                      "{}), got \"{}\", which none does",
                      targets.front().path, pattern);
  return found;
}

bool is_pattern(const std::vector<std::string>& names) {
  return names.size() == 1 && names[0].find_first_of("*+?()[]|\\^$") != std::string::npos;
}

/// What --target_modules, --target_regex and --target_parameters name together.
std::set<std::string> chosen_targets(const std::vector<AdapterTarget>& all,
                                     const TunerOptions& options) {
  const auto is_linear = [&](const AdapterTarget& target, const std::string& name) {
    if (name == "all-linear")
      return target.part == AdapterTarget::Part::kLayer && !target.is_router &&
             (!target.num_experts || options.lora_experts);
    return !target.num_experts && ends_with_part(target.path, name);
  };
  const auto is_parameter = [](const AdapterTarget& target, const std::string& name) {
    // transformers calls a router's matrix a parameter, too.
    return (target.num_experts && ends_with_part(target.path, name)) ||
           (target.is_router && ends_with_part(target.path + ".weight", name));
  };
  std::set<std::string> chosen;
  if (!options.target_regex.empty())
    chosen = matching_targets(all, options.target_regex, "target_regex");
  else if (is_pattern(options.target_modules))
    chosen = matching_targets(all, options.target_modules[0], "target_modules");
  else
    chosen = named_targets(all, options.target_modules, "target_modules", is_linear);
  chosen.merge(named_targets(all, options.target_parameters, "target_parameters", is_parameter));
  return chosen;
}

/// --modules_to_save as PEFT takes it. Source: ms-swift 4.6, get_modules_to_save in
/// swift/pipelines/train/tuner.py.
std::vector<std::string> resolve_saved(const ModelWeights& weights, const TunerOptions& options) {
  const std::vector<model::ModuleTensor> all = model::module_tensors(weights.parameters());
  std::set<std::string> names;
  for (const std::string& given : options.modules_to_save) {
    if (given == "all-norm") {
      for (const model::ModuleTensor& tensor : all)
        if (tensor.is_norm) names.insert(last_part(std::string(tensor.module())));
      continue;
    }
    const std::string name = given == "all-embedding" ? "embed_tokens" : given;
    std::set<std::string> known;
    bool has_match = false;
    for (const model::ModuleTensor& tensor : all) {
      known.insert(last_part(std::string(tensor.module())));
      has_match |= !name.empty() && model::is_saved_by(tensor.module(), name);
    }
    if (!has_match)
      fail<ConfigError>("no-match", "--modules_to_save",
                        "expected the end of a module's path ({}), got \"{}\", which none has",
                        fmt::join(known, ", "), name);
    names.insert(name);
  }
  // Where the vision tower has modules of such a name, PEFT would look for them, too.
  const auto is_visual = [&](const std::string& name) {
    return std::any_of(weights.carried().begin(), weights.carried().end(),
                       [&](const std::string& carried) {
                         return carried.find("visual.") != carried.npos &&
                                model::is_saved_by(carried.substr(0, carried.rfind('.')), name);
                       });
  };
  std::set<std::string> written;
  for (const std::string& name : names) {
    if (!is_visual(name)) {
      written.insert(name);
      continue;
    }
    for (const model::ModuleTensor& tensor : all)
      if (model::is_saved_by(tensor.module(), name)) written.emplace(tensor.module());
  }
  return {written.begin(), written.end()};
}

/// Takes out those targets that are trained whole. PEFT's rules for the two differ: where a layer
/// is saved by a part of its name, PEFT would save the layer with its pair.
void leave_saved(const std::vector<std::string>& saved,
                 const ModelWeights& weights,
                 std::vector<AdapterTarget>& targets) {
  for (const model::ModuleTensor& tensor : model::module_tensors(weights.parameters()))
    for (const std::string& name : saved) {
      if (!model::is_saved_by(tensor.module(), name)) continue;
      const size_t erased = std::erase_if(
          targets, [&](const AdapterTarget& target) { return model::is_of(tensor, target); });
      if (erased && !model::is_saved_by_parts(tensor.module(), name))
        fail<ConfigError>("bad-flag", "--modules_to_save",
                          "expected whole names of layers that are adapted otherwise, got \"{}\", "
                          "with which {} ends",
                          name, tensor.module());
    }
}

/// The targets that are adapted, in the order of the weights.
std::vector<AdapterTarget> resolve_targets(const ModelWeights& weights,
                                           const TunerOptions& options,
                                           const std::vector<std::string>& saved) {
  const std::vector<AdapterTarget> all = model::adapter_targets(weights);
  std::vector<AdapterTarget> targets = adapted_targets(all, options);
  leave_saved(saved, weights, targets);
  if (targets.empty())
    fail<ConfigError>("no-match", "--target_modules",
                      "expected a linear layer or experts (such as {}), got none", all.back().path);
  return targets;
}

/// What the targets of one name have in all layers.
struct Kind {
  int64_t layers = 0, parameters = 0;
  bool is_router = false, is_expert = false;
  std::set<int64_t> ranks;
  std::set<double> scales;
};

/// Its path in its layer.
std::string kind_name(const AdapterTarget& target) {
  if (target.part != AdapterTarget::Part::kLayer) return model::short_name(target);
  return target.path.substr(target.path.find("layers.") + 7)
      .substr(std::to_string(target.layer).size() + 1);
}

void say_kinds(const std::map<std::string, Kind>& kinds) {
  log_info("adapter: {:32} {:>7} {:>8} {:>8} {:>12}", "target", "layers", "rank", "scale",
           "parameters");
  for (const auto& [name, kind] : kinds)
    log_info("adapter: {:32} {:>7} {:>8} {:>8} {:>12}", name, kind.layers,
             fmt::format("{}", fmt::join(kind.ranks, ", ")),
             fmt::format("{:.4g}", fmt::join(kind.scales, ", ")), kind.parameters);
}

/// Says of the parts of a mixture of experts, and of the delta rule, whether they are adapted.
void say_parts(const std::map<std::string, Kind>& kinds, const ModelWeights& weights) {
  const auto said = [&](auto&& is_one) {
    return std::any_of(kinds.begin(), kinds.end(), is_one) ? "adapted" : "not adapted";
  };
  const auto has = [](std::string_view part) {
    return [part](const auto& kind) { return kind.first.find(part) != std::string::npos; };
  };
  if (weights.config().num_experts)
    log_info(
        "adapter: routed experts: {}; shared expert: {}; router: {}",
        said([](const auto& kind) { return kind.second.is_expert; }),
        weights.config().shared_expert_intermediate_size ? said(has("shared_expert.")) : "none",
        said([](const auto& kind) { return kind.second.is_router; }));
  if (weights.config().is_qwen3_5()) log_info("adapter: delta rule: {}", said(has("linear_attn.")));
}

/// Says which modules are trained whole.
void say_saved(const model::Adapter& adapter) {
  if (adapter.saved().empty()) return;
  std::map<std::string, int64_t> counts;
  int64_t elements = 0;
  for (const model::SavedTensor& saved : adapter.saved()) {
    ++counts[last_part(std::string(saved.place.module()))];
    int64_t own = 1;
    for (const int64_t size : saved.place.shape) own *= size;
    elements += own;
  }
  std::string list;
  for (const auto& [name, count] : counts)
    list += fmt::format("{}{} x {}", list.empty() ? "" : ", ", count, name);
  log_info("adapter: trained whole: {} ({} parameters)", list, elements);
}

/// Says what becomes of a head that is tied to the embedding.
void say_tied(const model::Adapter& adapter, const ModelWeights& weights) {
  if (!weights.config().tie_word_embeddings || adapter.config().ensure_weight_tying) return;
  bool has_embedding = adapter.embedding_pair(), has_head = adapter.head_pair();
  for (const model::SavedTensor& saved : adapter.saved()) {
    has_embedding |= saved.place.module().ends_with("embed_tokens");
    has_head |= saved.place.module() == "lm_head";
  }
  if (has_embedding == has_head) return;
  log_warning(
      "adapter: the model ties its head to the embedding, but only the {} is trained: the {} stays "
      "the model's, as with PEFT, and a merged model has both",
      has_embedding ? "embedding" : "head", has_embedding ? "head" : "embedding");
}

/// Logs a line for each kind of target with what it has: how many, ranks, scales, parameters.
void say_adapter(const model::Adapter& adapter, const ModelWeights& weights) {
  std::map<std::string, Kind> kinds;
  int64_t parameters = 0;
  for (const AdapterTarget& target : adapter.targets()) {
    Kind& kind = kinds[kind_name(target)];
    const int64_t rank = adapter.config().rank_of(target.path);
    const int64_t own = rank * (target.in + target.out) * std::max<int64_t>(1, target.num_experts);
    ++kind.layers;
    kind.parameters += own;
    kind.is_router = target.is_router;
    kind.is_expert = target.num_experts != 0;
    kind.ranks.insert(rank);
    kind.scales.insert(adapter.config().scale_of(target.path));
    parameters += own;
  }
  log_info("adapter: {} pairs, {} parameters ({:.3g} % of the model's), dropout {}",
           adapter.targets().size(), parameters,
           100.0 * static_cast<double>(parameters) / static_cast<double>(weights.num_elements()),
           adapter.config().dropout);
  say_kinds(kinds);
  say_parts(kinds, weights);
  say_saved(adapter);
  say_tied(adapter, weights);
}

}  // namespace

std::span<const EnumName<TunerType>> enum_names(TunerType) {
  static constexpr EnumName<TunerType> kNames[] = {{TunerType::kFull, "full"},
                                                   {TunerType::kLora, "lora"}};
  return kNames;
}

std::span<const EnumName<InitWeights>> enum_names(InitWeights) {
  static constexpr EnumName<InitWeights> kNames[] = {{InitWeights::kTrue, "true"},
                                                     {InitWeights::kGaussian, "gaussian"}};
  return kNames;
}

double TunerOptions::default_learning_rate() const {
  return tuner_type == TunerType::kLora ? 1e-4 : 1e-5;
}

void TunerOptions::validate() const {
  for (const auto& [name, pattern] :
       {std::pair("rank_pattern", &rank_pattern), std::pair("alpha_pattern", &alpha_pattern)})
    if (!pattern->is_null() && !pattern->is_object())
      fail<ConfigError>("bad-flag", fmt::format("--{}", name),
                        "expected an object such as {{\"q_proj\": 16}}, got {}",
                        dump_json(*pattern).substr(0, 80));
  const bool freezes = freeze_parameters_ratio != 0 || !freeze_parameters.empty() ||
                       !freeze_parameters_regex.empty() || !trainable_parameters.empty() ||
                       !trainable_parameters_regex.empty();
  if (freezes && tuner_type == TunerType::kLora)
    fail<ConfigError>("bad-flag", "--freeze_parameters",
                      "expected none with --tuner_type lora, which trains no weights of the model, "
                      "got some (say --tuner_type full)");
}

std::vector<AdapterTarget> adapted_targets(const std::vector<AdapterTarget>& all,
                                           const TunerOptions& options) {
  std::set<std::string> chosen = chosen_targets(all, options);
  for (const std::string& path : named_targets(
           all, options.exclude_modules, "exclude_modules",
           [](const auto&target, const auto&name) { return ends_with_part(target.path, name); }))
    chosen.erase(path);
  std::vector<AdapterTarget> targets;
  for (const AdapterTarget& target : all)
    if (chosen.contains(target.path)) targets.push_back(target);
  return targets;
}

model::AdapterConfig adapter_config(const TunerOptions& options) {
  // Checked as what a file says.
  Json json{{"peft_type", "LORA"},
            {"r", options.lora_rank},
            {"lora_alpha", options.lora_alpha},
            {"use_rslora", options.use_rslora},
            {"lora_dropout", options.lora_dropout},
            {"rank_pattern", options.rank_pattern},
            {"alpha_pattern", options.alpha_pattern}};
  return model::parse_adapter_config(json, "--rank_pattern, --alpha_pattern");
}

void choose_trained(ModelWeights& weights, const TunerOptions& options) {
  freeze_share(weights, options.freeze_parameters_ratio);
  set_by_beginning(weights, false, "freeze_parameters", options.freeze_parameters);
  set_by_pattern(weights, false, "freeze_parameters_regex", options.freeze_parameters_regex);
  set_by_beginning(weights, true, "trainable_parameters", options.trainable_parameters);
  set_by_pattern(weights, true, "trainable_parameters_regex", options.trainable_parameters_regex);
  const int64_t trained = count_elements(weights, /*trained_only=*/true),
                all = count_elements(weights, /*trained_only=*/false);
  if (trained == 0)
    fail<ConfigError>("nothing-trained", "--freeze_parameters",
                      "expected some weights that are trained, got none: all {} are frozen", all);
  if (trained < all)
    log_info("training {} of {} weights ({:.3g} %); the others are frozen", trained, all,
             100.0 * static_cast<double>(trained) / static_cast<double>(all));
}

namespace {

std::unique_ptr<model::Adapter> new_adapter(const ModelWeights& weights,
                                            const TunerOptions& options,
                                            uint64_t seed) {
  model::AdapterConfig config = adapter_config(options);
  config.modules_to_save = resolve_saved(weights, options);
  auto adapter = std::make_unique<model::Adapter>(
      resolve_targets(weights, options, config.modules_to_save), config, seed,
      options.init_weights == InitWeights::kGaussian);
  adapter->saved() = model::new_saved_tensors(weights.parameters(), config);
  return adapter;
}

}  // namespace

std::unique_ptr<model::Adapter> make_adapter(ModelWeights& weights,
                                             const TunerOptions& options,
                                             const std::optional<std::filesystem::path>& resumed,
                                             uint64_t seed) {
  weights.freeze();
  std::unique_ptr<model::Adapter> adapter;
  if (resumed)
    adapter = train::load_adapter(*resumed, weights);
  else if (!options.adapters.empty())
    adapter = train::load_adapter(options.adapters, weights);
  else
    adapter = new_adapter(weights, options, seed);
  if (adapter->config().ensure_weight_tying && (adapter->embedding_pair() || adapter->head_pair()))
    fail<ConfigError>(
        "bad-flag", "--adapters",
        "expected ensure_weight_tying false in a file with pairs of embedding or head "
        "that is trained on, got true: pairs that stay one are not built");
  // A file's dropout is that of the training that made it.
  adapter->set_dropout(options.lora_dropout);
  say_adapter(*adapter, weights);
  return adapter;
}

}  // namespace lockstep::grpo
