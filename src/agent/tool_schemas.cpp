// SPDX-License-Identifier: Apache-2.0
#include "agent/tool_schemas.h"

#include <set>

#include "base/check.h"

namespace lockstep::agent {

const Json* function_in(const Json& tool) {
  if (!tool.is_object()) return nullptr;
  const auto cover = tool.find("function");
  const Json& function = cover != tool.end() && cover->is_object() ? *cover : tool;
  const auto name = function.find("name");
  if (name == function.end() || !name->is_string() || name->get_ref<const std::string&>().empty())
    return nullptr;
  return &function;
}

std::string name_in(const Json& tool) {
  const Json* function = function_in(tool);
  return function ? function->at("name").get<std::string>() : "";
}

Json covered(const Json& tools) {
  Json list = Json::array();
  if (tools.is_array())
    for (const Json& tool : tools)
      if (const Json* function = function_in(tool))
        list.push_back(function == &tool ? Json{{"type", "function"}, {"function", tool}} : tool);
  return list;
}

Json read_tool_schemas(const std::string& path) {
  const Json file = [&] {
    try {
      return parse_json_file(path);
    } catch (const FormatError& error) {
      fail<ConfigError>("bad-tool", "--tool_schemas", "{}", error.what());
    }
  }();
  const auto refuse = [&](const std::string& got) {
    fail<ConfigError>("bad-tool", "--tool_schemas",
                      "expected a list of functions as OpenAI's API has them in {}, got {}", path,
                      got);
  };
  if (!file.is_array()) refuse(file.type_name());
  std::set<std::string> names;
  for (size_t i = 0; i < file.size(); ++i) {
    const std::string name = name_in(file[i]);
    if (name.empty()) refuse(fmt::format("none at place {}", i));
    if (!names.insert(name).second) refuse(name + " twice");
  }
  return covered(file);
}

std::optional<std::string> wrong_arguments(const Json& tool, const Json& arguments) {
  const Json* function = function_in(tool);
  if (!function) return std::nullopt;
  const Json parameters = function->value("parameters", Json());
  if (!parameters.is_object()) return std::nullopt;
  const std::string name = name_in(tool);
  const Json required = parameters.value("required", Json());
  if (required.is_array())
    for (const Json& one : required)
      if (one.is_string() && !arguments.contains(one.get<std::string>()))
        return fmt::format("{}() missing 1 required argument: '{}'", name, one.get<std::string>());
  const Json properties = parameters.value("properties", Json());
  const bool is_open = parameters.contains("additionalProperties") &&
                       parameters["additionalProperties"] != Json(false);
  if (properties.is_object() && !is_open)
    for (const auto& [argument, value] : arguments.items())
      if (!properties.contains(argument))
        return fmt::format("{}() got an unexpected argument '{}'", name, argument);
  return std::nullopt;
}

}  // namespace lockstep::agent
