// Differences between trainer and sampler: how they are measured, and who is named.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/exactness.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "base/json.h"
#include "model/decoder.h"
#include "tensor/aten.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

using model::Family;

TEST(LogprobDifferences, AreOfBitsAndOfValues) {
  const float nan = std::nanf("");
  LogprobDifferences found;
  EXPECT_TRUE(
      found.add(std::vector<float>{-1, nan, -HUGE_VALF}, std::vector<float>{-1, nan, -HUGE_VALF}));
  EXPECT_EQ(found.largest, 0);
  EXPECT_FALSE(found.add(std::vector<float>{0.0F, -2}, std::vector<float>{-0.0F, -2.5F}));
  EXPECT_EQ(found.largest, 0.5);
  EXPECT_EQ(found.different, 2);
  EXPECT_EQ(found.tokens, 5);
  // What is no number is not swallowed.
  EXPECT_FALSE(found.add(std::vector<float>{nan}, std::vector<float>{-1}));
  EXPECT_EQ(found.largest, std::numeric_limits<double>::infinity());
}

constexpr int64_t kVersion = 3;

/// Two completions as a sampler in the trainer's process leaves them behind, and a trainer.
struct Sampled {
  std::unique_ptr<model::ModelWeights> weights = testing::tiny_weights(Family::kQwen3);
  train::Trainer trainer{*weights, {}};
  std::shared_ptr<model::LayerInputs> kept =
      std::make_shared<model::LayerInputs>(weights->config(), weights->dtype(), 100);
  std::vector<Experience> completions;

  Sampled() {
    for (const int64_t last : {7, 8}) {
      Experience& experience = completions.emplace_back();
      experience.sample = {{1, 2, 3, 4, 5, last}, {0, 0, 0, 1, 1, 1}};
      experience.weight_version = kVersion;
    }
    const auto scores = trainer.score(samples(), {});
    for (size_t i = 0; i < completions.size(); ++i)
      completions[i].sampler_logprobs = completions[i].old_logprobs = scores[i].logprobs;
  }

  std::vector<train::Sample> samples() const {
    std::vector<train::Sample> list;
    for (const Experience& experience : completions) list.push_back(experience.sample);
    return list;
  }

  /// Fills `kept`, as if sampling had kept what the layers read.
  void keep() {
    at::NoGradGuard no_grad;
    for (Experience& experience : completions) {
      train::Sample& sample = experience.sample;
      const int64_t count = sample.needed_tokens(), first = kept->reserve(count);
      model::ForwardBatch batch;
      batch.ids = testing::id_tensor({sample.ids.begin(), sample.ids.begin() + count});
      batch.sequences.append(count);
      batch.positions = model::positions_of(batch.sequences);
      model::Decoder(*weights).forward(batch, [&](int64_t layer, const at::Tensor& hidden) {
        kept->write(layer, first, hidden);
      });
      sample.kept = kept;
      sample.kept_rows.resize(static_cast<size_t>(count));
      std::iota(sample.kept_rows.begin(), sample.kept_rows.end(), first);
    }
  }
  /// What `layer` read for one token of the second completion is another now: the layer below it
  /// gave something else to the sampler.
  void bend(int64_t layer, size_t token = 3) { bend_token(completions[1].sample, layer, token); }
  ExactnessCheck check(OnInexact on_inexact = OnInexact::kStop, bool exact = true) const {
    return {trainer, {}, {.exact = exact, .on_inexact = on_inexact}};
  }
  /// What finds the layer: these very completions again, with what was kept.
  ExactnessCheck::SampleAgain again() {
    return [this](const train::Sample&) {
      keep();
      auto list = samples();
      for (Experience& experience : completions) experience.sample.drop_kept();
      if (bent_ > 0) bend_token(list[1], bent_, 3);
      ++repetitions;
      return list;
    };
  }
  void bend_again(int64_t layer) { bent_ = layer; }
  /// How often it was sampled again.
  int64_t repetitions = 0;

  ExactnessCheck::Step step_with(bool reuse) {
    ExactnessCheck::Step step{completions, kVersion, {}};
    trainer.gradients(
        samples(), {.reuse_kept = reuse},
        [&](int64_t i, const train::SampleScores& scores, train::SampleGradient gradient) {
          std::fill(gradient.logprobs.begin(), gradient.logprobs.end(), 0.1F);
          step.fresh.add(i, scores.logprobs, completions[static_cast<size_t>(i)].sampler_logprobs);
        });
    return step;
  }

 private:
  void bend_token(const train::Sample& sample, int64_t layer, size_t token) {
    const std::span<const int64_t> row = std::span(sample.kept_rows).subspan(token, 1);
    kept->write(layer, row[0], kept->gather(layer, row) + 1);
  }
  int64_t bent_ = 0;
};

TEST(ExactnessCheck, EqualBitsPass) {
  Sampled sampled;
  Metrics metrics;
  sampled.check().check_scores(sampled.completions, sampled.again());
  sampled.keep();
  sampled.check().check_step(sampled.step_with(true), {}, metrics);
  sampled.check().check_step(sampled.step_with(false), {}, metrics);
  const Json values = metrics.values();
  EXPECT_EQ(values.at("train/sampler_logprob_max_diff"), 0.0);
  EXPECT_EQ(values.at("train/sampler_logprob_mean_diff"), 0.0);
  EXPECT_EQ(values.at("train/recomputed_layer_max_diff"), 0.0);
}

TEST(ExactnessCheck, ScoresThatDifferNameTheLowestLayer) {
  for (const int64_t layer : {0, 1, 3}) {
    Sampled sampled;
    sampled.completions[1].sampler_logprobs[0] += 0.25F;
    sampled.bend_again(layer + 1);
    const std::string where = fmt::format(
        "model.layers.{}: expected layer {} (attention) to give "
        "training what it gave sampling, got other bits in 1 "
        "token, by up to 1",
        layer, layer);
    EXPECT_ERROR(sampled.check().check_scores(sampled.completions, sampled.again()), InternalError,
                 "inexact-sampler", where);
  }
}

TEST(ExactnessCheck, WithoutALayerTheHeadIsNamed) {
  Sampled sampled;
  sampled.completions[0].sampler_logprobs[2] += 0.25F;
  EXPECT_ERROR(sampled.check().check_scores(sampled.completions, sampled.again()), InternalError,
               "inexact-sampler",
               "lm_head: expected the final norm and the head to give training what they gave "
               "sampling, got other "
               "log-probabilities of 1 of 6 tokens, by up to 0.25");
}

/// What sampled again is held against the completions that differed, in their order: kernels may
/// err at one number of rows alone.
TEST(ExactnessCheck, FindsTheLayerWhateverElseIsSampledAgain) {
  Sampled sampled;
  sampled.completions[1].sampler_logprobs[0] += 0.25F;
  sampled.bend_again(2);
  const auto more = [&](const train::Sample& first) {
    auto samples = sampled.again()(first);
    std::reverse(samples.begin(), samples.end());
    samples.push_back(samples.front());
    samples.back().ids.front() = 9;
    samples.back().drop_kept();
    return samples;
  };
  EXPECT_ERROR(sampled.check().check_scores(sampled.completions, more), InternalError,
               "inexact-sampler", "model.layers.1: expected layer 1 (attention)");
}

TEST(ExactnessCheck, ADifferenceOfNoLayerIsNotPutDownToTheHead) {
  Sampled sampled;
  // The trainer's forward erred, and does not again.
  sampled.completions[1].old_logprobs[1] += 0.25F;
  EXPECT_ERROR(sampled.check().check_scores(sampled.completions, sampled.again()), InternalError,
               "inexact-sampler",
               "model: expected training to end in the log-probabilities of sampling, got other "
               "log-probabilities of 1 of 6 tokens, by up to 0.25, though each layer and the head");
}

TEST(ExactnessCheck, ARunThatWarnsSamplesAgainOnce) {
  Sampled sampled;
  sampled.completions[1].sampler_logprobs[0] += 0.25F;
  ExactnessCheck check = sampled.check(OnInexact::kWarn);
  for (int step = 0; step < 3; ++step) {
    check.check_scores(sampled.completions, sampled.again());
    EXPECT_EQ(sampled.repetitions, 1);
  }
}

TEST(ExactnessCheck, ASamplerThatDoesNotRepeatItselfIsNamed) {
  Sampled sampled;
  sampled.completions[0].sampler_logprobs[2] += 0.25F;
  const auto others = [&](const train::Sample& first) {
    auto samples = sampled.again()(first);
    samples.erase(samples.begin());
    return samples;
  };
  EXPECT_ERROR(sampled.check().check_scores(sampled.completions, others), InternalError,
               "inexact-sampler", "sampler: expected the same tokens from the same seed");
}

TEST(ExactnessCheck, AStepFromWhatSamplingKeptComparesEveryLayer) {
  // Token 2 is the prompt's last one, which training computes once for both completions, but each
  // of them was sampled with one of its own.
  for (const auto& [layer, token] : {std::pair{1, 3}, {2, 4}, {4, 3}, {1, 0}, {3, 2}, {4, 2}}) {
    SCOPED_TRACE(fmt::format("what layer {} read for token {}", layer, token));
    Sampled sampled;
    sampled.keep();
    sampled.bend(layer, static_cast<size_t>(token));
    const auto step = sampled.step_with(true);
    Metrics metrics;
    EXPECT_ERROR(
        sampled.check().check_step(step, {}, metrics), InternalError, "inexact-sampler",
        fmt::format("model.layers.{}: expected layer {} (attention)", layer - 1, layer - 1));
    // Equal log-probabilities do not hide it: here those of the head agree with sampling's.
    sampled.check(OnInexact::kWarn).check_step(step, {}, metrics);
    EXPECT_GT(metrics.values().at("train/recomputed_layer_max_diff").get<double>(), 0.9);
  }
}

TEST(ExactnessCheck, TheEmbeddingIsComparedToo) {
  for (const size_t token : {1, 3}) {
    Sampled sampled;
    sampled.keep();
    sampled.bend(0, token);
    Metrics metrics;
    EXPECT_ERROR(sampled.check().check_step(sampled.step_with(true), {}, metrics), InternalError,
                 "inexact-sampler", "model.embed_tokens.weight: expected the embedding to give");
  }
}

/// From sampling's own hidden states the head finds sampling's log-probabilities: the difference
/// that is logged is that of a forward of the trainer's own.
TEST(ExactnessCheck, AWarningMeasuresByForwardsOfTheTrainersOwn) {
  Sampled sampled;
  sampled.keep();
  sampled.bend(sampled.trainer.num_layers());
  // What the sampler's head made of its hidden states.
  const auto seen = sampled.trainer.score(sampled.samples(), {.reuse_kept = true});
  double expected = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    Experience& experience = sampled.completions[i];
    experience.sampler_logprobs = seen[i].logprobs;
    for (size_t t = 0; t < seen[i].logprobs.size(); ++t)
      expected = std::max(
          expected, std::abs(double(seen[i].logprobs[t]) - double(experience.old_logprobs[t])));
  }
  ASSERT_GT(expected, 0.01);
  for (const bool has_scores : {true, false}) {
    if (!has_scores)
      for (Experience& experience : sampled.completions) experience.old_logprobs.clear();
    const auto step = sampled.step_with(true);
    EXPECT_EQ(step.fresh.logprobs.largest, 0);
    Metrics metrics;
    sampled.check(OnInexact::kWarn).check_step(step, {}, metrics);
    EXPECT_NEAR(metrics.values().at("train/sampler_logprob_max_diff").get<double>(), expected,
                1e-7);
  }
}

TEST(ExactnessCheck, WithoutExactNothingStops) {
  Sampled sampled;
  sampled.completions[0].sampler_logprobs[2] += 0.25F;
  Metrics metrics;
  auto check = sampled.check(OnInexact::kStop, /*exact=*/false);
  check.check_scores(sampled.completions, {});
  check.check_step(sampled.step_with(false), {}, metrics);
  EXPECT_NEAR(metrics.values().at("train/sampler_logprob_max_diff").get<double>(), 0.25, 1e-6);
}

TEST(ExactnessCheck, ASamplerOfOtherWeightsIsMeasuredAndTheTrainersOwnLayersAreHeld) {
  Sampled sampled;
  sampled.completions[0].sampler_logprobs[2] += 0.25F;
  Metrics metrics;
  ExactnessCheck check(sampled.trainer, {}, {.sampler_is_exact = false});
  check.check_scores(sampled.completions, {});
  check.check_step(sampled.step_with(false), {}, metrics);
  EXPECT_NEAR(metrics.values().at("train/sampler_logprob_max_diff").get<double>(), 0.25, 1e-6);
  sampled.keep();
  sampled.bend(2);
  EXPECT_ERROR(check.check_step(sampled.step_with(true), {}, metrics), InternalError,
               "inexact-sampler", "model.layers.1");
}

TEST(ExactnessCheck, CompletionsOfEarlierWeightsKeepWhatWasMeasured) {
  Sampled sampled;
  sampled.completions[1].weight_version = kVersion - 1;
  sampled.completions[1].old_logprobs[0] += 0.5F;
  auto step = sampled.step_with(false);
  step.fresh = {};
  Metrics metrics;
  sampled.check(OnInexact::kWarn).check_step(step, {}, metrics);
  EXPECT_NEAR(metrics.values().at("train/sampler_logprob_max_diff").get<double>(), 0.5, 1e-6);
  EXPECT_ERROR(sampled.check().check_step(step, {}, metrics), InternalError, "inexact-sampler",
               "before this run began");
}

}  // namespace
}  // namespace lockstep::grpo
