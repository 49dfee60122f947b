// SPDX-License-Identifier: Apache-2.0
#include "grpo/training_run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/base_model.h"
#include "grpo/resume_check.h"
#include "parallel/identity.h"
#include "tensor/aten.h"
#include "train/adapter_file.h"

namespace lockstep::grpo {
void TrainingOptions::validate() const {
  tuner.validate();
  data.curriculum.validate();
  check_best_options(run, data);
  check_early_stop_options(run, data);
  if (train::follows_metric(schedule.lr_scheduler_type))
    check_evaluated("--lr_scheduler_type", run, data);
  for (const auto& report : run.report_to)
    if (report != "tensorboard" && report != "none" && report != "wandb" && report != "swanlab")
      fail<ConfigError>("bad-flag", "--report_to", "expected tensorboard or none, got {}", report);
  if (schedule.warmup_steps > 0 && schedule.warmup_ratio > 0)
    fail<ConfigError>("bad-flag", "--warmup_ratio",
                      "expected either warmup_steps or warmup_ratio, got both");
  if (run.max_steps == 0)
    fail<ConfigError>("bad-flag", "--max_steps", "expected -1 or at least 1, got 0");
  // The schedule's own numbers are refused before anything is loaded.
  train::Schedule(schedule, optimizer.learning_rate.value_or(tuner.default_learning_rate()), 1);
}

TrainingRun::TrainingRun(const TrainingOptions& options,
                         const RunContext& context,
                         const BaseModel& base,
                         const std::string& best_metric)
    : options_(options),
      context_(context),
      model_(base.loaded.share()),
      best_(options.run, best_metric),
      early_stop_(options.run, best_.metric(), best_.greater_is_better()),
      monitor_(context.on_status),
      program_gib_(base.program_gib) {
  if (options.tuner.tuner_type == TunerType::kLora)
    model_.set_adapter(make_adapter(*model_.weights, options.tuner,
                                    resume() ? std::optional(resume()->directory) : std::nullopt,
                                    static_cast<uint64_t>(context.seed)));
  else
    choose_trained(*model_.weights, options.tuner);
  if (!resume() && !options.tuner.adapters.empty())
    train::warn_of_other_base(options.tuner.adapters, options.model.model);
  trainer_ = std::make_unique<train::Trainer>(*model_.weights, options.trainer,
                                              model::list_of(model_.adapter.get()), shards());
  resolve("learning_rate",
          options_.optimizer.learning_rate.value_or(options_.tuner.default_learning_rate()));
  resolve("torch_dtype", enum_name(model_.weights->weight_dtype()));
  resolve("threads", at::get_num_threads());
  resolve("metric_for_best_model", best_.metric());
  resolve("greater_is_better", best_.greater_is_better());
  if (!options_.model.enable_thinking) resolve("enable_thinking", "by the chat template");
  add_digests({{"model", base.digest}});
  if (!resume()) return;
  global_step_ = first_step_ = resume()->global_step;
  check_same_model(train::load_config(options.model.model));
  if (!resume()->is_same_run) return;
  last_saved_ = resume()->global_step;
  last_checkpoint_ = resume()->directory;
}

void TrainingRun::add_digests(const Json& digests) { context_.args["digests"].update(digests); }

bool TrainingRun::check_resume(const std::string& command, const Json& plan) {
  if (!resume()->state.is_object()) return false;
  ResumeChanges changes = compare_args(context_.resume_rules, saved_args(*resume()), context_.args);
  const bool is_same_plan = compare_plans(*resume(), command, plan, changes);
  if (!changes.said.empty())
    log_info("resume: these changes leave what is trained as it is: {}",
             fmt::join(changes.said, "; "));
  if (changes.refused.empty()) return is_same_plan;
  if (!options_.run.resume_changed)
    fail<ConfigError>(
        "resume-changed", resume()->directory.string(),
        "expected the run that was saved, got another: {} (hint: --resume_changed true "
        "goes on with what is said now)",
        fmt::join(changes.refused, "; "));
  for (const std::string& change : changes.refused) log_warning("resume: {}", change);
  return is_same_plan;
}

void TrainingRun::check_same_model(const model::ModelConfig& named) const {
  const model::ModelConfig& resumed = model_.weights->config();
  const auto shape = [](const model::ModelConfig& c) {
    return fmt::format("{} of {} layers, {} wide, {} ids", enum_name(c.family), c.num_hidden_layers,
                       c.hidden_size, c.vocab_size);
  };
  if (shape(named) != shape(resumed))
    fail<ConfigError>("bad-resume", "--model", "expected the model that is resumed ({}), got {}",
                      shape(resumed), shape(named));
}

int64_t EpochLength::first_micro_step(int64_t step) const {
  return step / steps() * micro_steps + std::min(step % steps() * accumulation, micro_steps);
}

double EpochLength::epochs(int64_t step) const {
  return static_cast<double>(first_micro_step(step)) / static_cast<double>(micro_steps);
}

int64_t EpochLength::max_steps(const RunOptions& options) const {
  if (options.max_steps > 0) return options.max_steps;
  return static_cast<int64_t>(std::ceil(options.num_train_epochs * static_cast<double>(steps())));
}

void TrainingRun::prepare(RunPlan plan, TrainingLoop loop) {
  plan_ = std::move(plan);
  loop_ = std::move(loop);
  max_steps_ = plan_.max_steps;
  optimizer_ = std::make_unique<train::AdamW>(*model_.weights, options_.optimizer,
                                              model_.adapter.get(), shards());
  const double peak =
      options_.optimizer.learning_rate.value_or(options_.tuner.default_learning_rate());
  schedule_ = std::make_unique<train::Schedule>(options_.schedule, peak, max_steps_,
                                                best_.greater_is_better());
  if (!plan_.evaluation_metrics.empty() && options_.run.evaluation() != Interval::kNo)
    best_.check_metric(plan_.evaluation_metrics);
}

void TrainingRun::open() {
  if (resume()) {
    load_optimizer(*resume(), *optimizer_);
    if (resume()->state.is_object()) {
      metrics_.load_state(resume()->state.value("metrics", Json::object()));
      is_step_finished_ = resume()->state.value("is_step_finished", true);
      schedule_->load_state(resume()->state.value("schedule", Json()));
      early_stop_.load_state(resume()->state.value("early_stop", Json()));
    }
    // Such a checkpoint is saved again when the rest of its step is done.
    if (!is_step_finished_) last_saved_ = -1;
    log_info("resume: {} at step {} of {}", resume()->directory.string(), global_step_, max_steps_);
  }
  check_same_files();
  files_ = std::make_unique<RunFiles>(options_.run, context_.args, context_.claim, ranks());
  if (!split_rows_.empty()) files_->keep_split_rows(split_rows_);
  if (options_.run.report_html) files_->make_report();
  if (resume() && resume()->is_same_run) take_up_best();
  context_.on_start();
  monitor_.begin(max_steps_, global_step_);
  end_at_edge("the start of the run");
}

/// A host that has a file of its own under the same name as the others would train something else.
void TrainingRun::check_same_files() const {
  parallel::Identity own = parallel::this_process();
  parallel::IdentityPart& files = own.parts.emplace_back();
  files.name = "files";
  const Json digests = context_.args.value("digests", Json::object());
  for (const auto& [file, digest] : digests.items())
    files.values.emplace_back("the digest of " + file, dump_json(digest));
  files.values.emplace_back("max_steps", std::to_string(max_steps_));
  parallel::check_identity(ranks(), own, context_.exact);
}

void TrainingRun::end_at_edge(const char* what) { is_interrupted_ = files_->settle(what) != 0; }

/// The best checkpoint of the run until here. One that is of another metric, or that has been
/// deleted since, is none.
void TrainingRun::take_up_best() {
  if (!resume()->state.is_object()) return;
  const Json saved = resume()->state.value("best", Json());
  if (!best_.load_state(saved))
    log_info("resume: the best checkpoint was chosen by {}; by {} it is chosen anew",
             saved.value("metric", ""), best_.metric());
  if (const auto step = best_.step(); step && !files_->has_checkpoint(*step)) {
    log_warning("{}, the best checkpoint until here, is no longer there",
                files_->checkpoint(*step).string());
    best_.forget();
  }
  files_->choose_best(best_.step());
}

std::optional<train::DropoutStep> TrainingRun::dropout() const {
  if (!trainer_->has_dropout()) return std::nullopt;
  return train::DropoutStep{static_cast<uint64_t>(context_.seed), global_step_};
}

void TrainingRun::resolve(const char* name, Json value) { context_.args[name] = std::move(value); }

void TrainingRun::step(const std::vector<at::Tensor>& gradients, int64_t tokens) {
  const double rate = schedule_->rate(global_step_);
  const double norm = optimizer_->step(gradients, rate);
  ++global_step_;
  step_tokens_ = tokens;
  // The values of the interval's last step, as transformers logs them.
  metrics_.replace("grad_norm", norm);
  metrics_.replace("learning_rate", rate);
}

void TrainingRun::note_times(double step_seconds) {
  metrics_.add("step_time", step_seconds);
  if (step_seconds > 0)
    metrics_.add("tokens_per_second", static_cast<double>(step_tokens_) / step_seconds,
                 step_seconds);
  for (const Phase phase : plan_.phases) monitor_.take_time(phase, metrics_);
}

void TrainingRun::log_metrics() {
  Json line = metrics_.values();
  metrics_.clear();
  const double elapsed = monitor_.seconds(),
               each =
                   elapsed / static_cast<double>(std::max<int64_t>(1, global_step_ - first_step_));
  line["elapsed_time"] = duration_text(elapsed);
  line["remaining_time"] = duration_text(monitor_.seconds_left().value_or(0));
  line["memory(GiB)"] = std::round(peak_memory_gib() * 100) / 100;
  line["train_speed(s/it)"] = std::round(each * 1e6) / 1e6;
  log(std::move(line));
}

void TrainingRun::log(Json line) {
  line["epoch"] = std::round(plan_.epoch.epochs(global_step_) * 1e4) / 1e4;
  line["global_step/max_steps"] = fmt::format("{}/{}", global_step_, max_steps_);
  files_->log(line, global_step_);
  context_.on_line(line);
  context_.on_log(readable_fields(line));
}

bool TrainingRun::saves_on_interrupt() const {
  return options_.run.save_on_interrupt.value_or(options_.run.save_strategy != SaveStrategy::kNo);
}

void TrainingRun::start() {
  if (options_.run.eval_on_start && !global_step_) evaluate();
  if (!is_step_finished_)
    finish_step();
  else if (early_stop_.is_reached() && !is_done())
    stop_early();
  end_at_edge("the first evaluation");
}

void TrainingRun::turn() {
  const double before = monitor_.seconds();
  {
    const InterruptHold hold(saves_on_interrupt());
    loop_.step();
  }
  monitor_.end_step();
  note_times(monitor_.seconds() - before);
  report_step();
  finish_step();
  end_at_edge("the end of a step");
}

void TrainingRun::evaluate() {
  const double before = monitor_.seconds();
  Json line = loop_.evaluate();
  monitor_.rest();
  if (line.empty()) return;
  line["eval_runtime"] = std::round((monitor_.seconds() - before) * 1e4) / 1e4;
  if (const auto found = line.find(best_.metric()); found != line.end() && found->is_number())
    measured_ = found->get<double>();
  log(std::move(line));
}

/// Logs the metrics if that is due.
void TrainingRun::report_step() {
  const RunOptions& run = options_.run;
  const bool is_logged = run.logging_strategy != Interval::kNo;
  if (is_due(run.logging_strategy, run.logging_steps) || (is_logged && is_done()) ||
      (run.logging_first_step.value_or(is_logged) && global_step_ == 1))
    log_metrics();
  loop_.after_step();
}

/// Does what follows a step and its log line: evaluation and checkpoint, each if it is due.
void TrainingRun::finish_step() {
  measured_.reset();
  is_step_finished_ = false;
  try {
    if (is_evaluation_due()) evaluate();
  } catch (const InterruptedError&) {
    // stop() follows.
    return;
  }
  is_step_finished_ = true;
  if (measured_) {
    early_stop_.compare(*measured_);
    schedule_->observe(*measured_);
  }
  if (early_stop_.is_reached() && !is_done()) stop_early();
  if (is_save_due()) save();
}

/// Says why the run ends, and logs its last step, which no one knew to be the last.
void TrainingRun::stop_early() {
  if (options_.run.logging_strategy != Interval::kNo && !metrics_.values().empty()) log_metrics();
  log_info("early stopping: {}: the run ends at step {} of {}", early_stop_.text(), global_step_,
           max_steps_);
}

bool TrainingRun::is_due(Interval interval, int64_t steps) const {
  if (interval == Interval::kSteps) return global_step_ % steps == 0;
  return interval == Interval::kEpoch && global_step_ % plan_.epoch.steps() == 0;
}

bool TrainingRun::is_evaluation_due() const {
  const Interval interval = options_.run.evaluation();
  return interval != Interval::kNo &&
         (is_done() || is_due(interval, options_.run.evaluation_steps()));
}

bool TrainingRun::is_save_due() const {
  switch (options_.run.save_strategy) {
    case SaveStrategy::kNo:
      return false;
    case SaveStrategy::kSteps:
      return is_due(Interval::kSteps, options_.run.save_steps);
    case SaveStrategy::kEpoch:
      return is_due(Interval::kEpoch, 0);
    case SaveStrategy::kBest:
      break;
  }
  return measured_ && best_.is_better(*measured_);
}

void TrainingRun::save() {
  Json trainer_state{{"epoch", plan_.epoch.epochs(global_step_)}, {"max_steps", max_steps_}};
  monitor_.enter(Phase::kSave);
  LoopState state = loop_.state();
  state.values["metrics"] = metrics_.state();
  state.values["is_step_finished"] = is_step_finished_;
  if (Json schedule = schedule_->state(); !schedule.is_null())
    state.values["schedule"] = std::move(schedule);
  if (early_stop_.is_on()) state.values["early_stop"] = early_stop_.state();
  if (measured_) best_.compare(global_step_, *measured_);
  state.values["best"] = best_.state();
  files_->choose_best(best_.step());
  // The names of transformers' TrainerState.
  const auto step = best_.step();
  trainer_state["best_metric"] = step ? Json(best_.value()) : Json();
  trainer_state["best_global_step"] = step ? Json(*step) : Json();
  trainer_state["best_model_checkpoint"] = step ? Json(files_->checkpoint(*step).string()) : Json();
  files_->save(model_, trainer_->layers(), *optimizer_, global_step_, trainer_state, state);
  last_checkpoint_ = files_->checkpoint(global_step_);
  last_saved_ = global_step_;
  monitor_.rest();
}

std::filesystem::path TrainingRun::stop() {
  // A run that is not stopped would not compare this step's checkpoint, which it does not save.
  measured_.reset();
  loop_.ending();
  // Before its first step a run has nothing to save.
  if (saves_on_interrupt() && global_step_ > 0 && last_saved_ != global_step_) save();
  write_report();
  end_at_edge("the last save");
  return last_checkpoint_;
}

void TrainingRun::write_report() { files_->write_report(); }

void TrainingRun::finish() {
  loop_.ending();
  const SaveStrategy strategy = options_.run.save_strategy;
  const bool is_last_saved = strategy == SaveStrategy::kSteps || strategy == SaveStrategy::kEpoch ||
                             (strategy == SaveStrategy::kBest && last_checkpoint_.empty());
  if (is_last_saved && last_saved_ != global_step_) save();
  const auto best = best_.step();
  Json summary{{"last_model_checkpoint",
                last_checkpoint_.empty() ? Json() : Json(last_checkpoint_.string())},
               {"best_model_checkpoint", best ? Json(files_->checkpoint(*best).string()) : Json()},
               {"best_metric", best ? Json(best_.value()) : Json()},
               {"global_step", global_step_},
               {"max_steps", max_steps_},
               {"train_runtime", std::round(monitor_.seconds() * 1e4) / 1e4},
               {"memory(GiB)", std::round(peak_memory_gib() * 100) / 100}};
  if (early_stop_.is_on()) summary["stopped_early"] = early_stop_.is_reached() && !is_done();
  files_->log(summary, global_step_);
  write_report();
  end_at_edge("the end of the run");
  std::string times;
  for (const Phase phase : plan_.phases)
    if (const double seconds = monitor_.total_seconds(phase); seconds >= 0.5)
      times += fmt::format("{}{} {}", times.empty() ? ": " : ", ", phase_doing(phase),
                           duration_text(seconds));
  log_info("memory: {} at the peak, {} planned", size_text(peak_memory_gib()),
           size_text(planned_gib_));
  log_info("done: {} steps in {}{}", global_step_ - first_step_, duration_text(monitor_.seconds()),
           times);
  log_info("run directory: {}; last checkpoint: {}", files_->path().string(),
           last_checkpoint_.empty() ? "none" : last_checkpoint_.string());
  if (best)
    log_info("best checkpoint: {}, {} {:.6g}", files_->checkpoint(*best).string(), best_.metric(),
             best_.value());
  if (options_.run.load_best_model_at_end) end_with_best();
  if (options_.tuner.merge_lora && model_.adapter && !last_checkpoint_.empty())
    files_->save_merged(train::open_checkpoint(options_.model.model),
                        model_.weights->weight_dtype());
  end_at_edge("the last files");
}

/// What --load_best_model_at_end asks for.
void TrainingRun::end_with_best() {
  if (!best_.step())
    return log_warning("no evaluation has a value of {}: `last` is the newest checkpoint",
                       best_.metric());
  files_->end_with_best();
  log_info("the run ends with its best model: `last` points to it");
}

}  // namespace lockstep::grpo
