// SPDX-License-Identifier: Apache-2.0
#include "cli/layout_manifest.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileName = "lockstep_layout.json";
constexpr const char* kCode = "bad-manifest";

const char* form_name(bool is_grouped) { return is_grouped ? "grouped" : "separate"; }

/// Reads members, with errors that name the file and the key.
class Reader {
 public:
  explicit Reader(fs::path path) : path_(std::move(path)), root_(parse_json_file(path_, kCode)) {}

  const Json& root() const { return root_; }
  const Json& member(const Json& object, const char* key, Json::value_t type) const {
    if (object.is_object()) {
      const auto found = object.find(key);
      if (found != object.end() && found->type() == type) return *found;
    }
    fail<FormatError>(kCode, path_.string(), "expected {} {}, got none", Json(type).type_name(),
                      key);
  }
  std::string text(const Json& object, const char* key) const {
    return member(object, key, Json::value_t::string).get<std::string>();
  }
  bool is_grouped(const Json& object, const char* key) const {
    const std::string value = text(object, key);
    if (value != form_name(true) && value != form_name(false))
      fail<FormatError>(kCode, path_.string(), "expected {} to be grouped or separate, got {}", key,
                        value);
    return value == form_name(true);
  }
  /// The two texts of each entry of a list.
  std::vector<std::pair<std::string, std::string>> pairs(const Json& object,
                                                         const char* key) const {
    std::vector<std::pair<std::string, std::string>> all;
    for (const Json& entry : member(object, key, Json::value_t::array)) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string())
        fail<FormatError>(kCode, path_.string(), "expected pairs of texts in {}, got {}", key,
                          entry.dump());
      all.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
    }
    return all;
  }

 private:
  fs::path path_;
  Json root_;
};

/// What a manifest says of files and prefixes becomes names on disk.
void check_origin(const CheckpointOrigin& origin, const fs::path& path) {
  if (origin.form.prefix != "model." && origin.form.prefix != "model.language_model.")
    fail<FormatError>(kCode, path.string(),
                      "expected the prefix model. or model.language_model., got {}",
                      origin.form.prefix);
  std::unordered_set<std::string_view> names;
  for (const auto& [name, file] : origin.tensors) {
    if (!names.insert(name).second)
      fail<FormatError>(kCode, path.string(), "expected {} once, got it twice", name);
    if (file.find('/') != std::string::npos || file.starts_with('.') ||
        !file.ends_with(".safetensors"))
      fail<FormatError>(kCode, path.string(), "expected the name of a safetensors file, got {}",
                        file);
  }
}

}  // namespace

std::optional<LayoutManifest> read_manifest(const fs::path& directory) {
  const fs::path path = directory / kFileName;
  if (!fs::exists(path)) return {};
  const Reader reader(path);
  LayoutManifest manifest;
  manifest.layout = reader.text(reader.root(), "layout");
  manifest.digests = reader.pairs(reader.root(), "digests");
  const Json& checkpoint = reader.member(reader.root(), "checkpoint", Json::value_t::object);
  manifest.origin.form = {.prefix = reader.text(checkpoint, "prefix"),
                          .experts_grouped = reader.is_grouped(checkpoint, "experts"),
                          .mtp_experts_grouped = reader.is_grouped(checkpoint, "mtp_experts")};
  for (auto& [name, file] : reader.pairs(checkpoint, "tensors"))
    manifest.origin.tensors.push_back({std::move(name), std::move(file)});
  check_origin(manifest.origin, path);
  return manifest;
}

void write_manifest(const fs::path& directory, const LayoutManifest& manifest) {
  Json tensors = Json::array(), digests = Json::array();
  for (const CheckpointOrigin::Tensor& tensor : manifest.origin.tensors)
    tensors.push_back(Json::array({tensor.name, tensor.file}));
  for (const auto& [id, digest] : manifest.digests) digests.push_back(Json::array({id, digest}));
  const model::CheckpointForm& form = manifest.origin.form;
  const Json json{{"layout", manifest.layout},
                  {"checkpoint",
                   {{"prefix", form.prefix},
                    {"experts", form_name(form.experts_grouped)},
                    {"mtp_experts", form_name(form.mtp_experts_grouped)},
                    {"tensors", std::move(tensors)}}},
                  {"digests", std::move(digests)}};
  write_file(directory / kFileName, dump_json(json) + "\n");
}

std::vector<std::pair<std::string, std::string>> digest_list(const layout::LogicalTensors& logical,
                                                             const std::vector<Digest>& digests) {
  std::vector<std::pair<std::string, std::string>> list;
  for (size_t i = 0; i < digests.size(); ++i)
    list.emplace_back(logical[static_cast<int64_t>(i)].id, digests[i].hex());
  return list;
}

Digest digest_of_weights(const layout::LogicalTensors& logical,
                         const std::vector<Digest>& digests) {
  Digest sum;
  for (size_t i = 0; i < digests.size(); ++i)
    sum = digest_of(digests[i].hex(), digest_of(logical[static_cast<int64_t>(i)].id, sum));
  return sum;
}

void check_tensors(const LayoutManifest& manifest,
                   const layout::LogicalTensors& logical,
                   const fs::path& directory) {
  std::unordered_set<std::string_view> missing;
  for (const auto& [id, digest] : manifest.digests) missing.insert(id);
  for (const layout::LogicalTensor& tensor : logical)
    if (missing.erase(tensor.id) == 0)
      fail<FormatError>("unknown-tensor", directory.string(),
                        "expected only tensors that {} lists, got {}", kFileName, tensor.id);
  if (!missing.empty())
    fail<FormatError>("missing-tensor", directory.string(),
                      "expected every tensor that {} lists, got no {} ({} are missing)", kFileName,
                      *std::min_element(missing.begin(), missing.end()), missing.size());
}

void check_digests(const LayoutManifest& manifest,
                   const std::vector<std::pair<std::string, std::string>>& digests,
                   const fs::path& directory) {
  const std::unordered_map<std::string, std::string> expected(manifest.digests.begin(),
                                                              manifest.digests.end());
  for (const auto& [id, digest] : digests)
    if (expected.at(id) != digest)
      fail<FormatError>("digest-mismatch", directory.string(),
                        "expected {} to be {} as {} says, got {} (remove that file if the weights "
                        "were changed on purpose)",
                        id, expected.at(id), kFileName, digest);
}

}  // namespace lockstep::cli
