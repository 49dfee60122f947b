// Turns a row as its author wrote it into messages: names of columns, and forms of conversations.
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

/// What the columns of a file mean. This is decided once for each file, from all its rows.
struct ColumnMap {
  /// Column as it stands -> "query", "response", "system" or "solution+response" (read, and kept
  /// too).
  std::vector<std::pair<std::string, std::string>> renames;
  /// Whether instruction and input together are the query.
  bool is_alpaca = false;
  /// The column whose list is the messages, or "". If there is one, no other column is query or
  /// response.
  std::string messages;
  /// Why there is no query: the two columns that could both be it.
  std::string ambiguity;
  /// Whether verl's reward_model.ground_truth becomes the column `solution`, which no row has.
  bool has_ground_truth = false;
  std::shared_ptr<const FileColumns> file_columns;
};

/// The columns of all rows, in order of their first use.
std::vector<std::string> columns_of(const std::vector<RawRow>& rows);
/// Maps the familiar names. A name that two columns would get goes to neither (docs/datasets.md).
ColumnMap map_columns(const std::vector<RawRow>& rows, const DatasetOptions& options);
/// A line for each column that is mapped: "question -> user message".
std::vector<std::string> describe(const ColumnMap& map);

/// The canonical form of a row. Throws FormatError "bad-row" at `where`.
Row make_row(Json object,
             const std::string& where,
             const ColumnMap& map,
             const DatasetOptions& options);

}  // namespace lockstep::text
