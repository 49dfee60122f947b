// Router replay: recorded choices change nothing where they are the routers' own, and make the
// forward and the backward those of the given experts where they are not.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "train/adamw.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

using model::ExpertChoices;
using model::Family;
using model::WeightDtype;
using testing::random_ids;
using testing::same_bits;

constexpr Family kExpertFamilies[] = {Family::kQwen3Moe, Family::kQwen3_5Moe};

/// A tiny model of more experts than a byte can name, some of whose layers have none.
std::unique_ptr<model::ModelWeights> many_experts(Family family) {
  Json config = testing::tiny_config(family);
  config["num_experts"] = 300;
  config["num_experts_per_tok"] = 3;
  if (family == Family::kQwen3Moe) {
    config["mlp_only_layers"] = {1};
    config["intermediate_size"] = 32;
    config["norm_topk_prob"] = true;
  }
  return std::make_unique<model::ModelWeights>(
      model::parse_model_config(config, "tiny"),
      testing::MemorySource(testing::lively_tensors(config, WeightDtype::kFloat32)), std::nullopt);
}

/// Groups of completions of one prompt.
std::vector<Sample> some_groups(uint64_t seed) {
  std::mt19937_64 random(testing::test_seed(seed));
  std::vector<Sample> samples;
  for (const size_t completions : {3, 1, 4}) {
    const auto prompt = random_ids(2 + random() % 30, random);
    for (size_t i = 0; i < completions; ++i) {
      Sample sample{prompt, std::vector<uint8_t>(prompt.size(), 0)};
      const auto completion = random_ids(1 + random() % 20, random);
      sample.ids.insert(sample.ids.end(), completion.begin(), completion.end());
      sample.mask.resize(sample.ids.size(), 1);
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

float coefficient(int64_t sample, size_t token) {
  return static_cast<float>(
      std::sin(static_cast<double>(sample) * 12.9898 + static_cast<double>(token) * 78.233));
}

void weighted_sum(int64_t sample, const SampleScores&, SampleGradient gradient) {
  for (size_t t = 0; t < gradient.logprobs.size(); ++t)
    gradient.logprobs[t] = coefficient(sample, t);
}

double loss_of(const std::vector<SampleScores>& scores) {
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i)
    for (size_t t = 0; t < scores[i].logprobs.size(); ++t)
      sum += double{coefficient(static_cast<int64_t>(i), t)} * double{scores[i].logprobs[t]};
  return sum;
}

/// Different random experts for each token and layer; equal prompts have equal ones.
void give_random_experts(std::vector<Sample>& samples, const model::ModelConfig& config) {
  for (Sample& sample : samples) {
    sample.routed = ExpertChoices::room(config, std::ssize(sample.ids), false);
    int32_t* to = sample.routed.experts.mutable_data_ptr<int32_t>();
    uint64_t text = 0;
    for (const int64_t id : sample.ids) {
      text = text * 1000003 + static_cast<uint64_t>(id);
      std::mt19937_64 random(text);
      for (int64_t m = 0; m < config.num_moe_layers(); ++m) {
        std::vector<int32_t> ids(static_cast<size_t>(config.num_experts));
        std::iota(ids.begin(), ids.end(), 0);
        std::shuffle(ids.begin(), ids.end(), random);
        to = std::copy_n(ids.begin(), config.num_experts_per_tok, to);
      }
    }
  }
}

std::vector<SampleScores> record(const Trainer& trainer,
                                 std::vector<Sample>& samples,
                                 bool with_weights) {
  auto scores = trainer.score(samples, {.record_experts = true, .record_weights = with_weights});
  for (size_t i = 0; i < samples.size(); ++i) samples[i].routed = scores[i].routed;
  return scores;
}

void move(model::ModelWeights& weights, const std::vector<at::Tensor>& direction, double by) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < direction.size(); ++i)
    if (direction[i].defined()) weights.parameters()[i].value.detach().add_(direction[i], by);
  weights.pack();
}

void restore(model::ModelWeights& weights, const std::vector<at::Tensor>& values) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < values.size(); ++i)
    weights.parameters()[i].value.detach().copy_(values[i]);
  weights.pack();
}

TEST(RouterReplay, WhatARouterChoseChangesNoBitOfScoresAndGradients) {
  for (const Family family : kExpertFamilies)
    for (const bool share : {false, true})
      for (const bool with_weights : {false, true}) {
        SCOPED_TRACE(fmt::format("{} {} {}", enum_name(family), share, with_weights));
        const auto weights = many_experts(family);
        Trainer trainer(*weights, {.max_tokens_per_micro_batch = 50, .share_prompts = share});
        auto samples = some_groups(1);
        const auto plain = trainer.score(samples, {});
        const auto expected = trainer.gradients(samples, {}, weighted_sum);
        EXPECT_EQ(trainer.replayed().choices, 0);
        const auto recorded = record(trainer, samples, with_weights);
        int32_t largest = 0;
        for (size_t i = 0; i < samples.size(); ++i) {
          EXPECT_EQ(recorded[i].logprobs, plain[i].logprobs);
          const std::vector<int64_t> shape{samples[i].needed_tokens(),
                                           weights->config().num_moe_layers(), 3};
          ASSERT_EQ(samples[i].routed.experts.sizes(), shape);
          largest = std::max(largest, samples[i].routed.experts.max().item<int32_t>());
        }
        EXPECT_GT(largest, 255);
        const auto again = trainer.score(samples, {});
        for (size_t i = 0; i < samples.size(); ++i) EXPECT_EQ(again[i].logprobs, plain[i].logprobs);
        const auto gradients = trainer.gradients(samples, {}, weighted_sum);
        EXPECT_EQ(trainer.replayed().changed, 0);
        int64_t tokens = 0;
        for (const Sample& sample : samples) tokens += sample.needed_tokens();
        EXPECT_EQ(trainer.replayed().choices,
                  static_cast<double>(tokens * weights->config().num_moe_layers()));
        for (size_t i = 0; i < gradients.size(); ++i) {
          const std::string& id = weights->parameters()[i].id;
          // Weights that are replayed as well hold no gradient for the router.
          if (with_weights && id.find("router") != id.npos) continue;
          EXPECT_TRUE(with_weights || same_bits(gradients[i], expected[i])) << id;
        }
      }
}

/// With the experts fixed the model is smooth, though it has far more of them than it uses: the
/// gradient, the routers' by the weights included, is the loss's slope. Recomputed layers have the
/// same experts, or the bits below would differ.
TEST(RouterReplay, GradientsEqualFiniteDifferencesWithTheExpertsFixed) {
  for (const Family family : kExpertFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = many_experts(family);
    auto samples = some_groups(2);
    give_random_experts(samples, weights->config());
    Trainer trainer(*weights, {}), keeps(*weights, {.gradient_checkpointing = false});
    const auto gradients = trainer.gradients(samples, {}, weighted_sum);
    EXPECT_GT(trainer.replayed().changed, 0.9 * trainer.replayed().choices);
    EXPECT_TRUE(trainer.comparison().compared() > 0 && trainer.comparison().is_exact());
    const auto kept = keeps.gradients(samples, {}, weighted_sum);
    for (size_t i = 0; i < gradients.size(); ++i)
      EXPECT_TRUE(same_bits(gradients[i], kept[i])) << weights->parameters()[i].id;
    EXPECT_EQ(keeps.replayed().changed, trainer.replayed().changed);
    for (const bool router_only : {false, true}) {
      std::vector<at::Tensor> direction;
      double square = 0;
      for (size_t i = 0; i < gradients.size(); ++i) {
        const bool is_router = weights->parameters()[i].id.find("router") != std::string::npos;
        direction.push_back(router_only && !is_router ? at::Tensor() : gradients[i].clone());
        if (direction.back().defined())
          square += direction.back().pow(2).sum(at::kDouble).item<double>();
      }
      const double norm = std::sqrt(square);
      ASSERT_GT(norm, 0);
      for (at::Tensor& part : direction)
        if (part.defined()) part.div_(norm);
      // So far that the loss moves by more than the weights' own rounding makes of it.
      const double h = 0.1 / norm;
      std::vector<at::Tensor> values;
      for (const auto& parameter : weights->parameters())
        values.push_back(parameter.value.detach().clone());
      const auto loss_at = [&](double by) {
        move(*weights, direction, by);
        const double loss = loss_of(trainer.score(samples, {}));
        restore(*weights, values);
        return loss;
      };
      const double coarse = (loss_at(2 * h) - loss_at(-2 * h)) / (4 * h),
                   fine = (loss_at(h) - loss_at(-h)) / (2 * h);
      EXPECT_NEAR((4 * fine - coarse) / 3 / norm, 1, 5e-3) << router_only;
    }
  }
}

/// After the weights have moved, some routers would choose others; the replayed ones stay.
TEST(RouterReplay, ChoicesStayWhenTheWeightsMove) {
  for (const Family family : kExpertFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = many_experts(family);
    auto samples = some_groups(3);
    Trainer trainer(*weights, {});
    const auto before = record(trainer, samples, /*with_weights=*/false);
    const auto gradients = trainer.gradients(samples, {}, weighted_sum);
    double square = 0;
    for (const at::Tensor& gradient : gradients)
      square += gradient.pow(2).sum(at::kDouble).item<double>();
    move(*weights, gradients, 0.1 / std::sqrt(square));
    trainer.gradients(samples, {}, weighted_sum);
    const ReplayCounts counts = trainer.replayed();
    EXPECT_GT(counts.changed, 0);
    EXPECT_LT(counts.changed, counts.choices);
    auto scored = samples;
    const auto replayed = record(trainer, scored, /*with_weights=*/true);
    for (size_t i = 0; i < samples.size(); ++i)
      EXPECT_TRUE(same_bits(replayed[i].routed.experts, before[i].routed.experts));
    for (Sample& sample : scored) sample.routed = {};
    const auto free = record(trainer, scored, /*with_weights=*/true);
    bool differs = false;
    for (size_t i = 0; i < samples.size(); ++i) {
      differs |= !free[i].routed.experts.equal(before[i].routed.experts);
      // The weights of the replayed experts sum to 1 again, as those of chosen ones do.
      const at::Tensor sums = replayed[i].routed.weights.sum(2);
      EXPECT_CLOSE(sums, at::ones_like(sums), 0, 1e-6);
    }
    EXPECT_TRUE(differs);
  }
}

/// Samples that begin alike share a prompt only if they have the same experts there.
TEST(RouterReplay, PromptsWithOtherExpertsAreComputedApart) {
  const auto weights = many_experts(Family::kQwen3Moe);
  auto samples = some_groups(4);
  give_random_experts(samples, weights->config());
  samples[1].routed.experts.copy_(samples[1].routed.experts.flip(2));
  samples[2].routed.experts.add_(1).remainder_(300);
  Trainer shared(*weights, {}), apart(*weights, {.share_prompts = false});
  const auto one = shared.score(samples, {}), other = apart.score(samples, {});
  for (size_t i = 0; i < samples.size(); ++i) EXPECT_EQ(one[i].logprobs, other[i].logprobs) << i;
}

}  // namespace
}  // namespace lockstep::train
