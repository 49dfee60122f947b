// SPDX-License-Identifier: Apache-2.0
#include "train/adapter_file.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"

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

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// What every layer calls a target: "q_proj", "experts.down_proj".
std::string short_name(const model::AdapterTarget& target) {
  return target.num_experts ? "experts." + last_part(target.path) : last_part(target.path);
}

/// The target_modules, or target_parameters, of an adapter: the ends of its targets' paths, which
/// PEFT looks for in every layer, or the whole paths where these would fit targets that it does not
/// have. Null if there are none.
Json targets_of(const model::Adapter& adapter, const model::ModelWeights& base, bool are_experts) {
  std::set<std::string> names, paths;
  for (const model::AdapterTarget& target : adapter.targets()) {
    if ((target.num_experts != 0) != are_experts) continue;
    names.insert(short_name(target));
    paths.insert(target.path);
  }
  if (names.empty()) return nullptr;
  const auto all = model::adapter_targets(base);
  const auto fitting = std::count_if(all.begin(), all.end(), [&](const auto& target) {
    return (target.num_experts != 0) == are_experts && names.contains(short_name(target));
  });
  return fitting == std::ssize(paths) ? names : paths;
}

}  // namespace

void write_adapter(const model::Adapter& adapter,
                   const model::ModelWeights& base,
                   const std::string& base_name,
                   const fs::path& directory) {
  std::vector<io::NamedTensor> tensors;
  std::vector<at::Tensor> values;
  for (const model::Parameter& parameter : adapter.parameters())
    values.push_back(parameter.value.detach());
  for (const auto& [name, value] : adapter.peft_tensors(values))
    tensors.push_back({name, value.contiguous()});
  io::write_safetensors(directory / kWeights, tensors);
  const model::AdapterConfig& config = adapter.config();
  Json ranks = Json::object(), alphas = Json::object();
  for (const auto& [pattern, value] : config.rank_pattern) ranks[pattern] = value;
  for (const auto& [pattern, value] : config.alpha_pattern) alphas[pattern] = value;
  // PEFT refuses to load experts' pairs beside a dropout, which only a training needs.
  const bool has_experts =
      std::any_of(adapter.targets().begin(), adapter.targets().end(),
                  [](const model::AdapterTarget& target) { return target.num_experts != 0; });
  const Json written{{"alpha_pattern", alphas},
                     {"auto_mapping", nullptr},
                     {"base_model_name_or_path", base_name},
                     {"bias", "none"},
                     {"exclude_modules", nullptr},
                     {"fan_in_fan_out", false},
                     {"inference_mode", true},
                     {"init_lora_weights", true},
                     {"layers_pattern", nullptr},
                     {"layers_to_transform", nullptr},
                     {"lora_alpha", config.alpha},
                     {"lora_bias", false},
                     {"lora_dropout", has_experts ? 0.0 : config.dropout},
                     {"modules_to_save", nullptr},
                     {"peft_type", "LORA"},
                     {"peft_version", kPeftVersion},
                     {"r", config.rank},
                     {"rank_pattern", ranks},
                     {"revision", nullptr},
                     {"target_modules", targets_of(adapter, base, false)},
                     {"target_parameters", targets_of(adapter, base, true)},
                     {"task_type", "CAUSAL_LM"},
                     {"use_dora", false},
                     {"use_rslora", config.use_rslora}};
  write_file(directory / kConfig, dump_json_pretty(written));
}

std::unique_ptr<model::Adapter> load_adapter(const fs::path& directory,
                                             const model::ModelWeights& base) {
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
      base, model::parse_adapter_config(parse_json_file(config, "bad-adapter"), config.string()),
      FileSource(directory / kWeights));
}

}  // namespace lockstep::train
