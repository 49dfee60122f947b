// A model in memory as a source of bytes.
// SPDX-License-Identifier: Apache-2.0
#include "model/weight_bytes.h"

#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "base/check.h"
#include "layout/halves.h"
#include "layout/shadow_memory.h"
#include "tests/model/sized_model.h"
#include "tests/model/tiny_model.h"

namespace lockstep::model {
namespace {

using layout::Layout;
using layout::MemoryTensors;

/// The tensors of the checkpoint as the trainer would save them.
MemoryTensors checkpoint_of(const ModelWeights& weights, const Layout& checkpoint) {
  std::map<std::string, at::Tensor> tensors;
  weights.for_each_tensor([&](const std::string& name, const at::Tensor& value) {
    tensors[name] = value.contiguous();
  });
  MemoryTensors bytes(checkpoint);
  EXPECT_EQ(tensors.size(), checkpoint.rank(0).size());
  for (size_t t = 0; t < checkpoint.rank(0).size(); ++t) {
    const at::Tensor& value = tensors.at(checkpoint.rank(0)[t].name);
    MemoryTensors::Bytes& to = bytes.bytes(0, static_cast<int64_t>(t));
    EXPECT_EQ(value.nbytes(), to.size()) << checkpoint.rank(0)[t].name;
    std::memcpy(to.data(), value.const_data_ptr(), to.size());
  }
  return bytes;
}

/// Fills the ranks of `engine` from `source`, a message at a time.
void expect_filled(WeightBytes& source, const Layout& engine, MemoryTensors& expected) {
  const layout::Plan plan = make_plan(source.layout(), engine, 4096);
  layout::Sender sender(source.layout(), engine, plan, 0, source);
  std::vector<std::vector<std::byte>> messages;
  std::vector<Digest> digests;
  for (const layout::Message& message : sender.messages()) {
    messages.emplace_back(static_cast<size_t>(message.size));
    digests.push_back(sender.fill(message, messages.back()));
  }
  for (int32_t rank = 0; rank < 2; ++rank) {
    layout::ShadowMemory sink(engine, rank);
    layout::Receiver receiver(engine, plan, rank, sink);
    receiver.begin();
    for (size_t m = 0; m < messages.size(); ++m)
      if (sender.messages()[m].to_rank == rank)
        receiver.take(sender.messages()[m], messages[m], digests[m]);
    receiver.check({{0, sender.sent(rank)}});
    receiver.commit();
    for (int64_t t = 0; t < static_cast<int64_t>(engine.rank(rank).size()); ++t) {
      const auto found = sink.tensor(t), wanted = expected.tensor(rank, t);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), wanted.begin(), wanted.end()))
          << engine.rank(rank)[static_cast<size_t>(t)].name;
    }
  }
}

class WeightBytesTest : public ::testing::TestWithParam<std::tuple<Family, WeightDtype>> {};

TEST_P(WeightBytesTest, EngineIsFilledFromAModelInMemoryAsFromItsCheckpoint) {
  const auto [family, dtype] = GetParam();
  const auto weights = testing::tiny_weights(family, dtype);
  WeightBytes source(*weights);
  const Layout checkpoint = source.layout_named("checkpoint");
  MemoryTensors saved = checkpoint_of(*weights, checkpoint);
  for (const char* name : {"vllm:tp=2", "vllm:version=0.32,tp=2"}) {
    SCOPED_TRACE(name);
    const Layout engine = source.layout_named(name);
    MemoryTensors expected = testing::convert(checkpoint, engine, saved).tensors;
    expect_filled(source, engine, expected);
  }
}

TEST_P(WeightBytesTest, FrozenWeightsHaveTheSameBytes) {
  const auto [family, dtype] = GetParam();
  const auto weights = testing::tiny_weights(family, dtype);
  const auto frozen = testing::tiny_weights(family, dtype, 1, WeightUse::kFrozen);
  WeightBytes source(*weights), frozen_source(*frozen);
  for (int64_t t = 0; t < static_cast<int64_t>(source.layout().rank(0).size()); ++t) {
    const auto found = frozen_source.tensor(0, t), wanted = source.tensor(0, t);
    EXPECT_TRUE(std::equal(found.begin(), found.end(), wanted.begin(), wanted.end()))
        << source.layout().rank(0)[static_cast<size_t>(t)].name;
  }
  EXPECT_THROW(source.tensor(1, 0), InternalError);
}

TEST(WeightBytes, DtypesAreThoseOfTheParametersWhateverTheConfigurationSays) {
  const Json config = testing::tiny_config(Family::kQwen3_5Moe, WeightDtype::kBFloat16);
  testing::MemorySource tensors(testing::lively_tensors(config, WeightDtype::kBFloat16));
  for (auto& [name, value] : tensors.tensors)
    if (name.ends_with(".A_log")) value = value.to(at::kBFloat16);
  const ModelWeights weights(parse_model_config(config, "tiny"), tensors, std::nullopt);
  WeightBytes source(weights);
  const Layout checkpoint = source.layout_named("checkpoint");
  MemoryTensors saved = checkpoint_of(weights, checkpoint);
  const Layout engine = source.layout_named("vllm:version=0.32,tp=2");
  MemoryTensors expected = testing::convert(checkpoint, engine, saved).tensors;
  // A_log is widened.
  EXPECT_FALSE(make_plan(source.layout(), engine, 4096).type_changes.empty());
  expect_filled(source, engine, expected);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         WeightBytesTest,
                         ::testing::Combine(::testing::ValuesIn(testing::kFamilies),
                                            ::testing::Values(WeightDtype::kFloat32,
                                                              WeightDtype::kBFloat16)));

}  // namespace
}  // namespace lockstep::model
