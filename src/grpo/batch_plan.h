// The options of a run of grpo, and how they cut its batches.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "grpo/training_run.h"
#include "reward/reward_options.h"
#include "rollout/engine.h"

namespace lockstep::grpo {

/// The options of a run of grpo: those that it shares with sft, and its own.
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

/// How batches are cut, checked and printed before the first step.
struct BatchPlan {
  /// Completions in a micro-step (per_device_train_batch_size).
  int64_t micro_step = 0;
  /// Micro-steps in an optimizer step.
  int64_t accumulation = 0;
  /// Micro-steps that a generation batch holds.
  int64_t steps_per_generation = 0;
  /// How many times a generation batch is trained on.
  int64_t num_iterations = 1;
  /// Completions in a generation batch.
  int64_t generation_batch = 0;
  /// Prompts in a generation batch.
  int64_t prompts = 0;
  int64_t generations_per_epoch = 0;
  EpochLength epoch;
  int64_t max_steps = 0;

  /// How many micro-steps are made with a generation batch.
  int64_t uses() const { return steps_per_generation * num_iterations; }
  /// Whether every optimizer step trains only on completions of the weights that it changes.
  bool is_on_policy() const { return accumulation % uses() == 0; }
  /// Whether the completions of a generation batch are spread over several optimizer steps.
  bool is_spread() const { return accumulation % steps_per_generation != 0; }
  /// How far the run is after `step` optimizer steps, as rewards are told.
  reward::RunState state_at(int64_t step) const;
};

/// Makes the plan. Throws ConfigError with the numbers that would fit.
BatchPlan plan_batches(const GrpoRunOptions& options, int64_t num_rows);

}  // namespace lockstep::grpo
