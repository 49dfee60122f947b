// Group relative policy optimisation: sample, reward, learn.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "grpo/training_run.h"
#include "reward/reward.h"
#include "rollout/engine.h"

namespace lockstep::grpo {

/// A run of grpo: what it shares with sft, and its own.
struct GrpoRunOptions {
  TrainingOptions training;
  GrpoOptions grpo;
  reward::RewardOptions reward;
  LossOptions loss;
  RolloutOptions rollout;
  rollout::EngineOptions engine;

  template <class Visitor>
  void for_each_group(Visitor&& visit) {
    training.for_each_group(visit);
    visit("grpo", grpo);
    visit("rewards", reward);
    visit("loss", loss);
    visit("rollout", rollout);
    visit("sampler", engine);
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// The arithmetic of batches, all counted in completions, printed and checked before the first
/// step.
struct BatchPlan {
  /// Completions of a micro-step (per_device_train_batch_size).
  int64_t micro_step = 0;
  /// Micro-steps of an optimizer step.
  int64_t accumulation = 0;
  /// Micro-steps that a generation batch holds.
  int64_t steps_per_generation = 0;
  /// Times that a generation batch is trained on.
  int64_t num_iterations = 1;
  /// Completions of a generation batch.
  int64_t generation_batch = 0;
  /// Prompts of a generation batch.
  int64_t prompts = 0;
  int64_t generations_per_epoch = 0;
  EpochLength epoch;
  int64_t max_steps = 0;

  /// Micro-steps that a generation batch serves.
  int64_t uses() const { return steps_per_generation * num_iterations; }
  /// No optimizer step trains on completions that were sampled before an earlier one.
  bool is_on_policy() const { return accumulation % uses() == 0; }
  /// The completions of a generation batch are spread over several optimizer steps.
  bool is_spread() const { return accumulation % steps_per_generation != 0; }
};

/// Works the plan out. Throws ConfigError with the numbers that would fit.
BatchPlan plan_batches(const GrpoRunOptions& options, int64_t num_rows);

/// Trains on the rows and writes the run directory.
/// Throws ConfigError, FormatError (nothing is written then), IoError, InterruptedError.
void run_grpo(const GrpoRunOptions& options, const RunContext& context);

}  // namespace lockstep::grpo
