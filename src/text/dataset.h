// Rows of training data: JSON lines, JSON and CSV files, with the field's column names mapped to
// ours.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/row.h"

namespace lockstep::text {

struct DatasetOptions {
  std::vector<std::string>
      /// Files, each with an optional "#N": N rows drawn with data_seed.
      dataset;
  /// Object old name -> new name, or null. Dots name nested columns: "reward_model.ground_truth".
  Json columns;
  bool disable_auto_column_mapping = false;
  /// Whether a bad row is an error; otherwise it is dropped and counted.
  bool strict = true;
  int64_t data_seed = 42;
  /// Default system prompt, "" for none.
  std::string system;
  /// Whether a row with `input_ids` is taken as it is, with all of it in `columns` and `messages`
  /// null.
  bool token_rows = false;
  /// Rows with completions that somebody recorded: the columns of kRecordedColumns are no part of
  /// the conversation, which may be missing. See Row::file_row and Row::recorded.
  bool recorded = false;
};

/// Where recorded completions stand: text, a list of texts, what `infer` writes, and the ids of a
/// single one.
inline constexpr std::string_view kRecordedColumns[] = {"completion", "completions", "responses",
                                                        "token_ids"};

struct Dataset {
  std::vector<Row> rows;
  /// How columns were mapped, printed at the start: "question -> user message".
  std::vector<std::string> mapping_notes;
  int64_t dropped = 0;
  /// The reasons of the first ten.
  std::vector<std::string> dropped_reasons;
};

/// Reads and maps the files. Row forms: messages / conversations (sharegpt), query + response,
/// instruction + input + output (alpaca), TRL's prompt as a list of messages (docs/datasets.md).
/// Columns that are no part of the conversation stay in `columns`; a last assistant message stays
/// in `messages`. "file#N": N div len whole copies in order, then N mod len rows by a seeded
/// permutation (a warning when N > len). Throws FormatError "bad-row" (file:line; a file without
/// rows), "empty-dataset" (all rows were dropped), "unsupported-dataset" (hub id, parquet: says how
/// to convert); ConfigError "bad-config" (`columns`, "#0"); IoError.
Dataset load_dataset(const DatasetOptions& options);

/// Throws FormatError "bad-row" at the row unless it has the column; `purpose` says what needs it.
/// The error names the columns of the row and how one of them gets the name.
void require_column(const Row& row, const std::string& column, std::string_view purpose);

/// Throws FormatError "bad-row" at the row unless its conversation has a turn of the assistant; as
/// above.
void require_answer(const Row& row);

}  // namespace lockstep::text
