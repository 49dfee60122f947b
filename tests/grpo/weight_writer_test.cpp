// WeightWriter: one whole checkpoint at a time, and nothing left behind.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_writer.h"

#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

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
    const WeightFolder first = writer.write(0);
    EXPECT_EQ(first.label, "step-0:" + first.digest);
    EXPECT_EQ(first.digest, train::digest_tensors(io::SafetensorsCheckpoint(first.path)).hex());
    const auto other = train::load_model(first.path, {});
    EXPECT_TRUE(other.weights->embedding().equal(model.weights->embedding()));
    {
      at::NoGradGuard no_grad;
      model.weights->parameters()[0].value.add_(1);
    }
    const WeightFolder second = writer.write(3);
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

}  // namespace
}  // namespace lockstep::grpo
