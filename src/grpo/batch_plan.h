// The options of a run of grpo, and how they cut its batches.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/options.h"
#include "grpo/eval_sampling.h"
#include "grpo/reference_sync_options.h"
#include "grpo/router_replay.h"
#include "grpo/training_run.h"
#include "reward/reward_options.h"
#include "rollout/engine.h"

namespace lockstep::grpo {

/// The options of a run of grpo: those that it shares with sft, and its own.
struct GrpoRunOptions {
  TrainingOptions training;
  GrpoOptions grpo;
  EvalSamplingOptions eval_sampling;
  reward::RewardOptions reward;
  LossOptions loss;
  AdvantageOptions advantage;
  FilterOptions filters;
  CorrectionOptions correction;
  RouterReplayOptions replay;
  ReferenceSyncOptions reference_sync;
  RolloutOptions rollout;
  agent::AgentOptions agent;
  rollout::EngineOptions engine;

  template <class Visitor>
  void for_each_group(Visitor&& visit) {
    training.for_each_group(visit);
    visit("grpo", grpo);
    visit("evaluation", eval_sampling);
    visit("rewards", reward);
    visit("loss", loss);
    visit("advantage", advantage);
    visit("filters", filters);
    visit("correction", correction);
    visit("router replay", replay);
    visit("moving reference", reference_sync);
    visit("rollout", rollout);
    visit("several turns", agent);
    visit("sampler", engine);
  }
  /// Whether the KL with the reference model is a term of the loss, rather than of the reward.
  bool has_kl_in_loss() const { return loss.beta > 0 && !advantage.has_kl_in_reward(loss); }
  /// Whether the entropy of the policy is logged; TRL logs it wherever it has it.
  bool logs_entropy() const { return grpo.log_entropy || loss.has_entropy_bonus(); }
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
  /// Completions that always stay in one optimizer step: 1, or a group's for a loss of groups.
  int64_t together = 1;
  int64_t generations_per_epoch = 0;
  EpochLength epoch;
  int64_t max_steps = 0;

  /// How many micro-steps are made with a generation batch.
  int64_t uses() const { return steps_per_generation * num_iterations; }
  /// How many generation batches an optimizer step holds at once.
  int64_t batches_at_once() const {
    return (accumulation + steps_per_generation - 1) / steps_per_generation;
  }
  /// Whether every optimizer step trains only on completions of the weights that it changes.
  bool is_on_policy() const { return accumulation % uses() == 0; }
  /// Whether the completions of a generation batch are spread over several optimizer steps.
  bool is_spread() const { return accumulation % steps_per_generation != 0; }
  /// How far the run is after `step` optimizer steps, as rewards are told.
  reward::RunState state_at(int64_t step) const;
};

/// What does not divide, and the flag that it is about.
struct BatchProblem {
  const char* flag;
  /// "expected …, got …"
  std::function<std::string()> text;
};
/// Makes the plan, unless there is a problem.
std::optional<BatchProblem> try_plan(const GrpoRunOptions& options,
                                     int64_t num_rows,
                                     BatchPlan& plan);
/// Makes the plan. Throws ConfigError "bad-batch" with flags that would fit.
BatchPlan plan_batches(const GrpoRunOptions& options, int64_t num_rows);
/// The phases of a run.
std::vector<Phase> phases_of(const GrpoRunOptions& options, bool evaluates);
/// Steps of prompts of this many tokens and the longest completions. If a generation batch is
/// shuffled among steps, each completion of one may have a prompt of its own.
std::vector<train::StepShape> largest_steps(const BatchPlan& plan,
                                            const GrpoOptions& options,
                                            int64_t longest_prompt);
/// Prints the plan for so many prompts, and what the loss is divided by.
void say_batches(const BatchPlan& plan, const GrpoRunOptions& options, int64_t num_prompts);

}  // namespace lockstep::grpo
