// SPDX-License-Identifier: Apache-2.0
#include "grpo/shared_weights.h"

#include "grpo/weight_writer.h"
#include "net/rollout_protocol.h"
#include "tensor/aten.h"

namespace lockstep::grpo {

SharedWeights::SharedWeights(const train::LoadedModel& model, bool merges_adapter)
    : writer_(merges_adapter ? train::text_model_tensors(files_of(model), merged_options(model))
                             : train::text_model_tensors(model, {})),
      block_(sync::SharedMemory::create(writer_.bytes())) {}

WeightOffer SharedWeights::write(int64_t step, bool anew) {
  if (anew) {
    // The room of the old one is free when its readers are gone.
    block_.reset();
    block_ = sync::SharedMemory::create(writer_.bytes());
  }
  const std::string digest = writer_.write(block_->bytes(), at::get_num_threads()).hex();
  return {.shared_memory = block_->name(),
          .bytes = writer_.bytes(),
          .digest = digest,
          .label = net::weight_label(step, digest)};
}

}  // namespace lockstep::grpo
