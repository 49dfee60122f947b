// Ranks save a checkpoint together: each writes its own elements, and none needs those of others.
// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "grpo/run_files.h"
#include "tests/model/tiny_model.h"
#include "tests/parallel/counting_group.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "train/trainer.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;
using model::Family;
using model::WeightDtype;
using testing::TempDir;
using train::Sharding;

/// A checkpoint on disk whose embedding has several of the blocks that are shared out.
void make_model(const fs::path& folder, Family family, WeightDtype dtype) {
  const Json config =
      model::new_model_config({.family = family, .vocab_size = 1500, .dtype = dtype});
  std::vector<io::NamedTensor> tensors;
  for (const auto& [name, value] : testing::lively_tensors(config, dtype))
    tensors.push_back({name, value});
  fs::create_directory(folder);
  io::write_safetensors_checkpoint(folder, tensors, size_t{1} << 30);
  write_file(folder / "config.json", dump_json(config));
}

/// A rank of a run that has made one step.
struct Rank {
  Rank(const fs::path& folder, parallel::Group& group, Sharding sharding, int64_t experts_over = 1)
      : shards(group, sharding, experts_over),
        model(train::load_model(folder, {}, model::WeightUse::kAny, train::own_parts(shards))) {
    model.companions = std::make_shared<train::CompanionFiles>(folder);
    trainer = std::make_unique<train::Trainer>(*model.weights, train::TrainerOptions{},
                                               std::vector<model::Adapter*>{}, shards);
    optimizer = std::make_unique<train::AdamW>(
        *model.weights, train::OptimizerOptions{.learning_rate = 1e-3}, nullptr, shards);
    trainer->layers().give_all_back();
    std::vector<at::Tensor> gradients;
    for (const model::Parameter& parameter : model.weights->parameters()) {
      const parallel::ElementRange own = shards.range(parameter);
      gradients.push_back(at::arange(own.first, own.last, at::kFloat).mul_(0.01).sin_());
    }
    optimizer->step(gradients, 1e-3);
  }

  train::Shards shards;
  train::LoadedModel model;
  std::unique_ptr<train::Trainer> trainer;
  std::unique_ptr<train::AdamW> optimizer;
};

RunOptions options_for(const fs::path& path) {
  RunOptions options;
  options.output_dir = path.string();
  options.report_to = {"none"};
  options.max_shard_size = "300KB";
  return options;
}

void save(RunFiles& files, Rank& rank, int64_t step) {
  files.save(rank.model, rank.trainer->layers(), *rank.optimizer, step, Json::object(), {});
}

/// The bytes of the files in a checkpoint, by name.
std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != "args.json")
      files[entry.path().lexically_relative(folder).string()] = read_file(entry.path());
  return files;
}

TEST(SavedByRanks, TheFilesAreThoseOfOneRankAndNoWeightsMove) {
  struct Case {
    Family family;
    WeightDtype dtype;
    bool saves_optimizer = true;
  };
  for (const Case& test : {Case{Family::kQwen3_5, WeightDtype::kBFloat16, false},
                           Case{Family::kQwen3Moe, WeightDtype::kFloat32},
                           Case{Family::kQwen3_5Moe, WeightDtype::kBFloat16}}) {
    const TempDir temp;
    make_model(temp / "model", test.family, test.dtype);
    std::map<std::string, std::string> whole;
    for (const int64_t size : {1, 2, 4})
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull})
        for (const int64_t experts_over : {1, 2}) {
          if (size % experts_over || (experts_over > 1 && test.family == Family::kQwen3_5))
            continue;
          SCOPED_TRACE(fmt::format("{}, {} ranks, sharding {}, experts over {}",
                                   enum_name(test.family), size, enum_name(sharding),
                                   experts_over));
          const fs::path run =
              temp / fmt::format("run-{}-{}-{}", size, enum_name(sharding), experts_over);
          RunOptions options = options_for(run);
          options.save_only_model = !test.saves_optimizer;
          run_ranks(size, [&](parallel::Group& ranks) {
            testing::CountingGroup counting(ranks);
            Rank rank(temp / "model", counting, sharding, experts_over);
            RunFiles files(options, Json::object(), claim_together(options, {}, counting),
                           counting);
            const int64_t before = counting.received("").first;
            save(files, rank, 1);
            // Names, and whether all went well.
            EXPECT_LT(counting.received("").first - before, 1000);
          });
          const auto saved = files_in(run / "checkpoint-1");
          EXPECT_EQ(saved.contains("training_state/optimizer.safetensors"), test.saves_optimizer);
          EXPECT_TRUE(saved.contains("model.safetensors.index.json"));
          if (whole.empty()) whole = saved;
          EXPECT_EQ(saved.size(), whole.size());
          for (const auto& [name, bytes] : whole)
            EXPECT_TRUE(saved.contains(name) && saved.at(name) == bytes) << name;
        }
    // What one rank has saved is what its weights are.
    Rank alone(temp / "model", parallel::alone(), Sharding::kNone);
    fs::create_directory(temp / "written");
    train::write_checkpoint(alone.model, temp / "written", {.max_shard_bytes = 300'000});
    for (const auto& [name, bytes] : files_in(temp / "written"))
      EXPECT_TRUE(whole.contains(name) && whole.at(name) == bytes) << name;
  }
}

TEST(SavedByRanks, WhatOneCannotWriteEndsAllAndTheCheckpointIsNotThere) {
  const TempDir temp;
  make_model(temp / "model", Family::kQwen3, WeightDtype::kFloat32);
  const RunOptions options = options_for(temp.path() / "run");
  run_ranks(4, [&](parallel::Group& ranks) {
    RunFiles files(options, Json::object(), claim_together(options, {}, ranks), ranks);
    Rank rank(temp / "model", ranks, Sharding::kFull);
    // As if it had another model than the others.
    const auto own = train::load_model(temp / "model", WeightDtype::kBFloat16).weights;
    const auto right = rank.model.weights;
    if (ranks.rank() == 1) rank.model.weights = own;
    if (ranks.rank() == 1)
      EXPECT_ERROR(save(files, rank, 1), FormatError, "bad-part", "model-0000");
    else
      EXPECT_ERROR(save(files, rank, 1), PeerError, "rank-failed", "rank 1: ");
    EXPECT_FALSE(files.has_checkpoint(1));
    rank.model.weights = right;
    save(files, rank, 2);
    EXPECT_TRUE(files.has_checkpoint(2));
  });
  for (const auto& entry : fs::directory_iterator(temp / "run"))
    EXPECT_EQ(name_of_temporary(entry.path().filename().string()), "") << entry.path();
}

}  // namespace
}  // namespace lockstep::grpo
