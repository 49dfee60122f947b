// The trainer's gradients: what they may depend on, and finite differences of the whole model.
// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/peak_allocation.h"
#include "train/adamw.h"

namespace lockstep::train {
namespace {

using model::Family;
using model::WeightDtype;
using testing::kFamilies;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_weights;

/// Samples of a few lengths, about half of their tokens scored; one of them with none.
std::vector<Sample> some_samples(uint64_t seed) {
  std::mt19937_64 random(testing::test_seed(seed));
  std::vector<Sample> samples;
  for (const size_t length : {17, 1, 40, 66, 2, 9, 23, 5, 31, 12}) {
    Sample sample{random_ids(length, random), std::vector<uint8_t>(length, 0)};
    for (size_t t = 1; t < length; ++t) sample.mask[t] = samples.size() == 3 ? 0 : random() % 2;
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// A fixed coefficient in [-1, 1] for each scored token.
float coefficient(int64_t sample, size_t token) {
  return static_cast<float>(
      std::sin(static_cast<double>(sample) * 12.9898 + static_cast<double>(token) * 78.233));
}

/// The loss sum_i coefficient_i logprob_i, and where entropies have gradients, sum_i of the same
/// coefficients times them.
void weighted_sum(int64_t sample, const SampleScores& scores, SampleGradient gradient) {
  ASSERT_EQ(scores.logprobs.size(), gradient.logprobs.size());
  for (size_t t = 0; t < gradient.logprobs.size(); ++t)
    gradient.logprobs[t] = coefficient(sample, t);
  for (size_t t = 0; t < gradient.entropy.size(); ++t) gradient.entropy[t] = coefficient(sample, t);
}

double loss_of(const std::vector<SampleScores>& scores) {
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i)
    for (size_t t = 0; t < scores[i].logprobs.size(); ++t)
      sum += double{coefficient(static_cast<int64_t>(i), t)} *
             (double{scores[i].logprobs[t]} +
              (scores[i].entropy.empty() ? 0.0 : double{scores[i].entropy[t]}));
  return sum;
}

std::vector<at::Tensor> gradients_with(model::ModelWeights& weights,
                                       const TrainerOptions& options,
                                       double temperature = 1) {
  Trainer trainer(weights, options);
  return trainer.gradients(some_samples(1), {.temperature = temperature}, weighted_sum);
}

TEST(Trainer, GradientsAreFloat32OfTheParametersShapes) {
  for (const Family family : kFamilies) {
    const auto weights = tiny_weights(family, WeightDtype::kBFloat16);
    const auto gradients = gradients_with(*weights, {});
    ASSERT_EQ(gradients.size(), weights->parameters().size());
    for (size_t i = 0; i < gradients.size(); ++i) {
      const auto& parameter = weights->parameters()[i];
      ASSERT_TRUE(gradients[i].defined()) << parameter.id;
      EXPECT_EQ(gradients[i].scalar_type(), at::kFloat) << parameter.id;
      EXPECT_EQ(gradients[i].sizes(), parameter.value.sizes()) << parameter.id;
      EXPECT_GT(gradients[i].abs().max().item<float>(), 0) << parameter.id;
    }
  }
}

/// Freezes every piece but those that `is_trained` names.
template <class IsTrained>
void freeze(model::ModelWeights& weights, const IsTrained& is_trained) {
  for (auto& parameter : weights.parameters())
    for (auto& piece : parameter.pieces) piece.is_trained = is_trained(piece.name);
}

TEST(Trainer, WhatIsFrozenChangesNoGradientOfTheRest) {
  for (const Family family : kFamilies) {
    const auto all = tiny_weights(family, WeightDtype::kFloat32);
    const auto expected = gradients_with(*all, {});
    // Of the last layer, of the first, of parts of parameters, of what lies outside of the layers.
    for (const char* part : {"layers.3.", "layers.0.mlp", "up_proj", "norm", "embed_tokens"}) {
      const auto weights = tiny_weights(family, WeightDtype::kFloat32);
      freeze(*weights, [&](const std::string& name) { return name.find(part) != name.npos; });
      const auto gradients = gradients_with(*weights, {});
      ASSERT_EQ(gradients.size(), expected.size());
      int trained = 0;
      for (size_t i = 0; i < gradients.size(); ++i) {
        const auto& parameter = weights->parameters()[i];
        EXPECT_EQ(gradients[i].defined(), parameter.is_trained()) << parameter.id << ", " << part;
        if (!gradients[i].defined()) continue;
        EXPECT_TRUE(same_bits(gradients[i], expected[i])) << parameter.id << ", " << part;
        ++trained;
      }
      EXPECT_GT(trained, 0) << part;
      EXPECT_LT(trained, std::ssize(gradients)) << part;
    }
  }
}

TEST(Trainer, GradientCheckpointingDoesNotMatter) {
  for (const Family family : kFamilies) {
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      const auto weights = tiny_weights(family, dtype);
      const auto kept = gradients_with(*weights, {.gradient_checkpointing = false});
      const auto recomputed = gradients_with(*weights, {.gradient_checkpointing = true});
      for (size_t i = 0; i < kept.size(); ++i)
        EXPECT_TRUE(same_bits(kept[i], recomputed[i]))
            << enum_name(family) << " " << weights->parameters()[i].id;
      Trainer partly(*weights, {});
      partly.keep_layers(1);
      const auto mixed = partly.gradients(some_samples(1), {}, weighted_sum);
      for (size_t i = 0; i < kept.size(); ++i)
        EXPECT_TRUE(same_bits(kept[i], mixed[i]))
            << enum_name(family) << " " << weights->parameters()[i].id;
    }
  }
}

/// The plan against what tensors really take, for models whose layers, not their head's scratch,
/// take most of it.
TEST(Trainer, StepMemoryIsWhatAStepTakes) {
  constexpr StepShape kShape{
      .samples = 16, .group = 4, .prompt_tokens = 100, .completion_tokens = 60};
  std::mt19937_64 random(testing::test_seed(1));
  std::vector<Sample> samples;
  for (int64_t i = 0; i < kShape.samples; ++i) {
    std::vector<int64_t> ids = i % kShape.group ? samples.back().ids : random_ids(100, random);
    ids.resize(100);
    const auto completion = random_ids(60, random);
    ids.insert(ids.end(), completion.begin(), completion.end());
    std::vector<uint8_t> mask(100, 0);
    mask.resize(160, 1);
    samples.push_back({std::move(ids), std::move(mask)});
  }
  for (const Family family : kFamilies) {
    const bool is_moe = family == Family::kQwen3Moe || family == Family::kQwen3_5Moe;
    const WeightDtype dtype = is_moe ? WeightDtype::kBFloat16 : WeightDtype::kFloat32;
    const Json config =
        model::new_model_config({.family = family, .size = model::ModelSize::k10m, .dtype = dtype});
    model::ModelWeights weights(model::parse_model_config(config, "test"),
                                testing::MemorySource(model::new_model_tensors(config, dtype, 1)),
                                std::nullopt);
    Trainer trainer(weights, {});
    for (const int64_t layers : {int64_t{0}, trainer.num_layers()}) {
      trainer.keep_layers(layers);
      const StepMemory planned = trainer.step_memory(kShape);
      const auto taken = static_cast<double>(
          testing::peak_allocation([&] { trainer.gradients(samples, {}, weighted_sum); }));
      const double ratio = taken / static_cast<double>(planned.kept + planned.work);
      EXPECT_GT(ratio, 0.75) << enum_name(family) << " " << layers;
      EXPECT_LT(ratio, 1.1) << enum_name(family) << " " << layers;
    }
  }
}

TEST(Trainer, ThreadCountDoesNotMatter) {
  const int threads = at::get_num_threads();
  for (const Family family : {Family::kQwen3_5, Family::kQwen3_5Moe}) {
    const auto weights = tiny_weights(family, WeightDtype::kBFloat16);
    at::set_num_threads(1);
    const auto one = gradients_with(*weights, {});
    at::set_num_threads(3);
    const auto three = gradients_with(*weights, {});
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(same_bits(one[i], three[i]))
          << enum_name(family) << " " << weights->parameters()[i].id;
  }
  at::set_num_threads(threads);
}

TEST(Trainer, TokenBudgetsAgreeWithinRounding) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const auto expected = gradients_with(*weights, {.max_tokens_per_micro_batch = 1});
    const double norm = gradient_norm(expected);
    for (const int64_t budget : {64, 4096}) {
      const auto actual = gradients_with(*weights, {.max_tokens_per_micro_batch = budget});
      std::vector<at::Tensor> differences;
      for (size_t i = 0; i < expected.size(); ++i) {
        differences.push_back(actual[i].sub(expected[i]));
        const double own = gradient_norm({expected[i]});
        EXPECT_LE(gradient_norm({differences[i]}), 1e-5 * own)
            << weights->parameters()[i].id << ", budget " << budget;
      }
      EXPECT_LE(gradient_norm(differences), 1e-6 * norm) << "budget " << budget;
    }
  }
}

TEST(Trainer, ScoresEqualTheLogprobsThatTheLossSeesBitForBit) {
  for (const Family family : kFamilies) {
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      const auto weights = tiny_weights(family, dtype);
      Trainer trainer(*weights, {.max_tokens_per_micro_batch = 64});
      const auto samples = some_samples(2);
      const Trainer::ScoreOptions options{.temperature = 0.8, .with_entropy = true};
      const auto scores = trainer.score(samples, options);
      ASSERT_EQ(scores.size(), samples.size());
      int64_t next = 0;
      trainer.gradients(
          samples, options, [&](int64_t sample, const SampleScores& seen, SampleGradient gradient) {
            EXPECT_EQ(sample, next++);
            const auto& scored = scores[static_cast<size_t>(sample)];
            EXPECT_EQ(static_cast<int64_t>(gradient.logprobs.size()),
                      samples[static_cast<size_t>(sample)].num_scored());
            EXPECT_EQ(seen.logprobs, scored.logprobs) << enum_name(family) << " sample " << sample;
            EXPECT_EQ(seen.entropy, scored.entropy) << enum_name(family) << " sample " << sample;
          });
      EXPECT_EQ(next, static_cast<int64_t>(samples.size()));
    }
  }
}

TEST(Trainer, ScoresDoNotDependOnThePacking) {
  for (const Family family : kFamilies) {
    const auto weights = tiny_weights(family, WeightDtype::kBFloat16);
    const auto samples = some_samples(3);
    const auto alone = Trainer(*weights, {.max_tokens_per_micro_batch = 1}).score(samples, {});
    const auto packed = Trainer(*weights, {.max_tokens_per_micro_batch = 4096}).score(samples, {});
    for (size_t i = 0; i < samples.size(); ++i)
      EXPECT_EQ(alone[i].logprobs, packed[i].logprobs) << enum_name(family) << i;
  }
}

TEST(Trainer, ChunkedScoresAreCloseToExactOnes) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  const Trainer trainer(*weights, {});
  const auto samples = some_samples(4);
  const auto exact = trainer.score(samples, {}),
             chunked = trainer.score(samples, {.chunked_delta = true});
  for (size_t i = 0; i < samples.size(); ++i)
    for (size_t t = 0; t < exact[i].logprobs.size(); ++t)
      EXPECT_NEAR(exact[i].logprobs[t], chunked[i].logprobs[t], 1e-4);
}

/// Moves every parameter by `by` times its direction.
void move(model::ModelWeights& weights, const std::vector<at::Tensor>& direction, double by) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < direction.size(); ++i)
    weights.parameters()[i].value.detach().add_(direction[i], by);
  weights.pack();
}

/// A tiny model whose routers choose all experts: a choice that changes within a step has no
/// derivative.
std::unique_ptr<model::ModelWeights> smooth_weights(Family family) {
  Json config = testing::tiny_config(family);
  if (config.contains("num_experts")) config["num_experts_per_tok"] = config["num_experts"];
  return std::make_unique<model::ModelWeights>(
      model::parse_model_config(config, "tiny"),
      testing::MemorySource(testing::lively_tensors(config, WeightDtype::kFloat32)), std::nullopt);
}

TEST(Trainer, GradientsEqualFiniteDifferencesOfTheLoss) {
  for (const Family family : kFamilies) {
    const auto weights = smooth_weights(family);
    const auto samples = some_samples(5);
    Trainer trainer(*weights, {});
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE(fmt::format("{} {}", enum_name(family), seed));
      const bool has_entropy = seed == 2;
      const Trainer::ScoreOptions options{
          .temperature = 0.9, .with_entropy = has_entropy, .with_entropy_gradient = has_entropy};
      const auto gradients = trainer.gradients(samples, options, weighted_sum);
      // The gradient with a random half of its elements left out: a random direction in which the
      // loss moves enough for float32.
      std::mt19937_64 random(testing::test_seed(seed));
      std::vector<at::Tensor> direction;
      for (const auto& gradient : gradients) {
        direction.push_back(gradient.clone());
        float* data = direction.back().mutable_data_ptr<float>();
        for (int64_t i = 0; i < gradient.numel(); ++i) data[i] = random() & 1 ? data[i] : 0;
      }
      const double length = gradient_norm(direction);
      double expected = 0;
      for (size_t i = 0; i < direction.size(); ++i) {
        direction[i].div_(length);
        expected += direction[i].mul(gradients[i]).sum(at::kDouble).item<double>();
      }
      // So far that the loss moves by 0.02: its rounding, about 3e-6, is little against that.
      const double h = 0.02 / expected;
      const auto loss_at = [&](double by) {
        move(*weights, direction, by);
        const double loss = loss_of(trainer.score(samples, options));
        move(*weights, direction, -by);
        return loss;
      };
      // Richardson: the error is O(h^4).
      const double coarse = (loss_at(2 * h) - loss_at(-2 * h)) / (4 * h),
                   fine = (loss_at(h) - loss_at(-h)) / (2 * h);
      EXPECT_NEAR((4 * fine - coarse) / 3 / expected, 1, 2e-3);
    }
  }
}

/// Groups of completions of one prompt, and samples alone between them.
std::vector<Sample> some_groups(uint64_t seed) {
  std::mt19937_64 random(testing::test_seed(seed));
  std::vector<Sample> samples;
  for (const size_t completions : {4, 1, 7, 3, 9}) {
    const auto prompt = random_ids(1 + random() % 70, random);
    for (size_t i = 0; i < completions; ++i) {
      Sample sample{prompt, std::vector<uint8_t>(prompt.size(), 0)};
      const auto completion = random_ids(1 + random() % 40, random);
      sample.ids.insert(sample.ids.end(), completion.begin(), completion.end());
      sample.mask.resize(sample.ids.size(), 1);
      if (random() % 3 == 0) sample.mask.back() = 0;
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

/// sum_e slope_e p_e over layers and tokens, a prompt once for each of its completions, moves along
/// its gradient as that says; the loss itself is nothing.
TEST(Trainer, TermsOfRoutersAreTheSlopesOfTheirProbabilities) {
  for (const Family family : {Family::kQwen3Moe, Family::kQwen3_5Moe}) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = smooth_weights(family);
    const int64_t experts = weights->config().num_experts;
    const at::Tensor slopes = at::empty({experts}, at::TensorOptions().dtype(at::kFloat));
    for (int64_t e = 0; e < experts; ++e)
      slopes.mutable_data_ptr<float>()[e] = 1e-3f * coefficient(e, 3);
    const auto samples = some_groups(6);
    const auto nothing = [](int64_t, const SampleScores&, SampleGradient) {};
    Trainer trainer(*weights, {}), apart(*weights, {.share_prompts = false});
    const auto gradients = trainer.gradients(samples, {.router_slopes = slopes}, nothing);
    const double norm = gradient_norm(gradients);
    std::vector<at::Tensor> direction, difference;
    for (const auto& gradient : gradients) direction.push_back(gradient.div(norm));
    const auto term = [&](double by) {
      move(*weights, direction, by);
      const model::RouterCounts counts = trainer.router_counts(samples, {});
      move(*weights, direction, -by);
      return counts.probabilities.mul(slopes).sum().item<double>();
    };
    const double h = 0.004 / norm, coarse = (term(2 * h) - term(-2 * h)) / (4 * h),
                 fine = (term(h) - term(-h)) / (2 * h);
    EXPECT_NEAR((4 * fine - coarse) / 3 / norm, 1, 2e-3);
    // Prompts that are computed once count as often as they are there.
    const auto alone = apart.gradients(samples, {.router_slopes = slopes}, nothing);
    for (size_t i = 0; i < alone.size(); ++i) difference.push_back(alone[i].sub(gradients[i]));
    EXPECT_LT(gradient_norm(difference), 1e-5 * norm);
    EXPECT_EQ(trainer.router_counts(samples, {}).tokens, apart.router_counts(samples, {}).tokens);
  }
}

TEST(Trainer, SharedPromptsChangeNoBitOfScoresAndGradientsByRoundingOnly) {
  const auto samples = some_groups(3);
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    for (const bool checkpointing : {false, true}) {
      const auto weights = tiny_weights(family);
      Trainer apart(*weights, {.gradient_checkpointing = checkpointing, .share_prompts = false});
      const auto expected = apart.gradients(samples, {}, weighted_sum);
      const double norm = gradient_norm(expected);
      for (const int64_t budget : {100, 4096}) {
        Trainer shared(*weights, {.gradient_checkpointing = checkpointing,
                                  .max_tokens_per_micro_batch = budget});
        const auto scores = apart.score(samples, {}), same = shared.score(samples, {});
        for (size_t i = 0; i < samples.size(); ++i)
          EXPECT_EQ(scores[i].logprobs, same[i].logprobs) << "sample " << i;
        const auto actual = shared.gradients(samples, {}, weighted_sum);
        std::vector<at::Tensor> differences;
        for (size_t i = 0; i < expected.size(); ++i) {
          differences.push_back(actual[i].sub(expected[i]));
          EXPECT_LE(gradient_norm({differences[i]}), 1e-5 * gradient_norm({expected[i]}))
              << weights->parameters()[i].id << ", budget " << budget;
        }
        EXPECT_LE(gradient_norm(differences), 1e-6 * norm) << "budget " << budget;
      }
    }
  }
}

/// What a watcher is told of scoring and of a step: shares that rise to all of the work.
TEST(Trainer, ProgressRisesToOne) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  Trainer trainer(*weights, {.max_tokens_per_micro_batch = 50});
  const auto samples = some_samples(1);
  std::vector<double> shares;
  const Trainer::ScoreOptions options{.progress = [&](double share) { shares.push_back(share); }};
  const auto check = [&](size_t least) {
    EXPECT_GE(shares.size(), least);
    EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
    EXPECT_GT(shares.front(), 0);
    EXPECT_LT(shares.front(), 0.5);
    EXPECT_NEAR(shares.back(), 1, 1e-9);
    shares.clear();
  };
  trainer.score(samples, options);
  check(3);
  trainer.gradients(samples, options, weighted_sum);
  check(3 * static_cast<size_t>(trainer.num_layers()));
}

TEST(Trainer, NothingScoredGivesNoGradients) {
  const auto weights = tiny_weights(Family::kQwen3);
  Trainer trainer(*weights, {});
  const std::vector<Sample> samples{{{1, 2, 3}, {0, 0, 0}}, {{4}, {0}}};
  int calls = 0;
  const auto gradients =
      trainer.gradients(samples, {}, [&](int64_t, const SampleScores& scores, SampleGradient) {
        EXPECT_TRUE(scores.logprobs.empty());
        ++calls;
      });
  EXPECT_EQ(calls, 2);
  for (const auto& gradient : gradients) EXPECT_FALSE(gradient.defined());
  for (const auto& scores : trainer.score(samples, {})) EXPECT_TRUE(scores.logprobs.empty());
}

TEST(Trainer, NoSamplesGiveNoGradients) {
  const auto weights = tiny_weights(Family::kQwen3);
  Trainer trainer(*weights, {});
  for (const auto& gradient : trainer.gradients({}, {}, weighted_sum))
    EXPECT_FALSE(gradient.defined());
  EXPECT_TRUE(trainer.score({}, {}).empty());
}

TEST(Trainer, ASampleThatScoresItsFirstTokenIsAnError) {
  const auto weights = tiny_weights(Family::kQwen3);
  const Trainer trainer(*weights, {});
  const std::vector<Sample> first{{{1, 2}, {1, 1}}}, uneven{{{1, 2}, {0}}}, empty{{{}, {}}};
  EXPECT_ERROR(trainer.score(first, {}), InternalError, "internal", "a sample");
  EXPECT_ERROR(trainer.score(uneven, {}), InternalError, "internal", "a sample");
  EXPECT_ERROR(trainer.score(empty, {}), InternalError, "internal", "a sample");
}

}  // namespace
}  // namespace lockstep::train
