// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "grpo/grpo.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

GrpoRunOptions options(int64_t per_device, int64_t accumulation, int64_t generations) {
  GrpoRunOptions made;
  made.training.batch.per_device_train_batch_size = per_device;
  made.training.batch.gradient_accumulation_steps = accumulation;
  made.grpo.num_generations = generations;
  return made;
}

TEST(BatchPlan, CountsCompletionsNotPrompts) {
  const BatchPlan plan = plan_batches(options(8, 4, 8), 100);
  EXPECT_EQ(plan.generation_batch, 32);
  EXPECT_EQ(plan.prompts, 4);
  EXPECT_EQ(plan.generations_per_epoch, 25);
  EXPECT_DOUBLE_EQ(plan.steps_per_epoch, 25);
  EXPECT_EQ(plan.max_steps, 75);
}

TEST(BatchPlan, AnUnsetMicroStepIsOneGroup) {
  GrpoRunOptions made;
  made.grpo.num_generations = 6;
  EXPECT_EQ(plan_batches(made, 10).micro_step, 6);
}

TEST(BatchPlan, IterationsMultiplyOptimizerSteps) {
  auto made = options(8, 2, 8);
  made.grpo.steps_per_generation = 4;
  made.grpo.num_iterations = 3;
  const BatchPlan plan = plan_batches(made, 40);
  EXPECT_EQ(plan.generation_batch, 32);
  EXPECT_DOUBLE_EQ(plan.steps_per_epoch, 10.0 * 4 * 3 / 2);
}

TEST(BatchPlan, RefusesWhatDoesNotDivideAndNamesWhatWould) {
  EXPECT_ERROR(plan_batches(options(4, 3, 8), 100), ConfigError, "bad-batch", "2, 3, 4, 6, 12");
  auto made = options(4, 2, 4);
  made.grpo.generation_batch_size = 10;
  EXPECT_ERROR(plan_batches(made, 100), ConfigError, "bad-batch",
               "multiple of per_device_train_batch_size 4");
  made.grpo.generation_batch_size = 8;
  made.grpo.steps_per_generation = 4;
  EXPECT_ERROR(plan_batches(made, 100), ConfigError, "bad-batch", "= 2, got 4");
  EXPECT_ERROR(plan_batches(options(64, 1, 8), 7), ConfigError, "bad-batch",
               "at least the 8 prompts");
}

TEST(BatchPlan, AnOptimizerStepMayCutThroughAGeneration) {
  auto made = options(8, 2, 8);
  made.grpo.steps_per_generation = 3;
  const BatchPlan plan = plan_batches(made, 9);
  EXPECT_EQ(plan.generation_batch, 24);
  EXPECT_EQ(plan.prompts, 3);
  EXPECT_EQ(plan.generations_per_epoch, 3);
  EXPECT_EQ(plan.steps_per_epoch, 4.5);  // nine micro-steps by twos
}

}  // namespace
}  // namespace lockstep::grpo
