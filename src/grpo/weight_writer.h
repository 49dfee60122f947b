// Writes what is trained into folders from which servers load it: checkpoints, or adapters.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "grpo/rollout_server.h"  // BaseWeights
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// The model as its files have it, which need not stand in memory in that form.
train::LoadedModel files_of(const train::LoadedModel& model);
/// How files_of() a model are written with its adapter merged into them.
train::WriteOptions merged_options(const train::LoadedModel& model);

/// One checkpoint, or adapter, at a time lies in a folder: each appears whole, and the one before
/// is removed then; the last one goes with the writer. What a killed run has left is removed before
/// the first. Not thread-safe.
class WeightWriter {
 public:
  /// `model` must outlive it. `directory` is made when it is needed; `run` tells apart the runs
  /// that share one. `merges_adapter`: checkpoints are written that have the model's adapter
  /// merged into them, for servers that take no adapter.
  WeightWriter(const train::LoadedModel& model,
               std::filesystem::path directory,
               const std::filesystem::path& run,
               bool merges_adapter = false);
  ~WeightWriter();
  WeightWriter(const WeightWriter&) = delete;
  WeightWriter& operator=(const WeightWriter&) = delete;

  /// Writes the weights, or the adapter beside them, as they are after `step` optimizer steps.
  /// Throws IoError.
  WeightOffer write(int64_t step);
  /// What servers must have for the adapter; unset where they get checkpoints. It reads the
  /// checkpoint's files.
  std::optional<BaseWeights> base() const;

 private:
  std::string adapter_prefix() const { return "grpo-" + run_ + "-step-"; }
  void remove_leftovers() const;
  /// The adapter that is written alone; null where checkpoints are written.
  const model::Adapter* written_adapter() const {
    return merges_adapter_ ? nullptr : model_->adapter.get();
  }

  const train::LoadedModel* model_;
  std::filesystem::path directory_, last_;
  /// Tells this run from others, and begins the names of its folders.
  std::string run_, prefix_;
  bool merges_adapter_;
};

}  // namespace lockstep::grpo
