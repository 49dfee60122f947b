// AdamW over a model's parameters against the same in float64.
// SPDX-License-Identifier: Apache-2.0
#include "train/adamw.h"

#include <cmath>
#include <set>

#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using model::Family;
using model::WeightDtype;
using testing::same_bits;
using testing::tiny_weights;

/// A gradient for most parameters, of norm about `size` each.
std::vector<at::Tensor> some_gradients(const model::ModelWeights& weights,
                                       uint64_t seed,
                                       double size) {
  std::mt19937_64 random(testing::test_seed(seed));
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : weights.parameters()) {
    gradients.emplace_back();
    if (gradients.size() % 7 == 3) continue;  // no gradient came
    at::Tensor values = at::empty(parameter.value.sizes(), at::TensorOptions().dtype(at::kFloat));
    std::normal_distribution<double> normal(0,
                                            size / std::sqrt(static_cast<double>(values.numel())));
    for (int64_t i = 0; i < values.numel(); ++i)
      values.mutable_data_ptr<float>()[i] = static_cast<float>(normal(random));
    gradients.back() = values;
  }
  return gradients;
}

/// AdamW as torch.optim.AdamW defines it after clip_grad_norm_, in float64, on any kind of model.
class ReferenceAdamW {
 public:
  ReferenceAdamW(const model::ModelWeights& weights, const OptimizerOptions& options)
      : options_(options) {
    for (const auto& parameter : weights.parameters()) {
      values.push_back(parameter.value.detach().to(at::kDouble));
      first_.push_back(at::zeros_like(values.back()));
      second_.push_back(at::zeros_like(values.back()));
      is_matrix_.push_back(parameter.is_matrix);
    }
  }

  double step(const std::vector<at::Tensor>& gradients, double learning_rate) {
    ++steps_;
    double squares = 0;
    for (const auto& gradient : gradients)
      if (gradient.defined()) squares += gradient.to(at::kDouble).pow(2).sum().item<double>();
    const double norm = std::sqrt(squares);
    const double scale =
        options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (norm + 1e-6)) : 1.0;
    const double b1 = options_.adam_beta1, b2 = options_.adam_beta2;
    for (size_t i = 0; i < values.size(); ++i) {
      const at::Tensor gradient = gradients[i].defined() ? gradients[i].to(at::kDouble).mul(scale)
                                                         : at::zeros_like(values[i]);
      if (is_matrix_[i]) values[i].mul_(1 - learning_rate * options_.weight_decay);
      first_[i].mul_(b1).add_(gradient, 1 - b1);
      second_[i].mul_(b2).add_(gradient.mul(gradient), 1 - b2);
      const at::Tensor root =
          second_[i].div(1 - std::pow(b2, steps_)).sqrt().add(options_.adam_epsilon);
      values[i].sub_(first_[i].div(1 - std::pow(b1, steps_)).div(root), learning_rate);
    }
    return norm;
  }

  std::vector<at::Tensor> values;

 private:
  OptimizerOptions options_;
  std::vector<at::Tensor> first_, second_;
  std::vector<bool> is_matrix_;
  int steps_ = 0;
};

std::map<std::string, at::Tensor> state_of(const AdamW& optimizer) {
  std::map<std::string, at::Tensor> state;
  for (const auto& part : optimizer.state_parts()) state[part.name] = part.values.view(part.shape);
  return state;
}

void save(const std::filesystem::path& file, std::span<const io::TensorPart> state) {
  io::lay_out_safetensors(file, state);
  io::write_parts(file, state);
}

TEST(AdamW, EqualsAFloat64AdamW) {
  constexpr int kSteps = 5;
  constexpr double kRate = 1e-3;
  for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
    // Gradients far above and far below the clip.
    for (const double size : {10.0, 1e-3}) {
      const auto weights = tiny_weights(Family::kQwen3_5Moe, dtype);
      const OptimizerOptions options;
      AdamW optimizer(*weights, options);
      ReferenceAdamW reference(*weights, options);
      for (int step = 0; step < kSteps; ++step) {
        const auto gradients = some_gradients(*weights, static_cast<uint64_t>(step), size);
        const double expected = reference.step(gradients, kRate);
        EXPECT_NEAR(optimizer.step(gradients, kRate), expected, 1e-12 * expected);
      }
      EXPECT_EQ(optimizer.steps_done(), kSteps);
      const auto state = state_of(optimizer);
      for (size_t i = 0; i < weights->parameters().size(); ++i) {
        const auto& parameter = weights->parameters()[i];
        const bool is_master = parameter.value.scalar_type() == at::kFloat;
        const at::Tensor master =
            is_master ? parameter.value.detach() : state.at(parameter.id + ".master");
        // A step rounds the value at most three times, and its update (at most the rate in size) a
        // few times more.
        const double eps = std::ldexp(1.0, -24);
        EXPECT_TRUE(testing::close(master, reference.values[i], 3 * kSteps * eps,
                                   16 * kSteps * eps * kRate * 4))
            << parameter.id << ", gradients of " << size;
      }
    }
  }
}

TEST(AdamW, WhatIsFrozenKeepsItsBitsAndHasNoState) {
  const OptimizerOptions options{.weight_decay = 0.1, .max_grad_norm = 0};
  for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
    const auto all = tiny_weights(Family::kQwen3_5Moe, dtype),
               weights = tiny_weights(Family::kQwen3_5Moe, dtype),
               before = tiny_weights(Family::kQwen3_5Moe, dtype);
    // Whole parameters, and pieces of others.
    for (auto& parameter : weights->parameters())
      for (auto& piece : parameter.pieces)
        piece.is_trained = piece.name.find("k_proj") != piece.name.npos ||
                           piece.name.find("layers.1.") != piece.name.npos;
    AdamW whole(*all, options), part(*weights, options);
    for (uint64_t step = 0; step < 3; ++step) {
      const auto gradients = some_gradients(*all, step, 1);
      whole.step(gradients, 1e-3);
      part.step(gradients, 1e-3);
    }
    const auto state = state_of(part);
    int64_t frozen = 0, trained = 0, pieces_of_others = 0, bytes = 0;
    for (size_t i = 0; i < weights->parameters().size(); ++i) {
      const auto& parameter = weights->parameters()[i];
      for (const auto& piece : parameter.pieces) {
        const at::Tensor value = piece.view(parameter.value.detach());
        const auto& other = piece.is_trained ? all : before;
        EXPECT_TRUE(same_bits(value, piece.view(other->parameters()[i].value.detach())))
            << piece.name;
        ++(piece.is_trained ? trained : frozen);
        const bool is_alone = piece.is_trained && !parameter.is_trained_whole();
        EXPECT_EQ(state.count(piece.name + ".exp_avg"), is_alone ? 1u : 0u) << piece.name;
        pieces_of_others += is_alone;
        if (piece.is_trained) bytes += piece.numel() * (value.scalar_type() == at::kFloat ? 8 : 12);
      }
      EXPECT_EQ(state.count(parameter.id + ".exp_avg"), parameter.is_trained_whole() ? 1u : 0u);
    }
    EXPECT_GT(frozen, 0);
    EXPECT_GT(trained, 0);
    EXPECT_GT(pieces_of_others, 0);
    EXPECT_EQ(part.state_bytes(), bytes);
  }
}

TEST(AdamW, TheGradientNormCountsWhatIsTrained) {
  const auto weights = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
  for (auto& parameter : weights->parameters())
    for (auto& piece : parameter.pieces)
      piece.is_trained = piece.name.find("v_proj") != piece.name.npos;
  const auto gradients = some_gradients(*weights, 1, 1);
  double squares = 0;
  for (size_t i = 0; i < gradients.size(); ++i)
    for (const auto& piece : weights->parameters()[i].pieces)
      if (piece.is_trained && gradients[i].defined())
        squares += piece.view(gradients[i]).to(at::kDouble).pow(2).sum().item<double>();
  ASSERT_GT(squares, 0);
  EXPECT_NEAR(AdamW(*weights, {}).step(gradients, 1e-3), std::sqrt(squares), 1e-12);
}

TEST(AdamW, Bfloat16WeightsAreTheRoundedMasters) {
  const auto weights = tiny_weights(Family::kQwen3_5, WeightDtype::kBFloat16);
  AdamW optimizer(*weights, {});
  // Steps far below bfloat16's spacing: only masters can add them up.
  for (int step = 0; step < 20; ++step) optimizer.step(some_gradients(*weights, 5, 1), 1e-5);
  const auto state = state_of(optimizer);
  int64_t changed = 0;
  const auto before = tiny_weights(Family::kQwen3_5, WeightDtype::kBFloat16);
  for (size_t i = 0; i < weights->parameters().size(); ++i) {
    const auto& parameter = weights->parameters()[i];
    if (parameter.value.scalar_type() != at::kBFloat16) continue;
    EXPECT_TRUE(same_bits(parameter.value, state.at(parameter.id + ".master").to(at::kBFloat16)))
        << parameter.id;
    changed += parameter.value.detach().ne(before->parameters()[i].value).sum().item<int64_t>();
  }
  EXPECT_GT(changed, 0);
}

TEST(AdamW, WritesInPlaceAndRepacks) {
  const auto weights = tiny_weights(Family::kQwen3);
  const at::Tensor hidden =
      at::ones({3, weights->config().hidden_size}, at::TensorOptions().dtype(at::kFloat));
  const auto& layer = weights->layers()[0];
  const void* address = weights->parameters()[0].value.const_data_ptr();
  const at::Tensor before = ops::linear(hidden, layer.attention->qkv);
  AdamW(*weights, {}).step(some_gradients(*weights, 6, 1), 1e-2);
  EXPECT_EQ(weights->parameters()[0].value.const_data_ptr(), address);
  const at::Tensor after = ops::linear(hidden, layer.attention->qkv);
  EXPECT_FALSE(same_bits(before, after));
  EXPECT_CLOSE(after, hidden.matmul(layer.attention->qkv.weight.detach().t()), 1e-5, 1e-6);
}

/// Ids of the parameters that shrink in a step without gradients.
std::set<std::string> decayed(WeightDecayRule rule) {
  const auto weights = tiny_weights(Family::kQwen3_5Moe);
  std::vector<at::Tensor> before;
  for (const auto& parameter : weights->parameters())
    before.push_back(parameter.value.detach().clone());
  OptimizerOptions options;
  options.weight_decay_rule = rule;
  options.weight_decay = 0.5;
  AdamW(*weights, options).step(std::vector<at::Tensor>(before.size()), 0.1);
  std::set<std::string> ids;
  for (size_t i = 0; i < before.size(); ++i) {
    const auto& parameter = weights->parameters()[i];
    if (same_bits(parameter.value, before[i])) continue;
    ids.insert(parameter.id);
    EXPECT_CLOSE(parameter.value, before[i].mul(0.95), 2e-7, 0);
  }
  return ids;
}

TEST(AdamW, DecayRulesChooseTheirParameters) {
  const auto weights = tiny_weights(Family::kQwen3_5Moe);
  std::set<std::string> matrices, transformers, all;
  for (const auto& parameter : weights->parameters()) {
    const std::string& id = parameter.id;
    all.insert(id);
    if (id.ends_with("norm")) continue;
    if (!id.ends_with("dt_bias")) transformers.insert(id);
    if (!id.ends_with("dt_bias") && !id.ends_with("A_log")) matrices.insert(id);
  }
  EXPECT_EQ(decayed(WeightDecayRule::kMatrices), matrices);
  EXPECT_EQ(decayed(WeightDecayRule::kTransformers), transformers);
  EXPECT_EQ(decayed(WeightDecayRule::kAll), all);
}

TEST(AdamW, StateSavedAndLoadedContinuesBitForBit) {
  const testing::TempDir folder;
  for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
    const auto weights = tiny_weights(Family::kQwen3_5, dtype);
    AdamW optimizer(*weights, {});
    for (uint64_t step = 0; step < 3; ++step)
      optimizer.step(some_gradients(*weights, step, 1), 1e-3);
    save(folder / "optimizer.safetensors", optimizer.state_parts());
    testing::MemorySource source;
    weights->for_each_tensor([&](const std::string& name, const at::Tensor& value) {
      source.tensors[name] = value.clone();
    });

    model::ModelWeights copy(weights->config(), source, std::nullopt);
    AdamW resumed(copy, {});
    resumed.load_state(io::SafetensorsFile(folder / "optimizer.safetensors"), 3);
    EXPECT_EQ(resumed.steps_done(), 3);
    for (uint64_t step = 3; step < 5; ++step) {
      optimizer.step(some_gradients(*weights, step, 1), 1e-3);
      resumed.step(some_gradients(copy, step, 1), 1e-3);
    }
    const auto expected = state_of(optimizer), actual = state_of(resumed);
    for (const auto& [name, value] : expected)
      EXPECT_TRUE(same_bits(value, actual.at(name))) << name;
    for (size_t i = 0; i < copy.parameters().size(); ++i)
      EXPECT_TRUE(same_bits(copy.parameters()[i].value, weights->parameters()[i].value))
          << copy.parameters()[i].id;
  }
}

TEST(AdamW, StateThatDoesNotFitIsAnError) {
  const testing::TempDir folder;
  const auto weights = tiny_weights(Family::kQwen3, WeightDtype::kBFloat16);
  AdamW optimizer(*weights, {});
  auto state = optimizer.state_parts();
  const std::string last = state.back().name;
  state.pop_back();
  save(folder / "short.safetensors", state);
  EXPECT_ERROR(optimizer.load_state(io::SafetensorsFile(folder / "short.safetensors"), 1),
               FormatError, "bad-optimizer-state", last);
  state.push_back({last, {3}, 0, at::zeros({3}, at::TensorOptions().dtype(at::kFloat))});
  save(folder / "shape.safetensors", state);
  EXPECT_ERROR(optimizer.load_state(io::SafetensorsFile(folder / "shape.safetensors"), 1),
               FormatError, "bad-optimizer-state", last);
}

TEST(AdamW, StateBytesAreMastersAndMoments) {
  const auto narrow = tiny_weights(Family::kQwen3, WeightDtype::kBFloat16),
             wide = tiny_weights(Family::kQwen3);
  EXPECT_EQ(AdamW(*narrow, {}).state_bytes(), 6 * narrow->canonical_bytes());
  EXPECT_EQ(AdamW(*wide, {}).state_bytes(), 2 * wide->canonical_bytes());
}

TEST(AdamW, GradientsThatAreNotFiniteAreAnErrorAndChangeNothing) {
  const auto weights = tiny_weights(Family::kQwen3);
  AdamW optimizer(*weights, {});
  auto gradients = some_gradients(*weights, 1, 1);
  gradients[1].mutable_data_ptr<float>()[5] = NAN;
  const at::Tensor before = weights->parameters()[1].value.detach().clone();
  EXPECT_ERROR(optimizer.step(gradients, 1e-3), InternalError, "non-finite-gradient", "step 1");
  EXPECT_TRUE(same_bits(weights->parameters()[1].value, before));
  EXPECT_EQ(optimizer.steps_done(), 0);
}

}  // namespace
}  // namespace lockstep::train
