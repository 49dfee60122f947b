// Ranks that load parts of a model have all of it together.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "train/gathered_layers.h"

namespace lockstep::train {
namespace {

constexpr float kSpoiled = 1e30F;

/// Spoils what `part` does not load.
void spoil_others(testing::MemorySource& source,
                  const model::ModelWeights& weights,
                  const model::PartToLoad& part) {
  for (const model::Parameter& parameter : weights.parameters()) {
    const auto own = part(parameter);
    if (!own) continue;
    at::Tensor values = parameter.value.detach().clone().view({-1});
    const parallel::ElementRange& range = own->elements;
    values.narrow(0, 0, range.first).fill_(kSpoiled);
    values.narrow(0, range.last, values.numel() - range.last).fill_(kSpoiled);
    for (const model::CheckpointPiece& piece : parameter.pieces)
      source.tensors[piece.name] = piece.view(values);
  }
}

TEST(LoadedParts, MakeTheWholeModelTogether) {
  const Json config = model::new_model_config(
      {.family = model::Family::kQwen3_5Moe, .vocab_size = 64, .dtype = {}, .is_nested = false});
  const model::ModelConfig parsed = model::parse_model_config(config, "tiny");
  const testing::MemorySource tensors(
      testing::lively_tensors(config, model::WeightDtype::kFloat32));
  const model::ModelWeights whole(parsed, tensors, std::nullopt);
  for (const auto& [size, sharding, experts_over] :
       {std::tuple(2, Sharding::kFull, 1), {4, Sharding::kFull, 2}, {4, Sharding::kNone, 4}})
    run_ranks(size, [&, sharding = sharding, over = experts_over](parallel::Group& ranks) {
      SCOPED_TRACE(fmt::format("rank {} of {}, experts over {}", ranks.rank(), ranks.size(), over));
      const at::NoGradGuard no_grad;
      const Shards shards(ranks, sharding, over);
      testing::MemorySource own = tensors;
      spoil_others(own, whole, own_parts(shards));
      model::ModelWeights weights(parsed, own, std::nullopt, model::WeightUse::kAny,
                                  own_parts(shards));
      EXPECT_TRUE(weights.is_loaded_in_part());
      GatheredLayers layers(
          weights, shards,
          over > 1 ? std::make_shared<model::ExpertRanks>(shards.experts(), ranks) : nullptr);
      layers.gather_all();
      for (size_t i = 0; i < whole.parameters().size(); ++i) {
        const model::Parameter& expected = whole.parameters()[i];
        EXPECT_FALSE(std::memcmp(weights.parameters()[i].value.const_data_ptr(),
                                 expected.value.const_data_ptr(), expected.value.nbytes()))
            << expected.id;
      }
      EXPECT_EQ(weights.packed_bytes(), whole.packed_bytes());
    });
}

}  // namespace
}  // namespace lockstep::train
