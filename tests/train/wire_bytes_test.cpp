// What ranks receive in a step is what the plan says, byte by byte.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "model/new_model.h"
#include "tests/model/tiny_model.h"
#include "tests/parallel/counting_group.h"
#include "tests/parallel/run_ranks.h"
#include "train/adamw.h"
#include "train/gathered_layers.h"
#include "train/rank_costs.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

using model::Family;
using model::WeightDtype;
using testing::CountingGroup;

struct Case {
  Family family;
  WeightDtype dtype;
  /// Over how many ranks the experts are.
  int64_t parts = 1;
};

std::unique_ptr<model::ModelWeights> weights_of(const Case& test) {
  const Json config =
      model::new_model_config({.family = test.family, .vocab_size = 1500, .dtype = test.dtype});
  return std::make_unique<model::ModelWeights>(
      model::parse_model_config(config, "tiny"),
      testing::MemorySource(testing::lively_tensors(config, test.dtype)), std::nullopt);
}

std::vector<Sample> some_samples() {
  std::mt19937_64 random(testing::test_seed(3));
  std::vector<Sample> samples(16);
  for (Sample& sample : samples) {
    sample.ids = testing::random_ids(12 + random() % 20, random);
    sample.mask.assign(sample.ids.size(), 1);
    sample.mask[0] = 0;
  }
  return samples;
}

/// One step of a rank against the plan.
void expect_planned_step(const Case& test, parallel::Group& ranks, Sharding sharding) {
  CountingGroup counting(ranks);
  const auto weights = weights_of(test);
  const auto parameters =
      costed_parameters(weights->config(), weights->parameters(), test.dtype, std::nullopt);
  std::vector<ShardItem> items;
  for (size_t i = 0; i < parameters.size(); ++i) {
    items.push_back(parameters[i].item);
    EXPECT_EQ(parameters[i].element_size, weights->parameters()[i].value.element_size())
        << items.back().id;
  }
  const ShardPlan plan(items, {.ranks = ranks.size(), .expert_parallel = test.parts});
  const RankBytes planned = RankCosts(parameters, plan, sharding, 1).of(ranks.rank());
  const Shards shards(counting, sharding, test.parts);
  Trainer trainer(*weights, {}, {}, shards);
  AdamW optimizer(*weights, {.learning_rate = 1e-3}, nullptr, shards);
  EXPECT_EQ(optimizer.state_bytes(), planned.masters + planned.moments);
  trainer.layers().give_all_back();
  const auto gradients = trainer.gradients(
      some_samples(), {}, [](int64_t, const SampleScores& scores, SampleGradient gradient) {
        for (size_t t = 0; t < gradient.logprobs.size(); ++t)
          gradient.logprobs[t] = scores.logprobs[t];
      });
  int64_t gradient_bytes = 0;
  for (const at::Tensor& gradient : gradients) {
    EXPECT_TRUE(gradient.defined());
    gradient_bytes += static_cast<int64_t>(gradient.nbytes());
  }
  EXPECT_EQ(gradient_bytes, planned.gradients);
  // Experts that some ranks hold are gathered by a call of their own.
  const int64_t calls = test.parts > 1 && test.parts < ranks.size() ? 2 : 1;
  const int64_t passes = counting.received("weights of layer 0").second / calls;
  EXPECT_EQ(passes > 0, sharding == Sharding::kFull);
  EXPECT_EQ(counting.received("weights of layer").first, passes * planned.gather_pass);
  const int64_t summed = counting.received("gradients").first;
  optimizer.step(gradients, 1e-3);
  const int64_t sums = sharding == Sharding::kNone ? planned.update : 0;
  EXPECT_EQ(summed, planned.exchange + sums);
  EXPECT_EQ(counting.received("weights").first - counting.received("weights of layer").first,
            planned.update - sums);
}

TEST(WireBytes, OfAStepAreThePlans) {
  for (const Case& test :
       {Case{Family::kQwen3, WeightDtype::kFloat32}, Case{Family::kQwen3_5, WeightDtype::kBFloat16},
        Case{Family::kQwen3Moe, WeightDtype::kBFloat16},
        Case{Family::kQwen3_5Moe, WeightDtype::kFloat32},
        Case{Family::kQwen3Moe, WeightDtype::kBFloat16, 2},
        Case{Family::kQwen3_5Moe, WeightDtype::kFloat32, 4}})
    for (const int64_t size : {1, 2, 4})
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
        if (size == 1 && sharding == Sharding::kFull) continue;
        if (size % test.parts != 0) continue;
        SCOPED_TRACE(fmt::format("{}, {} ranks, experts over {}, sharding {}",
                                 enum_name(test.family), size, test.parts, enum_name(sharding)));
        run_ranks(size,
                  [&](parallel::Group& ranks) { expect_planned_step(test, ranks, sharding); });
      }
}

/// The values of the layers' parameters that ranks cut, by layer.
std::vector<std::vector<at::Tensor>> cut_values(const model::ModelWeights& weights,
                                                const Shards& shards) {
  std::vector<std::vector<at::Tensor>> values(weights.layers().size());
  for (const model::Parameter& parameter : weights.parameters())
    if (shards.is_cut(parameter))
      values[static_cast<size_t>(parameter.layer)].push_back(parameter.value.detach());
  return values;
}

bool is_whole(const std::vector<at::Tensor>& layer, const std::vector<at::Tensor>& whole) {
  return std::equal(layer.begin(), layer.end(), whole.begin(), whole.end(),
                    [](const at::Tensor& a, const at::Tensor& b) { return a.equal(b); });
}

TEST(WireBytes, TheNextLayerComesWhileOneIsWhole) {
  run_ranks(2, [](parallel::Group& ranks) {
    CountingGroup counting(ranks);
    const auto weights = weights_of({Family::kQwen3Moe, WeightDtype::kFloat32});
    const Shards shards(counting, Sharding::kFull);
    const auto values = cut_values(*weights, shards);
    std::vector<std::vector<at::Tensor>> whole;
    for (const auto& layer : values)
      for (whole.emplace_back(); const at::Tensor& value : layer)
        whole.back().push_back(value.clone());
    GatheredLayers layers(*weights, shards);
    layers.give_all_back();
    for (int64_t i = 0; i + 1 < std::ssize(values); ++i) {
      layers.gather(i, i + 1);
      // What comes is begun once, and is not in its place while another layer is.
      for (int64_t k = 0; k < std::ssize(values); ++k) {
        SCOPED_TRACE(fmt::format("layer {} of gathered {}", k, i));
        EXPECT_EQ(counting.received(fmt::format("weights of layer {}", k)).second, k <= i + 1);
        EXPECT_EQ(is_whole(values[static_cast<size_t>(k)], whole[static_cast<size_t>(k)]), k == i);
      }
      layers.give_back(i);
    }
  });
}

}  // namespace
}  // namespace lockstep::train
