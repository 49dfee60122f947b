// What sft and grpo share: a model under training, its optimizer and schedule, its run directory,
// logs and checkpoints.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "grpo/metrics.h"
#include "grpo/options.h"
#include "grpo/run_directory.h"
#include "text/dataset.h"
#include "train/hf_checkpoint.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// Everything that a run of sft or grpo is told.
struct TrainingOptions {
  ModelOptions model;
  DataOptions data;
  RunOptions run;
  BatchOptions batch;
  train::OptimizerOptions optimizer;
  train::ScheduleOptions schedule;
  train::TrainerOptions trainer;

  /// Visits the groups with their names, for the command line.
  template <class Visitor>
  void for_each_group(Visitor&& visit) {
    visit("model", model);
    visit("data", data);
    visit("run", run);
    visit("batches", batch);
    visit("optimizer", optimizer);
    visit("schedule", schedule);
    visit("memory", trainer);
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// What the command hands in beside the options.
struct RunContext {
  int64_t seed = 42;
  bool exact = true;
  std::optional<model::WeightDtype> torch_dtype;
  /// All resolved options: args.json.
  Json args;
  /// After the checks, before the first step.
  std::function<void(int64_t total, int64_t done)> on_start = [](int64_t, int64_t) {};
  std::function<void(int64_t done, int64_t total, const std::string& note)> on_progress =
      [](int64_t, int64_t, const std::string&) {};
};

/// What a loop knows before its first step.
struct RunPlan {
  int64_t max_steps = 0;
  /// For the log and --save_strategy epoch.
  double steps_per_epoch = 1;
  /// The sampler's caches.
  int64_t cache_bytes = 0;
  /// The reference model's weights.
  int64_t reference_bytes = 0;
  ReuseActivations reuse_activations = ReuseActivations::kFalse;
  /// What the layers read while sampling, if it is kept.
  int64_t kept_bytes = 0;
  /// No step trains on completions of earlier weights.
  bool is_on_policy = false;
  /// The largest one.
  train::StepShape step;
};

/// What sft and grpo do differently in the one loop.
struct TrainingLoop {
  /// One optimizer step: calls TrainingRun::step once.
  std::function<void()> step;
  std::function<void()>
      /// Logs the held-out rows' metrics; does nothing without such rows.
      evaluate;
  /// Asked for when a checkpoint is written.
  std::function<LoopState()> state;
};

/// A training run: weights, optimizer, schedule, logs. The loops of sft and grpo call it once a
/// step. Not thread-safe.
class TrainingRun {
 public:
  /// Loads the model, or what the resume point holds. Writes nothing until begin().
  TrainingRun(const TrainingOptions& options, const RunContext& context);

  const train::LoadedModel& model() const { return model_; }
  train::Trainer& trainer() { return *trainer_; }
  const std::optional<ResumePoint>& resume() const { return resume_; }
  int64_t global_step() const { return global_step_; }
  int64_t max_steps() const { return max_steps_; }
  bool is_done() const { return global_step_ >= max_steps_; }
  Metrics& metrics() { return metrics_; }
  RunDirectory& directory() { return *directory_; }
  /// Whether the memory plan keeps what the layers read while sampling; known after begin().
  bool reuses_activations() const { return reuses_activations_; }

  /// Prints the memory plan, opens the run directory and restores optimizer and metrics.
  void begin(const RunPlan& plan);
  /// One optimizer step with these gradients.
  void step(const std::vector<at::Tensor>& gradients);
  /// Steps, evaluations, log lines and checkpoints until max_steps, then the last checkpoint and
  /// the summary line. Throws InterruptedError after a signal, when everything of the step is
  /// written.
  void loop(const TrainingLoop& loop);
  /// A line of logging.jsonl, with step and epoch added.
  void log(Json line);
  /// Puts what an unset option became into args.json; before begin().
  void resolve(const char* name, Json value);

 private:
  bool is_due(const std::string& strategy, int64_t steps) const;
  void check_same_model(const model::ModelConfig& named) const;
  void plan_memory(const RunPlan& plan);
  void choose_kept(const RunPlan& plan, double available);
  bool is_evaluation_due() const;
  void after_step(const std::function<LoopState()>& loop_state);
  void finish(const std::function<LoopState()>& loop_state);
  void log_metrics();
  void save(const std::function<LoopState()>& loop_state);
  double seconds() const;

  TrainingOptions options_;
  RunContext context_;
  std::optional<ResumePoint> resume_;
  train::LoadedModel model_;
  std::unique_ptr<train::Trainer> trainer_;
  std::unique_ptr<train::AdamW> optimizer_;
  std::unique_ptr<train::Schedule> schedule_;
  std::unique_ptr<RunDirectory> directory_;
  Metrics metrics_;
  int64_t global_step_ = 0, first_step_ = 0, max_steps_ = 0, last_saved_ = -1;
  double steps_per_epoch_ = 1;
  bool reuses_activations_ = false;
  /// Memory.
  double planned_gib_ = 0;
  std::filesystem::path last_checkpoint_;
  std::chrono::steady_clock::time_point begun_;
};

/// Tells which thinking mode the template renders, and shows the end of `rendered`, a prompt or "a
/// conversation".
void say_template(const ModelOptions& model, const std::string& rendered, const char* what);

/// Order of `count` rows in `epoch`: the identity, or a permutation by (data_seed, epoch).
std::vector<int64_t> epoch_order(int64_t count, int64_t epoch, const DataOptions& options);

/// Loads --dataset and --val_dataset (or splits), and logs the column mapping and the first bad
/// rows.
struct RunData {
  text::Dataset train, validation;
};
/// `token_rows`: rows of `input_ids` are taken too (text/dataset.h).
RunData load_run_data(const DataOptions& options,
                      const std::string& system,
                      bool token_rows = false);

}  // namespace lockstep::grpo
