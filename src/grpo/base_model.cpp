// SPDX-License-Identifier: Apache-2.0
#include "grpo/base_model.h"

#include <filesystem>

#include "grpo/memory_plan.h"
#include "train/rank_costs.h"

namespace lockstep::grpo {
namespace {

train::LoadedModel load_base(const TrainingOptions& options, const RunContext& context) {
  const std::filesystem::path named = options.model.model;
  train::check_degrees(
      train::load_config(named),
      {.ranks = context.ranks->size(), .expert_parallel = options.sharding.expert_parallel_size});
  const auto& resume = context.claim.resume;
  // With an adapter the model itself is never written, so that a checkpoint does not hold it.
  const bool is_trained = options.tuner.tuner_type == TunerType::kFull;
  train::LoadedModel loaded =
      train::load_model(resume && is_trained ? resume->directory : named, context.torch_dtype,
                        is_trained ? model::WeightUse::kAny : model::WeightUse::kFrozen);
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

BaseModel::BaseModel(const TrainingOptions& options, const RunContext& context)
    : program_gib(resident_memory_gib()),
      loaded(load_base(options, context)),
      digest(digest_base(loaded, options.model.model)),
      encoder(
          options.model.model, loaded.weights->config().vocab_size, options.model.enable_thinking) {
}

}  // namespace lockstep::grpo
