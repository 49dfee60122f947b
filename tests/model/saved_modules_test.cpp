// Modules that an adapter has whole: which ones a name means, what weights share with their base,
// and what files may say.
// SPDX-License-Identifier: Apache-2.0
#include "model/saved_modules.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "model/adapter.h"
#include "model/adapter_merge.h"
#include "model/adapter_names.h"
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

std::unique_ptr<ModelWeights> untied_weights(Family family, WeightDtype dtype) {
  Json config = testing::tiny_config(family, dtype);
  config["tie_word_embeddings"] = false;
  return std::make_unique<ModelWeights>(parse_model_config(config, "tiny"),
                                        MemorySource(testing::lively_tensors(config, dtype)),
                                        std::nullopt);
}

std::set<std::string> saved_names(const ModelWeights& weights, std::vector<std::string> modules) {
  std::set<std::string> names;
  for (const SavedTensor& saved :
       new_saved_tensors(weights.parameters(), {.modules_to_save = std::move(modules)}))
    names.insert(saved.place.name);
  return names;
}

/// An adapter of the query projections that saves modules.
std::unique_ptr<Adapter> saving_adapter(const ModelWeights& weights,
                                        const std::vector<std::string>& modules) {
  AdapterConfig config{.rank = 2, .modules_to_save = modules};
  auto adapter = testing::lively_adapter(testing::modules_with(weights, "q_proj"), config, 1);
  adapter->saved() = new_saved_tensors(weights.parameters(), config);
  return adapter;
}

/// The bits of all tensors of a model.
std::vector<at::Tensor> copy_of(const ModelWeights& weights) {
  std::vector<at::Tensor> values;
  for (const Parameter& parameter : weights.parameters())
    values.push_back(parameter.value.detach().clone());
  return values;
}

TEST(SavedModules, NamesEndPathsAsInPeft) {
  const auto dense = tiny_weights(Family::kQwen3, WeightDtype::kFloat32),
             moe = tiny_weights(Family::kQwen3_5Moe, WeightDtype::kFloat32);
  EXPECT_EQ(saved_names(*dense, {"embed_tokens"}),
            std::set<std::string>{"model.embed_tokens.weight"});
  EXPECT_EQ(saved_names(*dense, {"lm_head"}), std::set<std::string>{"lm_head.weight"});
  EXPECT_EQ(saved_names(*dense, {"layers.1.mlp"}),
            (std::set<std::string>{"model.layers.1.mlp.gate_proj.weight",
                                   "model.layers.1.mlp.up_proj.weight",
                                   "model.layers.1.mlp.down_proj.weight"}));
  // Each of four layers has four norms whose names end so.
  EXPECT_EQ(saved_names(*dense, {"norm"}).size(), 17u);
  EXPECT_EQ(saved_names(*moe, {"layers.0.mlp.experts"}),
            (std::set<std::string>{"model.layers.0.mlp.experts.gate_up_proj",
                                   "model.layers.0.mlp.experts.down_proj"}));
  EXPECT_TRUE(
      saved_names(*moe, {"layers.0.linear_attn"}).contains("model.layers.0.linear_attn.A_log"));
  EXPECT_TRUE(saved_names(*dense, {"nothing"}).empty());
  EXPECT_TRUE(is_saved_by("model.layers.0.input_layernorm", "norm"));
  EXPECT_FALSE(is_saved_by_parts("model.layers.0.input_layernorm", "norm"));
  EXPECT_TRUE(is_saved_by_parts("model.layers.0.mlp.up_proj", "mlp"));
}

/// The weights with saved modules are the model in which those tensors have these values.
TEST(SavedModules, ActInThePlaceOfTheModelsAndShareTheRest) {
  for (const Family family : testing::kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      const auto base = untied_weights(family, dtype), other = untied_weights(family, dtype);
      const auto before = copy_of(*base);
      const auto adapter = saving_adapter(*base, {"k_proj", "norm", "embed_tokens", "lm_head",
                                                  "layers.1.mlp", "conv1d", "dt_bias"});
      const auto weights = make_saved_weights(*base, *adapter);
      EXPECT_TRUE(same_bits(logits_of(*weights, adapter.get()), logits_of(*base, adapter.get())));
      const at::NoGradGuard no_grad;
      std::set<size_t> own;
      for (SavedTensor& saved : adapter->saved()) {
        const size_t index = *saved.place.parameter;
        own.insert(index);
        saved.value.mul_(1.25);
        const Parameter& twin = other->parameters()[index];
        saved.place.view(twin, twin.value).mul_(1.25);
        EXPECT_TRUE(weights->parameters()[index].is_trained());
      }
      weights->pack();
      other->pack();
      EXPECT_TRUE(same_bits(logits_of(*weights, adapter.get()), logits_of(*other, adapter.get())));
      EXPECT_FALSE(same_bits(logits_of(*weights, adapter.get()), logits_of(*base, adapter.get())));
      for (size_t i = 0; i < before.size(); ++i) {
        EXPECT_TRUE(same_bits(base->parameters()[i].value, before[i]));
        EXPECT_EQ(weights->parameters()[i].value.is_same(base->parameters()[i].value),
                  !own.contains(i))
            << base->parameters()[i].id;
      }
      const auto& theirs = base->layers()[0].attention ? base->layers()[0].attention->o
                                                       : base->layers()[0].delta->out;
      const auto& ours = weights->layers()[0].attention ? weights->layers()[0].attention->o
                                                        : weights->layers()[0].delta->out;
      EXPECT_TRUE(ours.packed.is_same(theirs.packed));
      EXPECT_LT(weights->bytes_apart_from(*base), base->canonical_bytes() + base->packed_bytes());
      EXPECT_GT(weights->bytes_apart_from(*base), 0);
    }
}

/// A piece of a fused parameter is trained, the others are not.
TEST(SavedModules, OnlyTheSavedPieceIsTrained) {
  const auto base = tiny_weights(Family::kQwen3, WeightDtype::kFloat32);
  base->freeze();
  const auto adapter = saving_adapter(*base, {"layers.1.self_attn.k_proj"});
  const auto weights = make_saved_weights(*base, *adapter);
  std::set<std::string> trained;
  for (const Parameter& parameter : weights->parameters())
    for (const CheckpointPiece& piece : parameter.pieces)
      if (piece.is_trained) trained.insert(piece.name);
  EXPECT_EQ(trained, std::set<std::string>{"model.layers.1.self_attn.k_proj.weight"});
  for (const Parameter& parameter : base->parameters()) EXPECT_FALSE(parameter.is_trained());
}

/// Where the head is the embedding, PEFT copies the module that is named, and the other one stays.
TEST(SavedModules, ATiedHeadIsSavedOnItsOwn) {
  const auto base = tiny_weights(Family::kQwen3, WeightDtype::kFloat32, 1, WeightUse::kFrozen);
  ASSERT_TRUE(base->config().tie_word_embeddings);
  const at::NoGradGuard no_grad;
  for (const bool has_embedding : {false, true})
    for (const bool has_head : {false, true}) {
      std::vector<std::string> modules{"layers.0.input_layernorm"};
      if (has_embedding) modules.emplace_back("embed_tokens");
      if (has_head) modules.emplace_back("lm_head");
      const auto adapter = saving_adapter(*base, modules);
      const auto weights = make_saved_weights(*base, *adapter);
      for (SavedTensor& saved : adapter->saved())
        if (saved.place.shape.size() == 2) saved.value.mul_(saved.place.name[0] == 'l' ? 2 : 3);
      weights->pack();
      EXPECT_EQ(weights->config().tie_word_embeddings, !has_embedding && !has_head);
      const auto twin = untied_weights(Family::kQwen3, WeightDtype::kFloat32);
      for (const Parameter& parameter : twin->parameters()) {
        const at::Tensor table = base->head().values();
        if (parameter.id == "embedding") parameter.value.copy_(table.mul(has_embedding ? 3 : 1));
        if (parameter.id == "head") parameter.value.copy_(table.mul(has_head ? 2 : 1));
      }
      twin->pack();
      EXPECT_TRUE(same_bits(logits_of(*weights, adapter.get()), logits_of(*twin, adapter.get())));
      EXPECT_EQ(weights->head().weight.is_same(base->head().weight), !has_head);
    }
}

/// A file's tensors as PEFT has them: those of the adapter.
MemorySource file_of(const Adapter& adapter) {
  MemorySource source;
  for (const Parameter& parameter : adapter.parameters())
    source.tensors[parameter.id] = parameter.value.detach();
  for (const SavedTensor& saved : adapter.saved())
    source.tensors[std::string(kFilePrefix) + saved.place.name] = saved.value.clone();
  return source;
}

class SavedFile : public ::testing::Test {
 protected:
  SavedFile() { take({"embed_tokens", "norm"}); }
  void take(const std::vector<std::string>& modules) {
    adapter_ = saving_adapter(*base_, modules);
    weights_ = make_saved_weights(*base_, *adapter_);
    const at::NoGradGuard no_grad;
    for (SavedTensor& saved : adapter_->saved()) saved.value.add_(0.125);
    weights_->pack();
    source_ = file_of(*adapter_);
  }
  void refused(const std::string& words) {
    EXPECT_ERROR(Adapter(*base_, adapter_->config(), source_), FormatError, "bad-adapter", words);
  }

  std::unique_ptr<ModelWeights> base_ =
      tiny_weights(Family::kQwen3, WeightDtype::kFloat32, 1, WeightUse::kFrozen);
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<ModelWeights> weights_;
  MemorySource source_;
};

TEST_F(SavedFile, IsReadWhicheverClassItsNamesAreOf) {
  const at::Tensor expected = logits_of(*weights_, adapter_.get());
  Adapter same(*base_, adapter_->config(), source_);
  EXPECT_TRUE(same_bits(logits_of(*make_saved_weights(*base_, same), &same), expected));
  MemorySource nested;
  for (const auto& [name, value] : source_.tensors) {
    std::string other = name;
    nested.tensors[other.insert(kFilePrefix.size() + 6, "language_model.")] = value;
  }
  AdapterConfig config = adapter_->config();
  config.modules_to_save = {"language_model.embed_tokens", "norm"};
  Adapter other(*base_, config, nested);
  EXPECT_TRUE(same_bits(logits_of(*make_saved_weights(*base_, other), &other), expected));
}

TEST_F(SavedFile, StaysTiedWhereItSaysSo) {
  take({"embed_tokens"});
  AdapterConfig config = adapter_->config();
  config.ensure_weight_tying = true;
  const std::string head = std::string(kFilePrefix) + "lm_head.weight",
                    embedding = std::string(kFilePrefix) + "model.embed_tokens.weight";
  source_.tensors[head] = source_.tensors.at(embedding);
  Adapter tied(*base_, config, source_);
  const auto weights = make_saved_weights(*base_, tied);
  EXPECT_TRUE(weights->config().tie_word_embeddings);
  EXPECT_EQ(weights->parameters().size(), base_->parameters().size());
  EXPECT_FALSE(same_bits(logits_of(*weights, &tied), logits_of(*weights_, adapter_.get())));
  source_.tensors[head] = base_->head().values();
  EXPECT_ERROR(Adapter(*base_, config, source_), FormatError, "bad-adapter",
               "lm_head.weight: expected the embedding's values, since ensure_weight_tying");
}

TEST_F(SavedFile, IsRefusedWhereItDoesNotFit) {
  const std::string norm = std::string(kFilePrefix) + "model.norm.weight";
  source_.tensors.erase(norm);
  refused(norm + ": expected a tensor of the modules_to_save of adapter_config.json, got none");
  source_.tensors[norm] = at::ones({3});
  refused(norm + ": expected shape [");
  source_.tensors[norm] = at::ones_like(base_->final_norm()).to(at::kInt);
  refused(norm + ": expected F32, BF16 or F16, got Int");
  source_ = file_of(*adapter_);
  source_.tensors[std::string(kFilePrefix) + "model.layers.0.mlp.up_proj.weight"] = at::ones({1});
  refused(
      "up_proj.weight: expected a pair lora_A, lora_B, or a tensor of the modules_to_save "
      "[embed_tokens, norm]");
  take({"layers.1.self_attn"});
  refused(
      "layers.1.self_attn.q_proj: expected a pair, or a module that is trained whole, got both");
}

TEST_F(SavedFile, IsMergedInThePlaceOfTheModels) {
  const MergedWeights merged(base_->parameters(), *adapter_);
  EXPECT_TRUE(merged.unties_head());
  for (size_t i = 0; i < base_->parameters().size(); ++i)
    for (const CheckpointPiece& piece : base_->parameters()[i].pieces) {
      const bool is_saved =
          saved_names(*base_, adapter_->config().modules_to_save).contains(piece.name);
      EXPECT_EQ(merged.contains(piece.name),
                is_saved || piece.name.find("q_proj") != piece.name.npos)
          << piece.name;
      if (!is_saved) continue;
      const at::Tensor own = piece.view(base_->values(i));
      EXPECT_TRUE(same_bits(merged.merge(piece.name, own, at::kFloat), own.add(0.125)));
    }
}

}  // namespace
}  // namespace lockstep::model
