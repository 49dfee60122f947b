// Checkpoints that several writers write together have the bytes of one writer's.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/temp_dir.h"
#include "train/hf_checkpoint.h"
#include "train/shards.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;
using model::Family;
using model::WeightDtype;
using parallel::ElementRange;

struct Case {
  Family family = Family::kQwen3;
  WeightDtype dtype = WeightDtype::kFloat32;
  /// With a vision tower and an MTP head, which are carried.
  bool is_nested = false;
  /// Whether experts lie together in the checkpoint, or apart, other than the family has them.
  bool is_other_form = false;
  /// Whether the head is tied to the embedding, and stored all the same.
  bool has_tied_head = false;

  std::string text() const {
    return fmt::format("{} {}{}{}{}", enum_name(family), enum_name(dtype),
                       is_nested ? " nested" : "", is_other_form ? " in the other form" : "",
                       has_tied_head ? " with a tied head" : "");
  }
};

const Case kCases[] = {
    {Family::kQwen3},
    {.family = Family::kQwen3, .has_tied_head = true},
    {Family::kQwen3, WeightDtype::kBFloat16},
    {Family::kQwen3_5},
    {Family::kQwen3_5, WeightDtype::kBFloat16, true},
    {Family::kQwen3Moe},
    {Family::kQwen3Moe, WeightDtype::kBFloat16, false, true},
    {Family::kQwen3_5Moe, WeightDtype::kFloat32, true},
    {Family::kQwen3_5Moe, WeightDtype::kBFloat16},
    {Family::kQwen3_5Moe, WeightDtype::kBFloat16, false, true},
};

/// The same weights in a checkpoint that has experts together instead of apart, or apart.
std::vector<io::NamedTensor> in_other_form(const Json& config,
                                           const std::vector<io::NamedTensor>& tensors) {
  testing::MemorySource source;
  for (const io::NamedTensor& named : tensors) source.tensors[named.name] = named.tensor;
  const model::ModelWeights weights(model::parse_model_config(config, "tiny"), source,
                                    std::nullopt);
  model::CheckpointForm form = weights.form();
  form.experts_grouped = !form.experts_grouped;
  std::vector<io::NamedTensor> other;
  const auto parameters = model::describe_parameters(weights.config(), form);
  for (size_t i = 0; i < parameters.size(); ++i)
    for (const auto& piece : parameters[i].pieces)
      other.push_back({piece.name, piece.view(weights.parameters()[i].value.detach())});
  return other;
}

/// A checkpoint on disk, loaded, whose weights are others by now. Its embedding has several of the
/// blocks that are shared out.
LoadedModel changed_model(const Case& test, const fs::path& folder) {
  Json config = model::new_model_config({.family = test.family,
                                         .vocab_size = 1500,
                                         .dtype = test.dtype,
                                         .is_nested = test.is_nested});
  if (test.has_tied_head) config["tie_word_embeddings"] = true;
  std::vector<io::NamedTensor> tensors;
  for (const auto& [name, value] : testing::lively_tensors(config, test.dtype))
    tensors.push_back({name, value});
  if (test.has_tied_head) {
    const auto embedding = std::find_if(tensors.begin(), tensors.end(), [](const auto& named) {
      return named.name == "model.embed_tokens.weight";
    });
    tensors.push_back({"lm_head.weight", at::Tensor(embedding->tensor)});
  }
  if (test.is_other_form) tensors = in_other_form(config, tensors);
  fs::create_directory(folder);
  io::write_safetensors_checkpoint(folder, tensors, size_t{1} << 30);
  write_file(folder / "config.json", dump_json(config));
  LoadedModel loaded = load_model(folder, {});
  loaded.companions = std::make_shared<CompanionFiles>(folder);
  const at::NoGradGuard no_grad;
  for (model::Parameter& parameter : loaded.weights->parameters()) parameter.value.mul_(-1.25);
  loaded.weights->pack();
  return loaded;
}

/// The files of a folder by name.
std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

void expect_same_files(const fs::path& folder, const fs::path& other) {
  const auto own = files_in(folder), others = files_in(other);
  EXPECT_EQ(own.size(), others.size());
  for (const auto& [name, bytes] : others)
    EXPECT_TRUE(own.contains(name) && own.at(name) == bytes) << name;
}

std::set<std::string> names_of_pieces(const model::ModelWeights& weights) {
  std::set<std::string> names;
  for (const model::Parameter& parameter : weights.parameters())
    for (const auto& piece : parameter.pieces) names.insert(piece.name);
  return names;
}

/// Limits that make one file, some, and one for each large tensor.
constexpr size_t kShardBytes[] = {size_t{1} << 30, 150'000, 1'000};

fs::path made(const testing::TempDir& folder, const std::string& name) {
  fs::create_directory(folder / name);
  return folder / name;
}

TEST(CheckpointParts, OfRandomRangesMakeTheFilesOfOneWriter) {
  std::mt19937_64 random(testing::test_seed(21));
  for (const Case& test : kCases) {
    SCOPED_TRACE(test.text());
    const testing::TempDir folder;
    const LoadedModel model = changed_model(test, folder / "model");
    for (const size_t shard_bytes : kShardBytes) {
      const fs::path whole = made(folder, fmt::format("whole-{}", shard_bytes)),
                     parted = made(folder, fmt::format("parted-{}", shard_bytes));
      write_checkpoint(model, whole, {.max_shard_bytes = shard_bytes});
      EXPECT_EQ(fs::exists(whole / "model.safetensors.index.json"), shard_bytes < 1'000'000);
      lay_out_checkpoint(model, parted, shard_bytes);
      const auto writers = 1 + random() % 8;
      std::vector<std::vector<io::TensorPart>> parts(writers);
      // What is no piece of a parameter has no ranges to draw.
      const std::set<std::string> pieces = names_of_pieces(*model.weights);
      for (const io::TensorPart& part : checkpoint_parts(model, {parallel::alone(), {}}))
        if (!pieces.contains(part.name)) parts[0].push_back(part);
      for (const model::Parameter& parameter : model.weights->parameters()) {
        std::vector<int64_t> cuts{0, parameter.value.numel()};
        for (uint64_t i = 1; i < writers; ++i)
          cuts.push_back(
              static_cast<int64_t>(random() % static_cast<uint64_t>(parameter.value.numel() + 1)));
        std::sort(cuts.begin(), cuts.end());
        for (size_t i = 0; i < writers; ++i)
          for (io::TensorPart& part : parts_of(parameter, parameter.value, {cuts[i], cuts[i + 1]}))
            parts[i].push_back(std::move(part));
      }
      std::shuffle(parts.begin(), parts.end(), random);
      for (const auto& own : parts) io::write_checkpoint_parts(parted, own);
      expect_same_files(parted, whole);
    }
  }
}

/// What is not a rank's own is spoiled: nobody reads it.
void spoil_others(LoadedModel& model, const Shards& shards) {
  const at::NoGradGuard no_grad;
  for (model::Parameter& parameter : model.weights->parameters()) {
    const ElementRange own = shards.range(parameter);
    const at::Tensor list = parameter.value.view({-1});
    list.narrow(0, 0, own.first).fill_(std::numeric_limits<float>::quiet_NaN());
    list.narrow(0, own.last, list.numel() - own.last)
        .fill_(std::numeric_limits<float>::quiet_NaN());
  }
}

TEST(CheckpointParts, OfRanksMakeTheFilesOfOneWriter) {
  std::mt19937_64 random(testing::test_seed(22));
  for (const Case& test : kCases) {
    const bool has_experts = test.family == Family::kQwen3Moe || test.family == Family::kQwen3_5Moe;
    const testing::TempDir folder;
    const fs::path whole = made(folder, "whole");
    const size_t shard_bytes = kShardBytes[random() % 2];
    const LoadedModel model = changed_model(test, folder / "model");
    write_checkpoint(model, whole, {.max_shard_bytes = shard_bytes});
    int64_t elements = 0;
    for (const io::TensorPart& part : checkpoint_parts(model, {parallel::alone(), {}}))
      elements += part.values.numel();
    for (const int64_t size : {1, 2, 3, 5, 8})
      for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull})
        for (const int64_t experts_over : {1, 2, 4}) {
          if (experts_over > 1 && (!has_experts || size % experts_over != 0)) continue;
          SCOPED_TRACE(fmt::format("{}, {} ranks, sharding {}, experts over {}", test.text(), size,
                                   enum_name(sharding), experts_over));
          const fs::path parted =
              made(folder, fmt::format("{}-{}-{}", size, enum_name(sharding), experts_over));
          std::mutex mutex;
          int64_t written = 0;
          bool is_laid_out = false;
          run_ranks(size, [&](parallel::Group& ranks) {
            const std::lock_guard lock(mutex);
            const Shards shards(ranks, sharding, experts_over);
            LoadedModel own = load_model(folder / "whole", {});
            own.directory = model.directory;
            own.source = model.source;
            own.companions = model.companions;
            spoil_others(own, shards);
            if (!std::exchange(is_laid_out, true)) lay_out_checkpoint(own, parted, shard_bytes);
            const auto parts = checkpoint_parts(own, shards);
            for (const io::TensorPart& part : parts) written += part.values.numel();
            io::write_checkpoint_parts(parted, parts);
          });
          EXPECT_EQ(written, elements) << "each element once";
          expect_same_files(parted, whole);
          fs::remove_all(parted);
        }
  }
}

}  // namespace
}  // namespace lockstep::train
