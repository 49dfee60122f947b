// SPDX-License-Identifier: Apache-2.0
#include "grpo/batch_plan.h"

#include <cmath>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

/// The group sizes that divide a generation batch, which an error offers.
std::string divisors(int64_t number) {
  std::string list;
  for (int64_t divisor = 2; divisor <= number && list.size() < 60; ++divisor)
    if (number % divisor == 0) list += fmt::format("{}{}", list.empty() ? "" : ", ", divisor);
  return list;
}

}  // namespace

void GrpoRunOptions::validate() const {
  training.validate();
  rollout.validate();
  if (rollout.is_served() && !training.adapter_set.is_empty())
    fail<ConfigError>(
        "bad-flag", "--train_adapter",
        "expected --rollout_mode colocate, got server (servers sample for one adapter "
        "at a time)");
  for (const std::string& word : grpo.sampling.stop_words)
    if (word.empty())
      fail<ConfigError>("bad-flag", "--stop_words", "expected strings with text, got an empty one");
  reward.validate();
}

reward::RunState BatchPlan::state_at(int64_t step) const {
  return {.global_step = step,
          .max_steps = max_steps,
          .epoch = epoch.epochs(step),
          .num_train_epochs = std::ceil(epoch.epochs(max_steps))};
}

BatchPlan plan_batches(const GrpoRunOptions& options, int64_t num_rows) {
  const GrpoOptions& grpo = options.grpo;
  BatchPlan plan;
  plan.micro_step =
      options.training.batch.per_device_train_batch_size.value_or(grpo.num_generations);
  plan.accumulation = options.training.batch.gradient_accumulation_steps;
  plan.num_iterations = grpo.num_iterations;
  if (grpo.generation_batch_size) {
    plan.generation_batch = *grpo.generation_batch_size;
    if (plan.generation_batch % plan.micro_step)
      fail<ConfigError>("bad-batch", "--generation_batch_size",
                        "expected a multiple of per_device_train_batch_size {}, got {}",
                        plan.micro_step, plan.generation_batch);
    plan.steps_per_generation = plan.generation_batch / plan.micro_step;
    if (grpo.steps_per_generation && *grpo.steps_per_generation != plan.steps_per_generation)
      fail<ConfigError>("bad-batch", "--steps_per_generation",
                        "expected generation_batch_size / per_device_train_batch_size = {}, got {}",
                        plan.steps_per_generation, *grpo.steps_per_generation);
  } else {
    plan.steps_per_generation = grpo.steps_per_generation.value_or(plan.accumulation);
    plan.generation_batch = plan.micro_step * plan.steps_per_generation;
  }
  if (plan.generation_batch % grpo.num_generations)
    fail<ConfigError>("bad-batch", "--num_generations",
                      "expected a divisor of the generation batch of {} completions ({}), got {}",
                      plan.generation_batch, divisors(plan.generation_batch), grpo.num_generations);
  plan.prompts = plan.generation_batch / grpo.num_generations;
  plan.generations_per_epoch = num_rows / plan.prompts;
  if (!plan.generations_per_epoch)
    fail<ConfigError>("bad-batch", "--dataset",
                      "expected at least the {} prompts of one generation batch, got {} rows",
                      plan.prompts, num_rows);
  plan.epoch = {plan.generations_per_epoch * plan.uses(), plan.accumulation};
  plan.max_steps = plan.epoch.max_steps(options.training.run);
  return plan;
}

}  // namespace lockstep::grpo
