// What a rank has and moves, against figures that are worked out otherwise.
// SPDX-License-Identifier: Apache-2.0
#include "train/rank_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/new_model.h"
#include "tests/support/expect_error.h"
#include "tests/train/published_configs.h"

namespace lockstep::train {
namespace {

constexpr double kGB = 1e9;

struct Costed {
  model::ModelConfig config;
  std::vector<CostedParameter> parameters;
  ShardPlan plan;
};

Costed costed(const model::ModelConfig& config,
              const ParallelDegrees& degrees,
              model::WeightDtype dtype = model::WeightDtype::kBFloat16,
              const std::optional<std::vector<AdaptedTarget>>& adapter = std::nullopt) {
  const auto parameters = model::describe_parameters(config, model::published_form(config));
  auto all = costed_parameters(config, parameters, dtype, adapter);
  std::vector<ShardItem> items;
  for (const CostedParameter& parameter : all) items.push_back(parameter.item);
  return {config, std::move(all),
          ShardPlan(std::move(items),
                    {.ranks = degrees.ranks, .expert_parallel = degrees.expert_parallel})};
}

constexpr int64_t kParameters = 34'660'610'688;
/// The embedding, the head and the norm before it, which are whole on every rank.
constexpr int64_t kOutside = (2 * 248320 + 1) * 2048;

RankBytes bytes_of(const Costed& model, Sharding sharding, int64_t rank) {
  return RankCosts(model.parameters, model.plan, sharding, model.plan.degrees().ranks).of(rank);
}

// 14 bytes of state (bfloat16 weight, float32 master and moments) and 4 of the gradient, cut over
// eight ranks, are 78.0 GB on each; and the rest of what is outside of the layers.
TEST(RankCosts, A35BModelOnEightRanks) {
  const Costed model = costed(published_config(kQwen3_5_35B), {.ranks = 8});
  RankBytes sum;
  for (int64_t rank = 0; rank < 8; ++rank) {
    const RankBytes bytes = bytes_of(model, Sharding::kFull, rank);
    EXPECT_NEAR(
        static_cast<double>(bytes.weights + bytes.masters + bytes.moments + bytes.gradients) / kGB,
        78.0 + 7.0 / 8 * kOutside * 2 / kGB, 0.05);
    sum.weights += bytes.weights;
    sum.masters += bytes.masters;
    sum.moments += bytes.moments;
    sum.gradients += bytes.gradients;
  }
  // Nothing else is there twice. A few parameters are float32 and need no master.
  EXPECT_EQ(sum.moments, 8 * kParameters);
  EXPECT_EQ(sum.gradients, 4 * kParameters);
  EXPECT_GT(sum.masters, 4 * kParameters - 1'000'000);
  EXPECT_EQ(sum.weights - 7 * kOutside * 2 + sum.masters / 2, 4 * kParameters)
      << "2 + 4 / 2, or 4 + 0";
}

// The experts of a layer alone are 256 x 3 x 2048 x 512: 1.61 GB in bfloat16. With experts on
// ranks of their own the head is what has the largest gradient.
TEST(RankCosts, LayersAreGathered) {
  const auto config = published_config(kQwen3_5_35B);
  const Costed whole = costed(config, {.ranks = 8}),
               cut = costed(config, {.ranks = 8, .expert_parallel = 8});
  const RankBytes gathered = bytes_of(whole, Sharding::kFull, 0),
                  split = bytes_of(cut, Sharding::kFull, 0);
  constexpr int64_t kExperts = 256ll * 3 * 2048 * 512;
  EXPECT_GT(gathered.gathered_units, 2 * kExperts * 2);
  EXPECT_LT(gathered.gathered_units, 2 * kExperts * 2 * 1.1);
  EXPECT_LT(split.gathered_units, gathered.gathered_units / 4);
  EXPECT_EQ(split.unit_gradients, (248320 + 1) * 2048 * 4);
  EXPECT_LT(split.gather_pass, gathered.gather_pass / 10) << "experts are never gathered";
}

TEST(RankCosts, WhatIsReceivedAddsUpOverRanks) {
  for (const int64_t ranks : {2, 4, 8}) {
    const Costed model = costed(published_config(kQwen3_5_35B), {.ranks = ranks});
    int64_t weight_bytes = 0, layer_bytes = 0;
    for (const CostedParameter& parameter : model.parameters) {
      const int64_t bytes = parameter.item.elements * parameter.element_size;
      weight_bytes += bytes;
      if (parameter.unit < 40) layer_bytes += bytes;
    }
    // The embedding's gradient goes by rows of tokens.
    const int64_t summed = kParameters - 248320ll * 2048;
    for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
      int64_t gathered = 0, exchanged = 0, updated = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const RankBytes bytes = bytes_of(model, sharding, rank);
        gathered += bytes.gather_pass;
        exchanged += bytes.exchange;
        updated += bytes.update;
      }
      EXPECT_EQ(exchanged, (ranks - 1) * summed * 4) << "each gradient comes from all others";
      // Each rank gets what it does not have, once, and a little more: all send as much as the one
      // that has most.
      const auto expect_about = [](int64_t bytes, int64_t least) {
        EXPECT_GE(bytes, least);
        EXPECT_LE(bytes, least + least / 100);
      };
      expect_about(gathered, sharding == Sharding::kFull ? (ranks - 1) * layer_bytes : 0);
      expect_about(updated, sharding == Sharding::kFull        ? (ranks - 1) * kOutside * 2
                            : sharding == Sharding::kOptimizer ? (ranks - 1) * weight_bytes
                                                               : (ranks - 1) * summed * 4);
    }
  }
}

TEST(RankCosts, WhatComesFromOtherHosts) {
  const auto config =
      model::parse_model_config(model::new_model_config({.family = model::Family::kQwen3_5Moe,
                                                         .size = model::ModelSize::k10m}),
                                "new");
  for (const int64_t experts : {int64_t{1}, config.num_experts / 2}) {
    const int64_t ranks = 4 * experts;
    const Costed model = costed(config, {.ranks = ranks, .expert_parallel = experts});
    for (const int64_t per_host : {int64_t{1}, int64_t{2}, ranks / 2, ranks})
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
        const RankBytes bytes = RankCosts(model.parameters, model.plan, sharding, per_host).of(1);
        SCOPED_TRACE(fmt::format("{} parts of experts, {} a host", experts, per_host));
        // All others send alike much.
        if (experts == 1) {
          EXPECT_EQ(bytes.step_from_hosts * (ranks - 1), bytes.step() * (ranks - per_host));
        }
        if (per_host == 1) {
          EXPECT_EQ(bytes.step_from_hosts, bytes.step());
        } else if (per_host == ranks) {
          EXPECT_EQ(bytes.step_from_hosts, 0);
        }
        EXPECT_LE(bytes.step_from_hosts, bytes.step());
      }
  }
}

TEST(RankCosts, ARankAloneMovesNothing) {
  const Costed model = costed(published_config(kQwen3_5_35B), {});
  for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
    const RankBytes bytes = bytes_of(model, sharding, 0);
    EXPECT_EQ(bytes.step(), 0);
    EXPECT_EQ(bytes.gathered_units, 0);
  }
  const RankBytes none = bytes_of(model, Sharding::kNone, 0),
                  full = bytes_of(model, Sharding::kFull, 0);
  EXPECT_EQ(none.weights, full.weights);
  EXPECT_EQ(none.moments, full.moments);
}

TEST(RankCosts, Float32WeightsAreTheirOwnMasters) {
  const Costed model =
      costed(published_config(kQwen3_5_35B), {.ranks = 2}, model::WeightDtype::kFloat32);
  EXPECT_EQ(bytes_of(model, Sharding::kFull, 0).masters, 0);
}

// Pairs of rank 16 beside all linear layers and all experts of the 35B model: 923 million in the
// experts. The base has neither masters nor moments nor gradients.
TEST(RankCosts, AnAdapterIsAllThatIsTrained) {
  const auto config = published_config(kQwen3_5_35B);
  const auto parameters = model::describe_parameters(config, model::published_form(config));
  std::vector<AdaptedTarget> adapter;
  int64_t own = 0, in_experts = 0;
  for (const model::AdapterTarget& target : model::adapter_targets(parameters)) {
    if (target.part != model::AdapterTarget::Part::kLayer || target.is_router) continue;
    adapter.push_back({target, 16});
    const int64_t size = std::max<int64_t>(1, target.num_experts) * 16 * (target.in + target.out);
    own += size;
    if (target.num_experts) in_experts += size;
  }
  EXPECT_NEAR(static_cast<double>(in_experts) / 1e6, 923, 1);
  const Costed model = costed(config, {.ranks = 8}, model::WeightDtype::kBFloat16, adapter);
  int64_t moments = 0, exchanged = 0;
  for (int64_t rank = 0; rank < 8; ++rank) {
    const RankBytes bytes = bytes_of(model, Sharding::kFull, rank);
    EXPECT_EQ(bytes.masters, 0);
    moments += bytes.moments;
    exchanged += bytes.exchange;
  }
  EXPECT_EQ(moments, 8 * own);
  EXPECT_EQ(exchanged, 7 * own * 4);
}

// Source: 32.9 KB a token and layer of the delta rule, and 64 KiB a token and layer to experts and
// back, for the 35B model, but for what stays on the rank.
TEST(RankCosts, TokensOfA35BModel) {
  const auto config = published_config(kQwen3_5_35B);
  const auto of = [&](int64_t experts, int64_t sequence) {
    return token_bytes(config, model::WeightDtype::kBFloat16,
                       {.ranks = 512, .expert_parallel = experts, .sequence_parallel = sequence});
  };
  EXPECT_EQ(of(1, 1).expert_rows, 0);
  EXPECT_EQ(of(1, 1).heads, 0);
  EXPECT_NEAR(of(256, 1).expert_rows * 256 / 255, 40 * 65536, 1);
  const double delta = 30 * 32'896.0, attention = 10 * 2.0 * (2 * 4096 + 2 * 512 + 4096);
  EXPECT_NEAR(of(1, 2).heads * 2, delta + attention, 1);
}

TEST(RankCosts, DegreesThatDoNotDivideAreRefused) {
  const auto config = published_config(kQwen3_5_35B);
  const auto check = [&](int64_t ranks, int64_t experts, int64_t sequence) {
    check_degrees(config, {ranks, experts, sequence});
  };
  check(8, 8, 2);
  check(1, 1, 1);
  EXPECT_ERROR(check(8, 3, 1), ConfigError, "bad-degree",
               "--expert_parallel_size: expected a divisor of the 8 ranks, got 3");
  EXPECT_ERROR(check(1024, 512, 1), ConfigError, "bad-degree",
               "--expert_parallel_size: expected a divisor of the 256 experts of a layer, got 512");
  EXPECT_ERROR(check(8, 1, 3), ConfigError, "bad-degree",
               "--sequence_parallel_size: expected a divisor of the 8 ranks, got 3");
  EXPECT_ERROR(check(8, 1, 4), ConfigError, "bad-degree",
               "--sequence_parallel_size: expected a divisor of the 2 key heads");
  EXPECT_ERROR(check(32, 1, 32), ConfigError, "bad-degree",
               "--sequence_parallel_size: expected a divisor of the 16 query heads");
  const auto dense = model::parse_model_config(
      model::new_model_config({.family = model::Family::kQwen3, .size = model::ModelSize::kTiny}),
      "new");
  EXPECT_ERROR(check_degrees(dense, {.ranks = 4, .expert_parallel = 2}), ConfigError, "bad-degree",
               "expected 1 for a model without experts, got 2");
}

}  // namespace
}  // namespace lockstep::train
