// The variables of a chat template, and where a checkpoint holds its source.
// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace lockstep::text {
namespace {

namespace fs = std::filesystem;
using jinja::JinjaError;
using jinja::Value;
using Items = std::vector<std::pair<Value, Value>>;

constexpr const char* kMoreTemplatesFolder = "additional_chat_templates";

FormatError named_error(const JinjaError& error, const std::string& where) {
  return FormatError(error.code, fmt::format("{}:{}", where, error.line), error.message);
}

/// A message as apply_chat_template hands it on: keys with null are gone, and reasoning stands
/// under its standard name and as "thinking". Source: transformers 5.23, tokenization_utils_base.py
/// and utils/chat_template_utils.py (_alias_reasoning_fields).
Value message_value(const Json& message) {
  Items items;
  for (const auto& [key, value] : message.items()) {
    if (!value.is_null()) items.emplace_back(Value::string(key), jinja::from_json(value));
  }
  const Json* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = message.find(name);
    if (reasoning == nullptr && found != message.end() && !found->is_null()) reasoning = &*found;
  }
  if (reasoning != nullptr) {
    const Value value = jinja::from_json(*reasoning);
    if (!message.contains("thinking") || message["thinking"].is_null())
      items.insert(items.begin(), {Value::string("thinking"), value});
    jinja::set_item(items, Value::string("reasoning_content"), value);
  }
  return Value::dict(std::move(items));
}

std::vector<Value> message_values(const Json& messages, std::string_view where) {
  if (!messages.is_array() || messages.empty())
    fail<FormatError>("bad-row", where, "expected messages: a list of at least one, got {}",
                      messages.is_array() ? "an empty list" : messages.type_name());
  std::vector<Value> values;
  for (const Json& message : messages) {
    if (!message.is_object())
      fail<FormatError>("bad-row", where, "expected each message to be an object, got {}",
                        message.type_name());
    values.push_back(message_value(message));
  }
  return values;
}

/// {"content": "<s>", …} in tokenizer_config.json is an added token; a string is itself.
const Json* token_text(const Json& token) {
  if (token.is_string()) return &token;
  if (!token.is_object() || !token.contains("content")) return nullptr;
  return &token["content"];
}

std::vector<ChatPart> chat_parts(const std::vector<jinja::Part>& parts) {
  std::vector<ChatPart> result;
  for (const jinja::Part& part : parts) result.push_back({part.begin, part.end, part.item});
  return result;
}

struct Source {
  std::string text, where;
};

/// The sources by name that tokenizer_config.json holds.
std::map<std::string, Source> sources_in_config(const Json& config, const std::string& where) {
  std::map<std::string, Source> sources;
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  if (found == config.end()) return sources;
  if (found->is_string()) sources["default"] = {found->get<std::string>(), where};
  if (found->is_object()) {
    for (const auto& [name, source] : found->items())
      if (source.is_string()) sources[name] = {source.get<std::string>(), where};
  }
  if (!found->is_array()) return sources;
  for (const Json& entry : *found) {
    const auto text = [&](const char* key) {
      const auto at = entry.is_object() ? entry.find(key) : entry.end();
      if (at == entry.end() || !at->is_string())
        fail<FormatError>("bad-template", where,
                          "expected text in name and template of each entry of chat_template");
      return at->get<std::string>();
    };
    sources[text("name")] = {text("template"), where};
  }
  return sources;
}

/// The sources by name that are files of their own: where there is one, the configuration's are not
/// looked at.
std::map<std::string, Source> sources_in_files(const fs::path& directory) {
  std::map<std::string, Source> sources;
  const auto add = [&](const std::string& name, const fs::path& path) {
    sources[name] = {read_file(path), path.string()};
  };
  if (const fs::path path = directory / "chat_template.jinja"; fs::exists(path))
    add("default", path);
  const fs::path more = directory / kMoreTemplatesFolder;
  if (!fs::is_directory(more)) return sources;
  for (const auto& entry : fs::directory_iterator(more))
    if (entry.path().extension() == ".jinja") add(entry.path().stem().string(), entry.path());
  return sources;
}

}  // namespace

struct ChatTemplate::Impl {
  struct Parsed {
    std::string where;
    jinja::Template source;
    /// What is wrong with it, which is said when it is first used.
    std::optional<FormatError> error;
  };

  void add(const std::string& name, std::string_view source, std::string_view where);
  const Parsed& choose(bool has_tools) const;
  RenderedChat render(const Parsed& parsed, const ChatInputs& inputs) const;
  void set_special_tokens(const Json& config);

  /// By name. Only "default" and "tool_use" are kept, since no other one is ever chosen.
  std::map<std::string, Parsed> templates;
  Items special_tokens;
};

void ChatTemplate::Impl::add(const std::string& name,
                             std::string_view source,
                             std::string_view where) {
  Parsed parsed{std::string(where), {}, {}};
  try {
    parsed.source = jinja::parse_template(source);
  } catch (const JinjaError& error) {
    parsed.error = named_error(error, parsed.where);
  }
  templates.insert_or_assign(name, std::move(parsed));
}

const ChatTemplate::Impl::Parsed& ChatTemplate::Impl::choose(bool has_tools) const {
  auto chosen = has_tools ? templates.find("tool_use") : templates.end();
  if (chosen == templates.end()) chosen = templates.find("default");
  if (chosen == templates.end())
    fail<FormatError>("missing-template", templates.begin()->second.where,
                      "expected a template named default for a conversation without tools, got "
                      "tool_use only");
  if (chosen->second.error) throw *chosen->second.error;
  return chosen->second;
}

void ChatTemplate::Impl::set_special_tokens(const Json& config) {
  if (!config.is_object()) return;
  for (const auto& [name, token] : config.items()) {
    const Json* text = token_text(token);
    if (text != nullptr && text->is_string() && name.ends_with("_token"))
      special_tokens.emplace_back(Value::string(name), jinja::from_json(*text));
  }
}

RenderedChat ChatTemplate::Impl::render(const Parsed& parsed, const ChatInputs& inputs) const {
  try {
    const auto optional_list = [](const Json* json) {
      return json == nullptr ? Value::none() : jinja::from_json(*json);
    };
    Items variables = special_tokens;
    const auto set = [&](std::string_view name, Value value) {
      jinja::set_item(variables, Value::string(std::string(name)), std::move(value));
    };
    const std::vector<Value> messages = message_values(*inputs.messages, parsed.where);
    set("messages", Value::sequence(jinja::SequenceKind::kList, messages));
    set("tools", optional_list(inputs.tools));
    set("documents", Value::none());
    set("add_generation_prompt", Value::boolean(inputs.add_generation_prompt));
    if (inputs.variables != nullptr && inputs.variables->is_object()) {
      for (const auto& [name, value] : inputs.variables->items()) {
        // Python would refuse a second value for them, too.
        if (name == "messages" || name == "add_generation_prompt")
          fail<FormatError>("bad-row", parsed.where,
                            "expected variables other than messages and add_generation_prompt, "
                            "got {}",
                            name);
        set(name, jinja::from_json(value));
      }
    }
    jinja::Rendering rendering =
        jinja::render(parsed.source, Value::dict(std::move(variables)), messages);
    return {std::move(rendering.text), chat_parts(rendering.parts.items),
            chat_parts(rendering.parts.generations), parsed.source.has_generation};
  } catch (const JinjaError& error) {
    throw named_error(error, parsed.where);
  }
}

ChatTemplate::ChatTemplate() : impl_(std::make_unique<Impl>()) {}
ChatTemplate::ChatTemplate(std::string_view source,
                           std::string_view where,
                           const Json& special_tokens)
    : ChatTemplate() {
  impl_->set_special_tokens(special_tokens);
  impl_->add("default", source, where);
  impl_->choose(false);
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::from_directory(const fs::path& directory) {
  Json config = Json::object();
  const fs::path config_path = directory / "tokenizer_config.json";
  if (fs::exists(config_path)) config = parse_json_file(config_path);
  auto sources = sources_in_files(directory);
  if (sources.empty()) sources = sources_in_config(config, config_path.string());
  ChatTemplate result;
  result.impl_->set_special_tokens(config);
  for (const char* name : {"default", "tool_use"})
    if (const auto found = sources.find(name); found != sources.end())
      result.impl_->add(name, found->second.text, found->second.where);
  if (result.impl_->templates.empty())
    fail<FormatError>(
        "missing-template", directory.string(),
        "expected chat_template.jinja or a chat_template in tokenizer_config.json, got "
        "{}",
        sources.empty() ? "neither" : "templates of other names than default and tool_use");
  // A template that cannot be read ends the program before its first row.
  if (result.impl_->templates.contains("default")) result.impl_->choose(false);
  return result;
}

RenderedChat ChatTemplate::render_parts(const ChatInputs& inputs) const {
  LOCKSTEP_CHECK(inputs.messages != nullptr, "render() without messages");
  return impl_->render(impl_->choose(inputs.tools != nullptr), inputs);
}

}  // namespace lockstep::text
