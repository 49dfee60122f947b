// The generation batch from which optimizer steps take their completions, and the cursor into it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "grpo/batch_plan.h"
#include "grpo/experience.h"

namespace lockstep::grpo {

/// A generation batch and the cursor over its micro-steps.
///
///   Micro-step m takes slice m % steps_per_generation of the batch; a new batch is due when
///   m % (steps_per_generation * num_iterations) == 0.
///
/// A batch that is spread over several optimizer steps is shuffled among them, as TRL does, so that
/// each step sees completions of all its prompts; for a loss of groups, whole groups are. The
/// permutation is a function of seed and number
/// of the batch. The completions of one step stay in the order of groups, so that a prompt is
/// computed once for all of its completions in that step. Source: TRL 1.16
/// GRPOTrainer._prepare_inputs.
///
/// Not thread-safe.
class GenerationBuffer {
 public:
  GenerationBuffer(const BatchPlan& plan, int64_t seed) : plan_(plan), seed_(seed) {}

  /// How many micro-steps the whole run has done.
  int64_t micro_step() const { return micro_step_; }
  /// How many batches the whole run has collected, which is the number of the next one.
  int64_t generation() const { return generation_; }
  /// The completions of the last batch, in the order of training.
  const std::vector<Experience>& batch() const { return batch_; }
  /// The same, for what is found out about them: in the order in which next() hands them out first.
  std::span<Experience> completions() { return batch_; }

  /// Whether the next micro-step needs a new batch.
  bool is_used_up() const { return micro_step_ % plan_.uses() == 0; }
  /// Takes the next batch, group by group. Call only if is_used_up().
  void fill(std::vector<Experience> batch);
  /// Returns the completions of the next micro-step and moves on. They live until the next fill().
  std::span<const Experience> next();
  /// Forgets what was kept while sampling, since the weights have changed.
  void drop_kept();

  /// Goes on where a run was saved; `batch` is empty if the next one is due.
  void restore(int64_t micro_step, int64_t generation, std::vector<Experience> batch);

 private:
  std::vector<size_t> training_order() const;

  BatchPlan plan_;
  int64_t seed_;
  int64_t micro_step_ = 0, generation_ = 0;
  std::vector<Experience> batch_;
};

}  // namespace lockstep::grpo
