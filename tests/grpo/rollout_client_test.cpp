// ColocateRollout: storage is shared, and versions are checked.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/rollout_client.h"

#include "base/check.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"
#include "train/adamw.h"

namespace lockstep::grpo {
namespace {

using testing::tiny_weights;

std::vector<std::vector<rollout::Completion>> generate(ColocateRollout& rollout, int64_t version) {
  const std::vector<rollout::GenerationRequest> requests{{.prompt = {1, 2, 3}}};
  rollout::GenerationSettings settings;
  settings.max_new_tokens = 8;
  settings.sampling.temperature = 0;
  return rollout.generate(requests, settings, version, {});
}

TEST(ColocateRollout, AnOptimizerStepReachesTheSamplerWithoutAByteMoved) {
  const auto weights = tiny_weights(model::Family::kQwen3_5);
  ColocateRollout rollout(*weights, {.cache_memory = 0.25});
  rollout.publish(0);
  const auto before = generate(rollout, 0);
  train::AdamW optimizer(*weights, {});
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : weights->parameters())
    gradients.push_back(at::ones(parameter.value.sizes(), at::TensorOptions().dtype(at::kFloat)));
  optimizer.step(gradients, 0.1);
  rollout.publish(1);
  EXPECT_NE(generate(rollout, 1)[0][0].logprobs, before[0][0].logprobs);
}

TEST(ColocateRollout, WeightsThatMovedAreAnError) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  ColocateRollout rollout(*weights, {.cache_memory = 0.25});
  weights->parameters()[0].value = weights->parameters()[0].value.clone();
  EXPECT_ERROR(rollout.publish(1), InternalError, "internal", "no longer share storage");
}

TEST(ColocateRollout, AnotherVersionIsAnError) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  ColocateRollout rollout(*weights, {.cache_memory = 0.25});
  rollout.publish(3);
  EXPECT_ERROR(generate(rollout, 4), PeerError, "version-mismatch", "version 4, got 3");
}

}  // namespace
}  // namespace lockstep::grpo
