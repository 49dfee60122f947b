// A layout: where every element of a model's logical tensors lies, in which tensor of which rank.
// SPDX-License-Identifier: Apache-2.0
//
// A physical tensor is made of boxes. A box is a region of one logical tensor and, for each of its
// dimensions, the axis of the physical tensor along which it runs and by how many elements a step.
// So the same few numbers say "rows interleaved by heads", "transposed", "the second half of rank
// 3", and nothing ever has to be guessed from a shape.
//
//   q_proj of Qwen3.5, heads of 4 rows, [q | gate] by head:
//     layers.0.attention.q     origin (0, 0), group x 16, member x 8, head_dim x 1, in x 1
//     layers.0.attention.gate  origin (4, 0), the same steps
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layout/logical_tensor.h"

namespace lockstep::layout {

using Dims = std::array<int64_t, kMaxDims>;

/// A part of a logical tensor: in each dimension the `size` indices that begin with `begin`.
/// Entries behind the tensor's last dimension are 0 and 1.
struct Region {
  Dims begin{};
  Dims size{1, 1, 1, 1, 1};

  int64_t numel() const;
  friend bool operator==(const Region&, const Region&) = default;
};
/// The whole of a tensor.
Region whole(const LogicalTensor& tensor);
/// What two regions of one tensor share; a dimension of size 0 says that it is nothing.
Region intersect(const Region& a, const Region& b);

/// Where one step along a logical dimension leads in the physical tensor.
struct Step {
  /// The axis of the physical tensor.
  int axis = 0;
  /// How many indices of that axis the step takes.
  int64_t stride = 0;
  friend bool operator==(const Step&, const Step&) = default;
};

struct Box {
  /// The index of the logical tensor in the layout's list.
  int32_t tensor = 0;
  /// Whether it is a further copy of what the box of an owner holds.
  bool is_copy = false;
  /// Whether value - 1 is stored, as Megatron's out_norm=centred does. This and a type of the
  /// tensor's own are the changes of value that a format knows.
  bool minus_one = false;
  Region region;
  /// One step for each logical dimension.
  std::array<Step, kMaxDims> steps;
  /// Where the region's first element lies, by axis.
  Dims origin{};
};

struct PhysicalTensor {
  std::string name;
  std::vector<int64_t> shape;
  ElementType type = ElementType::kBF16;
  std::vector<Box> boxes;
  /// How many elements belong to no box; they are zero.
  int64_t padding = 0;
  /// Whether `type` is the format's own, whatever that of the logical tensors is. Their values are
  /// then stored in it: F32 as BF16 rounded to the nearest, ties to even; BF16 as F32 exactly.
  bool has_own_type = false;

  int64_t numel() const;
  int64_t bytes() const { return numel() * element_bytes(type); }
  /// How many elements lie between two neighbours along an axis.
  int64_t axis_stride(int axis) const;
};

/// The tensors of one rank, in the order of its file.
using RankTensors = std::vector<PhysicalTensor>;

/// Where all logical tensors of a model lie. Immutable, and proved when it is built: the names of a
/// rank differ; in every physical tensor boxes do not overlap and leave nothing but the padding;
/// the boxes of owners hold every logical element once, and further copies hold what some owner
/// has; a type other than that of the logical tensor is declared, and the same in all its boxes.
class Layout {
 public:
  /// `name` is its text form ("vllm:tp=2"). Throws InternalError naming the tensor if the proof
  /// fails: then a table of ours is wrong.
  Layout(std::string name, LogicalTensorsPtr logical, std::vector<RankTensors> ranks);

  const std::string& name() const { return name_; }
  const LogicalTensors& logical() const { return *logical_; }
  const LogicalTensorsPtr& logical_ptr() const { return logical_; }
  int64_t num_ranks() const { return static_cast<int64_t>(ranks_.size()); }
  const RankTensors& rank(int64_t index) const { return ranks_[static_cast<size_t>(index)]; }
  /// The type in which a logical tensor is stored.
  ElementType stored_type(int32_t tensor) const { return stored_[static_cast<size_t>(tensor)]; }

 private:
  std::string name_;
  LogicalTensorsPtr logical_;
  std::vector<RankTensors> ranks_;
  std::vector<ElementType> stored_;
};

/// An element of a logical tensor.
struct Element {
  int32_t tensor = 0;
  Dims index{};
};
/// What the element of a physical tensor with the index `at` is; unset for padding.
std::optional<Element> element_at(const PhysicalTensor& tensor, const Dims& at);

/// Whether a format may store values of one type in the other: equal types, and F32 and BF16 in
/// each other.
bool can_store(ElementType logical, ElementType stored);

/// The part of `tensor` whose index along `axis` lies in [begin, end), as a tensor of its own. This
/// is what a plain split of a finished tensor gives a rank, whatever it cuts through. A tensor
/// without padding is cut into parts without padding.
PhysicalTensor cut(const PhysicalTensor& tensor, int axis, int64_t begin, int64_t end);

}  // namespace lockstep::layout
