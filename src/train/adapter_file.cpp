// SPDX-License-Identifier: Apache-2.0
#include "train/adapter_file.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "model/adapter_names.h"
#include "tensor/aten.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";
/// Whose form is written.
constexpr const char* kPeftVersion = "0.21.2";

class FileSource : public model::TensorSource {
 public:
  explicit FileSource(const fs::path& path) : file_(path) {
    for (const io::TensorEntry& entry : file_.entries()) entries_[entry.name] = &entry;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const io::TensorEntry& entry : file_.entries()) names.push_back(entry.name);
    return names;
  }
  bool contains(const std::string& name) const override { return entries_.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    return file_.tensor(*entries_.at(name));
  }
  std::vector<int64_t> shape(const std::string& name) const override {
    return entries_.at(name)->shape;
  }
  at::ScalarType dtype(const std::string& name) const override { return entries_.at(name)->dtype; }
  std::string where() const override { return file_.path().string(); }

 private:
  io::SafetensorsFile file_;
  std::map<std::string, const io::TensorEntry*> entries_;
};

/// The target_modules, or target_parameters, of an adapter: the ends of its targets' paths, which
/// PEFT looks for in every layer, or the whole paths where these would fit targets that it does not
/// have. Null if there are none.
Json targets_of(const model::Adapter& adapter,
                const std::vector<model::AdapterTarget>& model,
                bool are_experts) {
  std::set<std::string> names, paths;
  for (const model::AdapterTarget& target : adapter.targets()) {
    if ((target.num_experts != 0) != are_experts) continue;
    names.insert(model::short_name(target));
    paths.insert(target.path);
  }
  if (names.empty()) return nullptr;
  const auto fitting = std::count_if(model.begin(), model.end(), [&](const auto& target) {
    return (target.num_experts != 0) == are_experts && names.contains(model::short_name(target));
  });
  return fitting == std::ssize(paths) ? names : paths;
}

/// What is written of an adapter.
struct Contents {
  model::AdapterConfig config;
  std::vector<io::NamedTensor> tensors;
  Json target_modules, target_parameters;
};

Contents peft_contents(const model::Adapter& adapter,
                       const std::vector<model::AdapterTarget>& model) {
  Contents contents{
      adapter.config(), {}, targets_of(adapter, model, false), targets_of(adapter, model, true)};
  std::vector<at::Tensor> values;
  for (const model::Parameter& parameter : adapter.parameters())
    values.push_back(parameter.value.detach());
  for (const auto& [name, value] : adapter.peft_tensors(values))
    contents.tensors.push_back({name, value.contiguous()});
  return contents;
}

/// A pair of all experts' gate_proj, up_proj or down_proj.
struct ExpertPart {
  std::string_view name;
  /// [E, R, I], [E, O, R]
  at::Tensor a, b;
};

/// The parts of a target's pair A [E, R, I], B [E, O, R].
std::vector<ExpertPart> parts_of(const model::AdapterTarget& target,
                                 const at::Tensor& a,
                                 const at::Tensor& b) {
  if (target.path.ends_with(model::kDown)) return {{"down_proj", a, b}};
  const int64_t rows = target.out / 2, half = a.size(1) / 2;
  const at::Tensor gate = b.narrow(1, 0, rows), up = b.narrow(1, rows, rows);
  const auto is_zero = [](const at::Tensor& block) { return !block.ne(0).any().item<bool>(); };
  // Two pairs that were read as one are two again.
  if (a.size(1) == 2 * half && is_zero(gate.narrow(2, half, half)) &&
      is_zero(up.narrow(2, 0, half)) && !is_zero(b))
    return {{"gate_proj", a.narrow(1, 0, half), gate.narrow(2, 0, half)},
            {"up_proj", a.narrow(1, half, half), up.narrow(2, half, half)}};
  return {{"gate_proj", a, gate}, {"up_proj", a, up}};
}

Contents per_expert_contents(const model::Adapter& adapter,
                             const std::vector<model::AdapterTarget>& model) {
  Contents contents{{}, {}, nullptr, nullptr};
  std::set<std::string> names;
  if (const Json linear = targets_of(adapter, model, false); !linear.is_null())
    names = linear.get<std::set<std::string>>();
  // Loaders take the configuration's rank and scale for those of experts, whatever patterns say.
  std::vector<model::AdapterConfig::Wanted> of_experts, of_others;
  const auto add = [&](const std::string& path, auto halves, const at::Tensor& a,
                       const at::Tensor& b) {
    const std::string name = std::string(model::kFilePrefix) + path;
    contents.tensors.push_back({name + std::string(halves.first), a});
    contents.tensors.push_back({name + std::string(halves.second), b});
  };
  for (size_t i = 0; i < adapter.targets().size(); ++i) {
    const model::AdapterTarget& target = adapter.targets()[i];
    const at::Tensor a = adapter.parameters()[2 * i].value.detach(),
                     b = adapter.parameters()[2 * i + 1].value.detach();
    const double scale = adapter.config().scale_of(target.path);
    if (!target.num_experts) {
      of_others.push_back({.path = target.path,
                           .name_pattern = model::literal_pattern(model::short_name(target)),
                           .path_pattern = model::literal_pattern(target.path),
                           .rank = a.size(0),
                           .scale = scale});
      add(target.path, model::half_names(target), a, b);
      continue;
    }
    const std::string experts = target.path.substr(0, target.path.rfind('.'));
    for (const ExpertPart& part : parts_of(target, a, b)) {
      names.insert(std::string(part.name));
      for (int64_t e = 0; e < target.num_experts; ++e)
        add(fmt::format("{}.{}.{}", experts, e, part.name), model::half_names(target),
            part.a.select(0, e), part.b.select(0, e));
      // PEFT, too, looks for what it makes of them, without a number.
      const std::string end = fmt::format(R"(\.(?:\d+\.)?{})", part.name);
      of_experts.push_back({.path = fmt::format("{}.0.{}", experts, part.name),
                            .name_pattern = "experts" + end,
                            .path_pattern = model::literal_pattern(experts) + end,
                            .rank = part.a.size(1),
                            .scale = scale});
    }
  }
  contents.config.rank = of_experts[0].rank;
  contents.config.alpha = contents.config.alpha_of(of_experts[0]);
  of_experts.insert(of_experts.end(), of_others.begin(), of_others.end());
  contents.config.set(of_experts);
  contents.target_modules = names;
  return contents;
}

bool has_experts(const model::Adapter& adapter) {
  return std::any_of(adapter.targets().begin(), adapter.targets().end(),
                     [](const model::AdapterTarget& target) { return target.num_experts != 0; });
}

}  // namespace

std::span<const EnumName<AdapterFormat>> enum_names(AdapterFormat) {
  static constexpr EnumName<AdapterFormat> kNames[] = {{AdapterFormat::kPeft, "peft"},
                                                       {AdapterFormat::kPerExpert, "per-expert"}};
  return kNames;
}

AdapterFiles adapter_files(const model::Adapter& adapter,
                           const std::vector<model::AdapterTarget>& model,
                           const std::string& base_name,
                           AdapterFormat format) {
  const bool is_per_expert = format == AdapterFormat::kPerExpert && has_experts(adapter);
  Contents contents =
      is_per_expert ? per_expert_contents(adapter, model) : peft_contents(adapter, model);
  for (const model::SavedTensor& saved : adapter.saved()) {
    const std::string prefix(model::kFilePrefix);
    contents.tensors.push_back({prefix + saved.place.name, saved.value});
    // PEFT looks for a tied head, too.
    if (adapter.config().ensure_weight_tying && saved.place.module().ends_with("embed_tokens"))
      contents.tensors.push_back({prefix + "lm_head.weight", saved.value.clone()});
  }
  // Without names PEFT expects null.
  const auto& names = adapter.config().modules_to_save;
  const Json modules_to_save = names.empty() ? Json() : Json(names);
  const model::AdapterConfig& config = contents.config;
  Json ranks = Json::object(), alphas = Json::object();
  for (const auto& [pattern, value] : config.rank_pattern) ranks[pattern] = value;
  for (const auto& [pattern, value] : config.alpha_pattern) alphas[pattern] = value;
  // PEFT refuses to load experts' pairs beside a dropout, which only a training needs.
  const double dropout = has_experts(adapter) ? 0 : adapter.config().dropout;
  const Json written{{"alpha_pattern", alphas},
                     {"auto_mapping", nullptr},
                     {"base_model_name_or_path", base_name},
                     {"bias", "none"},
                     {"exclude_modules", nullptr},
                     {"ensure_weight_tying", adapter.config().ensure_weight_tying},
                     {"fan_in_fan_out", false},
                     {"inference_mode", true},
                     {"init_lora_weights", true},
                     {"layers_pattern", nullptr},
                     {"layers_to_transform", nullptr},
                     {"lora_alpha", config.alpha},
                     {"lora_bias", false},
                     {"lora_dropout", dropout},
                     {"modules_to_save", modules_to_save},
                     {"peft_type", "LORA"},
                     {"peft_version", kPeftVersion},
                     {"r", config.rank},
                     {"rank_pattern", ranks},
                     {"revision", nullptr},
                     {"target_modules", contents.target_modules},
                     {"target_parameters", contents.target_parameters},
                     {"task_type", "CAUSAL_LM"},
                     {"use_dora", false},
                     {"use_rslora", config.use_rslora}};
  return {dump_json_pretty(written), std::move(contents.tensors)};
}

void write_adapter(const model::Adapter& adapter,
                   const std::vector<model::AdapterTarget>& model,
                   const std::string& base_name,
                   const fs::path& directory,
                   AdapterFormat format) {
  const AdapterFiles files = adapter_files(adapter, model, base_name, format);
  io::write_safetensors(directory / kWeights, files.tensors);
  write_file(directory / kConfig, files.config);
}

void warn_of_other_base(const fs::path& directory, const fs::path& model) {
  const Json config = parse_json_file(directory / kConfig, "bad-adapter");
  const auto said = config.is_object() ? config.find("base_model_name_or_path") : config.end();
  if (said == config.end() || !said->is_string()) return;
  fs::path name = said->get<std::string>();
  // A folder's name may end with "/".
  if (!name.has_filename()) name = name.parent_path();
  const std::string last = name.filename().string();
  if (last.empty()) return;
  std::error_code ignored;
  for (const fs::path& path : {fs::absolute(model, ignored), fs::weakly_canonical(model, ignored)})
    for (const fs::path& part : path)
      if (part == last || part.string().ends_with("--" + last)) return;
  log_warning(
      "{}: adapter_config.json says that it was made beside {}, not {}: beside other weights of "
      "the "
      "same shapes it says nothing of use",
      directory.string(), name.string(), model.string());
}

std::unique_ptr<model::Adapter> load_adapter(const fs::path& directory,
                                             const model::ModelWeights& base) {
  return load_adapter(directory, base.parameters());
}

std::unique_ptr<model::Adapter> load_adapter(const fs::path& directory,
                                             std::span<const model::Parameter> model) {
  for (const char* name : {kConfig, kWeights}) {
    std::error_code ignored;
    if (fs::exists(directory / name, ignored)) continue;
    fail<ConfigError>("missing-adapter", directory.string(),
                      "expected an adapter, with the files {} and {}, got no {}{}", kConfig,
                      kWeights, name,
                      fs::exists(directory / "adapter_model.bin", ignored)
                          ? " (adapter_model.bin: save it with safe_serialization)"
                          : "");
  }
  const fs::path config = directory / kConfig;
  return std::make_unique<model::Adapter>(
      model, model::parse_adapter_config(parse_json_file(config, "bad-adapter"), config.string()),
      FileSource(directory / kWeights));
}

}  // namespace lockstep::train
