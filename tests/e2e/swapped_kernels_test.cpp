// Would exactness be lost, and noticed, if one kernel gave rows that depend on their number? The
// linker puts such a kernel in the place of each op in turn (swapped_ops.h).
// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensor/aten.h"
#include "tests/e2e/exactness.h"
#include "tests/e2e/swapped_ops.h"

namespace lockstep::testing {
namespace {

using model::Family;
using model::MixerKind;
using model::WeightDtype;

/// Off by so much that a value of the dtype changes.
double error_of(WeightDtype dtype) { return dtype == WeightDtype::kFloat32 ? 1e-5 : 0.1; }

/// A short run of the sampler: its samples, with what its layers read.
struct ShortRun {
  std::vector<train::Sample> samples;
  std::vector<std::vector<float>> logprobs;

  explicit ShortRun(const model::ModelWeights& weights) {
    std::mt19937_64 random(test_seed(1));
    std::vector<rollout::GenerationRequest> requests;
    for (const size_t length : {1, 5, 64, 65, 130})
      requests.push_back({.prompt = random_ids(length, random), .num_samples = 3});
    const auto kept = std::make_shared<model::LayerInputs>(weights.config(), weights.dtype(), 1000);
    rollout::GenerationSettings settings;
    settings.max_new_tokens = 6;
    settings.ignore_eos = true;
    settings.keep = kept.get();
    rollout::Engine engine(weights, {.max_num_seqs = 8, .cache_memory = 0.25});
    const auto completions = engine.generate(requests, settings);
    samples = samples_of(requests, completions);
    for (const auto& group : completions)
      for (const auto& completion : group) {
        samples[logprobs.size()].kept = kept;
        samples[logprobs.size()].kept_rows = completion.kept_rows;
        logprobs.push_back(completion.logprobs);
      }
  }

  /// Tokens whose log-probabilities the trainer's own forward sees differently.
  int64_t different(train::Trainer& trainer) const {
    Tally tally;
    const auto scores = trainer.score(samples, {});
    for (size_t i = 0; i < samples.size(); ++i) tally.add(logprobs[i], scores[i].logprobs);
    return tally.different;
  }
};

std::vector<int64_t> layers_of(const train::LayerComparison& comparison) {
  std::vector<int64_t> layers;
  for (const train::LayerDifference& difference : comparison.different()) {
    EXPECT_TRUE(difference.is_sampler);
    EXPECT_GT(difference.tokens, 0);
    EXPECT_GT(difference.largest, 0);
    layers.push_back(difference.layer);
  }
  return layers;
}

void learn(train::Trainer& trainer, const ShortRun& run, bool reuse) {
  trainer.gradients(run.samples, {.reuse_kept = reuse},
                    [](int64_t, const train::SampleScores&, train::SampleGradient gradient) {
                      std::fill(gradient.logprobs.begin(), gradient.logprobs.end(), 0.01F);
                    });
}

TEST(SwappedKernels, EachIsFound) {
  EXPECT_EQ(swappable_ops().size(), 20u);
  for (const auto dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
    // The family that has every op.
    const auto weights = tiny_weights(Family::kQwen3_5Moe, dtype);
    train::Trainer trainer(*weights, {});
    for (const char* op : swappable_ops()) {
      current_swap() = {op, kEveryLayer, error_of(dtype)};
      EXPECT_GT(ShortRun(*weights).different(trainer), 0) << op;
    }
    current_swap() = {};
    EXPECT_EQ(ShortRun(*weights).different(trainer), 0);
  }
}

/// The ops of one layer, by what it mixes tokens with.
bool is_op_of(const std::string& op, MixerKind mixer) {
  if (op.starts_with("gated_") || op.starts_with("causal_conv"))
    return mixer == MixerKind::kGatedDelta;
  if (op == "sigmoid_mul") return mixer == MixerKind::kAttention;
  return !(op == "apply_rope" || op == "causal_attention" || op == "paged_attention") ||
         mixer == MixerKind::kAttention;
}

/// Those that stand before the layers or behind them.
bool is_op_of_a_layer(const std::string& op) {
  for (const char* other :
       {"rope_table", "token_logprobs", "vocabulary_logits", "normalizer_of_logits"})
    if (op == other) return false;
  return true;
}

TEST(SwappedKernels, OneLayersIsFoundInThatLayerAlone) {
  const auto weights = tiny_weights(Family::kQwen3_5Moe, WeightDtype::kFloat32);
  const auto& mixers = weights->config().mixers;
  forget_layers();
  current_swap() = {};
  train::Trainer trainer(*weights, {});
  const ShortRun exact(*weights);
  learn(trainer, exact, /*reuse=*/true);
  EXPECT_TRUE(trainer.comparison().is_exact());
  EXPECT_GT(trainer.comparison().compared(), trainer.num_layers());
  for (const char* op : swappable_ops()) {
    if (!is_op_of_a_layer(op)) continue;
    for (int64_t layer = 0; layer < trainer.num_layers(); ++layer) {
      if (!is_op_of(op, mixers[static_cast<size_t>(layer)])) continue;
      SCOPED_TRACE(fmt::format("{} in layer {}", op, layer));
      current_swap() = {op, layer, 1e-3};
      const ShortRun run(*weights);
      learn(trainer, run, /*reuse=*/true);
      EXPECT_THAT(layers_of(trainer.comparison()), ::testing::ElementsAre(layer));
      for (const bool with_gradients : {false, true})
        EXPECT_THAT(layers_of(trainer.compare_layers(run.samples, with_gradients)),
                    ::testing::ElementsAre(layer));
      // Without reuse the log-probabilities see it.
      EXPECT_GT(run.different(trainer), 0);
    }
  }
  current_swap() = {};
}

/// Of thousands of elements one is wrong, or no number at all, in the training of what was sampled
/// right.
TEST(SwappedKernels, OneElementIsFound) {
  for (const auto dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
    const auto weights = tiny_weights(Family::kQwen3_5Moe, dtype);
    forget_layers();
    current_swap() = {};
    train::Trainer trainer(*weights, {});
    const ShortRun run(*weights);
    for (const char* op :
         {"adapted_linear", "rms_norm", "add_rms_norm", "gated_rms_norm", "silu_mul", "sigmoid_mul",
          "apply_rope", "causal_attention", "causal_conv", "gated_delta_gates", "gated_delta_rule",
          "route", "experts"})
      for (const double error : {0.5, std::nan("")}) {
        const int64_t layer = is_op_of(op, MixerKind::kGatedDelta) ? 1 : 3;
        SCOPED_TRACE(fmt::format("{} in layer {} by {}", op, layer, error));
        current_swap() = {op, layer, error, /*in_one_element=*/true};
        learn(trainer, run, /*reuse=*/true);
        current_swap() = {};
        EXPECT_THAT(layers_of(trainer.comparison()), ::testing::ElementsAre(layer));
        EXPECT_EQ(std::isinf(trainer.comparison().largest()), std::isnan(error));
        // One token a call of the op, of which a layer of experts makes some, in each micro-batch.
        for (const train::LayerDifference& difference : trainer.comparison().different())
          EXPECT_LE(difference.tokens, 8 * train::kNumSlots);
      }
    current_swap() = {"token_logprobs", kEveryLayer, std::nan(""), /*in_one_element=*/true};
    EXPECT_GT(run.different(trainer), 0);
    current_swap() = {};
  }
}

/// A layer that gives its backward other bits than its forward is found without a sampler too.
TEST(SwappedKernels, ARecomputedLayerIsComparedWithTheForward) {
  const auto weights = tiny_weights(Family::kQwen3_5Moe, WeightDtype::kFloat32);
  forget_layers();
  current_swap() = {};
  train::Trainer trainer(*weights, {});
  const ShortRun run(*weights);
  learn(trainer, run, /*reuse=*/false);
  EXPECT_TRUE(trainer.comparison().is_exact());
  EXPECT_GT(trainer.comparison().compared(), 0);
  trainer.gradients(run.samples, {},
                    [](int64_t, const train::SampleScores&, train::SampleGradient gradient) {
                      // Between forward and backward.
                      current_swap() = {"silu_mul", 2, 1e-3};
                      std::fill(gradient.logprobs.begin(), gradient.logprobs.end(), 0.01F);
                    });
  current_swap() = {};
  const auto different = trainer.comparison().different();
  ASSERT_EQ(different.size(), 1u);
  EXPECT_EQ(different[0].layer, 2);
  EXPECT_FALSE(different[0].is_sampler);
  // Layers that keep what they made compute nothing again.
  trainer.keep_layers(trainer.num_layers());
  learn(trainer, run, /*reuse=*/false);
  EXPECT_EQ(trainer.comparison().compared(), 0);
}

}  // namespace
}  // namespace lockstep::testing
