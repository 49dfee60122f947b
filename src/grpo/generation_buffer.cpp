// SPDX-License-Identifier: Apache-2.0
#include "grpo/generation_buffer.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/random.h"

namespace lockstep::grpo {

void GenerationBuffer::fill(std::vector<Experience> batch) {
  LOCKSTEP_CHECK(is_used_up() && std::ssize(batch) == plan_.generation_batch,
                 "a batch of {} completions at micro-step {}, expected {}", batch.size(),
                 micro_step_, plan_.generation_batch);
  if (plan_.is_spread()) {
    batch_.clear();
    for (const size_t i : training_order()) batch_.push_back(std::move(batch[i]));
  } else {
    batch_ = std::move(batch);
  }
  ++generation_;
}

/// The order in which the completions of the next batch are used.
std::vector<size_t> GenerationBuffer::training_order() const {
  std::vector<size_t> order(static_cast<size_t>(plan_.generation_batch));
  std::iota(order.begin(), order.end(), size_t{0});
  const RandomStream stream("generation shuffle", static_cast<uint64_t>(seed_),
                            static_cast<uint64_t>(generation_));
  const size_t together = static_cast<size_t>(plan_.together), runs = order.size() / together;
  for (size_t i = runs; i > 1; --i) {
    const size_t other = stream.below(i, i);
    for (size_t j = 0; j < together; ++j)
      std::swap(order[(i - 1) * together + j], order[other * together + j]);
  }
  // How many micro-steps always fall into one optimizer step.
  const int64_t size = std::gcd(plan_.steps_per_generation, plan_.accumulation) * plan_.micro_step;
  for (auto first = order.begin(); first != order.end(); first += size)
    std::sort(first, first + size);
  return order;
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
