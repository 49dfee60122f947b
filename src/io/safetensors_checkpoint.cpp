// A checkpoint directory of one or several safetensors files.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/json.h"
#include "io/safetensors.h"

namespace lockstep::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kIndexCode = "bad-safetensors-index";
constexpr std::string_view kSingleFile = "model.safetensors";

using WeightMap = std::map<std::string, std::string>;

std::string shorten(const std::string& text) {
  constexpr size_t kLongest = 200;
  return Json(text.substr(0, kLongest)).dump(-1, ' ', true, Json::error_handler_t::replace);
}

/// Reads an index: tensor names to file names. A file name must be a plain name, since an index
/// must not reach out of its folder.
WeightMap read_index(const fs::path& path) {
  const Json index = parse_json_file(path, kIndexCode);
  const std::string where = path.string();
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail<FormatError>(kIndexCode, where, "expected an object with the object weight_map, got {}",
                      index.is_object() ? "none" : index.type_name());
  WeightMap result;
  for (const auto& [name, value] : index["weight_map"].items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (file.empty() || file == "." || file == ".." ||
        file.find_first_of(std::string_view("/\\\0", 3)) != file.npos)
      fail<FormatError>(kIndexCode, where,
                        "expected weight_map[{}] to name a file beside it, got {}", shorten(name),
                        shorten(value.dump(-1, ' ', true, Json::error_handler_t::replace)));
    result.emplace(name, file);
  }
  if (result.empty())
    fail<FormatError>(kIndexCode, where, "expected a weight_map with tensors, got an empty one");
  return result;
}

/// Throws FormatError unless the index names exactly the tensors of each shard.
void check_index(const fs::path& index,
                 const WeightMap& weight_map,
                 const std::vector<SafetensorsFile>& files) {
  // Pairs of file and tensor.
  std::set<std::pair<std::string, std::string>> present;
  for (const SafetensorsFile& file : files) {
    const std::string name = file.path().filename().string();
    for (const TensorEntry& entry : file.entries()) {
      present.emplace(name, entry.name);
      const auto found = weight_map.find(entry.name);
      if (found == weight_map.end())
        fail<FormatError>(kIndexCode, file.path().string(),
                          "expected only tensors that the index names, got unknown tensor {}",
                          shorten(entry.name));
      if (found->second != name)
        fail<FormatError>(kIndexCode, file.path().string(),
                          "expected tensor {} in {} only, got it here too", shorten(entry.name),
                          found->second);
    }
  }
  for (const auto& [tensor, file] : weight_map) {
    if (present.count({file, tensor}) == 0)
      fail<FormatError>(kIndexCode, index.string(),
                        "expected tensor {} in {}, got no such tensor there", shorten(tensor),
                        file);
  }
}

/// `model.safetensors`, or the only *.safetensors of a folder without an index.
fs::path single_file(const fs::path& directory) {
  if (fs::exists(directory / kSingleFile)) return directory / kSingleFile;
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".safetensors") found.push_back(entry.path());
  }
  if (error)
    fail<IoError>("unreadable-file", directory.string(), "expected a checkpoint folder, got {}",
                  error.message());
  const bool has_pickles = fs::exists(directory / "pytorch_model.bin") ||
                           fs::exists(directory / "pytorch_model.bin.index.json");
  if (found.size() != 1)
    fail<IoError>("unreadable-file", directory.string(),
                  "expected model.safetensors.index.json or model.safetensors, got {} other "
                  "*.safetensors files{}",
                  found.size(),
                  has_pickles ? " (pytorch_model.bin is not read: load it with transformers and "
                                "save it as safetensors)"
                              : "");
  return found.front();
}

/// Whether the folder has both model.safetensors and an index of other files. An index that cannot
/// be read does not count.
bool is_beside_other_weights(const fs::path& directory, const fs::path& index) {
  if (!fs::exists(directory / kSingleFile) || !fs::exists(index)) return false;
  try {
    for (const auto& [tensor, file] : read_index(index))
      if (file == kSingleFile) return false;
  } catch (const FormatError&) {
    return true;
  }
  return true;
}

}  // namespace

SafetensorsCheckpoint::SafetensorsCheckpoint(const fs::path& directory) : directory_(directory) {
  const fs::path index = directory / "model.safetensors.index.json";
  if (is_beside_other_weights(directory, index)) {
    notice_ = fmt::format(
        "{}: {} is loaded, as transformers does, and not the files that {} names (vLLM takes "
        "those; "
        "remove what is not meant)",
        directory.string(), kSingleFile, index.filename().string());
    files_.emplace_back(directory / kSingleFile);
  } else if (fs::exists(index)) {
    const WeightMap weight_map = read_index(index);
    std::set<std::string> names;
    for (const auto& [tensor, file] : weight_map) names.insert(file);
    for (const std::string& name : names) {
      if (!fs::exists(directory / name))
        fail<FormatError>(kIndexCode, index.string(), "expected the shard {}, got no such file",
                          shorten(name));
      files_.emplace_back(directory / name);
    }
    check_index(index, weight_map, files_);
  } else {
    files_.emplace_back(single_file(directory));
  }
  for (size_t file = 0; file < files_.size(); ++file) {
    const auto& entries = files_[file].entries();
    for (size_t i = 0; i < entries.size(); ++i) {
      names_.push_back(entries[i].name);
      where_.emplace(entries[i].name, std::pair(file, i));
    }
  }
}

const TensorEntry& SafetensorsCheckpoint::entry(const std::string& name) const {
  const auto found = where_.find(name);
  if (found == where_.end())
    fail<FormatError>("missing-tensor", directory_.string(),
                      "expected tensor {}, got none of that name", shorten(name));
  return files_[found->second.first].entries()[found->second.second];
}

at::Tensor SafetensorsCheckpoint::tensor(const std::string& name) const {
  const TensorEntry& found = entry(name);
  return files_[where_.at(name).first].tensor(found);
}

std::span<const std::byte> SafetensorsCheckpoint::bytes(const std::string& name) const {
  const TensorEntry& found = entry(name);
  return files_[where_.at(name).first].bytes(found);
}

std::string SafetensorsCheckpoint::file_name(const std::string& name) const {
  entry(name);
  return files_[where_.at(name).first].path().filename().string();
}

}  // namespace lockstep::io
