// What sft and grpo share: a model under training, its optimizer and schedule, its run directory,
// logs and checkpoints.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "grpo/adapter_set.h"
#include "grpo/best_checkpoint.h"
#include "grpo/early_stop.h"
#include "grpo/log_line.h"
#include "grpo/memory_plan.h"
#include "grpo/metrics.h"
#include "grpo/options.h"
#include "grpo/resume_check.h"
#include "grpo/run_files.h"
#include "grpo/run_monitor.h"
#include "grpo/tuner.h"
#include "parallel/group.h"
#include "train/adamw.h"
#include "train/hf_checkpoint.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// The options that sft and grpo share.
struct TrainingOptions {
  ModelOptions model;
  TunerOptions tuner;
  AdapterSetOptions adapter_set;
  DataOptions data;
  RunOptions run;
  BatchOptions batch;
  train::OptimizerOptions optimizer;
  train::ScheduleOptions schedule;
  train::TrainerOptions trainer;
  train::ShardingOptions sharding;

  /// Visits the groups with their names, for the command line.
  template <class Visitor>
  void for_each_group(Visitor&& visit) {
    visit("model", model);
    visit("tuner", tuner);
    visit("several adapters", adapter_set);
    visit("data", data);
    visit("run", run);
    visit("batches", batch);
    visit("optimizer", optimizer);
    visit("schedule", schedule);
    visit("memory", trainer);
    visit("sharding", sharding);
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// A completion that a person sees.
struct ShownSample {
  double reward = 0;
  int64_t tokens = 0;
  bool is_cut = false;
  std::string text;
};

/// What the command gives a run besides the options.
struct RunContext {
  /// The adapter's name where several are trained; else empty.
  std::string name;
  int64_t seed = 42;
  bool exact = true;
  std::optional<model::WeightDtype> torch_dtype;
  /// All resolved options, for args.json.
  Json args;
  /// What other values of them mean for a run that is resumed.
  ResumeRules resume_rules;
  /// The run directory, and what is resumed.
  RunClaim claim;
  /// Called after the checks and before the first step.
  std::function<void()> on_start = [] {};
  /// Called whenever there is progress.
  RunMonitor::Watcher on_status = [](const RunStatus&) {};
  /// Called with the parts of a log line for a person.
  std::function<void(const std::vector<LogField>& fields)> on_log =
      [](const std::vector<LogField>&) {};
  /// Called with each line of logging.jsonl, and with one completion of each round of sampling.
  std::function<void(const Json& line)> on_line = [](const Json&) {};
  std::function<void(const ShownSample& sample)> on_sample = [](const ShownSample&) {};
  /// The processes that make the run together, of which this is one; it must outlive the run. All
  /// are given the same options, and compute the same but for what they share out.
  parallel::Group* ranks = &parallel::alone();
};

/// How an epoch is cut into optimizer steps, counted as transformers' Trainer counts them: each
/// step has `accumulation` micro-steps, but the last one of an epoch has those that are left.
struct EpochLength {
  int64_t micro_steps = 1, accumulation = 1;

  int64_t steps() const { return (micro_steps + accumulation - 1) / accumulation; }
  /// How many micro-steps precede optimizer step `step`, which is counted from 0 over all epochs.
  int64_t first_micro_step(int64_t step) const;
  /// How many epochs are done after `step` optimizer steps.
  double epochs(int64_t step) const;
  /// --max_steps, or the steps of --num_train_epochs.
  int64_t max_steps(const RunOptions& options) const;
};

struct BaseModel;

/// What the loop of sft or grpo knows before its first step.
struct RunPlan {
  int64_t max_steps = 0;
  /// Needed for the log and for --save_strategy epoch.
  EpochLength epoch;
  /// The bytes of the sampler's caches, and how many sequences they hold at once; 0 if nothing is
  /// sampled.
  int64_t cache_bytes = 0, sequences_at_once = 0;
  /// What sampling takes besides its caches.
  int64_t sampling_bytes = 0;
  /// The bytes of the reference model's weights, which the runs of a command share.
  int64_t reference_bytes = 0;
  ReuseActivations reuse_activations = ReuseActivations::kFalse;
  /// The bytes of what the layers read while sampling, if that is kept.
  int64_t kept_bytes = 0;
  /// The bytes of the experts that router replay keeps of a batch's tokens.
  int64_t routed_bytes = 0;
  /// Whether no step trains on completions of earlier weights.
  bool is_on_policy = false;
  /// The optimizer steps that may need the most memory.
  std::vector<train::StepShape> steps;
  /// The phases whose times are logged.
  std::vector<Phase> phases;
  /// What evaluations log.
  std::vector<std::string> evaluation_metrics;
};

/// The parts of the loop that differ between sft and grpo.
struct TrainingLoop {
  /// Called when the memory plan is made.
  std::function<void()> planned = [] {};
  /// Makes one optimizer step: calls TrainingRun::step once.
  std::function<void()> step;
  /// The metrics of the held-out rows, whose names begin with "eval_"; an empty object without such
  /// rows. If it throws InterruptedError, it has changed nothing.
  std::function<Json()> evaluate;
  /// Called when a checkpoint is written.
  std::function<LoopState()> state;
  /// Called after each step and its log line.
  std::function<void()> after_step = [] {};
  /// Called when the run ends, at its end or after a signal, before a last checkpoint is written.
  std::function<void()> ending = [] {};
};

/// A training run: weights, optimizer, schedule, logs. The loops of sft and grpo call it once a
/// step, and train_in_turns() (turns.h) says when. Not thread-safe.
class TrainingRun {
 public:
  /// Takes the model, and makes or loads the adapter that is trained beside it. Writes nothing.
  /// `best_metric` is the one by which a checkpoint is the best where no flag says it.
  TrainingRun(const TrainingOptions& options,
              const RunContext& context,
              const BaseModel& base,
              const std::string& best_metric);

  const train::LoadedModel& model() const { return model_; }
  train::Trainer& trainer() { return *trainer_; }
  const std::optional<ResumePoint>& resume() const { return context_.claim.resume; }
  /// RunContext::name
  const std::string& name() const { return context_.name; }
  parallel::Group& ranks() const { return *context_.ranks; }
  /// Whether this process makes it without others.
  bool is_alone() const { return ranks().size() == 1; }
  /// What of the optimizer's state each of them has.
  train::Shards shards() const {
    return {ranks(), options_.sharding.sharding, options_.sharding.expert_parallel_size};
  }
  int64_t global_step() const { return global_step_; }
  int64_t max_steps() const { return max_steps_; }
  Metrics& metrics() { return metrics_; }
  RunMonitor& monitor() { return monitor_; }
  RunFiles& files() { return *files_; }
  /// What the dropout of the next optimizer step is drawn by; unset: nothing is dropped.
  std::optional<train::DropoutStep> dropout() const;
  /// Whether the memory plan keeps what the layers read while sampling; known when it is made.
  bool reuses_activations() const { return reuses_activations_; }
  /// Whether the memory plan has room for the sampler's caches in a training step too.
  bool keeps_caches() const { return keeps_caches_; }

  /// Makes one optimizer step with these gradients, which come from `tokens` of prompts and
  /// completions.
  void step(const std::vector<at::Tensor>& gradients, int64_t tokens);
  /// Writes a line of logging.jsonl, with step and epoch added.
  void log(Json line);
  /// Puts the value that an unset option got into args.json. Call before check_resume() and
  /// prepare().
  void resolve(const char* name, Json value);
  /// Puts digests of what flags name into args.json. Call before check_resume() and prepare().
  void add_digests(const Json& digests);
  /// Rows as JSON lines that the run directory keeps as val_dataset.jsonl; empty: none. Call before
  /// open().
  void keep_split_rows(std::string rows) { split_rows_ = std::move(rows); }
  /// Compares the checkpoint that is resumed with this run. `plan` is the one in which its cursor
  /// is counted; returns false if the checkpoint has another, so that the cursor cannot be used.
  /// Throws ConfigError "resume-changed" for what changes the run's meaning, unless
  /// --resume_changed is true; "bad-resume" for a checkpoint of another command.
  bool check_resume(const std::string& command, const Json& plan);

  // The course of a run, in this order: prepare, plan_memory, open, start, turn …, finish or stop.
  // From open() on each ends at an edge where the ranks meet: what is lost on one of them, a file
  // that it could not write, is thrown by all.

  /// Makes optimizer and schedule. Writes nothing.
  void prepare(RunPlan plan, TrainingLoop loop);
  /// Makes and prints the memory plan of runs that take turns beside one model.
  static void plan_memory(std::span<TrainingRun* const> runs);
  /// Opens the run directory and restores optimizer and metrics.
  void open();
  /// What precedes the first step: --eval_on_start, or what a resumed run has left of its last one.
  void start();
  /// Makes one optimizer step, with its log line, evaluation and checkpoint. After a signal the
  /// step is finished, and an evaluation that the signal cuts short is left to a resumed run.
  void turn();
  /// Whether a rank had got a signal when open(), start() or turn() ended: all say the same.
  bool is_interrupted() const { return is_interrupted_; }
  /// Whether max_steps are done, or as many as evaluations let it, with all that follows a step.
  bool is_over() const { return (is_done() || early_stop_.is_reached()) && is_step_finished_; }
  /// Writes the last checkpoint and the summary line.
  void finish();
  /// Ends the run after a signal: saves what is not saved yet, unless flags say otherwise. Returns
  /// the last checkpoint; empty if there is none.
  std::filesystem::path stop();

  /// Writes report.html as far as the run has come. Throws nothing.
  void write_report();

  bool saves_on_interrupt() const;
  /// Whether its checkpoints can be resumed.
  bool can_be_resumed() const { return !options_.run.save_only_model; }

 private:
  bool is_done() const { return global_step_ >= max_steps_; }
  bool is_due(Interval interval, int64_t steps) const;
  bool is_save_due() const;
  void take_up_best();
  void end_with_best();
  void check_same_files() const;
  void check_same_model(const model::ModelConfig& named) const;
  MemoryPlan memory_of(const MemoryPlan& shared, bool caches_stay) const;
  train::StepMemory step_memory() const;
  void choose_kept(double available);
  bool is_evaluation_due() const;
  void evaluate();
  void stop_early();
  void report_step();
  void finish_step();
  void note_times(double step_seconds);
  void log_metrics();
  void save();
  void end_at_edge(const char* what);

  TrainingOptions options_;
  RunContext context_;
  train::LoadedModel model_;
  std::unique_ptr<train::Trainer> trainer_;
  std::unique_ptr<train::AdamW> optimizer_;
  std::unique_ptr<train::Schedule> schedule_;
  std::unique_ptr<RunFiles> files_;
  RunPlan plan_;
  TrainingLoop loop_;
  BestCheckpoint best_;
  EarlyStop early_stop_;
  /// What the evaluation of this step says of best_'s metric.
  std::optional<double> measured_;
  Metrics metrics_;
  RunMonitor monitor_;
  int64_t global_step_ = 0, first_step_ = 0, max_steps_ = 0, last_saved_ = -1, step_tokens_ = 0;
  bool reuses_activations_ = false, keeps_caches_ = false;
  /// False where a signal came before a step's evaluation, in this run or in the one that is
  /// resumed.
  bool is_step_finished_ = true;
  bool is_interrupted_ = false;
  /// How much memory the process held before the model was loaded, and how much it holds at most
  /// according to the plan.
  double program_gib_ = 0, planned_gib_ = 0;
  std::filesystem::path last_checkpoint_;
  std::string split_rows_;
};

}  // namespace lockstep::grpo
