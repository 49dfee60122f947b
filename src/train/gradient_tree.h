// Sums of gradients over the slots of an optimizer step, in a fixed tree.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::train {

/// Adds gradients within a slot in the order they come, and slots pairwise: ((0+1)+(2+3))+((4+5)+(6+7)).
///
/// A parameter without a gradient in a slot adds nothing. Sums are float32. At most log2(slots) + 1 sums live at once.
/// Not thread-safe.
class GradientTree {
 public:
  explicit GradientTree(size_t num_parameters)
      : num_parameters_(num_parameters), current_(num_parameters) {}
  /// Adds to the current slot. `gradient` may be taken over: the caller does not use it again.
  void add(size_t parameter, at::Tensor gradient);
  /// Ends the current slot; also for slots without a sample.
  void finish_slot();
  /// The sums over all slots, after kNumSlots calls of finish_slot(); undefined where no gradient came.
  std::vector<at::Tensor> take();

 private:
  using Sums = std::vector<at::Tensor>;
  static Sums merge(Sums left, Sums right);

  size_t num_parameters_;
  Sums current_;
  std::vector<std::optional<Sums>> levels_;
  int64_t slots_done_ = 0;
};

}  // namespace lockstep::train
