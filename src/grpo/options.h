// Options of grpo and sft, nested by owner. Flag names are the field's (ms-swift's).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/on_resume.h"
#include "base/options.h"
#include "grpo/curriculum.h"
#include "grpo/objective_options.h"
#include "rollout/sampling_options.h"

namespace lockstep::grpo {

/// The limit of counts of sequences and of their uses: a product of three of them fits int64.
inline constexpr double kMostSequences = 1 << 20;

struct ModelOptions {
  std::string model;
  std::optional<bool> enable_thinking;
  std::string system;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory (Hugging Face form).", OnResume::kByContent);
    visit("enable_thinking", enable_thinking,
          "Handed to the chat template; unset: the template decides.");
    visit("system", system, "System prompt for rows that have none: text, or a file that holds it.",
          OnResume::kByContent);
  }
};

struct DataOptions {
  std::vector<std::string> dataset, val_dataset;
  Json columns;
  bool disable_auto_column_mapping = false;
  bool strict = true;
  int64_t data_seed = 42;
  bool dataset_shuffle = true;
  CurriculumOptions curriculum;
  double split_dataset_ratio = 0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("dataset", dataset, "Files of rows (JSON lines, JSON, CSV), each with an optional #N.",
          OnResume::kByContent);
    visit("val_dataset", val_dataset, "Files of held-out rows.", OnResume::kByContent);
    visit("columns", columns,
          "Renames columns first: {\"answer\": \"solution\"}; dots name nested ones: "
          "reward_model.ground_truth.");
    visit("disable_auto_column_mapping", disable_auto_column_mapping,
          "Takes columns by their canonical names only.");
    visit("strict", strict, "A bad row is an error; false drops it and counts it.");
    visit("data_seed", data_seed, "Seed of the order of rows and of #N.", Range::at_least(0));
    visit("dataset_shuffle", dataset_shuffle, "Shuffles the rows anew in every epoch.");
    curriculum.for_each_field(visit);
    visit("split_dataset_ratio", split_dataset_ratio,
          "Share of the rows that is held out when there is no val_dataset.",
          Range::between(0, 0.9));
  }
};

/// What a difference between trainer and sampler does to a run with --exact.
enum class OnInexact : int { kStop, kWarn };
std::span<const EnumName<OnInexact>> enum_names(OnInexact);

/// At which steps something happens.
enum class Interval : int { kNo, kSteps, kEpoch };
std::span<const EnumName<Interval>> enum_names(Interval);
/// Where a checkpoint is saved: as an Interval says, or wherever an evaluation is the best so far.
enum class SaveStrategy : int { kNo, kSteps, kEpoch, kBest };
std::span<const EnumName<SaveStrategy>> enum_names(SaveStrategy);

/// When a run logs, saves and evaluates, and where its files go.
struct RunOptions {
  std::string output_dir = "output";
  bool overwrite = false, add_version = false;
  double num_train_epochs = 3;
  int64_t max_steps = -1;
  Interval logging_strategy = Interval::kSteps;
  int64_t logging_steps = 5;
  /// Unset: unless logging_strategy is no.
  std::optional<bool> logging_first_step;
  SaveStrategy save_strategy = SaveStrategy::kSteps;
  int64_t save_steps = 500;
  std::optional<int64_t> save_total_limit;
  bool save_only_model = false;
  /// Unset: true, unless save_strategy is no.
  std::optional<bool> save_on_interrupt;
  std::string max_shard_size = "5GB";
  std::string resume_from_checkpoint;
  bool resume_changed = false;
  std::optional<Interval> eval_strategy;
  std::optional<int64_t> eval_steps;
  bool eval_on_start = false;
  bool load_best_model_at_end = false;
  std::optional<std::string> metric_for_best_model;
  std::optional<bool> greater_is_better;
  std::optional<int64_t> early_stop_interval;
  double early_stopping_threshold = 0;
  std::vector<std::string> report_to{"tensorboard"};
  bool report_html = true;
  /// In GiB.
  std::optional<double> memory_budget;
  OnInexact on_inexact = OnInexact::kStop;

  /// When held-out rows are evaluated, where there are some.
  Interval evaluation() const;
  int64_t evaluation_steps() const { return eval_steps.value_or(save_steps); }

  // long: one declaration after another.
  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    visit("output_dir", output_dir, "Run directory.", kSaid);
    visit("overwrite", overwrite, "Replaces an existing run directory.", kIgnored);
    visit("add_version", add_version, "Writes into a new folder v0-DATE below output_dir.",
          kIgnored);
    visit("num_train_epochs", num_train_epochs, "Passes over the rows.", Range::left_open(0, 1e6),
          kSaid);
    visit("max_steps", max_steps, "Optimizer steps; -1: by num_train_epochs.", Range::at_least(-1),
          kSaid);
    visit("logging_strategy", logging_strategy,
          "Steps are logged every logging_steps, at the end of an epoch, or not at all; the last "
          "step too, unless it is no.",
          kSaid);
    visit("logging_steps", logging_steps, "Steps between two lines of logging.jsonl.",
          Range::at_least(1), kSaid);
    visit("logging_first_step", logging_first_step,
          "Logs the first step too; unset: unless logging_strategy is no.", kSaid);
    visit("save_strategy", save_strategy,
          "Checkpoints are saved every save_steps, at the end of an epoch (both: after the last "
          "step too), not at all, or after each evaluation that is the best so far.",
          kSaid);
    visit("save_steps", save_steps, "Steps between two checkpoints.", Range::at_least(1), kSaid);
    visit("save_total_limit", save_total_limit,
          "Checkpoints that are kept, the best and the newest ones; unset: all.",
          Range::at_least(1), kSaid);
    visit("save_only_model", save_only_model,
          "Leaves the optimizer's state out: such a checkpoint cannot be resumed.", kSaid);
    visit("save_on_interrupt", save_on_interrupt,
          "Ctrl-C, SIGTERM and a closed terminal finish the optimizer step and save it before the "
          "run ends; false: the run ends without; unset: true unless save_strategy is no.",
          kIgnored);
    visit("max_shard_size", max_shard_size, "Largest safetensors file.", kSaid);
    visit("memory_budget", memory_budget,
          "How many GiB the memory plan may fill, with the program; unset: what is free.",
          Range::above(0), kSaid);
    visit("resume_from_checkpoint", resume_from_checkpoint,
          "A checkpoint directory of this run, or last.", kIgnored);
    visit("resume_changed", resume_changed,
          "Resumes even if changed options or data change what is trained.", kIgnored);
    visit("eval_strategy", eval_strategy,
          "When held-out rows are evaluated, if there are some; unset: as save_strategy. The last "
          "step is evaluated too.",
          kSaid);
    visit("eval_steps", eval_steps, "Steps between two evaluations; unset: save_steps.",
          Range::at_least(1), kSaid);
    visit("eval_on_start", eval_on_start, "Evaluates before the first step too.", kIgnored);
    visit("load_best_model_at_end", load_best_model_at_end,
          "The model that the run ends with is its best checkpoint: `last` points to it then.",
          kSaid);
    visit("metric_for_best_model", metric_for_best_model,
          "What an evaluation logs that makes a checkpoint the best, with or without eval_; unset: "
          "reward for grpo, loss for sft.",
          kSaid);
    visit("greater_is_better", greater_is_better,
          "The best has the greatest value; unset: unless the metric ends in loss.", kSaid);
    visit("early_stop_interval", early_stop_interval,
          "Ends the run after so many evaluations in a row in which metric_for_best_model was no "
          "better than before; unset: never.",
          Range::at_least(1), kSaid);
    visit("early_stopping_threshold", early_stopping_threshold,
          "How much better is better for early_stop_interval.", Range::at_least(0), kSaid);
    visit("report_to", report_to, "tensorboard or none.", kSaid);
    visit("report_html", report_html,
          "Writes report.html, the run as a page, with the checkpoints and at the end.", kIgnored);
    visit("on_inexact", on_inexact,
          "What happens when a bit differs that --exact keeps equal: stop, naming the layer, or "
          "warn.",
          kSaid);
  }
};

/// Batches, counted in sequences as ms-swift does (completions for grpo).
struct BatchOptions {
  std::optional<int64_t> per_device_train_batch_size;
  int64_t gradient_accumulation_steps = 1;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("per_device_train_batch_size", per_device_train_batch_size,
          "Sequences of a micro-step; unset: num_generations for grpo, 1 for sft.",
          Range::between(1, kMostSequences));
    visit("gradient_accumulation_steps", gradient_accumulation_steps,
          "Micro-steps of an optimizer step.", Range::between(1, kMostSequences));
  }
};

/// What is done with a prompt that is too long.
enum class TruncationStrategy : int { kLeft, kDelete };
std::span<const EnumName<TruncationStrategy>> enum_names(TruncationStrategy);

struct GrpoOptions {
  int64_t num_generations = 8;
  std::optional<int64_t> num_generations_eval;
  int64_t num_iterations = 1;
  std::optional<int64_t> steps_per_generation, generation_batch_size;
  int64_t max_completion_length = 512;
  std::optional<int64_t> max_length;
  TruncationStrategy truncation_strategy = TruncationStrategy::kLeft;
  double temperature = 0.9;
  rollout::SamplingOptions sampling;
  bool log_completions = true, log_entropy = false;
  int64_t log_samples_steps = 50;
  std::string ref_model, ref_adapters;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("num_generations", num_generations, "Completions for each prompt.",
          Range::between(2, kMostSequences));
    visit("num_generations_eval", num_generations_eval,
          "Completions for each held-out prompt; unset: num_generations.",
          Range::between(1, kMostSequences), OnResume::kSaid);
    visit("num_iterations", num_iterations, "How many times a generation batch is trained on.",
          Range::between(1, kMostSequences));
    visit("steps_per_generation", steps_per_generation,
          "Micro-steps made with a generation batch; unset: gradient_accumulation_steps.",
          Range::between(1, kMostSequences));
    visit("generation_batch_size", generation_batch_size, "Completions in a generation batch.",
          Range::between(1, kMostSequences));
    visit("max_completion_length", max_completion_length,
          "How many tokens a completion has at most.", Range::at_least(1));
    visit("max_length", max_length,
          "Longest prompt in tokens; unset: the model's context less the completion.",
          Range::at_least(1));
    visit("truncation_strategy", truncation_strategy,
          "left: a prompt that is too long loses its beginning; delete: its row is dropped.");
    visit("temperature", temperature, "Divides the logits, in sampling and in training.",
          Range::logit_factor());
    sampling.for_each_field(visit);
    visit("log_completions", log_completions, "Writes completions.jsonl.", OnResume::kSaid);
    visit("log_samples_steps", log_samples_steps,
          "Steps between two completions that are shown with their rewards; 0: none.",
          Range::at_least(0), OnResume::kSaid);
    visit("log_entropy", log_entropy, "Logs the entropy of the scored distributions.",
          OnResume::kSaid);
    visit("ref_model", ref_model,
          "Reference model of the KL term; unset: the model that training starts from.",
          OnResume::kByContent);
    visit("ref_adapters", ref_adapters,
          "Directory of an adapter of the reference model; unset: it has none.",
          OnResume::kByContent);
  }
};

/// Whether a step trains on what the layers read while its completions were sampled.
enum class ReuseActivations : int { kAuto, kTrue, kFalse };
std::span<const EnumName<ReuseActivations>> enum_names(ReuseActivations);

/// Where the sampler runs.
enum class RolloutMode : int { kColocate, kServer };
std::span<const EnumName<RolloutMode>> enum_names(RolloutMode);

/// What the servers of a run are.
enum class RolloutEngine : int { kAuto, kLockstep, kVllm };
std::span<const EnumName<RolloutEngine>> enum_names(RolloutEngine);

/// The way of the weights to servers.
enum class SyncTransport : int { kAuto, kShm, kTcp, kDirectory };
std::span<const EnumName<SyncTransport>> enum_names(SyncTransport);

/// What servers are sent after a step.
enum class SyncMode : int { kAuto, kFull, kDelta, kAdapter };
std::span<const EnumName<SyncMode>> enum_names(SyncMode);

/// What becomes of a run that loses one of several servers.
enum class OnServerLoss : int { kContinue, kStop };
std::span<const EnumName<OnServerLoss>> enum_names(OnServerLoss);

/// The longest time that a flag may name, in seconds: a year.
inline constexpr double kLongestTimeout = 366.0 * 24 * 3600;

/// Where completions come from.
struct RolloutOptions {
  RolloutMode rollout_mode = RolloutMode::kColocate;
  std::vector<std::string> rollout_server;
  RolloutEngine rollout_engine = RolloutEngine::kAuto;
  std::string rollout_api_key;
  double rollout_timeout = 3600, sync_timeout = 600;
  OnServerLoss on_server_loss = OnServerLoss::kContinue;
  bool async_generate = false;
  SyncTransport sync_transport = SyncTransport::kAuto;
  SyncMode sync_mode = SyncMode::kAuto;
  std::string sync_directory, sync_address;
  std::optional<double> sync_probe_bound;
  ReuseActivations reuse_rollout_activations = ReuseActivations::kAuto;

  bool is_served() const { return rollout_mode == RolloutMode::kServer; }
  /// For a generation: a request that a server does not answer in time is sampled again on others,
  /// one after another at worst.
  std::chrono::milliseconds longest_wait() const {
    const auto tries = static_cast<double>(rollout_server.size() + 1);
    return std::chrono::milliseconds(static_cast<int64_t>(1000 * tries * rollout_timeout));
  }
  /// Throws ConfigError naming the flag.
  void validate() const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("rollout_mode", rollout_mode,
          "colocate: the sampler shares the trainer's weights. server: servers sample.",
          OnResume::kSaid);
    visit("rollout_server", rollout_server, "The servers' URLs: http://HOST:PORT.",
          OnResume::kSaid);
    visit("rollout_engine", rollout_engine,
          "What the servers are: lockstep, vllm (with the plugin of integrations/vllm); auto: as "
          "they say.",
          OnResume::kSaid);
    visit("rollout_api_key", rollout_api_key,
          "The key that every server is sent; unset: LOCKSTEP_API_KEY of the environment.",
          OnResume::kIgnored);
    visit("rollout_timeout", rollout_timeout,
          "Seconds within which a server answers a request; later it counts as lost.",
          Range::left_open(0, kLongestTimeout), OnResume::kSaid);
    visit("on_server_loss", on_server_loss,
          "What a lost server means while others are left: the run goes on, or stops.",
          OnResume::kSaid);
    visit("async_generate", async_generate,
          "Servers sample the next generation batch while the trainer learns from the last one: "
          "its weights are a step old.");
    visit("sync_transport", sync_transport,
          "How weights reach servers: shm (memory shared with servers of this machine), tcp (they "
          "pull them from --sync_address), directory (a folder that both see); auto: shm where it "
          "can be, tcp with --sync_address.",
          OnResume::kSaid);
    visit("sync_mode", sync_mode,
          "What servers are sent: full, all weights, those of an adapter merged into the model's; "
          "delta, over TCP what has changed in these, where that is less; adapter, the adapter "
          "alone, beside the model that they have; auto: the adapter where one is trained, delta "
          "to other machines, else full.");
    visit("sync_directory", sync_directory,
          "The folder through which weights reach servers; unset: sync in the run directory.",
          OnResume::kSaid);
    visit("sync_address", sync_address,
          "HOST or HOST:PORT of this machine, under which the servers reach it to pull weights. "
          "Nothing is encrypted. Unset: 127.0.0.1, any free port.",
          OnResume::kSaid);
    visit("sync_probe_bound", sync_probe_bound,
          "How far the log-probabilities of a text may be from the trainer's after an update of a "
          "server that does not compute the same bits; above it the run stops. Unset: any.",
          Range::at_least(0), OnResume::kSaid);
    visit("sync_timeout", sync_timeout, "Seconds within which a server loads weights.",
          Range::left_open(0, kLongestTimeout), OnResume::kSaid);
    visit("reuse_rollout_activations", reuse_rollout_activations,
          "Keeps what the layers read while sampling, instead of an on-policy forward; auto: with "
          "gradient checkpointing, if memory has room.",
          OnResume::kIgnored);
  }
};

}  // namespace lockstep::grpo
