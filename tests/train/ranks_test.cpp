// Several ranks compute what one computes, bit for bit.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
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
  /// Whether the first of several checkpoint tensors in one storage is not trained.
  bool is_partly_trained = false;
  /// Whether nothing is scored in the second half of the samples, from which routers learn neither.
  bool is_half_scored = false;
};

/// A tiny model whose embedding has several of the blocks that are shared out.
std::unique_ptr<model::ModelWeights> weights_of(const Case& test) {
  const Json config =
      model::new_model_config({.family = test.family, .vocab_size = 1500, .dtype = test.dtype});
  auto weights = std::make_unique<model::ModelWeights>(
      model::parse_model_config(config, "tiny"),
      testing::MemorySource(testing::lively_tensors(config, test.dtype)), std::nullopt);
  EXPECT_GT(weights->parameters().front().value.numel(), 5 * parallel::kBlockElements);
  if (test.is_partly_trained)
    for (model::Parameter& parameter : weights->parameters())
      if (parameter.pieces.size() > 1) parameter.pieces.front().is_trained = false;
  return weights;
}

/// All that a step says.
struct Outcome {
  std::vector<SampleScores> scored, learned;
  std::vector<at::Tensor> gradients, weights;
  /// By parameter: whether it holds experts.
  std::vector<bool> are_experts;
  std::vector<io::TensorPart> state;
  double norm = 0;
  int64_t compared = 0;
  ReplayCounts replayed;
  model::RouterCounts counts;
};

/// Scores, learns with replayed experts and a term of the routers, and steps.
Outcome outcome_of(const Case& test, const Shards& shards) {
  Outcome outcome;
  const auto weights = weights_of(test);
  std::unique_ptr<model::Adapter> adapter;
  if (test.with_adapter) {
    weights->freeze();
    adapter = testing::lively_adapter(testing::modules_with(*weights, ""), {.rank = 3}, 1);
    adapter->set_dropout(0.3);
  }
  const int64_t experts = weights->config().num_experts;
  Trainer trainer(*weights, {.max_tokens_per_micro_batch = 60}, model::list_of(adapter.get()),
                  shards);
  auto samples = some_groups(test.groups, test.with_adapter);
  for (size_t i = samples.size() / 2; test.is_half_scored && i < samples.size(); ++i)
    samples[i].mask.assign(samples[i].mask.size(), 0);
  Trainer::ScoreOptions options{.temperature = 0.9, .with_entropy = true};
  options.record_experts = options.record_weights = experts > 0;
  outcome.scored = trainer.score(samples, options);
  options.record_experts = options.record_weights = false;
  if (experts) {
    outcome.counts = trainer.router_counts(samples, options);
    if (!test.is_half_scored)
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
  AdamW optimizer(*weights, {.learning_rate = 1e-3}, adapter.get(), shards);
  outcome.norm = optimizer.step(outcome.gradients, 1e-3);
  // Once more, so that moments count.
  optimizer.step(outcome.gradients, 1e-3);
  trainer.layers().gather_all();
  outcome.state = optimizer.state_parts();
  for (const model::Parameter* parameter : trainer.parameters()) {
    outcome.weights.push_back(parameter->value.detach().clone());
    outcome.are_experts.push_back(parameter->is_expert);
  }
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

/// `part` has those elements of `whole` that begin with `first`.
void expect_part(const at::Tensor& part, const at::Tensor& whole, int64_t first) {
  ASSERT_LE(first + part.numel(), whole.numel());
  EXPECT_TRUE(same_bits(part.reshape({-1}), whole.reshape({-1}).narrow(0, first, part.numel())));
}

/// `part` is what a rank says that shares a step with others, `whole` what one alone says.
void expect_same(const Outcome& part, const Outcome& whole, const Shards& shards) {
  expect_same(part.scored, whole.scored);
  expect_same(part.learned, whole.learned);
  ASSERT_EQ(part.gradients.size(), whole.gradients.size());
  for (size_t i = 0; i < part.gradients.size(); ++i) {
    SCOPED_TRACE(fmt::format("parameter {}", i));
    EXPECT_TRUE(same_bits(part.weights[i], whole.weights[i]));
    ASSERT_EQ(part.gradients[i].defined(), whole.gradients[i].defined());
    if (!part.gradients[i].defined()) continue;
    const model::Parameter like{.is_expert = whole.are_experts[i], .value = whole.weights[i]};
    const parallel::ElementRange range = shards.range(like);
    EXPECT_EQ(part.gradients[i].numel(), range.count());
    expect_part(part.gradients[i], whole.gradients[i], range.first);
  }
  ASSERT_EQ(part.state.size(), whole.state.size());
  for (size_t i = 0; i < part.state.size(); ++i) {
    SCOPED_TRACE(whole.state[i].name);
    EXPECT_EQ(part.state[i].name, whole.state[i].name);
    EXPECT_EQ(part.state[i].shape, whole.state[i].shape);
    expect_part(part.state[i].values, whole.state[i].values, part.state[i].first);
  }
  EXPECT_EQ(part.norm, whole.norm);
  EXPECT_EQ(part.compared, whole.compared);
  EXPECT_EQ(part.replayed.changed, whole.replayed.changed);
  EXPECT_EQ(part.replayed.choices, whole.replayed.choices);
  EXPECT_EQ(part.counts.tokens, whole.counts.tokens);
  if (!part.counts.chosen.defined()) return;
  EXPECT_TRUE(same_bits(part.counts.chosen, whole.counts.chosen));
  EXPECT_TRUE(same_bits(part.counts.probabilities, whole.counts.probabilities));
}

TEST(Ranks, AStepHasTheBitsOfOneRank) {
  for (const Case& test :
       {Case{Family::kQwen3}, Case{Family::kQwen3_5, WeightDtype::kBFloat16},
        Case{Family::kQwen3Moe}, Case{Family::kQwen3_5Moe, WeightDtype::kBFloat16},
        Case{.family = Family::kQwen3_5Moe, .with_adapter = true},
        Case{.family = Family::kQwen3, .groups = 2}, Case{.family = Family::kQwen3Moe, .groups = 1},
        Case{.family = Family::kQwen3_5, .with_adapter = true, .groups = 3},
        Case{.family = Family::kQwen3_5Moe, .is_partly_trained = true}}) {
    const Outcome whole = outcome_of(test, {parallel::alone(), Sharding::kNone});
    EXPECT_GT(whole.norm, 0);
    EXPECT_EQ(whole.replayed.changed > 0, whole.counts.chosen.defined());
    for (const int64_t size : {2, 8}) {
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
        SCOPED_TRACE(fmt::format("{} of {} groups{}, {} ranks, sharding {}", enum_name(test.family),
                                 test.groups, test.with_adapter ? " with an adapter" : "", size,
                                 enum_name(sharding)));
        std::atomic<int64_t> state_elements = 0;
        run_ranks(size, [&](parallel::Group& ranks) {
          const Shards shards(ranks, sharding);
          const Outcome part = outcome_of(test, shards);
          expect_same(part, whole, shards);
          for (const io::TensorPart& one : part.state) state_elements += one.values.numel();
        });
        int64_t all = 0;
        for (const io::TensorPart& one : whole.state) all += one.values.numel();
        EXPECT_EQ(state_elements, sharding == Sharding::kNone ? size * all : all);
      }
    }
  }
}

TEST(Ranks, ThatShareOutExpertsHaveTheBitsOfOneRank) {
  for (const Case& test :
       {Case{Family::kQwen3Moe}, Case{Family::kQwen3_5Moe, WeightDtype::kBFloat16},
        Case{.family = Family::kQwen3_5Moe, .with_adapter = true},
        Case{.family = Family::kQwen3Moe, .groups = 1},
        Case{.family = Family::kQwen3Moe, .with_adapter = true, .groups = 3},
        Case{.family = Family::kQwen3Moe, .is_half_scored = true},
        Case{.family = Family::kQwen3_5Moe, .is_partly_trained = true}}) {
    const Outcome whole = outcome_of(test, {parallel::alone(), Sharding::kNone});
    for (const auto& [size, parts] : {std::pair<int64_t, int64_t>{2, 2}, {4, 2}, {4, 4}, {8, 4}}) {
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
        SCOPED_TRACE(fmt::format("{} of {} groups{}, {} ranks, experts over {}, sharding {}",
                                 enum_name(test.family), test.groups,
                                 test.with_adapter ? " with an adapter" : "", size, parts,
                                 enum_name(sharding)));
        run_ranks(size, [&, parts = parts](parallel::Group& ranks) {
          const Shards shards(ranks, sharding, parts);
          expect_same(outcome_of(test, shards), whole, shards);
        });
      }
    }
  }
}

TEST(Ranks, TheirNumberDividesThatOfTheSlots) {
  run_ranks(3, [](parallel::Group& ranks) {
    const auto weights = tiny_weights(Family::kQwen3);
    EXPECT_ERROR(Trainer(*weights, {}, {}, {ranks, Sharding::kNone}), ConfigError, "bad-ranks",
                 "expected");
  });
}

}  // namespace
}  // namespace lockstep::train
