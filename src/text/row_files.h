// Rows as they stand in JSON-lines, JSON and CSV files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace lockstep::text {

struct RawRow {
  Json object;
  /// "file:line"; a row that spans lines has its first.
  std::string where;
};

struct RawFile {
  std::vector<RawRow> rows;
  /// What was wrong with the rows left out; empty if `strict`.
  std::vector<std::string> bad_rows;
};

/// Reads a .jsonl, .json (a list of objects, or JSON lines) or .csv file (the first record names
/// the columns; values are strings, an empty unquoted one is null). Numbers keep their digits
/// (base/json.h, JsonLimits).
///
/// Throws FormatError "bad-row" at "file:line" for a row that is no object, unless not `strict`: it
/// is left out; for a file that cannot be read on, or has no rows, in any case. IoError.
RawFile read_rows(const std::filesystem::path& path, bool strict);

/// Calls `visit("path:line", row)` for each row of such a file. Numbers keep their digits, so that
/// a command which writes its rows again does not change them.
///
/// Throws what check_row_file does; FormatError "bad-row" for a file without rows, a row that is no
/// object, and what check_text_only refuses (text/row.h); InterruptedError between rows; IoError.
void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const std::string& where, Json&& row)>& visit);

/// Throws FormatError "unsupported-dataset" for a hub id, a folder, and parquet and arrow files,
/// saying how to convert; IoError "unreadable-file" for a path that is not there.
void check_row_file(const std::filesystem::path& path);

/// The path of "path#N", without a look at what is there but for a name that is a file itself.
std::filesystem::path dataset_path(std::string_view name);

struct DatasetName {
  std::filesystem::path path;
  /// The N of "path#N"; -1 for all rows.
  int64_t num_samples = -1;
};
/// Takes "path#N" apart. A name that is a file is that file, whatever it looks like.
///
/// Throws what check_row_file does, "unsupported-dataset" for another extension too; ConfigError
/// "bad-config" for "#0".
DatasetName parse_dataset_name(std::string_view name);

}  // namespace lockstep::text
