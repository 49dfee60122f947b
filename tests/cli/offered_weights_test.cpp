// OfferedWeightsLoader: what does not fit the served model is refused by the tensor's name.
// SPDX-License-Identifier: Apache-2.0
#include "cli/offered_weights.h"

#include "base/json.h"
#include "model/identity.h"
#include "rollout/engine_thread.h"
#include "sync/shared_memory.h"
#include "tensor/aten.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"

namespace lockstep::cli {
namespace {

class OfferedWeights : public ::testing::Test {
 protected:
  OfferedWeights() {
    const Json config = testing::tiny_config(model::Family::kQwen3_5Moe);
    for (auto& [name, value] : testing::lively_tensors(config, model::WeightDtype::kFloat32))
      tensors_.push_back({name, value});
    served_.weights = testing::tiny_weights(model::Family::kQwen3_5Moe);
    loader_.emplace(served_, net::SamplerIdentity{}, std::nullopt);
  }

  /// Puts tensors into a block, and `bend` changes it.
  serve::LoadedWeights load(const std::vector<io::NamedTensor>& tensors,
                            const std::function<void(std::span<std::byte>)>& bend = {},
                            const std::string& digest = {}) {
    const sync::ImageWriter writer(tensors);
    const auto block = sync::SharedMemory::create(writer.bytes());
    written_ = writer.write(block->bytes(), 1).hex();
    if (bend) bend(block->bytes());
    return loader_->load(
        {.folder = {}, .shared_memory = block->name(), .bytes = writer.bytes(), .digest = digest});
  }

  std::vector<io::NamedTensor> tensors_;
  train::LoadedModel served_;
  std::optional<OfferedWeightsLoader> loader_;
  std::string written_;
};

TEST_F(OfferedWeights, OfABlockAreTheModels) {
  tensors_[3].tensor = tensors_[3].tensor + 1;
  const serve::LoadedWeights loaded = load(tensors_);
  EXPECT_EQ(loaded.digest, written_);
  EXPECT_EQ(loaded.checksums.size(), tensors_.size());
  const auto& model = dynamic_cast<const rollout::StagedModel&>(*loaded.weights);
  size_t compared = 0;
  for (size_t i = 0; i < model.weights->parameters().size(); ++i) {
    const model::Parameter& parameter = model.weights->parameters()[i];
    const at::Tensor values = model.weights->values(i);
    for (const model::CheckpointPiece& piece : parameter.pieces)
      for (const io::NamedTensor& named : tensors_)
        if (named.name == piece.name) {
          EXPECT_TRUE(piece.view(values).equal(named.tensor)) << named.name;
          ++compared;
        }
  }
  EXPECT_EQ(compared, tensors_.size());
}

TEST_F(OfferedWeights, OfOtherTensorsAreRefusedByName) {
  const std::string name = tensors_[2].name;
  auto missing = tensors_, unknown = tensors_, shape = tensors_, dtype = tensors_;
  missing.erase(missing.begin() + 2);
  EXPECT_ERROR(load(missing), FormatError, "missing-tensor", name);
  unknown.push_back({"model.layers.9.extra", at::ones({1})});
  EXPECT_ERROR(load(unknown), FormatError, "unknown-tensor", "model.layers.9.extra");
  shape[2].tensor = at::ones({3, 3});
  EXPECT_ERROR(load(shape), FormatError, "shape-mismatch", name);
  dtype[2].tensor = dtype[2].tensor.to(at::kBFloat16);
  EXPECT_ERROR(load(dtype), FormatError, "bad-dtype", name + ": expected Float, got BFloat16");
}

TEST_F(OfferedWeights, OfOtherBytesAreRefused) {
  EXPECT_ERROR(load(tensors_, [](auto block) { block.back() ^= std::byte{1}; }), FormatError,
               "digest-mismatch", "lockstep-");
  EXPECT_ERROR(load(tensors_, {}, std::string(32, '0')), FormatError, "digest-mismatch",
               "expected tensors of digest 0000");
  EXPECT_ERROR(loader_->load({.folder = {},
                              .shared_memory = "lockstep-" + std::string(32, '0'),
                              .bytes = 100,
                              .digest = {}}),
               IoError, "no-shared-memory", "No such file");
}

}  // namespace
}  // namespace lockstep::cli
