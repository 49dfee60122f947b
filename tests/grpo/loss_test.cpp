// Losses against formulas worked by hand, and their gradients against finite differences.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/loss.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep::grpo {
namespace {

/// A sample with random log-probabilities around -2 and ratios that fall inside and outside the
/// clip range.
struct Case {
  std::vector<float> logprobs, old_logprobs, ref_logprobs;
  std::vector<double> advantages;
};

Case random_case(std::mt19937_64& random, size_t length, bool per_token) {
  std::uniform_real_distribution<float> level(-4, -0.1f), shift(-0.6f, 0.6f);
  std::normal_distribution<double> advantage;
  Case made;
  for (size_t t = 0; t < length; ++t) {
    made.logprobs.push_back(level(random));
    made.old_logprobs.push_back(made.logprobs.back() + shift(random));
    made.ref_logprobs.push_back(made.logprobs.back() + shift(random));
    if (t == 0 || per_token) made.advantages.push_back(advantage(random));
  }
  return made;
}

/// The loss of a token whose term is 1: what its normaliser makes of it.
double weight_of(const Case& made, const StepCounts& counts, LossOptions options) {
  const std::vector<float> logprobs(made.logprobs.size(), -1);
  const std::vector<double> advantages{1};
  std::vector<float> gradient(logprobs.size());
  options.loss_type = options.loss_type == LossType::kSapo ? LossType::kGrpo : options.loss_type;
  return std::abs(sample_loss({.logprobs = logprobs, .advantages = advantages}, options, counts,
                              gradient)
                      .loss) /
         static_cast<double>(logprobs.size());
}

double loss_of(const Case& made,
               const std::vector<float>& logprobs,
               const LossOptions& options,
               const StepCounts& counts) {
  std::vector<float> gradient(logprobs.size());
  return sample_loss({logprobs, made.old_logprobs, made.ref_logprobs, made.advantages}, options,
                     counts, gradient)
      .loss;
}

/// Each loss with its own derivatives held against slopes of its own values. Losses whose weights
/// are detached have other slopes (tests/grpo/objectives_test.cpp compares those).
TEST(Loss, GradientEqualsFiniteDifferences) {
  constexpr LossType kTypes[] = {LossType::kGrpo, LossType::kBnpo, LossType::kDrGrpo,
                                 LossType::kDapo, LossType::kSapo, LossType::kLuspo};
  std::mt19937_64 random(testing::test_seed(7));
  const StepCounts counts{
      .samples = 3, .completion_tokens = 40, .loss_tokens = 37, .max_completion_length = 64};
  int compared = 0;
  for (int round = 0; round < 300; ++round) {
    LossOptions options;
    options.loss_type = kTypes[round % 6];
    options.importance_sampling_level = static_cast<RatioLevel>(round / 6 % 2);
    options.beta = round % 3 ? 0.1 : 0;
    options.kl_estimator = static_cast<KlEstimator>(round % 7 % 3);
    options.use_bias_correction_kl = round % 4 == 0;
    if (round % 5 == 0) options.delta = 1.4;
    options.epsilon_high = 0.28;
    Case made = random_case(random, 1 + static_cast<size_t>(round) % 13, round % 2 == 1);
    if (options.beta == 0) made.ref_logprobs.clear();
    std::vector<float> gradient(made.logprobs.size());
    sample_loss({made.logprobs, made.old_logprobs, made.ref_logprobs, made.advantages}, options,
                counts, gradient);
    // What a token's loss is multiplied by sets the scale of its slope.
    const double weight = weight_of(made, counts, options);
    for (size_t t = 0; t < gradient.size(); ++t) {
      // A step that is a power of two, so that the float arguments move by exactly it.
      const float step = 0x1p-10f;
      auto up = made.logprobs, down = made.logprobs;
      up[t] += step;
      down[t] -= step;
      const double difference =
          (loss_of(made, up, options, counts) - loss_of(made, down, options, counts)) /
          (static_cast<double>(up[t]) - down[t]);
      // A kink of the clip between the two points is the only place where they may differ by more
      // than the second order.
      const double left =
          (loss_of(made, made.logprobs, options, counts) - loss_of(made, down, options, counts)) /
          step;
      const double right =
          (loss_of(made, up, options, counts) - loss_of(made, made.logprobs, options, counts)) /
          step;
      if (std::abs(left - right) > 4e-3 * weight) continue;
      ++compared;
      EXPECT_NEAR(gradient[t], difference, 4e-3 * weight)
          << enum_name(options.loss_type) << " round " << round << " token " << t;
    }
  }
  EXPECT_GT(compared, 1000);  // of 2090
}

TEST(Loss, OnPolicyRatioIsOneAndItsGradientIsMinusTheAdvantage) {
  const std::vector<float> logprobs{-1, -2};
  const std::vector<double> advantages{1.5};
  std::vector<float> gradient(2);
  const StepCounts counts{.samples = 4};
  const auto result =
      sample_loss({.logprobs = logprobs, .advantages = advantages}, {.beta = 0}, counts, gradient);
  EXPECT_DOUBLE_EQ(result.loss, -1.5 / 4);
  EXPECT_FLOAT_EQ(gradient[0], -1.5f / 2 / 4);
  EXPECT_FLOAT_EQ(gradient[1], -1.5f / 2 / 4);
}

TEST(Loss, ClippedTokensHaveNoGradientAndAreCounted) {
  const std::vector<float> logprobs{-1, -1}, old{-2, 0};  // ratios e and 1/e
  std::vector<float> gradient(2);
  for (const double advantage : {1.0, -1.0}) {
    const std::vector<double> advantages{advantage};
    const auto result =
        sample_loss({.logprobs = logprobs, .old_logprobs = old, .advantages = advantages},
                    {.beta = 0}, {.samples = 1}, gradient);
    EXPECT_EQ(result.high_clipped, advantage > 0);
    EXPECT_EQ(result.low_clipped, advantage < 0);
    EXPECT_EQ(gradient[0] == 0, advantage > 0);
    EXPECT_EQ(gradient[1] == 0, advantage < 0);
  }
}

TEST(Loss, ClipHigherMovesTheUpperBoundOnly) {
  const std::vector<float> logprobs{-1}, old{-1.25f};  // ratio 1.284
  const std::vector<double> advantages{1};
  std::vector<float> gradient(1);
  const SampleTerms terms{.logprobs = logprobs, .old_logprobs = old, .advantages = advantages};
  sample_loss(terms, {.epsilon_high = 0.2, .beta = 0}, {.samples = 1}, gradient);
  EXPECT_EQ(gradient[0], 0);
  sample_loss(terms, {.epsilon_high = 0.3, .beta = 0}, {.samples = 1}, gradient);
  EXPECT_NEAR(gradient[0], -std::exp(0.25), 1e-6);
}

TEST(Loss, SequenceRatioIsTheGeometricMean) {
  const std::vector<float> logprobs{-1, -2}, old{-1.1f, -2.05f};
  const std::vector<double> advantages{2};
  std::vector<float> gradient(2);
  const auto result = sample_loss(
      {.logprobs = logprobs, .old_logprobs = old, .advantages = advantages},
      {.beta = 0, .importance_sampling_level = RatioLevel::kSequence}, {.samples = 1}, gradient);
  EXPECT_NEAR(result.loss, -2 * std::exp(0.075), 1e-6);
  EXPECT_NEAR(gradient[0], -2 * std::exp(0.075) / 2, 1e-6);
  EXPECT_EQ(gradient[0], gradient[1]);
}

TEST(Loss, NormalisersFollowTheirDefinitions) {
  const std::vector<float> logprobs{-1, -1, -1};
  const std::vector<double> advantages{1};
  std::vector<float> gradient(3);
  const StepCounts counts{
      .samples = 2, .completion_tokens = 10, .loss_tokens = 6, .max_completion_length = 8};
  const auto loss = [&](LossType type) {
    return sample_loss({.logprobs = logprobs, .advantages = advantages},
                       {.loss_type = type, .beta = 0}, counts, gradient)
        .loss;
  };
  EXPECT_DOUBLE_EQ(loss(LossType::kGrpo), -1.0 / 2);
  EXPECT_DOUBLE_EQ(loss(LossType::kBnpo), -3.0 / 6);
  EXPECT_DOUBLE_EQ(loss(LossType::kDapo), -3.0 / 10);
  EXPECT_DOUBLE_EQ(loss(LossType::kDrGrpo), -3.0 / 16);
}

TEST(Loss, FilteredSampleHasNoLossAndNoGradient) {
  const std::vector<float> logprobs{-1, -1};
  const std::vector<double> advantages{1};
  std::vector<float> gradient{5, 5};
  const auto result =
      sample_loss({.logprobs = logprobs, .advantages = advantages, .is_filtered = true}, {},
                  {.samples = 1}, gradient);
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(result.tokens, 0);
  EXPECT_EQ(gradient, (std::vector<float>{0, 0}));
}

TEST(Loss, KlTermIsHeldWithinItsBounds) {
  const std::vector<float> logprobs{-30}, ref{0};  // exp(20) - 21 is far over 10
  const std::vector<double> advantages{0};
  std::vector<float> gradient(1);
  const auto result =
      sample_loss({.logprobs = logprobs, .ref_logprobs = ref, .advantages = advantages},
                  {.beta = 0.5}, {.samples = 1}, gradient);
  EXPECT_DOUBLE_EQ(result.kl_sum, 10);
  EXPECT_DOUBLE_EQ(result.loss, 5);
  EXPECT_EQ(gradient[0], 0);
}

}  // namespace
}  // namespace lockstep::grpo
