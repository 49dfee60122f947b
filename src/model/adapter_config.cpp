// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_config.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "base/check.h"
#include "base/json.h"
#include "base/regex.h"

namespace lockstep::model {
namespace {

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
  bool flag(const char* key) const {
    const Json* value = find(key);
    if (value && !value->is_boolean()) bad(key, "true or false", *value);
    return value && value->get<bool>();
  }
  double alpha(std::string_view key, const Json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) bad(key, "a number", value);
    return value.get<double>();
  }
  std::vector<std::string> names(std::string_view key, const Json& value) const {
    std::vector<std::string> all;
    if (!value.is_array()) bad(key, "a list of names", value);
    for (const Json& name : value) {
      if (!name.is_string()) bad(key, "a list of names", value);
      all.push_back(name.get<std::string>());
    }
    return all;
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

}  // namespace

int64_t AdapterConfig::rank_of(const std::string& module) const {
  return by_pattern(rank_pattern, module, rank);
}

double AdapterConfig::scale_of(const std::string& module) const {
  const auto r = static_cast<double>(rank_of(module));
  return by_pattern(alpha_pattern, module, alpha) / (use_rslora ? std::sqrt(r) : r);
}

std::string literal_pattern(const std::string& path) {
  std::string pattern;
  for (const char letter : path) {
    if (letter == '.') pattern += '\\';
    pattern += letter;
  }
  return pattern;
}

namespace {

/// The alpha that gives a scale, without the noise of a product where it can do without.
double alpha_for(double scale, double divisor) {
  const double alpha = scale * divisor, rounded = std::round(alpha * 1e9) / 1e9;
  return rounded / divisor == scale ? rounded : alpha;
}

}  // namespace

double AdapterConfig::alpha_of(const Wanted& wanted) const {
  const auto r = static_cast<double>(wanted.rank);
  return alpha_for(wanted.scale, use_rslora ? std::sqrt(r) : r);
}

void AdapterConfig::set(const std::vector<Wanted>& wanted) {
  std::map<std::string, std::vector<const Wanted*>> by_name;
  for (const Wanted& each : wanted) by_name[each.name_pattern].push_back(&each);
  const auto has_it = [&](const Wanted* each) {
    return rank_of(each->path) == each->rank &&
           std::abs(scale_of(each->path) - each->scale) <= 1e-14 * std::abs(each->scale);
  };
  const auto put = [&](const std::string& pattern, const Wanted& target) {
    rank_pattern.insert(rank_pattern.begin(), {pattern, target.rank});
    alpha_pattern.insert(alpha_pattern.begin(), {pattern, alpha_of(target)});
  };
  for (const auto& [name, targets] : by_name) {
    const auto is_as_first = [first = targets[0]](const Wanted* each) {
      return each->rank == first->rank && each->scale == first->scale;
    };
    if (std::all_of(targets.begin(), targets.end(), is_as_first) &&
        !std::all_of(targets.begin(), targets.end(), has_it))
      put(name, *targets[0]);
  }
  // A name may fit targets of another one, too.
  for (const Wanted& each : wanted)
    if (!has_it(&each)) put(each.path_pattern, each);
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
  config.use_rslora = reader.flag("use_rslora");
  config.ensure_weight_tying = reader.flag("ensure_weight_tying");
  if (const Json* value = reader.find("lora_dropout")) {
    config.dropout = reader.alpha("lora_dropout", *value);
    if (config.dropout < 0 || config.dropout >= 1)
      reader.bad("lora_dropout", "a number in [0, 1)", *value);
  }
  if (const Json* value = reader.find("target_parameters"))
    config.target_parameters = reader.names("target_parameters", *value);
  if (const Json* value = reader.find("modules_to_save")) {
    config.modules_to_save = reader.names("modules_to_save", *value);
    for (const std::string& name : config.modules_to_save)
      if (name.empty()) reader.bad("modules_to_save", "names of modules", *value);
  }
  if (const Json* value = reader.find("peft_version"); value && value->is_string())
    config.peft_version = value->get<std::string>();
  reader.for_each("rank_pattern", [&](const std::string& pattern, const Json& value) {
    config.rank_pattern.emplace_back(pattern, reader.rank("rank_pattern", value));
  });
  reader.for_each("alpha_pattern", [&](const std::string& pattern, const Json& value) {
    config.alpha_pattern.emplace_back(pattern, reader.alpha("alpha_pattern", value));
  });
  return config;
}

}  // namespace lockstep::model
