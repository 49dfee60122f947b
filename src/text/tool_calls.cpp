// SPDX-License-Identifier: Apache-2.0
#include "text/tool_calls.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/text_marker.h"

namespace lockstep::text {
namespace {

constexpr std::string_view kOpenCall = "<tool_call>", kCloseCall = "</tool_call>";
constexpr std::string_view kSpaces = " \t\r\n";
/// Numbers of a call keep the digits that the model wrote.
constexpr JsonLimits kCallLimits{.max_depth = 64, .keep_digits = true};

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin);
}

/// Takes `prefix` off the front of a text; false if it has another one.
bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::optional<Json> parsed(std::string_view text) {
  try {
    return parse_json(text, "tool call", "bad-json", kCallLimits);
  } catch (const FormatError&) {
    return std::nullopt;
  }
}

std::optional<ToolCall> parse_json_call(std::string_view body) {
  const auto call = parsed(body);
  if (!call || !call->is_object()) return std::nullopt;
  const auto name = call->find("name"), arguments = call->find("arguments");
  if (name == call->end() || !name->is_string() || name->get_ref<const std::string&>().empty())
    return std::nullopt;
  // A call without arguments has none; a text of JSON in their place is one more way to write them.
  Json object = arguments == call->end() ? Json::object() : *arguments;
  if (object.is_string()) object = parsed(object.get_ref<const std::string&>()).value_or(Json());
  if (!object.is_object()) return std::nullopt;
  return ToolCall{*name, dump_json(object, /*spaced=*/true)};
}

/// The schema of a function's parameter; null if the request has none.
Json parameter_schema(const Json& tools, std::string_view function, const std::string& parameter) {
  if (!tools.is_array()) return nullptr;
  for (const Json& tool : tools) {
    const Json& declared = tool.at("function");
    if (declared.at("name") != function || !declared.contains("parameters")) continue;
    const Json& parameters = declared["parameters"];
    if (!parameters.is_object() || !parameters.contains("properties")) return nullptr;
    const Json& properties = parameters["properties"];
    if (!properties.is_object() || !properties.contains(parameter)) return nullptr;
    const Json& schema = properties[parameter];
    if (!schema.is_object() || !schema.contains("$ref")) return schema;
    // A reference into the same schema: "#/$defs/NAME".
    const Json& name = schema["$ref"];
    if (!name.is_string() || !name.get_ref<const std::string&>().starts_with("#/")) return nullptr;
    try {
      return parameters.at(Json::json_pointer(name.get<std::string>().substr(1)));
    } catch (const Json::exception&) {
      return nullptr;
    }
  }
  return nullptr;
}

/// Adds the types that a schema allows.
void add_types(const Json& schema, std::vector<std::string>& types, int depth = 0) {
  constexpr int kDeepest = 8;
  if (!schema.is_object() || depth > kDeepest) return;
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_string()) types.push_back(*type);
    if (type->is_array())
      for (const Json& one : *type)
        if (one.is_string()) types.push_back(one);
  }
  for (const char* choice : {"anyOf", "oneOf", "allOf"})
    if (schema.contains(choice) && schema[choice].is_array())
      for (const Json& one : schema[choice]) add_types(one, types, depth + 1);
}

bool has_type(const Json& value, const std::vector<std::string>& types) {
  return std::any_of(types.begin(), types.end(), [&](const std::string& type) {
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    const auto digits = number_text(value);
    if (type == "number") return digits.has_value();
    return type == "integer" && digits && digits->find_first_of(".eE") == digits->npos;
  });
}

/// The value of an argument's text. Templates write true, false and null as JSON or as Python does.
Json argument_value(std::string_view text, const Json& schema) {
  std::vector<std::string> types;
  add_types(schema, types);
  std::string_view json = trimmed(text);
  for (const auto& [python, standard] :
       {std::pair<std::string_view, std::string_view>{"True", "true"},
        {"False", "false"},
        {"None", "null"}})
    if (json == python) json = standard;
  auto value = parsed(json);
  if (value && has_type(*value, types)) return std::move(*value);
  return std::string(text);
}

/// What stands before `marker`, both taken off the text; nothing if it has no such marker.
std::optional<std::string_view> take_until(std::string_view& text, std::string_view marker) {
  const size_t at = text.find(marker);
  if (at == text.npos) return std::nullopt;
  const std::string_view before = text.substr(0, at);
  text.remove_prefix(at + marker.size());
  return before;
}

std::optional<ToolCall> parse_xml_call(std::string_view body, const Json& tools) {
  if (!take(body, "<function=")) return std::nullopt;
  const auto name = take_until(body, ">");
  if (!name || name->empty() || name->find('\n') != name->npos) return std::nullopt;
  Json arguments = Json::object();
  for (body = trimmed(body); body != "</function>"; body = trimmed(body)) {
    if (!take(body, "<parameter=")) return std::nullopt;
    const auto key = take_until(body, ">");
    auto value = take_until(body, "</parameter>");
    if (!key || key->empty() || !value) return std::nullopt;
    // The line breaks that the template writes around a value.
    take(*value, "\n");
    if (value->ends_with('\n')) value->remove_suffix(1);
    const std::string argument(*key);
    if (arguments.contains(argument)) return std::nullopt;
    arguments[argument] = argument_value(*value, parameter_schema(tools, *name, argument));
  }
  return ToolCall{std::string(*name), dump_json(arguments, /*spaced=*/true)};
}

}  // namespace

ToolDialect tool_dialect(const ChatEncoder& chat) {
  static const Json kMessages = parse_json(
      R"([{"role": "user", "content": "q"},
          {"role": "assistant", "content": "",
           "tool_calls": [{"id": "call00001", "type": "function",
                           "function": {"name": "probe", "arguments": {"a": "b"}}}]}])",
      "probe");
  static const Json kTools = parse_json(
      R"([{"type": "function", "function": {"name": "probe", "description": "d", "parameters":
           {"type": "object", "properties": {"a": {"type": "string"}}}}}])",
      "probe");
  std::string text;
  try {
    text = chat.encode_prompt({.messages = &kMessages, .tools = &kTools}, {.end = PromptEnd::kNone})
               .text;
  } catch (const FormatError& error) {
    if (error.code() != "bad-row") throw;
    return ToolDialect::kNone;
  }
  std::string_view rest = text;
  for (const size_t open = text.rfind(kOpenCall); open != text.npos;) {
    rest.remove_prefix(open + kOpenCall.size());
    const std::string_view body = trimmed(take_until(rest, kCloseCall).value_or(""));
    for (const ToolDialect dialect : {ToolDialect::kJson, ToolDialect::kXml}) {
      const auto call = parse_tool_call(body, dialect, kTools);
      if (call && call->name == "probe" && call->arguments == R"({"a": "b"})") return dialect;
    }
    break;
  }
  return ToolDialect::kNone;
}

std::optional<ToolCall> parse_tool_call(std::string_view body,
                                        ToolDialect dialect,
                                        const Json& tools) {
  body = trimmed(body);
  return dialect == ToolDialect::kXml ? parse_xml_call(body, tools) : parse_json_call(body);
}

std::string tool_call_opening(ToolDialect dialect, std::string_view name) {
  std::string opening = std::string(kOpenCall) + "\n";
  // Up to the colon: tokenizers join the space behind it with what follows.
  if (dialect == ToolDialect::kXml)
    opening += name.empty() ? "<function=" : fmt::format("<function={}>\n", name);
  else
    opening += name.empty() ? "{\"name\":"
                            : fmt::format("{{\"name\": {}, \"arguments\":",
                                          dump_json(Json(std::string(name))));
  return opening;
}

ToolCallReader::ToolCallReader(ToolDialect dialect, const Json& tools)
    : dialect_(dialect), tools_(&tools) {}

AnswerPiece ToolCallReader::push(std::string_view text) {
  AnswerPiece out;
  if (dialect_ == ToolDialect::kNone) {
    out.content = text;
    return out;
  }
  waiting_ += text;
  while (is_in_call_ ? read_call(out) : read_content(out)) {
  }
  return out;
}

/// Takes content up to the next call; false if more text must come first.
bool ToolCallReader::read_content(AnswerPiece& out) {
  if (is_behind_call_)
    waiting_.erase(0, std::min(waiting_.find_first_not_of(kSpaces), waiting_.size()));
  if (waiting_.empty()) return false;
  const size_t call = waiting_.find(kOpenCall);
  const size_t end =
      call == waiting_.npos ? waiting_.size() - marker_begun(waiting_, kOpenCall) : call;
  const size_t content = trailing_run(std::string_view(waiting_).substr(0, end), kSpaces);
  out.content += waiting_.substr(0, content);
  if (content > 0) is_behind_call_ = false;
  if (call == waiting_.npos) {
    waiting_.erase(0, content);
    return false;
  }
  before_ = waiting_.substr(content, call + kOpenCall.size() - content);
  waiting_.erase(0, call + kOpenCall.size());
  is_in_call_ = true;
  return true;
}

bool ToolCallReader::read_call(AnswerPiece& out) {
  const size_t close = waiting_.find(kCloseCall, searched_);
  if (close == waiting_.npos) {
    searched_ = waiting_.size() - std::min(waiting_.size(), kCloseCall.size() - 1);
    return false;
  }
  searched_ = 0;
  auto call = parse_tool_call(std::string_view(waiting_).substr(0, close), dialect_, *tools_);
  if (call) {
    out.calls.push_back(std::move(*call));
  } else {
    out.content += before_ + waiting_.substr(0, close) + std::string(kCloseCall);
  }
  is_behind_call_ = call.has_value();
  is_in_call_ = false;
  waiting_.erase(0, close + kCloseCall.size());
  return true;
}

AnswerPiece ToolCallReader::finish() {
  AnswerPiece out;
  std::string rest = std::exchange(waiting_, {});
  if (!is_in_call_) {
    out.content = std::move(rest);
    return out;
  }
  // A model may stop behind a call without its last marker.
  is_in_call_ = false;
  if (auto call = parse_tool_call(rest, dialect_, *tools_))
    out.calls.push_back(std::move(*call));
  else
    out.content = before_ + rest;
  return out;
}

}  // namespace lockstep::text
