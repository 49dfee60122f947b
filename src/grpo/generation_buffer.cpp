// SPDX-License-Identifier: Apache-2.0
#include "grpo/generation_buffer.h"

#include "base/check.h"

namespace lockstep::grpo {

void GenerationBuffer::fill(std::vector<Experience> batch) {
  LOCKSTEP_CHECK(is_used_up() && std::ssize(batch) == plan_.generation_batch,
                 "a batch of {} completions at micro-step {}, expected {}", batch.size(),
                 micro_step_, plan_.generation_batch);
  batch_ = std::move(batch);
  ++generation_;
}

std::span<const Experience> GenerationBuffer::next() {
  const int64_t slice = micro_step_++ % plan_.steps_per_generation;
  return std::span(batch_).subspan(static_cast<size_t>(slice * plan_.micro_step),
                                   static_cast<size_t>(plan_.micro_step));
}

void GenerationBuffer::drop_kept() {
  for (Experience& experience : batch_) experience.sample.drop_kept();
}

void GenerationBuffer::restore(int64_t micro_step,
                               int64_t generation,
                               std::vector<Experience> batch) {
  micro_step_ = micro_step;
  generation_ = generation;
  batch_ = std::move(batch);
}

}  // namespace lockstep::grpo
