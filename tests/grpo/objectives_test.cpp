// Losses, corrections and advantages against float64 formulas of their own, with gradients by
// autograd, which agree with TRL's and ms-swift's code where these have them.
// SPDX-License-Identifier: Apache-2.0
//
// tools/golden/objectives.py writes the file; LOCKSTEP_OBJECTIVES names one of another seed.
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include <gtest/gtest.h>

#include "base/json.h"
#include "grpo/advantages.h"
#include "grpo/step_loss.h"
#include "tests/support/source_dir.h"

namespace lockstep::grpo {
namespace {

const Json& golden() {
  static const Json found = [] {
    const char* const other = std::getenv("LOCKSTEP_OBJECTIVES");
    return parse_json_file(other ? std::filesystem::path(other)
                                 : testing::source_dir() / "tests/golden/objectives.json");
  }();
  return found;
}

/// Sets a field from JSON, as a flag would.
struct FieldSetter {
  const Json& values;

  template <class T, class... Traits>
  void operator()(const char* name, T& field, const char*, Traits...) const {
    if (!values.contains(name) || values[name].is_null()) return;
    set(field, values[name]);
  }
  template <class T>
  static void set(std::optional<T>& field, const Json& value) {
    set(field.emplace(), value);
  }
  template <class T>
  static void set(T& field, const Json& value) {
    if constexpr (std::is_enum_v<T>)
      field = enum_of_name<T>(value.get<std::string>()).value();
    else
      field = value.get<T>();
  }
};

GrpoRunOptions options_of(const Json& values) {
  GrpoRunOptions options;
  const FieldSetter setter{values};
  options.loss.for_each_field(setter);
  options.filters.for_each_field(setter);
  options.correction.for_each_field(setter);
  options.grpo.max_completion_length = golden()["losses"]["max_completion_length"].get<int64_t>();
  return options;
}

std::vector<float> floats(const Json& values) { return values.get<std::vector<float>>(); }

/// The recorded completions; what their policy says now is in `scores`.
struct Batch {
  std::vector<Experience> completions;
  std::vector<train::SampleScores> scores;
};

Batch recorded_batch() {
  Batch batch;
  for (const Json& row : golden()["losses"]["rows"]) {
    Experience& experience = batch.completions.emplace_back();
    batch.scores.push_back({floats(row["logprobs"]), floats(row["entropy"])});
    const size_t length = batch.scores.back().logprobs.size();
    experience.sample.ids.assign(length + 1, 0);
    experience.sample.mask.assign(length + 1, 1);
    experience.sample.mask[0] = 0;
    experience.old_logprobs = floats(row["old"]);
    experience.ref_logprobs = floats(row["ref"]);
    experience.sampler_logprobs = floats(row["sampler"]);
    experience.advantage = row["advantage"].get<double>();
    experience.is_truncated = row["truncated"].get<bool>();
    experience.group = row["group"].get<int64_t>();
    experience.weight_version = -1;
  }
  return batch;
}

/// Equal within `relative` of the largest number of the list.
void expect_near(const std::vector<float>& found, const Json& expected, double relative) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  for (const Json& value : expected) largest = std::max(largest, std::abs(value.get<double>()));
  for (size_t t = 0; t < found.size(); ++t)
    EXPECT_NEAR(double{found[t]}, expected[t].get<double>(), relative * largest) << "token " << t;
}

TEST(Objectives, LossesAndTheirGradientsEqualFloat64Formulas) {
  const Json& cases = golden()["losses"]["cases"];
  ASSERT_GE(cases.size(), 100u);
  for (const Json& expected : cases) {
    SCOPED_TRACE(expected["name"].get<std::string>());
    const GrpoRunOptions options = options_of(expected["options"]);
    options.loss.validate();
    Batch batch = recorded_batch();
    if (options.filters.top_entropy_quantile < 1)
      mask_by_entropy(batch.completions, batch.scores, options.filters.top_entropy_quantile);
    const PolicyStep step{
        .completions = batch.completions, .scoring = {}, .entropy_coef = options.loss.entropy_coef};
    StepLoss loss(step, options, batch.scores);
    for (size_t i = 0; i < batch.completions.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "completion " << i);
      std::vector<float> slopes(batch.scores[i].logprobs.size()), entropy_slopes(slopes.size());
      train::SampleGradient gradient{slopes, {}};
      if (options.loss.has_entropy_bonus()) gradient.entropy = entropy_slopes;
      loss.learn(static_cast<int64_t>(i), batch.scores[i], gradient);
      loss.add(static_cast<int64_t>(i), batch.scores[i]);
      expect_near(slopes, expected["gradients"][i], 1e-6);
      expect_near(entropy_slopes, expected["entropy_gradients"][i], 1e-6);
      if (expected["correction"].is_null()) continue;
      const auto weights =
          correction_weights(batch.completions[i].old_logprobs,
                             batch.completions[i].sampler_logprobs, options.correction);
      expect_near({weights.begin(), weights.end()}, expected["correction"][i], 1e-6);
    }
    EXPECT_NEAR(loss.loss(), expected["loss"].get<double>(), 1e-6);
  }
}

/// Those of ms-swift's own code over the same completions.
TEST(Objectives, CorrectionMetricsEqualMsSwifts) {
  for (const Json& expected : golden()["losses"]["correction_metrics"]) {
    SCOPED_TRACE(expected["mode"].dump());
    CorrectionOptions options;
    options.log_rollout_offpolicy_metrics = true;
    options.rollout_importance_sampling_threshold = expected["threshold"].get<double>();
    if (!expected["mode"].is_null())
      options.rollout_importance_sampling_mode =
          enum_of_name<CorrectionMode>(expected["mode"].get<std::string>());
    CorrectionMetrics correction;
    for (const Experience& experience : recorded_batch().completions) {
      const auto& policy = experience.old_logprobs;
      const auto& sampler = experience.sampler_logprobs;
      correction.add(policy, sampler, correction_weights(policy, sampler, options), options);
    }
    Metrics metrics;
    correction.report(metrics);
    const Json found = metrics.values();
    EXPECT_EQ(found.size(), expected["metrics"].size());
    for (const auto& [name, value] : expected["metrics"].items()) {
      ASSERT_TRUE(found.contains("rollout_correction/" + name)) << name;
      EXPECT_NEAR(found["rollout_correction/" + name].get<double>(), value.get<double>(), 1e-6)
          << name;
    }
  }
}

TEST(Objectives, EveryLossAndCorrectionIsCompared) {
  std::vector<bool> losses(enum_names(LossType{}).size()),
      modes(enum_names(CorrectionMode{}).size());
  for (const Json& expected : golden()["losses"]["cases"]) {
    const GrpoRunOptions options = options_of(expected["options"]);
    losses[static_cast<size_t>(options.loss.loss_type)] = true;
    if (const auto mode = options.correction.rollout_importance_sampling_mode)
      modes[static_cast<size_t>(*mode)] = true;
  }
  EXPECT_EQ(losses, std::vector<bool>(losses.size(), true));
  EXPECT_EQ(modes, std::vector<bool>(modes.size(), true));
}

TEST(Objectives, AdvantagesEqualFloat64Formulas) {
  const Json& cases = golden()["advantages"]["cases"];
  ASSERT_GE(cases.size(), 30u);
  for (const Json& expected : cases) {
    const auto estimator = expected["estimator"].get<std::string>(),
               scale = expected["scale"].get<std::string>();
    SCOPED_TRACE(estimator + " " + scale);
    std::vector<reward::Values> values;
    for (const Json& row : expected["values"]) {
      reward::Values& own = values.emplace_back();
      for (const Json& value : row)
        own.push_back(value.is_null() ? std::nullopt : std::optional(value.get<double>()));
    }
    const auto found = compute_advantages(values, expected["weights"].get<std::vector<double>>(),
                                          golden()["advantages"]["group_size"].get<int64_t>(),
                                          {enum_of_name<AdvantageEstimator>(estimator).value(),
                                           enum_of_name<ScaleRewards>(scale).value()},
                                          expected["penalties"].get<std::vector<double>>());
    const auto wanted = expected["advantages"].get<std::vector<double>>();
    ASSERT_EQ(found.advantages.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(found.advantages[i], wanted[i], 1e-6 * std::max(1.0, std::abs(wanted[i])))
          << "completion " << i;
  }
}

}  // namespace
}  // namespace lockstep::grpo
