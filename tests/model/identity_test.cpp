// Digests of what a model is: they see what changes a token, and nothing else.
// SPDX-License-Identifier: Apache-2.0
#include "model/identity.h"

#include <gtest/gtest.h>

#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"

namespace lockstep::model {
namespace {

TEST(Identity, WhatChangesATokenChangesTheConfigurationsDigest) {
  const ModelConfig tiny = parse_model_config(testing::tiny_config(Family::kQwen3_5Moe), "tiny");
  const auto expect = [&](bool is_other, auto&& change) {
    ModelConfig changed = tiny;
    change(changed);
    EXPECT_EQ(configuration_digest(changed) != configuration_digest(tiny), is_other);
  };
  expect(true, [](ModelConfig& c) { c.family = Family::kQwen3Moe; });
  expect(true, [](ModelConfig& c) { c.rms_norm_eps = 1e-5; });
  expect(true, [](ModelConfig& c) { c.rope_theta *= 2; });
  expect(true, [](ModelConfig& c) { c.rotary_dim += 2; });
  expect(true, [](ModelConfig& c) { c.num_experts_per_tok += 1; });
  expect(true, [](ModelConfig& c) { c.norm_topk_prob = !c.norm_topk_prob; });
  expect(true, [](ModelConfig& c) { c.tie_word_embeddings = !c.tie_word_embeddings; });
  expect(true, [](ModelConfig& c) { std::swap(c.mixers.front(), c.mixers.back()); });
  expect(false, [](ModelConfig& c) { c.initializer_range = 1; });
  expect(false, [](ModelConfig& c) { c.max_position_embeddings *= 2; });
  expect(false, [](ModelConfig& c) { c.eos_token_ids = {1}; });
  expect(false, [](ModelConfig& c) { c.is_nested = !c.is_nested; });
  // The tensors' types say it.
  expect(false, [](ModelConfig& c) { c.dtype = WeightDtype::kBFloat16; });
}

TEST(Identity, TensorsHaveADigestOfTheirNamesShapesAndTypesAlone) {
  const auto digest = [](Family family, WeightDtype dtype, uint64_t seed) {
    return tensors_digest(*testing::tiny_weights(family, dtype, seed));
  };
  const Digest tiny = digest(Family::kQwen3, WeightDtype::kFloat32, 1);
  EXPECT_EQ(digest(Family::kQwen3, WeightDtype::kFloat32, 2), tiny);
  EXPECT_NE(digest(Family::kQwen3, WeightDtype::kBFloat16, 1), tiny);
  EXPECT_NE(digest(Family::kQwen3_5, WeightDtype::kFloat32, 1), tiny);
}

TEST(Identity, AnAdaptersDigestTellsScalesLayersAndValuesApart) {
  const auto weights = testing::tiny_weights(Family::kQwen3Moe);
  const auto digest = [&](const char* part, const AdapterConfig& config, uint64_t seed) {
    return adapter_digest(
               *testing::lively_adapter(testing::modules_with(*weights, part), config, seed))
        .hex();
  };
  const std::string first = digest("q_proj", {.rank = 2, .alpha = 4}, 1);
  EXPECT_EQ(digest("q_proj", {.rank = 2, .alpha = 4}, 1), first);
  EXPECT_NE(digest("q_proj", {.rank = 2, .alpha = 5}, 1), first);
  EXPECT_NE(digest("q_proj", {.rank = 2, .alpha = 4}, 2), first);
  EXPECT_NE(digest("o_proj", {.rank = 2, .alpha = 4}, 1), first);
  EXPECT_NE(digest("layers.0.mlp.experts", {.rank = 2, .alpha = 4}, 1),
            digest("layers.1.mlp.experts", {.rank = 2, .alpha = 4}, 1));
}

}  // namespace
}  // namespace lockstep::model
