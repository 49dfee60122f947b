// A run's directory: args.json, logging.jsonl, completions.jsonl, runs/, checkpoint-N/, last.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "grpo/options.h"
#include "io/event_file.h"
#include "train/hf_checkpoint.h"
#include "train/optimizer.h"

namespace lockstep::grpo {

/// Where a run takes up again.
struct ResumePoint {
  std::filesystem::path directory;  ///< checkpoint-N
  int64_t global_step = 0;
  Json
      state;  ///< What our own loop saved; null for another trainer's checkpoint (weights and step count only).
};

/// Finds the checkpoint that --resume_from_checkpoint names; unset when the run starts anew (no flag, or `last` without one).
/// Throws ConfigError "bad-resume" for a directory that is no checkpoint.
std::optional<ResumePoint> find_resume_point(const RunOptions& options);

/// Writes a run's files. Checkpoints appear whole or not at all. Not thread-safe. Throws IoError.
class RunDirectory {
 public:
  /// Makes or re-opens the directory: refuses an existing one unless it is overwritten or resumed, removes what an interrupted
  /// save left, and cuts both logs back to the checkpoint. Throws ConfigError "output-exists".
  RunDirectory(const RunOptions& options,
               const Json& args,
               const std::optional<ResumePoint>& resume);

  const std::filesystem::path& path() const { return path_; }
  /// A line of logging.jsonl and its scalars for TensorBoard.
  void log(const Json& line, int64_t step);
  void log_completions(const Json& line);

  /// Saves checkpoint-`step`: the model, `loop_state`, and the optimizer unless save_only_model; moves `last`; deletes the
  /// oldest over save_total_limit. Returns its directory.
  std::filesystem::path save(const train::LoadedModel& model,
                             const train::AdamW& optimizer,
                             int64_t step,
                             const Json& trainer_state,
                             const Json& loop_state);

 private:
  void prune(int64_t newest) const;

  RunOptions options_;
  Json args_;
  std::filesystem::path path_;
  size_t shard_bytes_ = 0;
  std::unique_ptr<LineFile> logging_, completions_;
  std::unique_ptr<io::EventFile> events_;
};

/// Loads what save() wrote beside the model. Throws FormatError "bad-optimizer-state".
void load_optimizer(const ResumePoint& resume, train::AdamW& optimizer);

}  // namespace lockstep::grpo
