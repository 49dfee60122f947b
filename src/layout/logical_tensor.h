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

namespace lockstep::layout {

/// How an element is stored. Values are never converted here, so a type is a name and a width.
enum class ElementType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

/// The name in safetensors files ("BF16"), and the bytes of an element.
std::string_view element_name(ElementType type);
int64_t element_bytes(ElementType type);
/// The type of such a name. Throws FormatError "bad-dtype" at `where`.
ElementType element_type_of_name(std::string_view name, std::string_view where);

/// Of a logical tensor, and of a physical one.
inline constexpr int kMaxDims = 5;

/// One dimension: formats cut and interleave by these names. Example: {"key_head", 16}.
struct LogicalDim {
  /// A literal.
  std::string_view name;
  int64_t size = 0;
};

/// Example: {"layers.3.attention.q", {{"group", 2}, {"member", 4}, {"head_dim", 256}, {"in",
/// 1024}}, 3, kBF16}.
struct LogicalTensor {
  /// The same in every format and every model of a family.
  std::string id;
  /// Outermost first; the order of its digest. At most kMaxDims.
  std::vector<LogicalDim> dims;
  /// How many leading ones are outputs of the product, "rows".
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
