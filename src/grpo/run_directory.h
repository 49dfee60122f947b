// A run's directory: args.json, logging.jsonl, completions.jsonl, report.html, runs/,
// checkpoint-N/, last, best.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/output_path.h"
#include "grpo/options.h"
#include "io/event_file.h"
#include "io/safetensors.h"
#include "train/adamw.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// The file of a checkpoint that says its step; transformers' Trainer writes one of that name too.
inline constexpr const char* kTrainerState = "trainer_state.json";

/// Where a run takes up again.
struct ResumePoint {
  /// The checkpoint: a folder checkpoint-N.
  std::filesystem::path directory;
  int64_t global_step = 0;
  /// Whether it lies in the run directory that --output_dir names, whose logs then go on. Else the
  /// output is a new run.
  bool is_same_run = false;
  /// LoopState::values; null for another trainer's checkpoint, which gives weights and step count
  /// only.
  Json state;
};

/// Whether a run writes files or folders of this name. Anything else in a folder is not ours to
/// delete.
bool is_run_file(const std::filesystem::path& name);

/// The name of the folder of a step's checkpoint.
std::string checkpoint_name(int64_t step);

/// `last`, or the newest checkpoint of a run's folder if the link is missing, points nowhere
/// (copied folders lose links), or points to the best one; unset if there is none.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run);

/// The folder of the newest version of --add_version below `base` that has a checkpoint, else
/// `base`.
std::filesystem::path newest_version(const std::filesystem::path& base);

/// Finds the checkpoint that --resume_from_checkpoint names; unset when the run starts anew
/// (without the flag, or with `last` if there is no checkpoint). `last` is the link of that name,
/// or the newest checkpoint if the link is missing or points to the best one; with --add_version
/// that of the newest version. Throws ConfigError "bad-resume" for a directory that is not a
/// checkpoint.
std::optional<ResumePoint> find_resume_point(const RunOptions& options);

/// What a run knows before anything is read: where it writes, what it resumes, and the lock of a
/// directory that exists already.
struct RunClaim {
  std::filesystem::path path;
  std::optional<ResumePoint> resume;
  /// Shared because the run's context, which holds the claim, is copied. Null if the directory does
  /// not exist yet.
  std::shared_ptr<DirectoryLock> lock;
};

/// Claims the directory that a run with these options writes. Throws ConfigError "output-is-input"
/// for one that would destroy one of `inputs`; "output-locked" for one that another process writes;
/// "output-exists" for one that exists already, unless it is overwritten or this very run is
/// resumed; "bad-resume".
RunClaim claim_run(const RunOptions& options, std::span<const InputPath> inputs);

/// What a loop keeps in a checkpoint besides weights and optimizer.
struct LoopState {
  Json values = Json::object();
  /// The tensors of rollout_buffer.safetensors; without any the file is not written.
  std::vector<io::NamedTensor> buffer;
  /// Those of reference.safetensors: a reference model that is no longer the one that was loaded.
  std::vector<io::NamedTensor> reference = {};
};
inline constexpr const char* kBufferFile = "rollout_buffer.safetensors";
inline constexpr const char* kReferenceFile = "reference.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";

/// The path of a checkpoint's file: in training_state/, where loaders of weights do not look (vLLM
/// takes every *.safetensors next to config.json for weights), or next to config.json as in older
/// checkpoints.
std::filesystem::path state_file(const ResumePoint& resume, const char* name);

/// The optimizer's file in the folder of a checkpoint.
std::filesystem::path optimizer_file(const std::filesystem::path& checkpoint);

/// A number of LoopState::values. Throws FormatError "bad-resume" if it is missing.
int64_t state_number(const ResumePoint& resume, const char* name);

/// The TensorBoard tag of a logged name: eval/x for eval_x, train/x for all else. Source:
/// transformers 5.23 integrations/integration_utils.py, rewrite_logs.
std::string event_tag(const std::string& name);

/// Writes a run's files. Checkpoints appear whole or not at all. Not thread-safe. Throws IoError.
class RunDirectory {
 public:
  /// Makes or re-opens the claimed directory and holds its lock. Removes what an interrupted save
  /// left; for a resumed run cuts both logs back to the checkpoint. Throws ConfigError
  /// "output-exists" or "output-locked" if another run has begun there since.
  RunDirectory(const RunOptions& options, const Json& args, const RunClaim& claim);

  const std::filesystem::path& path() const { return path_; }
  /// Writes a line of logging.jsonl, and its scalars for TensorBoard.
  void log(const Json& line, int64_t step);
  void log_completions(const Json& line);

  /// Writes the rows that are held out by --split_dataset_ratio as val_dataset.jsonl, as ms-swift
  /// does.
  void keep_split_rows(const std::string& lines) const;

  /// Begins checkpoint-`step`: writes an adapter, or lays out the model for all ranks to write
  /// their parts of it (train::checkpoint_parts); writes `loop_state`; and unless save_only_model
  /// lays out optimizer_file() for their parts of the optimizer's state (io::write_parts). Returns
  /// the folder in which that lies. What was begun before and not finished is removed.
  std::filesystem::path begin_save(const train::LoadedModel& model,
                                   std::span<const io::TensorPart> optimizer,
                                   int64_t step,
                                   const Json& trainer_state,
                                   const LoopState& loop_state);
  /// Makes the checkpoint that was begun appear under its name; moves `last`; deletes the oldest
  /// over save_total_limit. Returns its directory.
  std::filesystem::path finish_save();
  /// Writes `base` in `dtype` with the adapter of the checkpoint that `last` points to merged into
  /// it, as export --merge_lora does, into a folder with -merged behind that checkpoint's name.
  std::filesystem::path save_merged(const train::LoadedModel& base, model::WeightDtype dtype) const;
  /// Says which checkpoint is the best from the next save on, if that is not there yet, else from
  /// now on: it is not deleted, and `best` points to it. Unset: none is.
  void choose_best(std::optional<int64_t> step);
  /// Makes `last` point to the best checkpoint.
  void end_with_best() const;

 private:
  std::filesystem::path checkpoint(int64_t step) const;
  void make();
  void link(const char* link, const std::string& name) const;
  void link_best() const;
  void prune(int64_t newest) const;

  /// What is done unless the run begins. It must not throw.
  struct Undo {
    std::function<void()> action;
    ~Undo() {
      if (action) action();
    }
  };

  RunOptions options_;
  Json args_;
  std::filesystem::path path_;
  // In this order, so that the files are removed while the lock is held, and the folder when the
  // lock's file is gone.
  Undo remove_folder_;
  std::shared_ptr<DirectoryLock> lock_;
  Undo remove_files_;
  size_t shard_bytes_ = 0;
  std::optional<int64_t> best_step_;
  /// The checkpoint that is being written, and its step.
  std::unique_ptr<AtomicDirectory> saving_;
  int64_t saving_step_ = 0;
  std::unique_ptr<LineFile> logging_, completions_;
  std::unique_ptr<io::EventFile> events_;
};

/// Loads what save() wrote besides the model. Throws FormatError "bad-optimizer-state".
void load_optimizer(const ResumePoint& resume, train::AdamW& optimizer);

}  // namespace lockstep::grpo
