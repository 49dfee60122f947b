// Adapters: what their files may say, how new ones begin, and that they act where they should.
// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "model/adapter_merge.h"
#include "model/decoder.h"
#include "tests/model/adapted_logits.h"
#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::model {
namespace {

using testing::logits_of;
using testing::MemorySource;
using testing::same_bits;
using testing::tiny_weights;

constexpr const char* kQuery = "base_model.model.model.layers.1.self_attn.q_proj";

Json config_with(const Json& more) {
  Json config{{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}};
  config.update(more);
  return config;
}

/// A file with a pair beside the query projection of layer 1.
MemorySource query_source(const ModelWeights& weights, int64_t rank) {
  MemorySource source;
  for (const AdapterTarget& module : adapter_targets(weights))
    if (module.path == "model.layers.1.self_attn.q_proj") {
      source.tensors[std::string(kQuery) + ".lora_A.weight"] = at::ones({rank, module.in});
      source.tensors[std::string(kQuery) + ".lora_B.weight"] = at::ones({module.out, rank});
    }
  return source;
}

TEST(AdapterConfig, RanksAndScalesFollowPatterns) {
  const AdapterConfig config = parse_adapter_config(
      config_with(Json::parse(R"({"rank_pattern": {"q_proj": 2, "layers\\.1\\..*": 16},
                           "alpha_pattern": {".*\\.down_proj": 1}})")),
      "memory");
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(config.rank_of("model.layers.1.mlp.up_proj"), 16);
  EXPECT_EQ(config.rank_of("model.layers.2.mlp.up_proj"), 4);
  // A name that only ends like a key is another one.
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.other_q_proj"), 4);
  EXPECT_EQ(config.scale_of("model.layers.2.mlp.up_proj"), 2);
  EXPECT_EQ(config.scale_of("model.layers.2.mlp.down_proj"), 0.25);
  EXPECT_EQ(config.scale_of("model.layers.1.mlp.up_proj"), 0.5);
  const AdapterConfig rooted = parse_adapter_config(config_with({{"use_rslora", true}}), "memory");
  EXPECT_EQ(rooted.scale_of("model.layers.2.mlp.up_proj"), 4);
}

TEST(AdapterConfig, RefusesOtherAdaptersByName) {
  const auto refused = [](const Json& more, const char* words) {
    EXPECT_ERROR(parse_adapter_config(config_with(more), "file"), FormatError, "bad-adapter",
                 words);
  };
  refused({{"peft_type", "IA3"}}, "file: peft_type: expected \"LORA\", got \"IA3\"");
  refused({{"use_dora", true}}, "DoRA is not built");
  refused({{"bias", "all"}}, "a bias is not built");
  refused({{"modules_to_save", "lm_head"}}, "modules_to_save: expected a list of names");
  refused({{"modules_to_save", {""}}}, "modules_to_save: expected names of modules");
  refused({{"ensure_weight_tying", 1}}, "ensure_weight_tying: expected true or false, got 1");
  refused({{"target_parameters", "experts.down_proj"}}, "target_parameters: expected a list");
  refused({{"lora_dropout", 1}}, "lora_dropout: expected a number in [0, 1), got 1");
  refused({{"layer_replication", {{0, 4}}}}, "replicated layers");
  refused({{"r", 0}}, "r: expected a rank of at least 1, got 0");
  refused({{"r", "8"}}, "r: expected a rank");
  refused({{"lora_alpha", nullptr}, {"rank_pattern", {{"q_proj", -1}}}}, "rank_pattern");
  refused({{"use_rslora", 1}}, "use_rslora: expected true or false, got 1");
  EXPECT_ERROR(parse_adapter_config(Json::array(), "file"), FormatError, "bad-adapter",
               "expected an object");
}

TEST(Adapter, RefusesTensorsThatDoNotFit) {
  const auto weights = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
  const AdapterConfig config = parse_adapter_config(config_with(Json::object()), "file");
  const auto refused = [&](const MemorySource& source, const std::string& words) {
    EXPECT_ERROR(Adapter(*weights, config, source), FormatError, "bad-adapter", words);
  };
  const MemorySource good = query_source(*weights, 4);
  EXPECT_EQ(Adapter(*weights, config, good).targets().size(), 1u);
  refused(MemorySource(), "expected at least one pair of tensors, got none");
  refused(query_source(*weights, 5), std::string(kQuery) + ".lora_A.weight: expected shape [4, ");
  MemorySource source = good;
  source.tensors.erase(std::string(kQuery) + ".lora_B.weight");
  refused(source, ".lora_B.weight: expected both halves of the pair, got only the other one");
  source = good;
  source.tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = at::ones({1});
  refused(
      source,
      "layers.9.self_attn.q_proj.lora_A.weight: expected a linear layer or experts of the model");
  source = good;
  source.tensors["base_model.model.model.layers.0.mlp.experts.lora_A.weight"] = at::ones({1});
  refused(source, "expected one of gate_up_proj and down_proj among the target_parameters");
  source = good;
  source.tensors["base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight"] =
      at::ones({1});
  refused(source, "expected one pair for each layer, got one as ");
  source = good;
  source.tensors[std::string(kQuery) + ".lora_magnitude_vector"] = at::ones({1});
  refused(source, "DoRA is not built");
  // Of the embedding the halves have other names, and copies of its values a pair beside them.
  const std::string embedding = "base_model.model.model.embed_tokens";
  source = good;
  source.tensors[embedding + ".lora_A.weight"] = at::ones({1});
  refused(source, "expected lora_embedding_A and lora_embedding_B for the embedding");
  source = good;
  source.tensors[std::string(kQuery) + ".lora_embedding_A"] = at::ones({1});
  refused(source, "expected lora_embedding_A and lora_embedding_B for the embedding");
  source = good;
  source.tensors[embedding + ".lora_embedding_A"] = at::ones({4, 7});
  source.tensors[embedding + ".lora_embedding_B"] = at::ones({4, 7});
  refused(source, embedding + ".lora_embedding_A: expected shape [4, 199] by the model");
  source = good;
  source.tensors[embedding + ".base_layer.weight"] = weights->head().values().detach();
  refused(source, embedding + ".base_layer.weight: expected a pair beside it, got none");
  source = good;
  source.tensors[std::string(kQuery) + ".base_layer.weight"] = at::ones({1});
  refused(source, "q_proj.base_layer.weight: expected a tensor of the embedding or the head");
  source = good;
  source.tensors["base_model.model.lm_head.weight"] = at::ones({1});
  refused(source, "base_model.model.lm_head.weight: expected a tensor base_model.model.");
}

TEST(Adapter, StandsBesideEachLinearLayerOfEachFamilyAndEmbeddingAndHead) {
  for (const Family family : testing::kFamilies) {
    const auto weights = tiny_weights(family, WeightDtype::kFloat32);
    const at::Tensor base = logits_of(*weights, nullptr);
    const auto modules = adapter_targets(*weights);
    std::set<std::string> kinds;
    for (const AdapterTarget& module : modules) {
      Adapter adapter({module}, {.rank = 2, .alpha = 4}, /*seed=*/1);
      // A new one changes nothing, and its A is drawn.
      EXPECT_TRUE(same_bits(logits_of(*weights, &adapter), base)) << module.path;
      // The embedding's B is.
      const size_t drawn = module.part == AdapterTarget::Part::kEmbedding ? 1 : 0;
      EXPECT_GT(adapter.parameters()[drawn].value.abs().min().item<float>(), 0) << module.path;
      {
        const at::NoGradGuard no_grad;
        adapter.parameters()[1 - drawn].value.fill_(0.5);
      }
      adapter.pack();
      EXPECT_FALSE(same_bits(logits_of(*weights, &adapter), base)) << module.path;
      kinds.insert(module.path.substr(module.path.rfind('.') + 1));
    }
    EXPECT_EQ(kinds.count("gate") == 1, weights->config().num_experts > 0);
    EXPECT_EQ(kinds.count("embed_tokens") + kinds.count("lm_head"), 2u);
  }
}

/// The merged model is another way to the same sums, also beside experts.
TEST(Adapter, EqualsItsMergedModel) {
  for (const Family family : testing::kFamilies) {
    const auto weights = tiny_weights(family, WeightDtype::kFloat32),
               merged = tiny_weights(family, WeightDtype::kFloat32);
    std::vector<AdapterTarget> modules = adapter_targets(*weights);
    std::erase_if(modules, [](const AdapterTarget& module) {
      return module.is_router || module.part != AdapterTarget::Part::kLayer;
    });
    Adapter adapter(modules, {.rank = 3, .alpha = 1.5}, 7);
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < modules.size(); ++i) {
      const at::Tensor a = adapter.parameters()[2 * i].value;
      at::Tensor b = adapter.parameters()[2 * i + 1].value;
      b.uniform_(-0.3, 0.3);
      const at::Tensor weight = merged->parameters()[static_cast<size_t>(modules[i].weight)].value;
      const at::Tensor own =
          modules[i].num_experts ? weight : weight.narrow(0, modules[i].first_row, modules[i].out);
      own.add_(at::matmul(b.to(at::kDouble), a.to(at::kDouble)).mul(0.5).to(at::kFloat));
    }
    adapter.pack();
    merged->pack();
    const at::Tensor expected = logits_of(*merged, nullptr), got = logits_of(*weights, &adapter);
    EXPECT_LT(got.sub(expected).abs().max().item<float>(), 1e-3) << enum_name(family);
    EXPECT_GT(got.sub(logits_of(*weights, nullptr)).abs().max().item<float>(), 0.05);
  }
}

/// Of a model with one matrix for both, each has its own beside the pairs.
TEST(Adapter, OfEmbeddingAndHeadEqualsItsMergedModel) {
  for (const char* parts : {"embed_tokens", "lm_head", ""}) {
    const auto weights = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
    std::vector<AdapterTarget> modules = testing::modules_with(*weights, parts);
    std::erase_if(modules, [](const AdapterTarget& module) {
      return module.part == AdapterTarget::Part::kLayer;
    });
    const auto adapter = testing::lively_adapter(modules, {.rank = 3, .alpha = 1.5}, 7);
    const MergedWeights merging(weights->parameters(), *adapter);
    EXPECT_TRUE(merging.unties_head());
    Json config = testing::tiny_config(Family::kQwen3);
    config["tie_word_embeddings"] = false;
    MemorySource source;
    weights->for_each_tensor([&](const std::string& name, const at::Tensor& value) {
      source.tensors[name] = value.clone();
    });
    source.tensors["lm_head.weight"] = weights->head().values().detach().clone();
    for (auto& [name, value] : source.tensors)
      if (merging.contains(name)) value = merging.merge(name, value, at::kFloat);
    const ModelWeights merged(parse_model_config(config, "tiny"), source, std::nullopt);
    const at::Tensor expected = logits_of(merged, nullptr),
                     got = logits_of(*weights, adapter.get());
    EXPECT_LT(got.sub(expected).abs().max().item<float>(), 1e-4) << parts;
    EXPECT_GT(got.sub(logits_of(*weights, nullptr)).abs().max().item<float>(), 0.05) << parts;
  }
}

/// Sequences of one batch have each their own adapter, or none.
TEST(Adapter, ASequenceDoesNotSeeTheAdaptersOfOthers) {
  for (const Family family : testing::kFamilies) {
    const auto weights = tiny_weights(family, WeightDtype::kFloat32);
    const auto one = testing::lively_adapter(testing::modules_with(*weights, ""), {.rank = 2}, 1),
               other = testing::lively_adapter(testing::modules_with(*weights, "q_proj"),
                                               {.rank = 5, .alpha = 16}, 2);
    const at::NoGradGuard no_grad;
    const std::vector<std::pair<const Adapter*, int64_t>> sequences{
        {one.get(), 3}, {nullptr, 2}, {other.get(), 4}, {one.get(), 1}, {nullptr, 5}};
    ForwardBatch batch{.ids = at::arange(5, 20)};
    AdapterRows rows;
    for (const auto& [adapter, count] : sequences) {
      batch.sequences.append(count);
      rows.append(adapter, count);
    }
    batch.positions = positions_of(batch.sequences);
    batch.adapters = rows.take();
    ASSERT_EQ(batch.adapters.size(), 2u);
    const auto logits = [&](const ForwardBatch& forward) {
      return ops::vocabulary_logits(Decoder(*weights).forward(forward),
                                    adapted_head(weights->head(), forward.adapters));
    };
    const at::Tensor all = logits(batch);
    int64_t first = 0;
    for (const auto& [adapter, count] : sequences) {
      ForwardBatch own{.ids = batch.ids.narrow(0, first, count)};
      own.sequences.append(count);
      own.positions = positions_of(own.sequences);
      const at::Tensor without = logits(own);
      AdapterRows all_rows;
      all_rows.append(adapter, count);
      own.adapters = all_rows.take();
      const at::Tensor alone = logits(own);
      EXPECT_TRUE(same_bits(all.narrow(0, first, count), alone)) << enum_name(family) << first;
      EXPECT_EQ(same_bits(alone, without), adapter == nullptr);
      first += count;
    }
  }
}

TEST(Adapter, ANewOneIsAFunctionOfItsSeedAndPaths) {
  const auto weights = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
  const auto modules = adapter_targets(*weights);
  const Adapter all(modules, {}, 3), one({modules[4]}, {}, 3), other({modules[4]}, {}, 4);
  EXPECT_TRUE(same_bits(all.parameters()[8].value, one.parameters()[0].value));
  EXPECT_FALSE(same_bits(other.parameters()[0].value, one.parameters()[0].value));
  // Uniform below 1 / sqrt(I): its spread is that over the root of 3.
  const at::Tensor a = all.parameters()[8].value;
  const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
  EXPECT_LE(a.abs().max().item<float>(), bound);
  EXPECT_NEAR(a.std().item<float>() * std::sqrt(3.0) / bound, 1, 0.15);
  const Adapter normal(modules, {}, 3, /*is_gaussian=*/true);
  EXPECT_NEAR(normal.parameters()[8].value.std().item<float>(), 1.0 / 8, 0.02);
}

}  // namespace
}  // namespace lockstep::model
