// Turns files into rows: renames, maps, samples and concatenates.
// SPDX-License-Identifier: Apache-2.0
#include "text/dataset.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "text/dataset_row.h"
#include "text/row_columns.h"
#include "text/row_files.h"

namespace lockstep::text {
namespace {

constexpr size_t kMaxReasons = 10;

void count_dropped(Dataset& dataset, std::string reason) {
  ++dataset.dropped;
  if (dataset.dropped_reasons.size() < kMaxReasons)
    dataset.dropped_reasons.push_back(std::move(reason));
}

void check_columns(const Json& columns) {
  if (columns.is_null()) return;
  if (!columns.is_object())
    fail<ConfigError>("bad-config", "--columns", "expected an object of old to new names, got {}",
                      columns.type_name());
  for (const auto& [name, value] : columns.items()) {
    if (!value.is_string())
      fail<ConfigError>("bad-config", "--columns", "expected the new name of {} as text, got {}",
                        name, value.type_name());
  }
}

/// Numbers of the rows for "#N": whole copies in order, then the start of a permutation.
std::vector<size_t> sample(size_t num_rows, size_t num_samples, int64_t data_seed) {
  std::vector<size_t> order(num_rows), chosen;
  for (size_t i = 0; i < num_rows; ++i) order[i] = i;
  for (size_t copies = num_samples / num_rows; copies > 0; --copies)
    chosen.insert(chosen.end(), order.begin(), order.end());
  const RandomStream random("dataset-sample", static_cast<uint64_t>(data_seed));
  for (size_t i = 0; i < num_samples % num_rows; ++i) {
    std::swap(order[i], order[i + random.below(i, num_rows - i)]);
    chosen.push_back(order[i]);
  }
  return chosen;
}

class Loader {
 public:
  explicit Loader(const DatasetOptions& options) : options_(options) {}

  Dataset load() {
    check_columns(options_.columns);
    if (options_.dataset.empty())
      fail<ConfigError>("bad-config", "--dataset", "expected at least one file, got none");
    for (const std::string& name : options_.dataset) load_file(parse_dataset_name(name));
    check_renames();
    if (dataset_.rows.empty())
      fail<FormatError>("empty-dataset", "--dataset",
                        "expected at least one good row, got {} bad ones; the first: {}",
                        dataset_.dropped, dataset_.dropped_reasons.front());
    return std::move(dataset_);
  }

 private:
  void load_file(const DatasetName& name) {
    RawFile file = read_rows(name.path, options_.strict);
    for (std::string& reason : file.bad_rows) count_dropped(dataset_, std::move(reason));
    std::vector<Json> file_rows;
    if (options_.recorded)
      for (const RawRow& row : file.rows) file_rows.push_back(row.object);
    if (!options_.columns.is_null()) {
      if (first_columns_.empty() && !file.rows.empty())
        first_columns_ = column_names(file.rows.front().object);
      rename(file.rows);
    }
    std::vector<Json> recorded;
    if (options_.recorded)
      for (RawRow& row : file.rows) recorded.push_back(take_recorded(row.object));
    const ColumnMap map = map_columns(file.rows, options_);
    for (std::string& line : describe(map)) note(std::move(line));
    std::vector<Row> rows = make_rows(std::move(file.rows), map, [&](size_t i, Row& row) {
      if (!options_.recorded) return;
      row.file_row = std::move(file_rows[i]);
      row.recorded = std::move(recorded[i]);
    });
    if (name.num_samples < 0 || rows.empty()) {
      std::move(rows.begin(), rows.end(), std::back_inserter(dataset_.rows));
      return;
    }
    const auto num_samples = static_cast<size_t>(name.num_samples);
    if (num_samples > rows.size())
      log_warning("{}: {} rows are asked for and there are {}, so some come more than once",
                  name.path.string(), num_samples, rows.size());
    for (const size_t row : sample(rows.size(), num_samples, options_.data_seed))
      dataset_.rows.push_back(rows[row]);
  }

  /// Applies --columns.
  void rename(std::vector<RawRow>& rows) {
    for (RawRow& row : rows) {
      for (const auto& [name, new_name] : options_.columns.items()) {
        Json parsed;
        if (find_column(row.object, name, parsed) && seen_columns_.insert(name).second)
          note(fmt::format("{} -> {}", name, new_name.get_ref<const std::string&>()));
      }
      row.object = renamed_columns(std::move(row.object), options_.columns, row.where);
    }
  }

  static Json take_recorded(Json& object) {
    Json recorded = Json::object();
    for (const std::string_view name : kRecordedColumns) {
      const auto found = object.find(std::string(name));
      if (found == object.end()) continue;
      recorded[std::string(name)] = std::move(*found);
      object.erase(found);
    }
    return recorded;
  }

  /// Calls `complete(number in the file, row)` for each good row.
  template <class Complete>
  std::vector<Row> make_rows(std::vector<RawRow>&& raw_rows,
                             const ColumnMap& map,
                             const Complete& complete) {
    std::vector<Row> rows;
    for (size_t i = 0; i < raw_rows.size(); ++i) {
      RawRow& raw = raw_rows[i];
      try {
        rows.push_back(make_row(std::move(raw.object), raw.where, map, options_));
        complete(i, rows.back());
      } catch (const FormatError& error) {
        if (options_.strict) throw;
        count_dropped(dataset_, error.what());
      }
    }
    return rows;
  }

  void note(std::string line) {
    auto& notes = dataset_.mapping_notes;
    if (std::find(notes.begin(), notes.end(), line) == notes.end())
      notes.push_back(std::move(line));
  }

  void check_renames() const {
    if (options_.columns.is_null()) return;
    for (const auto& [name, value] : options_.columns.items()) {
      if (!seen_columns_.contains(name))
        fail<ConfigError>("bad-config", "--columns",
                          "expected columns of the dataset, got \"{}\", which no file has (the "
                          "first row has {})",
                          name, names_of(first_columns_));
    }
  }

  const DatasetOptions& options_;
  Dataset dataset_;
  std::unordered_set<std::string> seen_columns_;
  /// The first row's, as they stand in its file.
  std::vector<std::string> first_columns_;
};

}  // namespace

Dataset load_dataset(const DatasetOptions& options) { return Loader(options).load(); }

namespace {

/// Names of the columns as the file has them.
std::vector<std::string> names_in_file(const Row& row) {
  const FileColumns none, &file = row.file_columns ? *row.file_columns : none;
  std::vector<std::string> names = file.conversation;
  const auto is_in = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  // A column that was null is still there.
  for (std::string& name : column_names(row.columns))
    if (!is_in(file.made, name) && !is_in(names, name)) names.push_back(std::move(name));
  return names;
}

/// Whether rows of the file give up this column to the conversation.
bool is_of_conversation(const Row& row, const std::string& name) {
  if (!row.file_columns) return false;
  const auto& names = row.file_columns->conversation;
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void require_column(const Row& row, const std::string& column, std::string_view purpose) {
  if (row.columns.is_object() && row.columns.contains(column)) return;
  fail<FormatError>("bad-row", row.where, "expected a column {} for {}, got {}", column, purpose,
                    columns_and_hint(names_in_file(row), column));
}

void require_answer(const Row& row) {
  for (const Json& message : row.messages)
    if (message.value("role", Json()) == "assistant") return;
  const auto names = names_in_file(row);
  const auto has = [&](const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  // Only a column that could be the answer is part of the conversation and may be null.
  for (const std::string& name : names)
    if (name != "system" && name != "system_prompt" && row.columns.contains(name) &&
        row.columns[name].is_null() && is_of_conversation(row, name))
      fail<FormatError>("bad-row", row.where,
                        "expected a turn of the assistant to learn from, got null in {}", name);
  // Rows of whole conversations have no column for the answer.
  const bool can_map = !has("messages") && !has("conversation") && !has("conversations");
  const char* wanted = has("prompt") ? "completion" : "response";
  fail<FormatError>("bad-row", row.where,
                    "expected a turn of the assistant to learn from, got none in columns {}",
                    can_map ? columns_and_hint(names, wanted) : names_of(names));
}

}  // namespace lockstep::text
