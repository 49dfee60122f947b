// Files to rows: rename, map, sample, concatenate.
// SPDX-License-Identifier: Apache-2.0
#include "text/dataset.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "text/dataset_files.h"
#include "text/dataset_row.h"

namespace lockstep::text {
namespace {

constexpr size_t kMaxReasons = 10;

void count_dropped(Dataset& dataset, std::string reason) {
  ++dataset.dropped;
  if (dataset.dropped_reasons.size() < kMaxReasons)
    dataset.dropped_reasons.push_back(std::move(reason));
}

/// Applies --columns, keeping the order of the columns.
void rename(RawRow& row, const Json& columns) {
  Json renamed = Json::object();
  for (auto& [name, value] : row.object.get_ref<Json::object_t&>()) {
    const auto found = columns.find(name);
    const std::string& key = found == columns.end() ? name : found->get_ref<const std::string&>();
    if (renamed.contains(key))
      fail<ConfigError>("bad-config", "--columns",
                        "expected new names that no other column has, got \"{}\" twice at {}", key,
                        row.where);
    renamed[key] = std::move(value);
  }
  row.object = std::move(renamed);
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
    if (!options_.columns.is_null()) {
      for (const std::string& column : columns_of(file.rows)) seen_columns_.insert(column);
      for (RawRow& row : file.rows) rename(row, options_.columns);
    }
    const ColumnMap map = map_columns(file.rows, options_);
    note(map);
    std::vector<Row> rows = make_rows(std::move(file.rows), map);
    if (name.num_samples < 0 || rows.empty()) {
      std::move(rows.begin(), rows.end(), std::back_inserter(dataset_.rows));
      return;
    }
    const auto num_samples = static_cast<size_t>(name.num_samples);
    if (num_samples > rows.size())
      log_warning("{}: {} rows are asked of {}: some come more than once", name.path.string(),
                  num_samples, rows.size());
    for (const size_t row : sample(rows.size(), num_samples, options_.data_seed))
      dataset_.rows.push_back(rows[row]);
  }

  std::vector<Row> make_rows(std::vector<RawRow>&& raw_rows, const ColumnMap& map) {
    std::vector<Row> rows;
    for (RawRow& raw : raw_rows) {
      try {
        rows.push_back(make_row(std::move(raw.object), raw.where, map, options_));
      } catch (const FormatError& error) {
        if (options_.strict) throw;
        count_dropped(dataset_, error.what());
      }
    }
    return rows;
  }

  void note(const ColumnMap& map) {
    for (std::string& line : describe(map)) {
      auto& notes = dataset_.mapping_notes;
      if (std::find(notes.begin(), notes.end(), line) == notes.end())
        notes.push_back(std::move(line));
    }
  }

  void check_renames() const {
    if (options_.columns.is_null()) return;
    for (const auto& [name, value] : options_.columns.items()) {
      if (!seen_columns_.contains(name))
        fail<ConfigError>("bad-config", "--columns",
                          "expected columns of the dataset, got \"{}\", which no file has", name);
    }
  }

  const DatasetOptions& options_;
  Dataset dataset_;
  std::unordered_set<std::string> seen_columns_;
};

}  // namespace

Dataset load_dataset(const DatasetOptions& options) { return Loader(options).load(); }

}  // namespace lockstep::text
