// Layouts with dtypes of their own: what they change is declared, counted and digested on both
// sides.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "layout/check_source.h"
#include "layout/chunk_digests.h"
#include "model/weight_formats/make_layout.h"
#include "tests/model/sized_model.h"

namespace lockstep::model {
namespace {

using layout::Layout;
using layout::MemoryTensors;
using layout::Plan;
using layout::TypeChange;
using testing::convert;
using testing::Converted;
using testing::layout_of;
using testing::model_of;
using testing::numbered;

constexpr int64_t kBucket = 32768;
constexpr const char* kEngine = "vllm:version=0.32,tp=2";

/// The index of the tensor of that name on a rank.
int64_t index_of(const Layout& layout, int64_t rank, const std::string& name) {
  for (size_t t = 0; t < layout.rank(rank).size(); ++t)
    if (layout.rank(rank)[t].name == name) return static_cast<int64_t>(t);
  ADD_FAILURE() << "no " << name;
  return 0;
}

/// What an error says that `act` throws.
template <class Failure, class Act>
std::string message_of(const Act& act) {
  try {
    act();
  } catch (const Failure& error) {
    return error.what();
  }
  return "no error";
}

TEST(TypeChanges, NamesAndDtypesAreThoseOfTheVersion) {
  const LogicalModel model = model_of({.layers = 4});
  const auto expect = [&](const char* name, const char* tensor, ElementType type) {
    const Layout layout = layout_of(model, name);
    const std::string full = "language_model.model.layers.0." + std::string(tensor);
    EXPECT_EQ(layout.rank(0)[static_cast<size_t>(index_of(layout, 0, full))].type, type) << name;
  };
  using enum ElementType;
  expect("vllm", "mlp.experts.w13_weight", kBF16);
  expect("vllm", "linear_attn.norm.weight", kF32);
  for (const char* name : {"vllm:version=0.32", "vllm:version=0.32,tp=2"}) {
    expect(name, "mlp.experts.routed_experts.w13_weight", kBF16);
    expect(name, "mlp.experts.routed_experts.w2_weight", kBF16);
    expect(name, "linear_attn.A_log", kF32);
    expect(name, "linear_attn.norm.weight", kBF16);
    expect(name, "linear_attn.dt_bias", kBF16);
  }
  expect("vllm:version=0.32,dtype=float32", "linear_attn.norm.weight", kF32);
  expect("vllm:version=0.32,dtype=float32", "mlp.gate.weight", kF32);
  // What no engine computes with keeps the checkpoint's.
  const Layout layout = layout_of(model, "vllm:version=0.32");
  EXPECT_EQ(
      layout.rank(0)[static_cast<size_t>(index_of(layout, 0, "visual.patch_embed.proj.weight"))]
          .type,
      kF16);
  EXPECT_NE(message_of<ConfigError>([&] {
              layout_of(model, "vllm:dtype=float32");
            }).find("a version for dtype"),
            std::string::npos);
}

TEST(TypeChanges, PlanDeclaresEachTensorThatChanges) {
  const LogicalModel model = model_of({.layers = 4});
  const Layout checkpoint = layout_of(model, "checkpoint"), engine = layout_of(model, kEngine);
  std::vector<TypeChange> expected;
  for (int32_t t = 0; t < model.tensors->size(); ++t)
    if ((*model.tensors)[t].id.ends_with("delta.norm"))
      expected.push_back({t, ElementType::kF32, ElementType::kBF16});
  ASSERT_EQ(expected.size(), 3U);
  EXPECT_EQ(make_plan(checkpoint, engine, kBucket).type_changes, expected);
  EXPECT_TRUE(make_plan(checkpoint, layout_of(model, "vllm:tp=2"), kBucket).type_changes.empty());
  EXPECT_TRUE(
      make_plan(engine, layout_of(model, "vllm:version=0.32"), kBucket).type_changes.empty());
  // A model whose A_log is published in its own dtype.
  const LogicalModel narrow = model_of({.layers = 4, .is_one_dtype = true});
  expected.clear();
  for (int32_t t = 0; t < narrow.tensors->size(); ++t)
    if ((*narrow.tensors)[t].id.ends_with("delta.A_log"))
      expected.push_back({t, ElementType::kBF16, ElementType::kF32});
  EXPECT_EQ(
      make_plan(layout_of(narrow, "checkpoint"), layout_of(narrow, kEngine), kBucket).type_changes,
      expected);
}

TEST(TypeChanges, ChangeThatThePlanDoesNotDeclareIsRefusedByName) {
  const LogicalModel model = model_of({.layers = 4});
  const Layout checkpoint = layout_of(model, "checkpoint"), engine = layout_of(model, kEngine);
  MemoryTensors source = numbered(model, checkpoint), target(engine);
  Plan plan = make_plan(checkpoint, engine, kBucket);
  plan.type_changes.erase(plan.type_changes.begin() + 1);
  EXPECT_NE(message_of<InternalError>([&] {
              execute(checkpoint, engine, plan, source, target);
            }).find("layers.1.delta.norm: F32 becomes BF16"),
            std::string::npos);
}

/// A model of one dtype or two, and what becomes of it on the way to an engine.
struct Case {
  WeightDtype dtype;
  bool is_one_dtype;
};
class EngineTypes : public ::testing::TestWithParam<Case> {};

TEST_P(EngineTypes, DigestsOfTheTargetAreFoundInWhatWasWritten) {
  const LogicalModel model =
      model_of({.layers = 4, .dtype = GetParam().dtype, .is_one_dtype = GetParam().is_one_dtype});
  const Layout checkpoint = layout_of(model, "checkpoint");
  MemoryTensors original = numbered(model, checkpoint);
  for (const char* name : {kEngine, "vllm:version=0.32,dtype=float32", "vllm:version=0.32,ep=4"}) {
    SCOPED_TRACE(name);
    const Layout engine = layout_of(model, name);
    Converted there = convert(checkpoint, engine, original);
    EXPECT_EQ(layout::digest_tensors(engine, there.tensors, 2), there.target_digests);
    EXPECT_EQ(layout::digest_tensors(checkpoint, original, 2), there.digests);
    for (int32_t t = 0; t < model.tensors->size(); ++t) {
      const bool rounds = (*model.tensors)[t].type == ElementType::kF32 &&
                          engine.stored_type(t) == ElementType::kBF16 &&
                          !(*model.tensors)[t].id.ends_with("delta.norm");  // its values fit
      EXPECT_EQ(
          there.digests[static_cast<size_t>(t)] == there.target_digests[static_cast<size_t>(t)],
          !rounds)
          << (*model.tensors)[t].id;
    }
    // What was rounded once stays: the way back and there again changes nothing more.
    Converted back = convert(engine, checkpoint, there.tensors);
    EXPECT_EQ(back.digests, there.target_digests);
    EXPECT_EQ(back.target_digests, there.target_digests);
    EXPECT_TRUE(convert(checkpoint, engine, back.tensors).tensors == there.tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes,
                         EngineTypes,
                         ::testing::Values(Case{WeightDtype::kBFloat16, false},
                                           Case{WeightDtype::kBFloat16, true},
                                           Case{WeightDtype::kFloat32, false}));

TEST(TypeChanges, WideValuesThatTheCheckpointsTypeCannotHoldAreRefused) {
  const LogicalModel model = model_of({.layers = 4, .is_one_dtype = true});
  const Layout checkpoint = layout_of(model, "checkpoint"), engine = layout_of(model, kEngine);
  MemoryTensors original = numbered(model, checkpoint);
  Converted there = convert(checkpoint, engine, original);
  const Plan plan = make_plan(engine, checkpoint, kBucket);
  check_source(engine, plan, there.tensors, {});
  const std::string name = "language_model.model.layers.0.linear_attn.A_log";
  auto& bytes = there.tensors.bytes(1, index_of(engine, 1, name));
  const float fine = 1.0F + 1.0F / 4096;
  std::memcpy(bytes.data(), &fine, sizeof(fine));
  EXPECT_NE(message_of<FormatError>([&] {
              check_source(engine, plan, there.tensors, {});
            }).find("values that BF16 can hold"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::model
