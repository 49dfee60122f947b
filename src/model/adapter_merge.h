// Merged weights: those of a checkpoint with an adapter added to them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/adapter.h"

namespace lockstep::model {

/// W + s B A for the tensors of a checkpoint, in whichever form it has them: a layer's experts in
/// one tensor or each in its own; and the adapter's own in the place of those that it saves.
///
/// It holds no weights: each tensor is made from the base's, which is only read. The adapter must
/// outlive it. Threads: safe after construction.
class MergedWeights {
 public:
  /// `parameters` are those of the adapter's model, as the checkpoint has them.
  MergedWeights(const std::vector<Parameter>& parameters, const Adapter& adapter);
  /// Whether the adapter changes the checkpoint's tensor of that name.
  bool contains(const std::string& name) const {
    return places_.count(name) != 0 || saved_.count(name) != 0;
  }
  /// Whether the head of a model that ties it to the embedding gets values of its own, or stays
  /// what the embedding was.
  bool unties_head() const { return unties_head_; }
  /// The merged tensor for that of the base.
  ///
  /// Shapes: as `base` -> the same.
  /// Numerics: the sum in float64, converted to `dtype`; float64 to bfloat16 goes by way of
  ///   float32, as libtorch converts it.
  at::Tensor merge(const std::string& name, const at::Tensor& base, at::ScalarType dtype) const;

 private:
  void take_saved(const std::vector<Parameter>& parameters);
  void take_outer(const AdapterTarget& target, const Parameter& parameter, size_t pair);

  /// A range of a pair's output rows, of one of its matrices, and where it lies in the tensor.
  struct Part {
    /// Index of the pair among the adapter's targets, and of the expert in it.
    size_t pair = 0;
    int64_t expert = 0;
    int64_t first_row = 0, first_tensor_row = 0, rows = 0;
  };
  const Adapter& adapter_;
  bool is_tied_ = false;
  bool unties_head_ = false;
  std::map<std::string, std::vector<Part>> places_;
  /// By name of the checkpoint's tensor.
  std::map<std::string, at::Tensor> saved_;
};

}  // namespace lockstep::model
