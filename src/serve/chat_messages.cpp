// SPDX-License-Identifier: Apache-2.0
#include "serve/chat_messages.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "serve/request_fields.h"

namespace lockstep::serve {
namespace {

struct RoleName {
  std::string_view name, role;
};
constexpr std::array<RoleName, 6> kRoles = {{{"system", "system"},
                                             {"developer", "system"},
                                             {"user", "user"},
                                             {"assistant", "assistant"},
                                             {"tool", "tool"},
                                             {"function", "tool"}}};

std::string_view role_of(const RequestFields& message) {
  const Json* role = message.find("role");
  if (role && role->is_string())
    for (const RoleName& known : kRoles)
      if (role->get_ref<const std::string&>() == known.name) return known.role;
  refuse_field(message.field("role"), "system, developer, user, assistant or tool",
               role ? *role : Json());
}

/// The text of content in parts.
std::string joined_parts(const Json& parts, const std::string& place) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const RequestFields part(parts[i], fmt::format("{}[{}]", place, i));
    const std::string type = part.text("type").value_or("text");
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal")
      refuse_feature(part.field("type"),
                     fmt::format("parts of type {} (images, sound, video and files) need another "
                                 "model, only text is read",
                                 dump_json(Json(type.substr(0, 40)))));
    const char* const name = type == "refusal" ? "refusal" : "text";
    const auto piece = part.text(name);
    if (!piece) refuse_field(part.field(name), "a text", nullptr);
    text += *piece;
  }
  return text;
}

/// Throws unless each call of an assistant's message names a function and gives its arguments.
void check_calls(const RequestFields& message) {
  const Json* calls = message.find("tool_calls");
  if (!calls) return;
  const std::string place = message.field("tool_calls");
  if (!calls->is_array()) refuse_field(place, "a list of calls", *calls);
  for (size_t i = 0; i < calls->size(); ++i) {
    const RequestFields call((*calls)[i], fmt::format("{}[{}]", place, i));
    const auto function = call.object("function");
    if (!function) refuse_field(call.field("function"), "an object", nullptr);
    if (function->text("name").value_or("").empty())
      refuse_field(function->field("name"), "the name of a function", nullptr);
    const Json* arguments = function->find("arguments");
    if (arguments && !arguments->is_string() && !arguments->is_object())
      refuse_field(function->field("arguments"), "a text of JSON or an object", *arguments);
  }
}

Json checked_message(const Json& given, const std::string& place) {
  const RequestFields fields(given, place);
  Json message = {{"role", role_of(fields)}};
  const bool is_assistant = message["role"] == "assistant";
  const Json* content = fields.find("content");
  if (!content && !is_assistant)
    refuse_field(fields.field("content"), "a text or a list of parts", nullptr);
  if (content && !content->is_string() && !content->is_array())
    refuse_field(fields.field("content"), "a text or a list of parts", *content);
  message["content"] = !content ? Json("")
                       : content->is_string()
                           ? *content
                           : Json(joined_parts(*content, fields.field("content")));
  if (is_assistant) check_calls(fields);
  for (const char* name : {"reasoning_content", "reasoning", "name", "tool_call_id"})
    fields.text(name);
  for (const auto& [name, value] : given.items())
    if (name != "role" && name != "content" && !value.is_null()) message[name] = value;
  if (!message.contains("reasoning_content") && message.contains("reasoning"))
    message["reasoning_content"] = message["reasoning"];
  return message;
}

}  // namespace

Json checked_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty())
    refuse_field("messages", "a list of at least one message", messages);
  Json checked = Json::array();
  for (size_t i = 0; i < messages.size(); ++i)
    checked.push_back(checked_message(messages[i], fmt::format("messages[{}]", i)));
  return checked;
}

void check_tools(const Json& tools) {
  if (!tools.is_array() || tools.empty())
    refuse_field("tools", "a list of at least one tool", tools);
  for (size_t i = 0; i < tools.size(); ++i) {
    const RequestFields tool(tools[i], fmt::format("tools[{}]", i));
    if (const auto type = tool.text("type").value_or("function"); type != "function")
      refuse_field(tool.field("type"), "\"function\"", type);
    const auto function = tool.object("function");
    if (!function) refuse_field(tool.field("function"), "an object", nullptr);
    if (function->text("name").value_or("").empty())
      refuse_field(function->field("name"), "the name of a function", nullptr);
    function->text("description");
    function->object("parameters");
  }
}

bool has_tool(const Json& tools, std::string_view name) {
  return tools.is_array() && std::any_of(tools.begin(), tools.end(), [&](const Json& tool) {
           return tool.at("function").at("name") == name;
         });
}

}  // namespace lockstep::serve
