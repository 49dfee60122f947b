// The gradients of experts that ranks share out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/expert_ranks.h"
#include "model/weights.h"
#include "train/gradient_sums.h"
#include "train/slot_tree.h"

namespace lockstep::train {

/// The sums, over the slots of some neighbouring ranks, of the gradients that their tokens add to
/// this rank's experts: those that the tree of slots has in the place of these ranks. Takes what
/// `ranks` are given while it lives.
class ExpertGradients {
 public:
  ExpertGradients(model::ExpertRanks& ranks, const std::vector<model::Parameter*>& parameters);
  ~ExpertGradients() { ranks_.set_take({}); }
  ExpertGradients(const ExpertGradients&) = delete;
  ExpertGradients& operator=(const ExpertGradients&) = delete;

  /// The slot of a rank's micro-batch, and that of its next one, before which slots are complete.
  struct Slots {
    int64_t slot = 0, next = 0;
  };
  /// What comes next is that of these micro-batches, by rank; one that has none brings nothing.
  void begin(std::vector<Slots> slots) { slots_ = std::move(slots); }
  /// The sum of a parameter, [N, O, I] of this rank's experts; undefined if nothing came.
  at::Tensor take(size_t parameter);

 private:
  void add(const at::Tensor& bank, int64_t source, at::Tensor gradient);

  model::ExpertRanks& ranks_;
  /// The numbers of parameters by their tensors.
  std::map<const void*, size_t> numbers_;
  /// By parameter and rank.
  std::map<size_t, std::vector<SlotTree<TensorSum>>> sums_;
  std::vector<Slots> slots_;
};

}  // namespace lockstep::train
