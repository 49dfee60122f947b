// The plan of who owns what is a partition, for any model and any number of ranks.
// SPDX-License-Identifier: Apache-2.0
#include "train/shard_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/empty.h>

#include "model/new_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"
#include "tests/train/published_configs.h"
#include "train/shards.h"

namespace lockstep::train {
namespace {

using parallel::ElementRange;
using parallel::kBlockElements;

/// Fails unless the ranges are [0, count), in order, without a gap and an overlap.
void expect_partition(const std::vector<ElementRange>& ranges, int64_t first, int64_t last) {
  int64_t at = first;
  for (const ElementRange& range : ranges) {
    EXPECT_EQ(range.first, at);
    EXPECT_LE(range.first, range.last);
    at = range.last;
  }
  EXPECT_EQ(at, last);
}

/// Blocks begin anew in each expert.
int64_t period(const ShardItem& item) {
  return item.num_experts ? item.elements / item.num_experts : item.elements;
}
int64_t blocks_before(const ShardItem& item, int64_t element) {
  const auto blocks_of = [](int64_t count) {
    return (count + kBlockElements - 1) / kBlockElements;
  };
  return element / period(item) * blocks_of(period(item)) + blocks_of(element % period(item));
}

/// Fails unless what ranks own of an item is a partition of it in whole blocks, balanced within one
/// block, and what they hold are whole experts.
void expect_sound(const ShardPlan& plan, size_t item) {
  const ShardItem& cut = plan.items()[item];
  const int64_t ranks = plan.degrees().ranks;
  const int64_t parts = cut.num_experts ? plan.degrees().expert_parallel : 1;
  SCOPED_TRACE(fmt::format("{}: {} elements, {} experts over {} ranks, {} parts", cut.id,
                           cut.elements, cut.num_experts, ranks, parts));
  int64_t at = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const ElementRange held = plan.held(item, part);
    EXPECT_EQ(held.first, at);
    at = held.last;
    if (cut.num_experts) {
      EXPECT_EQ(held.count(), cut.elements / parts);
      EXPECT_EQ(held.first % (cut.elements / cut.num_experts), 0);
    }
    std::vector<ElementRange> ranges;
    int64_t most = 0, least = INT64_MAX;
    const std::vector<int64_t> peers = plan.peers(item, part);
    EXPECT_EQ(std::ssize(peers), ranks / parts);
    for (const int64_t rank : peers) {
      EXPECT_EQ(plan.held(item, rank).first, held.first);
      EXPECT_EQ(plan.held(item, rank).last, held.last);
      const ElementRange own = ranges.emplace_back(plan.owned(item, rank));
      const int64_t blocks = blocks_before(cut, own.last) - blocks_before(cut, own.first);
      most = std::max(most, blocks);
      least = std::min(least, blocks);
      if (own.count() > 0) {
        EXPECT_EQ(own.first % period(cut) % kBlockElements, 0) << "a block is not cut";
      }
    }
    expect_partition(ranges, held.first, held.last);
    EXPECT_LE(most - least, 1) << "balanced within one block";
  }
  EXPECT_EQ(at, cut.elements);
}

TEST(ShardPlan, IsAPartitionForDrawnSizesAndRanks) {
  std::mt19937_64 random(lockstep::testing::test_seed(1));
  for (int draw = 0; draw < 300; ++draw) {
    // Degrees that divide one another: products of small factors, up to 4,096 ranks.
    const int64_t parts = int64_t{1} << (random() % 7);
    const int64_t ranks = parts * static_cast<int64_t>(1 + random() % (4096 / parts));
    std::vector<ShardItem> items;
    for (size_t item = 0; item < 3; ++item) {
      const int64_t experts = item == 0 ? 0 : parts * static_cast<int64_t>(1 + random() % 5);
      // Around whole blocks as often as anywhere.
      int64_t elements = static_cast<int64_t>(1 + random() % 5'000'000);
      if (random() % 2)
        elements = std::max<int64_t>(1, kBlockElements * static_cast<int64_t>(random() % 300) +
                                            static_cast<int64_t>(random() % 3) - 1);
      items.push_back({.id = "item " + std::to_string(item),
                       .elements = std::max<int64_t>(1, experts) * elements,
                       .num_experts = experts});
    }
    const ShardPlan plan(items, {.ranks = ranks, .expert_parallel = parts});
    for (size_t item = 0; item < items.size(); ++item) expect_sound(plan, item);
  }
}

TEST(ShardPlan, FewElementsLeaveRanksEmptyButNoneTwice) {
  const ShardPlan plan({{.id = "norm", .elements = 7}}, {.ranks = 4096});
  int64_t owners = 0;
  for (int64_t rank = 0; rank < 4096; ++rank) owners += plan.owned(0, rank).count() > 0;
  EXPECT_EQ(owners, 1);
  expect_sound(plan, 0);
}

TEST(ShardPlan, EveryElementHasTheOwnerThatOwnsIt) {
  std::mt19937_64 random(lockstep::testing::test_seed(2));
  for (int draw = 0; draw < 100; ++draw) {
    const int64_t parts = int64_t{1} << (random() % 4);
    const int64_t ranks = parts * static_cast<int64_t>(1 + random() % 60);
    const int64_t experts = random() % 2 ? parts * static_cast<int64_t>(1 + random() % 4) : 0;
    const ShardPlan plan(
        {{.id = "item",
          .elements = std::max<int64_t>(1, experts) * static_cast<int64_t>(1 + random() % 900'000),
          .num_experts = experts}},
        {.ranks = ranks, .expert_parallel = parts});
    for (int64_t rank = 0; rank < ranks; ++rank)
      if (const ElementRange own = plan.owned(0, rank); own.count() > 0) {
        EXPECT_EQ(plan.owner(0, own.first), rank);
        EXPECT_EQ(plan.owner(0, own.last - 1), rank);
      }
    for (int probe = 0; probe < 50; ++probe) {
      const auto element =
          static_cast<int64_t>(random() % static_cast<uint64_t>(plan.items()[0].elements));
      const ElementRange own = plan.owned(0, plan.owner(0, element));
      EXPECT_TRUE(own.first <= element && element < own.last);
    }
  }
}

// Of one rank alone, and of experts that are not cut, nothing depends on which rank it is.
TEST(ShardPlan, ARankAloneOwnsEverything) {
  const ShardPlan plan({{.id = "a", .elements = 100'000, .num_experts = 4}}, {});
  EXPECT_EQ(plan.owned(0, 0).count(), 100'000);
  EXPECT_EQ(plan.held(0, 0).count(), 100'000);
}

TEST(ShardPlan, WhatDoesNotDivideIsRefused) {
  const std::vector<ShardItem> items{{.id = "experts", .elements = 60, .num_experts = 6}};
  EXPECT_ERROR(ShardPlan(items, {.ranks = 6, .expert_parallel = 4}), ConfigError, "bad-degree",
               "--expert_parallel_size: expected a divisor of the 6 ranks, got 4");
  EXPECT_ERROR(ShardPlan(items, {.ranks = 8, .expert_parallel = 4}), ConfigError, "bad-degree",
               "expected a divisor of the 6 experts of experts, got 4");
}

TEST(ShardPlan, TheDigestTellsCutsApart) {
  const auto digest = [](int64_t elements, int64_t ranks, int64_t parts) {
    return ShardPlan({{.id = "a", .elements = elements, .num_experts = 8}},
                     {.ranks = ranks, .expert_parallel = parts})
        .digest()
        .hex();
  };
  const std::set<std::string> all{digest(80, 8, 1), digest(88, 8, 1), digest(80, 4, 1),
                                  digest(80, 8, 2)};
  EXPECT_EQ(all.size(), 4u);
  EXPECT_EQ(digest(80, 8, 2), digest(80, 8, 2));
}

/// The parameters of a new model of each family.
std::vector<std::vector<model::Parameter>> all_families() {
  std::vector<std::vector<model::Parameter>> models;
  for (const auto& entry : enum_names(model::Family{})) {
    const auto config = model::parse_model_config(
        model::new_model_config({.family = entry.value, .size = model::ModelSize::kTiny}), "new");
    models.push_back(model::describe_parameters(config, model::published_form(config)));
  }
  return models;
}

// What ranks own are byte ranges of a checkpoint's tensors, which they write without one another.
TEST(ShardPlan, RangesOfACheckpointAreAPartitionOfItsTensors) {
  for (const auto& parameters : all_families())
    for (const int64_t ranks : {1, 2, 3, 8, 64, 4096}) {
      std::map<std::string, std::vector<ElementRange>> by_tensor;
      std::map<std::string, int64_t> sizes;
      for (const model::Parameter& parameter : parameters) {
        for (const auto& piece : parameter.pieces) sizes[piece.name] = piece.numel();
        const ShardPlan plan({shard_item(parameter, 0)}, {.ranks = ranks});
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const ElementRange own = plan.owned(0, rank);
          int64_t count = 0;
          for (const TensorRange& range : checkpoint_ranges(parameter, own)) {
            EXPECT_EQ(parameter.pieces[range.piece].name, range.name);
            EXPECT_GT(range.elements.count(), 0);
            by_tensor[range.name].push_back(range.elements);
            count += range.elements.count();
          }
          EXPECT_EQ(count, own.count()) << parameter.id;
        }
      }
      EXPECT_EQ(by_tensor.size(), sizes.size());
      for (const auto& [name, ranges] : by_tensor) {
        SCOPED_TRACE(name);
        expect_partition(ranges, 0, sizes[name]);
      }
    }
}

// What optimizer and trainer cut by.
TEST(ShardPlan, OwnsWhatShardsSay) {
  for (auto& parameters : all_families())
    for (model::Parameter& parameter : parameters) {
      parameter.value = at::empty(parameter.shape, at::TensorOptions().device(at::kMeta));
      for (const int64_t parts : {1, 2, 4})
        run_ranks(4, [&](parallel::Group& group) {
          const ShardPlan plan({shard_item(parameter, parameter.shape[0])},
                               {.ranks = 4, .expert_parallel = parts});
          const Shards shards(group, Sharding::kOptimizer, parts);
          for (int64_t rank = 0; rank < 4; ++rank) {
            const ElementRange held = plan.held(0, rank), own = plan.owned(0, rank);
            EXPECT_EQ(shards.held(parameter, rank).first, held.first);
            EXPECT_EQ(shards.held(parameter, rank).last, held.last);
            EXPECT_EQ(shards.range(parameter, rank).first, own.first);
            EXPECT_EQ(shards.range(parameter, rank).last, own.last);
          }
          int64_t end = 0;
          for (const int64_t rank : shards.owners(parameter)) {
            EXPECT_EQ(shards.range(parameter, rank).first, end);
            end = shards.range(parameter, rank).last;
          }
          EXPECT_EQ(end, parameter.value.numel());
        });
    }
}

TEST(ShardPlan, ExpertsOfACheckpointAreCutBetweenThem) {
  const auto config = published_config(kQwen3_5_35B);
  const auto parameters = model::describe_parameters(config, model::published_form(config));
  const auto experts = std::find_if(parameters.begin(), parameters.end(),
                                    [](const auto& each) { return each.is_expert; });
  ASSERT_NE(experts, parameters.end());
  const ShardPlan plan({shard_item(*experts, config.num_experts)},
                       {.ranks = 32, .expert_parallel = 8});
  expect_sound(plan, 0);
  const int64_t expert = plan.items()[0].elements / config.num_experts;
  for (int64_t rank = 0; rank < 32; ++rank) {
    EXPECT_EQ(plan.held(0, rank).first, rank % 8 * 32 * expert);
    EXPECT_EQ(plan.held(0, rank).count(), 32 * expert);
    EXPECT_EQ(plan.owned(0, rank).count(), 8 * expert);
  }
}

TEST(ShardPlan, OfTheLargestModelOwnsEveryElementOnce) {
  const auto config = published_config(kQwen3_5_397B);
  const auto parameters = model::describe_parameters(config, model::published_form(config));
  std::vector<ShardItem> items;
  int64_t elements = 0;
  for (const model::Parameter& parameter : parameters)
    elements += items.emplace_back(shard_item(parameter, config.num_experts)).elements;
  EXPECT_EQ(elements, 396'346'350'336) << "as the published index counts";
  for (const int64_t ranks : {512, 4096}) {
    const ShardPlan plan(items, {.ranks = ranks, .expert_parallel = 64});
    int64_t all = 0, most = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      int64_t own = 0;
      for (size_t item = 0; item < items.size(); ++item) own += plan.owned(item, rank).count();
      all += own;
      most = std::max(most, own);
    }
    EXPECT_EQ(all, elements);
    EXPECT_LT(most, elements / ranks + std::ssize(items) * kBlockElements);
  }
}

}  // namespace
}  // namespace lockstep::train
