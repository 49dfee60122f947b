// Writes rows, as every command does. Rows are read by text/row_files.h and text/row.h.
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

/// The vocab_size in a checkpoint's config.json: that of the text model, else that of the root.
/// Throws FormatError "bad-config", IoError.
int64_t read_vocab_size(const std::filesystem::path& model);

/// Writes result rows into a file that appears when all are written, or to stdout at once.
///
/// Not thread-safe.
class RowWriter {
 public:
  /// `output` is the file that `flag` names, or "" for stdout; `inputs` is what the command reads.
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
  /// The rows for stdout until commit().
  std::string held_;
};

/// Results did not reach stdout, as errno says: throws IoError "unwritable-output". `wanted`: "all
/// rows". Where nobody reads them (`lockstep … | head`) the process ends by SIGPIPE and without a
/// word, as other programs do.
[[noreturn]] void fail_stdout(std::string_view wanted);

}  // namespace lockstep::cli
