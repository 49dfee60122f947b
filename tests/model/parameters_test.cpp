// The list of parameters against published counts and names; no tensor is made.
// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "model/weights.h"
#include "tests/model/published_configs.h"
#include "tests/model/tiny_model.h"

namespace lockstep::model {
namespace {

using testing::kFamilies;

std::vector<Parameter> parameters_of(const Json& json, const CheckpointForm& form) {
  return describe_parameters(parse_model_config(json, "test"), form);
}

/// Names and shapes of the checkpoint's tensors.
std::map<std::string, std::vector<int64_t>> tensors_of(const std::vector<Parameter>& parameters) {
  std::map<std::string, std::vector<int64_t>> tensors;
  for (const auto& parameter : parameters)
    for (const auto& piece : parameter.pieces)
      EXPECT_TRUE(tensors.emplace(piece.name, piece.shape).second) << piece.name;
  return tensors;
}

int64_t total(const std::vector<Parameter>& parameters) {
  int64_t sum = 0;
  for (const auto& [name, shape] : tensors_of(parameters)) {
    int64_t numel = 1;
    for (const int64_t size : shape) numel *= size;
    sum += numel;
  }
  return sum;
}

const CheckpointForm kNested{.prefix = "model.language_model.", .experts_grouped = true};

TEST(Parameters, TotalsOfPublishedQwen35) {
  for (const auto& size : testing::kQwen35Sizes) {
    EXPECT_EQ(total(parameters_of(qwen35_config(size), kNested)), size.text_parameters)
        << size.name;
    // The form does not change the count.
    EXPECT_EQ(total(parameters_of(qwen35_config(size), {})), size.text_parameters) << size.name;
  }
}

TEST(Parameters, TotalsOfPublishedQwen3) {
  EXPECT_EQ(total(parameters_of(testing::qwen3_config(), {})), 596'049'920);
  Json config = testing::qwen3_config();
  config.update(Json{{"hidden_size", 2048}, {"intermediate_size", 6144}});
  EXPECT_EQ(total(parameters_of(config, {})), 1'720'574'976);
  config.update(Json{{"hidden_size", 2560},
                     {"intermediate_size", 9728},
                     {"num_hidden_layers", 36},
                     {"num_attention_heads", 32}});
  EXPECT_EQ(total(parameters_of(config, {})), 4'022'468'096);
  config.update(
      Json{{"hidden_size", 4096}, {"intermediate_size", 12288}, {"tie_word_embeddings", false}});
  EXPECT_EQ(total(parameters_of(config, {})), 8'190'735'360);
  EXPECT_EQ(total(parameters_of(testing::qwen3_moe_config(), {})), 30'532'122'624);
}

TEST(Parameters, TensorsOfPublishedQwen35Dense) {
  const auto tensors = tensors_of(parameters_of(qwen35_config(testing::kQwen35Sizes[0]), kNested));
  EXPECT_EQ(tensors.size(), 320u);
  const std::string layer = "model.language_model.layers.";
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(tensors.at("model.language_model.embed_tokens.weight"), (Shape{248320, 1024}));
  EXPECT_EQ(tensors.at("model.language_model.norm.weight"), (Shape{1024}));
  EXPECT_FALSE(tensors.count("lm_head.weight"));
  EXPECT_EQ(tensors.at(layer + "0.input_layernorm.weight"), (Shape{1024}));
  EXPECT_EQ(tensors.at(layer + "0.post_attention_layernorm.weight"), (Shape{1024}));
  EXPECT_EQ(tensors.at(layer + "0.linear_attn.in_proj_qkv.weight"), (Shape{6144, 1024}));
  EXPECT_EQ(tensors.at(layer + "1.linear_attn.in_proj_z.weight"), (Shape{2048, 1024}));
  EXPECT_EQ(tensors.at(layer + "2.linear_attn.in_proj_b.weight"), (Shape{16, 1024}));
  EXPECT_EQ(tensors.at(layer + "4.linear_attn.in_proj_a.weight"), (Shape{16, 1024}));
  EXPECT_EQ(tensors.at(layer + "5.linear_attn.conv1d.weight"), (Shape{6144, 1, 4}));
  EXPECT_EQ(tensors.at(layer + "6.linear_attn.A_log"), (Shape{16}));
  EXPECT_EQ(tensors.at(layer + "8.linear_attn.dt_bias"), (Shape{16}));
  EXPECT_EQ(tensors.at(layer + "9.linear_attn.norm.weight"), (Shape{128}));
  EXPECT_EQ(tensors.at(layer + "22.linear_attn.out_proj.weight"), (Shape{1024, 2048}));
  EXPECT_EQ(tensors.at(layer + "3.self_attn.q_proj.weight"), (Shape{4096, 1024}));
  EXPECT_EQ(tensors.at(layer + "7.self_attn.k_proj.weight"), (Shape{512, 1024}));
  EXPECT_EQ(tensors.at(layer + "11.self_attn.v_proj.weight"), (Shape{512, 1024}));
  EXPECT_EQ(tensors.at(layer + "15.self_attn.o_proj.weight"), (Shape{1024, 2048}));
  EXPECT_EQ(tensors.at(layer + "19.self_attn.q_norm.weight"), (Shape{256}));
  EXPECT_EQ(tensors.at(layer + "23.self_attn.k_norm.weight"), (Shape{256}));
  EXPECT_EQ(tensors.at(layer + "23.mlp.gate_proj.weight"), (Shape{3584, 1024}));
  EXPECT_EQ(tensors.at(layer + "23.mlp.up_proj.weight"), (Shape{3584, 1024}));
  EXPECT_EQ(tensors.at(layer + "23.mlp.down_proj.weight"), (Shape{1024, 3584}));
}

TEST(Parameters, TensorsOfPublishedQwen35Moe) {
  const Json config = qwen35_config(testing::kQwen35Sizes[5]);
  const auto grouped = tensors_of(parameters_of(config, kNested));
  EXPECT_EQ(grouped.size(), 693u);
  const std::string mlp = "model.language_model.layers.39.mlp.";
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(grouped.at("lm_head.weight"), (Shape{248320, 2048}));
  EXPECT_EQ(grouped.at(mlp + "gate.weight"), (Shape{256, 2048}));
  EXPECT_EQ(grouped.at(mlp + "experts.gate_up_proj"), (Shape{256, 1024, 2048}));
  EXPECT_EQ(grouped.at(mlp + "experts.down_proj"), (Shape{256, 2048, 512}));
  EXPECT_EQ(grouped.at(mlp + "shared_expert.gate_proj.weight"), (Shape{512, 2048}));
  EXPECT_EQ(grouped.at(mlp + "shared_expert.down_proj.weight"), (Shape{2048, 512}));
  EXPECT_EQ(grouped.at(mlp + "shared_expert_gate.weight"), (Shape{1, 2048}));
  const auto single = tensors_of(parameters_of(config, {.prefix = "model."}));
  EXPECT_EQ(single.size(), 693u + 40 * (256 * 3 - 2));
  EXPECT_EQ(single.at("model.layers.39.mlp.experts.255.gate_proj.weight"), (Shape{512, 2048}));
  EXPECT_EQ(single.at("model.layers.0.mlp.experts.0.up_proj.weight"), (Shape{512, 2048}));
  EXPECT_EQ(single.at("model.layers.7.mlp.experts.17.down_proj.weight"), (Shape{2048, 512}));
}

TEST(Parameters, LayersThatAreDenseHaveNoExperts) {
  Json config = testing::qwen3_moe_config();
  config["mlp_only_layers"] = {5};
  const auto tensors = tensors_of(parameters_of(config, {}));
  EXPECT_EQ(tensors.at("model.layers.5.mlp.gate_proj.weight"), (std::vector<int64_t>{6144, 2048}));
  EXPECT_FALSE(tensors.count("model.layers.5.mlp.gate.weight"));
  EXPECT_TRUE(tensors.count("model.layers.6.mlp.gate.weight"));
}

TEST(Parameters, PiecesCoverTheirStorageInOrderWithoutGapOrOverlap) {
  for (const Family family : kFamilies) {
    for (const bool grouped : {false, true}) {
      std::set<std::string> ids;
      for (const auto& parameter :
           parameters_of(testing::tiny_config(family), {.experts_grouped = grouped})) {
        EXPECT_TRUE(ids.insert(parameter.id).second) << parameter.id;
        int64_t next = 0, numel = 1;
        for (const auto& piece : parameter.pieces) {
          EXPECT_EQ(piece.offset, next) << piece.name;
          next += piece.numel();
        }
        for (const int64_t size : parameter.shape) numel *= size;
        EXPECT_EQ(next, numel) << parameter.id;
      }
    }
  }
}

TEST(Parameters, IdsShapesAndFlagsDoNotDependOnTheForm) {
  for (const Family family : kFamilies) {
    const auto one = parameters_of(testing::tiny_config(family), {}),
               other = parameters_of(testing::tiny_config(family), kNested);
    ASSERT_EQ(one.size(), other.size());
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].id, other[i].id);
      EXPECT_EQ(one[i].shape, other[i].shape) << one[i].id;
      EXPECT_EQ(one[i].is_matrix, other[i].is_matrix) << one[i].id;
      EXPECT_EQ(one[i].is_norm, one[i].id.ends_with("norm")) << one[i].id;
      EXPECT_EQ(one[i].is_expert, one[i].id.find("experts.gate_up") != std::string::npos ||
                                      one[i].id.find("experts.down") != std::string::npos)
          << one[i].id;
      EXPECT_EQ(one[i].is_matrix, one[i].shape.size() >= 2) << one[i].id;
    }
  }
}

TEST(Parameters, ViewsOfPiecesAreTheStoragesOwnMemory) {
  const at::Tensor storage = at::zeros({6, 2}, at::TensorOptions().dtype(at::kFloat));
  const CheckpointPiece piece{"x", {2, 2}, 4};
  piece.view(storage).fill_(1);
  EXPECT_EQ(storage.sum().item<float>(), 4);
  EXPECT_EQ(storage.narrow(0, 2, 2).sum().item<float>(), 4);
}

}  // namespace
}  // namespace lockstep::model
