// What a run directory says of a run, read as it grows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/json.h"
#include "report/curves.h"
#include "report/growing_file.h"
#include "report/length_grid.h"
#include "report/samples.h"

namespace lockstep::report {

/// A run: logging.jsonl, completions.jsonl and args.json of a run directory, ours or ms-swift's, or
/// the log_history of a trainer_state.json of transformers and TRL where there is no logging.jsonl.
/// Its memory is bounded whatever the length of the run. Not thread-safe.
class RunReader {
 public:
  /// `path`: a run directory, or a logging.jsonl itself. Throws ConfigError "missing-run" for what
  /// is neither.
  explicit RunReader(const std::filesystem::path& path);
  /// A run directory whose files come into being.
  static RunReader growing(const std::filesystem::path& directory);

  /// Reads what has come since the last call. Returns whether there was anything. Throws IoError.
  bool read();

  const std::filesystem::path& directory() const { return directory_; }
  /// The files that it reads.
  std::vector<std::filesystem::path> files() const;
  const Curves& curves() const { return curves_; }
  /// Lines that are no JSON objects, or that say no step.
  int64_t num_bad_lines() const { return bad_lines_; }

  /// What stands on the page of this run: see docs/report.md. `name` is what the page calls it.
  std::string json(const std::string& name) const;
  /// The part that changes with every line: step, times, summary; rows of the curves from `row` of
  /// `generation` on, or all where the rows before it are others now.
  std::string changes_json(int64_t generation, int64_t row) const;
  /// The settings as an object of texts.
  std::string settings_json() const;
  /// "lengths" and "samples".
  std::string completions_json() const;
  /// Changes whenever completions_json() does.
  int64_t completions_version() const { return completions_version_; }

 private:
  RunReader() = default;
  void set_directory(const std::filesystem::path& directory);
  void restart();
  void restart_completions();
  void take_line(std::string_view text);
  void take_logged(const Json& line);
  void take_completions(std::string_view text, int64_t offset);
  void read_args();
  void read_trainer_state();
  std::string status_json() const;

  std::filesystem::path directory_;
  GrowingFile logging_{""}, completions_{""};
  Json args_ = Json::object(), summary_, last_ = Json::object();
  bool has_args_ = false, has_history_ = false, counts_characters_ = false;
  Curves curves_, evaluations_;
  LengthGrid lengths_;
  Samples samples_;
  int64_t step_ = 0, max_steps_ = 0, bad_lines_ = 0, completions_version_ = 0;
};

}  // namespace lockstep::report
