// ColocateRollout: storage is shared, and versions are checked.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/colocate_rollout.h"

#include <map>
#include <utility>

#include "base/check.h"
#include "model/layer_inputs.h"
#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"
#include "text/default_tokenizer.h"
#include "train/adamw.h"

namespace lockstep::grpo {
namespace {

using testing::tiny_weights;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer made = text::Tokenizer::from_json(
      text::default_tokenizer_json(2048), text::default_tokenizer_config(), "default");
  return made;
}

std::vector<rollout::Request> greedy_request() {
  std::vector<rollout::Request> requests(1);
  requests[0].prompt = {1, 2, 3};
  requests[0].settings.max_new_tokens = 8;
  requests[0].settings.sampling.temperature = 0;
  return requests;
}

RolloutClient::Completions generate(ColocateRollout& rollout, int64_t version) {
  return rollout.generate(greedy_request(), version, {});
}

TEST(ColocateRollout, AnOptimizerStepReachesTheSamplerWithoutAByteMoved) {
  const auto weights = tiny_weights(model::Family::kQwen3_5);
  rollout::Engine engine(*weights, {.cache_memory = 0.25});
  ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true);
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
  rollout::Engine engine(*weights, {.cache_memory = 0.25});
  ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true);
  weights->parameters()[0].value = weights->parameters()[0].value.clone();
  EXPECT_ERROR(rollout.publish(1), InternalError, "internal", "no longer share storage");
}

TEST(ColocateRollout, AnotherVersionIsAnError) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  rollout::Engine engine(*weights, {.cache_memory = 0.25});
  ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true);
  rollout.publish(3);
  EXPECT_ERROR(generate(rollout, 4), PeerError, "version-mismatch", "version 4, got 3");
}

TEST(ColocateRollout, WhatTheLayersReadIsKeptWhereItIsAskedFor) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  rollout::Engine engine(*weights, {.cache_memory = 0.25});
  ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true);
  rollout.publish(0);
  EXPECT_TRUE(rollout.keeps_layer_inputs());
  model::LayerInputs kept(weights->config(), weights->dtype(), 11);
  const auto completions = rollout.generate_and_keep(greedy_request(), 0, {}, kept);
  EXPECT_EQ(completions[0][0].kept_rows.size(), 10u);
  EXPECT_EQ(completions[0][0].token_ids, generate(rollout, 0)[0][0].token_ids);
}

TEST(ColocateRollout, EachCompletionIsToldOnceWhenItIsDone) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  rollout::Engine engine(*weights, {.max_num_seqs = 4, .cache_memory = 0.25});
  ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true);
  rollout.publish(0);
  std::vector<rollout::Request> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {1, 2, static_cast<int64_t>(3 + i)};
    requests[i].num_samples = 4;
    requests[i].settings.max_new_tokens = 12;
    for (int64_t id = 0; id < 2048; id += 5) requests[i].settings.stop_ids.push_back(id);
  }
  std::map<std::pair<size_t, size_t>, std::vector<int64_t>> told;
  size_t told_late = 0;
  RolloutClient::Watch watch;
  watch.done = [&](size_t request, size_t sample, const rollout::Completion& completion) {
    EXPECT_TRUE(told.emplace(std::pair(request, sample), completion.token_ids).second);
  };
  watch.progress = [&](int64_t, int64_t completions) {
    EXPECT_EQ(std::ssize(told), completions);
    told_late += told.size() < 12;
  };
  const auto completions = rollout.generate(requests, 0, watch);
  EXPECT_EQ(told.size(), 12u);
  EXPECT_GT(told_late, 0u);
  for (const auto& [place, ids] : told)
    EXPECT_EQ(ids, completions[place.first][place.second].token_ids);
}

TEST(ColocateRollout, RunsOverOneEngineSampleWithTheirOwnAdapters) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  const auto modules = testing::modules_with(*weights, "self_attn");
  const auto first = testing::lively_adapter(modules, {.rank = 3, .alpha = 7}, 1),
             second = testing::lively_adapter(modules, {.rank = 2, .alpha = 9}, 2);
  const auto alone = [&](const model::Adapter* adapter) {
    rollout::Engine engine(*weights, {.cache_memory = 0.25}, adapter);
    ColocateRollout rollout(engine, *weights, tokenizer(), /*exact=*/true, adapter);
    rollout.publish(0);
    return generate(rollout, 0)[0][0].logprobs;
  };
  rollout::Engine engine(*weights, {.cache_memory = 0.25});
  ColocateRollout a(engine, *weights, tokenizer(), /*exact=*/true, first.get()),
      b(engine, *weights, tokenizer(), /*exact=*/true, second.get()),
      base(engine, *weights, tokenizer(), true);
  for (ColocateRollout* one : {&a, &b, &base}) {
    one->keep_caches(true);
    one->publish(0);
  }
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(generate(a, 0)[0][0].logprobs, alone(first.get()));
    EXPECT_EQ(generate(b, 0)[0][0].logprobs, alone(second.get()));
    EXPECT_EQ(generate(base, 0)[0][0].logprobs, alone(nullptr));
  }
  EXPECT_NE(alone(first.get()), alone(second.get()));
  EXPECT_NE(alone(first.get()), alone(nullptr));
}

TEST(ColocateRollout, ItHasTheModelsContextUnlessAFlagSaysLess) {
  const auto weights = tiny_weights(model::Family::kQwen3);
  rollout::Engine engine(*weights, {}), short_engine(*weights, {.max_model_len = 16});
  const ColocateRollout whole(engine, *weights, tokenizer(), /*exact=*/true),
      less(short_engine, *weights, tokenizer(), /*exact=*/true);
  EXPECT_EQ(whole.max_model_len(), weights->config().max_position_embeddings);
  EXPECT_EQ(less.max_model_len(), 16);
  less.check_room(8, 8);
  EXPECT_ERROR(less.check_room(9, 8), ConfigError, "prompt-too-long", "at most 16 tokens, got 9");
  const std::vector<rollout::GroupSpec> groups{{8, 8, 4}};
  EXPECT_GT(less.planned_memory(groups, false).cache_bytes, 0);
  EXPECT_EQ(less.planned_memory(groups, false).sequences, 4);
}

}  // namespace
}  // namespace lockstep::grpo
