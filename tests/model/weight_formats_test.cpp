// Every format over generated models: proofs of layouts, and round trips between all pairs.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <optional>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "layout/chunk_digests.h"
#include "model/weight_formats/loader_names.h"
#include "model/weight_formats/make_layout.h"
#include "tests/model/sized_model.h"
#include "tests/support/expect_close.h"

namespace lockstep::model {
namespace {

using layout::Layout;
using layout::MemoryTensors;
using testing::convert;
using testing::Converted;
using testing::layout_of;
using testing::model_of;
using testing::numbered;
using testing::Sizes;

/// Layouts that fit `sizes`' defaults, every format and every key.
std::vector<std::string> names_for(const LogicalModel& model) {
  std::vector<std::string> names{"checkpoint", "checkpoint:experts=grouped,prefix=flat",
                                 "checkpoint:experts=separate", "hf-runtime"};
  for (int world = 1; world <= 8; ++world) names.push_back(fmt::format("fsdp2:world={}", world));
  for (const int tp : {1, 2, 4, 8}) {
    names.push_back(fmt::format("vllm:tp={}", tp));
    names.push_back(fmt::format("vllm-ascend:tp={},state=processed", tp));
    names.push_back(fmt::format("lockstep:tp={}", tp));
    names.push_back(fmt::format("megatron:tp={},pp={}", tp, 8 / tp));
    if (model.config.is_qwen3_5()) names.back() += ",gate=group";
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
    names.push_back("megatron:tp=2,pp=2,ep=4,etp=2");
    if (model.config.is_qwen3_5()) names.back() += ",gate=group,gdn=part";
    names.push_back("megatron:tp=1,ep=2,etp=8");
  }
  return names;
}

// Over random models and layouts: checkpoint -> A -> B is checkpoint -> B, and back to the
// checkpoint the identity. As that holds for all of A, B and C, A -> B -> C is A -> C.

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int64_t up_to(int64_t most) {
    return 1 + static_cast<int64_t>(random_() % static_cast<uint64_t>(most));
  }
  bool one_in(int64_t count) { return up_to(count) == 1; }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[up_to(static_cast<int64_t>(choices.size())) - 1];
  }
  /// A divisor of `number`, at most 8.
  int64_t divisor(int64_t number) {
    for (;;)
      if (const int64_t found = up_to(8); number % found == 0) return found;
  }

 private:
  std::mt19937_64 random_;
};

/// A model that `ranks` tensor-parallel ranks can share, `stages` pipeline stages and
/// `expert_ranks` ranks of experts.
Sizes random_sizes(Draw& draw, int64_t ranks, int64_t stages, int64_t expert_ranks) {
  Sizes s{.family = draw.of({Family::kQwen3, Family::kQwen3Moe, Family::kQwen3_5,
                             Family::kQwen3_5Moe, Family::kQwen3_5Moe})};
  s.vocab = 64 * ranks * draw.up_to(2) - draw.up_to(60) + 1;
  s.hidden = ranks * draw.up_to(4);
  s.layers = stages * (stages < 4 ? draw.up_to(3) : 1);
  // As many groups as ranks or more; or fewer, whose keys and values several ranks hold.
  const int64_t share = draw.one_in(3) ? ranks / draw.divisor(ranks) : ranks;
  s.groups = share * (share == ranks ? draw.up_to(2) : 1);
  s.members = ranks / share * draw.up_to(3);
  s.head_dim = draw.up_to(6);
  s.key_heads = ranks * draw.up_to(2);
  s.values = draw.up_to(3);
  s.key_dim = draw.up_to(5);
  s.value_dim = draw.up_to(5);
  s.taps = 1 + draw.up_to(3);
  s.width = ranks * draw.up_to(4);
  s.experts = expert_ranks * draw.up_to(3);
  s.expert_width = 8 * ranks * draw.up_to(2);  // ranks of data parallelism cut it too
  s.shared_width = ranks * draw.up_to(4);
  s.is_tied = draw.one_in(2);
  s.dtype = draw.of({WeightDtype::kFloat32, WeightDtype::kBFloat16});
  if (s.family == Family::kQwen3Moe && draw.one_in(2)) s.dense_every = 1 + draw.up_to(2);
  s.mtp_layers = draw.up_to(3) - 1;
  s.is_one_dtype = draw.one_in(3);
  // Sizes that meet.
  if (draw.one_in(4)) s.hidden = 2 * s.expert_width;
  if (draw.one_in(4)) s.hidden = s.expert_width;
  if (draw.one_in(4)) s.value_dim = s.key_dim, s.values = 1;
  if (draw.one_in(4)) s.experts = expert_ranks * ranks, s.hidden = s.experts;
  return s;
}

/// A name of `format` with random keys, most of which fit a model of random_sizes() with the same
/// numbers.
std::string random_name(
    Draw& draw, std::string_view format, int64_t ranks, int64_t stages, int64_t expert_ranks) {
  std::string name(format);
  const auto add = [&](std::string_view key, auto value) {
    name += fmt::format("{}{}={}", name == format ? ':' : ',', key, value);
  };
  const auto entry = std::find_if(known_weight_formats().begin(), known_weight_formats().end(),
                                  [&](const WeightFormatInfo& f) { return f.name == format; });
  const int64_t tp = draw.divisor(ranks), dp = draw.up_to(8 / tp);
  for (const LayoutKey& key : entry->keys) {
    if (!key.choices.empty())
      add(key.name, key.choices[static_cast<size_t>(
                        draw.up_to(static_cast<int64_t>(key.choices.size())) - 1)]);
    else if (key.name == "tp")
      add(key.name, tp);
    else if (key.name == "etp")
      add(key.name, draw.divisor(ranks));
    else if (key.name == "pp")
      add(key.name, draw.divisor(stages));
    else if (key.name == "world")
      add(key.name, draw.up_to(8));
    else if (key.name == "dp")
      add(key.name, draw.one_in(2) ? 1 : dp);
    else if (format == "megatron")
      add(key.name, draw.divisor(expert_ranks));
    else if (format == "lockstep")
      add(key.name, draw.up_to(8));
    else if (draw.one_in(2))  // vLLM: all ranks or none
      return fmt::format("{}:tp={},dp={},ep={}{}", format, tp, dp, tp * dp,
                         format == "vllm" ? "" : ",state=processed");
  }
  return name;
}

/// The layout, or nothing where it does not fit the model: no experts, or ranks that do not divide.
std::optional<Layout> layout_if_it_fits(const LogicalModel& model, const std::string& name) {
  try {
    return layout_of(model, name);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), "layout-conflict") << error.what();
    return {};
  }
}

void convert_there_and_back(Draw& draw,
                            const LogicalModel& model,
                            const Layout& first,
                            const Layout& second) {
  const Layout checkpoint = layout_of(model, "checkpoint");
  // Where a layout rounds, only what fits comes back; what does not is in type_changes_test.cpp.
  const auto rounds = [&](const Layout& layout) {
    for (int32_t t = 0; t < layout.logical().size(); ++t)
      if (layout.stored_type(t) != layout.logical()[t].type) return true;
    return false;
  };
  MemoryTensors original = numbered(model, checkpoint, rounds(first) || rounds(second));
  const int64_t bucket = draw.of({30'000, 200'000, 1'000'000});
  Converted there = convert(checkpoint, first, original, bucket);
  Converted onward = convert(first, second, there.tensors, bucket, draw.one_in(2));
  const Converted direct = convert(checkpoint, second, original, bucket);
  ASSERT_TRUE(onward.tensors == direct.tensors);
  ASSERT_EQ(onward.digests, direct.digests);
  ASSERT_EQ(layout::digest_tensors(second, onward.tensors, 2), direct.digests);
  ASSERT_TRUE(convert(second, checkpoint, onward.tensors, bucket).tensors == original);
}

TEST(RandomLayouts, RoundTripIsIdentityForEveryPairOfFormats) {
  uint64_t number = 20261126;
  const char* const cases = std::getenv("LOCKSTEP_TEST_CASES");
  const int64_t models_a_pair = cases ? std::atoll(cases) : 4;
  constexpr int kMostTries = 100;  // most models have no experts, or no delta rule, or odd heads
  for (const WeightFormatInfo& a : known_weight_formats())
    for (const WeightFormatInfo& b : known_weight_formats())
      for (int64_t i = 0; i < models_a_pair; ++i)
        for (int tries = 0;; ++tries) {
          ASSERT_LT(tries, kMostTries) << a.name << " to " << b.name;
          Draw draw(testing::test_seed(number++));
          const int64_t ranks = draw.up_to(8), stages = draw.up_to(8), experts = draw.up_to(8);
          const LogicalModel model = model_of(random_sizes(draw, ranks, stages, experts));
          const std::string from = random_name(draw, a.name, ranks, stages, experts),
                            to = random_name(draw, b.name, ranks, stages, experts);
          SCOPED_TRACE(fmt::format("draw {}: {} to {}", number - 1, from, to));
          const auto first = layout_if_it_fits(model, from), second = layout_if_it_fits(model, to);
          if (!first || !second) continue;
          convert_there_and_back(draw, model, *first, *second);
          if (HasFatalFailure()) return;
          break;
        }
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

TEST(LoaderNames, CoverTheCheckpointInOneSpelling) {
  const LogicalModel model = model_of({.layers = 4, .experts = 4});
  const Layout engine = layout_of(model, "vllm:tp=2,ep=2");
  for (const LoaderExperts experts : {LoaderExperts::kSeparate, LoaderExperts::kGrouped}) {
    const bool grouped = experts == LoaderExperts::kGrouped;
    const auto names = loader_names(model, engine, experts);
    std::set<std::string> all;
    for (int64_t r = 0; r < engine.num_ranks(); ++r)
      for (size_t t = 0; t < engine.rank(r).size(); ++t) {
        const auto& found = names[static_cast<size_t>(r)][t];
        all.insert(found.begin(), found.end());
        const std::string name = engine.rank(r)[t].name, layer = "model.language_model.layers.0.";
        using Names = std::vector<std::string>;
        if (name == "language_model.model.layers.0.linear_attn.in_proj_qkvz.weight") {
          EXPECT_EQ(found, (Names{layer + "linear_attn.in_proj_qkv.weight",
                                  layer + "linear_attn.in_proj_z.weight"}));
        } else if (name == "language_model.model.layers.0.mlp.experts.w2_weight") {
          const std::string expert = layer + "mlp.experts.";
          EXPECT_EQ(found,
                    grouped ? Names{expert + "down_proj"}
                    : r == 0
                        ? (Names{expert + "0.down_proj.weight", expert + "1.down_proj.weight"})
                        : (Names{expert + "2.down_proj.weight", expert + "3.down_proj.weight"}));
        }
      }
    // Nothing that has elements is left out, and no name is of the other spelling.
    std::set<std::string> checkpoint;
    const Layout load =
        layout_of(model, grouped ? "checkpoint:experts=grouped" : "checkpoint:experts=separate");
    for (const auto& tensor : load.rank(0))
      if (tensor.numel() > 0) checkpoint.insert(tensor.name);
    EXPECT_EQ(all, checkpoint);
    for (const std::string& name : all)
      EXPECT_EQ(name.find(".experts.") != std::string::npos && name.ends_with("_proj.weight"),
                !grouped && name.find(".experts.") != std::string::npos)
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    Layouts,
    ::testing::Values(Sizes{.family = Family::kQwen3, .layers = 8, .is_tied = true},
                      Sizes{
                          .family = Family::kQwen3Moe, .layers = 8, .dtype = WeightDtype::kFloat32},
                      Sizes{.family = Family::kQwen3_5, .layers = 8},
                      Sizes{.family = Family::kQwen3_5Moe, .layers = 8},
                      // Sizes that meet: 2F = D, F = D, as many value heads as key heads, experts
                      // as many as rows.
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
