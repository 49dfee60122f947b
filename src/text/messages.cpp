// One message may become several: a list of parts can hold results of tools besides text.
// SPDX-License-Identifier: Apache-2.0
#include "text/messages.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace lockstep::text {
namespace {

struct RoleName {
  std::string_view name, role;
};
/// Keys by which sft decides about a turn (text/assistant_turns.h); some are the tool call's.
constexpr std::array<const char*, 4> kTrainingKeys = {"loss", "loss_scale", "weight", "train"};
constexpr std::array<RoleName, 17> kRoles = {{{"system", "system"},
                                              {"developer", "system"},
                                              {"user", "user"},
                                              {"human", "user"},
                                              {"assistant", "assistant"},
                                              {"gpt", "assistant"},
                                              {"bot", "assistant"},
                                              {"chatgpt", "assistant"},
                                              {"model", "assistant"},
                                              {"tool", "tool"},
                                              {"function_response", "tool"},
                                              {"tool_response", "tool"},
                                              {"observation", "tool"},
                                              {"observations", "tool"},
                                              {"function_call", "tool_call"},
                                              {"tool_call", "tool_call"},
                                              {"function", "tool"}}};

class Converter {
 public:
  explicit Converter(const std::string& where) : where_(where) {}

  Json convert(Json&& messages) {
    if (!messages.is_array() || messages.empty())
      refuse("a list of at least one message in messages", messages);
    for (Json& message : messages) {
      ++index_;
      if (!message.is_object()) refuse("an object", message);
      if (is_pair(message))
        add_pair(std::move(message));
      else
        add(std::move(message));
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(std::string_view expected, const Json& got) const {
    std::string shown = dump_json(got);
    if (shown.size() > 60) shown = got.type_name();
    fail<FormatError>("bad-row", where_, "expected {}{}, got {}", expected,
                      index_ > 0 ? fmt::format(" as message {}", index_) : "", shown);
  }

  /// Takes the member of either name out of a message; null if there is none.
  static Json take(Json& message, const char* name, const char* other) {
    for (const char* key : {name, other}) {
      if (const auto found = message.find(key); found != message.end()) {
        Json value = std::move(*found);
        message.erase(found);
        return value;
      }
    }
    return nullptr;
  }

  std::string_view role_of(const Json& name) const {
    if (name.is_string()) {
      std::string wanted = name.get<std::string>();
      std::transform(wanted.begin(), wanted.end(), wanted.begin(), [](unsigned char c) {
        return c == '-' ? '_' : static_cast<char>(std::tolower(c));
      });
      for (const RoleName& known : kRoles) {
        if (wanted == known.name) return known.role;
      }
    }
    refuse("role system, user, assistant or tool", name);
  }

  /// ms-swift's form of a round: {"human": question, "assistant": answer}, "user", "gpt" and "bot"
  /// too. Source: ms-swift 4.6, dataset/preprocessor/core.py (sharegpt_to_messages).
  static bool is_pair(const Json& message) {
    const auto has = [&](const char* key) { return message.contains(key); };
    if (has("role") || has("from") || has("content") || has("value")) return false;
    return has("human") || has("user") || has("assistant") || has("gpt") || has("bot");
  }

  void add_pair(Json&& pair) {
    Json question = take(pair, "human", "user"), answer = take(pair, "assistant", "gpt");
    if (answer.is_null()) answer = take(pair, "bot", "bot");
    // A round may begin with the assistant, and its answer may be open.
    if (question.is_null() && answer.is_null()) refuse("a question or an answer", pair);
    if (!question.is_null()) {
      if (!question.is_string()) refuse("text in human", question);
      put("user", std::move(question), Json::object());
    }
    if (!answer.is_null()) {
      if (!answer.is_string()) refuse("text in assistant", answer);
      put("assistant", std::move(answer), std::move(pair));
    }
  }

  void add(Json&& message) {
    // OpenAI's older form of one call.
    if (message.contains("function_call") && message["function_call"].is_object()) {
      Json call = {{"type", "function"}};
      call["function"] = take(message, "function_call", "function_call");
      message["tool_calls"] = Json::array({std::move(call)});
    }
    const std::string_view role = role_of(take(message, "role", "from"));
    Json content = take(message, "content", "value");
    if (role == "tool_call") {
      add_tool_call(std::move(content), message);
    } else if (role == "tool" && is_result(content)) {
      // What a tool returned, as ms-swift writes it: Python's json.dumps.
      put(role, dump_json(content, /*spaced=*/true), std::move(message));
    } else if (content.is_array()) {
      add_parts(role, std::move(content), std::move(message));
    } else {
      const bool has_more = message.contains("tool_calls") ||
                            message.contains("reasoning_content") ||
                            message.contains("reasoning") || message.contains("thinking");
      if (!content.is_string() && !(content.is_null() && role == "assistant" && has_more))
        refuse("text in content", content);
      put(role, content.is_null() ? Json("") : std::move(content), std::move(message));
    }
  }

  void put(std::string_view role, Json&& content, Json&& others) {
    Json message = {{"role", role}, {"content", std::move(content)}};
    message.update(others);
    result_.push_back(std::move(message));
  }

  /// The text of JSON that is not a list of parts.
  static bool is_result(const Json& content) {
    if (content.is_object() || content.is_number() || content.is_boolean()) return true;
    if (!content.is_array() || content.empty()) return false;
    return std::none_of(content.begin(), content.end(),
                        [](const Json& part) { return part.is_object() && part.contains("type"); });
  }

  /// A message that is a call: {"name", "arguments"} as JSON, part of the assistant's turn before
  /// it. Of several calls the first one's training keys are the turn's, as in ms-swift.
  void add_tool_call(Json&& content, const Json& message) {
    Json call = parsed_if_text(std::move(content), where_);
    if (!call.is_object() || !call.contains("name"))
      refuse("{\"name\", \"arguments\"} in a tool call", call);
    if (!call.contains("arguments") && call.contains("parameters")) {
      call["arguments"] = std::move(call["parameters"]);
      call.erase("parameters");
    }
    Json keys = Json::object();
    for (const char* key : kTrainingKeys)
      if (message.contains(key)) keys[key] = message[key];
    const bool begins_turn = result_.empty() || result_.back()["role"] != "assistant";
    if (begins_turn) {
      put("assistant", "", std::move(keys));
    } else if (const Json& turn = result_.back(); !turn.contains("tool_calls")) {
      for (const char* key : kTrainingKeys)
        if (keys.value(key, Json()) != turn.value(key, Json()))
          refuse(fmt::format("the {} of the turn that the tool call belongs to", key), message);
    }
    append_call(std::move(call));
  }

  void append_call(Json&& call) {
    if (result_.empty() || result_.back()["role"] != "assistant")
      put("assistant", "", Json::object());
    Json& message = result_.back();
    if (!message.contains("tool_calls")) message["tool_calls"] = Json::array();
    message["tool_calls"].push_back({{"type", "function"}, {"function", std::move(call)}});
  }

  /// Content in parts: text is joined, calls go to tool_calls, results are messages of their own.
  void add_parts(std::string_view role, Json&& parts, Json&& others) {
    std::string text;
    Json calls = Json::array();
    bool has_text = parts.empty();
    for (Json& part : parts) {
      const Json type = part.is_object() && part.contains("type") ? part["type"] : Json();
      const bool is_text = type == "text" || type == "input_text" || type == "output_text";
      if (is_text && part.contains("text") && part["text"].is_string()) {
        text += part["text"].get_ref<const std::string&>();
        has_text = true;
      } else if (type == "tool_use" && role == "assistant") {
        calls.push_back({{"name", part.value("name", Json())},
                         {"arguments", part.value("input", Json::object())}});
      } else if (type == "tool_result") {
        put("tool", joined_text(part.value("content", Json(""))), Json::object());
      } else {
        refuse(
            "parts of type text, tool_use or tool_result in content (images, video and audio are "
            "not supported)",
            type.is_null() ? part : type);
      }
    }
    if (has_text || !calls.empty()) put(role, std::move(text), std::move(others));
    for (Json& call : calls) append_call(std::move(call));
  }

  std::string joined_text(const Json& content) const {
    if (content.is_string()) return content.get<std::string>();
    std::string text;
    if (!content.is_array()) refuse("text in a tool_result", content);
    for (const Json& part : content) {
      if (!part.is_object() || part.value("type", Json()) != "text" ||
          !part.value("text", Json()).is_string())
        refuse("parts of type text in a tool_result", part);
      text += part["text"].get_ref<const std::string&>();
    }
    return text;
  }

  const std::string& where_;
  // The number of the current message, counted from 1.
  int64_t index_ = 0;
  Json result_ = Json::array();
};

}  // namespace

Json parsed_if_text(Json value, const std::string& where) {
  return value.is_string() ? parse_json(value.get_ref<const std::string&>(), where, "bad-row")
                           : value;
}

Json canonical_messages(Json messages, const std::string& where) {
  Json list;
  try {
    list = parsed_if_text(std::move(messages), where);
  } catch (const FormatError& error) {
    fail<FormatError>("bad-row", where,
                      "expected a list of at least one message in messages, got text that is no "
                      "list written as JSON: {}",
                      error.what());
  }
  return Converter(where).convert(std::move(list));
}

}  // namespace lockstep::text
