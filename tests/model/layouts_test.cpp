// Every format over generated models: proofs of layouts, round trips between all pairs, and formulas of the specification.
// SPDX-License-Identifier: Apache-2.0
#include "model/layouts/layouts.h"

#include <gtest/gtest.h>

#include "layout/execute.h"
#include "layout/plan.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_tensors.h"

namespace lockstep::model {
namespace {

using layout::ElementType;
using layout::Layout;
using layout::MemoryTensors;

/// Sizes of a model; pairwise different unless a case says otherwise.
struct Sizes {
  Family family = Family::kQwen3_5Moe;
  int64_t vocab = 103, hidden = 24, layers = 8;
  int64_t groups = 8, members = 2, head_dim = 6;
  int64_t key_heads = 8, values = 3, key_dim = 5, value_dim = 7, taps = 4;
  int64_t width = 40, experts = 16, expert_width = 32, shared_width = 48;
  bool is_tied = false;
  WeightDtype dtype = WeightDtype::kBFloat16;
};

ModelConfig config_of(const Sizes& s) {
  ModelConfig config;
  config.family = s.family;
  config.vocab_size = s.vocab;
  config.hidden_size = s.hidden;
  config.num_hidden_layers = s.layers;
  config.num_attention_heads = s.groups * s.members;
  config.num_key_value_heads = s.groups;
  config.head_dim = s.head_dim;
  config.tie_word_embeddings = s.is_tied;
  config.dtype = s.dtype;
  config.is_nested = config.is_qwen3_5();
  const bool is_moe = s.family == Family::kQwen3Moe || s.family == Family::kQwen3_5Moe;
  for (int64_t i = 0; i < s.layers; ++i) {
    config.mixers.push_back(config.is_qwen3_5() && i % 4 != 3 ? MixerKind::kGatedDelta
                                                              : MixerKind::kAttention);
    config.moe_layers.push_back(is_moe);
  }
  if (config.is_qwen3_5()) {
    config.linear_num_key_heads = s.key_heads;
    config.linear_num_value_heads = s.key_heads * s.values;
    config.linear_key_head_dim = s.key_dim;
    config.linear_value_head_dim = s.value_dim;
    config.linear_conv_kernel_dim = s.taps;
  }
  if (is_moe) {
    config.num_experts = s.experts;
    config.num_experts_per_tok = 2;
    config.moe_intermediate_size = s.expert_width;
    if (config.is_qwen3_5()) config.shared_expert_intermediate_size = s.shared_width;
  } else {
    config.intermediate_size = s.width;
  }
  return config;
}

LogicalModel model_of(const Sizes& sizes) {
  const ModelConfig config = config_of(sizes);
  Extras extras;
  if (config.is_qwen3_5()) {
    extras.num_mtp_layers = 1;
    extras.carried = {{"model.visual.patch_embed.proj.weight", {6, 3, 2, 4, 4}, ElementType::kF16},
                      {"model.visual.patch_embed.proj.bias", {6}, ElementType::kF32}};
  }
  return logical_model(config, extras, published_types(config));
}

Layout layout_of(const LogicalModel& model, const std::string& name) {
  return make_layout(model, published_form(model.config), LayoutName::parse(name, "test"));
}

/// Every element another number, as far as its bytes go; in the delta rule's norm such as survive w - 1.
MemoryTensors numbered(const LogicalModel& model, const Layout& layout) {
  MemoryTensors tensors(layout);
  uint64_t next = 1;
  for (int64_t r = 0; r < layout.num_ranks(); ++r) {
    for (size_t t = 0; t < layout.rank(r).size(); ++t) {
      std::vector<std::byte>& bytes = tensors.bytes(r, static_cast<int64_t>(t));
      const auto& physical = layout.rank(r)[t];
      const auto width = static_cast<size_t>(element_bytes(physical.type));
      const bool is_norm = (*model.tensors)[physical.boxes[0].tensor].id.ends_with("delta.norm");
      for (size_t i = 0; i < bytes.size(); i += width, ++next) {
        const uint64_t bits = is_norm ? 0x3F800000 + (next % 64 << 16) : next * 0x9E3779B97F4A7C15;
        std::memcpy(bytes.data() + i, &bits, width);
      }
    }
  }
  return tensors;
}

struct Converted {
  MemoryTensors tensors;
  std::vector<Digest> digests;
};

Converted convert(const Layout& from,
                  const Layout& to,
                  MemoryTensors& source,
                  int64_t bucket_bytes = 4096,
                  bool lends_memory = false) {
  Converted result{MemoryTensors(to, lends_memory), {}};
  const layout::Plan plan = make_plan(from, to, bucket_bytes);
  result.digests = execute(from, to, plan, source, result.tensors,
                           {.bucket_bytes = bucket_bytes, .num_threads = 2});
  return result;
}

/// Layouts that fit `sizes`' defaults, every format and every key.
std::vector<std::string> names_for(const LogicalModel& model) {
  std::vector<std::string> names{"checkpoint", "checkpoint:experts=grouped,prefix=flat",
                                 "checkpoint:experts=separate", "hf-runtime"};
  for (int world = 1; world <= 8; ++world) names.push_back(fmt::format("fsdp2:world={}", world));
  for (const int tp : {1, 2, 4, 8}) {
    names.push_back(fmt::format("vllm:tp={}", tp));
    names.push_back(fmt::format("vllm-ascend:tp={},state=processed", tp));
    names.push_back(fmt::format("lockstep:tp={}", tp));
    names.push_back(fmt::format("megatron:tp={},pp={},gate=group", tp, 8 / tp));
  }
  names.push_back("vllm:tp=2,dp=2");
  names.push_back("megatron:tp=2,pp=4");
  if (model.config.linear_num_key_heads) {
    names.push_back("qwen3-next");
    for (const char* gdn : {"fused", "decoupled", "part", "hf"})
      for (const char* norm : {"plain", "centred"})
        names.push_back(fmt::format("megatron:tp=4,gdn={},out_norm={}", gdn, norm));
  }
  if (model.config.num_experts) {
    for (const int ep : {2, 3, 5, 6, 7, 8}) {
      names.push_back(fmt::format("vllm:ep={}", ep));
      names.push_back(fmt::format("vllm-ascend:ep={},state=processed", ep));
      names.push_back(fmt::format("lockstep:tp=2,ep={}", ep));
    }
    names.push_back("vllm:tp=2,dp=3,ep=6");
    names.push_back("megatron:tp=2,ep=4,etp=1");
    names.push_back("megatron:tp=2,pp=2,ep=4,etp=2,gate=group,gdn=part");
    names.push_back("megatron:tp=1,ep=2,etp=8");
  }
  return names;
}

class Layouts : public ::testing::TestWithParam<Sizes> {};

TEST_P(Layouts, RoundTripIsIdentityForEveryPair) {
  const LogicalModel model = model_of(GetParam());
  const Layout checkpoint = layout_of(model, "checkpoint");
  MemoryTensors original = numbered(model, checkpoint);
  const auto names = names_for(model);
  std::vector<Layout> layouts;
  std::vector<MemoryTensors> direct;
  std::vector<Digest> digests;
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    layouts.push_back(layout_of(model, name));
    Converted there = convert(checkpoint, layouts.back(), original);
    if (digests.empty()) digests = there.digests;
    EXPECT_EQ(there.digests, digests);
    EXPECT_EQ(layout::digest_tensors(layouts.back(), there.tensors, 2), digests);
    EXPECT_TRUE(convert(layouts.back(), checkpoint, there.tensors).tensors == original);
    direct.push_back(std::move(there.tensors));
  }
  // checkpoint -> A -> B is checkpoint -> B, for one of each format and convention on either side.
  const auto stands_for_many = [](const std::string& name) {
    for (const char* many : {"world=3", "world=7", "tp=2,pp=4,gate", "tp=8", "tp=4,gdn", "ep=3",
                             "etp", "checkpoint", "hf-runtime", "qwen3-next"})
      if (name.find(many) != std::string::npos) return true;
    return false;
  };
  for (size_t a = 0; a < names.size(); ++a)
    for (size_t b = 0; b < names.size(); ++b) {
      if (!stands_for_many(names[a]) || !stands_for_many(names[b])) continue;
      Converted converted = convert(layouts[a], layouts[b], direct[a], 1 << 20, a % 2 == 0);
      ASSERT_TRUE(converted.tensors == direct[b]) << names[a] << " to " << names[b];
      ASSERT_EQ(converted.digests, digests) << names[a] << " to " << names[b];
    }
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    Layouts,
    ::testing::Values(
        Sizes{.family = Family::kQwen3, .layers = 8, .is_tied = true},
        Sizes{.family = Family::kQwen3Moe, .layers = 8, .dtype = WeightDtype::kFloat32},
        Sizes{.family = Family::kQwen3_5, .layers = 8},
        Sizes{.family = Family::kQwen3_5Moe, .layers = 8},
        // Sizes that meet: 2F = D, F = D, as many value heads as key heads, experts as many as rows.
        Sizes{.hidden = 64, .expert_width = 32},
        Sizes{.hidden = 32, .expert_width = 32},
        Sizes{.hidden = 16,
              .values = 1,
              .key_dim = 4,
              .value_dim = 4,
              .width = 16,
              .expert_width = 16,
              .shared_width = 16},
        // Ranks beyond key-value heads: heads of a group on several ranks.
        Sizes{.family = Family::kQwen3_5, .groups = 2, .members = 8}));

}  // namespace
}  // namespace lockstep::model
