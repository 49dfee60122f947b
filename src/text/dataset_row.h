// From a row as its author wrote it to messages: names of columns, forms of conversations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/dataset.h"
#include "text/row_files.h"

namespace lockstep::text {

/// Which columns of a file mean what. Decided once a file, from all its rows.
struct ColumnMap {
  /// Column as it stands -> "query", "response", "system" or "solution+response" (read, and kept
  /// too).
  std::vector<std::pair<std::string, std::string>> renames;
  /// instruction and input together are the query.
  bool is_alpaca = false;
  /// The column whose list is the messages, "" for none: then no other column is query or response.
  std::string messages;
  /// Why there is no query: two columns that would both be it.
  std::string ambiguity;
  /// verl's reward_model.ground_truth becomes the column `solution`, which no row has.
  bool has_ground_truth = false;
  std::shared_ptr<const FileColumns> file_columns;
};

/// The columns of all rows, in order of their first use.
std::vector<std::string> columns_of(const std::vector<RawRow>& rows);
/// Maps the familiar names; a name that two columns would get, neither gets (docs/datasets.md).
ColumnMap map_columns(const std::vector<RawRow>& rows, const DatasetOptions& options);
/// "question -> user message", one line a column that is mapped.
std::vector<std::string> describe(const ColumnMap& map);

/// The canonical form of a row. Throws FormatError "bad-row" at `where`.
Row make_row(Json object,
             const std::string& where,
             const ColumnMap& map,
             const DatasetOptions& options);

}  // namespace lockstep::text
