// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/layout_manifest.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::model {
namespace {

constexpr const char* kCode = "bad-manifest";

const char* form_name(bool is_grouped) { return is_grouped ? "grouped" : "separate"; }

/// Reads members of the JSON object; its errors name the file and the key.
class Reader {
 public:
  Reader(std::string_view text, std::string where)
      : where_(std::move(where)), root_(parse_json(text, where_, kCode)) {}

  const Json& root() const { return root_; }
  const Json& member(const Json& object, const char* key, Json::value_t type) const {
    if (object.is_object()) {
      const auto found = object.find(key);
      if (found != object.end() && found->type() == type) return *found;
    }
    fail<FormatError>(kCode, where_, "expected {} {}, got none", Json(type).type_name(), key);
  }
  std::string text(const Json& object, const char* key) const {
    return member(object, key, Json::value_t::string).get<std::string>();
  }
  bool is_grouped(const Json& object, const char* key) const {
    const std::string value = text(object, key);
    if (value != form_name(true) && value != form_name(false))
      fail<FormatError>(kCode, where_, "expected {} to be grouped or separate, got {}", key, value);
    return value == form_name(true);
  }
  /// A list whose entries are pairs of texts.
  std::vector<std::pair<std::string, std::string>> pairs(const Json& object,
                                                         const char* key) const {
    std::vector<std::pair<std::string, std::string>> all;
    for (const Json& entry : member(object, key, Json::value_t::array)) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string())
        fail<FormatError>(kCode, where_, "expected pairs of texts in {}, got {}", key,
                          entry.dump());
      all.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
    }
    return all;
  }

 private:
  std::string where_;
  Json root_;
};

/// Checks what a manifest says of files and prefixes, since it becomes names on disk.
void check_origin(const CheckpointOrigin& origin, const std::string& where) {
  if (origin.form.prefix != "model." && origin.form.prefix != "model.language_model.")
    fail<FormatError>(kCode, where, "expected the prefix model. or model.language_model., got {}",
                      origin.form.prefix);
  std::unordered_set<std::string_view> names;
  for (const auto& [name, file] : origin.tensors) {
    if (!names.insert(name).second)
      fail<FormatError>(kCode, where, "expected {} once, got it twice", name);
    if (file.find('/') != std::string::npos || file.starts_with('.') ||
        !file.ends_with(".safetensors"))
      fail<FormatError>(kCode, where, "expected the name of a safetensors file, got {}", file);
  }
}

}  // namespace

LayoutManifest parse_manifest(std::string_view text, const std::string& where) {
  const Reader reader(text, where);
  LayoutManifest manifest;
  manifest.layout = reader.text(reader.root(), "layout");
  manifest.digests = reader.pairs(reader.root(), "digests");
  const Json& checkpoint = reader.member(reader.root(), "checkpoint", Json::value_t::object);
  manifest.origin.form = {.prefix = reader.text(checkpoint, "prefix"),
                          .experts_grouped = reader.is_grouped(checkpoint, "experts"),
                          .mtp_experts_grouped = reader.is_grouped(checkpoint, "mtp_experts")};
  for (auto& [name, file] : reader.pairs(checkpoint, "tensors"))
    manifest.origin.tensors.push_back({std::move(name), std::move(file)});
  // Only a folder that stores tensors in other dtypes than its checkpoint lists these.
  if (checkpoint.contains("dtypes"))
    for (const auto& [id, name] : reader.pairs(checkpoint, "dtypes")) {
      const auto type = element_type_of_name(name);
      if (!type) fail<FormatError>(kCode, where, "expected the dtype of {}, got {}", id, name);
      manifest.origin.types[id] = *type;
    }
  check_origin(manifest.origin, where);
  return manifest;
}

std::string manifest_text(const LayoutManifest& manifest) {
  Json tensors = Json::array(), digests = Json::array();
  for (const CheckpointOrigin::Tensor& tensor : manifest.origin.tensors)
    tensors.push_back(Json::array({tensor.name, tensor.file}));
  for (const auto& [id, digest] : manifest.digests) digests.push_back(Json::array({id, digest}));
  const CheckpointForm& form = manifest.origin.form;
  Json checkpoint{{"prefix", form.prefix},
                  {"experts", form_name(form.experts_grouped)},
                  {"mtp_experts", form_name(form.mtp_experts_grouped)},
                  {"tensors", std::move(tensors)}};
  for (const auto& [id, type] : manifest.origin.types)
    checkpoint["dtypes"].push_back(Json::array({id, element_name(type)}));
  const Json json{{"layout", manifest.layout},
                  {"checkpoint", std::move(checkpoint)},
                  {"digests", std::move(digests)}};
  return dump_json(json) + "\n";
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
                   const std::string& where) {
  std::unordered_set<std::string_view> missing;
  for (const auto& [id, digest] : manifest.digests) missing.insert(id);
  for (const layout::LogicalTensor& tensor : logical)
    if (missing.erase(tensor.id) == 0)
      fail<FormatError>("unknown-tensor", where, "expected only tensors that {} lists, got {}",
                        kManifestFile, tensor.id);
  if (!missing.empty())
    fail<FormatError>(
        "missing-tensor", where, "expected every tensor that {} lists, got no {} ({} are missing)",
        kManifestFile, *std::min_element(missing.begin(), missing.end()), missing.size());
}

void check_digests(const LayoutManifest& manifest,
                   const std::vector<std::pair<std::string, std::string>>& digests,
                   const std::string& where) {
  const std::unordered_map<std::string, std::string> expected(manifest.digests.begin(),
                                                              manifest.digests.end());
  for (const auto& [id, digest] : digests)
    if (expected.at(id) != digest)
      fail<FormatError>("digest-mismatch", where,
                        "expected {} to be {} as {} says, got {} (remove that file if the weights "
                        "were changed on purpose)",
                        id, expected.at(id), kManifestFile, digest);
}

}  // namespace lockstep::model
