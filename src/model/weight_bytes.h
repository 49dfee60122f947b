// A model in memory as a source of bytes, so that layouts are filled from it without files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "layout/byte_io.h"
#include "layout/layout.h"
#include "model/logical_model.h"
#include "model/weights.h"

namespace lockstep::model {

/// The parameters as the tensors of the layout `lockstep` on one rank. Vision, MTP and what else a
/// checkpoint carries are not among them.
///
/// The bytes are those of the parameters, in whatever state they are when they are read; only of
/// frozen values that are kept in packed form alone it has a copy. Threads: any may read while
/// nobody changes the weights.
class WeightBytes : public layout::ByteSource {
 public:
  /// Throws InternalError naming a parameter that the layout does not have so.
  explicit WeightBytes(const ModelWeights& weights);

  /// The logical tensors, with the dtypes in which the parameters are held.
  const LogicalModel& logical() const { return logical_; }
  const layout::Layout& layout() const { return layout_; }
  /// The layout of these logical tensors that a text says ("vllm:tp=2"), in the checkpoint's form.
  layout::Layout layout_named(const std::string& name) const;

  std::span<const std::byte> tensor(int64_t rank, int64_t index) override;

 private:
  CheckpointForm form_;
  LogicalModel logical_;
  layout::Layout layout_;
  /// By index in the layout.
  std::vector<at::Tensor> values_;
};

}  // namespace lockstep::model
