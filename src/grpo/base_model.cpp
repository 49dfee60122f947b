// SPDX-License-Identifier: Apache-2.0
#include "grpo/base_model.h"

#include <filesystem>

#include "grpo/memory_plan.h"
#include "train/gathered_layers.h"
#include "train/rank_costs.h"

namespace lockstep::grpo {
namespace {

/// What a rank loads; empty: all of it. Which parameters --freeze_parameters leaves whole is known
/// when they are there.
model::PartToLoad part_to_load(const TrainingOptions& options, const RunContext& context) {
  const TunerOptions& tuner = options.tuner;
  train::Sharding sharding = options.sharding.sharding;
  if (tuner.tuner_type == TunerType::kLora) {
    if (!tuner.modules_to_save.empty()) return {};
    // Frozen weights are whole on each rank, but for experts.
    sharding = train::Sharding::kNone;
  } else if (!tuner.freeze_parameters.empty() || !tuner.freeze_parameters_regex.empty() ||
             tuner.freeze_parameters_ratio > 0) {
    return {};
  }
  return train::own_parts({*context.ranks, sharding, options.sharding.expert_parallel_size});
}

train::LoadedModel load_base(const TrainingOptions& options,
                             const RunContext& context,
                             bool is_read_whole) {
  const std::filesystem::path named = options.model.model;
  train::check_degrees(
      train::load_config(named),
      {.ranks = context.ranks->size(), .expert_parallel = options.sharding.expert_parallel_size});
  const auto& resume = context.claim.resume;
  // With an adapter the model itself is never written, so that a checkpoint does not hold it.
  const bool is_trained = options.tuner.tuner_type == TunerType::kFull;
  train::LoadedModel loaded =
      train::load_model(resume && is_trained ? resume->directory : named, context.torch_dtype,
                        is_trained ? model::WeightUse::kAny : model::WeightUse::kFrozen,
                        is_read_whole ? model::PartToLoad() : part_to_load(options, context));
  // The companion files of checkpoints are read from --model now, whatever becomes of that folder.
  loaded.companions = std::make_shared<train::CompanionFiles>(named);
  return loaded;
}

Json digest_base(const train::LoadedModel& loaded, const std::filesystem::path& named) {
  const Digest weights = loaded.directory == named
                             ? train::digest_tensors(loaded.source->files())
                             : train::digest_tensors(io::SafetensorsCheckpoint(named));
  return {weights.hex(), loaded.companions->digest().hex()};
}

}  // namespace

BaseModel::BaseModel(const TrainingOptions& options, const RunContext& context, bool is_read_whole)
    : program_gib(resident_memory_gib()),
      loaded(load_base(options, context, is_read_whole)),
      digest(digest_base(loaded, options.model.model)),
      encoder(
          options.model.model, loaded.weights->config().vocab_size, options.model.enable_thinking) {
}

}  // namespace lockstep::grpo
