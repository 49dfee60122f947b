// Puts the weights that are trained into shared memory, from which servers of this machine take
// them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "grpo/rollout_server.h"  // WeightOffer
#include "sync/shared_memory.h"
#include "sync/weight_image.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// One block holds the weights of the day. Not thread-safe.
class SharedWeights {
 public:
  /// Takes room for the block. `model` must outlive it; with `merges_adapter` its adapter is merged
  /// into the weights, from the base's files. Throws IoError "no-shared-memory".
  SharedWeights(const train::LoadedModel& model, bool merges_adapter);

  /// Copies the weights as they are after `step` optimizer steps. `anew`: into another block, since
  /// somebody may still read this one. Throws IoError "no-shared-memory".
  WeightOffer write(int64_t step, bool anew);
  int64_t bytes() const { return static_cast<int64_t>(writer_.bytes()); }

 private:
  sync::ImageWriter writer_;
  std::shared_ptr<sync::SharedMemory> block_;
};

}  // namespace lockstep::grpo
