// Which tensors the flags freeze.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/tuner.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

using model::Family;
using model::WeightDtype;
using testing::tiny_weights;

/// The checkpoint tensors that are trained, or those that are not.
std::set<std::string> names(const model::ModelWeights& weights, bool trained) {
  std::set<std::string> found;
  for (const auto& parameter : weights.parameters())
    for (const auto& piece : parameter.pieces)
      if (piece.is_trained == trained) found.insert(piece.name);
  return found;
}

class TunerTest : public ::testing::Test {
 protected:
  std::unique_ptr<model::ModelWeights> weights_ =
      tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
};

TEST_F(TunerTest, TrainsAllUnlessTold) {
  choose_trained(*weights_, {});
  EXPECT_TRUE(names(*weights_, false).empty());
}

TEST_F(TunerTest, FreezesByTheBeginningsOfNames) {
  choose_trained(*weights_, {.freeze_parameters = {"model.embed", "model.layers.1.self_attn.q"}});
  EXPECT_EQ(
      names(*weights_, false),
      (std::set<std::string>{"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight",
                             "model.layers.1.self_attn.q_norm.weight"}));
}

TEST_F(TunerTest, FreezesByPatternsAndTrainsExceptions) {
  choose_trained(*weights_, {.freeze_parameters_regex = "layers|embed|head",
                             .trainable_parameters_regex = R"(\.0\.mlp\.(up|gate)_proj)"});
  for (const std::string& name : names(*weights_, true))
    EXPECT_TRUE(name == "model.norm.weight" || name == "model.layers.0.mlp.up_proj.weight" ||
                name == "model.layers.0.mlp.gate_proj.weight")
        << name;
  EXPECT_EQ(names(*weights_, true).size(), 3u);
  choose_trained(*weights_, {.trainable_parameters = {"model.layers.1."}});
  EXPECT_GT(names(*weights_, true).size(), 10u);
}

TEST_F(TunerTest, FreezesAShareFromTheEmbeddingUp) {
  choose_trained(*weights_, {.freeze_parameters_ratio = 1, .trainable_parameters = {"model.norm"}});
  EXPECT_EQ(names(*weights_, true), std::set<std::string>{"model.norm.weight"});
  const auto half = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
  choose_trained(*half, {.freeze_parameters_ratio = 0.5});
  int64_t frozen = 0, all = 0;
  bool is_trained = false;
  for (const auto& parameter : half->parameters())
    for (const auto& piece : parameter.pieces) {
      all += piece.numel();
      EXPECT_FALSE(is_trained && !piece.is_trained) << piece.name;
      is_trained = piece.is_trained;
      if (!piece.is_trained) frozen += piece.numel();
    }
  EXPECT_LE(2 * frozen, all);
  EXPECT_GT(frozen, 0);
}

/// The last parts of the paths that are adapted, and how many there are of each.
std::map<std::string, int> adapted(Family family, const TunerOptions& options) {
  const auto weights = tiny_weights(family, WeightDtype::kFloat32);
  std::map<std::string, int> counts;
  const auto adapter = make_adapter(*weights, options, {}, 1);
  for (const auto& module : adapter->targets())
    ++counts[module.path.substr(module.path.rfind('.') + 1)];
  EXPECT_TRUE(names(*weights, true).empty());
  return counts;
}

TEST_F(TunerTest, AllLinearAreAllButRoutersAndRoutedExperts) {
  const int layers = 4;
  EXPECT_EQ(adapted(Family::kQwen3, {}), (std::map<std::string, int>{{"q_proj", layers},
                                                                     {"k_proj", layers},
                                                                     {"v_proj", layers},
                                                                     {"o_proj", layers},
                                                                     {"gate_proj", layers},
                                                                     {"up_proj", layers},
                                                                     {"down_proj", layers}}));
  const auto moe = adapted(Family::kQwen3Moe, {});
  EXPECT_EQ(moe,
            (std::map<std::string, int>{
                {"q_proj", layers}, {"k_proj", layers}, {"v_proj", layers}, {"o_proj", layers}}));
  const auto hybrid = adapted(Family::kQwen3_5Moe, {});
  for (const char* name : {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj",
                           "shared_expert_gate", "gate_proj", "q_proj"})
    EXPECT_GT(hybrid.count(name), 0u) << name;
  EXPECT_EQ(hybrid.count("gate"), 0u);
  EXPECT_EQ(adapted(Family::kQwen3_5Moe, {.target_modules = {"gate"}}),
            (std::map<std::string, int>{{"gate", layers}}));
}

TEST_F(TunerTest, ExpertsAreAdaptedWhereTheyAreAskedFor) {
  for (const Family family : {Family::kQwen3Moe, Family::kQwen3_5Moe}) {
    const auto linear = adapted(family, {}), all = adapted(family, {.lora_experts = true});
    EXPECT_EQ(all.at("gate_up_proj"), 4);
    EXPECT_EQ(all.at("down_proj") - (linear.contains("down_proj") ? linear.at("down_proj") : 0), 4);
    EXPECT_FALSE(linear.contains("gate_up_proj"));
    EXPECT_EQ(adapted(family, {.target_modules = {"q_proj"},
                               .target_parameters = {"experts.down_proj", "gate.weight"}})
                  .at("down_proj"),
              4);
    EXPECT_EQ(adapted(family, {.exclude_modules = {"experts.gate_up_proj"}, .lora_experts = true})
                  .count("gate_up_proj"),
              0u);
  }
  EXPECT_ERROR(adapted(Family::kQwen3, {.target_parameters = {"experts.down_proj"}}), ConfigError,
               "no-match", "--target_parameters: expected the end of a path (");
  EXPECT_ERROR(adapted(Family::kQwen3Moe, {.target_modules = {"gate_up_proj"}}), ConfigError,
               "no-match", "--target_modules: expected the end of a path (");
}

TEST_F(TunerTest, TargetsAreEndsOfPathsOrAPattern) {
  EXPECT_EQ(adapted(Family::kQwen3, {.target_modules = {".*[01]\\.self_attn\\.[kv]_proj"}}),
            (std::map<std::string, int>{{"k_proj", 2}, {"v_proj", 2}}));
  EXPECT_EQ(adapted(Family::kQwen3, {.target_modules = {"q_proj", "mlp.up_proj"}}),
            (std::map<std::string, int>{{"q_proj", 4}, {"up_proj", 4}}));
  EXPECT_EQ(adapted(Family::kQwen3, {.exclude_modules = {"layers.0.self_attn.q_proj", "up_proj"}})
                .at("q_proj"),
            3);
  // The whole path must match.
  EXPECT_EQ(
      adapted(Family::kQwen3, {.target_regex = R"(model\.layers\.[12]\.self_attn\.[qv]_proj)"}),
      (std::map<std::string, int>{{"q_proj", 2}, {"v_proj", 2}}));
  EXPECT_ERROR(adapted(Family::kQwen3, {.target_regex = "q_proj"}), ConfigError, "no-match",
               "--target_regex: expected a pattern that the whole path of a linear layer matches");
  EXPECT_ERROR(adapted(Family::kQwen3, {.target_modules = {"qproj"}}), ConfigError, "no-match",
               "q_proj");
  EXPECT_ERROR(adapted(Family::kQwen3, {.exclude_modules = {"out_proj"}}), ConfigError, "no-match",
               "--exclude_modules");
  EXPECT_ERROR(adapted(Family::kQwen3, {.target_modules = {"proj"}}), ConfigError, "no-match",
               "got \"proj\"");
}

/// The tensors of modules that are trained whole.
std::set<std::string> saved(Family family, const TunerOptions& options) {
  const auto weights = tiny_weights(family, WeightDtype::kFloat32);
  std::set<std::string> found;
  const auto adapter = make_adapter(*weights, options, {}, 1);
  for (const auto& tensor : adapter->saved()) found.insert(tensor.place.name);
  for (const auto& target : adapter->targets())
    EXPECT_FALSE(found.contains(target.path + ".weight")) << target.path;
  return found;
}

TEST_F(TunerTest, EmbeddingAndHeadAreAdaptedWhereTheyAreNamed) {
  EXPECT_EQ(adapted(Family::kQwen3, {.target_modules = {"embed_tokens", "lm_head", "q_proj"}}),
            (std::map<std::string, int>{{"embed_tokens", 1}, {"lm_head", 1}, {"q_proj", 4}}));
  EXPECT_EQ(adapted(Family::kQwen3_5Moe, {.target_modules = {"lm_head"}, .lora_experts = true}),
            (std::map<std::string, int>{{"lm_head", 1}}));
  EXPECT_EQ(adapted(Family::kQwen3, {.target_modules = {"lm_head", "embed_tokens"},
                                     .modules_to_save = {"embed_tokens"}}),
            (std::map<std::string, int>{{"lm_head", 1}}));
}

TEST_F(TunerTest, ModulesAreSavedByTheEndsOfTheirPathsOrByKind) {
  EXPECT_EQ(saved(Family::kQwen3, {}), std::set<std::string>{});
  EXPECT_EQ(saved(Family::kQwen3, {.modules_to_save = {"all-embedding", "lm_head"}}),
            (std::set<std::string>{"model.embed_tokens.weight", "lm_head.weight"}));
  EXPECT_EQ(saved(Family::kQwen3, {.modules_to_save = {"all-norm"}}).size(), 17u);
  const auto hybrid = saved(Family::kQwen3_5, {.modules_to_save = {"all-norm"}});
  EXPECT_TRUE(hybrid.contains("model.layers.0.linear_attn.norm.weight"));
  EXPECT_TRUE(hybrid.contains("model.norm.weight"));
  // What is trained whole is not adapted.
  EXPECT_EQ(saved(Family::kQwen3, {.modules_to_save = {"o_proj"}}).size(), 4u);
  EXPECT_EQ(adapted(Family::kQwen3, {.modules_to_save = {"layers.0.self_attn", "layers.1.mlp"}}),
            (std::map<std::string, int>{{"q_proj", 3},
                                        {"k_proj", 3},
                                        {"v_proj", 3},
                                        {"o_proj", 4 - 1},
                                        {"gate_proj", 3},
                                        {"up_proj", 3},
                                        {"down_proj", 3}}));
  EXPECT_ERROR(saved(Family::kQwen3, {.modules_to_save = {"embeddings"}}), ConfigError, "no-match",
               "--modules_to_save: expected the end of a module's path (");
  EXPECT_ERROR(saved(Family::kQwen3, {.modules_to_save = {"_proj"}}), ConfigError, "bad-flag",
               "--modules_to_save: expected whole names of layers that are adapted otherwise, got "
               "\"_proj\"");
  EXPECT_ERROR(saved(Family::kQwen3, {.target_modules = {"q_proj"}, .modules_to_save = {"q_proj"}}),
               ConfigError, "no-match", "--target_modules");
}

TEST_F(TunerTest, RefusesWhatFitsNothing) {
  EXPECT_ERROR(choose_trained(*weights_, {.freeze_parameters = {"layers.0"}}), ConfigError,
               "no-match", "--freeze_parameters: expected a tensor of the checkpoint (such as ");
  EXPECT_ERROR(choose_trained(*weights_, {.trainable_parameters_regex = "experts"}), ConfigError,
               "no-match", "got \"experts\", which none matches");
  EXPECT_ERROR(choose_trained(*weights_, {.freeze_parameters_regex = "(layers"}), FormatError,
               "bad-flag", "--freeze_parameters_regex");
  EXPECT_ERROR(choose_trained(*weights_, {.freeze_parameters_regex = "."}), ConfigError,
               "nothing-trained", "got none");
}

}  // namespace
}  // namespace lockstep::grpo
