// Logical tensors: what a model is made of, whatever file or process holds it.
// SPDX-License-Identifier: Apache-2.0
//
// A logical tensor is the smallest piece that some format keeps apart from its neighbours: a query
// projection without its output gate, the gate projection of one expert. A physical tensor
// (layout.h) is built of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/element_type.h"

namespace lockstep::layout {

/// How many dimensions a logical or a physical tensor has at most.
inline constexpr int kMaxDims = 5;

/// One dimension; formats cut and interleave tensors by these names. Example: {"key_head", 16}.
struct LogicalDim {
  /// A string literal.
  std::string_view name;
  int64_t size = 0;
};

/// Example: {"layers.3.attention.q", {{"group", 2}, {"member", 4}, {"head_dim", 256}, {"in",
/// 1024}}, 3, kBF16}.
struct LogicalTensor {
  /// It is the same in every format and in every model of a family.
  std::string id;
  /// Outermost first, which is the order of its digest. At most kMaxDims.
  std::vector<LogicalDim> dims;
  /// How many of the leading dimensions are outputs of the product: "rows".
  int num_row_dims = 0;
  ElementType type = ElementType::kBF16;

  int64_t numel() const;
  int64_t bytes() const { return numel() * element_bytes(type); }
};

/// The logical tensors of one model, by index. Immutable; shared by all layouts of the model.
class LogicalTensors {
 public:
  /// Throws InternalError for an id given twice or a tensor of too many dimensions.
  explicit LogicalTensors(std::vector<LogicalTensor> tensors);
  LogicalTensors(const LogicalTensors&) = delete;
  LogicalTensors& operator=(const LogicalTensors&) = delete;
  int64_t size() const { return static_cast<int64_t>(tensors_.size()); }
  const LogicalTensor& operator[](int64_t index) const {
    return tensors_[static_cast<size_t>(index)];
  }
  auto begin() const { return tensors_.begin(); }
  auto end() const { return tensors_.end(); }

 private:
  std::vector<LogicalTensor> tensors_;
};
using LogicalTensorsPtr = std::shared_ptr<const LogicalTensors>;

}  // namespace lockstep::layout
