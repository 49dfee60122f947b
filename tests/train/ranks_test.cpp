// Several ranks compute what one computes, bit for bit.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "train/adamw.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

using model::Family;
using model::WeightDtype;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_weights;

/// Groups of up to three completions of one prompt. With adapters, the one of a group alternates
/// with none.
std::vector<Sample> some_groups(int64_t groups, bool with_adapter) {
  std::mt19937_64 random(testing::test_seed(11));
  std::vector<Sample> samples;
  for (int64_t group = 0; group < groups; ++group) {
    const auto prompt = random_ids(4 + random() % 9, random);
    for (uint64_t i = 0; i < 1 + random() % 3; ++i) {
      Sample sample{.ids = prompt, .mask = std::vector<uint8_t>(prompt.size(), 0)};
      for (const int64_t id : random_ids(2 + random() % 30, random)) sample.ids.push_back(id);
      sample.mask.resize(sample.ids.size(), 1);
      sample.adapter = with_adapter ? group % 2 - 1 : 0;
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

void loss_of_entropies_too(int64_t sample, const SampleScores& scores, SampleGradient gradient) {
  for (size_t t = 0; t < gradient.logprobs.size(); ++t)
    gradient.logprobs[t] =
        std::sin(static_cast<float>(sample) * 13 + static_cast<float>(t)) * scores.logprobs[t];
  for (size_t t = 0; t < gradient.entropy.size(); ++t)
    gradient.entropy[t] = 0.1F * std::cos(static_cast<float>(t));
}

struct Case {
  Family family = Family::kQwen3;
  WeightDtype dtype = WeightDtype::kFloat32;
  bool with_adapter = false;
  /// How many groups of samples a step has: fewer than slots, or more.
  int64_t groups = 20;
};

/// All that a step says.
struct Outcome {
  std::vector<SampleScores> scored, learned;
  std::vector<at::Tensor> gradients, weights;
  double norm = 0;
  int64_t compared = 0;
  ReplayCounts replayed;
  model::RouterCounts counts;
};

/// Scores, learns with replayed experts and a term of the routers, and steps.
Outcome outcome_of(const Case& test, parallel::Group& ranks) {
  Outcome outcome;
  const auto weights = tiny_weights(test.family, test.dtype);
  std::unique_ptr<model::Adapter> adapter;
  if (test.with_adapter) {
    weights->freeze();
    adapter = testing::lively_adapter(testing::modules_with(*weights, ""), {.rank = 3}, 1);
    adapter->set_dropout(0.3);
  }
  const int64_t experts = weights->config().num_experts;
  Trainer trainer(*weights, {.max_tokens_per_micro_batch = 60}, model::list_of(adapter.get()),
                  ranks);
  auto samples = some_groups(test.groups, test.with_adapter);
  Trainer::ScoreOptions options{.temperature = 0.9, .with_entropy = true};
  options.record_experts = options.record_weights = experts > 0;
  outcome.scored = trainer.score(samples, options);
  options.record_experts = options.record_weights = false;
  if (experts) {
    outcome.counts = trainer.router_counts(samples, options);
    options.router_slopes = at::full({experts}, 0.01, at::TensorOptions().dtype(at::kFloat));
    // The other way round, so that something is replayed.
    for (size_t i = 0; i < samples.size(); ++i) {
      samples[i].routed = outcome.scored[i].routed;
      samples[i].routed.experts = samples[i].routed.experts.flip({0}).contiguous();
    }
  }
  options.with_entropy_gradient = true;
  options.dropout = DropoutStep{7, 3};
  outcome.gradients = trainer.gradients(samples, options, loss_of_entropies_too);
  outcome.learned = trainer.scores();
  outcome.compared = trainer.comparison().compared();
  EXPECT_TRUE(trainer.comparison().is_exact());
  outcome.replayed = trainer.replayed();
  AdamW optimizer(*weights, {.learning_rate = 1e-3}, adapter.get());
  outcome.norm = optimizer.step(outcome.gradients, 1e-3);
  for (const model::Parameter* parameter : trainer.parameters())
    outcome.weights.push_back(parameter->value.detach().clone());
  return outcome;
}

void expect_same(const std::vector<SampleScores>& a, const std::vector<SampleScores>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].logprobs, b[i].logprobs) << "sample " << i;
    EXPECT_EQ(a[i].entropy, b[i].entropy) << "sample " << i;
    ASSERT_EQ(a[i].routed.defined(), b[i].routed.defined());
    if (!a[i].routed.defined()) continue;
    EXPECT_TRUE(same_bits(a[i].routed.experts, b[i].routed.experts)) << "sample " << i;
    EXPECT_TRUE(same_bits(a[i].routed.weights, b[i].routed.weights)) << "sample " << i;
  }
}

void expect_same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << "parameter " << i;
    if (!a[i].defined()) continue;
    EXPECT_TRUE(same_bits(a[i], b[i])) << "parameter " << i;
  }
}

void expect_same(const Outcome& a, const Outcome& b) {
  expect_same(a.scored, b.scored);
  expect_same(a.learned, b.learned);
  expect_same(a.gradients, b.gradients);
  expect_same(a.weights, b.weights);
  EXPECT_EQ(a.norm, b.norm);
  EXPECT_EQ(a.compared, b.compared);
  EXPECT_EQ(a.replayed.changed, b.replayed.changed);
  EXPECT_EQ(a.replayed.choices, b.replayed.choices);
  EXPECT_EQ(a.counts.tokens, b.counts.tokens);
  if (!a.counts.chosen.defined()) return;
  EXPECT_TRUE(same_bits(a.counts.chosen, b.counts.chosen));
  EXPECT_TRUE(same_bits(a.counts.probabilities, b.counts.probabilities));
}

TEST(Ranks, AStepHasTheBitsOfOneRank) {
  for (const Case& test :
       {Case{Family::kQwen3}, Case{Family::kQwen3_5, WeightDtype::kBFloat16},
        Case{Family::kQwen3Moe}, Case{Family::kQwen3_5Moe, WeightDtype::kBFloat16},
        Case{.family = Family::kQwen3_5Moe, .with_adapter = true},
        Case{.family = Family::kQwen3, .groups = 2}, Case{.family = Family::kQwen3Moe, .groups = 1},
        Case{.family = Family::kQwen3_5, .with_adapter = true, .groups = 3}}) {
    const Outcome expected = outcome_of(test, parallel::alone());
    EXPECT_GT(expected.norm, 0);
    EXPECT_EQ(expected.replayed.changed > 0, expected.counts.chosen.defined());
    for (const int64_t size : {1, 2, 4, 8}) {
      SCOPED_TRACE(fmt::format("{} of {} groups{}, {} ranks", enum_name(test.family), test.groups,
                               test.with_adapter ? " with an adapter" : "", size));
      run_ranks(size,
                [&](parallel::Group& ranks) { expect_same(outcome_of(test, ranks), expected); });
    }
  }
}

TEST(Ranks, TheirNumberDividesThatOfTheSlots) {
  run_ranks(3, [](parallel::Group& ranks) {
    const auto weights = tiny_weights(Family::kQwen3);
    EXPECT_ERROR(Trainer(*weights, {}, {}, ranks), ConfigError, "bad-ranks", "expected");
  });
}

}  // namespace
}  // namespace lockstep::train
