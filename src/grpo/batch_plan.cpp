// SPDX-License-Identifier: Apache-2.0
#include "grpo/batch_plan.h"

#include <cmath>
#include <numeric>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"
#include "grpo/batch_fix.h"

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
  if (rollout.async_generate && filters.dynamic_sample)
    fail<ConfigError>("bad-flag", "--dynamic_sample",
                      "expected false with --async_generate true, whose batches are sampled before "
                      "the rewards of the last one are known, got true");
  agent.validate();
  if (agent.is_on() && rollout.async_generate)
    fail<ConfigError>("bad-flag", "--async_generate",
                      "expected false where completions have several turns, got true");
  if (agent.is_on() && rollout.reuse_rollout_activations == ReuseActivations::kTrue)
    fail<ConfigError>("bad-flag", "--reuse_rollout_activations",
                      "expected auto or false where completions have several turns, got true");
  loss.validate();
  advantage.validate();
  correction.validate();
  replay.validate(rollout);
  reference_sync.validate(loss, training.tuner.tuner_type == TunerType::kLora,
                          !grpo.ref_adapters.empty());
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

namespace {

/// A generation batch, and how many micro-steps it holds, from the flags that name either.
std::optional<BatchProblem> plan_generation(const GrpoOptions& grpo, BatchPlan& plan) {
  if (!grpo.generation_batch_size) {
    plan.steps_per_generation = grpo.steps_per_generation.value_or(plan.accumulation);
    plan.generation_batch = plan.micro_step * plan.steps_per_generation;
    return std::nullopt;
  }
  plan.generation_batch = *grpo.generation_batch_size;
  if (plan.generation_batch % plan.micro_step)
    return BatchProblem{"--generation_batch_size", [plan] {
                          return fmt::format(
                              "expected a multiple of per_device_train_batch_size {}, got {}",
                              plan.micro_step, plan.generation_batch);
                        }};
  plan.steps_per_generation = plan.generation_batch / plan.micro_step;
  if (grpo.steps_per_generation && *grpo.steps_per_generation != plan.steps_per_generation)
    return BatchProblem{"--steps_per_generation", [plan, got = *grpo.steps_per_generation] {
                          return fmt::format(
                              "expected generation_batch_size / per_device_train_batch_size = {}, "
                              "got {}",
                              plan.steps_per_generation, got);
                        }};
  return std::nullopt;
}

}  // namespace

std::optional<BatchProblem> try_plan(const GrpoRunOptions& options,
                                     int64_t num_rows,
                                     BatchPlan& plan) {
  const GrpoOptions& grpo = options.grpo;
  plan = {};
  plan.micro_step =
      options.training.batch.per_device_train_batch_size.value_or(grpo.num_generations);
  plan.accumulation = options.training.batch.gradient_accumulation_steps;
  plan.num_iterations = grpo.num_iterations;
  if (auto problem = plan_generation(grpo, plan)) return problem;
  if (plan.generation_batch % grpo.num_generations)
    return BatchProblem{"--num_generations", [plan, got = grpo.num_generations] {
                          return fmt::format(
                              "expected a divisor of the generation batch of {} completions ({}), "
                              "got {}",
                              plan.generation_batch, divisors(plan.generation_batch), got);
                        }};
  if (options.loss.loss_type == LossType::kReal) {
    plan.together = grpo.num_generations;
    const int64_t step = plan.micro_step * std::gcd(plan.accumulation, plan.steps_per_generation);
    if (step % plan.together)
      return BatchProblem{"--per_device_train_batch_size", [plan, step] {
                            return fmt::format(
                                "expected whole groups of {} in an optimizer step with --loss_type "
                                "real, got {} completions",
                                plan.together, step);
                          }};
  }
  plan.prompts = plan.generation_batch / grpo.num_generations;
  plan.generations_per_epoch = num_rows / plan.prompts;
  if (!plan.generations_per_epoch)
    return BatchProblem{"--dataset", [plan, num_rows] {
                          return fmt::format(
                              "expected at least the {} prompts of one generation batch, got {} "
                              "rows",
                              plan.prompts, num_rows);
                        }};
  plan.epoch = {plan.generations_per_epoch * plan.uses(), plan.accumulation};
  plan.max_steps = plan.epoch.max_steps(options.training.run);
  return std::nullopt;
}

BatchPlan plan_batches(const GrpoRunOptions& options, int64_t num_rows) {
  BatchPlan plan;
  if (const auto problem = try_plan(options, num_rows, plan)) {
    const auto fixes = batch_fixes(options, num_rows);
    fail<ConfigError>("bad-batch", problem->flag, "{}{}", problem->text(),
                      fixes.empty() ? "" : fmt::format(" (hint: {})", fmt::join(fixes, ", or ")));
  }
  return plan;
}

std::vector<Phase> phases_of(const GrpoRunOptions& options, bool evaluates) {
  std::vector<Phase> all{Phase::kRollout, Phase::kReward, Phase::kScore, Phase::kTrain,
                         Phase::kSave};
  if (options.rollout.is_served()) all.push_back(Phase::kSync);
  if (evaluates) all.push_back(Phase::kEval);
  return all;
}

std::vector<train::StepShape> largest_steps(const BatchPlan& plan,
                                            const GrpoOptions& options,
                                            int64_t longest_prompt) {
  const train::StepShape groups{.samples = plan.micro_step * plan.accumulation,
                                .group = options.num_generations,
                                .prompt_tokens = longest_prompt,
                                .completion_tokens = options.max_completion_length};
  if (!plan.is_spread()) return {groups};
  train::StepShape scattered = groups;
  scattered.group = plan.together;
  return {groups, scattered};
}

namespace {

std::string normaliser_text(const LossOptions& options) {
  switch (options.loss_type) {
    case LossType::kGrpo:
    case LossType::kGspo:
    case LossType::kSapo:
      return "the mean over a step's completions of each one's mean over its tokens";
    case LossType::kBnpo:
      return "the mean over all tokens of a step that count";
    case LossType::kDrGrpo:
      return "the sum over a step's tokens, divided by completions x max_completion_length";
    case LossType::kLuspo:
      return "the mean over a step's completions of each one's sum over its tokens";
    case LossType::kReal:
      return "the mean over a step's groups of what tells right from wrong completions";
    case LossType::kDapo:
    case LossType::kCispo:
    case LossType::kFipo:
    case LossType::kVespo:
      break;
  }
  return options.dapo_denominator == DapoDenominator::kAllTokens
             ? "the sum over a step's tokens, divided by their number before overlong_filter"
             : "the sum over a step's tokens, divided by their number after overlong_filter";
}

}  // namespace

void say_batches(const BatchPlan& plan, const GrpoRunOptions& options, int64_t num_prompts) {
  const int64_t generations = options.grpo.num_generations, steps = plan.epoch.steps(),
                rest = plan.epoch.micro_steps % plan.accumulation;
  log_info(
      "batches: {} completions a generation batch ({} prompts x {}), {} an optimizer step, {} a "
      "micro-step",
      plan.generation_batch, plan.prompts, generations, plan.micro_step * plan.accumulation,
      plan.micro_step);
  log_info("batches: optimizer steps: {:.4g} a generation batch, {} an epoch{}, {} in all",
           static_cast<double>(plan.uses()) / static_cast<double>(plan.accumulation), steps,
           rest ? fmt::format(" (the last one with {} completions)", rest * plan.micro_step) : "",
           plan.max_steps);
  if (plan.is_spread())
    log_info("batches: a generation batch is shuffled among its optimizer steps{}",
             plan.together > 1 ? ", whole groups together" : "");
  const bool others_each_epoch = options.training.data.dataset_shuffle &&
                                 (options.training.data.curriculum.curriculum_column.empty() ||
                                  options.training.data.curriculum.curriculum_epochs);
  if (const int64_t left = num_prompts % plan.prompts)
    log_info("batches: {} of {} prompts do not fill a generation batch and are left out{}", left,
             num_prompts, others_each_epoch ? ", others in each epoch" : "");
  log_info("loss: {}", normaliser_text(options.loss));
  if (options.grpo.sampling.parameters(options.grpo.temperature).narrows())
    log_info(
        "sampling: top_p, top_k, min_p or a penalty makes tokens be drawn from another "
        "distribution "
        "than the one that is scored; {}",
        options.correction.rollout_importance_sampling_mode
            ? "the correction weighs them by what they were drawn with"
            : "nothing corrects for that (--rollout_importance_sampling_mode would)");
}

}  // namespace lockstep::grpo
