// Rows in and rows out, as every command reads and writes them: JSON lines, with file:line in
// errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json_fwd.h"
#include "base/output_path.h"

namespace lockstep {
class AtomicFile;
}

namespace lockstep::cli {

/// Calls `visit("path:line", row)` for each row of a JSON-lines file.
///
/// Throws what text::check_row_file does; FormatError "bad-row" for a file without rows, a row that
/// is no object, and non-empty images, videos or audios; InterruptedError between rows; IoError.
void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const std::string& where, Json&& row)>& visit);

/// The ids under `key`. Throws FormatError "bad-row" unless they are a list of whole numbers in [0,
/// vocab_size).
std::vector<int64_t> ids_of(const Json& row,
                            std::string_view key,
                            int64_t vocab_size,
                            std::string_view where);

/// vocab_size of a checkpoint's config.json: the text model's, else the file's own.
/// Throws FormatError "bad-config", IoError.
int64_t read_vocab_size(const std::filesystem::path& model);

/// Runs `function`; what it throws about a row's text, ids or template comes out as "bad-row" at
/// `where`.
template <class Function>
auto at_row(std::string_view where, Function&& function) {
  try {
    return function();
  } catch (const FormatError& error) {
    if (error.code() == "bad-template" || error.where() == where) throw;
    // A tokenizer or a template does not know which row it works on.
    fail<FormatError>("bad-row", where, "{}", error.what());
  }
}

/// Result rows: into a file that appears when all are written, or to stdout in one go.
///
/// Not thread-safe.
class RowWriter {
 public:
  /// `output`: the file that `flag` names, or "" for stdout. `inputs`: what the command reads.
  /// Throws ConfigError "output-is-input" and "output-exists" at the flag; IoError.
  RowWriter(const std::string& output,
            bool overwrite,
            std::string_view flag,
            std::span<const InputPath> inputs);
  ~RowWriter();
  /// Throws IoError "unwritable-output".
  void write(const Json& row);
  void commit();

 private:
  std::unique_ptr<AtomicFile> file_;
  /// Rows for stdout, until commit().
  std::string held_;
};

}  // namespace lockstep::cli
