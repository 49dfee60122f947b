// The trainer with adapters: several in one step, experts' too, and dropout.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "train/adamw.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

using model::Adapter;
using model::Family;
using testing::lively_adapter;
using testing::modules_with;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_weights;

/// Groups of three completions of one prompt; the adapter changes from group to group.
std::vector<Sample> some_groups(int64_t num_adapters) {
  std::mt19937_64 random(testing::test_seed(5));
  std::vector<Sample> samples;
  for (int64_t group = 0; group < 4; ++group) {
    const auto prompt = random_ids(7 + static_cast<size_t>(group), random);
    for (const size_t length : {5, 11, 3}) {
      Sample sample{.ids = prompt, .mask = std::vector<uint8_t>(prompt.size(), 0)};
      for (const int64_t id : random_ids(length, random)) sample.ids.push_back(id);
      sample.mask.resize(sample.ids.size(), 1);
      sample.adapter = group % (num_adapters + 1) - 1;
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

void sine_loss(int64_t sample, const SampleScores&, SampleGradient gradient) {
  for (size_t t = 0; t < gradient.logprobs.size(); ++t)
    gradient.logprobs[t] = static_cast<float>(
        std::sin(static_cast<double>(sample) * 12.9898 + static_cast<double>(t) * 78.233));
}

/// Expects the same within rounding.
void expect_near(const std::vector<at::Tensor>& actual,
                 const std::vector<at::Tensor>& expected,
                 const Trainer& trainer) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << trainer.parameters()[i]->id;
    if (!actual[i].defined()) continue;
    EXPECT_LE(gradient_norm({actual[i].sub(expected[i])}), 2e-5 * gradient_norm({expected[i]}))
        << trainer.parameters()[i]->id;
  }
}

bool are_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].defined() && !same_bits(a[i], b[i])) return false;
  return true;
}

/// A mixture of experts with two adapters of different targets, ranks and dropouts.
class TrainerAdapters : public ::testing::TestWithParam<Family> {
 protected:
  TrainerAdapters() {
    weights_->freeze();
    one_->set_dropout(0.2);
    other_->set_dropout(0.4);
  }
  std::vector<at::Tensor> gradients(const TrainerOptions& options,
                                    std::optional<DropoutStep> dropout) {
    Trainer trainer(*weights_, options, {one_.get(), other_.get()});
    return trainer.gradients(some_groups(2), {.dropout = dropout}, sine_loss);
  }

  std::unique_ptr<model::ModelWeights> weights_ =
      tiny_weights(GetParam(), model::WeightDtype::kFloat32);
  // Beside any model of the family: pairs know numbers and shapes of weights.
  std::unique_ptr<Adapter> one_ = lively_adapter(modules_with(*weights_, ""), {.rank = 3}, 1),
                           other_ = lively_adapter(
                               modules_with(*weights_, "down_proj"), {.rank = 5, .alpha = 2}, 2);
};

TEST_P(TrainerAdapters, EachGetsTheGradientsOfItsOwnSamples) {
  const auto samples = some_groups(2);
  Trainer both(*weights_, {}, {one_.get(), other_.get()});
  const auto scores = both.score(samples, {});
  const auto all = both.gradients(samples, {}, sine_loss);
  const size_t base = weights_->parameters().size();
  for (size_t i = 0; i < base; ++i) EXPECT_FALSE(all[i].defined());
  size_t first = base;
  for (const int64_t adapter : {0, 1}) {
    Adapter* const own = adapter ? other_.get() : one_.get();
    Trainer alone(*weights_, {}, {own});
    std::vector<Sample> own_samples;
    std::vector<int64_t> numbers;
    for (size_t i = 0; i < samples.size(); ++i)
      if (samples[i].adapter == adapter) {
        own_samples.push_back(samples[i]);
        own_samples.back().adapter = 0;
        numbers.push_back(static_cast<int64_t>(i));
      }
    const auto own_scores = alone.score(own_samples, {});
    for (size_t i = 0; i < numbers.size(); ++i)
      EXPECT_EQ(own_scores[i].logprobs, scores[static_cast<size_t>(numbers[i])].logprobs);
    const auto expected = alone.gradients(
        own_samples, {}, [&](int64_t sample, const SampleScores& found, SampleGradient gradient) {
          sine_loss(numbers[static_cast<size_t>(sample)], found, gradient);
        });
    const size_t count = own->parameters().size();
    std::vector<at::Tensor> part(all.begin(), all.begin() + static_cast<int64_t>(base));
    part.insert(part.end(), all.begin() + static_cast<int64_t>(first),
                all.begin() + static_cast<int64_t>(first + count));
    expect_near(part, expected, alone);
    first += count;
  }
}

TEST_P(TrainerAdapters, DropoutDoesNotDependOnCutsSharingOrRecomputing) {
  const DropoutStep step{.seed = 7, .step = 3};
  const auto expected = gradients({.gradient_checkpointing = false}, step);
  EXPECT_TRUE(are_equal(gradients({.gradient_checkpointing = true}, step), expected));
  const Trainer named(*weights_, {}, {one_.get(), other_.get()});
  for (const bool shares : {false, true})
    for (const int64_t budget : {1, 40, 4096})
      expect_near(gradients({.max_tokens_per_micro_batch = budget, .share_prompts = shares}, step),
                  expected, named);
  EXPECT_FALSE(are_equal(gradients({}, DropoutStep{.seed = 7, .step = 4}), expected));
  EXPECT_FALSE(are_equal(gradients({}, DropoutStep{.seed = 8, .step = 3}), expected));
  EXPECT_FALSE(are_equal(gradients({}, std::nullopt), expected));
}

/// What is kept from sampling, and scores, know no dropout.
TEST_P(TrainerAdapters, ScoresDropNothing) {
  Trainer trainer(*weights_, {}, {one_.get(), other_.get()});
  const auto samples = some_groups(2);
  const auto plain = trainer.score(samples, {}),
             same = trainer.score(samples, {.dropout = DropoutStep{1, 1}});
  for (size_t i = 0; i < samples.size(); ++i) EXPECT_EQ(plain[i].logprobs, same[i].logprobs);
}

/// Gradients of A and B with fixed masks against finite differences of the loss, where the routers
/// choose all experts: a choice that changes within a step has no derivative.
TEST_P(TrainerAdapters, GradientsWithDropoutEqualFiniteDifferences) {
  Json config = testing::tiny_config(GetParam());
  config["num_experts_per_tok"] = config["num_experts"];
  const testing::MemorySource source(testing::lively_tensors(config, model::WeightDtype::kFloat32));
  weights_ = std::make_unique<model::ModelWeights>(model::parse_model_config(config, "tiny"),
                                                   source, std::nullopt);
  weights_->freeze();
  const DropoutStep step{.seed = 7, .step = 3};
  const auto found = gradients({}, step);
  Trainer trainer(*weights_, {}, {one_.get(), other_.get()});
  const auto loss = [&] {
    one_->pack();
    other_->pack();
    double sum = 0;
    trainer.gradients(some_groups(2), {.dropout = step},
                      [&](int64_t sample, const SampleScores& scores, SampleGradient gradient) {
                        sine_loss(sample, scores, gradient);
                        for (size_t t = 0; t < gradient.logprobs.size(); ++t)
                          sum += static_cast<double>(gradient.logprobs[t]) *
                                 static_cast<double>(scores.logprobs[t]);
                      });
    return sum;
  };
  // Along the gradient itself the slope is its norm. A step moves the loss by 0.02, whose rounding
  // is little against that; Richardson: the error is O(h^4).
  for (size_t i = weights_->parameters().size(); i < found.size(); i += 5) {
    const at::Tensor value = trainer.parameters()[i]->value.detach(), before = value.clone();
    const double norm = gradient_norm({found[i]}), h = 0.02 / norm;
    const auto at_step = [&](double by) {
      value.copy_(before).add_(found[i], by / norm);
      return loss();
    };
    const double coarse = (at_step(2 * h) - at_step(-2 * h)) / (4 * h),
                 fine = (at_step(h) - at_step(-h)) / (2 * h);
    EXPECT_NEAR((4 * fine - coarse) / 3 / norm, 1, 5e-3) << trainer.parameters()[i]->id;
    value.copy_(before);
  }
}

/// What training them whole gives, beside an adapter that adds nothing; a step moves them alone.
TEST_P(TrainerAdapters, SavedModulesAreTrainedAsByFullTraining) {
  const auto base = tiny_weights(GetParam(), model::WeightDtype::kFloat32, 1,
                                 model::WeightUse::kFrozen),
             full = tiny_weights(GetParam(), model::WeightDtype::kFloat32);
  const model::AdapterConfig config{
      .rank = 2,
      .modules_to_save = {"k_proj", "norm", "embed_tokens", "layers.1.mlp.experts", "mlp.gate"}};
  Adapter adapter(modules_with(*base, "q_proj"), config, 1);
  adapter.saved() = model::new_saved_tensors(base->parameters(), config);
  const auto weights = model::make_saved_weights(*base, adapter);
  Trainer trainer(*weights, {}, {&adapter}), whole(*full, {});
  std::vector<Sample> samples = some_groups(0);
  for (Sample& sample : samples) sample.adapter = 0;
  const auto found = trainer.gradients(samples, {}, sine_loss),
             expected = whole.gradients(samples, {}, sine_loss);
  for (const model::SavedTensor& saved : adapter.saved()) {
    const size_t i = *saved.place.parameter;
    // A head that is tied to the embedding adds its gradient there.
    if (saved.place.name.find("embed_tokens") != saved.place.name.npos) continue;
    const model::Parameter& owner = weights->parameters()[i];
    EXPECT_TRUE(same_bits(saved.place.view(owner, found[i]), saved.place.view(owner, expected[i])))
        << saved.place.name;
  }
  std::vector<at::Tensor> before;
  for (size_t i = 0; i < weights->parameters().size(); ++i)
    before.push_back(weights->values(i).detach().clone());
  AdamW(*weights, {}, &adapter).step(found, 1e-2);
  for (size_t i = 0; i < weights->parameters().size(); ++i) {
    const model::Parameter& parameter = weights->parameters()[i];
    for (const model::CheckpointPiece& piece : parameter.pieces)
      EXPECT_EQ(same_bits(piece.view(weights->values(i).detach()), piece.view(before[i])),
                !piece.is_trained)
          << piece.name;
    if (i == base->parameters().size()) continue;
    EXPECT_TRUE(same_bits(base->values(i), full->values(i)));
  }
}

INSTANTIATE_TEST_SUITE_P(Mixtures,
                         TrainerAdapters,
                         ::testing::Values(Family::kQwen3Moe, Family::kQwen3_5Moe));

}  // namespace
}  // namespace lockstep::train
