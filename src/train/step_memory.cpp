// SPDX-License-Identifier: Apache-2.0
//
// How much memory a step's forward and backward take.
#include <algorithm>

#include "tensor/aten.h"
#include "train/trainer.h"

namespace lockstep::train {

WaveCosts Trainer::wave_costs() const {
  WaveCosts costs;
  for (const auto& indices : layer_parameters_) {
    int64_t sum = 0, made = 0;
    for (const size_t i : indices) {
      const at::Tensor& value = parameter(i).value;
      sum += 4 * value.numel();
      made += static_cast<int64_t>(value.nbytes());
    }
    costs.layers += sum;
    costs.layer = std::max(costs.layer, sum);
    costs.made = std::max(costs.made, made);
  }
  if (parameter(head_).is_trained()) costs.head = 4 * parameter(head_).value.numel();
  for (const size_t i : head_pairs_) costs.head += 4 * parameter(i).value.numel();
  const model::ModelConfig& config = weights_->config();
  const auto element_size = static_cast<int64_t>(c10::elementSize(weights_->dtype()));
  // What each layer read, and what the forward made in those layers that keep it.
  costs.token = (num_layers() + 1) * config.hidden_size * element_size +
                kept_layers_ * model::layer_token_bytes(config, element_size);
  return costs;
}

StepMemory Trainer::step_memory(const StepShape& shape) const {
  std::vector<SampleLength> lengths;
  for (int64_t i = 0; i < shape.samples; ++i)
    lengths.push_back({shape.prompt_tokens + shape.completion_tokens,
                       options_.share_prompts && i % shape.group ? shape.prompt_tokens : 0});
  const auto plan = plan_micro_batches(lengths, options_.max_tokens_per_micro_batch);
  // The most that any rank needs: where it does not fit, all of them do something about it.
  StepMemory most;
  for (int64_t rank = 0; rank < ranks().size(); ++rank) {
    const auto own = micro_batches_of_rank(plan, rank, ranks().size());
    int64_t tokens = 0;
    for (const MicroBatch& cut : own) tokens = std::max(tokens, cut.tokens);
    // The backward makes a gradient of each activation.
    const int64_t layer =
        tokens * 2 *
        model::layer_token_bytes(weights_->config(),
                                 static_cast<int64_t>(c10::elementSize(weights_->dtype())));
    most.kept = std::max(most.kept, plan_waves(own, wave_costs()).bytes);
    most.work = std::max(most.work, layer);
  }
  return most;
}

}  // namespace lockstep::train
