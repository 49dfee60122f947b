// Rows out, as every command writes them. Rows in: text/row_files.h and text/row.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/json_fwd.h"
#include "base/output_path.h"

namespace lockstep {
class AtomicFile;
}

namespace lockstep::cli {

/// vocab_size of a checkpoint's config.json: the text model's, else the file's own.
/// Throws FormatError "bad-config", IoError.
int64_t read_vocab_size(const std::filesystem::path& model);

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
