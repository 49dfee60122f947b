// SPDX-License-Identifier: Apache-2.0
#include "grpo/training_run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/random.h"
#include "grpo/resume_check.h"
#include "tensor/aten.h"

namespace lockstep::grpo {
namespace {

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024 * 1024); }

/// Logs the columns. How many rows are used is said when their conversations are encoded.
void say_dataset(const char* name, const text::Dataset& dataset) {
  std::string mapping;
  for (const auto& note : dataset.mapping_notes) mapping += (mapping.empty() ? "" : ", ") + note;
  if (!mapping.empty()) log_info("columns of {}: {}", name, mapping);
  for (const auto& reason : dataset.dropped_reasons) log_warning("{}: dropped: {}", name, reason);
}

}  // namespace

void TrainingOptions::validate() const {
  tuner.validate();
  check_best_options(run, data);
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
                         const std::string& best_metric)
    : options_(options),
      context_(context),
      best_(options.run, best_metric),
      monitor_(context.on_status),
      program_gib_(resident_memory_gib()) {
  options.validate();
  const std::filesystem::path named = options.model.model;
  const bool has_adapter = options.tuner.tuner_type == TunerType::kLora;
  // With an adapter the model itself is never written, so that a checkpoint does not hold it.
  model_ = train::load_model(resume() && !has_adapter ? resume()->directory : named,
                             context.torch_dtype);
  // The companion files of checkpoints are read from --model now, whatever becomes of that folder.
  model_.companions = std::make_unique<train::CompanionFiles>(named);
  if (has_adapter)
    model_.set_adapter(make_adapter(*model_.weights, options.tuner,
                                    resume() ? std::optional(resume()->directory) : std::nullopt,
                                    static_cast<uint64_t>(context.seed)));
  else
    choose_trained(*model_.weights, options.tuner);
  trainer_ = std::make_unique<train::Trainer>(*model_.weights, options.trainer,
                                              model::list_of(model_.adapter.get()));
  resolve("learning_rate",
          options_.optimizer.learning_rate.value_or(options_.tuner.default_learning_rate()));
  resolve("torch_dtype", enum_name(model_.weights->weight_dtype()));
  resolve("threads", at::get_num_threads());
  resolve("metric_for_best_model", best_.metric());
  resolve("greater_is_better", best_.greater_is_better());
  if (!options_.model.enable_thinking) resolve("enable_thinking", "by the chat template");
  digest_model();
  if (!resume()) return;
  global_step_ = first_step_ = resume()->global_step;
  check_same_model(train::load_config(named));
  if (!resume()->is_same_run) return;
  last_saved_ = resume()->global_step;
  last_checkpoint_ = resume()->directory;
}

/// The digest of the weights that --model names, which a resumed run does not load, and of its
/// companion files.
void TrainingRun::digest_model() {
  Digest weights;
  if (resume()) {
    const io::SafetensorsCheckpoint named(options_.model.model);
    weights = train::digest_tensors(named);
    named.release_pages();
  } else {
    weights = train::digest_tensors(model_.source->files());
    model_.source->files().release_pages();
  }
  add_digests({{"model", {weights.hex(), model_.companions->digest().hex()}}});
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

void TrainingRun::begin(const RunPlan& plan) {
  max_steps_ = plan.max_steps;
  epoch_ = plan.epoch;
  optimizer_ =
      std::make_unique<train::AdamW>(*model_.weights, options_.optimizer, model_.adapter.get());
  const double peak =
      options_.optimizer.learning_rate.value_or(options_.tuner.default_learning_rate());
  schedule_ = std::make_unique<train::Schedule>(options_.schedule, peak, max_steps_);
  if (!plan.evaluation_metrics.empty() && options_.run.evaluation() != Interval::kNo)
    best_.check_metric(plan.evaluation_metrics);
  plan_memory(plan);
  if (resume()) {
    load_optimizer(*resume(), *optimizer_);
    if (resume()->state.is_object()) {
      metrics_.load_state(resume()->state.value("metrics", Json::object()));
      is_step_finished_ = resume()->state.value("is_step_finished", true);
    }
    // Such a checkpoint is saved again when the rest of its step is done.
    if (!is_step_finished_) last_saved_ = -1;
    log_info("resume: {} at step {} of {}", resume()->directory.string(), global_step_, max_steps_);
  }
  directory_ = std::make_unique<RunDirectory>(options_.run, context_.args, context_.claim);
  if (resume() && resume()->is_same_run) take_up_best();
  phases_ = plan.phases;
  context_.on_start();
  monitor_.begin(max_steps_, global_step_);
}

/// The best checkpoint of the run until here. One that is of another metric, or that has been
/// deleted since, is none.
void TrainingRun::take_up_best() {
  if (!resume()->state.is_object()) return;
  const Json saved = resume()->state.value("best", Json());
  if (!best_.load_state(saved))
    log_info("resume: the best checkpoint was chosen by {}; by {} it is chosen anew",
             saved.value("metric", ""), best_.metric());
  if (const auto step = best_.step();
      step && !std::filesystem::exists(directory_->checkpoint(*step))) {
    log_warning("{}, the best checkpoint until here, is no longer there",
                directory_->checkpoint(*step).string());
    best_.forget();
  }
  directory_->choose_best(best_.step());
}

/// Decides whether to keep what the layers read while sampling, and how many layers keep what they
/// made in training. If the first is kept, on-policy steps run no forward whose activations could
/// be kept.
void TrainingRun::choose_kept(const RunPlan& plan, double available) {
  const double sampling = gib(plan.cache_bytes + plan.sampling_bytes),
               rollout = gib(plan.kept_bytes);
  // What is still to come. That the caches stay counts less than kept activations: they can be
  // freed before a step begins.
  const auto fits = [&](double kept_from_sampling) {
    const train::StepMemory step = step_memory(plan);
    return (std::max(sampling, gib(step.kept + step.work)) + kept_from_sampling) * kPlanSlack <=
           available;
  };
  // A forward with dropout is not the sampler's.
  reuses_activations_ =
      !trainer_->has_dropout() && (plan.reuse_activations == ReuseActivations::kTrue ||
                                   (plan.reuse_activations == ReuseActivations::kAuto &&
                                    options_.trainer.gradient_checkpointing && fits(rollout)));
  if (reuses_activations_ && plan.is_on_policy) return trainer_->keep_layers(0);
  int64_t layers = trainer_->num_layers();
  trainer_->keep_layers(layers);
  while (options_.trainer.gradient_checkpointing && layers > 0 &&
         !fits(reuses_activations_ ? rollout : 0))
    trainer_->keep_layers(--layers);
}

/// What the step that needs most needs.
train::StepMemory TrainingRun::step_memory(const RunPlan& plan) const {
  train::StepMemory most;
  for (const train::StepShape& shape : plan.steps) {
    const train::StepMemory step = trainer_->step_memory(shape);
    if (step.kept + step.work > most.kept + most.work) most = step;
  }
  return most;
}

void TrainingRun::plan_memory(const RunPlan& plan) {
  const int64_t base = model_.base ? model_.base->bytes_apart_from(*model_.weights) : 0;
  MemoryPlan memory{.weights = gib(base + model_.weights->canonical_bytes()),
                    .packed = gib(model_.weights->packed_bytes()),
                    .optimizer = gib(optimizer_->state_bytes()),
                    .reference = gib(plan.reference_bytes),
                    .caches = gib(plan.cache_bytes),
                    .sampling = gib(plan.sampling_bytes)};
  // The program, its libraries and the rows are what is resident besides the tensors; tensors that
  // nothing was written to yet are not, nor are the libraries' pages that only work touches.
  memory.program = kWorkingPages + std::max(program_gib_, resident_memory_gib() - memory.tensors());
  const double present = memory.present();
  double available = available_memory_gib();
  if (const auto& budget = options_.run.memory_budget) {
    if (*budget <= present)
      fail<ConfigError>("bad-flag", "--memory_budget",
                        "expected more than the {:.4g} GiB of program, weights and optimizer, "
                        "got {}",
                        present, *budget);
    available = available > 0 ? std::min(available, *budget - present) : *budget - present;
  }
  choose_kept(plan, available);
  const train::StepMemory step = step_memory(plan);
  memory.kept = gib(step.kept);
  memory.work = gib(step.work);
  memory.from_sampling = reuses_activations_ ? gib(plan.kept_bytes) : 0;
  memory.caches_stay = true;
  memory.caches_stay = memory.coming() * kPlanSlack <= available;
  keeps_caches_ = memory.caches_stay;
  if (plan.kept_bytes) resolve("reuse_rollout_activations", reuses_activations_);
  planned_gib_ = memory.most();
  say_memory(memory, plan.sequences_at_once, trainer_->kept_layers(), trainer_->num_layers());
  if (available > 0 && memory.coming() > available)
    log_warning(
        "memory plan: {} more are needed, {} are available (hint: a smaller model, "
        "--torch_dtype bfloat16, fewer samples a step, --max_tokens_per_micro_batch, "
        "--cache_memory)",
        size_text(memory.coming()), size_text(available));
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
  for (const Phase phase : phases_) monitor_.take_time(phase, metrics_);
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
  line["epoch"] = std::round(epoch_.epochs(global_step_) * 1e4) / 1e4;
  line["global_step/max_steps"] = fmt::format("{}/{}", global_step_, max_steps_);
  directory_->log(line, global_step_);
  context_.on_log(readable_fields(line));
}

bool TrainingRun::saves_on_interrupt() const {
  return options_.run.save_on_interrupt.value_or(options_.run.save_strategy != SaveStrategy::kNo);
}

void TrainingRun::loop(const TrainingLoop& loop) {
  throw_if_interrupted();
  if (log_level() <= LogLevel::kInfo)
    announce_interrupt(saves_on_interrupt()
                           ? "\nlockstep: the run ends when this step is done and saved; a second "
                             "signal ends it at once\n"
                           : "\nlockstep: the run ends without saving\n");
  if (options_.run.eval_on_start && !global_step_) evaluate(loop);
  if (!is_step_finished_) finish_step(loop);
  while (!is_done()) {
    const double before = monitor_.seconds();
    {
      const InterruptHold hold(saves_on_interrupt());
      loop.step();
    }
    monitor_.end_step();
    note_times(monitor_.seconds() - before);
    report_step(loop);
    finish_step(loop);
  }
  finish(loop);
  announce_interrupt(nullptr);
}

void TrainingRun::evaluate(const TrainingLoop& loop) {
  const double before = monitor_.seconds();
  Json line = loop.evaluate();
  monitor_.rest();
  if (line.empty()) return;
  line["eval_runtime"] = std::round((monitor_.seconds() - before) * 1e4) / 1e4;
  if (const auto found = line.find(best_.metric()); found != line.end() && found->is_number())
    measured_ = found->get<double>();
  log(std::move(line));
}

/// Logs the metrics if that is due.
void TrainingRun::report_step(const TrainingLoop& loop) {
  const RunOptions& run = options_.run;
  const bool is_logged = run.logging_strategy != Interval::kNo;
  if (is_due(run.logging_strategy, run.logging_steps) || (is_logged && is_done()) ||
      (run.logging_first_step.value_or(is_logged) && global_step_ == 1))
    log_metrics();
  loop.after_step();
}

/// Does what follows a step and its log line: evaluation and checkpoint, each if it is due.
void TrainingRun::finish_step(const TrainingLoop& loop) {
  measured_.reset();
  if (is_evaluation_due()) {
    try {
      evaluate(loop);
    } catch (const InterruptedError&) {
      stop(loop, /*is_step_finished=*/false);
    }
  }
  is_step_finished_ = true;
  if (is_save_due()) save(loop, /*is_step_finished=*/true);
  if (interrupt_requested() && !is_done()) stop(loop, /*is_step_finished=*/true);
}

bool TrainingRun::is_due(Interval interval, int64_t steps) const {
  if (interval == Interval::kSteps) return global_step_ % steps == 0;
  return interval == Interval::kEpoch && global_step_ % epoch_.steps() == 0;
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

void TrainingRun::save(const TrainingLoop& loop, bool is_step_finished) {
  Json trainer_state{{"epoch", epoch_.epochs(global_step_)}, {"max_steps", max_steps_}};
  monitor_.enter(Phase::kSave);
  LoopState state = loop.state();
  state.values["metrics"] = metrics_.state();
  state.values["is_step_finished"] = is_step_finished;
  if (measured_) best_.compare(global_step_, *measured_);
  state.values["best"] = best_.state();
  directory_->choose_best(best_.step());
  // The names of transformers' TrainerState.
  const auto step = best_.step();
  trainer_state["best_metric"] = step ? Json(best_.value()) : Json();
  trainer_state["best_global_step"] = step ? Json(*step) : Json();
  trainer_state["best_model_checkpoint"] =
      step ? Json(directory_->checkpoint(*step).string()) : Json();
  last_checkpoint_ = directory_->save(model_, *optimizer_, global_step_, trainer_state, state);
  last_saved_ = global_step_;
  monitor_.rest();
  log_info("saved {}", last_checkpoint_.string());
}

/// Ends the run after a signal.
void TrainingRun::stop(const TrainingLoop& loop, bool is_step_finished) {
  // A run that is not stopped would not compare this step's checkpoint, which it does not save.
  measured_.reset();
  if (saves_on_interrupt() && last_saved_ != global_step_) save(loop, is_step_finished);
  std::string saved = "nothing is saved";
  if (!last_checkpoint_.empty())
    saved = fmt::format("{} is saved{}", last_checkpoint_.string(),
                        options_.run.save_only_model
                            ? ", which cannot be resumed"
                            : " (hint: --resume_from_checkpoint last goes on)");
  fail<InterruptedError>("interrupted", fmt::format("step {} of {}", global_step_, max_steps_),
                         "expected to go on, got {}; {}", interrupt_name(), saved);
}

void TrainingRun::finish(const TrainingLoop& loop) {
  const SaveStrategy strategy = options_.run.save_strategy;
  const bool is_last_saved = strategy == SaveStrategy::kSteps || strategy == SaveStrategy::kEpoch ||
                             (strategy == SaveStrategy::kBest && last_checkpoint_.empty());
  if (is_last_saved && last_saved_ != global_step_) save(loop, /*is_step_finished=*/true);
  const auto best = best_.step();
  Json summary{
      {"last_model_checkpoint",
       last_checkpoint_.empty() ? Json() : Json(last_checkpoint_.string())},
      {"best_model_checkpoint", best ? Json(directory_->checkpoint(*best).string()) : Json()},
      {"best_metric", best ? Json(best_.value()) : Json()},
      {"global_step", global_step_},
      {"max_steps", max_steps_},
      {"train_runtime", std::round(monitor_.seconds() * 1e4) / 1e4},
      {"memory(GiB)", std::round(peak_memory_gib() * 100) / 100}};
  directory_->log(summary, global_step_);
  std::string times;
  for (const Phase phase : phases_)
    if (const double seconds = monitor_.total_seconds(phase); seconds >= 0.5)
      times += fmt::format("{}{} {}", times.empty() ? ": " : ", ", phase_doing(phase),
                           duration_text(seconds));
  log_info("memory: {} at the peak, {} planned", size_text(peak_memory_gib()),
           size_text(planned_gib_));
  log_info("done: {} steps in {}{}", global_step_ - first_step_, duration_text(monitor_.seconds()),
           times);
  log_info("run directory: {}; last checkpoint: {}", directory_->path().string(),
           last_checkpoint_.empty() ? "none" : last_checkpoint_.string());
  if (best)
    log_info("best checkpoint: {}, {} {:.6g}", directory_->checkpoint(*best).string(),
             best_.metric(), best_.value());
  if (options_.run.load_best_model_at_end) end_with_best();
}

/// What --load_best_model_at_end asks for.
void TrainingRun::end_with_best() const {
  if (!best_.step())
    return log_warning("no evaluation has a value of {}: `last` is the newest checkpoint",
                       best_.metric());
  directory_->end_with_best();
  log_info("the run ends with its best model: `last` points to it");
}

bool is_system_file(const std::string& system) {
  std::error_code ignored;
  return !system.empty() && system.size() < 4096 &&
         std::filesystem::is_regular_file(system, ignored);
}

void say_template(const ModelOptions& model, const std::string& rendered, const char* what) {
  const auto& thinking = model.enable_thinking;
  std::string tail = rendered;
  if (tail.size() > 80) {
    size_t begin = tail.size() - 80;
    // Begins with a whole character.
    while ((static_cast<unsigned char>(tail[begin]) & 0xC0) == 0x80) ++begin;
    tail = tail.substr(begin);
  }
  log_info("thinking: {}; {} ends {}",
           thinking ? (*thinking ? "on" : "off") : "by the chat template", what,
           dump_json(Json(tail)));
}

std::vector<int64_t> epoch_order(int64_t count, int64_t epoch, const DataOptions& options) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!options.dataset_shuffle) return order;
  const RandomStream stream("shuffle", static_cast<uint64_t>(options.data_seed),
                            static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[stream.below(i, i)]);
  return order;
}

RunData load_run_data(const DataOptions& options, const std::string& system, bool token_rows) {
  text::DatasetOptions reading{.dataset = options.dataset,
                               .columns = options.columns,
                               .disable_auto_column_mapping = options.disable_auto_column_mapping,
                               .strict = options.strict,
                               .data_seed = options.data_seed,
                               .system = is_system_file(system) ? read_file(system) : system,
                               .token_rows = token_rows};
  RunData data;
  data.train = text::load_dataset(reading);
  data.digests = digest_data(options, reading.system);
  say_dataset("dataset", data.train);
  if (!options.val_dataset.empty()) {
    reading.dataset = options.val_dataset;
    data.validation = text::load_dataset(reading);
    say_dataset("val_dataset", data.validation);
  } else if (options.split_dataset_ratio > 0) {
    // Held-out rows are drawn by the seed; the others keep their order.
    auto& rows = data.train.rows;
    const auto held = static_cast<size_t>(
        std::llround(options.split_dataset_ratio * static_cast<double>(rows.size())));
    DataOptions shuffled = options;
    shuffled.dataset_shuffle = true;
    const auto order = epoch_order(static_cast<int64_t>(rows.size()), -1, shuffled);
    std::vector<bool> is_held(rows.size(), false);
    for (size_t i = 0; i < held; ++i) is_held[static_cast<size_t>(order[i])] = true;
    std::vector<text::Row> kept;
    for (size_t i = 0; i < rows.size(); ++i)
      (is_held[i] ? data.validation.rows : kept).push_back(std::move(rows[i]));
    rows = std::move(kept);
    if (rows.empty() || data.validation.rows.empty())
      fail<ConfigError>(
          "bad-flag", "--split_dataset_ratio",
          "expected a share that leaves rows on both sides, got {} for training and {} "
          "held out",
          rows.size(), data.validation.rows.size());
    // How many rows of both are used is said when all dropping is done.
    log_info("split: rows are held out by --split_dataset_ratio {}, drawn by --data_seed",
             options.split_dataset_ratio);
  }
  return data;
}

}  // namespace lockstep::grpo
