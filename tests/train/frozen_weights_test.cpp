// Frozen weights, whose values are kept once, against those that may be trained.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

using model::ModelWeights;
using model::WeightDtype;
using model::WeightUse;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_weights;

class FrozenWeights : public ::testing::TestWithParam<std::tuple<model::Family, WeightDtype>> {
 protected:
  std::unique_ptr<ModelWeights> weights(WeightUse use) const {
    return tiny_weights(std::get<0>(GetParam()), std::get<1>(GetParam()), 1, use);
  }
};
INSTANTIATE_TEST_SUITE_P(,
                         FrozenWeights,
                         ::testing::Combine(::testing::ValuesIn(testing::kFamilies),
                                            ::testing::Values(WeightDtype::kFloat32,
                                                              WeightDtype::kBFloat16)));

bool are_panels(const ModelWeights& weights) {
  return weights.head().blocks[0].form == ops::PackedForm::kPanels;
}

TEST_P(FrozenWeights, HaveTheSameValuesAndKeepThemOnce) {
  const auto plain = weights(WeightUse::kAny), frozen = weights(WeightUse::kFrozen);
  std::map<std::string, at::Tensor> expected;
  plain->for_each_tensor(
      [&](const std::string& name, const at::Tensor& value) { expected[name] = value; });
  frozen->for_each_tensor([&](const std::string& name, const at::Tensor& value) {
    EXPECT_TRUE(same_bits(value, expected.at(name))) << name;
    expected.erase(name);
  });
  EXPECT_TRUE(expected.empty());
  EXPECT_EQ(frozen->num_elements(), plain->num_elements());
  EXPECT_EQ(frozen->packed_bytes(), plain->packed_bytes());
  if (!are_panels(*frozen)) GTEST_SKIP() << "the library's packed form cannot be read back";
  for (size_t i = 0; i < frozen->parameters().size(); ++i) {
    const model::Parameter& parameter = frozen->parameters()[i];
    EXPECT_FALSE(parameter.is_trained());
    const bool is_read_as_it_is =
        !parameter.is_matrix || parameter.id.ends_with("delta.conv") ||
        (parameter.id == "embedding" && !frozen->config().tie_word_embeddings);
    EXPECT_EQ(ops::has_values(parameter.value), is_read_as_it_is) << parameter.id;
  }
}

/// Weights that took the values of others score as these do, and keep what they kept before.
TEST_P(FrozenWeights, TakeTheValuesOfOthers) {
  const auto [family, dtype] = GetParam();
  const auto others = tiny_weights(family, dtype, 2);
  std::mt19937_64 random(testing::test_seed(4));
  std::vector<Sample> samples{{.ids = random_ids(40, random), .mask = std::vector<uint8_t>(40, 1)}};
  samples[0].mask[0] = 0;
  const auto scores = [&](ModelWeights& model) {
    return Trainer(model, {}, {}).score(samples, {})[0].logprobs;
  };
  for (const auto use : {WeightUse::kAny, WeightUse::kFrozen}) {
    const auto model = weights(use);
    const int64_t bytes = model->canonical_bytes();
    const auto before = scores(*model);
    for (size_t i = 0; i < model->parameters().size(); ++i)
      model->set_values(i, others->values(i).detach());
    EXPECT_EQ(scores(*model), scores(*others));
    EXPECT_NE(scores(*model), before);
    EXPECT_EQ(model->canonical_bytes(), bytes);
    for (size_t i = 0; i < model->parameters().size(); ++i)
      EXPECT_TRUE(same_bits(model->values(i), others->values(i))) << model->parameters()[i].id;
  }
}

TEST_P(FrozenWeights, ScoresAndGradientsHaveTheSameBits) {
  std::mt19937_64 random(testing::test_seed(3));
  std::vector<Sample> samples;
  for (const size_t length : {31, 4, 50}) {
    Sample sample{.ids = random_ids(length, random), .mask = std::vector<uint8_t>(length, 1)};
    sample.mask[0] = 0;
    samples.push_back(std::move(sample));
  }
  const auto loss = [](int64_t sample, const SampleScores&, SampleGradient gradient) {
    for (size_t t = 0; t < gradient.logprobs.size(); ++t)
      gradient.logprobs[t] = static_cast<float>(std::sin(static_cast<double>(sample + 3 * t)));
  };
  std::vector<SampleScores> scores[2];
  std::vector<at::Tensor> gradients[2];
  for (const bool is_frozen : {false, true}) {
    const auto model = weights(is_frozen ? WeightUse::kFrozen : WeightUse::kAny);
    model->freeze();
    const auto adapter = testing::lively_adapter(testing::modules_with(*model, ""), {.rank = 3}, 1);
    Trainer trainer(*model, {}, {adapter.get()});
    scores[is_frozen] = trainer.score(samples, {});
    const auto all = trainer.gradients(samples, {}, loss);
    for (const auto& gradient : all)
      if (gradient.defined()) gradients[is_frozen].push_back(gradient);
  }
  for (size_t i = 0; i < samples.size(); ++i)
    EXPECT_EQ(scores[0][i].logprobs, scores[1][i].logprobs);
  ASSERT_EQ(gradients[0].size(), gradients[1].size());
  ASSERT_FALSE(gradients[0].empty());
  for (size_t i = 0; i < gradients[0].size(); ++i)
    EXPECT_TRUE(same_bits(gradients[0][i], gradients[1][i])) << i;
}

}  // namespace
}  // namespace lockstep::train
