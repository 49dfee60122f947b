// The tables of familiar column names, and the forms of rows in the order in which they are tried.
// SPDX-License-Identifier: Apache-2.0
#include "text/dataset_row.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <unordered_set>

#include "base/check.h"
#include "text/messages.h"
#include "text/row_columns.h"

namespace lockstep::text {
namespace {

struct Alias {
  std::string_view name, meaning;
};
constexpr std::array<Alias, 19> kAliases = {{{"query", "query"},
                                             {"prompt", "query"},
                                             {"input", "query"},
                                             {"instruction", "query"},
                                             {"question", "query"},
                                             {"problem", "query"},
                                             {"response", "response"},
                                             {"answer", "response"},
                                             {"output", "response"},
                                             {"targets", "response"},
                                             {"target", "response"},
                                             {"answer_key", "response"},
                                             {"answers", "response"},
                                             {"solution", "response"},
                                             {"text", "response"},
                                             {"completion", "response"},
                                             {"content", "response"},
                                             {"system", "system"},
                                             {"system_prompt", "system"}}};
constexpr std::array<std::string_view, 3> kMessageColumns = {"messages", "conversations",
                                                             "conversation"};
std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

template <class Names>
bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string_view meaning_of(std::string_view column) {
  const std::string name = lower(column);
  for (const Alias& alias : kAliases) {
    if (alias.name == name) return alias.meaning;
  }
  return {};
}

std::string messages_column(const std::vector<std::string>& columns,
                            const std::vector<RawRow>& rows) {
  for (const std::string_view name : kMessageColumns) {
    if (contains(columns, name)) return std::string(name);
  }
  // TRL's and verl's rows: the prompt is a list of messages, unless a column has the query's own
  // name.
  if (contains(columns, "query")) return "";
  const bool has_list = std::any_of(rows.begin(), rows.end(), [](const RawRow& row) {
    const auto prompt = row.object.find("prompt");
    return prompt != row.object.end() && prompt->is_array();
  });
  return has_list ? "prompt" : "";
}

constexpr const char* kGroundTruth = "reward_model.ground_truth";

/// A list of messages in one of the forms that canonical_messages reads.
bool looks_like_messages(const Json& value) {
  if (!value.is_array() || value.empty() || !value[0].is_object()) return false;
  for (const char* key : {"role", "from", "user", "human"})
    if (value[0].contains(key)) return true;
  return false;
}

/// Turns one row into messages. Columns are taken out of the object as they are used; what is left
/// is kept.
class RowMaker {
 public:
  RowMaker(Json&& object, const std::string& where, const ColumnMap& map)
      : object_(std::move(object)), where_(where), map_(map) {}

  Row make(const DatasetOptions& options) {
    check_text_only(object_, where_);
    if (options.token_rows && object_.contains("input_ids")) {
      Row row;
      row.where = where_;
      row.columns = std::move(object_);
      return row;
    }
    Row row;
    row.where = where_;
    if (!options.recorded || has_conversation()) row = take_messages(options);
    add_solution();
    row.columns = std::move(object_);
    row.file_columns = map_.file_columns;
    return row;
  }

 private:
  Row take_messages(const DatasetOptions& options) {
    system_ = take_text("system");
    if (!map_.messages.empty()) check_messages();
    Row row = take_conversation(std::move(object_), where_, MessageForm::kCanonical, map_.messages);
    object_ = std::move(row.columns);
    if (map_.messages.empty()) row.messages = query_and_response(row.text_prompt);
    if (map_.messages == "prompt") add_completion(row.messages);
    if (!system_ && !options.system.empty()) system_ = options.system;
    if (system_ && row.messages[0]["role"] != "system")
      row.messages.insert(row.messages.begin(), Json{{"role", "system"}, {"content", *system_}});
    return row;
  }

  bool has_conversation() const {
    const auto has = [this](const std::string& column) {
      const auto found = object_.find(column);
      return found != object_.end() && !found->is_null();
    };
    if (!map_.messages.empty()) return has(map_.messages);
    if (map_.is_alpaca) return has("instruction") || has("input");
    return std::any_of(map_.renames.begin(), map_.renames.end(), [&](const auto& rename) {
      return rename.second == "query" && has(rename.first);
    });
  }

  [[noreturn]] void refuse(std::string_view expected, const Json& got) const {
    fail<FormatError>("bad-row", where_, "expected {}, got {}", expected, got.type_name());
  }

  Json take(std::string_view name) {
    const auto found = object_.find(std::string(name));
    if (found == object_.end()) return nullptr;
    Json value = std::move(*found);
    object_.erase(found);
    // Templates and the keys of messages know doubles.
    if (value.is_structured()) at_row(where_, [&] { round_kept_digits(value); });
    return value;
  }

  /// The text of a column that means `meaning`, taken unless it is to survive.
  std::optional<std::string> take_text(std::string_view meaning) {
    for (const auto& [column, mapped] : map_.renames) {
      const bool survives = mapped == "solution+response" && meaning == "response";
      if (mapped != meaning && !survives) continue;
      const auto found = object_.find(column);
      if (found == object_.end() || found->is_null()) continue;
      const Json value = survives ? *found : take(column);
      // The first of several right answers is taken, as in ms-swift.
      const bool has_several = meaning == "response" && value.is_array() && !value.empty();
      return text_of(has_several ? value[0] : value, column);
    }
    return std::nullopt;
  }

  void add_solution() {
    if (!map_.has_ground_truth) return;
    Json parsed;
    const Json* value = find_column(object_, kGroundTruth, parsed);
    if (value && !value->is_null()) object_["solution"] = Json(*value);
  }

  std::string text_of(const Json& value, std::string_view column) const {
    if (value.is_string()) return value.get<std::string>();
    if (number_text(value) || value.is_boolean()) return dump_json(value);
    refuse(fmt::format("text in {}", column), value);
  }

  void check_messages() const {
    const auto found = object_.find(map_.messages);
    if (found == object_.end() || found->is_null())
      fail<FormatError>("bad-row", where_, "expected {}, as other rows have, got columns {}",
                        map_.messages, names_of(column_names(object_)));
  }

  /// What the assistant says to a prompt that is a list of messages: TRL's completion, itself a
  /// list of messages or text, or a response.
  void add_completion(Json& messages) {
    for (const char* column : {"completion", "response"}) {
      const auto found = object_.find(column);
      if (found == object_.end() || !(found->is_string() || looks_like_messages(*found))) continue;
      Json value = take(column);
      if (value.is_string()) {
        messages.push_back({{"role", "assistant"}, {"content", std::move(value)}});
      } else {
        for (Json& message : canonical_messages(std::move(value), where_))
          messages.push_back(std::move(message));
      }
      return;
    }
  }

  Json query_and_response(std::optional<std::string>& text_prompt) {
    Json result = Json::array();
    add_history(result);
    const auto query = map_.is_alpaca ? alpaca_query() : take_text("query");
    if (!query) refuse_columns();
    const bool is_prompt =
        !map_.is_alpaca &&
        std::any_of(map_.renames.begin(), map_.renames.end(), [](const auto& rename) {
          return rename.first == "prompt" && rename.second == "query";
        });
    if (is_prompt) text_prompt = query;
    result.push_back({{"role", "user"}, {"content", *query}});
    if (const auto response = take_text("response"))
      result.push_back({{"role", "assistant"}, {"content", *response}});
    return result;
  }

  std::optional<std::string> alpaca_query() {
    const Json instruction = take("instruction"), input = take("input");
    const std::string first = instruction.is_null() ? "" : text_of(instruction, "instruction");
    const std::string second = input.is_null() ? "" : text_of(input, "input");
    if (instruction.is_null() && input.is_null()) return std::nullopt;
    return !first.empty() && !second.empty() ? first + "\n" + second : first + second;
  }

  /// Reads earlier turns: [[query, response], …].
  void add_history(Json& result) {
    const Json history = parsed_if_text(take("history"), where_);
    if (history.is_null()) return;
    if (!history.is_array()) refuse("a list of [query, response] in history", history);
    for (const Json& turn : history) {
      if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
        refuse("[query, response] in history", turn);
      result.push_back({{"role", "user"}, {"content", turn[0]}});
      result.push_back({{"role", "assistant"}, {"content", turn[1]}});
    }
  }

  /// Says which columns there are, and how one is made the conversation.
  [[noreturn]] void refuse_columns() const {
    fail<FormatError>(
        "bad-row", where_,
        "expected messages, or a query (prompt, question, problem, …), got columns {} "
        "({})",
        names_of(column_names(object_)),
        map_.ambiguity.empty() ? "hint: " + query_hint() : map_.ambiguity + "; --columns renames");
  }

  std::string query_hint() const {
    std::string text;
    for (const auto& [name, value] : object_.items()) {
      if (looks_like_messages(value))
        return fmt::format("--columns '{{\"{}\": \"messages\"}}' reads the conversation in it",
                           name);
      if (text.empty() && value.is_string()) text = name;
    }
    if (lower(text) == "text")
      return "text without a question is trained on as rows of input_ids; lockstep tokenize makes "
             "them";
    return fmt::format("--columns '{{\"{}\": \"query\"}}' makes it the question",
                       text.empty() ? "NAME" : text);
  }

  Json object_;
  const std::string& where_;
  const ColumnMap& map_;
  std::optional<std::string> system_;
};

}  // namespace

std::vector<std::string> columns_of(const std::vector<RawRow>& rows) {
  std::vector<std::string> columns;
  std::unordered_set<std::string> seen;
  for (const RawRow& row : rows) {
    for (const auto& [name, value] : row.object.items()) {
      if (seen.insert(name).second) columns.push_back(name);
    }
  }
  return columns;
}

namespace {

/// Names of the columns that rows give up: in the order of the conversation.
std::vector<std::string> conversation_columns(const ColumnMap& map,
                                              const std::vector<std::string>& all) {
  std::vector<std::string> columns;
  if (!map.messages.empty()) columns.push_back(map.messages);
  for (const char* name : {"completion", "response"})
    if (map.messages == "prompt" && contains(all, name)) columns.emplace_back(name);
  if (map.is_alpaca) columns.insert(columns.end(), {"instruction", "input"});
  for (const auto& [column, meaning] : map.renames) columns.push_back(column);
  return columns;
}

}  // namespace

ColumnMap map_columns(const std::vector<RawRow>& rows, const DatasetOptions& options) {
  const std::vector<std::string> columns = columns_of(rows);
  ColumnMap map;
  map.messages = messages_column(columns, rows);
  map.is_alpaca = map.messages.empty() && contains(columns, "instruction") &&
                  contains(columns, "input") && !contains(columns, "query");
  for (const std::string_view meaning : {"query", "response", "system"}) {
    if (meaning != "system" && !map.messages.empty()) continue;
    if (meaning == "query" && map.is_alpaca) continue;
    std::vector<std::string> candidates;
    for (const std::string& column : columns) {
      if (options.disable_auto_column_mapping ? column == meaning : meaning_of(column) == meaning)
        candidates.push_back(column);
    }
    // A column with exactly that name wins; otherwise two candidates exclude each other.
    if (contains(candidates, meaning)) candidates = {std::string(meaning)};
    if (candidates.size() == 1) {
      const bool is_solution = lower(candidates[0]) == "solution";
      map.renames.emplace_back(candidates[0],
                               is_solution ? "solution+response" : std::string(meaning));
    } else if (candidates.size() > 1 && meaning == "query") {
      map.ambiguity = fmt::format("{} and {} could both be it", candidates[0], candidates[1]);
    }
  }
  map.has_ground_truth = !options.disable_auto_column_mapping && !contains(columns, "solution") &&
                         std::any_of(rows.begin(), rows.end(), [](const RawRow& row) {
                           Json parsed;
                           return find_column(row.object, kGroundTruth, parsed) != nullptr;
                         });
  FileColumns file_columns{.conversation = conversation_columns(map, columns)};
  if (map.has_ground_truth) file_columns.made.emplace_back("solution");
  map.file_columns = std::make_shared<const FileColumns>(std::move(file_columns));
  return map;
}

std::vector<std::string> describe(const ColumnMap& map) {
  std::vector<std::string> notes;
  if (!map.messages.empty() && map.messages != "messages")
    notes.push_back(map.messages + " -> messages");
  if (map.is_alpaca) notes.emplace_back("instruction, input -> user message");
  if (map.has_ground_truth) notes.push_back(std::string(kGroundTruth) + " -> solution");
  for (const auto& [column, meaning] : map.renames) {
    if (meaning == "query") notes.push_back(column + " -> user message");
    if (meaning == "response") notes.push_back(column + " -> assistant message");
    if (meaning == "system") notes.push_back(column + " -> system message");
    if (meaning == "solution+response")
      notes.push_back(column + " -> assistant message, and kept as column");
  }
  return notes;
}

Row make_row(Json object,
             const std::string& where,
             const ColumnMap& map,
             const DatasetOptions& options) {
  return RowMaker(std::move(object), where, map).make(options);
}

}  // namespace lockstep::text
