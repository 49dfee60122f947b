// The variables of a chat template and where its source stands in a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace lockstep::text {
namespace {

using jinja::JinjaError;
using jinja::Value;
using Items = std::vector<std::pair<Value, Value>>;

[[noreturn]] void rethrow(const JinjaError& error, const std::string& where) {
  throw FormatError(error.code, fmt::format("{}:{}", where, error.line), error.message);
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

Value messages_value(const Json& messages, std::string_view where) {
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
  return Value::sequence(jinja::SequenceKind::kList, std::move(values));
}

/// {"content": "<s>", …} in tokenizer_config.json is an added token; a string is itself.
const Json* token_text(const Json& token) {
  if (token.is_string()) return &token;
  if (!token.is_object() || !token.contains("content")) return nullptr;
  return &token["content"];
}

}  // namespace

struct ChatTemplate::Impl {
  std::string where;
  jinja::Block block;
  Items special_tokens;
};

ChatTemplate::ChatTemplate(std::string_view source,
                           std::string_view where,
                           const Json& special_tokens)
    : impl_(std::make_unique<Impl>()) {
  impl_->where = where;
  try {
    impl_->block = jinja::parse_template(source);
    if (!special_tokens.is_object()) return;
    for (const auto& [name, token] : special_tokens.items()) {
      const Json* text = token_text(token);
      if (text != nullptr && text->is_string() && name.ends_with("_token"))
        impl_->special_tokens.emplace_back(Value::string(name), jinja::from_json(*text));
    }
  } catch (const JinjaError& error) {
    rethrow(error, impl_->where);
  }
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::from_directory(const std::filesystem::path& directory) {
  Json config = Json::object();
  const std::filesystem::path config_path = directory / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) config = parse_json_file(config_path);
  const std::filesystem::path own_file = directory / "chat_template.jinja";
  if (std::filesystem::exists(own_file))
    return ChatTemplate(read_file(own_file), own_file.string(), config);
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  if (found != config.end() && found->is_string())
    return ChatTemplate(found->get_ref<const std::string&>(), config_path.string(), config);
  if (found != config.end() && found->is_array()) {
    for (const Json& entry : *found) {
      if (entry.is_object() && entry.value("name", "") == "default" && entry.contains("template") &&
          entry["template"].is_string())
        return ChatTemplate(entry["template"].get_ref<const std::string&>(), config_path.string(),
                            config);
    }
  }
  fail<FormatError>("missing-template", directory.string(),
                    "expected chat_template.jinja or a chat_template in tokenizer_config.json, got "
                    "neither");
}

std::string ChatTemplate::render(const ChatInputs& inputs) const {
  LOCKSTEP_CHECK(inputs.messages != nullptr, "render() without messages");
  try {
    const auto optional_list = [](const Json* json) {
      return json == nullptr ? Value::none() : jinja::from_json(*json);
    };
    Items variables = impl_->special_tokens;
    const auto set = [&](std::string_view name, Value value) {
      jinja::set_item(variables, Value::string(std::string(name)), std::move(value));
    };
    set("messages", messages_value(*inputs.messages, impl_->where));
    set("tools", optional_list(inputs.tools));
    set("documents", Value::none());
    set("add_generation_prompt", Value::boolean(inputs.add_generation_prompt));
    if (inputs.variables != nullptr && inputs.variables->is_object()) {
      for (const auto& [name, value] : inputs.variables->items()) {
        // Python would refuse a second value for them, too.
        if (name == "messages" || name == "add_generation_prompt")
          fail<FormatError>("bad-row", impl_->where,
                            "expected variables other than messages and add_generation_prompt, "
                            "got {}",
                            name);
        set(name, jinja::from_json(value));
      }
    }
    return jinja::render(impl_->block, Value::dict(std::move(variables)));
  } catch (const JinjaError& error) {
    rethrow(error, impl_->where);
  }
}

}  // namespace lockstep::text
