// YAML through yaml-cpp, JSON through base/json.h, both into the same list of assignments.
// SPDX-License-Identifier: Apache-2.0
#include "cli/config_file.h"

#include <charconv>
#include <unordered_set>

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

namespace lockstep::cli {
namespace {

constexpr int kMaxDepth = 64;

/// A plain YAML scalar inside a dictionary, with the type that YAML gives it.
Json scalar_to_json(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  // A quoted scalar is text.
  if (node.Tag() == "!") return text;
  if (text == "true" || text == "True") return true;
  if (text == "false" || text == "False") return false;
  const char* const end = text.data() + text.size();
  int64_t whole = 0;
  if (auto [rest, error] = std::from_chars(text.data(), end, whole);
      error == std::errc() && rest == end)
    return whole;
  double number = 0;
  if (auto [rest, error] = std::from_chars(text.data(), end, number);
      error == std::errc() && rest == end && number - number == 0)
    return number;
  return text;
}

/// What stands at a place, for errors.
std::string_view kind_of(const YAML::Node& node) {
  return node.IsMap() ? "a mapping" : node.IsSequence() ? "a list" : "a single value";
}

Json yaml_to_json(const YAML::Node& node, const std::string& where, int depth = 0) {
  if (depth > kMaxDepth)
    fail<ConfigError>("bad-config", where, "expected at most {} levels of nesting, got more",
                      kMaxDepth);
  if (node.IsNull()) return nullptr;
  if (node.IsScalar()) return scalar_to_json(node);
  Json result = node.IsSequence() ? Json::array() : Json::object();
  for (const auto& entry : node) {
    if (node.IsSequence())
      result.push_back(yaml_to_json(entry, where, depth + 1));
    else
      result[entry.first.Scalar()] = yaml_to_json(entry.second, where, depth + 1);
  }
  return result;
}

std::string value_text(const YAML::Node& node, const std::string& where) {
  return node.IsScalar() ? node.Scalar() : dump_json(yaml_to_json(node, where));
}
std::string value_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : dump_json(value);
}

/// In Ray configurations the flags stand under these keys.
bool holds_flags(std::string_view key) { return key == "train" || key == "rollout"; }

class YamlReader {
 public:
  YamlReader(std::string path, std::vector<std::string>& notices)
      : path_(std::move(path)), notices_(&notices) {}

  void read(const YAML::Node& mapping, bool is_root = true) {
    std::unordered_set<std::string> keys;
    for (const auto& entry : mapping) {
      const std::string line = fmt::format("{}:{}", path_, entry.first.Mark().line + 1);
      if (!entry.first.IsScalar())
        fail<ConfigError>("bad-config", line, "expected a flag's name as key, got {}",
                          kind_of(entry.first));
      const std::string& key = entry.first.Scalar();
      if (!keys.insert(key).second)
        fail<ConfigError>("bad-config", line, "expected each key once, got {} again", key);
      read_entry(key, entry.second, line, is_root);
    }
  }
  std::vector<Assignment> take() { return std::move(assignments_); }

 private:
  void read_entry(const std::string& key,
                  const YAML::Node& value,
                  const std::string& line,
                  bool is_root) {
    if (key == "ENV") {
      notices_->push_back(
          fmt::format("{}: ENV is ignored: environment variables are set by the caller", line));
      return;
    }
    if (is_root && holds_flags(key) && value.IsMap()) return read(value, /*is_root=*/false);
    Assignment assignment{.name = key, .values = {}, .where = fmt::format("{}: {}", line, key)};
    if (value.IsNull()) {
      assignment.is_null = true;
    } else if (value.IsSequence()) {
      for (const YAML::Node& element : value)
        assignment.values.push_back(value_text(element, line));
    } else {
      assignment.values.push_back(value_text(value, line));
    }
    assignments_.push_back(std::move(assignment));
  }

  std::string path_;
  std::vector<std::string>* notices_;
  std::vector<Assignment> assignments_;
};

std::vector<Assignment> read_yaml(const std::filesystem::path& path,
                                  std::vector<std::string>& notices) {
  const std::string text = read_file(path);
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return {};
    if (!root.IsMap())
      fail<ConfigError>("bad-config", path.string(), "expected a mapping of flags, got {}",
                        kind_of(root));
    YamlReader reader(path.string(), notices);
    reader.read(root);
    return reader.take();
  } catch (const YAML::Exception& error) {
    fail<ConfigError>("bad-config", fmt::format("{}:{}", path.string(), error.mark.line + 1),
                      "expected YAML, got: {}", error.msg);
  }
}

void read_json(const Json& object,
               const std::string& path,
               std::vector<Assignment>& assignments,
               std::vector<std::string>& notices) {
  for (const auto& [key, value] : object.items()) {
    if (key == "ENV") {
      notices.push_back(
          fmt::format("{}: ENV is ignored: environment variables are set by the caller", path));
      continue;
    }
    if (holds_flags(key) && value.is_object()) {
      read_json(value, path, assignments, notices);
      continue;
    }
    Assignment assignment{.name = key, .values = {}, .where = fmt::format("{}: {}", path, key)};
    if (value.is_null())
      assignment.is_null = true;
    else if (value.is_array())
      for (const Json& element : value) assignment.values.push_back(value_text(element));
    else
      assignment.values.push_back(value_text(value));
    assignments.push_back(std::move(assignment));
  }
}

}  // namespace

bool is_config_name(std::string_view argument) {
  return !argument.starts_with("--") &&
         (argument.ends_with(".yaml") || argument.ends_with(".yml") || argument.ends_with(".json"));
}

std::vector<Assignment> read_config_file(const std::filesystem::path& path,
                                         std::vector<std::string>& notices) {
  if (path.extension() != ".json") return read_yaml(path, notices);
  const Json root = parse_json_file(path, "bad-config");
  if (!root.is_object())
    fail<ConfigError>("bad-config", path.string(), "expected a JSON object of flags, got {}",
                      root.type_name());
  std::vector<Assignment> assignments;
  read_json(root, path.string(), assignments, notices);
  return assignments;
}

}  // namespace lockstep::cli
