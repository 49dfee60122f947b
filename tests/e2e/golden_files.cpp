// Reads tests/golden: the manifest, a file's tensors and values, and checkpoints under canonical
// names. SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/golden_files.h"

#include <set>

#include "tests/support/source_dir.h"

namespace lockstep::testing {

std::filesystem::path golden_folder() { return testing::source_dir() / "tests" / "golden"; }

std::filesystem::path GoldenCheckpoint::directory() const {
  return golden_folder() / "checkpoints" / name;
}

std::vector<GoldenCheckpoint> golden_manifest() {
  std::vector<GoldenCheckpoint> found;
  std::set<std::string> seen;
  for (const auto& entry : parse_json_file(golden_folder() / "manifest.json")) {
    GoldenCheckpoint checkpoint;
    checkpoint.name = entry.at("name").get<std::string>();
    checkpoint.family = entry.at("family").get<std::string>();
    checkpoint.weights = entry.at("weights").get<std::string>();
    checkpoint.is_float32 = entry.at("dtype").get<std::string>() == "float32";
    checkpoint.is_first = seen.insert(checkpoint.weights).second;
    found.push_back(checkpoint);
  }
  return found;
}

GoldenFile::GoldenFile(const std::string& name) : file_(golden_folder() / (name + ".safetensors")) {
  for (const auto& entry : file_.entries()) entries_[entry.name] = &entry;
}

at::Tensor GoldenFile::tensor(const std::string& name) const {
  return file_.tensor(*entries_.at(name));
}

Json GoldenFile::metadata(const std::string& key) const {
  return parse_json(file_.metadata().at(key), key);
}

TensorMap read_checkpoint(const std::filesystem::path& directory) {
  const io::SafetensorsCheckpoint checkpoint(directory);
  TensorMap tensors;
  for (const auto& name : checkpoint.names()) tensors[name] = checkpoint.tensor(name);
  return tensors;
}

namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Splits a fused tensor of experts, dimension 0, into one a expert and part.
void split_experts(TensorMap& result,
                   const std::string& stem,
                   const at::Tensor& tensor,
                   const std::vector<std::string>& parts) {
  const int64_t width = tensor.size(1) / static_cast<int64_t>(parts.size());
  for (int64_t expert = 0; expert < tensor.size(0); ++expert) {
    for (size_t part = 0; part < parts.size(); ++part) {
      const std::string name = stem + std::to_string(expert) + "." + parts[part] + ".weight";
      result[name] = tensor.select(0, expert).narrow(0, static_cast<int64_t>(part) * width, width);
    }
  }
}

}  // namespace

TensorMap canonical(const TensorMap& tensors) {
  const std::string nested = "model.language_model.", fused = "gate_up_proj", down = "down_proj";
  TensorMap result;
  for (const auto& [stored, tensor] : tensors) {
    if (stored.rfind("mtp.", 0) == 0 || stored.rfind("model.visual.", 0) == 0) continue;
    std::string name = stored;
    if (name.rfind(nested, 0) == 0) name = "model." + name.substr(nested.size());
    if (ends_with(name, ".experts." + fused)) {
      split_experts(result, name.substr(0, name.size() - fused.size()), tensor,
                    {"gate_proj", "up_proj"});
    } else if (ends_with(name, ".experts." + down)) {
      split_experts(result, name.substr(0, name.size() - down.size()), tensor, {down});
    } else {
      result[name] = tensor;
    }
  }
  return result;
}

at::Tensor sampled(const at::Tensor& tensor, int64_t count) {
  const auto flat = tensor.reshape({-1});
  const auto places = at::arange(count, at::kLong).mul(flat.numel()).floor_divide(count);
  return flat.index_select(0, places);
}

Json json_list(const at::Tensor& tensor) {
  Json list = Json::array();
  if (at::isFloatingType(tensor.scalar_type())) {
    const auto values = tensor.to(at::kDouble).contiguous();
    for (int64_t i = 0; i < values.numel(); ++i) list.push_back(values.const_data_ptr<double>()[i]);
  } else {
    const auto values = tensor.to(at::kLong).contiguous();
    for (int64_t i = 0; i < values.numel(); ++i)
      list.push_back(values.const_data_ptr<int64_t>()[i]);
  }
  return list;
}

at::Tensor numbers(const Json& list) {
  std::vector<double> values;
  for (const auto& value : list) {
    if (!value.is_null()) values.push_back(value.get<double>());
  }
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble).clone();
}

}  // namespace lockstep::testing
