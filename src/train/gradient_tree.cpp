// SPDX-License-Identifier: Apache-2.0
#include "train/gradient_tree.h"

#include <utility>

#include "base/check.h"
#include "tensor/aten.h"
#include "train/plan.h"

namespace lockstep::train {

void GradientTree::add(size_t parameter, at::Tensor gradient) {
  at::NoGradGuard no_grad;
  at::Tensor& sum = current_[parameter];
  if (sum.defined()) {
    sum.add_(gradient);  // a bfloat16 gradient is widened
    return;
  }
  // A float32 gradient becomes the sum itself, unless something else still holds it or its memory.
  const bool is_ours = gradient.scalar_type() == at::kFloat && gradient.is_contiguous() &&
                       gradient.use_count() == 1 && gradient.storage().use_count() == 1;
  sum = is_ours ? std::move(gradient)
                : gradient.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true,
                              at::MemoryFormat::Contiguous);
}

GradientTree::Sums GradientTree::merge(Sums left, Sums right) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < left.size(); ++i) {
    if (!right[i].defined()) continue;
    if (left[i].defined())
      left[i].add_(right[i]);
    else
      left[i] = std::move(right[i]);
    right[i].reset();
  }
  return left;
}

void GradientTree::finish_slot() {
  Sums carry = std::move(current_);
  current_ = Sums(num_parameters_);
  size_t level = 0;
  for (int64_t done = slots_done_; done & 1; done >>= 1, ++level) {
    carry = merge(std::move(*levels_[level]), std::move(carry));
    levels_[level].reset();
  }
  if (levels_.size() <= level) levels_.resize(level + 1);
  levels_[level] = std::move(carry);
  ++slots_done_;
}

std::vector<at::Tensor> GradientTree::take() {
  LOCKSTEP_CHECK(slots_done_ == kNumSlots, "{} slots are done", slots_done_);
  slots_done_ = 0;
  Sums result = std::move(*levels_.back());
  levels_.clear();
  return result;
}

}  // namespace lockstep::train
