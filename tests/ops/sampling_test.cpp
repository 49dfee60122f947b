// Drawing tokens: the distribution against transformers' and a plain float64 one, and its edges.
// SPDX-License-Identifier: Apache-2.0
#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/options.h"  // Range
#include "base/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::ops {
namespace {

using Logits = std::vector<float>;
constexpr double kAlmostOne = 1 - 0x1p-53;

Logits normal_logits(int64_t count, double deviation, uint64_t seed) {
  const RandomStream stream("sampling-test", testing::test_seed(seed));
  Logits logits;
  for (int64_t i = 0; i < count; ++i)
    logits.push_back(static_cast<float>(deviation * stream.normal(static_cast<uint64_t>(i))));
  return logits;
}

/// The distribution by its definition: softmax and sort at each filter.
std::vector<double> distribution(const Logits& logits, const SamplingParameters& parameters) {
  const size_t count = logits.size();
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(count);
  for (size_t i = 0; i < count; ++i) p[i] = std::exp((logits[i] - max) / parameters.temperature);
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  if (parameters.top_k > 0 && parameters.top_k < std::ssize(p)) {
    const double kth = p[order[static_cast<size_t>(parameters.top_k) - 1]];
    for (double& value : p)
      if (value < kth) value = 0;
  }
  if (parameters.top_p < 1) {
    const double goal = parameters.top_p * std::accumulate(p.begin(), p.end(), 0.0);
    double before = 0;
    for (const size_t id : order) {
      const double value = p[id];
      if (before >= goal && before > 0) p[id] = 0;
      before += value;
    }
  }
  for (double& value : p)
    if (value < parameters.min_p) value = 0;
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= total;
  return p;
}

/// The id at `uniform`, unless it lies within `margin` of a border between ids: then -1.
int64_t id_at(const std::vector<double>& p, double uniform, double margin) {
  double before = 0;
  for (size_t id = 0; id < p.size(); ++id) {
    if (p[id] == 0) continue;
    if (std::abs(uniform - before) < margin && before > 0) return -1;
    before += p[id];
    if (uniform < before - margin) return static_cast<int64_t>(id);
  }
  return -1;
}

TEST(SampleToken, FiltersAsTransformersDoes) {
  const Logits logits = {1.5f, -0.25f, 3, 3, -2, 0.75f, 2.5f, -7, 0.75f, 1};
  const std::vector<int64_t> seen = {2, 6, 6, 4};
  struct Golden {
    SamplingParameters parameters;  // temperature, top_k, top_p, min_p, repetition_penalty
    std::vector<double> probabilities;
  };
  // Made with transformers 5.23: RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopK…,
  // TopP…, MinP…
  const std::vector<Golden> goldens = {
      {{1, 0, 0.9, 0, 1}, {0.075255, 0, 0.337269, 0.337269, 0, 0, 0.204564, 0, 0, 0.045644}},
      {{1, 4, 1, 0, 1}, {0.078854, 0, 0.353399, 0.353399, 0, 0, 0.214347, 0, 0, 0}},
      {{1, 6, 1, 0, 1},
       {0.070260, 0, 0.314882, 0.314882, 0, 0.033188, 0.190985, 0, 0.033188, 0.042615}},
      {{0.5, 0, 0.9, 0, 1}, {0, 0, 0.422319, 0.422319, 0, 0, 0.155362, 0, 0, 0}},
      {{2, 7, 0.8, 0, 1}, {0.130522, 0, 0.276316, 0.276316, 0, 0, 0.215195, 0, 0, 0.101651}},
      {{1, 0, 1, 0.1, 1},
       {0.070260, 0, 0.314882, 0.314882, 0, 0.033188, 0.190985, 0, 0.033188, 0.042615}},
      {{0.7, 8, 0.95, 0.05, 1.3},
       {0.066605, 0, 0.211163, 0.567728, 0, 0, 0.121898, 0, 0, 0.032606}},
      {{1, 3, 1, 0, 2}, {0.154281, 0, 0.154281, 0.691438, 0, 0, 0, 0, 0, 0}},
      {{1.5, 0, 0.99, 0.12, 1},
       {0.096957, 0, 0.263555, 0.263555, 0, 0.058807, 0.188846, 0, 0.058807, 0.069472}},
      {{1, 0, 0.5, 0, 1.2}, {0, 0, 0.377541, 0.622459, 0, 0, 0, 0, 0, 0}}};
  for (const Golden& golden : goldens) {
    constexpr int kPoints = 20000;
    std::vector<double> share(logits.size());
    for (int i = 0; i < kPoints; ++i)
      share[static_cast<size_t>(sample_token(logits, golden.parameters, {.tokens = seen},
                                             (i + 0.5) / kPoints))] += 1.0 / kPoints;
    for (size_t id = 0; id < share.size(); ++id)
      EXPECT_NEAR(share[id], golden.probabilities[id], 1.0 / kPoints + 1e-6) << id;
  }
}

TEST(SampleToken, EqualsTheDefinitionAtManyPoints) {
  const RandomStream uniforms("sampling-uniforms", testing::test_seed(1));
  const std::vector<SamplingParameters> choices = {
      {},
      {.temperature = 0.3},
      {.min_p = 0.02},
      {.top_k = 1},
      {.top_k = 20},
      {.top_k = 5000},
      {.top_p = 0.95},
      {.top_p = 0.3},
      {.top_p = 0.999999},
      {.temperature = 5, .top_p = 0.9},
      {.temperature = 0.8, .top_k = 50, .top_p = 0.9, .min_p = 0.01},
      {.temperature = 1.3, .top_k = 1000, .top_p = 0.7, .min_p = 0.1},
  };
  uint64_t draw = 0;
  for (const int64_t count : {1, 2, 17, 255, 1023, 1024, 1025, 5003}) {
    for (const double deviation : {0.5, 3.0, 20.0}) {
      const Logits logits = normal_logits(count, deviation, static_cast<uint64_t>(count));
      for (const auto& parameters : choices) {
        const auto p = distribution(logits, parameters);
        for (int i = 0; i < 40; ++i) {
          const double uniform = uniforms.uniform(draw++);
          // float32 weights are off by 1e-6 of their value at these distances, so borders are as
          // well.
          const int64_t expected = id_at(p, uniform, 4e-6);
          const auto [actual, logprob] = draw_token(logits, parameters, {}, uniform);
          if (expected >= 0) {
            ASSERT_EQ(actual, expected) << count << " " << deviation << " " << uniform;
            ASSERT_NEAR(logprob, std::log(p[static_cast<size_t>(actual)]), 2e-6)
                << count << " " << deviation << " " << uniform;
          }
        }
      }
    }
  }
}

TEST(SampleToken, DrawsHaveTheSoftmaxDistribution) {
  const Logits logits = normal_logits(40, 1, 3);
  const auto p = distribution(logits, {});
  constexpr int kDraws = 100000;
  const RandomStream uniforms("sampling-chi-square", testing::test_seed(5));
  std::vector<double> counts(logits.size());
  for (uint64_t i = 0; i < kDraws; ++i)
    counts[static_cast<size_t>(sample_token(logits, {}, {}, uniforms.uniform(i)))] += 1;
  double chi_square = 0;
  for (size_t id = 0; id < p.size(); ++id)
    chi_square += std::pow(counts[id] - kDraws * p[id], 2) / (kDraws * p[id]);
  // 39 degrees of freedom: mean 39, and 5 standard deviations of sqrt(78).
  EXPECT_LT(chi_square, 39 + 5 * std::sqrt(78.0));
}

TEST(SampleToken, IdsGrowWithUniform) {
  const Logits logits = normal_logits(3000, 2, 4);
  for (const SamplingParameters& parameters :
       {SamplingParameters{}, SamplingParameters{.top_p = 0.9}, SamplingParameters{.top_k = 30}}) {
    int64_t last = 0;
    for (int i = 0; i < 5000; ++i) {
      const int64_t id = sample_token(logits, parameters, {}, i / 5000.0);
      ASSERT_GE(id, last);
      last = id;
    }
  }
}

TEST(SampleToken, EdgesOfUniformAreTheFirstAndLastPossibleTokens) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  Logits logits(2500, kNever);
  logits[700] = 1;
  logits[1800] = 0;
  logits[1803] = -200;  // underflows to a weight of 0
  for (const SamplingParameters& parameters :
       {SamplingParameters{}, SamplingParameters{.top_p = 0.9999}, SamplingParameters{.top_k = 3},
        SamplingParameters{.min_p = 0.1}}) {
    EXPECT_EQ(sample_token(logits, parameters, {}, 0), 700);
    EXPECT_EQ(sample_token(logits, parameters, {}, kAlmostOne), 1800);
  }
}

/// A probability of min_p times the largest is enough.
TEST(SampleToken, MinPKeepsItsBorder) {
  Logits logits(37, 1.0F);
  for (size_t id = 0; id < logits.size(); ++id)
    if (id % 5) logits[id] = 0.5F;
  EXPECT_EQ(sample_token(logits, {.min_p = 1}, {}, 0), 0);
  EXPECT_EQ(sample_token(logits, {.min_p = 1}, {}, 0.5), 20);
  EXPECT_EQ(sample_token(logits, {.min_p = 1}, {}, kAlmostOne), 35);
}

TEST(SampleToken, UniformLogitsAreDrawnByPosition) {
  for (const int64_t count : {10, 1024, 4096}) {
    const Logits logits(static_cast<size_t>(count), 2.5f);
    for (int64_t id = 0; id < count; id += 7)
      EXPECT_EQ(sample_token(logits, {}, {},
                             (static_cast<double>(id) + 0.5) / static_cast<double>(count)),
                id);
  }
}

TEST(SampleToken, TiesAtTheTopPBorderGoToLowerIds) {
  const Logits logits(8, 1.0f);
  EXPECT_EQ(sample_token(logits, {.top_p = 0.5}, {}, 0), 0);
  EXPECT_EQ(sample_token(logits, {.top_p = 0.5}, {}, kAlmostOne), 3);
  EXPECT_EQ(sample_token(logits, {.top_p = 0}, {}, kAlmostOne), 0);
}

TEST(SampleToken, GreedyTakesTheLargestAndTheLowerIdOfATie) {
  Logits logits = normal_logits(1000, 1, 6);
  logits[313] = logits[888] = 50;
  for (const double uniform : {0.0, 0.5, kAlmostOne})
    EXPECT_EQ(sample_token(logits, {.temperature = 0}, {}, uniform), 313);
  // A penalty acts before the choice.
  const std::vector<int64_t> seen = {313};
  EXPECT_EQ(
      sample_token(logits, {.temperature = 0, .repetition_penalty = 1.1}, {.tokens = seen}, 0.5),
      888);
}

TEST(SampleToken, PenaltiesOfOpenAiCountTheCompletionOnly) {
  // The share of each id follows from the changed logits: softmax(2 - bias …).
  const Logits logits = {2, 2, 2, 2};
  const std::vector<int64_t> tokens = {0, 0, 1, 2, 2, 2};
  const TokenHistory history{.tokens = tokens, .num_prompt = 2};
  SamplingParameters parameters;
  parameters.frequency_penalty = 0.5;
  parameters.presence_penalty = -0.25;
  parameters.logit_bias = {{3, -1.5f}};
  const std::vector<double> changed = {2, 2 - 0.5 + 0.25, 2 - 1.5 + 0.25, 0.5};
  double total = 0;
  for (const double logit : changed) total += std::exp(logit);
  std::vector<double> share(4);
  for (int i = 0; i < 20000; ++i)
    share[static_cast<size_t>(sample_token(logits, parameters, history, (i + 0.5) / 20000))] +=
        1.0 / 20000;
  for (size_t id = 0; id < 4; ++id)
    EXPECT_NEAR(share[id], std::exp(changed[id]) / total, 1e-4) << id;
}

TEST(SampleToken, BannedTokensAreNeverDrawn) {
  Logits logits = normal_logits(3000, 1, 8);
  logits[17] = 60;
  const std::vector<int64_t> banned = {17, 4000, -1};
  for (const SamplingParameters& parameters :
       {SamplingParameters{}, {.temperature = 0}, {.top_k = 5}, {.top_p = 0.9}, {.min_p = 0.1}})
    for (int i = 0; i < 200; ++i) {
      EXPECT_EQ(sample_token(logits, parameters, {}, (i + 0.5) / 200), 17);
      EXPECT_NE(sample_token(logits, parameters, {}, (i + 0.5) / 200, banned), 17);
    }
}

TEST(SampleToken, ATinyTemperatureIsGreedy) {
  const Logits logits = normal_logits(1000, 1, 7);
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  for (const double temperature : {1e-6, Range::logit_factor().low}) {
    EXPECT_EQ(sample_token(logits, {.temperature = temperature}, {}, 0.99), best);
    EXPECT_EQ(sample_token(logits, {.temperature = temperature, .top_p = 0.9}, {}, 0.99), best);
  }
}

TEST(SampleToken, RefusesLogitsThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const size_t place : {size_t{0}, size_t{31}, size_t{99}}) {
    for (const float bad : {std::nanf(""), kInfinity}) {
      Logits logits(100, 0.0f);
      logits[place] = bad;
      EXPECT_ERROR(sample_token(logits, {}, {}, 0.5), InternalError, "non-finite-logits",
                   "non-finite logits");
      EXPECT_ERROR(sample_token(logits, {.temperature = 0}, {}, 0.5), InternalError,
                   "non-finite-logits", "non-finite logits");
    }
  }
  EXPECT_ERROR(sample_token(Logits(100, -kInfinity), {}, {}, 0.5), InternalError,
               "non-finite-logits", "-inf");
}

}  // namespace
}  // namespace lockstep::ops
