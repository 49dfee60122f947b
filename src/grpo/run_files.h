// The files of a run that several ranks make: the first rank writes them, all of them a checkpoint,
// and what fails on one all ranks throw.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "grpo/run_directory.h"
#include "parallel/group.h"
#include "report/report.h"
#include "train/gathered_layers.h"

namespace lockstep::grpo {

/// claim_run() by the first rank, which holds the lock. All ranks know the same path, and resume
/// the same checkpoint. What it throws all throw, as parallel::gather_results() says.
RunClaim claim_together(const RunOptions& options,
                        std::span<const InputPath> inputs,
                        parallel::Group& ranks);

/// A RunDirectory that the first rank has. The others write nothing but their parts of checkpoints.
///
/// An error of a write is kept, and nothing more is written until settle() throws it, on all ranks:
/// a rank that threw it at once would leave the others waiting for it. Ranks make the same calls.
/// Not thread-safe.
class RunFiles {
 public:
  /// Throws on all ranks what RunDirectory's constructor throws.
  RunFiles(const RunOptions& options,
           const Json& args,
           const RunClaim& claim,
           parallel::Group& ranks);

  const std::filesystem::path& path() const { return path_; }
  /// The path of checkpoint-`step`, be it there or not.
  std::filesystem::path checkpoint(int64_t step) const;
  /// Whether it is there, as the first rank sees it. Ranks meet.
  bool has_checkpoint(int64_t step);

  /// Saves a checkpoint, into which all ranks write what is theirs of the model and of the
  /// optimizer's state. Layers are gathered for an adapter alone. Throws on all ranks what fails on
  /// any.
  void save(const train::LoadedModel& model,
            train::GatheredLayers& layers,
            const train::AdamW& optimizer,
            int64_t step,
            const Json& trainer_state,
            const LoopState& loop_state);

  // As of RunDirectory.
  void log(const Json& line, int64_t step);
  void log_completions(const Json& line);
  void keep_split_rows(const std::string& lines);
  void save_merged(const train::LoadedModel& base, model::WeightDtype dtype);
  void choose_best(std::optional<int64_t> step);
  void end_with_best();
  /// From now on report.html is written: after each save, and by write_report().
  void make_report();
  /// Throws nothing.
  void write_report();

  /// The edge of a step, at which ranks meet. Returns the number of a signal that any of them has
  /// got, which all others take for theirs; 0: none has. Throws on all ranks what has failed.
  int settle(const char* what);

 private:
  template <class Action>
  void write(Action&& action);

  parallel::Group& ranks_;
  bool has_optimizer_;
  /// Null on all ranks but the first.
  std::unique_ptr<RunDirectory> directory_;
  std::filesystem::path path_;
  /// Null without --report_html.
  std::unique_ptr<report::RunReport> report_;
  std::exception_ptr error_;
};

}  // namespace lockstep::grpo
