// WeightWriter: one whole checkpoint at a time, and nothing left behind.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_writer.h"

#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "model/identity.h"
#include "net/rollout_protocol.h"
#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "train/adapter_file.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;
namespace fs = std::filesystem;

/// A checkpoint on disk, loaded.
train::LoadedModel loaded_model(const testing::TempDir& folder) {
  const Json config = testing::tiny_config(model::Family::kQwen3);
  std::vector<io::NamedTensor> tensors;
  for (const auto& [name, value] : testing::lively_tensors(config, model::WeightDtype::kFloat32))
    tensors.push_back({name, value});
  fs::create_directory(folder / "model");
  io::write_safetensors_checkpoint(folder / "model", tensors, 1 << 30);
  write_file(folder / "model/config.json", dump_json(config));
  auto loaded = train::load_model(folder / "model", {});
  loaded.companions = std::make_unique<train::CompanionFiles>(folder / "model");
  return loaded;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  return names;
}

TEST(WeightWriter, EachCheckpointTakesThePlaceOfTheOneBefore) {
  const testing::TempDir folder;
  const auto model = loaded_model(folder);
  const fs::path sync = folder / "run/sync";
  {
    WeightWriter writer(model, sync, folder / "run");
    EXPECT_FALSE(fs::exists(sync));
    const WeightOffer first = writer.write(0);
    EXPECT_EQ(first.label, "step-0:" + first.digest);
    EXPECT_EQ(first.digest, train::digest_tensors(io::SafetensorsCheckpoint(first.path)).hex());
    const auto other = train::load_model(first.path, {});
    EXPECT_TRUE(other.weights->head().values().equal(model.weights->head().values()));
    {
      at::NoGradGuard no_grad;
      model.weights->parameters()[0].value.add_(1);
    }
    const WeightOffer second = writer.write(3);
    EXPECT_NE(second.digest, first.digest);
    EXPECT_THAT(names_in(sync), ElementsAre(second.path.filename().string()));
    EXPECT_TRUE(second.path.is_absolute());
  }
  EXPECT_FALSE(fs::exists(sync));
}

TEST(WeightWriter, WhatAKilledRunLeftIsRemovedAndNothingElse) {
  const testing::TempDir folder;
  const auto model = loaded_model(folder);
  std::string name;
  {
    WeightWriter writer(model, folder / "sync", folder / "run");
    name = writer.write(7).path.filename().string();
  }
  fs::create_directories(folder / "sync" / name);
  fs::create_directory(folder / "sync" / "weights-mine-step-1");
  WeightWriter other(model, folder / "sync", folder / "another-run");
  const std::string others = other.write(7).path.filename().string();
  WeightWriter writer(model, folder / "sync", folder / "run");
  const std::string mine = writer.write(8).path.filename().string();
  EXPECT_THAT(names_in(folder / "sync"), UnorderedElementsAre("weights-mine-step-1", others, mine));
}

TEST(WeightWriter, OfAnAdapterWritesItAlone) {
  const testing::TempDir folder;
  auto model = loaded_model(folder);
  EXPECT_FALSE(WeightWriter(model, folder / "sync", folder / "run").base());
  model.adapter = testing::lively_adapter(testing::modules_with(*model.weights, "self_attn"),
                                          {.rank = 3, .alpha = 7}, 1);
  WeightWriter writer(model, folder / "sync", folder / "run");
  const auto base = writer.base();
  ASSERT_TRUE(base);
  EXPECT_EQ(base->checksums, train::tensor_checksums(model.source->files()));
  EXPECT_EQ(base->label, "base:" + train::digest_tensors(model.source->files()).hex());
  std::vector<std::string> digests;
  for (const int64_t step : {0, 5}) {
    const WeightOffer written = writer.write(step);
    EXPECT_THAT(names_in(written.path),
                UnorderedElementsAre("adapter_config.json", "adapter_model.safetensors"));
    EXPECT_THAT(names_in(folder / "sync"), ElementsAre(written.path.filename().string()));
    EXPECT_EQ(written.adapter_name, base->adapter_prefix + std::to_string(step));
    EXPECT_EQ(written.num_pairs, std::ssize(model.adapter->targets()));
    EXPECT_EQ(written.label, net::weight_label(step, written.digest));
    // A server that binds the file has the same digest.
    const auto bound = train::load_adapter(written.path, *model.weights);
    EXPECT_EQ(model::adapter_digest(*bound).hex(), written.digest);
    digests.push_back(written.digest);
    const at::NoGradGuard no_grad;
    model.adapter->parameters()[1].value.flatten()[0].add_(1);
  }
  EXPECT_NE(digests[0], digests[1]);
}

TEST(WeightWriter, MergesAnAdapterFromTheFilesOfTheBase) {
  const testing::TempDir folder;
  auto model = loaded_model(folder);
  const Digest base_digest = train::digest_tensors(model.source->files());
  const auto targets = testing::modules_with(*model.weights, "o_proj");
  model.adapter = testing::lively_adapter(targets, {.rank = 3, .alpha = 6}, 1);
  {
    // What stands in memory is not what is merged.
    const at::NoGradGuard no_grad;
    for (const model::Parameter& parameter : model.weights->parameters()) parameter.value.zero_();
  }
  WeightWriter writer(model, folder / "sync", folder / "run", /*merges_adapter=*/true);
  EXPECT_FALSE(writer.base());
  std::string last;
  for (const int64_t step : {0, 5}) {
    const WeightOffer written = writer.write(step);
    EXPECT_TRUE(written.adapter_name.empty());
    const io::SafetensorsCheckpoint files(written.path);
    EXPECT_EQ(written.digest, train::digest_tensors(files).hex());
    EXPECT_NE(written.digest, last);
    last = written.digest;
    ASSERT_EQ(files.names(), model.source->names());
    size_t merged = 0;
    for (const std::string& name : files.names()) {
      at::Tensor expected = model.source->tensor(name);
      for (size_t i = 0; i < targets.size(); ++i) {
        if (name != targets[i].path + ".weight") continue;
        const at::Tensor a = model.adapter->parameters()[2 * i].value.to(at::kDouble),
                         b = model.adapter->parameters()[2 * i + 1].value.to(at::kDouble);
        expected = (expected.to(at::kDouble) + at::matmul(b, a) * 2).to(at::kFloat);
        EXPECT_FALSE(expected.equal(model.source->tensor(name)));
        ++merged;
      }
      EXPECT_TRUE(files.tensor(name).equal(expected)) << name;
    }
    EXPECT_EQ(merged, targets.size());
    const at::NoGradGuard no_grad;
    model.adapter->parameters()[1].value.flatten()[0].add_(1);
  }
  EXPECT_EQ(train::digest_tensors(io::SafetensorsCheckpoint(folder / "model")), base_digest);
}

}  // namespace
}  // namespace lockstep::grpo
