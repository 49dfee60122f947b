// SPDX-License-Identifier: Apache-2.0
#include "grpo/batch_plan.h"

#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "grpo/batch_fix.h"
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
  EXPECT_EQ(plan.epoch.steps(), 25);
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
  EXPECT_EQ(plan.epoch.steps(), 10 * 4 * 3 / 2);
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

/// Sets what "--flag number …" says.
void paste(GrpoRunOptions& options, const std::string& fix) {
  std::istringstream words(fix);
  int64_t value = 0;
  for (std::string flag; words >> flag >> value;) {
    if (flag == "--per_device_train_batch_size")
      options.training.batch.per_device_train_batch_size = value;
    else if (flag == "--num_generations")
      options.grpo.num_generations = value;
    else if (flag == "--generation_batch_size")
      options.grpo.generation_batch_size = value;
    else if (flag == "--steps_per_generation")
      options.grpo.steps_per_generation = value;
    else
      ADD_FAILURE() << fix;
  }
}

/// Flags drawn at random: wherever they do not divide, each fix that the error names does.
TEST(BatchPlan, ThePastedFixOfEveryErrorWorks) {
  int refused = 0, pasted = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const RandomStream random("batch fixes", seed);
    uint64_t at = 0;
    const auto draw = [&](uint64_t most) {
      return static_cast<int64_t>(1 + random.below(at++, most));
    };
    auto made = options(draw(12), draw(4), 1 + draw(9));
    if (draw(4) == 1) made.training.batch.per_device_train_batch_size.reset();
    if (draw(2) == 1) made.grpo.steps_per_generation = draw(6);
    if (draw(3) == 1) made.grpo.generation_batch_size = draw(64);
    if (draw(5) == 1) made.loss.loss_type = LossType::kReal;
    const int64_t rows = draw(20);
    BatchPlan plan;
    if (!try_plan(made, rows, plan)) continue;
    ++refused;
    const auto fixes = batch_fixes(made, rows);
    EXPECT_LE(fixes.size(), 2u);
    for (const std::string& fix : fixes) {
      EXPECT_ERROR(plan_batches(made, rows), ConfigError, "bad-batch", fix.c_str());
      GrpoRunOptions mended = made;
      paste(mended, fix);
      const auto left = try_plan(mended, rows, plan);
      EXPECT_FALSE(left) << seed << ": " << fix << ": " << left->text();
      ++pasted;
    }
    EXPECT_FALSE(fixes.empty()) << seed;
  }
  EXPECT_GT(refused, 200);
  EXPECT_GT(pasted, 300);
}

TEST(BatchPlan, AFixIsTheNearestNumber) {
  using ::testing::ElementsAre;
  EXPECT_THAT(batch_fixes(options(4, 3, 8), 100),
              ElementsAre("--num_generations 6", "--steps_per_generation 2"));
  EXPECT_THAT(batch_fixes(options(64, 1, 8), 7),
              ElementsAre("--per_device_train_batch_size 56", "--num_generations 16"));
  auto made = options(4, 2, 4);
  made.grpo.generation_batch_size = 10;
  EXPECT_EQ(batch_fixes(made, 100).front(), "--generation_batch_size 8");
}

TEST(BatchPlan, AnOptimizerStepMayCutThroughAGeneration) {
  auto made = options(8, 2, 8);
  made.grpo.steps_per_generation = 3;
  const BatchPlan plan = plan_batches(made, 9);
  EXPECT_EQ(plan.generation_batch, 24);
  EXPECT_EQ(plan.prompts, 3);
  EXPECT_EQ(plan.generations_per_epoch, 3);
  EXPECT_EQ(plan.epoch.micro_steps, 9);
  EXPECT_EQ(plan.epoch.steps(), 5);  // nine micro-steps by twos, and one alone
  EXPECT_EQ(plan.max_steps, 15);
}

TEST(BatchPlan, KnowsWhatIsOnPolicyAndWhatIsSpreadOverSteps) {
  const auto plan = [](int64_t accumulation, int64_t per_generation, int64_t iterations) {
    auto made = options(8, accumulation, 8);
    made.grpo.steps_per_generation = per_generation;
    made.grpo.num_iterations = iterations;
    return plan_batches(made, 100);
  };
  EXPECT_TRUE(plan(2, 2, 1).is_on_policy());
  EXPECT_TRUE(plan(4, 2, 1).is_on_policy());
  EXPECT_FALSE(plan(3, 2, 1).is_on_policy());  // every other batch is cut in two
  EXPECT_FALSE(plan(2, 2, 2).is_on_policy());
  EXPECT_FALSE(plan(2, 2, 2).is_spread());
  EXPECT_FALSE(plan(4, 2, 1).is_spread());
  EXPECT_TRUE(plan(3, 2, 1).is_spread());
  EXPECT_TRUE(plan(1, 4, 1).is_spread());
}

/// transformers' Trainer: an epoch is ceil(micro-steps / accumulation) steps, the last one of each
/// epoch has what is left, and max_steps is ceil(epochs * steps). Source: transformers 5.23
/// Trainer.set_initial_training_values and _run_epoch.
TEST(EpochLength, CountsStepsAsTransformersDoes) {
  const EpochLength epoch{.micro_steps = 9, .accumulation = 2};
  EXPECT_EQ(epoch.steps(), 5);
  const int64_t first[] = {0, 2, 4, 6, 8, 9, 11, 13, 15, 17, 18};
  for (int64_t step = 0; step <= 10; ++step) {
    EXPECT_EQ(epoch.first_micro_step(step), first[step]) << step;
    EXPECT_DOUBLE_EQ(epoch.epochs(step), double(first[step]) / 9) << step;
  }
  const EpochLength small{.micro_steps = 1, .accumulation = 8};
  EXPECT_EQ(small.steps(), 1);
  EXPECT_DOUBLE_EQ(small.epochs(3), 3);
}

/// Rows, completions a prompt, a micro-step, accumulation, steps a generation, iterations, epochs;
/// the length of TRL 1.16's data loader over its RepeatSampler, and what transformers 5.23 makes of
/// it in Trainer.set_initial_training_values: steps an epoch and in all.
TEST(BatchPlan, CountsWhatTrlAndTransformersCount) {
  struct Case {
    int64_t rows, group, micro_step, accumulation, per_generation, iterations;
    double epochs;
    int64_t micro_steps, steps, max_steps;
  };
  const Case cases[] = {
      {29, 4, 12, 3, 3, 1, 3, 9, 3, 9},     {18, 2, 2, 1, 1, 2, 0.5, 36, 36, 18},
      {26, 3, 3, 3, 2, 1, 0.5, 26, 9, 5},   {27, 3, 9, 1, 4, 1, 1, 8, 8, 8},
      {13, 2, 4, 1, 2, 2, 0.5, 12, 12, 6},  {12, 4, 8, 1, 2, 2, 1, 12, 12, 12},
      {12, 3, 3, 3, 3, 1, 2.3, 12, 4, 10},  {18, 3, 12, 3, 3, 1, 3, 3, 1, 3},
      {26, 4, 8, 1, 3, 1, 2.3, 12, 12, 28}, {15, 3, 3, 3, 4, 2, 1, 24, 8, 8},
      {6, 3, 3, 3, 2, 1, 0.5, 6, 2, 1},     {27, 3, 9, 3, 3, 2, 3, 18, 6, 18},
  };
  for (const Case& c : cases) {
    auto made = options(c.micro_step, c.accumulation, c.group);
    made.grpo.steps_per_generation = c.per_generation;
    made.grpo.num_iterations = c.iterations;
    made.training.run.num_train_epochs = c.epochs;
    const BatchPlan plan = plan_batches(made, c.rows);
    EXPECT_EQ(plan.epoch.micro_steps, c.micro_steps) << c.rows;
    EXPECT_EQ(plan.epoch.steps(), c.steps) << c.rows;
    EXPECT_EQ(plan.max_steps, c.max_steps) << c.rows;
  }
}

TEST(EpochLength, PartsOfAnEpochAreRoundedUp) {
  RunOptions run;
  run.num_train_epochs = 0.5;
  const EpochLength epoch{.micro_steps = 9, .accumulation = 2};
  EXPECT_EQ(epoch.max_steps(run), 3);
  run.num_train_epochs = 2.1;
  EXPECT_EQ(epoch.max_steps(run), 11);
  run.max_steps = 7;
  EXPECT_EQ(epoch.max_steps(run), 7);
}

}  // namespace
}  // namespace lockstep::grpo
