// SPDX-License-Identifier: Apache-2.0
#include "grpo/training_run.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/random.h"
#include "tensor/aten.h"

namespace lockstep::grpo {
namespace {

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024 * 1024); }
constexpr double kDefaultLearningRate = 1e-5;

/// A line "NAME: N kB" of a file of /proc, in GiB; 0 where there is none.
double proc_gib(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name))
      return static_cast<double>(std::strtoll(line.c_str() + name.size(), nullptr, 10)) /
             (1024.0 * 1024);
  return 0;
}
/// Peak resident memory of this process.
double peak_memory_gib() { return proc_gib("/proc/self/status", "VmHWM:"); }

std::string read_system_prompt(const std::string& system) {
  std::error_code ignored;
  return !system.empty() && system.size() < 4096 &&
                 std::filesystem::is_regular_file(system, ignored)
             ? read_file(system)
             : system;
}

/// Tells the columns. How many rows are used is said when their conversations are encoded.
void say_dataset(const char* name, const text::Dataset& dataset) {
  std::string mapping;
  for (const auto& note : dataset.mapping_notes) mapping += (mapping.empty() ? "" : ", ") + note;
  if (!mapping.empty()) log_info("columns of {}: {}", name, mapping);
  for (const auto& reason : dataset.dropped_reasons) log_warning("{}: dropped: {}", name, reason);
}

}  // namespace

void TrainingOptions::validate() const {
  if (model.tuner_type != TunerType::kFull)
    fail<ConfigError>("unsupported-tuner", "--tuner_type",
                      "expected full, got lora (LoRA is not built yet: say --tuner_type full to "
                      "train all weights)");
  if (run.save_strategy != "steps" && run.save_strategy != "epoch" && run.save_strategy != "no")
    fail<ConfigError>("bad-flag", "--save_strategy", "expected steps, epoch or no, got {}",
                      run.save_strategy);
  if (!run.eval_strategy.empty() && run.eval_strategy != "steps" && run.eval_strategy != "epoch" &&
      run.eval_strategy != "no")
    fail<ConfigError>("bad-flag", "--eval_strategy", "expected steps, epoch or no, got {}",
                      run.eval_strategy);
  for (const auto& report : run.report_to)
    if (report != "tensorboard" && report != "none" && report != "wandb" && report != "swanlab")
      fail<ConfigError>("bad-flag", "--report_to", "expected tensorboard or none, got {}", report);
  if (schedule.warmup_steps > 0 && schedule.warmup_ratio > 0)
    fail<ConfigError>("bad-flag", "--warmup_ratio",
                      "expected either warmup_steps or warmup_ratio, got both");
  if (run.max_steps == 0)
    fail<ConfigError>("bad-flag", "--max_steps", "expected -1 or at least 1, got 0");
  // The schedule's own numbers are refused before anything is loaded.
  train::Schedule(schedule, optimizer.learning_rate.value_or(kDefaultLearningRate), 1);
}

TrainingRun::TrainingRun(const TrainingOptions& options, const RunContext& context)
    : options_(options), context_(context), begun_(std::chrono::steady_clock::now()) {
  options.validate();
  resume_ = find_resume_point(options.run);
  run_path(options.run, resume_);  // refuses an existing one before anything is loaded
  model_ =
      train::load_model(resume_ ? resume_->directory : std::filesystem::path(options.model.model),
                        context.torch_dtype);
  trainer_ = std::make_unique<train::Trainer>(*model_.weights, options.trainer);
  if (!resume_) return;
  global_step_ = first_step_ = resume_->global_step;
  check_same_model(train::load_config(options.model.model));
  // Checkpoints take their other files from --model: the one resumed from may be deleted by
  // save_total_limit.
  model_.directory = options.model.model;
  if (!resume_->is_same_run) return;
  last_saved_ = resume_->global_step;
  last_checkpoint_ = resume_->directory;
}

void TrainingRun::check_same_model(const model::ModelConfig& named) const {
  const model::ModelConfig& resumed = model_.weights->config();
  const auto shape = [](const model::ModelConfig& c) {
    return fmt::format("{} of {} layers, {} wide, {} ids", model::family_name(c.family),
                       c.num_hidden_layers, c.hidden_size, c.vocab_size);
  };
  if (shape(named) != shape(resumed))
    fail<ConfigError>("bad-resume", "--model", "expected the model that is resumed ({}), got {}",
                      shape(resumed), shape(named));
}

void TrainingRun::begin(const RunPlan& plan) {
  max_steps_ = plan.max_steps;
  steps_per_epoch_ = plan.steps_per_epoch;
  optimizer_ = std::make_unique<train::AdamW>(*model_.weights, options_.optimizer);
  const double peak = options_.optimizer.learning_rate.value_or(kDefaultLearningRate);
  schedule_ = std::make_unique<train::Schedule>(options_.schedule, peak, max_steps_);
  resolve("learning_rate", peak);
  resolve("torch_dtype", model_.weights->dtype() == at::kFloat ? "float32" : "bfloat16");
  resolve("threads", at::get_num_threads());
  resolve("max_steps", max_steps_);
  if (!options_.model.enable_thinking) resolve("enable_thinking", "by the chat template");
  plan_memory(plan);
  if (resume_) {
    load_optimizer(*resume_, *optimizer_);
    if (resume_->state.is_object())
      metrics_.load_state(resume_->state.value("metrics", Json::object()));
    log_info("resume: {} at step {} of {}", resume_->directory.string(), global_step_, max_steps_);
  }
  directory_ = std::make_unique<RunDirectory>(options_.run, context_.args, resume_);
  context_.on_start(max_steps_, global_step_);
  begun_ = std::chrono::steady_clock::now();
}

/// Whether to keep what the layers read while sampling, and how many layers keep what they made in
/// training. Where the first holds, steps on their own policy run no forward whose activations
/// could be kept.
void TrainingRun::choose_kept(const RunPlan& plan, double available) {
  const double caches = gib(plan.cache_bytes), rollout = gib(plan.kept_bytes);
  // What is still to come; the sampler's caches are freed before a step begins.
  const auto fits = [&](double kept_from_sampling) {
    const train::StepMemory step = trainer_->step_memory(plan.step);
    return (std::max(caches, gib(step.kept + step.work)) + kept_from_sampling) * 1.1 <= available;
  };
  reuses_activations_ = plan.reuse_activations == ReuseActivations::kTrue ||
                        (plan.reuse_activations == ReuseActivations::kAuto &&
                         options_.trainer.gradient_checkpointing && fits(rollout));
  if (reuses_activations_ && plan.is_on_policy) return trainer_->keep_layers(0);
  int64_t layers = trainer_->num_layers();
  trainer_->keep_layers(layers);
  while (options_.trainer.gradient_checkpointing && layers > 0 &&
         !fits(reuses_activations_ ? rollout : 0))
    trainer_->keep_layers(--layers);
}

void TrainingRun::plan_memory(const RunPlan& plan) {
  const double weights = gib(model_.weights->canonical_bytes()),
               packed = gib(model_.weights->packed_bytes()),
               optimizer = gib(optimizer_->state_bytes()), reference = gib(plan.reference_bytes),
               caches = gib(plan.cache_bytes);
  // The model, its reference and the optimizer's masters are there already.
  const double present = weights + packed + optimizer + reference;
  double available = proc_gib("/proc/meminfo", "MemAvailable:");
  if (const auto& budget = options_.run.memory_budget) {
    if (*budget <= present)
      fail<ConfigError>("bad-flag", "--memory_budget",
                        "expected more than the {:.4g} GiB of weights and optimizer, got {}",
                        present, *budget);
    available = available > 0 ? std::min(available, *budget - present) : *budget - present;
  }
  choose_kept(plan, available);
  const train::StepMemory step = trainer_->step_memory(plan.step);
  const double kept = gib(step.kept), work = gib(step.work),
               rollout = reuses_activations_ ? gib(plan.kept_bytes) : 0;
  const double coming = std::max(caches, kept + work) + rollout;
  if (plan.kept_bytes) resolve("reuse_rollout_activations", reuses_activations_);
  planned_gib_ = present + coming;
  log_info(
      "memory plan: {:.2f} GiB: weights {:.2f}, packed {:.2f}, optimizer {:.2f}, reference model "
      "{:.2f}; then in turn sampler caches {:.2f}, and a step's gradients and kept activations "
      "{:.2f} with about {:.2f} for a layer's work",
      planned_gib_, weights, packed, optimizer, reference, caches, kept, work);
  log_info(
      "memory plan: {} of {} layers keep their activations in a step{}", trainer_->kept_layers(),
      trainer_->num_layers(),
      reuses_activations_ ? fmt::format("; up to {:.2f} GiB are kept from sampling", rollout) : "");
  if (available > 0 && coming > available)
    log_warning(
        "memory plan: {:.2f} GiB are still to come, {:.2f} are available (hint: a smaller "
        "model, --torch_dtype bfloat16, fewer samples a step, --max_tokens_per_micro_batch, "
        "--cache_memory)",
        coming, available);
}

void TrainingRun::resolve(const char* name, Json value) { context_.args[name] = std::move(value); }

double TrainingRun::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count();
}

void TrainingRun::step(const std::vector<at::Tensor>& gradients) {
  const double rate = schedule_->rate(global_step_);
  const double norm = optimizer_->step(gradients, rate);
  ++global_step_;
  metrics_.add("grad_norm", norm);
  // The last one of an interval, as transformers logs it.
  metrics_.replace("learning_rate", rate);
}

void TrainingRun::log_metrics() {
  Json line = metrics_.values();
  metrics_.clear();
  const double elapsed = seconds(),
               each =
                   elapsed / static_cast<double>(std::max<int64_t>(1, global_step_ - first_step_));
  line["elapsed_time"] = duration_text(elapsed);
  line["remaining_time"] = duration_text(each * static_cast<double>(max_steps_ - global_step_));
  line["memory(GiB)"] = std::round(peak_memory_gib() * 100) / 100;
  line["train_speed(s/it)"] = std::round(each * 1e6) / 1e6;
  log(std::move(line));
}

void TrainingRun::log(Json line) {
  line["epoch"] = std::round(static_cast<double>(global_step_) / steps_per_epoch_ * 1e4) / 1e4;
  line["global_step/max_steps"] = fmt::format("{}/{}", global_step_, max_steps_);
  directory_->log(line, global_step_);
  log_info("{}", dump_json(line, /*spaced=*/true));
}

void TrainingRun::loop(const TrainingLoop& loop) {
  if (options_.run.eval_on_start && !global_step_) loop.evaluate();
  while (!is_done()) {
    const double before = seconds();
    loop.step();
    metrics_.add("step_time", seconds() - before);
    if (is_evaluation_due()) loop.evaluate();
    after_step(loop.state);
  }
  finish(loop.state);
}

void TrainingRun::after_step(const std::function<LoopState()>& loop_state) {
  const Json values = metrics_.values();
  std::string note;
  for (const char* name : {"loss", "reward"})
    if (values.contains(name))
      note +=
          fmt::format("{}{} {:.4g}", note.empty() ? "" : ", ", name, values[name].get<double>());
  context_.on_progress(global_step_, max_steps_, note);
  const RunOptions& run = options_.run;
  if (global_step_ % run.logging_steps == 0 || is_done() ||
      (run.logging_first_step && global_step_ == 1))
    log_metrics();
  if (is_due(run.save_strategy, run.save_steps)) save(loop_state);
  throw_if_interrupted();
}

bool TrainingRun::is_due(const std::string& strategy, int64_t steps) const {
  if (strategy == "steps") return global_step_ % steps == 0;
  const auto epochs = [&](int64_t step) {
    return std::floor(static_cast<double>(step) / steps_per_epoch_);
  };
  return strategy == "epoch" && epochs(global_step_) > epochs(global_step_ - 1);
}

bool TrainingRun::is_evaluation_due() const {
  const RunOptions& run = options_.run;
  const std::string& strategy = run.eval_strategy.empty() ? run.save_strategy : run.eval_strategy;
  if (strategy == "no") return false;
  return is_done() || is_due(strategy, run.eval_steps.value_or(run.save_steps));
}

void TrainingRun::save(const std::function<LoopState()>& loop_state) {
  Json trainer_state{{"epoch", static_cast<double>(global_step_) / steps_per_epoch_},
                     {"max_steps", max_steps_}};
  LoopState state = loop_state();
  state.values["metrics"] = metrics_.state();
  last_checkpoint_ = directory_->save(model_, *optimizer_, global_step_, trainer_state, state);
  last_saved_ = global_step_;
  log_info("saved {}", last_checkpoint_.string());
}

void TrainingRun::finish(const std::function<LoopState()>& loop_state) {
  if (options_.run.save_strategy != "no" && last_saved_ != global_step_) save(loop_state);
  Json summary{{"last_model_checkpoint",
                last_checkpoint_.empty() ? Json() : Json(last_checkpoint_.string())},
               {"global_step", global_step_},
               {"max_steps", max_steps_},
               {"train_runtime", std::round(seconds() * 1e4) / 1e4},
               {"memory(GiB)", std::round(peak_memory_gib() * 100) / 100}};
  directory_->log(summary, global_step_);
  log_info("memory: {:.2f} GiB at the peak, {:.2f} planned", peak_memory_gib(), planned_gib_);
  log_info("done: {} steps in {}; run directory {}; last checkpoint {}", global_step_ - first_step_,
           duration_text(seconds()), directory_->path().string(),
           last_checkpoint_.empty() ? "none" : last_checkpoint_.string());
}

void say_template(const ModelOptions& model, const std::string& rendered, const char* what) {
  const auto& thinking = model.enable_thinking;
  std::string tail = rendered;
  if (tail.size() > 80) {
    size_t begin = tail.size() - 80;
    while ((static_cast<unsigned char>(tail[begin]) & 0xC0) == 0x80) ++begin;  // whole characters
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
                               .system = read_system_prompt(system),
                               .token_rows = token_rows};
  RunData data;
  data.train = text::load_dataset(reading);
  say_dataset("dataset", data.train);
  if (!options.val_dataset.empty()) {
    reading.dataset = options.val_dataset;
    data.validation = text::load_dataset(reading);
    say_dataset("val_dataset", data.validation);
  } else if (options.split_dataset_ratio > 0) {
    // Held-out rows are drawn by the seed and leave the rest in its order.
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
    log_info("split: {} rows for training, {} held out", rows.size(), data.validation.rows.size());
  }
  return data;
}

}  // namespace lockstep::grpo
