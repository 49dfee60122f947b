// SPDX-License-Identifier: Apache-2.0
#include "train/adapter_file.h"

#include <map>

#include "base/check.h"
#include "base/json.h"
#include "io/safetensors.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";

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

}  // namespace

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
