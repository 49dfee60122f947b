// A plan between two layouts of one model: which elements of which tensor of which rank go where.
// SPDX-License-Identifier: Apache-2.0
//
// It is made from shapes alone, once, and replayed for every set of weights.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "layout/layout.h"

namespace lockstep::layout {

/// A strided copy over `num_dims` dimensions of `size` elements each, outermost first. Neighbouring
/// dimensions are merged as far as both sides allow.
struct Strides {
  int num_dims = 0;
  /// Steps in elements.
  Dims size{}, from{}, to{};
  int64_t from_offset = 0, to_offset = 0;

  int64_t numel() const;
  /// How many elements lie side by side on both sides.
  int64_t run() const;
};

/// A region of a logical tensor on its way from one physical tensor to another.
struct Copy {
  /// The logical tensor.
  int32_t tensor = 0;
  int32_t from_rank = 0, from_tensor = 0, from_box = 0;
  int32_t to_rank = 0, to_tensor = 0;
  /// Added to each value: 1 where only the source stores value - 1, -1 where only the target does.
  int32_t value_change = 0;
  Region region;
  /// The target's box, whose region is `region` or holds it.
  Box to;
};

/// A contiguous part of a target tensor, and the copies that fill it. It is built in memory as a
/// whole.
struct Piece {
  int32_t rank = 0, tensor = 0;
  /// In bytes.
  int64_t begin = 0, size = 0;
  size_t first_copy = 0, num_copies = 0;
};

/// A change of value that a plan makes in a whole logical tensor: the types in which its two
/// layouts store it, if they differ. F32 to BF16 rounds; BF16 to F32 is exact.
struct TypeChange {
  int32_t tensor = 0;
  ElementType from, to;
  friend bool operator==(const TypeChange&, const TypeChange&) = default;
};

/// What one rank sends to another.
struct Traffic {
  int32_t from_rank = 0, to_rank = 0;
  /// How many boxes they have in common; boxes are cut where pieces of the target end.
  int64_t copies = 0;
  /// How many target tensors get something.
  int64_t messages = 0;
  /// As the target stores them.
  int64_t bytes = 0;
};

/// Immutable. Pieces stand in the order of the target's ranks, tensors and bytes.
struct Plan {
  /// Names of the layouts.
  std::string from, to;
  std::vector<Copy> copies;
  std::vector<Piece> pieces;
  /// Declares every change of type, in the order of the tensors; execute() makes no other.
  std::vector<TypeChange> type_changes;

  /// The digest of both layouts and the pieces: two plans that do the same have the same.
  Digest digest;

  std::vector<Traffic> traffic(const Layout& to_layout) const;
};

/// Plans how to make all of `to` out of `from`, in pieces of at most `max_piece_bytes` (but at
/// least one element). A rank takes from itself what it has; where several ranks hold a region,
/// they share the sending. Throws InternalError for layouts of different models.
Plan make_plan(const Layout& from, const Layout& to, int64_t max_piece_bytes);

/// Throws InternalError naming a tensor whose type the layouts change and the plan does not.
void check_type_changes(const Layout& from, const Layout& to, const Plan& plan);

/// The strided copy of `region` from the tensor of one box to that of another. Either box may be
/// null: then that side is the region alone, in logical order.
Strides strides_between(const LogicalTensor& tensor,
                        const Region& region,
                        const Box* from,
                        const PhysicalTensor* from_tensor,
                        const Box* to,
                        const PhysicalTensor* to_tensor);

}  // namespace lockstep::layout
