// Reads a DeepSpeed or FSDP configuration for contradictions to the flags.
// SPDX-License-Identifier: Apache-2.0
#include "cli/framework_file.h"

#include <charconv>

#include <fmt/format.h>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::cli {
namespace {

bool is_auto(const Json& value) { return value.is_string() && value.get<std::string>() == "auto"; }

/// Whether nothing under `value` is set by hand.
bool all_auto(const Json& value) {
  if (!value.is_structured()) return is_auto(value);
  for (const Json& element : value)
    if (!all_auto(element)) return false;
  return true;
}

void refuse(const Assignment& assignment,
            std::string_view entry,
            const Json& value,
            std::string_view hint) {
  fail<ConfigError>("refused-flag", assignment.where, "expected \"auto\" for {}, got {} ({})",
                    entry, dump_json(value), hint);
}

void check_clipping(const Assignment& assignment, const Json& value, const ValueOf& value_of) {
  if (is_auto(value)) return;
  const std::string given = value_of("max_grad_norm").value_or("1");
  double norm = 0;
  // A wrong flag is reported later.
  std::from_chars(given.data(), given.data() + given.size(), norm);
  if (!value.is_number() || value.get<double>() != norm)
    refuse(assignment, "gradient_clipping", value, "set --max_grad_norm to it");
}

bool is_enabled(const Json& section) {
  if (!section.is_object() || !section.contains("enabled")) return false;
  const Json& enabled = section["enabled"];
  return enabled.is_boolean() && enabled.get<bool>();
}

void check_precision(const Assignment& assignment, const Json& config, const ValueOf& value_of) {
  if (config.contains("fp16") && is_enabled(config["fp16"]))
    refuse(assignment, "fp16.enabled", true, "float16 is not trained");
  if (config.contains("bf16") && is_enabled(config["bf16"]) &&
      value_of("torch_dtype").value_or("bfloat16") != "bfloat16")
    refuse(assignment, "bf16.enabled", true, "it contradicts --torch_dtype");
}

/// Whether a text is a name, such as "zero2", "zero3_offload", "fsdp2" or "full_shard auto_wrap",
/// and not a file.
bool is_preset(std::string_view text) { return !text.starts_with('{') && !text.ends_with(".json"); }

}  // namespace

std::string check_framework_config(const Assignment& assignment, const ValueOf& value_of) {
  if (assignment.values.size() != 1 || is_preset(assignment.values[0])) return "";
  const std::string& text = assignment.values[0];
  const Json config = text.starts_with('{') ? parse_json(text, assignment.where, "bad-config")
                                            : parse_json_file(text, "bad-config");
  if (!config.is_object())
    fail<FormatError>("bad-config", assignment.where, "expected a JSON object in {}, got {}", text,
                      config.type_name());
  check_precision(assignment, config, value_of);
  std::string others;
  for (const auto& [key, value] : config.items()) {
    if (key == "gradient_clipping") {
      check_clipping(assignment, value, value_of);
    } else if (key == "optimizer" || key == "scheduler") {
      const Json& parameters =
          value.is_object() && value.contains("params") ? value["params"] : value;
      if (!all_auto(parameters))
        refuse(assignment, key, value,
               "the flags set it: --learning_rate, --weight_decay, --lr_scheduler_type");
    } else if (key != "fp16" && key != "bf16" && key != "zero_optimization") {
      others += (others.empty() ? "" : ", ") + key;
    }
  }
  return others;
}

}  // namespace lockstep::cli
